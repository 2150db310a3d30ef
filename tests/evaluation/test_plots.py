from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hf_causal_clf.evaluation import comparison_plots, plots
from hf_causal_clf.evaluation.calibration import to_probabilities
from hf_causal_clf.evaluation.metrics import decide, decision_metrics, expected_calibration_error, f1_per_label
from hf_causal_clf.evaluation.selective import decision_confidence, risk_coverage


def single_label(documents: int = 300, labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    gold = random.integers(0, labels, documents)
    powers = np.exp(random.normal(size=(documents, labels)) + 2 * np.eye(labels)[gold])
    return gold, (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def multi_label(documents: int = 200, labels: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    gold = (random.random((documents, labels)) < 0.3).astype(np.int64)
    return gold, (1 / (1 + np.exp(1 - 2 * gold - random.normal(size=gold.shape)))).astype(np.float32)


def render(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def names(ticks) -> list[str]:
    return [label.get_text() for label in ticks]


def line(figure, name: str) -> np.ndarray:
    """The points of the line that the legend calls `name`."""
    [found] = [one for axes in figure.axes for one in axes.lines if str(one.get_label()).startswith(name)]
    return found.get_xydata()


def legends(figure) -> str:
    found = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return "\n".join(text.get_text() for legend in found for text in legend.get_texts())


def counts_shown(figure) -> dict[tuple[int, int], int]:
    """Number by (row, column)."""
    texts = figure.axes[0].texts
    return {(int(text.get_position()[1]), int(text.get_position()[0])): int(text.get_text()) for text in texts}


def all_texts(figure):
    from matplotlib.text import Text

    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("make", [single_label, multi_label])
@pytest.mark.parametrize("bins", [10, 15])
def test_reliability_bars_amount_to_the_calibration_error(make, bins):
    """The gaps drawn, weighted by the counts drawn, are the ECE of the metrics module."""
    gold, probabilities = make()
    figure = plots.reliability_diagram(gold, probabilities, bins=bins)
    above, below = figure.axes
    counts = np.array([bar.get_height() for bar in below.patches])
    assert counts.sum() == (len(gold) if gold.ndim == 1 else gold.size)
    heights = [bar.get_height() for bar in above.patches]
    hits = probabilities.argmax(axis=1) == gold if gold.ndim == 1 else gold
    assert np.dot(heights, counts) == pytest.approx(hits.sum())
    gaps = np.array([segment[:, 1] for segment in above.collections[0].get_segments()])
    ece = expected_calibration_error(gold, probabilities, bins=bins)
    assert np.dot(np.abs(gaps[:, 1] - gaps[:, 0]), counts) / counts.sum() == pytest.approx(ece)
    assert f"ECE {ece:.3f}" in legends(figure)


def test_reliability_before_and_after():
    gold, probabilities = single_label()
    sharp = to_probabilities(np.log(probabilities), multi_label=False, temperature=0.4)
    figure = plots.reliability_diagram(gold, probabilities, sharp)
    before, after = figure.axes[:2]
    for axes, title, shown in ((before, "Before", sharp), (after, "After", probabilities)):
        legend = axes.get_legend()
        assert legend.get_title().get_text().startswith(title)
        text = " ".join(names(legend.get_texts()))
        assert f"ECE {expected_calibration_error(gold, shown):.3f}" in text
    assert expected_calibration_error(gold, probabilities) != pytest.approx(
        expected_calibration_error(gold, sharp), abs=0.01
    )


def test_reliability_leaves_empty_bins_empty():
    gold = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1]] * 4)
    above, below = plots.reliability_diagram(gold, probabilities, bins=10).axes
    [bar], [count] = above.patches, below.patches
    assert (bar.get_height(), count.get_height()) == (0.5, 4)
    assert 0.8 <= bar.get_x() < bar.get_x() + bar.get_width() <= 0.9  # on the boundary: the bin below


def test_confusion_counts_and_shares():
    gold, probabilities = single_label()
    predicted = probabilities.argmax(axis=1)
    figure = plots.confusion_matrix(gold, predicted, list("vwxyz"))
    shares = figure.axes[0].images[0].get_array()
    shown = counts_shown(figure)
    for row in range(5):
        for column in range(5):
            count = int(((gold == row) & (predicted == column)).sum())
            assert shown.get((row, column), 0) == count
            assert shares[row, column] == pytest.approx(count / (gold == row).sum())
    assert names(figure.axes[0].get_xticklabels()) == names(figure.axes[0].get_yticklabels()) == list("vwxyz")


def test_confusion_malformed_answers_have_their_column():
    figure = plots.confusion_matrix(np.array([0, 0, 1]), np.array([0, -1, 0]), ["a", "b", "c"])
    axes = figure.axes[0]
    assert names(axes.get_xticklabels()) == ["a", "b", "c", "malformed"]
    assert names(axes.get_yticklabels()) == ["a", "b", "c"]
    assert counts_shown(figure) == {(0, 0): 1, (0, 3): 1, (1, 0): 1}
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.5, 0, 0, 0.5], [1, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(("labels", "malformed"), [(2, False), (20, True), (21, False), (100, True)])
def test_confusion_names_are_all_there_and_apart(labels, malformed):
    long = [f"{index:02d} agriculture; forestry; animal husbandry; hunting" for index in range(labels)]
    gold = np.arange(labels)
    figure = plots.confusion_matrix(gold, np.where(malformed & (gold == 0), -1, gold), long)
    renderer, axes = render(figure), figure.axes[0]
    across, down = axes.get_xticklabels(), axes.get_yticklabels()
    shown = names(down)
    assert len(shown) == labels
    assert [name[:2] for name in shown] == [name[:2] for name in long]  # in order
    assert all(len(name) < 30 and name.endswith("…") for name in shown)
    assert names(across) == shown + ["malformed"] * malformed
    boxes = [label.get_window_extent(renderer) for label in down]
    assert all(low.y1 <= high.y0 for high, low in pairwise(boxes))
    width, height = figure.bbox.size
    for label in [*across, *down]:
        box = label.get_window_extent(renderer)
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    if labels > 20:  # upright, so that the boxes are the texts
        boxes = [label.get_window_extent(renderer) for label in across]
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))


def test_confusion_numbers_stay_in_their_cells():
    gold = np.repeat(np.arange(20), 1234)
    figure = plots.confusion_matrix(gold, gold, [str(label) for label in range(20)])
    renderer, axes = render(figure), figure.axes[0]
    assert len(axes.texts) == 20
    cell = axes.bbox.width / 20
    assert all(text.get_window_extent(renderer).width < cell for text in axes.texts)


def test_names_cut_alike_stay_apart():
    stem = "classification of patents about "
    figure = plots.label_f1_bars(np.array([0, 1]), np.array([0, 1]), [stem + "animals", stem + "machines"])
    first, second = names(figure.axes[0].get_yticklabels())
    assert first != second
    assert first.endswith("animals")


@pytest.mark.parametrize("make", [single_label, multi_label])
def test_f1_bars_are_the_metrics(make):
    gold, probabilities = make()
    predicted = decide(probabilities, multi_label=gold.ndim == 2)
    if gold.ndim == 1:
        predicted[::7] = -1
    labels = [f"label {index}" for index in range(probabilities.shape[1])]
    figure = plots.label_f1_bars(gold, predicted, labels)
    [axes] = figure.axes
    bars = sorted(axes.patches, key=lambda bar: bar.get_y())
    np.testing.assert_allclose([bar.get_width() for bar in bars], f1_per_label(gold, predicted, len(labels)))
    assert f"{decision_metrics(gold, predicted)['f1_macro']:.3f}" in legends(figure)
    support = (gold == 2).sum() if gold.ndim == 1 else gold[:, 2].sum()
    assert f"n = {support}" in axes.texts[2].get_text()
    assert names(axes.get_yticklabels()) == labels
    assert axes.yaxis_inverted()  # the first label at the top


def test_texts_beside_the_bars_are_inside_the_figure():
    gold = np.repeat(np.arange(3), 12345)
    figure = plots.label_f1_bars(gold, gold, ["a", "b", "a very long name " * 5])
    renderer = render(figure)
    assert all(text.get_window_extent(renderer).x1 <= figure.bbox.width for text in figure.axes[0].texts)


def test_threshold_curves_multi_label_are_the_metrics():
    gold, probabilities = multi_label()
    figure = plots.threshold_curves(gold, probabilities)
    for threshold in (0.0, 0.3, 0.5, 0.8):
        found = decision_metrics(gold, decide(probabilities, multi_label=True, thresholds=threshold))
        for name in ("precision", "recall", "F1"):
            points = line(figure, name)
            value = points[np.abs(points[:, 0] - threshold).argmin(), 1]
            assert value == pytest.approx(found[f"{name.lower()}_micro"]), (threshold, name)
    assert line(figure, "default threshold")[:, 0].tolist() == [0.5, 0.5]
    assert np.isnan(line(figure, "precision")[-1, 1])  # nothing is predicted there


def test_threshold_curves_show_fitted_thresholds():
    gold, probabilities = multi_label()
    thresholds = np.linspace(0.2, 0.6, 8).tolist()
    figure = plots.threshold_curves(gold, probabilities, thresholds)
    np.testing.assert_allclose(line(figure, "thresholds in use")[:, 0], thresholds)
    f1 = decision_metrics(gold, decide(probabilities, multi_label=True, thresholds=thresholds))["f1_micro"]
    assert f"{f1:.3f}" in legends(figure)
    assert line(plots.threshold_curves(gold, probabilities, 0.4), "thresholds in use")[:, 0] == [0.4]


def test_threshold_curves_single_label_reject():
    """Rejecting a document is answering -1."""
    gold, probabilities = single_label()
    figure = plots.threshold_curves(gold, probabilities)
    top = probabilities.max(axis=1)
    for index in (0, 250, 350):
        kept = top >= np.linspace(0, 1, 501)[index]
        found = decision_metrics(gold, np.where(kept, probabilities.argmax(axis=1), -1))
        for name in ("precision", "recall", "F1"):
            assert line(figure, name)[index, 1] == pytest.approx(found[f"{name.lower()}_micro"]), (index, name)
        assert line(figure, "coverage")[index, 1] == pytest.approx(kept.mean())


def test_threshold_curves_without_positives():
    figure = plots.threshold_curves(np.zeros((3, 2), dtype=np.int64), np.full((3, 2), 0.25))
    assert np.isnan(line(figure, "recall")[:, 1]).all()
    render(figure)


HISTORY = [
    {"loss": 1.2, "learning_rate": 1e-4, "epoch": 0.5, "step": 5},
    {"loss": 0.8, "learning_rate": 5e-5, "epoch": 1.0, "step": 10},
    {"eval_loss": 0.7, "epoch": 1.0, "step": 10},
    {"eval_f1_macro": 0.6, "eval_f1_micro": 0.65, "eval_ece": 0.1, "epoch": 1.0, "step": 10},
    {"loss": 0.5, "learning_rate": 0.0, "epoch": 2.0, "step": 20},
    {"eval_loss": 0.6, "eval_f1_macro": 0.7, "eval_f1_micro": 0.75, "epoch": 2.0, "step": 20},
    {"train_loss": 0.9, "train_runtime": 3.0, "epoch": 2.0, "step": 20},
]


@pytest.mark.parametrize("make", [single_label, multi_label])
def test_the_risk_coverage_figure_is_the_curve_with_the_chosen_point(make):
    gold, probabilities = make()
    decisions = decide(probabilities, multi_label=gold.ndim == 2)
    confidence, wrong = decision_confidence(probabilities, decisions), decisions != gold
    sure = confidence >= 0.8
    figure = plots.risk_coverage_figure(confidence, wrong, sure, 0.1)
    curve = risk_coverage(confidence.ravel(), wrong.ravel())
    np.testing.assert_array_equal(line(figure, "error"), np.transpose([curve.coverage, curve.risk]))
    np.testing.assert_allclose(line(figure, "answered"), [[sure.mean(), wrong[sure].mean()]])
    assert "target error 0.1" in legends(figure)
    render(figure)
    assert "answered" not in legends(plots.risk_coverage_figure(confidence, wrong, np.zeros_like(sure), 0.1))


def test_the_set_sizes_are_counted_and_the_right_labels_found():
    gold = np.array([0, 1, 2, 1])
    small = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    figure = plots.set_sizes_figure(gold, {"lac": small, "aps": np.ones((4, 3), dtype=bool)}, 0.9)
    (axes,) = figure.axes
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == [[0.25, 0.75, 0, 0], [0, 0, 0, 1]]
    assert "lac: 0.75 labels, the right one in 50.0%" in legends(figure)
    assert "aps: 3.00 labels, the right one in 100.0%" in legends(figure)
    assert axes.get_xlabel() == "labels in a set (coverage 0.9)"
    render(figure)


def test_training_curves():
    figure = plots.training_curves(HISTORY)
    assert line(figure, "training").tolist() == [[0.5, 1.2], [1.0, 0.8], [2.0, 0.5]]
    assert line(figure, "validation").tolist() == [[1.0, 0.7], [2.0, 0.6]]
    assert line(figure, "macro F1").tolist() == [[1.0, 0.6], [2.0, 0.7]]
    assert line(figure, "micro F1").tolist() == [[1.0, 0.65], [2.0, 0.75]]
    losses, scores = figure.axes
    assert (losses.get_ylabel(), scores.get_ylabel(), scores.get_xlabel()) == ("loss", "validation F1", "epoch")


def test_training_curves_keep_what_was_measured_during_training():
    """An evaluation of the best model, after training, is logged at the last step too."""
    figure = plots.training_curves([*HISTORY, {"eval_f1_macro": 0.1, "eval_loss": 9.0, "epoch": 2.0, "step": 20}])
    assert line(figure, "macro F1")[:, 1].tolist() == [0.6, 0.7]
    assert line(figure, "validation")[:, 1].tolist() == [0.7, 0.6]


def test_training_curves_with_little_to_show():
    only_training = plots.training_curves(HISTORY[:1])
    assert len(only_training.axes) == 1
    assert line(only_training, "training").tolist() == [[0.5, 1.2]]
    only_scores = plots.training_curves([{"eval_f1_macro": 0.5, "step": 3}])  # without epochs
    assert line(only_scores, "macro F1").tolist() == [[3, 0.5]]
    assert only_scores.axes[0].get_xlabel() == "step"
    with pytest.raises(ValueError, match="log or evaluate more often"):
        plots.training_curves(HISTORY[-1:])


ODD = ["price $5 or $6", "a_b^c", r"\frac{1}{2}", "Über Ελλάδα Россия", "two\nlines", "_hidden"]


def every_figure(labels=ODD):
    gold, probabilities = single_label(labels=len(labels))
    many, pairs = multi_label(labels=len(labels))
    values = [0.5] * len(labels)
    before = to_probabilities(np.log(probabilities), multi_label=False, temperature=0.5)
    return {
        "reliability_diagram": plots.reliability_diagram(gold, probabilities, before),
        "confusion_matrix": plots.confusion_matrix(gold, probabilities.argmax(axis=1), labels),
        "label_f1_bars": plots.label_f1_bars(many, decide(pairs, multi_label=True), labels),
        "threshold_curves": plots.threshold_curves(many, pairs, values),
        "training_curves": plots.training_curves(HISTORY),
        "f1_comparison": comparison_plots.f1_comparison(labels, values, values, values, metric="F1 in $"),
        "learning_curves": comparison_plots.learning_curves(
            [5, 50], {name: [0.1, 0.2] for name in labels}, metric="F1_$x$"
        ),
    }


@pytest.mark.parametrize("name", ["confusion_matrix", "label_f1_bars", "f1_comparison", "learning_curves"])
def test_names_are_drawn_literally(name):
    figure = every_figure()[name]
    render(figure)  # a broken formula would raise
    texts = {text.get_text(): text for text in all_texts(figure)}
    for label in ODD:
        assert not texts[" ".join(label.split())].get_parse_math()


@pytest.mark.parametrize(
    ("gold", "probabilities"),
    [
        (np.array([1]), np.array([[0.2, 0.8]])),
        (np.array([[0, 1]]), np.array([[0.2, 0.8]])),
        (np.array([0, 1, 0]), np.full((3, 2), 0.5)),
        (np.array([[0, 1], [1, 1]]), np.ones((2, 2), dtype=np.float32)),
        (np.array([[0, 1], [1, 1]]), np.zeros((2, 2))),
    ],
)
@pytest.mark.filterwarnings("error")
def test_one_document_and_constant_probabilities(gold, probabilities):
    predicted = decide(probabilities, multi_label=gold.ndim == 2)
    render(plots.reliability_diagram(gold, probabilities, probabilities))
    render(plots.threshold_curves(gold, probabilities))
    render(plots.label_f1_bars(gold, predicted, ["a", "b"]))
    if gold.ndim == 1:
        render(plots.confusion_matrix(gold, predicted, ["a", "b"]))


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (lambda: plots.reliability_diagram(np.array([], dtype=int), np.empty((0, 2))), "at least one"),
        (lambda: plots.reliability_diagram(np.array([0, 1]), np.full((3, 2), 0.5)), "same documents"),
        (lambda: plots.threshold_curves(np.zeros((2, 3), int), np.full((2, 2), 0.5)), "same documents"),
        (lambda: plots.threshold_curves(np.array([0]), np.full((1, 2), 0.5), 0.5), "none .single-label"),
        (lambda: plots.threshold_curves(np.zeros((2, 3), int), np.full((2, 3), 0.5), [0.1, 0.2]), "Got 2 thresholds"),
        (lambda: plots.confusion_matrix(np.eye(2, dtype=int), np.eye(2, dtype=int), ["a", "b"]), "label_f1_bars"),
        (lambda: plots.confusion_matrix(np.array([0, 1]), np.array([0]), ["a", "b"]), "same documents"),
        (lambda: plots.confusion_matrix(np.array([0, 2]), np.array([0, 1]), ["a", "b"]), "a name for each id"),
        (lambda: plots.confusion_matrix(np.array([0, -1]), np.array([0, 1]), ["a", "b"]), "only predictions"),
        (lambda: plots.label_f1_bars(np.eye(2, dtype=int), np.eye(2, dtype=int), ["a"]), "one for each column"),
    ],
)
def test_mistakes_are_named(draw, match):
    with pytest.raises(ValueError, match=match):
        draw()
