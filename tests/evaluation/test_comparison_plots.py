import numpy as np
import pytest
from test_plots import legends, names, render

from hf_causal_clf.evaluation.comparison_plots import f1_against_speed, f1_comparison, learning_curves, on_front


def test_f1_comparison():
    figure = f1_comparison(["first", "second"], [0.7, 0.8], [0.6, 0.75], [0.78, 0.86], metric="micro F1")
    [axes] = figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[0.7, 0], [0.8, 1]]
    assert [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()] == [[0.6, 0.78], [0.75, 0.86]]
    assert names(axes.get_yticklabels()) == ["first", "second"]
    assert axes.yaxis_inverted()
    assert "micro F1" in axes.get_xlabel()
    assert axes.texts[1].get_text() == "0.800 [0.750, 0.860]"
    with pytest.raises(ValueError, match="1 names, 2 values"):
        f1_comparison(["one"], [0.7, 0.8], [0.6, 0.7], [0.8, 0.9])


def test_f1_against_speed_with_its_front():
    scores, speeds = [0.9, 0.8, 0.7, 0.85, 0.6], [5.0, 50.0, 50.0, 2.0, None]
    assert on_front(scores, speeds) == [True, True, False, False, False]
    assert on_front([0.5, 0.5], [1.0, 1.0]) == [True, True]  # neither is better
    figure = f1_against_speed(list("abcde"), scores, [each - 0.1 for each in scores], scores, speeds, metric="micro F1")
    [axes] = figure.axes
    assert [container[0].get_xydata().tolist() for container in axes.containers] == [
        [[5, 0.9]],
        [[50, 0.8]],
        [[50, 0.7]],
        [[2, 0.85]],
    ]
    assert axes.lines[-1].get_xydata().tolist() == [[5, 0.9], [50, 0.8]]
    assert not any("$" in label for label in names([*axes.get_xticklabels(), *axes.get_xticklabels(minor=True)]))
    assert legends(figure).split("\n") == [*"abcd", "no other run is as good and as fast"]
    assert axes.get_xscale() == "log"
    render(figure)
    with pytest.raises(ValueError, match="nothing to draw"):
        f1_against_speed(["a"], [0.5], [0.4], [0.6], [None])


def test_learning_curves():
    series = {"embedding": [0.0, None, 0.9], "_seeds": [(0.4, 0.1), (0.6, 0.05), (0.8, 0.02)], "nothing": [None] * 3}
    figure = learning_curves([50, 200, 1600], series)
    [axes] = figure.axes
    shown = [container[0].get_xydata().tolist() for container in axes.containers]
    assert shown == [[[50, 0.0], [1600, 0.9]], [[50, 0.4], [200, 0.6], [1600, 0.8]], []]
    bars = axes.containers[1][2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[0.3, 0.5], [0.55, 0.65], [0.78, 0.82]])
    assert axes.get_xscale() == "log"
    render(figure)
    assert names(axes.get_xticklabels()) == ["50", "200", "1,600"]
    assert legends(figure).split("\n") == ["embedding", "_seeds", "nothing"]
    close = learning_curves([200, 300, 400], {"a": [0.1, 0.2, 0.3]}).axes[0]
    assert names([*close.get_xticklabels(), *close.get_xticklabels(minor=True)]) == ["200", "300", "400"]
    with pytest.raises(ValueError, match="at least 1"):
        learning_curves([0, 10], {"a": [0.1, 0.2]})
    with pytest.raises(ValueError, match="'a' has 1 entries for 2 sizes"):
        learning_curves([5, 10], {"a": [0.1]})
