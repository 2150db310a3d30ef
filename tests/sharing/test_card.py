"""Model cards: facts of the run and nothing else, in Markdown that holds and snippets that run."""

import ast
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from conftest import make_rows, write_jsonl
from datasets import Dataset
from huggingface_hub import ModelCard, repocard
from markdown_it import MarkdownIt
from test_classifier import save_folder
from test_train import run_embedding, run_instruction
from tokenizer_families import make_tokenizer
from tokenizers.processors import TemplateProcessing

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.evaluation.metrics import document_nll, f1_per_label
from hf_causal_clf.evaluation.significance import f1_interval, is_correct, mean_interval
from hf_causal_clf.runs.results import read_results
from hf_causal_clf.runs.run import Run, Truncation
from hf_causal_clf.sharing.card import render_card
from hf_causal_clf.sharing.templates import template_environment, template_folder
from hf_causal_clf.training.arguments import PromptArguments
from hf_causal_clf.training.facts import base_licence

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import make_cards  # noqa: E402

APPROACHES = ("embedding", "instruction")
DESCRIPTIONS = {
    "embedding": make_cards.embedding_description,
    "instruction": make_cards.instruction_description,
}
TOKEN = "hf_planted" + "A" * 24
NASTY = ["a|b", "`tick`", "<b>bold</b>", "*star* _under_", "[link](http://x.y)", "back\\slash\\|", "$x$ & ~~y~~"]


@pytest.fixture(scope="module")
def runs(checkpoint, tmp_path_factory):
    """A tiny run of each approach, with enough validation documents to be calibrated, and the documents."""
    folder = tmp_path_factory.mktemp("card")
    sizes = {"train": (24, 0), "validation": (60, 100), "test": (20, 200)}
    rows = {split: make_rows(*size) for split, size in sizes.items()}
    files = {f"{split}_file": write_jsonl(folder / f"{split}.jsonl", rows[split]) for split in sizes}
    prompt = PromptArguments(use_chat_template=True, answers='{"tech": "computers and phones"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        run_embedding(checkpoint, folder / "embedding", files, num_train_epochs=1)
        run_instruction(checkpoint, folder / "instruction", files, prompt, num_train_epochs=4)
    return folder, [row["text"] for split in rows.values() for row in split]


@pytest.fixture
def made_up(tmp_path):
    """Writes a made-up run of an approach, changed by a function, and renders its card."""

    def write(approach, change=lambda description: None, **options):
        description = DESCRIPTIONS[approach]()
        change(description)
        make_cards.write_run(tmp_path / "made-up", description, **{**make_cards.COST, **options})
        return tmp_path / "made-up"

    return write


def tables(card) -> list[list[list[str]]]:
    """The cells of each table of a card as a reader sees them."""
    found, cell = [], False
    for token in MarkdownIt("commonmark").enable("table").parse(card.text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            cell = True
        elif token.type == "inline" and cell:
            found[-1][-1].append("".join(part.content for part in token.children))
            cell = False
    return found


def table(card, first: str) -> list[dict[str, str]]:
    """The rows of the table whose first heading is given."""
    heading, *rows = next(rows for rows in tables(card) if rows[0][0] == first)
    assert all(len(row) == len(heading) for row in rows)
    return [dict(zip(heading, row)) for row in rows]


def snippets(card) -> list[str]:
    """The Python snippets of a card."""
    return [
        token.content for token in MarkdownIt().parse(card.text) if token.type == "fence" and token.info == "python"
    ]


@pytest.mark.parametrize("approach", make_cards.REPOSITORIES)
def test_the_examples_are_what_the_code_renders(approach, tmp_path):
    """After a change that is meant: python tests/golden/make_cards.py"""
    example = (make_cards.EXAMPLES / f"example_{approach}" / "README.md").read_text(encoding="utf-8")
    assert make_cards.render_example(approach, tmp_path / "run") == example
    for figure in re.findall(r"\]\((figures/[^)]+)\)", example):
        assert (make_cards.EXAMPLES / f"example_{approach}" / figure).read_bytes().startswith(b"\x89PNG"), figure


@pytest.mark.parametrize("approach", APPROACHES)
def test_metadata_hold_every_metric_of_the_test(approach, made_up):
    folder = made_up(approach)
    card = render_card(folder, repo_id="me/mine")
    metadata = yaml.safe_load(str(card).split("---\n")[1])
    (entry,) = metadata["model-index"]
    (result,) = entry["results"]
    measured = json.loads((folder / "metrics.json").read_text())["test"]
    for name in [name for name in measured if name.startswith(("uncalibrated_", "nll_change", "generation_"))]:
        del measured[name]
    assert [metric["value"] for metric in result["metrics"]] == pytest.approx(list(measured.values()), abs=1e-6)
    assert not any("_" in metric["name"] for metric in result["metrics"])
    assert {metric["type"] for metric in result["metrics"]} >= {"f1", "accuracy", "ece", "nll"}
    assert entry["name"] == "mine"
    assert metadata["base_model"] == "example-org/made-up-135m"
    assert metadata["library_name"] == "peft"
    assert metadata["pipeline_tag"] == "text-classification"
    assert metadata["datasets"] == [result["dataset"]["type"]]
    assert {"hf_causal_clf", f"{approach}-based", "qlora", "arxiv:2512.12677"} <= set(metadata["tags"])
    again = ModelCard(str(card))
    assert str(again) == str(card)
    assert again.data.to_dict() == metadata


def test_the_licence_is_that_of_the_base_model(made_up, tmp_path):
    assert render_card(made_up("embedding")).data.license == "apache-2.0"
    other = render_card(made_up("instruction")).data
    assert (other.license, other.license_name) == ("other", "made-up-licence")
    assert other.license_link == "https://huggingface.co/example-org/made-up-135m/blob/main/LICENSE"
    (tmp_path / "base").mkdir()
    assert base_licence(str(tmp_path / "base"), "main") == {}
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# x\n")
    assert base_licence(str(tmp_path / "base"), "main") == {"license": "mit"}
    (tmp_path / "base" / "README.md").write_text("---\nlicense: [\n---\n# x\n")
    assert base_licence(str(tmp_path / "base"), "main") == {}
    assert base_licence("example-org/never-cached", "main") == {}


def test_validate_is_asked_about_this_card(made_up, monkeypatch):
    posted = []

    class Session:
        def post(self, url, json, headers):
            posted.append((url, json))

    monkeypatch.setattr(repocard, "get_session", Session)
    monkeypatch.setattr(repocard, "hf_raise_for_status", lambda response: None)
    card = render_card(made_up("embedding"))
    card.validate()
    ((url, body),) = posted
    assert url.endswith("/api/validate-yaml")
    assert body == {"repoType": "model", "content": str(card)}


@pytest.mark.parametrize("approach", APPROACHES)
def test_metrics_and_intervals_are_those_of_the_run(approach, made_up):
    folder = made_up(approach)
    space = LabelSpace.from_dict(DESCRIPTIONS[approach]()["label_space"])
    results = read_results(folder, space)
    rows = {row[""]: row for row in table(render_card(folder), "")}
    expected = {
        "Macro F1": f1_interval(results.gold, results.predicted),
        "Micro F1": f1_interval(results.gold, results.predicted, average="micro"),
        "Negative log-likelihood": mean_interval(document_nll(results.gold, results.probabilities)),
    }
    exact = next(name for name in rows if name.startswith("Accuracy"))
    expected[exact] = mean_interval(is_correct(results.gold, results.predicted).astype(float))
    for name, interval in expected.items():
        assert rows[name]["test"] == f"{interval.value:.3f}"
        assert rows[name]["95 % interval"] == f"{interval.low:.3f} – {interval.high:.3f}"
    assert rows["Expected calibration error"]["test"] == f"{results.metrics['test']['ece']:.3f}"
    assert rows["Macro F1"]["validation"] == f"{results.metrics['validation']['f1_macro']:.3f}"


@pytest.mark.parametrize("approach", APPROACHES)
def test_the_label_table(approach, made_up):
    folder = made_up(approach)
    description = DESCRIPTIONS[approach]()
    space, facts = LabelSpace.from_dict(description["label_space"]), description["training"]
    results = read_results(folder, space)
    *rows, documents = table(render_card(folder), "label")
    assert [row["label"] for row in rows] == list(space.names)
    assert [row["training"] for row in rows] == [str(count) for count in facts["label_counts"]["train"]]
    tested = results.gold.sum(axis=0) if space.multi_label else np.bincount(results.gold)
    assert [row["test"] for row in rows] == [str(count) for count in tested]
    scores = f1_per_label(results.gold, results.predicted, len(space))
    assert [row["F1 on test"] for row in rows] == [f"{score:.3f}" for score in scores]
    assert documents["training"] == str(facts["documents"]["train"])
    if space.multi_label:
        assert [row["threshold"] for row in rows] == [f"{value:.3f}" for value in description["thresholds"]]
        assert [row["answer"] for row in rows] == list(description["verbalizer"]["answers"].values())


@pytest.mark.parametrize("approach", APPROACHES)
def test_nasty_label_names_keep_the_table_whole(approach, made_up):
    def change(description):
        description["label_space"]["names"] = NASTY
        description["training"]["label_counts"] = {"train": list(range(7)), "validation": list(range(20, 27))}
        if approach == "instruction":
            description["verbalizer"]["answers"] = {name: name for name in NASTY}
            description["temperature"] = description["thresholds"] = None

    card = render_card(made_up(approach, change))
    rows = table(card, "label")[:-1]
    assert [row["label"] for row in rows] == NASTY
    parsed = [token for token in MarkdownIt("commonmark").enable("table").parse(card.text) if token.children]
    shown = [part for token in parsed for part in token.children]
    assert not any("<b>" in part.content for part in shown if part.type == "html_inline")
    assert not any(part.type == "link_open" and part.attrs["href"] == "http://x.y" for part in shown)
    for snippet in map(ast.parse, snippets(card)):
        named = {ast.unparse(part.targets[0]): part.value for part in snippet.body if isinstance(part, ast.Assign)}
        assert "labels" not in named or ast.literal_eval(named["labels"]) == NASTY


def test_a_fence_in_a_prompt_does_not_end_its_block(made_up):
    def change(description):
        description["prompt_template"]["instruction"] = "Read this:\n```\nx\n```\nthen answer."
        del description["training"]["prompt"]
        description["prompt_template"]["use_chat_template"] = False

    tokens = MarkdownIt().parse(render_card(made_up("instruction", change)).text)
    (prompt,) = [token.content for token in tokens if token.type == "fence" and token.info == "text"]
    assert prompt == "Read this:\n```\nx\n```\nthen answer.\n\nDocument:\n{document}\n\nLabel:\n"


@pytest.mark.parametrize("approach", APPROACHES)
def test_what_is_unknown_is_left_out(approach, made_up):
    def change(description):
        description["training"] = {}
        description["base_model"] |= {"name_or_path": "/home/somebody/models/secret", "revision": None, "dtype": None}
        description["base_model"]["quantization"] = None
        description["truncation"]["max_length"] = None

    folder = made_up(approach, change, figures=())
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({"test": metrics["test"]}))
    (folder / "adapter_config.json").unlink()
    card = render_card(folder)
    assert not re.search(r"\bNone\b|[Uu]nknown|[Uu]ndefined|\bnan\b|\bnull\b|\[\]|!\[", str(card))
    assert "somebody" not in str(card)
    assert "A language model" in card.text
    metadata = card.data.to_dict()
    assert not {"base_model", "datasets", "license", "language"} & set(metadata)
    assert metadata["library_name"] == "transformers"
    assert metadata["model-index"][0]["name"] == "made-up"
    assert list(table(card, "label")[0]) == ["label", "test", "F1 on test"] + (
        ["threshold", "answer"] if approach == "instruction" else []
    )
    settings = {row["setting"] for row in table(card, "setting")}
    assert settings == {"Base model", "Quantisation of its weights"}
    assert len(snippets(card)) == 1


@pytest.mark.parametrize("approach", APPROACHES)
def test_nothing_private_gets_into_a_card(approach, runs, checkpoint, monkeypatch):
    folder, texts = runs
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    rendered = str(render_card(folder / approach))
    assert rendered == (folder / approach / "README.md").read_text(encoding="utf-8")
    for secret in (TOKEN, str(Path.home()), checkpoint, str(folder), "train.jsonl", *texts):
        assert secret not in rendered
    assert not re.search(r"(?<![\w/:.])/(home|root|tmp|work|Users)\b", rendered)
    assert "a local checkpoint" in rendered
    assert "base_model:" not in rendered
    saved = json.loads((folder / approach / "classification.json").read_text())["training"]
    assert not any(secret in json.dumps(saved) for secret in (TOKEN, checkpoint, str(folder), *texts))


@pytest.mark.parametrize("approach", APPROACHES)
def test_a_real_run_knows_its_facts(approach, runs):
    folder = runs[0] / approach
    card = render_card(folder)
    settings = {row["setting"]: row["value"] for row in table(card, "setting")}
    assert settings["Documents in a step"] == "8"
    assert settings["Seed"] == "42"
    assert settings["Learning rate"] == "0.01"
    assert settings["Optimizer"] == "adamw_torch"
    assert settings["LoRA"] == "rank 8, alpha 16, dropout 0.0" if approach == "embedding" else "rank 8, alpha 128"
    assert settings["Hardware"].startswith(("CPU", "GPU"))
    assert f"torch {torch.__version__.split('+')[0]}" in card.text
    assert [row["training"] for row in table(card, "label")] == ["8", "8", "8", "24"]
    figures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", card.text)
    assert "figures/reliability_diagram.png" in figures
    assert all((folder / path).is_file() for path in figures)
    assert "Fewer than 20 test documents have `business`, `sport`, `tech`" in card.text


def run_snippets(card, folder, capsys, text=None):
    """Run the snippets with the run's folder as the repository; return their variables and what they printed."""
    found = []
    for snippet in snippets(card):
        source = snippet.replace("me/mine", str(folder))
        source = source if text is None else source.replace('"The text to classify."', json.dumps(text))
        names = {}
        capsys.readouterr()
        exec(compile(source, "snippet", "exec"), names)
        found.append((names, capsys.readouterr().out))
    return found


@pytest.mark.parametrize(
    ("truncation", "said", "stock"),
    [
        ({"side": "head_tail"}, "longer texts are cut in their middle", "`TextClassifier` cuts them in their middle."),
        ({"side": "both"}, "longer texts are cut at both ends", "`TextClassifier` cuts them at both ends."),
        (
            {"side": "tail", "long_documents": "chunks"},
            "at a time: a longer text is read whole, in overlapping chunks, each by itself, and their logits are averaged",
            "`TextClassifier` reads them whole, in chunks, and averages the logits.",
        ),
        ({"side": "tail"}, "longer texts are cut at their end", None),
    ],
)
@pytest.mark.parametrize("approach", APPROACHES)
def test_what_becomes_of_long_texts(approach, truncation, said, stock, made_up):
    card = render_card(made_up(approach, lambda description: description["truncation"].update(truncation))).text
    (limit,) = [line for line in card.splitlines() if line.startswith("- It reads at most")]
    assert said in limit
    assert ("read in chunks" in card) == ("long_documents" in truncation)
    if approach == "embedding":
        assert (stock in card) if stock else "all that a stock tokenizer can do" not in card


@pytest.mark.parametrize("suffix", [None, '\n"Topic":'])
@pytest.mark.parametrize("side", ["tail", "head"])
def test_snippets_of_the_embedding_card(runs, tmp_path, capsys, side, suffix):
    folder = shutil.copytree(runs[0] / "embedding", tmp_path / "run")
    saved = json.loads((folder / "classification.json").read_text())
    saved["truncation"] = {"max_length": 8 if suffix is None else 16, "side": side}
    saved["document_suffix"] = suffix
    (folder / "classification.json").write_text(json.dumps(saved))
    text = "football match and the shares fell while the bank kept markets busy with computers"
    (package, printed), (stock, answer) = run_snippets(render_card(folder, repo_id="me/mine"), folder, capsys, text)
    classifier = TextClassifier.from_pretrained(folder)
    expected = classifier.predict_proba([text])
    np.testing.assert_allclose(package["classifier"].predict_proba([text]), expected, atol=1e-6)
    assert str(classifier.predict([text])) in printed
    np.testing.assert_allclose(stock["probabilities"].numpy(), expected[0], atol=1e-4)
    assert answer.startswith(classifier.predict([text])[0])


def test_the_snippet_continues_a_text_with_the_suffix(runs, tmp_path, capsys):
    """Also with a tokenizer that puts a space before every text that it is given alone, and a token after it."""
    folder, tokenizer = tmp_path / "run", make_tokenizer("sentencepiece_bpe")
    frame = {"single": "<s> $A <|im_end|>", "special_tokens": [("<s>", 1), ("<|im_end|>", 4)]}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(**frame)
    base = tiny.save_checkpoint(tmp_path / "base", "llama", tokenizer)
    save_folder(folder, base, "embedding", Run.read(runs[0] / "embedding").label_space)
    replace(Run.read(folder), document_suffix="\n\nTopic:", truncation=Truncation(32)).write(folder)
    for name in ("metrics.json", "predictions.parquet"):
        shutil.copyfile(runs[0] / "embedding" / name, folder / name)
    _, (stock, _) = run_snippets(render_card(folder, repo_id="me/mine"), folder, capsys, "the cat sat on a mat")
    expected = TextClassifier.from_pretrained(folder).predict_proba("the cat sat on a mat")
    np.testing.assert_allclose(stock["probabilities"].numpy(), expected, atol=1e-4)


def test_snippets_of_a_multi_label_embedding_card(runs, tmp_path, capsys):
    """The head of the single-label run, read as one of a multi-label run."""
    folder = shutil.copytree(runs[0] / "embedding", tmp_path / "run")
    saved = json.loads((folder / "classification.json").read_text())
    saved["label_space"]["multi_label"] = True
    saved["problem_type"] = "multi_label_classification"
    saved |= {"temperature": [0.5, 2.0, 1.25], "thresholds": [0.3, 0.7, 0.45]}
    (folder / "classification.json").write_text(json.dumps(saved))
    rows = Dataset.from_parquet(str(folder / "predictions.parquet"), keep_in_memory=True).to_dict()
    rows |= {column: [[label] for label in rows[column]] for column in ("gold", "predicted")}
    Dataset.from_dict(rows).to_parquet(folder / "predictions.parquet")
    card = render_card(folder, repo_id="me/mine")
    assert [row["threshold"] for row in table(card, "label")[:-1]] == ["0.300", "0.700", "0.450"]
    (_, printed), (stock, answer) = run_snippets(card, folder, capsys)
    classifier = TextClassifier.from_pretrained(folder)
    text = stock["text"]
    np.testing.assert_allclose(stock["probabilities"].numpy(), classifier.predict_proba([text])[0], atol=1e-4)
    assert str(classifier.predict([text])) in printed
    assert answer.startswith(str(classifier.predict([text])[0]))


def test_snippets_of_the_instruction_card(runs, capsys):
    folder = runs[0] / "instruction"
    card = render_card(folder, repo_id="me/mine")
    (package, printed), (_, answer) = run_snippets(card, folder, capsys, "shares fell the cat")
    classifier = TextClassifier.from_pretrained(folder)
    texts = package["texts"]
    assert str(classifier.predict(texts)) in printed
    parsed = classifier.scorer.verbalizer.parse(answer)
    assert parsed.error is None
    assert [parsed] == classifier.generate(texts)
    assert "computers and phones" in [row["answer"] for row in table(card, "label")]


def test_limits_come_from_the_run(made_up):
    def change(description):
        description["training"]["label_counts"]["train"][0] = 0
        description["training"]["label_counts"]["validation"] = [10, 30, 30, 30]

    limits = render_card(made_up("instruction", change)).text.split("## Limits")[1].split("##")[0]
    assert "at most 1,024 tokens, prompt and answer included; longer texts are cut at both ends" in limits
    assert "also among the training documents: 2." in limits
    assert "no training document with `climate`" in limits
    assert "`climate` has fewer than 20 positive or negative validation documents" in limits
    assert "always gives one" not in limits
    plain = render_card(made_up("embedding", lambda description: description.update(temperature=None))).text
    assert "Its probabilities are not calibrated." in plain
    assert "always gives one of its 5 labels" in plain
    assert "takes 50 validation documents" in plain


@pytest.mark.parametrize("approach", APPROACHES)
def test_a_run_with_folds_has_no_validation_documents(approach, made_up):
    def as_with_folds(description):
        description["training"]["arguments"].pop("metric_for_best_model", None)
        description["training"]["overlap"] |= {"train/validation": 0, "validation/test": 0}

    folder = made_up(approach, as_with_folds)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["calibration"]["folds"] = 5
    (folder / "metrics.json").write_text(json.dumps(metrics))
    card = render_card(folder)
    assert "calibrated on the training documents, each predicted by one of 5 trainings without it" in card.content
    assert "validation" not in card.content
    assert table(card, "")[0]["out of fold"] == f"{metrics['validation']['f1_macro']:.3f}"


def test_many_labels_are_folded_away(made_up):
    def change(description):
        description["label_space"]["names"] = [f"class {index}" for index in range(60)]
        del description["training"]["label_counts"]

    card = render_card(made_up("embedding", change))
    assert "<details><summary>All 60 labels</summary>" in card.text
    assert len(table(card, "label")) == 61


def test_a_folder_without_a_finished_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no classification\.json: it is not the folder of a finished run"):
        render_card(tmp_path)


def test_each_template_is_found():
    names = {
        "base.md",
        "baseline.md",
        "cascade.md",
        "combination.md",
        "comparison.md",
        "embedding.md",
        "instruction.md",
    }
    assert {path.name for path in template_folder().glob("*.md")} == names | {"README.md"}
    assert names <= set(template_environment().list_templates())


def test_templates_are_found_in_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "hf_causal_clf" / "model_cards").mkdir(parents=True)
    monkeypatch.setattr(
        "hf_causal_clf.sharing.templates.__file__", str(tmp_path / "hf_causal_clf" / "sharing" / "templates.py")
    )
    assert template_folder() == tmp_path / "hf_causal_clf" / "model_cards"
