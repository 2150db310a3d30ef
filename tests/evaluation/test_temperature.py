"""A temperature divides the model's own logits: in `TextClassifier`, in the exported model and in ONNX Runtime alike."""

import itertools
import json

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from scipy.special import expit, logsumexp, softmax
from test_classifier import LABELS, TEXTS, save_folder
from test_export import export
from test_onnx import run_onnx
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_causal_clf import LabelSpace, TextClassifier

# Logits this many times as large, and the temperature: probabilities below 1e-12 come back at a high temperature
EXTREMES = [(40.0, 8.0), (0.2, 0.05)]


def set_temperature(folder, temperature):
    path = folder / "classification.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "temperature": temperature}))


def enlarge_head(folder, factor):
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    (name,) = [name for name in weights if name.endswith("score.weight")]
    weights[name] *= factor / 3
    save_file(weights, path, {"format": "pt"})


def head_logits(folder):
    """Logits of the stock class, one document at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    with torch.no_grad():
        return np.concatenate([model(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in TEXTS])


def expected_probabilities(logits, temperature, multi_label):
    scaled = logits.astype(np.float64) / temperature
    return expit(scaled) if multi_label else softmax(scaled, axis=1)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("factor", "temperature"), EXTREMES)
def test_head_exported_and_in_onnx(checkpoint, tmp_path, monkeypatch, factor, temperature, multi_label):
    save_folder(tmp_path / "run", checkpoint, "embedding", LabelSpace(LABELS.names, multi_label=multi_label))
    enlarge_head(tmp_path / "run", factor)
    logits = head_logits(tmp_path / "run")
    temperatures = [temperature, 2 * temperature, temperature] if multi_label else temperature
    expected = expected_probabilities(logits, temperatures, multi_label)
    if factor > 1:
        assert expected_probabilities(logits, 1.0, multi_label).min() < 1e-12
    set_temperature(tmp_path / "run", temperatures)
    found = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)

    options = ("--onnx", "true") if factor > 1 else ()
    export(monkeypatch, tmp_path / "run", tmp_path / "out", "--fold_temperature", "true", *options)
    np.testing.assert_allclose(
        expected_probabilities(head_logits(tmp_path / "out"), 1.0, multi_label), expected, atol=1e-5
    )
    if options:
        logits = run_onnx(tmp_path / "out")[0]
        np.testing.assert_allclose(expected_probabilities(logits, 1.0, multi_label), expected, atol=1e-5)
    np.testing.assert_allclose(
        TextClassifier.from_pretrained(tmp_path / "out").predict_proba(TEXTS), expected, atol=1e-5
    )


def answer_log_probs(scorer, answers):
    """Log-probabilities of answers by one forward for each document and answer."""
    rows = []
    for prompt in scorer.prompt_ids(TEXTS):
        row = []
        for answer in answers:
            with torch.no_grad():
                logits = scorer.model(torch.tensor([prompt + answer]), use_cache=False).logits[0]
            log_probs = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
            row.append(log_probs.gather(1, torch.tensor(answer)[:, None]).sum().item())
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("factor", "temperature"), EXTREMES)
def test_label_scoring(tokenizer, tmp_path, factor, temperature, multi_label):
    source = tiny.save_checkpoint(tmp_path / "base", "llama", tokenizer)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["lm_head.weight"] *= factor / 8
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    labels = LabelSpace(["sport", "business", "a film"], multi_label=multi_label)
    save_folder(tmp_path / "run", source, "instruction", labels)
    temperatures = [temperature, 2 * temperature, temperature] if multi_label else temperature
    set_temperature(tmp_path / "run", temperatures)
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    scorer = classifier.scorer
    if multi_label:
        scorer.min_coverage, scorer.max_expansions = 1 - 1e-15, 99
        sets = [list(chosen) for count in range(4) for chosen in itertools.combinations(range(3), count)]
        scores = answer_log_probs(scorer, [scorer.encoder.target_ids(chosen) for chosen in sets])
        has = np.array([[label in chosen for label in range(3)] for chosen in sets])
        logits = np.stack(
            [logsumexp(scores[:, has[:, n]], axis=1) - logsumexp(scores[:, ~has[:, n]], axis=1) for n in range(3)],
            axis=1,
        )
    else:
        logits = answer_log_probs(scorer, scorer.answer_ids)
    if factor > 1:
        assert expected_probabilities(logits, 1.0, multi_label).min() < 1e-12
    expected = expected_probabilities(logits, temperatures, multi_label)
    np.testing.assert_allclose(classifier.predict_proba(TEXTS), expected, atol=1e-5)
