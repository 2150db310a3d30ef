"""recipes/export.py: stock checkpoints that plain transformers loads."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import run_as_main
from test_classifier import LABELS, TEXTS, save_folder
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace, PromptTemplate, TextClassifier, Verbalizer
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.runs.run import BaseModel, Prompt, Run, Truncation

ROOT = Path(__file__).parents[2]


def export(monkeypatch, source, output, *options):
    arguments = ["--model_name_or_path", str(source), "--output_dir", str(output), *options]
    monkeypatch.setattr(sys, "argv", ["export.py", *arguments])
    run_as_main(ROOT / "recipes" / "export.py")


def save_encoder_run(folder, tokenizer, labels, temperature):
    """A tiny BERT with a random head as a run, with a temperature that was fitted."""
    tiny.save_encoder(folder, tokenizer)
    names = {"id2label": labels.id2label, "label2id": labels.label2id, "problem_type": labels.problem_type}
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels), **names)
    model.classifier.bias.data.normal_()
    model.classifier.weight.data.normal_()
    model.save_pretrained(folder)
    run = Run("encoder", labels, Truncation(64), Calibration(temperature), BaseModel(None), "0")
    run.write(folder)


@pytest.mark.parametrize("multi_label", [False, True])
def test_embedding_run_becomes_a_stock_classifier(checkpoint, tmp_path, monkeypatch, multi_label, capsys):
    labels = LabelSpace(LABELS.names, multi_label=multi_label)
    save_folder(tmp_path / "run", checkpoint, "embedding", labels)
    export(monkeypatch, tmp_path / "run", tmp_path / "out")
    assert "its logits are the run's within" in capsys.readouterr().out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["problem_type"] == labels.problem_type
    expected = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS)
    classify = pipeline("text-classification", model=str(tmp_path / "out"), top_k=None)
    for row, found in enumerate(classify(TEXTS)):
        scores = {each["label"]: each["score"] for each in found}
        np.testing.assert_allclose([scores[name] for name in labels.names], expected[row], atol=1e-4)
    again = TextClassifier.from_pretrained(tmp_path / "out")
    np.testing.assert_allclose(again.predict_proba(TEXTS), expected, atol=1e-4)
    ours = CausalLMForLastTokenClassification.from_pretrained(tmp_path / "out")
    assert ours.config.label_space == labels


def test_instruction_run_becomes_a_stock_causal_lm(checkpoint, tmp_path, monkeypatch):
    model = save_folder(tmp_path / "run", checkpoint, "instruction")
    export(monkeypatch, tmp_path / "run", tmp_path / "out")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(stock).__name__ == "LlamaForCausalLM"
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS[1], return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(stock(ids).logits, model.eval()(ids).logits, atol=1e-3, rtol=1e-3)
    expected = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS)
    found = TextClassifier.from_pretrained(tmp_path / "out").predict_proba(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("multi_label", [False, True])
def test_folded_temperature_gives_calibrated_probabilities(checkpoint, tmp_path, monkeypatch, multi_label):
    labels = LabelSpace(LABELS.names, multi_label=multi_label)
    save_folder(tmp_path / "run", checkpoint, "embedding", labels)
    path = tmp_path / "run" / "classification.json"
    run = json.loads(path.read_text())
    run["temperature"] = [0.5, 2.0, 3.0] if multi_label else 2.5
    run["abstention"] = {"target_error": 0.02, "thresholds": [0.5] * (3 if multi_label else 1)}
    run["conformal"] = {"lac": [[0.5]] * 3, "aps": [[0.5]] * 3}
    path.write_text(json.dumps(run))
    expected = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS)
    raw = TextClassifier.from_pretrained(tmp_path / "run", calibrated=False).predict_proba(TEXTS)
    assert np.abs(expected - raw).max() > 0.01
    export(monkeypatch, tmp_path / "run", tmp_path / "out", "--fold_temperature", "true")
    found = TextClassifier.from_pretrained(tmp_path / "out", calibrated=False).predict_proba(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(TextClassifier.from_pretrained(tmp_path / "out").predict_proba(TEXTS), found, atol=1e-6)
    saved = json.loads((tmp_path / "out" / "classification.json").read_text())
    assert saved["abstention"] == run["abstention"]  # of the calibrated probabilities, which are the same
    assert "conformal" not in saved  # of the uncalibrated ones, which are gone


@pytest.mark.parametrize(
    ("temperature", "fold"), [(None, False), (0.4, False), ((0.5, 2.0, 3.0), False), ((0.5, 2.0, 3.0), True)]
)
def test_thresholds_are_those_of_the_checkpoint(checkpoint, tmp_path, monkeypatch, capsys, fold, temperature):
    """Whoever reads `config.json` alone decides as the run does, whether its temperatures are folded or not."""
    save_folder(tmp_path / "run", checkpoint, "embedding", LabelSpace(LABELS.names, multi_label=True))
    run = replace(Run.read(tmp_path / "run"), calibration=Calibration(temperature))
    run.write(tmp_path / "run")
    expected = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS)
    limits = tuple(map(float, np.sort(expected, 0)[1:3].mean(0)))  # two texts above, two below
    replace(run, calibration=Calibration(temperature, limits)).write(tmp_path / "run")
    export(monkeypatch, tmp_path / "run", tmp_path / "out", "--fold_temperature", str(fold).lower())
    told = "The run's temperature is not in the checkpoint: fold_temperature puts it there." in capsys.readouterr().out
    assert told == (temperature is not None and not fold)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    given = stock_probabilities(tmp_path / "out", batch_size=4) >= np.array(config["thresholds"])
    assert given.tolist() == (expected >= limits).tolist()
    assert given.sum(0).tolist() == [2, 2, 2]
    again = TextClassifier.from_pretrained(tmp_path / "out").predict(TEXTS)
    assert again == TextClassifier.from_pretrained(tmp_path / "run").predict(TEXTS)


def test_what_is_left_to_whoever_uses_a_checkpoint(checkpoint, tmp_path, monkeypatch, capsys):
    def told(name, approach="embedding", labels=LABELS, **changes):
        save_folder(tmp_path / name, checkpoint, approach, labels)
        replace(Run.read(tmp_path / name), **changes).write(tmp_path / name)
        export(monkeypatch, tmp_path / name, tmp_path / f"{name}-out")
        return capsys.readouterr().out.splitlines()[1:]

    assert told("plain") == []
    assert "thresholds" not in json.loads((tmp_path / "plain-out" / "config.json").read_text())
    prompt = Prompt(PromptTemplate("Sort: {labels}.", max_length=90), Verbalizer(LABELS))
    lines = told("prompt", prompt=prompt, head_init="verbalizer", truncation=Truncation(90, "head_tail"))
    assert [line.split(":")[0] for line in lines[:2]] == [
        "The run reads each document in a prompt (head_init verbalizer)",
        "The run cuts documents that are longer than 90 tokens in their middle; stock tokenizers cut at one end. Whoever "
        "uses the checkpoint has to cut them.",
    ]
    does = "TextClassifier, which loads this folder too, does"
    assert lines[2:] == [f"{does}; so does hf_causal_clf.serving.RemoteClassifier(url, folder) where vLLM serves it."]
    lines = told("chunks", document_suffix=" subject:", truncation=Truncation(20, "tail", "chunks"))
    assert lines[0].startswith("The run reads ' subject:' after each document")
    assert "longer than 20 tokens in overlapping chunks" in lines[1]
    assert "asks for the answer in a prompt" in told("answers", "instruction")[0]
    lines = told("sets", "instruction", LabelSpace(LABELS.names, multi_label=True))
    assert "vLLM cannot give their probabilities" in lines[1]
    assert lines[2] == f"{does}."


def test_gpt2_and_half_precision(tokenizer, tmp_path, monkeypatch):
    source = tiny.save_checkpoint(tmp_path / "gpt2", "gpt2", tokenizer)
    save_folder(tmp_path / "run", source, "embedding")
    export(monkeypatch, tmp_path / "run", tmp_path / "out", "--dtype", "bfloat16")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype="auto")
    assert type(stock).__name__ == "GPT2ForSequenceClassification"
    assert stock.dtype == torch.bfloat16


def framed_tokenizer(frame, **settings):
    """The tiny tokenizer, pad == eos, which puts special tokens around each text."""
    tokenizer = tiny.make_tokenizer()
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in frame.split() if token != "$A"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=frame, special_tokens=ids)
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return tokenizer


def stock_probabilities(folder, batch_size):
    classify = pipeline("text-classification", model=str(folder), top_k=None, batch_size=batch_size, dtype="auto")
    found = [{each["label"]: each["score"] for each in row} for row in classify(TEXTS)]
    return np.array([[row[name] for name in LABELS.names] for row in found])


@pytest.mark.parametrize(
    ("frame", "name", "settings"),
    [
        ("$A", "llama", {}),
        ("<|im_start|> $A", "llama", {}),
        ("$A <|im_end|>", "llama", {}),
        ("<|im_start|> $A <|im_end|>", "gpt2", {"padding_side": "left"}),
        ("$A <|endoftext|>", "gpt2", {"pad_token": None}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stock_pipeline_reads_padded_batches_as_the_run_does(tmp_path, monkeypatch, frame, name, settings, dtype):
    tokenizer = framed_tokenizer(frame, **settings)
    source = tiny.save_checkpoint(tmp_path / "base", name, tokenizer)
    save_folder(tmp_path / "run", source, "embedding")
    run = TextClassifier.from_pretrained(tmp_path / "run", batch_size=1, dtype=dtype)
    export(monkeypatch, tmp_path / "run", tmp_path / "out", "--dtype", dtype)
    expected = run.predict_proba(TEXTS)
    found = stock_probabilities(tmp_path / "out", batch_size=4)
    np.testing.assert_allclose(found, expected, atol=1e-4 if dtype == "float32" else 0.1)
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert exported.pad_token_id == config["pad_token_id"]
    assert len(exported) == len(tokenizer)  # nothing was resized
    if not frame.endswith("<|im_end|>"):
        assert exported.pad_token == "<|im_end|>"  # it was right, and stays
    again = TextClassifier.from_pretrained(tmp_path / "out", dtype=dtype).predict_proba(TEXTS)
    np.testing.assert_allclose(again, expected, atol=1e-4 if dtype == "float32" else 0.1)


def test_a_document_may_end_in_an_unknown_character_where_that_is_the_padding(tmp_path, monkeypatch):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "the": 3, "cat": 4}, "<unk>")),
        unk_token="<unk>",
        pad_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )
    tokenizer.backend_tokenizer.pre_tokenizer = Whitespace()
    save_folder(tmp_path / "run", tiny.save_checkpoint(tmp_path / "base", "llama", tokenizer), "embedding")
    export(monkeypatch, tmp_path / "run", tmp_path / "out")
    texts = ["the cat é", "the é", "the cat cat the cat"]
    model = CausalLMForLastTokenClassification.from_pretrained(tmp_path / "run").eval()
    with torch.no_grad():
        rows = [model(tokenizer(text, return_tensors="pt")["input_ids"]).logits.softmax(-1) for text in texts]
    expected = torch.cat(rows).numpy()
    classify = pipeline("text-classification", model=str(tmp_path / "out"), top_k=None, batch_size=3)
    found = [{each["label"]: each["score"] for each in row} for row in classify(texts)]
    np.testing.assert_allclose([[row[name] for name in LABELS.names] for row in found], expected, atol=1e-4)


def test_where_every_special_token_is_in_use_an_export_is_refused(tmp_path, monkeypatch):
    tokenizer = framed_tokenizer("<|endoftext|> <|im_start|> $A <|im_end|>")
    save_folder(tmp_path / "run", tiny.save_checkpoint(tmp_path / "base", "llama", tokenizer), "embedding")
    with pytest.raises(
        SystemExit, match=r"ends documents with its padding token '<\|im_end\|>'.*pad_token.*train again"
    ):
        export(monkeypatch, tmp_path / "run", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


def test_what_cannot_be_exported(checkpoint, tmp_path, monkeypatch):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    path = tmp_path / "run" / "classification.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pooling": "mean"}))
    with pytest.raises(SystemExit, match="mean pooling; stock classes read the last token only"):
        export(monkeypatch, tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="is not an empty folder"):
        export(monkeypatch, tmp_path / "run", tmp_path / "run")


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_encoder_gets_its_temperature_and_onnx(tokenizer, tmp_path, monkeypatch, capsys, multi_label):
    """Stock transformers, and ONNX Runtime in 8 bits nearly, then give the calibrated probabilities."""
    labels = LabelSpace(LABELS.names, multi_label=multi_label)
    temperature = (0.5, 1.0, 3.0)[: len(labels)] if multi_label else 0.3
    save_encoder_run(tmp_path / "run", tokenizer, labels, temperature)
    expected = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS)
    onnx = ("--onnx", "true", "--int8", "true") if multi_label else ("--onnx", "true")
    export(monkeypatch, tmp_path / "run", tmp_path / "out", "--fold_temperature", "true", *onnx)
    printed = capsys.readouterr().out
    assert "model.onnx gives the run's logits within" in printed
    assert ("quantised to 8 bits" in printed) == multi_label
    classify = pipeline("text-classification", model=str(tmp_path / "out"), top_k=None)
    rows = [{each["label"]: each["score"] for each in row} for row in classify(TEXTS, truncation=True, max_length=64)]
    np.testing.assert_allclose([[row[name] for name in labels.names] for row in rows], expected, atol=1e-5)
    for backend, tolerance in (("torch", 1e-5), ("onnx", 0.1 if multi_label else 1e-5)):
        found = TextClassifier.from_pretrained(tmp_path / "out", backend=backend).predict_proba(TEXTS)
        np.testing.assert_allclose(found, expected, atol=tolerance)
    assert (np.abs(found - expected).max() > 1e-4) == multi_label
