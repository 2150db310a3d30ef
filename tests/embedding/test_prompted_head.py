"""A head on a prompt: what all prompts start with is run once, and the logits are those of whole prompts."""

import numpy as np
import pytest
import tiny
import torch

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace, PromptTemplate, Verbalizer
from hf_causal_clf.embedding.scorer import HeadScorer

LABELS = LabelSpace(["business", "sport", "tech"])
TEXTS = [
    "the cat sat on the football",
    "shares in the bank fell " * 12,
    "phones",
    "a new film",
    "football",
    "the bank",
    "tech",
]


# Models in which a token sees those after it: what stands before it is not the same in other prompts
BOTH_WAYS = [
    ("gemma3, both ways", "gemma3", {"use_bidirectional_attention": True}),
    ("llama, both ways", "llama", {"is_causal": False}),
]


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    names = ("llama", "mistral_sliding", "gemma3", "gpt2", "gpt_neox", "opt", "bloom")
    found = {name: tiny.save_checkpoint(tmp_path_factory.mktemp(name), name, tokenizer) for name in names}
    for name, kind, changes in BOTH_WAYS:
        found[name] = tiny.save_checkpoint(tmp_path_factory.mktemp(kind), kind, tokenizer, **changes)
    return found


def run(folders, tokenizer, name, dtype=torch.float32, **reading):
    """The logits of the scorer and of whole prompts one by one, and how many tokens each of the two ran."""
    torch.manual_seed(0)
    model = CausalLMForLastTokenClassification.from_pretrained(folders[name], label_space=LABELS, dtype=dtype).eval()
    template = PromptTemplate("Sort the document into one of {labels}.", **{"max_length": 90, **reading})
    encoder = template.bind(tokenizer, Verbalizer(LABELS))
    counts = []
    model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    scorer = HeadScorer(model, tokenizer, encoder, batch_size=3)
    found = scorer.logits(TEXTS)
    ran = sum(counts)
    counts.clear()
    if dtype == torch.float32:
        np.testing.assert_allclose(scorer.logits_of_variants([TEXTS])[0], found, atol=1e-4)
        counts.clear()
    with torch.no_grad():
        chunks = [[model(input_ids=torch.tensor([ids])).logits[0] for ids in encoder.chunks(text)] for text in TEXTS]
    expected = torch.stack([torch.stack(rows).mean(dim=0) for rows in chunks]).float().numpy()
    assert np.abs(expected - expected[0]).max() > 0.01
    return found, expected, ran, sum(counts)


@pytest.mark.parametrize("long_documents", ["truncate", "chunks"])
@pytest.mark.parametrize(
    "name", ["llama", "mistral_sliding", "gemma3", "gpt2", "gpt_neox", "opt", "bloom", *(each[0] for each in BOTH_WAYS)]
)
def test_logits_are_those_of_whole_prompts(name, long_documents, folders, tokenizer):
    """Bloom's ALiBi cannot go on from a cache, nor what sees both ways: these prompts are run whole."""
    found, expected, ran, whole = run(folders, tokenizer, name, long_documents=long_documents)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    if name != "bloom" and "both ways" not in name:
        assert ran < 0.8 * whole


def test_bfloat16(folders, tokenizer):
    found, expected, _, _ = run(folders, tokenizer, "llama", torch.bfloat16)
    np.testing.assert_allclose(found, expected, atol=0.05)
