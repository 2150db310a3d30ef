"""Learning curves in words: F1 by size, and how many documents a level of it takes."""

import pytest

from hf_causal_clf.comparison.curves import documents_until, render_learning_curves

SIZES = [40, 160, 640]


@pytest.mark.parametrize(
    ("level", "scores", "expected"),
    [
        (0.5, [0.5, 0.6, 0.7], 40),
        (0.3, [0.5, 0.6, 0.7], 40),
        (0.6, [0.5, 0.6, 0.7], 160),
        (0.65, [0.5, 0.6, 0.7], 320),  # in the middle of a logarithmic scale
        (0.55, [0.5, 0.6, 0.7], 80),
        (0.8, [0.5, 0.6, 0.7], None),
        (0.6, [0.5, 0.7, 0.55], 80),  # the first time, whatever comes later
        (0.6, [0.5, 0.5, 0.7], 320),
        (0.5, [0.4, 0.4, 0.4], None),
    ],
)
def test_documents_until(level, scores, expected):
    assert documents_until(level, SIZES, scores) == (None if expected is None else pytest.approx(expected))


def test_the_page():
    series = {"a | b": [(0.55, 0.01), (0.35, 0.02), (0.65, 0.003)], "tfidf": [0.41, 0.31, 0.5]}
    page = render_learning_curves([160, 40, 640], series, "macro")
    rows = [[cell.strip() for cell in line.split(" | ")] for line in page.splitlines() if line.startswith("|")]
    assert rows[0] == ["| macro F1 with training documents", "40", "160", "640 |"]
    assert rows[2] == [r"| a \| b", "0.350 ± 0.020", "0.550 ± 0.010", "0.650 ± 0.003 |"]
    assert rows[3] == ["| tfidf", "0.310", "0.410", "0.500 |"]
    assert rows[4] == ["| training documents until an F1 of", "0.4", "0.5", "0.6 |"]
    assert rows[6] == [r"| a \| b", "57", "114", "320 |"]
    assert rows[7] == ["| tfidf", "140", "640", "more than 640 |"]


def test_levels_below_the_smallest_size_and_none_between():
    page = render_learning_curves([10, 20], {"a": [0.42, 0.55], "b": [0.31, 0.34]}, "micro")
    assert "| a | at most 10 | 16 |" in page
    assert "| b | more than 20 | more than 20 |" in page
    assert "until" not in render_learning_curves([10, 20], {"a": [0.42, 0.44]}, "micro")
