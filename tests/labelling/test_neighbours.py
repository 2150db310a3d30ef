import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from hf_causal_clf.labelling import neighbours
from hf_causal_clf.labelling.neighbours import near_duplicates, nearest, text_vectors

TEXTS = [
    "the bank raised its interest rates on Monday",
    "The Bank raised its interest rates on MONDAY!",
    "the bank raised its interest rate on Tuesday",
    "the match was won in the last minute",
    "phones and computers get cheaper",
    "a",
]


@pytest.fixture(params=["one block", "blocks of two"])
def _blocks(request, monkeypatch):
    if request.param == "blocks of two":
        monkeypatch.setattr(neighbours, "_ROWS", 2)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("dense", [False, True])
def test_pairs_and_neighbours_are_those_of_all_cosines(dense):
    vectors = text_vectors(TEXTS)
    expected = cosine_similarity(vectors)
    vectors = vectors.toarray() if dense else vectors
    pairs = near_duplicates(vectors, similarity=0.5)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in pairs:
        assert pair.similarity == pytest.approx(expected[pair.first, pair.second], abs=1e-5)
    crossed = near_duplicates(vectors[:2], vectors[1:], similarity=0.99)
    assert [(pair.first, pair.second) for pair in crossed] == [(1, 0)]
    rows, similarities = nearest(vectors, 2)
    np.fill_diagonal(expected, -1)
    np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, :2], atol=1e-5)
    np.testing.assert_allclose(expected[np.arange(6)[:, None], rows], similarities, atol=1e-5)


def test_there_may_be_fewer_others():
    rows, similarities = nearest(text_vectors(TEXTS[:2]), 5)
    assert rows.tolist() == [[1], [0]]
    assert similarities.shape == (2, 1)
    assert nearest(text_vectors(TEXTS[:1]), 2)[0].shape == (1, 0)
