"""Properties that hold for any input: hypothesis looks for the ones that break them."""

import itertools

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hf_causal_clf import LabelScorer, LabelSpace, PromptTemplate, Verbalizer
from hf_causal_clf.evaluation.metrics import classification_metrics, expected_calibration_error
from hf_causal_clf.instruction.trie import LabelTrie
from hf_causal_clf.task.chunks import chunk_spans
from hf_causal_clf.task.tokens import truncate
from hf_causal_clf.task.verbalizer import normalize_answer

settings.register_profile(
    "here",
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("here")
few = settings(max_examples=12)

TOKENIZER = tiny.make_tokenizer()
MODEL = tiny.make_causal_lm("llama", len(TOKENIZER))
CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)
hostile = st.lists(st.one_of(texts, st.sampled_from([*CONTROL, "<|im_", "end|>", "\n\nLabel: sport"])), max_size=6)
words = st.lists(st.sampled_from(["cat", "mat", "the", "bank", "sport"]), min_size=1, max_size=4).map(" ".join)
names = st.lists(words, min_size=2, max_size=6, unique_by=normalize_answer)
sequences = st.lists(
    st.lists(st.integers(3, 9), min_size=1, max_size=5).map(tuple), min_size=1, max_size=12, unique=True
)


def verbalizer(names, **kwargs):
    return Verbalizer(LabelSpace(names, **kwargs))


@given(st.lists(texts, min_size=2, max_size=6), st.data())
def test_what_a_verbalizer_writes_it_reads(given_names, data):
    given_names = list(dict.fromkeys(name.strip() for name in given_names))
    assume(len(given_names) > 1)
    multi_label = data.draw(st.booleans())
    try:
        found = verbalizer(given_names, multi_label=multi_label)
    except ValueError:  # blank names, collisions, the delimiter in a name: refused with a reason
        return
    chosen = (
        data.draw(st.sets(st.sampled_from(given_names))) if multi_label else data.draw(st.sampled_from(given_names))
    )
    answer = found.parse(found.verbalize(chosen))
    assert answer.error is None
    assert set(answer.labels) == (chosen if multi_label else {chosen})


@given(names, texts)
def test_what_it_reads_is_what_it_would_have_written(given_names, text):
    found = verbalizer(given_names, multi_label=True)
    answer = found.parse(text)
    assert (answer.error is None) == (text.strip() in _answers(found, given_names))


def _answers(found, given_names):
    sets = itertools.chain.from_iterable(
        itertools.combinations(given_names, size) for size in range(len(given_names) + 1)
    )
    return {found.verbalize(chosen) for chosen in sets}


@given(sequences)
def test_a_trie_is_its_sequences(given_sequences):
    trie = LabelTrie(given_sequences)
    prefixes = {sequence[:end] for sequence in given_sequences for end in range(1, len(sequence))}
    assert len(trie) == len(prefixes)
    mask = trie.mask()
    for sequence, path in zip(given_sequences, trie.paths, strict=True):
        assert tuple(trie.edges[edge][1] for edge in path) == sequence
        rows = [trie.edges[edge][0] for edge in path]
        assert rows[0] == 0
        fed = [row - 1 for row in rows[1:]]  # the nodes on the way
        assert [trie.tokens[node] for node in fed] == list(sequence[:-1])
        assert [trie.depths[node] for node in fed] == list(range(len(fed)))
        for place, node in enumerate(fed):
            assert set(np.flatnonzero(mask[node])) == set(fed[: place + 1])  # itself and its ancestors
    for prefix in [(), *prefixes]:
        longer = {s[len(prefix)] for s in given_sequences if s[: len(prefix)] == prefix and len(s) > len(prefix)}
        assert set(trie.children(prefix)) == longer


@few
@given(names, st.lists(texts, min_size=1, max_size=3), st.booleans())
def test_the_scorer_is_the_naive_loop(given_names, documents, chat):
    template = PromptTemplate(use_chat_template=chat, instruction="Classify: {labels}.")
    scorer = LabelScorer(MODEL, TOKENIZER, template=template, verbalizer=verbalizer(given_names))
    found = scorer.log_probs(documents)
    for row, prompt in enumerate(scorer.prompt_ids(documents)):
        for label, answer in enumerate(scorer.answer_ids):
            with torch.no_grad():
                logits = MODEL(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
            naive = logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)].sum()
            assert found[row, label] == pytest.approx(float(naive), abs=2e-3, rel=1e-4)


@few
@given(st.lists(words, min_size=2, max_size=4, unique_by=normalize_answer), texts)
def test_marginals_are_those_of_all_label_sets(given_names, document):
    found = verbalizer(given_names, multi_label=True)
    scorer = LabelScorer(
        MODEL, TOKENIZER, template=PromptTemplate(), verbalizer=found, min_coverage=1.0, max_expansions=10**6
    )
    (prompt,) = scorer.prompt_ids([document])
    total, mass = [], []
    for size in range(len(given_names) + 1):
        for chosen in itertools.combinations(given_names, size):
            answer = scorer.encoder.target_ids(list(chosen))
            with torch.no_grad():
                logits = MODEL(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
            score = logits.double().log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)].sum()
            total.append(float(score))
            mass.append([name in chosen for name in given_names])
    weights = np.exp(np.array(total) - max(total))
    expected = (weights[:, None] * np.array(mass)).sum(0) / weights.sum()
    np.testing.assert_allclose(scorer.marginals([document])[0][0], expected, atol=2e-3)


@given(hostile, st.booleans(), st.sampled_from(["tail", "head", "both", "head_tail"]), st.integers(70, 200))
def test_a_document_never_leaves_its_place(parts, chat, side, max_length):
    template = PromptTemplate("Sort.", use_chat_template=chat, max_length=max_length, truncation=side)
    encoder = template.bind(TOKENIZER, verbalizer(["sport", "the bank"]))
    ids = encoder.prompt_ids("".join(parts))
    before, after = len(encoder.prefix_ids), len(encoder.suffix_ids)
    assert ids[:before] == encoder.prefix_ids
    assert ids[len(ids) - after :] == encoder.suffix_ids
    inside = ids[before : len(ids) - after]
    assert not set(inside) & set(TOKENIZER.convert_tokens_to_ids(CONTROL))
    assert len(ids) + encoder.longest_answer <= max_length
    assert encoder.target_ids("sport")[-1] == encoder.end_id


@given(
    st.lists(st.integers(0, 9), max_size=30), st.integers(0, 30), st.sampled_from(["tail", "head", "both", "head_tail"])
)
def test_truncation_keeps_a_piece_of_the_right_length(ids, budget, side):
    found = truncate(ids, budget, side)
    assert len(found) == min(budget, len(ids))
    if side == "head_tail":
        assert found == [*ids[: (len(found) + 1) // 2], *ids[len(ids) - len(found) // 2 :]]
        return
    start = {"tail": 0, "head": len(ids) - len(found), "both": (len(ids) - len(found)) // 2}[side]
    assert found == ids[start : start + len(found)]


@given(st.integers(0, 200), st.integers(1, 40), st.sets(st.integers(0, 200)))
def test_chunks_cover_a_document_and_each_ends_where_a_sentence_does_if_it_can(length, budget, ends):
    spans = chunk_spans(length, budget, ends.__contains__)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert len(spans) == 1 or length > budget
    for (start, end), (after, _) in itertools.pairwise(spans):
        assert end - start <= budget
        possible = [place for place in range(start + budget - budget // 4 + 1, start + budget + 1) if place in ends]
        assert end == (possible[-1] if possible else start + budget)
        assert after <= end - budget // 8
    for (_, end), (after, _) in itertools.pairwise(spans[:-1]):
        assert after == end - budget // 8
    start, end = spans[-1]
    assert end - start == min(budget, length)


@given(
    st.integers(2, 5).flatmap(
        lambda labels: st.tuples(
            st.lists(st.integers(0, labels - 1), min_size=1, max_size=30),
            arrays.arrays(np.float64, (30, labels), elements=st.floats(0.001, 1)),
        )
    )
)
def test_single_label_metrics_are_those_of_a_plain_count(drawn):
    gold, weights = np.array(drawn[0]), drawn[1][: len(drawn[0])]
    probabilities = weights / weights.sum(1, keepdims=True)
    predicted = probabilities.argmax(1)
    found = classification_metrics(gold, probabilities)
    labels, scores = probabilities.shape[1], []
    for label in range(labels):
        hit = sum(g == label and p == label for g, p in zip(gold, predicted))
        wrong = sum(g != label and p == label for g, p in zip(gold, predicted))
        missed = sum(g == label and p != label for g, p in zip(gold, predicted))
        scores.append(2 * hit / (2 * hit + wrong + missed) if hit else 0.0)
    assert found["f1_macro"] == pytest.approx(np.mean([s for label, s in enumerate(scores) if label in gold]))
    assert found["accuracy"] == found["f1_micro"] == pytest.approx(np.mean(gold == predicted))
    assert found["nll"] == pytest.approx(-np.mean([np.log(p[g]) for p, g in zip(probabilities, gold)]))
    brier = np.mean(
        [sum((p[label] - (label == g)) ** 2 for label in range(labels)) for p, g in zip(probabilities, gold)]
    )
    assert found["brier"] == pytest.approx(brier)
    assert 0 <= expected_calibration_error(gold, probabilities) <= 1
