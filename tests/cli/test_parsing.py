from dataclasses import make_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from transformers import TrainingArguments
from transformers.utils import logging

from hf_causal_clf import LabelSpace
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.comparison.arguments import ComparisonArguments
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import note_document_mistakes
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from hf_causal_clf.training.arguments import PromptArguments, RunArguments

TYPES = {
    "embed": (
        *(DataArguments, EmbeddingModelArguments, HeadArguments, PromptArguments, RunArguments),
        EmbeddingTrainingArguments,
    ),
    "instruct": (DataArguments, InstructionModelArguments, PromptArguments, RunArguments, InstructionTrainingArguments),
}
ELSEWHERE = ("compare", "first", "cascade", "distill")  # in test_plan, test_cascade_recipe and test_distill
CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[2] / "recipes" / "configs").rglob("*.yaml")
    if path.parent.name not in ELSEWHERE
)


@pytest.mark.usefixtures("quickstart_models")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_configuration_parses_and_opens_with_its_command(path):
    recipe = path.stem.split("-")[0]
    parse_arguments(TYPES[recipe], args=["--config", str(path)])
    command = path.read_text().splitlines()[0]
    relative = path.relative_to(path.parents[3])
    assert command == f"# accelerate launch recipes/{recipe}.py --config {relative}"


def test_there_are_configurations():
    assert len(CONFIGS) >= 4


def write(path, text):
    path.write_text(text)
    return ["--config", str(path)]


def test_command_line_wins_over_the_file(tmp_path):
    config = write(
        tmp_path / "a.yaml", "model_name_or_path: m\ntrain_file: t\nlora_r: 4\nlearning_rate: 1.0e-3\nmax_steps: 9\n"
    )
    data, model, *_, training = parse_arguments(
        TYPES["embed"], args=[*config, "--lora_r", "16", "--multi_label", "true"]
    )
    assert (model.lora_r, training.learning_rate, data.multi_label) == (16, 1e-3, True)
    assert training.load_best_model_at_end
    same = parse_arguments(TYPES["embed"], args=[f"--config={tmp_path / 'a.yaml'}"])
    assert same[1].lora_r == 4


def test_names_of_the_transformers_examples_work_too(tmp_path):
    config = write(tmp_path / "a.yaml", "model_name_or_path: m\ntrain_file: t\n")
    data = parse_arguments(TYPES["embed"], args=[*config, "--max_eval_samples", "5", "--max_predict_samples", "6"])[0]
    assert (data.max_validation_samples, data.max_test_samples) == (5, 6)
    config = write(tmp_path / "b.yaml", "model_name_or_path: m\ntrain_file: t\nmax_eval_samples: 7\n")
    assert parse_arguments(TYPES["embed"], args=config)[0].max_validation_samples == 7


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("lora_rank: 8\nmodel_name_or_path: m", ValueError, "unknown arguments: 'lora_rank'"),
        (
            "learning_rates: 8\nmodel_name_or_path: m",
            ValueError,
            r"'learning_rates' \(did you mean 'learning_rate'\?\)",
        ),
        ("- a\n- b", ValueError, "must be a mapping"),
        ("a: [", ValueError, "not valid YAML"),
    ],
)
def test_mistakes_in_the_file(tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        parse_arguments(TYPES["embed"], args=write(tmp_path / "a.yaml", text))


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"no configuration file 'nowhere.yaml'"):
        parse_arguments(TYPES["embed"], args=["--config", "nowhere.yaml"])


@pytest.mark.parametrize("line", ["--config a.yaml --config b.yaml", "--config=a.yaml --config b.yaml --seed 1"])
def test_two_configuration_files_are_refused(line):
    with pytest.raises(ValueError, match=r"^--config is given twice: a.yaml, b.yaml\. Give one file\.$"):
        parse_arguments(TYPES["embed"], args=line.split())


def test_answers_from_yaml_and_from_json(tmp_path):
    base = "model_name_or_path: m\ntrain_file: t\n"
    for text in ("answers: {a: alpha, b: beta}\n", 'answers: \'{"a": "alpha", "b": "beta"}\'\n'):
        prompt = parse_arguments(TYPES["instruct"], args=write(tmp_path / "a.yaml", base + text))[2]
        assert prompt.verbalizer(LabelSpace(["a", "b"])).answers == ("alpha", "beta")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PromptArguments(answers="{"), "not valid JSON"),
        (lambda: PromptArguments(empty_answer=None), "must be texts"),
        (lambda: PromptArguments(answers="[1]"), "must map label names"),
        (lambda: HeadArguments(pooling="max"), "pooling must be one of"),
        (lambda: RunArguments(class_weight="heavy"), "'balanced' or left out"),
        (lambda: HeadArguments(head_init="zero"), "head_init must be one of"),
        (lambda: HeadArguments(head_init="verbalizer", pooling="mean"), "set pooling to last, not mean"),
        (lambda: RunArguments(truncation="middle"), "must be one of"),
        (lambda: RunArguments(early_stopping_patience=-1), "must be 0"),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("recipe", ["embed", "instruct"])
def test_help_reads_well(recipe, capsys):
    with pytest.raises(SystemExit) as end:
        parse_arguments(TYPES[recipe], "What it does.", args=["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "What it does." in text
    for name in (
        "--train_file",
        "--label_delimiter",
        "--validation_fraction",
        "--max_length",
        "--truncation",
        "--lora_r",
    ):
        assert name in text


def test_all_mistakes_are_told_in_one_start(tmp_path):
    config = write(tmp_path / "a.yaml", "lora_alfa: 8\nlora_alpha: many\nlearning_rate: -1\nseed: -1\n")
    line = ["--pooling", "max", "--max_train_samples", "0", "--split_seed", "-1", "--train_file", "nowhere.jsonl"]
    with pytest.raises(ValueError, match="lora_alfa") as raised:
        parse_arguments(TYPES["embed"], args=[*config, *line, "--early_stopping_patience", "soon", "--sead", "1"])
    assert str(raised.value).splitlines() == [
        f"{tmp_path}/a.yaml has unknown arguments: 'lora_alfa' (did you mean 'lora_alpha'?). See --help-all for all of them.",
        f"{tmp_path}/a.yaml: lora_alpha must be a whole number, got 'many'.",
        "pooling must be one of ['auto', 'last', 'mean'], got 'max'.",
        "early_stopping_patience must be a whole number, got 'soon'.",
        "Unknown arguments: '--sead' (did you mean '--seed'?). See --help-all for all of them.",
        "split_seed must be from 0 to 2**32 - 1, got -1.",
        "max_train_samples must be at least 1, got 0.",
        "learning_rate must be 0 or more, got -1.",
        "seed must be 0 or more, got -1.",
    ]


def test_mistakes_of_the_documents_are_told_with_those_of_the_arguments(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    line = [f"--train_file={tmp_path}/train.jsonl", "--validation_file", "nowhere.jsonl", "--test_file", "test.txt"]
    line += ["--lora_r", "0", "--model_name_or_path", "m"]
    with pytest.raises(ValueError, match="nowhere") as raised:
        parse_arguments(TYPES["embed"], args=line, check=note_document_mistakes)
    assert len(str(raised.value).splitlines()) == 3
    for part in ("lora_r must be 1 or more", "no file 'nowhere.jsonl'", "There is no file 'test.txt'"):
        assert part in str(raised.value)
    with pytest.raises(ValueError, match="The following arguments are required: --needed"):
        parse_arguments([make_dataclass("Arguments", [("needed", str)])], args=[])


def test_recipes_without_training_take_a_log_level():
    line = ["--output_dir", "x", "--model_name_or_path", "m", "--baselines", "majority", "tfidf"]
    try:
        parse_arguments([ComparisonArguments], args=[*line, "--log_level", "debug"])
        assert logging.get_verbosity() == logging.DEBUG
    finally:
        logging.set_verbosity_warning()


@pytest.mark.parametrize("kind", [EmbeddingTrainingArguments, InstructionTrainingArguments])
def test_mixed_precision_without_a_gpu_says_what_to_do(kind, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    options = {"output_dir": str(tmp_path), "report_to": "none", "optim": "adamw_torch"}
    for given in ({"fp16": True}, {"fp16": True, "use_cpu": True}):
        with pytest.raises(ValueError, match="fp16 is mixed precision on a GPU; on a CPU it would do nothing"):
            kind(**options, **given)
    for name in ("bf16", "bf16_full_eval"):
        with pytest.raises(ValueError, match=f"^{name} needs a GPU, and there is none.* set use_cpu to true"):
            kind(**options, **{name: True})
    assert kind(**options, bf16=True, use_cpu=True).bf16
    assert not kind(**options).fp16


@pytest.mark.parametrize("kind", [EmbeddingTrainingArguments, InstructionTrainingArguments])
def test_only_the_help_of_these_options_is_the_packages_own(kind):
    for name in ("resume_from_checkpoint", "push_to_hub", "hub_model_id"):
        own, stock = kind.__dataclass_fields__[name], TrainingArguments.__dataclass_fields__[name]
        assert get_type_hints(kind)[name] == get_type_hints(TrainingArguments)[name]
        assert own.default == stock.default
        assert {**own.metadata, "help": None} == {**stock.metadata, "help": None}
        assert own.metadata["help"] != stock.metadata["help"]
