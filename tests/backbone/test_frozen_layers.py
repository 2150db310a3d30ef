"""Frozen layers left out of a call of the decoder: where that is exact, and nowhere else."""

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from hf_causal_clf.backbone.batching import pad
from hf_causal_clf.backbone.frozen_layers import FrozenLayers
from hf_causal_clf.backbone.frozen_states import FrozenStates
from hf_causal_clf.backbone.layers import decoder_layers, decoder_of, first_adapted_layer

NO_DROPOUT = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout"), 0.0)
ARCHITECTURES = {
    **{name: {"num_hidden_layers": 3} for name in ("llama", "qwen2", "mistral_sliding", "phi3", "gpt_neox", "opt")},
    "gemma2": {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gpt2": {"n_layer": 3},
    "bloom": {"n_layer": 3, "hidden_dropout": 0.0, "attention_dropout": 0.0},
}
KNOWN = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21, 22], [30, 31, 32, 33, 34]]


def make_model(name="llama"):
    torch.manual_seed(0)
    changes = {**ARCHITECTURES[name], **({} if name == "bloom" else NO_DROPOUT)}
    model = tiny.AutoModelForCausalLM.from_config(tiny.make_config(name, 64, **changes)).eval()
    for layer in decoder_layers(decoder_of(model))[1][:2]:
        layer.requires_grad_(False)
    for name, weight in model.named_parameters():
        if not any(part.isdigit() for part in name.split(".")):
            weight.requires_grad_(False)
    return model


def make_frozen(model, folder, sequences=KNOWN):
    states = FrozenStates(folder, limit=1e9)
    frozen = FrozenLayers(decoder_of(model), 2, states)
    states.write(frozen.compute(sequences, batch_size=2))
    states.read()
    return frozen


def runs(model):
    """A list that an entry is added to whenever the first frozen layer is really run."""
    found = []
    first = decoder_layers(decoder_of(model))[1][0]
    norm = next(module for module in first.modules() if "norm" in type(module).__name__.lower())
    norm.register_forward_hook(lambda *_: found.append(True))
    return found


def batch(sequences, **options):
    return {**pad(sequences, 0, **options), "use_cache": False}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("rows", [[0, 1, 2], [2], [1, 1]])
def test_logits_and_gradients_of_known_sequences(name, rows, tmp_path):
    inputs = batch([KNOWN[row] for row in rows])
    real = inputs["attention_mask"].bool()
    found = []
    for known in (False, True):
        model = make_model(name)
        if known:
            make_frozen(model, tmp_path).check(KNOWN)
        ran = runs(model)
        logits = model.train()(**inputs).logits[real]
        logits.logsumexp(dim=-1).sum().backward()
        gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
        assert all(gradient is not None for gradient in gradients)
        assert bool(ran) == (not known)
        found.append((logits.detach(), gradients))
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-3)


CALLS = {
    "unknown": ([[5, 6, 7, 8]], {}, {}),
    "one of them unknown": ([KNOWN[0], [1, 2]], {}, {}),
    "the beginning of a known one": ([KNOWN[0][:5]], {}, {}),
    "padded on the left": (KNOWN, {"side": "left"}, {}),
    "at other positions": ([KNOWN[1]], {}, {"position_ids": torch.tensor([[4, 5, 6]])}),
    "with all hidden states": ([KNOWN[1]], {}, {"output_hidden_states": True}),
    "with a key-value cache": ([KNOWN[1]], {}, {"use_cache": True}),
}


@pytest.mark.parametrize("call", CALLS)
def test_other_calls_are_run_as_ever(call, tmp_path):
    sequences, padding, options = CALLS[call]
    inputs = {**batch(sequences, **padding), **options}
    model = make_model()
    expected = model(**inputs)
    make_frozen(model, tmp_path)
    ran = runs(model)
    found = model(**inputs)
    assert ran
    assert torch.equal(found.logits, expected.logits)
    if "output_hidden_states" in options:
        assert all(map(torch.equal, found.hidden_states, expected.hidden_states))


def test_text_is_generated_as_ever(tmp_path):
    model = make_model()
    inputs = {"input_ids": torch.tensor([KNOWN[0]]), "attention_mask": torch.ones(1, 10, dtype=torch.int64)}
    expected = model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0)
    make_frozen(model, tmp_path)
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0), expected)


def test_a_call_that_fails_leaves_nothing_behind(tmp_path):
    model = make_model()
    inputs = batch([[1, 2, 3]])
    expected = model(**inputs).logits
    make_frozen(model, tmp_path)
    handle = decoder_of(model).norm.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(**batch(KNOWN))
    handle.remove()
    assert torch.equal(model(**inputs).logits, expected)


class Passing(nn.Module):
    """A layer that hands on something beside hidden states, as some architectures do."""

    def __init__(self, layer, shared, read):
        super().__init__()
        self.layer, self.shared, self.read = layer, shared, read

    def forward(self, hidden_states, **kwargs):
        found = self.layer(hidden_states, **kwargs)
        if self.read is None:
            self.shared["value"] = found
            return found
        return found + self.read(self.shared)


@pytest.mark.parametrize("read", [lambda shared: shared["value"], lambda shared: shared.get("value", 0.0)])
def test_layers_that_pass_on_more_than_hidden_states_are_told(read, tmp_path):
    model, shared = make_model(), {}
    decoder = decoder_of(model)
    decoder.register_forward_pre_hook(lambda *_: shared.clear())
    decoder.layers[0], decoder.layers[2] = (
        Passing(decoder.layers[0], shared, None),
        Passing(decoder.layers[2], shared, read),
    )
    frozen = make_frozen(model, tmp_path)
    with pytest.raises(ValueError, match="cache_frozen_layers is not possible with LlamaModel: its layers depend on"):
        frozen.check(KNOWN[:1])


def test_states_are_kept_unpadded_in_the_data_type_they_have_and_found_again(tmp_path):
    model = make_model().to(torch.bfloat16)
    frozen = make_frozen(model, tmp_path)
    states = model.model(**batch([KNOWN[2]]), output_hidden_states=True).hidden_states[2][0]
    again = FrozenStates(tmp_path, limit=1e9)
    for store in (frozen.known, again):
        assert len(store) == 3
        assert store.size == sum(map(len, KNOWN)) * 32 * 2
        assert torch.equal(store.get(KNOWN[2]), states)
        assert store.get(KNOWN[2][:4]) is None


def test_files_are_no_larger_than_what_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_causal_clf.backbone.frozen_states.FILE_BYTES", 300)
    states = FrozenStates(tmp_path, limit=1e9)
    draw = np.random.default_rng(0)
    given = [(ids, torch.from_numpy(draw.standard_normal((len(ids), 16), dtype=np.float32))) for ids in KNOWN]
    states.write(iter(given))
    states.read()
    assert len(list(tmp_path.glob("*.safetensors"))) == 3 - 1
    assert all(torch.equal(states.get(ids), expected) for ids, expected in given)


@pytest.mark.parametrize(
    ("asked", "first"), [(None, 0), (10, 20), (30, 0), (1, 29), (0.5, 15), (0.001, 29), (0.999, 0)]
)
def test_the_last_layers_are_adapted(asked, first):
    assert first_adapted_layer(asked, 30) == first


def test_a_decoder_that_gives_its_inner_one_embeddings_only(tmp_path):
    """As the language model within a model of texts and images gets them."""
    model = make_model("opt")
    outer, inner = decoder_of(model), decoder_of(model).decoder

    def forward(input_ids, **kwargs):
        return inner(inputs_embeds=inner.embed_tokens(input_ids), **kwargs)

    outer.forward = forward
    inputs = batch(KNOWN)
    expected = outer(**inputs).last_hidden_state
    make_frozen(model, tmp_path)
    ran = runs(model)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(outer(**inputs).last_hidden_state[real], expected[real], atol=1e-4, rtol=1e-3)
    assert not ran


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activations_may_be_checkpointed(use_reentrant, tmp_path):
    found = []
    for known in (False, True):
        model = make_model()
        if known:
            make_frozen(model, tmp_path)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
        inputs = batch(KNOWN)
        model.train()(**inputs).logits[inputs["attention_mask"].bool()].logsumexp(dim=-1).sum().backward()
        found.append([weight.grad for weight in model.parameters() if weight.requires_grad])
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-3)
