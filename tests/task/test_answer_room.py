"""Room that `max_length` keeps free for an answer: what the training documents need, not an answer with all labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_recipes import arguments as command
from test_recipes import run as run_recipe

from hf_causal_clf import LabelScorer, LabelSpace, PromptTemplate, TextClassifier, Verbalizer, VerbalizerCollator
from hf_causal_clf.instruction.generation import generate_answers

MANY = [f"{place} {subject}" for place in ("east", "middle", "bank", "new") for subject in tiny.WORDS.split()[:20]]
LABELS = LabelSpace(dict.fromkeys(MANY), multi_label=True)
# One document in a hundred has twelve labels
GOLD = [[index % len(LABELS)] for index in range(98)] + [[0, 1]] + [list(range(12))]
TEXT = "the cat sat on a mat and saw the football match " * 99


def template(tokenizer, **kwargs):
    given = {"instruction": "Sort.", "max_length": 200, **kwargs}
    return PromptTemplate(**given).reserving(tokenizer, Verbalizer(LABELS), GOLD)


def test_all_labels_at_once_would_leave_no_room(tokenizer):
    with pytest.raises(ValueError, match="leaves no room for the document"):
        PromptTemplate("Sort.", max_length=200).bind(tokenizer, Verbalizer(LABELS))


@pytest.mark.parametrize("use_chat_template", [False, True])
def test_what_99_percent_of_the_training_documents_need_is_kept_free(tokenizer, caplog, use_chat_template):
    found = template(tokenizer, use_chat_template=use_chat_template)
    encoder = found.bind(tokenizer, Verbalizer(LABELS))
    needed = [len(encoder.target_ids(gold)) for gold in GOLD]
    assert sum(length <= found.answer_tokens for length in needed) == 99
    assert found.answer_tokens in needed
    assert len(encoder.prompt_ids(TEXT)) == 200 - found.answer_tokens
    assert f"max_length keeps {found.answer_tokens} tokens free for the answer" in caplog.text
    assert f"An answer with all labels takes {encoder.longest_answer}" in caplog.text
    assert PromptTemplate(**found.to_dict(), max_length=200) == found


def test_every_single_label_has_room(tokenizer):
    """Also labels that no training document has."""
    verbalizer = Verbalizer(LABELS, {LABELS.names[-1]: "a new film about computers and phones"})
    found = PromptTemplate("Sort.", max_length=200).reserving(tokenizer, verbalizer, [[0]] * 9)
    encoder = found.bind(tokenizer, verbalizer)
    assert found.answer_tokens == len(encoder.answer_ids[-1]) > len(encoder.answer_ids[0])


def test_where_nothing_is_to_be_reserved(tokenizer):
    single = Verbalizer(LabelSpace(["sport", "business"]))
    for given in (PromptTemplate(max_length=200), PromptTemplate(max_length=None)):
        assert given.reserving(tokenizer, single, ["sport"]) is given
    given = PromptTemplate(max_length=None)
    assert given.reserving(tokenizer, Verbalizer(LABELS), GOLD) is given
    assert set(given.to_dict()) == {"instruction", "use_chat_template"}


def test_an_answer_beside_which_nothing_fits(tokenizer):
    with pytest.raises(ValueError, match=r"max_length=60 leaves no room for a training document: .* its answer"):
        template(tokenizer, max_length=60)


@pytest.mark.parametrize("side", ["tail", "head", "both", "head_tail"])
def test_a_longer_answer_is_kept_whole(tokenizer, side):
    found = template(tokenizer, truncation=side)
    collator = VerbalizerCollator(tokenizer, found, Verbalizer(LABELS))
    encoder = collator.encoder
    for gold in ([0], list(range(12))):
        ids, labels = collator.encode(TEXT, gold)
        assert [label for label in labels if label != -100] == encoder.target_ids(gold)
        assert ids[: len(encoder.prefix_ids)] == encoder.prefix_ids
        end = len(ids) - len(encoder.target_ids(gold))
        assert ids[end - len(encoder.suffix_ids) : end] == encoder.suffix_ids
        assert len(ids) <= 200
        same = ids[:end] == encoder.prompt_ids(TEXT)  # what is trained is what is scored later
        assert same == (len(encoder.target_ids(gold)) <= found.answer_tokens)
    assert len(collator.encode(TEXT, list(range(12)))[0]) == 200
    everything = collator.encode(TEXT, list(range(len(LABELS))))[1]  # more than fits: the answer is whole all the same
    assert [label for label in everything if label != -100] == encoder.target_ids(list(range(len(LABELS))))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_search_ends_where_the_model_can_read_no_further(tokenizer, name):
    """GPT-2 has no position after its 256th; sets of labels that do not fit are what is not covered."""
    verbalizer = Verbalizer(LABELS, empty_answer="a")
    found = PromptTemplate("Sort.", max_length=256).reserving(tokenizer, verbalizer, [[0]] * 9)
    model = tiny.make_causal_lm(name, len(tokenizer))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.1)  # a flat model: longer answers matter
    positions = []

    def watch(module, args, kwargs):
        given = kwargs.get("position_ids")
        positions.append(kwargs["input_ids"].shape[1] - 1 if given is None else int(given.max()))

    model.register_forward_pre_hook(watch, with_kwargs=True)
    scorer = LabelScorer(model, tokenizer, template=found, verbalizer=verbalizer, max_expansions=9)
    probabilities, uncovered = scorer.marginals([TEXT, "the cat"])
    assert np.isfinite(probabilities).all()
    assert 0 < uncovered[0] < 1
    assert len(positions) > 3  # the short document's sets were searched
    (answer,) = generate_answers(model, scorer.encoder, [TEXT])
    assert answer.error == f"no end after {found.answer_tokens} tokens"
    assert max(positions) <= 255


@pytest.mark.parametrize("recipe", ["instruct", "embed"])
def test_a_saved_run_keeps_what_its_training_kept_free(recipe, checkpoint, multi_label_files, tmp_path, monkeypatch):
    options = {"multi_label": "true", "max_length": "120", "instruction": "Sort.", "max_steps": "1"}
    if recipe == "embed":
        options["head_init"] = "verbalizer"
    run_recipe(recipe, command(recipe, checkpoint, multi_label_files, tmp_path / "run", **options), monkeypatch)
    saved = json.loads((tmp_path / "run" / "classification.json").read_text())
    encoder = TextClassifier.from_pretrained(tmp_path / "run").scorer.encoder
    rows = [json.loads(line) for line in Path(multi_label_files["train_file"]).read_text().splitlines()]
    needed = max(len(encoder.target_ids(row["label"])) for row in rows)
    assert needed < encoder.longest_answer  # no document has all labels
    reserved = {"instruct": needed, "embed": 0}[recipe]  # nothing is written after a prompt that a head reads
    assert saved["prompt_template"]["answer_tokens"] == reserved
    assert len(encoder.prompt_ids(TEXT)) == 120 - reserved
    # A run of before has no such entry: it is cut where its training cut it
    del saved["prompt_template"]["answer_tokens"]
    (tmp_path / "run" / "classification.json").write_text(json.dumps(saved))
    before = TextClassifier.from_pretrained(tmp_path / "run").scorer.encoder
    assert len(before.prompt_ids(TEXT)) == 120 - before.longest_answer
