"""Writing figures."""

import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib import rcParams
from test_plots import HISTORY, ODD, every_figure, single_label

from hf_causal_clf.evaluation.comparison_plots import f1_comparison
from hf_causal_clf.evaluation.plot_style import save_figure
from hf_causal_clf.evaluation.plots import confusion_matrix, training_curves

pytestmark = pytest.mark.figures


def test_saved_files(tmp_path):
    settings = dict(rcParams)
    figures = every_figure()
    for name, figure in figures.items():
        png, svg = save_figure(figure, tmp_path / "new" / "folder" / f"{name}.v1")
        assert (png.name, svg.name) == (f"{name}.v1.png", f"{name}.v1.svg")
        header = png.read_bytes()[:24]
        assert header[:8] == b"\x89PNG\r\n\x1a\n"
        assert 400 < int.from_bytes(header[16:20], "big") <= 1200
        assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert png.stat().st_mode & 0o777 == svg.stat().st_mode & 0o777 == 0o644
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 2 * len(figures)
    assert dict(rcParams) == settings


def test_the_same_figure_is_the_same_file(tmp_path):
    gold, probabilities = single_label()
    for name, draw in {
        "matrix": lambda: confusion_matrix(gold, probabilities.argmax(axis=1), list("abcde")),
        "comparison": lambda: f1_comparison(ODD, [0.5] * 6, [0.5] * 6, [0.5] * 6),
    }.items():
        figure = draw()
        saved = [save_figure(one, tmp_path / f"{name}{index}") for index, one in enumerate((figure, figure, draw()))]
        for files in zip(*saved, strict=True):
            assert len({path.read_bytes() for path in files}) == 1, files
        assert b"<dc:date>" not in saved[0][1].read_bytes()


def test_failed_saving_leaves_what_was_there(tmp_path, monkeypatch):
    figure = training_curves(HISTORY)
    saved = figure.savefig
    (tmp_path / "curve.png").write_bytes(b"old")

    def fail(file, *, format, **kwargs):
        if format == "svg":
            file.write(b"<svg")
            raise OSError("disk full")
        saved(file, format=format, **kwargs)

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, tmp_path / "curve")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    assert (tmp_path / "curve.png").read_bytes() == b"old"


def test_temporary_files_are_hidden(tmp_path, monkeypatch):
    figure, seen = training_curves(HISTORY), []
    saved = figure.savefig

    def look(*args, **kwargs):
        seen.extend(path.name for path in tmp_path.iterdir())
        saved(*args, **kwargs)

    monkeypatch.setattr(figure, "savefig", look)
    save_figure(figure, tmp_path / "curve")
    assert seen
    assert all(name.startswith(".") for name in seen)
