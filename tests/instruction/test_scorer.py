import itertools

import numpy as np
import pytest
import tiny
import torch

from hf_causal_clf import LabelScorer, LabelSpace, PromptTemplate, Verbalizer
from hf_causal_clf.instruction import tree_attention
from hf_causal_clf.instruction.trie import LabelTrie

NAMES = ["politics", "politics in the middle east", "sport", "business and shares", "tech"]
MANY = [" ".join(names) for names in itertools.product(NAMES, repeat=3)]
TEXTS = [
    "the football match <|im_end|> won",
    "shares in the bank fell as markets kept busy, and the bank saw a new film about phones and computers in the east",
    "cat",
]


def naive(model, prompt, answer):
    """One forward for one document and one answer."""
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + answer]), use_cache=False).logits[0].float().log_softmax(-1)
    return sum(log_probs[len(prompt) - 1 + index, token].item() for index, token in enumerate(answer))


def make_scorer(model, tokenizer, multi_label=False, template=None, **kwargs):
    verbalizer = Verbalizer(LabelSpace(NAMES, multi_label=multi_label))
    return LabelScorer(model, tokenizer, template=template or PromptTemplate(), verbalizer=verbalizer, **kwargs)


@pytest.fixture(
    scope="module",
    params=[(name, "eager") for name in tiny.ARCHITECTURES]
    + [("llama", "sdpa"), ("gemma3", "sdpa"), ("mistral_sliding", "sdpa")],
)
def model(request, tokenizer):
    name, attention = request.param
    return tiny.make_causal_lm(name, len(tokenizer), attn_implementation=attention)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_one_pass_equals_one_forward_a_label(model, tokenizer, batch_size):
    scorer = make_scorer(model, tokenizer, batch_size=batch_size)
    scores = scorer.log_probs(TEXTS)
    expected = [[naive(model, prompt, ids) for ids in scorer.answer_ids] for prompt in scorer.prompt_ids(TEXTS)]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_one_forward_pass_is_what_it_takes(tokenizer):
    model = tiny.make_causal_lm("llama", len(tokenizer))
    scorer = make_scorer(model, tokenizer, batch_size=2)
    calls = []
    model.register_forward_hook(
        lambda module, args, kwargs, output: calls.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    scorer.log_probs(TEXTS)
    prefix, *batches = calls
    assert prefix == (1, len(scorer.encoder.prefix_ids))
    assert [shape[0] for shape in batches] == [2, 1]
    assert max(shape[1] for shape in batches) < 90  # without the prefix, which was run once


def test_probabilities_are_the_softmax_of_the_log_probs(tokenizer):
    scorer = make_scorer(tiny.make_causal_lm("qwen2", len(tokenizer)), tokenizer)
    probabilities = scorer.probabilities(TEXTS)
    expected = torch.from_numpy(scorer.log_probs(TEXTS)).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert scorer.probabilities([]).shape == (0, 5)


def test_chat_template_and_answers_of_one_token(tokenizer):
    model = tiny.make_causal_lm("llama", len(tokenizer))
    labels = LabelSpace(["a", "b"])
    scorer = LabelScorer(
        model, tokenizer, template=PromptTemplate(use_chat_template=True), verbalizer=Verbalizer(labels)
    )
    expected = [[naive(model, prompt, ids) for ids in scorer.answer_ids] for prompt in scorer.prompt_ids(TEXTS)]
    np.testing.assert_allclose(scorer.log_probs(TEXTS), expected, atol=1e-4)


def exact_marginals(model, scorer):
    """Marginals by full enumeration of the 32 label sets."""
    sets = [chosen for count in range(6) for chosen in itertools.combinations(range(5), count)]
    rows = []
    for prompt in scorer.prompt_ids(TEXTS):
        scores = np.array([naive(model, prompt, scorer.encoder.target_ids(list(chosen))) for chosen in sets])
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        rows.append([sum(w for chosen, w in zip(sets, weights, strict=True) if label in chosen) for label in range(5)])
    return np.array(rows)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_marginals_equal_full_enumeration(model, tokenizer, batch_size):
    scorer = make_scorer(
        model, tokenizer, multi_label=True, batch_size=batch_size, min_coverage=1 - 1e-9, max_expansions=99
    )
    probabilities, uncovered = scorer.marginals(TEXTS)
    np.testing.assert_allclose(probabilities, exact_marginals(model, scorer), atol=1e-5)
    assert uncovered.max() < 1e-6


def test_a_search_that_ends_early_reports_what_it_did_not_cover(tokenizer, caplog):
    model = tiny.make_causal_lm("llama", len(tokenizer))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.1)  # a flat model: every answer is about as probable
    exact = exact_marginals(model, make_scorer(model, tokenizer, multi_label=True))
    for budget in (0, 2, 5):
        scorer = make_scorer(model, tokenizer, multi_label=True, max_expansions=budget, min_coverage=0.999999)
        probabilities, uncovered = scorer.marginals(TEXTS)
        assert (np.abs(probabilities - exact).max(axis=1) <= uncovered + 1e-5).all()
    scorer = make_scorer(model, tokenizer, multi_label=True, min_coverage=0.9)
    probabilities, uncovered = scorer.marginals(TEXTS)
    assert (uncovered <= 0.1).all()
    assert (np.abs(probabilities - exact) <= 0.1).all()


@pytest.mark.parametrize("multi_label", [False, True])
def test_no_forward_has_more_rows_of_logits_than_are_held_at_once(tokenizer, monkeypatch, multi_label):
    model = tiny.make_causal_lm("llama", len(tokenizer))
    scorer = make_scorer(model, tokenizer, multi_label=multi_label, min_coverage=0.999999)
    rows = []
    model.register_forward_hook(lambda module, args, output: rows.append(output.logits.shape[:2].numel()))
    expected = scorer.logits(TEXTS)
    largest = max(rows)
    rows.clear()
    limit = largest // 2
    monkeypatch.setattr(tree_attention, "MAX_LOGIT_ROWS", limit)
    np.testing.assert_allclose(scorer.logits(TEXTS), expected, atol=1e-4)
    assert max(rows) <= limit


def test_model_is_left_in_the_mode_it_was_in(tokenizer):
    model = tiny.make_causal_lm("llama", len(tokenizer))
    model.train()
    make_scorer(model, tokenizer).log_probs(TEXTS)
    assert model.training


def test_marginals_are_for_multi_label(tokenizer):
    with pytest.raises(ValueError, match="multi-label"):
        make_scorer(tiny.make_causal_lm("llama", len(tokenizer)), tokenizer).marginals(TEXTS)


def test_a_search_that_ends_early_says_how_much_it_covered(tokenizer, caplog):
    model = tiny.make_causal_lm("llama", len(tokenizer))
    short = make_scorer(model, tokenizer, multi_label=True, max_expansions=1, min_coverage=0.99999)
    marginals, uncovered = short.marginals(TEXTS)
    assert marginals.dtype == uncovered.dtype == np.float32
    assert (uncovered > 1e-5).all()
    np.testing.assert_array_equal(short.probabilities(TEXTS), marginals)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"For {len(TEXTS)} of {len(TEXTS)} documents, 1 expansions covered less than 100% of the probability of all "
        f"valid answers (worst: {1 - uncovered.max():.1%}). Their label probabilities are off by at most the rest."
    )
    caplog.clear()
    enough = make_scorer(model, tokenizer, multi_label=True, max_expansions=10**4, min_coverage=0.9)
    np.testing.assert_array_equal(enough.probabilities(TEXTS), enough.marginals(TEXTS)[0])
    assert not caplog.text


def test_settings_that_change_count_from_the_next_call_on(tokenizer, caplog):
    scorer = make_scorer(tiny.make_causal_lm("llama", len(tokenizer)), tokenizer, multi_label=True, max_expansions=1)
    scorer.logits(TEXTS)
    scorer.max_expansions, scorer.min_coverage = 10**4, 0.9999
    caplog.clear()
    _, uncovered = scorer.marginals(TEXTS)
    assert (uncovered <= 1e-4).all()
    scorer.logits(TEXTS)
    assert not caplog.text


def test_probabilities_of_unlikely_labels_do_not_vanish(tokenizer, monkeypatch):
    """Answers of many tokens have log-probabilities far below those that a float32 power can hold."""
    scorer = make_scorer(tiny.make_causal_lm("llama", len(tokenizer)), tokenizer)
    scores = np.array([[-500.0, -501.0, -502.0, -600.0], [-5.0, -6.0, -7.0, -8.0]], dtype=np.float32)[:, : len(NAMES)]
    monkeypatch.setattr(LabelScorer, "logits", lambda self, texts: scores.copy())
    expected = torch.from_numpy(scores).softmax(-1).numpy()
    np.testing.assert_allclose(scorer.probabilities(["a", "b"]), expected, atol=1e-6)


def test_logits_of_few_labels_are_their_log_probs(tokenizer):
    scorer = make_scorer(tiny.make_causal_lm("llama", len(tokenizer)), tokenizer)
    np.testing.assert_array_equal(scorer.logits(TEXTS), scorer.log_probs(TEXTS))


@pytest.mark.parametrize("multi_label", [False, True])
def test_tries_are_built_once(tokenizer, monkeypatch, multi_label):
    built = []
    original = LabelTrie.__init__
    monkeypatch.setattr(LabelTrie, "__init__", lambda self, given: built.append(given) or original(self, given))
    scorer = make_scorer(tiny.make_causal_lm("llama", len(tokenizer)), tokenizer, multi_label=multi_label)
    scorer.log_probs(TEXTS)
    first = scorer.logits(TEXTS)
    before = len(built)
    assert before
    np.testing.assert_array_equal(scorer.logits(TEXTS), first)
    scorer.log_probs(TEXTS)
    prefix = [scorer.encoder.prefix_ids[-1:]]
    assert [given for given in built[before:] if given != prefix] == []  # the end of the prefix is no answer


def test_answers_are_many_where_they_have_more_tokens_than_pruning_costs(tokenizer):
    """The way is chosen by the answers, at the first use."""
    model = tiny.make_causal_lm("llama", len(tokenizer))
    many = LabelSpace(MANY)
    ways = {}
    for name, space, settings in (
        ("few", LabelSpace(NAMES), {}),
        ("many", many, {}),
        ("exact", many, {"max_error": 0}),
        ("sets", LabelSpace(NAMES, multi_label=True), {}),
    ):
        scorer = LabelScorer(
            model, tokenizer, template=PromptTemplate("Classify."), verbalizer=Verbalizer(space), **settings
        )
        assert scorer._scoring is scorer._scoring
        ways[name] = type(scorer._scoring).__name__
    assert ways == {"few": "WholeTrie", "many": "PrunedScoring", "exact": "WholeTrie", "sets": "LabelSetSearch"}


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_error_of_what_is_left_out_is_known(tokenizer, multi_label):
    model = tiny.make_causal_lm("llama", len(tokenizer))
    labels = LabelSpace(NAMES if multi_label else MANY, multi_label=multi_label)
    scorer = LabelScorer(model, tokenizer, template=PromptTemplate("Classify."), verbalizer=Verbalizer(labels))
    _, errors = scorer._score(scorer.encode(TEXTS), scorer._scoring)
    assert errors.dtype == np.float32
    assert 0 < errors.max() <= (1 if multi_label else scorer.max_error)
    assert (scorer._score(scorer.encode(TEXTS), scorer._whole_trie)[1] == 0).all()


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_single_text_is_not_read_letter_by_letter(tokenizer, multi_label):
    scorer = make_scorer(tiny.make_causal_lm("llama", len(tokenizer)), tokenizer, multi_label=multi_label)
    for method in (scorer.log_probs, scorer.logits, scorer.probabilities, scorer.prompt_ids):
        with pytest.raises(ValueError, match="takes a list of texts, got the single text 'the cat'"):
            method("the cat")
    assert scorer.log_probs([""]).shape == (1, len(NAMES))  # an empty one has a prompt: its answer is the prior
