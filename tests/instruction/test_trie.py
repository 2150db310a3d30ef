import numpy as np
import pytest

from hf_causal_clf.instruction.trie import LabelTrie

SEQUENCES = [[5, 6, 1], [5, 1], [7, 1], [5, 6, 8, 1]]


def test_layout():
    trie = LabelTrie(SEQUENCES)
    assert trie.tokens == [5, 6, 7, 8]
    assert trie.depths == [0, 1, 0, 2]
    assert [[trie.edges[edge][1] for edge in path] for path in trie.paths] == SEQUENCES
    assert len(set(trie.edges)) == len(trie.edges) == 8
    expected = np.eye(4, dtype=bool)
    expected[1, 0] = expected[3, 0] = expected[3, 1] = True
    assert np.array_equal(trie.mask(), expected)


def test_every_edge_starts_at_the_row_of_its_prefix():
    trie = LabelTrie(SEQUENCES)
    for sequence, path in zip(SEQUENCES, trie.paths, strict=True):
        for depth, edge in enumerate(path):
            row = trie.edges[edge][0]
            assert (row == 0) == (depth == 0)
            if row:
                assert trie.tokens[row - 1] == sequence[depth - 1]
                assert trie.depths[row - 1] == depth - 1


@pytest.mark.parametrize(
    ("prefix", "allowed"),
    [([], [5, 7]), ([5], [6, 1]), ([5, 6], [1, 8]), ([7], [1]), ([5, 6, 8], [1]), ([9], []), ([7, 1], [])],
)
def test_children(prefix, allowed):
    assert LabelTrie(SEQUENCES).children(prefix) == allowed


def test_one_token_sequences_need_no_nodes():
    trie = LabelTrie([[3], [4]])
    assert (len(trie), trie.mask().shape, trie.edges) == (0, (0, 0), [(0, 3), (0, 4)])


def test_empty_sequence():
    with pytest.raises(ValueError, match="empty token sequence"):
        LabelTrie([[1], []])
