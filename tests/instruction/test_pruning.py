"""Label scoring of large label spaces: the error that is promised, and what is saved for it."""

import numpy as np
import pytest
import tiny
import torch
from scipy.special import softmax

from hf_causal_clf import LabelScorer, LabelSpace, PromptTemplate, Verbalizer
from hf_causal_clf.instruction.pruning import PrunedScoring, _Branches
from hf_causal_clf.instruction.tree_attention import TreeForward

TEXTS = ["the cat", "the football match and the shares in the bank " * 3, "cat", "a mat and a film about phones"]
WORDS = (
    *("cat", "mat", "sat", "film", "prize", "bank", "match", "sport", "busy"),
    *("east", "middle", "market", "computer", "phone", "business", "share", "new", "won"),
)


def labels(count, seed=0):
    """Names of one to four words, many of them with the same first words, some the beginning of others."""
    draw = np.random.default_rng(seed)
    names = dict.fromkeys(" ".join(draw.choice(WORDS[: 3 + size], size)) for size in draw.integers(1, 5, 4 * count))
    return LabelSpace(list(names)[:count])


@pytest.fixture(params=["llama", "gemma3", "gpt2"])
def model(request, tokenizer):
    return tiny.make_causal_lm(request.param, len(tokenizer))


def scorer(model, tokenizer, space, max_error, **kwargs):
    template = PromptTemplate(instruction="Classify.")
    return LabelScorer(model, tokenizer, template=template, verbalizer=Verbalizer(space), max_error=max_error, **kwargs)


@pytest.mark.parametrize("max_error", [1e-1, 1e-2, 1e-3, 1e-6])
def test_the_error_is_at_most_what_is_promised(model, tokenizer, max_error):
    space = labels(120)
    exact = scorer(model, tokenizer, space, 0).probabilities(TEXTS)
    found = scorer(model, tokenizer, space, max_error, batch_size=3).probabilities(TEXTS)
    assert np.abs(found - exact).max() <= max_error + 1e-6
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert found.min() > 0  # no label is impossible


class RunToTheEnd(PrunedScoring):
    """Goes on with what was left out, from the same values, and keeps both results."""

    def run(self, edges, context):
        self._max_error, self._at_bound = self.promised, None
        whole, errors = super().run(edges, context)
        self.results.append((softmax(self._at_bound, axis=1), softmax(whole, axis=1)))
        return self._at_bound, errors

    def _choose(self, documents):
        chosen = super()._choose(documents)
        if chosen or self._at_bound is not None:
            return chosen
        self._at_bound = np.stack([self._log_probs(document) for document in documents])
        self._max_error = 1e-300
        return super()._choose(documents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "max_error"), [("llama", 1e-1), ("llama", 1e-3), ("gpt2", 1e-3)])
def test_what_is_left_out_is_within_the_bound_in_every_data_type(name, tokenizer, max_error, dtype, monkeypatch):
    """In bfloat16 another scoring has other roundings, so the bound is checked on the values of one scoring."""
    space, results = labels(120), []
    monkeypatch.setattr(RunToTheEnd, "promised", max_error, raising=False)
    monkeypatch.setattr(RunToTheEnd, "results", results, raising=False)
    monkeypatch.setattr("hf_causal_clf.instruction.scorer.PrunedScoring", RunToTheEnd)
    model = tiny.make_causal_lm(name, len(tokenizer), dtype=dtype)
    found = scorer(model, tokenizer, space, max_error, batch_size=3).probabilities(TEXTS)
    changes = np.concatenate([np.abs(pruned - whole).max(axis=1) for pruned, whole in results])
    assert len(changes) == len(TEXTS)
    assert 0 < changes.max() <= max_error + 1e-6  # something was left out
    exact = scorer(model, tokenizer, space, 0, batch_size=3).probabilities(TEXTS)
    rounding = 1e-5 if dtype == torch.float32 else 0.1  # as `LabelScorer` says
    assert np.abs(found - exact).max() <= max_error + rounding


def test_fewer_tokens_are_run_for_a_larger_error(tokenizer, monkeypatch):
    model = tiny.make_causal_lm("llama", len(tokenizer))
    run = {}
    original = TreeForward.branches

    def branches(self, context, tries):
        run[current] = run.get(current, 0) + sum(map(len, tries))
        return original(self, context, tries)

    monkeypatch.setattr(TreeForward, "branches", branches)
    for current in (1e-9, 1e-3, 3e-1):
        scorer(model, tokenizer, labels(120), current).probabilities(TEXTS)
    assert run[1e-9] > run[1e-3] > run[3e-1]


def test_small_label_spaces_are_exact(tokenizer):
    model = tiny.make_causal_lm("llama", len(tokenizer))
    space = labels(8)
    exact, default = (scorer(model, tokenizer, space, error).probabilities(TEXTS) for error in (0, 0.5))
    np.testing.assert_array_equal(exact, default)


def test_whatever_is_left_out_is_within_the_bound():
    """Random trees: leave branches out as the search does, and compare with the whole."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        complete = dict(enumerate(draw.normal(-5, 4, 5)))
        opened = dict(enumerate(draw.normal(-5, 4, 5), 5))
        document = _Branches({(key,): value for key, value in complete.items()}, {(k,): v for k, v in opened.items()})
        bound = document.error()
        inside = np.exp([*opened.values()]) * draw.uniform(0, 1, 5)  # what really follows the beginnings
        found = np.exp([*complete.values()])
        true = np.array([*found, *inside]) / (found.sum() + inside.sum())
        half = np.exp([*opened.values()]) / 2
        guess = np.array([*found, *half]) / (found.sum() + half.sum())
        assert np.abs(true - guess).max() <= bound + 1e-12
        chosen = document.choose(1e-2)
        assert chosen or bound <= 1e-2
        assert not chosen or max(opened.values()) in chosen.values()


def test_one_trie_a_row_is_as_each_alone(model, tokenizer):
    forward = TreeForward(model)
    scoring = PrunedScoring(forward, [[5, 6, 1], [5, 7, 1], [8, 9, 10, 1], [8, 9, 11, 1]], 1e-12)
    start = forward.start([3, 4, 5])
    chains = [[6, 7, 8, 9], [9]]
    _, context = forward(start.select([0, 0]), chains, scoring.root_trie)
    tries = [scoring._round({(5,): 0.0}).trie, scoring._round({(8,): 0.0, (5,): 0.0}).trie]
    together = forward.branches(context, tries)
    for row in (0, 1):
        alone = forward.branches(context.select([row]), [tries[row]])[0]
        real = [edge for edge, (source, _) in enumerate(tries[row].edges) if source > 0]
        torch.testing.assert_close(together[row][real], alone[real], atol=1e-5, rtol=1e-5)
