"""`Run`: written and read back, and what is wrong with `classification.json` named."""

import json
import re
from dataclasses import replace

import pytest

from hf_causal_clf import LabelSpace, PromptTemplate, Verbalizer
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.runs.run import BaseModel, Prompt, Run, Truncation

SINGLE = LabelSpace(["a", "b", "c"])
MULTI = LabelSpace(["a", "b", "c"], multi_label=True)
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
BASE = BaseModel("me/base", "0" * 40, "bfloat16", NF4)
EMBEDDING = Run("embedding", SINGLE, Truncation(64), Calibration(0.5), BASE, "1.2.3", "mean", "random")
PROMPT = Prompt(
    PromptTemplate("Which of {labels}?", True, 256, "both", 9, "chunks"),
    Verbalizer(MULTI, {"a": "an A"}, delimiter="; "),
)
INSTRUCTION = Run(
    approach="instruction",
    label_space=MULTI,
    truncation=Truncation(256, "both", "chunks"),
    calibration=Calibration((0.5, 2.0, 1.25), (0.25, 0.5, 0.75)),
    base_model=BaseModel("/models/base"),
    version="1.2.3",
    prompt=PROMPT,
    training={"documents": {"train": 7}},
)
RUNS = {"embedding": EMBEDDING, "instruction": INSTRUCTION}
# What version 1 did not write where a run had none of it
ABSENT = {
    "embedding": ("prompt_template", "verbalizer", "document_suffix", "training"),
    "instruction": ("pooling", "head_init", "document_suffix", "training"),
}


@pytest.mark.parametrize("approach", RUNS)
def test_a_run_is_read_back_as_it_was_written(approach, tmp_path):
    run = RUNS[approach]
    run.write(tmp_path)
    found = Run.read(tmp_path)
    same = ("approach", "label_space", "truncation", "calibration", "base_model", "version", "pooling", "head_init")
    assert all(getattr(found, name) == getattr(run, name) for name in same)
    assert found.training == run.training
    if run.prompt is None:
        assert found.prompt is None
    else:
        assert found.prompt.template == run.prompt.template
        assert found.prompt.verbalizer.to_dict() == run.prompt.verbalizer.to_dict()
        assert found.prompt.verbalizer.labels == run.label_space
    assert found.to_dict() == run.to_dict() == json.loads((tmp_path / "classification.json").read_text())


def test_a_head_behind_a_prompt_keeps_no_tokens_free(tmp_path):
    prompt = replace(PROMPT, template=replace(PROMPT.template, answer_tokens=0))
    run = replace(INSTRUCTION, approach="embedding", pooling="last", head_init="verbalizer", prompt=prompt)
    run.write(tmp_path)
    assert Run.read(tmp_path).prompt.template == prompt.template


def test_every_run_has_the_same_entries_in_the_same_order():
    assert list(EMBEDDING.to_dict()) == list(INSTRUCTION.to_dict())


@pytest.mark.parametrize(("approach", "pooling"), [("tfidf", None), ("frozen", "mean"), ("encoder", None)])
def test_a_baseline_is_read_back_without_a_prompt(approach, pooling, tmp_path):
    run = replace(EMBEDDING, approach=approach, pooling=pooling, head_init=None)
    run.write(tmp_path)
    assert Run.read(tmp_path).to_dict() == run.to_dict()
    assert list(run.to_dict()) == list(EMBEDDING.to_dict())
    with pytest.raises(ValueError, match=r"lacks \['prompt_template'\]"):
        Run.from_dict({**run.to_dict(), "verbalizer": {"answers": {}, "delimiter": "; ", "empty_answer": "none"}})
    if pooling is not None:
        with pytest.raises(ValueError, match=r"lacks \['pooling'\], which a run of approach 'frozen' has"):
            Run.from_dict({**run.to_dict(), "pooling": None})


def test_a_changed_run_leaves_the_first_as_it_was():
    changed = replace(EMBEDDING, calibration=Calibration(2.0))
    assert (changed.to_dict()["temperature"], EMBEDDING.to_dict()["temperature"]) == (2.0, 0.5)


def test_the_id_of_a_base_model_on_the_hub():
    assert BASE.hub_id == "me/base"
    assert replace(BASE, revision=None).hub_id is None  # a folder that is written like an id
    assert BaseModel("/models/base", "0" * 40).hub_id is None
    assert BaseModel(None, "0" * 40).hub_id is None


@pytest.mark.parametrize("approach", RUNS)
def test_version_1_is_filled_in(approach):
    run = replace(RUNS[approach], training={})
    earlier = {name: value for name, value in run.to_dict().items() if name not in ABSENT[approach]}
    assert Run.from_dict({**earlier, "schema_version": 1}).to_dict() == run.to_dict()
    with pytest.raises(ValueError, match=r"lacks .*training"):
        Run.from_dict(earlier)


def test_a_head_of_version_1_that_does_not_say_how_it_started():
    earlier = {**EMBEDDING.to_dict(), "schema_version": 1}
    del earlier["head_init"]
    assert Run.from_dict(earlier).head_init == "random"


@pytest.mark.parametrize("schema_version", [1, 2, 3])
@pytest.mark.parametrize("chat", [True, False])
def test_chat_templates_of_version_1_are_warned_of_once(schema_version, chat, caplog):
    data = {**INSTRUCTION.to_dict(), "schema_version": schema_version}
    data["prompt_template"]["use_chat_template"] = chat
    for _ in range(2):
        Run.from_dict(data, f"{schema_version}-{chat}/classification.json")
    said = [record.getMessage() for record in caplog.records]
    if schema_version == 1 and chat:
        (warning,) = said
        assert warning.startswith(
            "1-True/classification.json was written by an earlier version. The first of them made"
        )
        assert warning.endswith("train the run again.")
    else:
        assert not said


def changed(run, name, value):
    """The content of a run with one entry, such as `base_model.dtype`, changed."""
    data = json.loads(json.dumps(run.to_dict()))
    *parts, key = name.split(".")
    (data[parts[0]] if parts else data)[key] = value
    return data


WRONG = [
    ("hf_causal_clf_version", 1, "a text"),
    ("pooling", "max", "one of ['last', 'mean'], or null"),
    ("head_init", ["random"], "one of ['random', 'verbalizer', 'probe'], or null"),
    ("prompt_template", "Which?", "an object, or null"),
    ("prompt_template.instruction", 3, "a text, or null"),
    ("prompt_template.use_chat_template", "yes", "true or false"),
    ("prompt_template.answer_tokens", -1, "a whole number from 0 on, or null"),
    ("verbalizer", ["a"], "an object, or null"),
    ("verbalizer.answers", {"a": 1}, "an object of texts"),
    ("verbalizer.delimiter", None, "a text"),
    ("verbalizer.empty_answer", 0, "a text"),
    ("label_space", ["a", "b"], "an object"),
    ("label_space.names", "abc", "a list of texts"),
    ("label_space.multi_label", 1, "true or false"),
    ("truncation", 64, "an object"),
    ("truncation.max_length", "64", "a whole number above 0, or null"),
    ("truncation.max_length", True, "a whole number above 0, or null"),
    ("truncation.long_documents", "split", "one of ['truncate', 'chunks']"),
    ("truncation.side", "left", "one of ['tail', 'head', 'both', 'head_tail']"),
    ("temperature", "warm", "a number, a list of numbers, or null"),
    ("temperature", True, "a number, a list of numbers, or null"),
    ("thresholds", 0.5, "a list of numbers, or null"),
    ("base_model", "me/base", "an object"),
    ("base_model.name_or_path", 7, "a text, or null"),
    ("base_model.revision", 7, "a text, or null"),
    ("base_model.dtype", "int7", "one of ['auto', 'bfloat16', 'float16', 'float32', 'float64'], or null"),
    ("base_model.quantization", "nf4", "an object, or null"),
    ("training", [], "an object"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG, ids=[f"{name}={value}" for name, value, _ in WRONG])
def test_a_wrong_entry_is_named(name, value, allowed):
    said = f"run/classification.json has {value!r} for {name}, which must be {allowed}. Train or download it again."
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Run.from_dict(changed(INSTRUCTION, name, value), "run/classification.json")


MAY_LACK = {"prompt_template.answer_tokens", "truncation.long_documents"}


def test_a_run_that_does_not_say_what_becomes_of_long_documents_cuts_them():
    data = INSTRUCTION.to_dict()
    data["truncation"] = {"max_length": 256, "side": "both"}
    run = Run.from_dict(data)
    assert run.truncation.long_documents == run.prompt.template.long_documents == "truncate"


@pytest.mark.parametrize("name", sorted({name for name, *_ in WRONG} - MAY_LACK))
def test_a_missing_entry_is_named(name):
    data = changed(INSTRUCTION, name, None)
    *parts, key = name.split(".")
    del (data[parts[0]] if parts else data)[key]
    with pytest.raises(ValueError, match=rf"lacks \['{name}'\], which a run of approach 'instruction' has"):
        Run.from_dict(data)


@pytest.mark.parametrize(
    ("run", "changes", "said"),
    [
        (EMBEDDING, {"pooling": None}, r"lacks \['pooling'\], which a run of approach 'embedding' has"),
        (EMBEDDING, {"head_init": "verbalizer"}, r"lacks \['prompt_template', 'verbalizer'\]"),
        (EMBEDDING, {"verbalizer": PROMPT.verbalizer.to_dict()}, r"lacks \['prompt_template'\]"),
        (INSTRUCTION, {"verbalizer": None}, r"lacks \['verbalizer'\]"),
        (EMBEDDING, {"problem_type": "regression"}, "problem_type is 'regression', but its labels are of another kind"),
        (EMBEDDING, {"label_space": {"names": ["a", "a"], "multi_label": False}}, "Label names must be unique"),
        (INSTRUCTION, {"verbalizer": {"answers": {"z": "z"}, "delimiter": ";", "empty_answer": "-"}}, "unknown labels"),
        (EMBEDDING, {"truncation": {"max_length": 8, "side": "tail", "to": 7}}, "unexpected keyword argument 'to'"),
        (INSTRUCTION, {"thresholds": [0.5]}, "The run has 1 thresholds for 3 labels"),
    ],
)
def test_entries_that_do_not_fit_together(run, changes, said):
    with pytest.raises(ValueError, match=said):
        Run.from_dict(run.to_dict() | changes)


@pytest.mark.parametrize(("max_length", "side"), [(0, "tail"), (8, "left")])
def test_a_truncation_that_is_not_possible(max_length, side):
    with pytest.raises(ValueError, match="must be"):
        Truncation(max_length, side)
