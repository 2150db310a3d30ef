"""Where the head reads: candidates, how one is chosen, and that a run reads there wherever it is loaded."""

import numpy as np
import pytest
import torch
from test_recipes import arguments
from test_recipes import run as run_recipe
from transformers import AutoTokenizer

from hf_causal_clf import TextClassifier
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.embedding import reading
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, HeadArguments
from hf_causal_clf.embedding.reading import Reading, choose_reading, out_of_fold_nll, readings
from hf_causal_clf.runs.run import Run
from hf_causal_clf.task.documents import SUFFIXES, DocumentEncoder


def test_candidates():
    assert readings("auto", None) == [Reading("last"), Reading("mean")]
    assert readings("auto", "auto") == [Reading("last"), Reading("mean"), *(Reading("last", each) for each in SUFFIXES)]
    assert readings("mean", "auto") == [Reading("mean")]
    assert readings("last", "x:") == [Reading("last", "x:")]
    assert readings("auto", "x:") == [Reading("last", "x:"), Reading("mean", "x:")]


def test_a_suffix_is_never_cut_and_documents_cannot_write_it(tokenizer):
    suffix = "\n\nTopic:"
    plain, with_suffix = DocumentEncoder(tokenizer, None), DocumentEncoder(tokenizer, None, suffix=suffix)
    document = "goals and matches " * 30
    added = with_suffix.encode(document)[len(plain.encode(document)) :]
    assert tokenizer.decode(added).strip() == suffix.strip()
    for side in ("tail", "head", "both"):
        short = DocumentEncoder(tokenizer, 24, side, suffix=suffix)
        ids = short.encode(document)
        assert len(ids) == 24
        assert ids[-len(added) :] == added
        assert short.document_budget == 24 - len(added)
    with pytest.raises(ValueError, match="special tokens and document_suffix alone take"):
        DocumentEncoder(tokenizer, len(added), suffix=suffix)


def test_out_of_fold_nll_tells_features_that_know_the_label_from_noise():
    random = np.random.default_rng(0)
    gold = np.arange(60) % 3
    noise = random.normal(size=(60, 8))
    known = noise + 3 * np.eye(8)[gold]
    assert out_of_fold_nll(known, gold, seed=0) < 0.4 < 1.0 < out_of_fold_nll(noise, gold, seed=0) < 1.6
    both = np.eye(3, dtype=np.int64)[gold]
    assert out_of_fold_nll(known, both, seed=0) < 0.3 < out_of_fold_nll(noise, both, seed=0)


@pytest.mark.parametrize("gold", [[0] * 39 + [1], [0] * 30 + list(range(1, 11)), list(range(40))])
def test_rare_labels_are_no_obstacle(gold):
    features = np.random.default_rng(0).normal(size=(40, 4))
    assert np.isfinite(out_of_fold_nll(features, np.array(gold), seed=0))


@pytest.fixture
def choose(checkpoint, files, monkeypatch):
    """Choose with features in place of a model's: those of `knows` know the label."""

    def run(candidates, knows, **limits):
        data = load_data(DataArguments(**files))
        gold, random = data.gold("train"), np.random.default_rng(0)

        def features(backbone, encoder, texts, *, batch_size):
            noise = random.normal(size=(len(texts), 6)).astype(np.float32)
            known = noise + 4 * np.eye(6, dtype=np.float32)[gold]
            return {
                pooling: known if Reading(pooling, encoder.suffix) == knows else noise for pooling in ("last", "mean")
            }

        monkeypatch.setattr(reading, "pooled_features", features)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        model_arguments = EmbeddingModelArguments(model_name_or_path=checkpoint)
        limits = {"max_length": 64, "truncation": "tail", **limits}
        return choose_reading(data, tokenizer, model_arguments, candidates, **limits, batch_size=4)

    return run


@pytest.mark.parametrize("knows", readings("auto", "auto"), ids=str)
def test_the_candidate_that_knows_the_labels_is_chosen(choose, knows, capsys):
    assert choose(readings("auto", "auto"), knows) == knows
    assert f"The head reads {knows}." in " ".join(capsys.readouterr().out.split())


def test_what_is_given_is_taken_without_a_look(choose, monkeypatch):
    monkeypatch.setattr(reading, "load_backbone", lambda *args, **kwargs: pytest.fail("looked"))
    assert choose([Reading("mean", "x:")], None) == Reading("mean", "x:")


def test_a_suffix_that_leaves_no_room_is_no_candidate(choose):
    long = Reading("last", "in one word, " * 30)
    assert choose([Reading("last"), long], long) == Reading("last")
    with pytest.raises(ValueError, match="leaves no room"):
        choose([long], None)


@pytest.mark.parametrize("given", ["\\n\\nTopic:", "\n\nTopic:"])
def test_a_new_line_of_the_command_line(given):
    assert HeadArguments(document_suffix=given).suffix == "\n\nTopic:"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"document_suffix": " "}, "document_suffix must be a text, or auto, or none"),
        ({"document_suffix": "x:", "head_init": "verbalizer"}, "leave document_suffix out"),
        ({"pooling": "first"}, "pooling must be one of"),
    ],
)
def test_wrong_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        HeadArguments(**given)


def test_a_run_reads_after_its_suffix_wherever_it_is_loaded(checkpoint, files, tmp_path, monkeypatch):
    options = {"num_train_epochs": "1", "document_suffix": "\\nTopic:"}
    run_recipe("embed", arguments("embed", checkpoint, files, tmp_path / "run", **options), monkeypatch)
    run = Run.read(tmp_path / "run")
    assert (run.document_suffix, run.pooling) == ("\nTopic:", "last")
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    encoder = classifier.scorer.encoder
    assert classifier.scorer.encoder.suffix == "\nTopic:"
    text = "the match ended with a goal"
    tokenizer = encoder.tokenizer
    ids = torch.tensor([tokenizer(text)["input_ids"] + tokenizer("\nTopic:", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logits = classifier.scorer.model(input_ids=ids).logits.numpy()
    np.testing.assert_allclose(classifier.scorer.logits([text]), logits, atol=1e-5)


def test_auto_is_the_default_and_is_written_down(checkpoint, files, tmp_path, monkeypatch):
    options = {"num_train_epochs": "1", "pooling": "auto", "document_suffix": "auto"}
    run_recipe("embed", arguments("embed", checkpoint, files, tmp_path / "run", **options), monkeypatch)
    run = Run.read(tmp_path / "run")
    assert Reading(run.pooling, run.document_suffix) in readings("auto", "auto")
    assert (HeadArguments().pooling, HeadArguments().document_suffix) == ("last", "auto")
