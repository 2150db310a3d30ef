"""Prediction on documents in chunks, whichever approach was trained, and what a run says of them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import tiny
import torch
from conftest import run_as_main, write_jsonl
from test_classifier import save_folder

from hf_causal_clf import LabelScorer, LabelSpace, PromptTemplate, TextClassifier, Verbalizer
from hf_causal_clf.runs.run import Run

ROOT = Path(__file__).parents[1]
APPROACHES = ["embedding", "instruction"]
ROOM = {"embedding": 40, "instruction": 90}  # the prompt takes 60 of them
SENTENCES = [
    "the cat sat on a mat. ",
    "shares in the bank fell! ",
    "who won the football match? ",
    "politics as usual. ",
]
SHORT = ["the cat", "phones won the prize", "cat"]
LONG = [
    "".join(SENTENCES[index % 4] for index in range(start, start + count)) for start, count in ((0, 9), (1, 8), (2, 16))
]


def with_truncation(folder, destination, **truncation):
    shutil.copytree(folder, destination)
    path = destination / "classification.json"
    run = json.loads(path.read_text())
    run["truncation"] |= truncation
    path.write_text(json.dumps(run))
    return destination


@pytest.fixture(scope="module", params=APPROACHES)
def runs(request, checkpoint, tmp_path_factory):
    """The same run, cutting documents and reading them in chunks."""
    folder = tmp_path_factory.mktemp(request.param)
    save_folder(folder / "whole", checkpoint, request.param)
    limit = {"max_length": ROOM[request.param]}
    return {
        way: with_truncation(folder / "whole", folder / way, **limit, long_documents=way)
        for way in ("truncate", "chunks")
    }


def load(folder, **kwargs):
    return TextClassifier.from_pretrained(folder, **kwargs)


def alone(classifier, ids):
    """Logits of one sequence of token ids, nothing batched and nothing padded."""
    scorer = classifier.scorer
    with torch.no_grad():
        if classifier.approach == "embedding":
            return scorer.model(torch.tensor([ids])).logits[0].numpy()
        scores = []
        for answer in scorer.answer_ids:
            log_probs = scorer.model(torch.tensor([ids + answer]), use_cache=False).logits[0].float().log_softmax(-1)
            scores.append(sum(log_probs[len(ids) - 1 + index, token].item() for index, token in enumerate(answer)))
    return np.array(scores)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_document_has_the_mean_of_its_chunks_logits(runs, batch_size):
    classifier = load(runs["chunks"], batch_size=batch_size)
    texts = [LONG[0], SHORT[0], *LONG[1:], SHORT[1]]
    chunks = [classifier.scorer.encoder.chunks(text) for text in texts]
    assert [len(each) > 1 for each in chunks] == [True, False, True, True, False]
    expected = np.stack([np.mean([alone(classifier, ids) for ids in each], axis=0) for each in chunks])
    found = classifier.scorer.logits(texts)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    cut = load(runs["truncate"]).scorer.logits(texts)
    assert np.abs(cut - found)[[0, 2, 3]].max(axis=1).min() > 0.01


def test_documents_that_fit_have_bit_for_bit_the_results_of_cutting(runs):
    chunked, cut = (load(runs[way]).predict_proba(SHORT) for way in ("chunks", "truncate"))
    assert np.array_equal(chunked, cut)


def test_bfloat16_is_close_to_float32(runs):
    exact, rounded = (load(runs["chunks"], dtype=dtype).predict_proba(LONG) for dtype in ("float32", "bfloat16"))
    np.testing.assert_allclose(rounded, exact, atol=0.1)


def test_a_document_of_200_000_tokens_takes_the_memory_of_a_batch(runs, tmp_path):
    classifier = load(with_truncation(runs["chunks"], tmp_path / "run", max_length=160), batch_size=64)
    text = "".join(SENTENCES) * 7200
    assert len(classifier.scorer.encoder.whole_ids(text)) > 200_000
    shapes = []
    longest = classifier.run.truncation.max_length
    backbone = classifier.scorer.model.base_model
    backbone.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = classifier.predict_proba([SHORT[0], text])
    assert np.isfinite(found).all()
    assert sum(rows for rows, _ in shapes) > 200_000 / longest
    assert max(rows for rows, _ in shapes) <= 64
    assert max(columns for _, columns in shapes) <= longest


def test_chunks_are_not_looked_at_where_there_is_no_limit(runs, tmp_path):
    folder = with_truncation(runs["chunks"], tmp_path / "run", max_length=None)
    cut = with_truncation(runs["truncate"], tmp_path / "cut", max_length=None)
    assert np.array_equal(load(folder).predict_proba(LONG), load(cut).predict_proba(LONG))


def test_predict_reads_chunks_as_the_classifier_does(runs, tmp_path, monkeypatch, capsys):
    file = write_jsonl(tmp_path / "documents.jsonl", [{"text": text} for text in [*SHORT, *LONG]])
    arguments = {"model_name_or_path": runs["chunks"], "test_file": file, "output_dir": tmp_path / "out"}
    options = [str(part) for name, value in arguments.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["predict.py", *options, "--shard_size", "4"])
    run_as_main(ROOT / "recipes" / "predict.py")
    found = pandas.DataFrame(pandas.read_parquet(tmp_path / "out")["probabilities"].tolist()).to_numpy()
    np.testing.assert_allclose(found, load(runs["chunks"]).predict_proba([*SHORT, *LONG]), atol=1e-5)


def scorer(tokenizer, names, long_documents="chunks", multi_label=False, **kwargs):
    verbalizer = Verbalizer(LabelSpace(names, multi_label=multi_label))
    template = PromptTemplate("Sort.", max_length=60, answer_tokens=20, long_documents=long_documents)
    model = tiny.make_causal_lm("llama", len(tokenizer))
    return LabelScorer(model, tokenizer, template=template, verbalizer=verbalizer, **kwargs)


def test_in_a_large_label_space_no_answer_of_a_long_document_is_left_out(tokenizer):
    words = ["cat", "mat", "sat", "film", "bank", "match", "sport"]
    names = [f"{one} {other} {third}" for one in words for other in words for third in words[:3]]
    pruned = scorer(tokenizer, names, max_error=0.05)
    whole = scorer(tokenizer, names, max_error=0)
    texts = [*SHORT, *LONG]
    found, expected = pruned.logits(texts), whole.logits(texts)
    short, long = slice(0, 3), slice(3, None)
    np.testing.assert_allclose(found[long], expected[long], atol=1e-4)
    assert np.abs(found[short] - expected[short]).max() > 1  # they are what they are without chunks
    assert np.array_equal(found[short], scorer(tokenizer, names, "truncate", max_error=0.05).logits(SHORT))


def test_multi_label_documents_have_the_mean_of_log_odds_and_the_largest_error(tokenizer):
    chunked = scorer(tokenizer, ["sport", "tech", "bank", "film"], multi_label=True, max_expansions=2)
    encoder = chunked.encoder
    texts = [LONG[0], SHORT[0]]
    parts = [[encoder.tokenizer.decode(ids) for ids in encoder.document_chunks(text)] for text in texts]
    assert [len(each) for each in parts][1] == 1 < len(parts[0])
    each = [chunked._score(chunked.encode(part), chunked._scoring) for part in parts]
    logits, errors = chunked._score(chunked.encode(texts), chunked._scoring)
    np.testing.assert_allclose(logits, [found.mean(axis=0) for found, _ in each], atol=1e-3)
    np.testing.assert_allclose(errors, [found.max() for _, found in each], atol=1e-4)


@pytest.mark.parametrize(
    ("truncation", "said"),
    [
        ({"long_documents": "chunks"}, "averages their logits; the checkpoint sees one chunk"),
        ({"side": "head_tail"}, "longer than 90 tokens in their middle; stock tokenizers cut at one end"),
        ({"side": "both"}, "at both ends"),
        ({"side": "head"}, None),
        ({"long_documents": "chunks", "max_length": None}, None),
    ],
)
def test_export_says_what_it_leaves_to_the_caller(truncation, said, checkpoint, tmp_path, monkeypatch, capsys):
    save_folder(tmp_path / "whole", checkpoint, "embedding")
    folder = with_truncation(tmp_path / "whole", tmp_path / "run", **{"max_length": 90, **truncation})
    options = ["--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["export.py", *options])
    run_as_main(ROOT / "recipes" / "export.py")
    printed = capsys.readouterr().out
    assert (said in printed) if said else ("has to" not in printed)
    assert Run.read(tmp_path / "out").truncation == Run.read(folder).truncation
    np.testing.assert_allclose(load(tmp_path / "out").predict_proba(LONG), load(folder).predict_proba(LONG), atol=1e-4)
