import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace, PromptTemplate, TextClassifier, Verbalizer
from hf_causal_clf.backbone.attention import PLAIN_ATTENTION
from hf_causal_clf.backbone.settings import base_model_of, lora_target_modules
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.finishing import describe_run
from hf_causal_clf.instruction.arguments import InstructionModelArguments
from hf_causal_clf.runs.run import Run
from hf_causal_clf.task.documents import DocumentEncoder

LABELS = LabelSpace(["a", "b", "c"])
TEXTS = ["the cat", "the football match and the shares in the bank " * 3, "cat", "a mat and a film about phones"]


def save_folder(folder, checkpoint, approach, labels=LABELS, quantized=False):
    """A run folder with a random adapter, without training."""
    torch.manual_seed(0)
    kind = EmbeddingModelArguments if approach == "embedding" else InstructionModelArguments
    arguments = kind(model_name_or_path=checkpoint, dtype="float32", load_in_4bit=quantized)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if approach == "embedding":
        model = CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=labels)
        encoder = DocumentEncoder(tokenizer, 160)
    else:
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        encoder = PromptTemplate(max_length=160).bind(tokenizer, Verbalizer(labels))
    targets = lora_target_modules(model.base_model)
    config = LoraConfig(r=4, target_modules=targets, task_type=arguments.lora_task_type, init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pooling = "last" if approach == "embedding" else None
    describe_run(encoder, base_model_of(arguments), labels, pooling=pooling).write(folder)
    return model


@pytest.fixture(params=["embedding", "instruction"])
def run(request, checkpoint, tmp_path):
    save_folder(tmp_path / "run", checkpoint, request.param)
    return tmp_path / "run"


def test_results_are_in_input_order_whatever_the_batch_size(run):
    classifier = TextClassifier.from_pretrained(run, batch_size=3)
    together = classifier.predict_proba(TEXTS)
    assert together.dtype == np.float32
    assert together.shape == (4, 3)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-5)
    alone = np.concatenate([classifier.predict_proba([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(classifier.predict_proba(TEXTS[::-1])[::-1], together, atol=1e-5)
    assert classifier.predict(TEXTS) == [LABELS.names[index] for index in together.argmax(1)]
    assert classifier.predict_proba([]).shape == (0, 3)
    kept = classifier.predict_proba([TEXTS[0], " ", *TEXTS[1:], None], empty="keep")
    np.testing.assert_allclose(kept[[0, 2, 3, 4]], together, atol=1e-5)
    assert np.isnan(kept[[1, 5]]).all()
    assert np.isnan(classifier.predict_proba([""], empty="keep")).all()


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_adapter_is_applied(checkpoint, tmp_path, approach):
    model = save_folder(tmp_path / "run", checkpoint, approach)
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    model.eval()
    if approach == "embedding":
        ids = AutoTokenizer.from_pretrained(checkpoint)(TEXTS[0], return_tensors="pt")["input_ids"]
        expected = model(ids).logits.softmax(-1)[0].detach().numpy()
        np.testing.assert_allclose(classifier.predict_proba(TEXTS[:1])[0], expected, atol=1e-5)
    else:
        from hf_causal_clf import LabelScorer

        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        template = PromptTemplate(max_length=160)
        scorer = LabelScorer(model, tokenizer, template=template, verbalizer=Verbalizer(LABELS))
        np.testing.assert_allclose(classifier.predict_proba(TEXTS), scorer.probabilities(TEXTS), atol=1e-5)


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_multi_label_predictions_are_lists(checkpoint, tmp_path, approach):
    labels = LabelSpace(["a", "b", "c"], multi_label=True)
    save_folder(tmp_path / "run", checkpoint, approach, labels)
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    probabilities = classifier.predict_proba(TEXTS)
    expected = [[name for name, p in zip(labels.names, row, strict=True) if p >= 0.5] for row in probabilities]
    assert classifier.predict(TEXTS) == expected


def test_quantisation_of_training_is_taken_up_and_can_be_turned_off(checkpoint, tmp_path):
    save_folder(tmp_path / "run", checkpoint, "embedding", quantized=True)
    quantized = TextClassifier.from_pretrained(tmp_path / "run")
    assert quantized.scorer.model.is_loaded_in_4bit
    plain = TextClassifier.from_pretrained(tmp_path / "run", quantization_config=None)
    assert not getattr(plain.scorer.model, "is_loaded_in_4bit", False)
    assert np.abs(quantized.predict_proba(TEXTS) - plain.predict_proba(TEXTS)).max() > 1e-4


def test_generate(checkpoint, tmp_path):
    save_folder(tmp_path / "run", checkpoint, "instruction")
    answers = TextClassifier.from_pretrained(tmp_path / "run").generate(TEXTS)
    assert len(answers) == len(TEXTS)
    assert all((answer.error is None) == bool(answer.labels) for answer in answers)
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    assert classifier.generate(TEXTS[1]) == classifier.generate(iter(TEXTS[1:2]))[0] == answers[1]
    with pytest.raises(ValueError, match="It has no order"):
        classifier.generate(set(TEXTS))
    save_folder(tmp_path / "head", checkpoint, "embedding")
    with pytest.raises(ValueError, match="Only the instruction-based approach generates"):
        TextClassifier.from_pretrained(tmp_path / "head").generate(TEXTS)


def test_generation_is_that_of_the_model(checkpoint, tmp_path):
    """Batched and padded generation gives each prompt's own greedy answer."""
    model = save_folder(tmp_path / "run", checkpoint, "instruction")
    classifier = TextClassifier.from_pretrained(tmp_path / "run", batch_size=4)
    encoder = classifier.scorer.encoder
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    for text, answer in zip(TEXTS, classifier.generate(TEXTS), strict=True):
        ids = encoder.prompt_ids(text)
        for _ in range(encoder.longest_answer):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        new = ids[-encoder.longest_answer :]
        if encoder.end_id in new:
            assert answer == encoder.verbalizer.parse(tokenizer.decode(new[: new.index(encoder.end_id)]))
        else:
            assert answer.error == f"no end after {encoder.longest_answer} tokens"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"text": ["a"]}, r"of type dict. It has \['text'\]: give the one that holds the texts"),
        (["a", "", None], r"2 of 3 texts are empty; the first are at \[1, 2\]"),
    ],
)
def test_bad_texts(run, texts, message):
    with pytest.raises(ValueError, match=message):
        TextClassifier.from_pretrained(run).predict(texts)


def test_folder_that_is_no_run(checkpoint):
    with pytest.raises(FileNotFoundError, match=r"has no classification\.json"):
        TextClassifier.from_pretrained(checkpoint)


def test_damaged_runs(run, tmp_path):
    def damaged(name, change):
        shutil.copytree(run, tmp_path / name)
        change(tmp_path / name)
        return tmp_path / name

    def schema(folder):
        path = folder / "classification.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))

    with pytest.raises(ValueError, match="has schema version 99, but this version of hf_causal_clf reads 1"):
        TextClassifier.from_pretrained(damaged("schema", schema))
    with pytest.raises(ValueError, match="is not valid JSON"):
        TextClassifier.from_pretrained(damaged("json", lambda folder: (folder / "classification.json").write_text("{")))

    def half(folder):
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(ValueError, match=r"adapter_model\.safetensors.*is damaged"):
        TextClassifier.from_pretrained(damaged("half", half))

    def missing(folder):
        path = folder / "adapter_model.safetensors"
        weights = load_file(path)
        weights.pop(next(name for name in weights if "layers.1" in name))
        save_file(weights, path)

    with pytest.raises(ValueError, match=r"adapter_model\.safetensors.*does not fit"):
        TextClassifier.from_pretrained(damaged("missing", missing))


def test_model_of_another_label_space(checkpoint, tmp_path):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    with pytest.raises(ValueError, match="differ from the `label_space` that was given"):
        CausalLMForLastTokenClassification.from_pretrained(tmp_path / "run", label_space=LabelSpace(["x", "y"]))


@pytest.mark.parametrize("asked", [None, "eager"])
def test_fastest_attention_is_taken_unless_another_is_asked_for(run, asked):
    model = TextClassifier.from_pretrained(run, attn_implementation=asked).scorer.model
    assert model.config.get_text_config()._attn_implementation == (asked or PLAIN_ATTENTION)


def test_a_classifier_says_what_it_is(checkpoint, tmp_path):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    assert classifier.labels == ["a", "b", "c"]
    assert repr(classifier) == (
        f"TextClassifier from {str(tmp_path / 'run')!r}, embedding-based, single-label\n"
        "  3 labels: a, b, c\n"
        "  calibration: none\n"
        f"  base model: {checkpoint}"
    )
    many = LabelSpace([f"label {index}" for index in range(15)], multi_label=True)
    calibration = Calibration((0.5,) * 14 + (2.0,), (0.25,) * 14 + (0.75,))
    assert repr(TextClassifier(classifier.scorer, many, calibration)) == (
        "TextClassifier, embedding-based, multi-label\n"
        f"  15 labels: {', '.join(many.names[:12])} and 3 more\n"
        "  calibration: temperatures 0.5 to 2, thresholds 0.25 to 0.75"
    )
    assert "calibration: temperature 0.5" in repr(TextClassifier(classifier.scorer, LABELS, Calibration(0.5)))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_target_prior_corrects_calibrated_probabilities(approach, multi_label, checkpoint, tmp_path):
    labels = LabelSpace(["a", "b", "c"], multi_label=multi_label)
    save_folder(tmp_path / "run", checkpoint, approach, labels)
    calibration = Calibration((2.0, 0.5, 1.5), (0.3, 0.6, 0.5)) if multi_label else Calibration(2.0)
    facts = {"label_counts": {"train": [10, 30, 60]}, "documents": {"train": 100}}
    replace(Run.read(tmp_path / "run"), calibration=calibration, training=facts).write(tmp_path / "run")
    plain = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS)
    trained = {"a": 0.1, "b": 0.3, "c": 0.6}
    same = TextClassifier.from_pretrained(tmp_path / "run", target_prior=trained)
    np.testing.assert_allclose(same.predict_proba(TEXTS), plain, rtol=1e-5)
    classifier = TextClassifier.from_pretrained(tmp_path / "run", target_prior={"a": 0.6, "b": 0.3, "c": 0.1})
    found = classifier.predict_proba([*TEXTS, ""], empty="keep")
    if multi_label:
        odds = plain / (1 - plain) * np.array([13.5, 1, 1 / 13.5])
        expected = odds / (1 + odds)
    else:
        expected = plain * [6, 1, 1 / 6]
        expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(found[:-1], expected, rtol=1e-4)
    assert np.isnan(found[-1]).all()
    decisions = expected >= calibration.thresholds if multi_label else expected.argmax(1)
    assert classifier.predict(TEXTS) == [labels.decode(each) for each in decisions]
    assert "other label frequencies" in repr(classifier)
    assert "other label frequencies" not in repr(TextClassifier.from_pretrained(tmp_path / "run"))


def test_a_wrong_target_prior_is_told_before_anything_is_loaded(run, monkeypatch):
    monkeypatch.setattr("hf_causal_clf.scorers.load_tokenizer", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="needs the label frequencies of training"):
        TextClassifier.from_pretrained(run, target_prior="uniform")
