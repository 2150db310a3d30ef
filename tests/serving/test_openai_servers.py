"""`RemoteClassifier` in front of vLLM and servers of the OpenAI form: it says what `TextClassifier` says of the run."""

import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the server needs the extra: pip install 'hf_causal_clf[serve]'")

from fake_vllm import FakeVllm, logits_of, refusal, status
from starlette.responses import JSONResponse
from test_classifier import LABELS, TEXTS, save_folder
from test_export import save_encoder_run

from hf_causal_clf import LabelSpace, PromptTemplate, TextClassifier, Verbalizer
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.evaluation.selective import Abstention
from hf_causal_clf.runs.run import Prompt, Run, Truncation
from hf_causal_clf.serving import RemoteClassifier, dialects
from hf_causal_clf.serving.remote import ServerLost, TextsRefused

LONG = "the cat sat on the football match while shares fell " * 6
DOCUMENTS = [*TEXTS, LONG, "<|im_end|> is no control token in a document"]
ANSWERS = ["cat", "cat on a mat", "football match"]  # the first is the beginning of the second


def copied(folder, tmp_path, **changes):
    """A copy of a run that says other things of itself."""
    path = shutil.copytree(folder, tmp_path / "run")
    replace(Run.read(path), **changes).write(path)
    return path


@pytest.fixture(scope="module")
def heads(checkpoint, tmp_path_factory):
    """A single-label and a multi-label run with a head, and what a server computes from their token ids."""
    found = {}
    for multi_label in (False, True):
        folder = tmp_path_factory.mktemp("head")
        save_folder(folder, checkpoint, "embedding", LabelSpace(LABELS.names, multi_label=multi_label))
        found[multi_label] = folder, logits_of(TextClassifier.from_pretrained(folder).scorer.model)
    return found


@pytest.fixture(scope="module")
def language(checkpoint, tmp_path_factory):
    """An instruction-based run, and what a server computes from its token ids."""
    folder = tmp_path_factory.mktemp("language")
    save_folder(folder, checkpoint, "instruction")
    return folder, logits_of(TextClassifier.from_pretrained(folder).scorer.model)


def check_equal(remote, folder, documents=DOCUMENTS):
    classifier = TextClassifier.from_pretrained(folder)
    np.testing.assert_allclose(remote.predict_proba(documents), classifier.predict_proba(documents), atol=2e-5)
    assert remote.predict(documents) == classifier.predict(documents)
    assert remote.labels == classifier.labels


READINGS = {
    "cut in the middle, with a text after it": {
        "truncation": Truncation(30, "head_tail"),
        "document_suffix": "\n\nTopic:",
        "calibration": Calibration(0.4),
    },
    "in chunks": {"truncation": Truncation(30, "tail", "chunks"), "calibration": Calibration(2.5)},
    "in a prompt": {
        "truncation": Truncation(80),
        "prompt": Prompt(PromptTemplate(use_chat_template=True, max_length=80), Verbalizer(LABELS)),
        "head_init": "verbalizer",
    },
}


@pytest.mark.parametrize("reading", READINGS)
def test_a_head(heads, tmp_path, reading):
    folder, model = heads[False]
    run = copied(folder, tmp_path, **READINGS[reading])
    with FakeVllm({"run": model}) as server:
        remote = RemoteClassifier(server.url, run, batch_size=2)
        check_equal(remote, run)
        assert remote.predict(TEXTS[0]) == TextClassifier.from_pretrained(run).predict(TEXTS[0])
        assert remote.predict_proba([]).shape == (0, 3)


def test_a_multi_label_head_with_temperatures_and_thresholds(heads, tmp_path):
    folder, model = heads[True]
    calibration = Calibration((0.5, 2.0, 3.0))
    run = copied(folder, tmp_path, calibration=calibration)
    limits = tuple(map(float, np.median(TextClassifier.from_pretrained(run).predict_proba(DOCUMENTS), 0) + 1e-3))
    changes = {"calibration": replace(calibration, thresholds=limits), "abstention": Abstention(0.1, (0.4, 0.6, 0.5))}
    replace(Run.read(run), **changes).write(run)
    with FakeVllm({"run": model}) as server:
        remote = RemoteClassifier(f"{server.url}/v1", run)
        check_equal(remote, run)
        found = remote.predict(DOCUMENTS, abstain=True)
    assert found == TextClassifier.from_pretrained(run).predict(DOCUMENTS, abstain=True)


def test_an_encoder(tokenizer, tmp_path):
    save_encoder_run(tmp_path, tokenizer, LABELS, 0.3)
    with FakeVllm({"run": logits_of(TextClassifier.from_pretrained(tmp_path).scorer.model)}) as server:
        check_equal(RemoteClassifier(server.url, tmp_path), tmp_path)


@pytest.mark.parametrize("owner", ["vllm", "another"])
@pytest.mark.parametrize("long_documents", ["truncate", "chunks"])
def test_answers_of_one_and_of_several_tokens(language, tmp_path, monkeypatch, owner, long_documents):
    folder, model = language
    prompt = Prompt(PromptTemplate(max_length=90), Verbalizer(LABELS, dict(zip(LABELS.names, ANSWERS, strict=True))))
    changes = {"prompt": prompt, "truncation": Truncation(90, "tail", long_documents), "calibration": Calibration(3.0)}
    run = copied(folder, tmp_path, **changes)
    documents = [TEXTS[0], TEXTS[1] * 2]
    with FakeVllm({"run": model}, owner=owner) as server:
        check_equal(RemoteClassifier(server.url, run), run, documents)
        if owner == "vllm":
            monkeypatch.setattr(dialects, "_MOST_TOKENS", 2)  # as with many labels
            server.asked.clear()
            check_equal(RemoteClassifier(server.url, run), run, documents)
            assert max(len(body["logprob_token_ids"]) for body in server.asked) == 2


def test_a_server_with_adapters_is_asked_for_one_of_them(heads, tmp_path):
    folder, model = heads[False]
    with FakeVllm({"base": lambda ids: model(ids) + 1000 * ids[0], "one": model}, max_model_len=64) as server:
        with pytest.raises(ValueError, match=r"model must be one of \['base', 'one'\], which http.* got None"):
            RemoteClassifier(server.url, folder)
        with pytest.raises(ValueError, match=r"model must be one of .* got 'two'"):
            RemoteClassifier(server.url, folder, model="two")
        remote = RemoteClassifier(server.url, folder, model="one")
        check_equal(remote, folder, TEXTS)
        with pytest.raises(TextsRefused, match=r"it needs 1.. tokens and the server takes 64.* --max-model-len"):
            remote.predict(LONG * 2)  # the limit is the base's


def test_a_text_that_is_too_long_is_named_and_the_others_are_kept(heads):
    folder, model = heads[False]
    with FakeVllm({"run": model}, max_model_len=40) as server:
        remote = RemoteClassifier(server.url, folder, batch_size=2, concurrency=1)
        with pytest.raises(TextsRefused, match=r"is not asked about text 6, counted from 0: it needs") as told:
            remote.predict_proba([" ", *TEXTS, "cat", LONG, "a mat"], empty="keep")
        expected = TextClassifier.from_pretrained(folder).predict_proba(TEXTS)
    np.testing.assert_allclose(told.value.probabilities[1:5], expected, atol=2e-5)
    assert np.isnan(told.value.probabilities[[0, 5, 6, 7]]).all()


def test_a_key_is_sent(heads):
    folder, model = heads[False]
    with FakeVllm({"run": model}, key="secret") as server:
        with pytest.raises(OSError, match=r"GET /v1/models with HTTP status 401. Check address and api_key"):
            RemoteClassifier(server.url, folder)
        remote = RemoteClassifier(server.url, folder, api_key="secret")
    assert "secret" not in repr(remote)


def test_a_busy_server_is_asked_again(heads):
    folder, model = heads[False]
    with FakeVllm({"run": model}) as server:
        server.broken += [status(503), status(429), status(502)]
        check_equal(RemoteClassifier(server.url, folder, batch_size=2), folder)


@pytest.mark.parametrize(
    ("broken", "error", "said"),
    [
        (refusal(), TextsRefused, "refuses texts 2 to 3 of those given, counted from 0: This model's maximum context"),
        (refusal(404, "The model `run` does not exist."), ServerLost, "The model `run` does not exist"),
        (refusal(500, "EngineCore died"), ServerLost, "EngineCore died"),
        (status(500), ServerLost, "answers with HTTP status 500"),
        (lambda: JSONResponse({"data": [{"index": 0, "probs": [1.0]}] * 2}), ServerLost, "1 classes for 3 labels"),
        (lambda: JSONResponse({"data": []}), ServerLost, "answers in another form"),
        (lambda: JSONResponse({"data": [{"index": 0, "embedding": []}]}), ServerLost, "form .KeyError: 'probs'"),
        (lambda: JSONResponse("?"), ServerLost, "answers in another form"),
    ],
)
def test_what_was_answered_is_in_the_error(heads, broken, error, said):
    folder, model = heads[False]
    with FakeVllm({"run": model}) as server:
        remote = RemoteClassifier(server.url, folder, batch_size=2, concurrency=1)
        expected = remote.predict_proba(TEXTS)
        server.broken += [lambda: JSONResponse(server.classify(model, server.asked[-1])), broken]
        with pytest.raises(error, match=said) as told:
            remote.predict_proba(TEXTS)
    np.testing.assert_allclose(told.value.probabilities[:2], expected[:2], atol=1e-6)
    assert np.isnan(told.value.probabilities[2:]).all()


def test_a_server_that_dies_loses_no_answer(heads):
    folder, model = heads[False]

    def dying(ids):
        if len(server.asked) > 3:
            server.die()
            time.sleep(0.2)  # it looks at its flag ten times a second
        return model(ids)

    server = FakeVllm({"run": dying})
    with server:
        remote = RemoteClassifier(server.url, folder, batch_size=1, concurrency=1, retry_for=0.3)
        with pytest.raises(ServerLost, match=r"has not answered for 0\.3 s") as told:
            remote.predict_proba([*TEXTS, *TEXTS])
    expected = TextClassifier.from_pretrained(folder).predict_proba(TEXTS)
    done = ~np.isnan(told.value.probabilities).any(1)
    assert 3 <= done.sum() < 8
    np.testing.assert_allclose(told.value.probabilities[:3], expected[:3], atol=2e-5)


def test_a_server_without_what_is_asked_for(language):
    """An OpenAI-like server that does not echo the prompt, and an older vLLM."""
    folder, model = language
    for owner in ("another", "vllm"):
        with FakeVllm({"run": model}, owner=owner) as server:
            server.broken += [lambda: JSONResponse({"choices": [{"index": 0, "text": "a", "logprobs": None}] * 40})]
            with pytest.raises(ServerLost, match=r"/v1/completions answers in another form"):
                RemoteClassifier(server.url, folder).predict("the cat")


def test_what_no_other_server_can_say(heads, checkpoint, tmp_path):
    folder, _ = heads[False]
    with pytest.raises(ValueError, match=r"is a .*TF-IDF.* no other server knows\. Start hf-causal-clf serve"):
        RemoteClassifier("http://127.0.0.1:1", copied(folder, tmp_path, approach="tfidf"))
    replace(Run.read(folder), pooling="mean").write(tmp_path / "run")
    with pytest.raises(ValueError, match=r"has mean pooling, and other servers read the last token\. Start hf-causal"):
        RemoteClassifier("http://127.0.0.1:1", tmp_path / "run")
    save_folder(tmp_path / "sets", checkpoint, "instruction", LabelSpace(LABELS.names, multi_label=True))
    with pytest.raises(ValueError, match=r"is a multi-label instruction-based run: .* Start hf-causal-clf serve"):
        RemoteClassifier("http://127.0.0.1:1", tmp_path / "sets")
    with pytest.raises(ServerLost, match="has not answered"):
        RemoteClassifier("http://127.0.0.1:1", folder, retry_for=0.1)
    with FakeVllm({}) as server, pytest.raises(OSError, match=r"is no server of hf-causal-clf serve.*give the run"):
        RemoteClassifier(server.url)
