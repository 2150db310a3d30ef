"""recipes/explain.py as a user runs it."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rows, run_as_main, write_jsonl
from test_classifier import save_folder

from hf_causal_clf import TextClassifier

ROOT = Path(__file__).parents[2]
TEXTS = ["The cat won. Shares fell in the bank! <b>A film</b>", " ", "computers and phones"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained") / "run"
    save_folder(folder, checkpoint, "embedding")
    return folder


def explain(run, folder, monkeypatch, rows=None, **options):
    rows = [{"key": f"k{index}", "text": text} for index, text in enumerate(TEXTS)] if rows is None else rows
    file = write_jsonl(folder / "documents.jsonl", rows)
    given = {"model_name_or_path": run, "test_file": file, "output_dir": folder / "why", **options}
    words = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["explain.py", *words])
    run_as_main(ROOT / "recipes" / "explain.py")
    return [json.loads(line) for line in (folder / "why" / "explanations.jsonl").read_text().splitlines()]


def test_rows_page_and_terminal(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows = explain(run, tmp_path, monkeypatch, id_column="key")
    assert [row["id"] for row in rows] == ["k0", "k1", "k2"]
    assert rows[1] == {"id": "k1", "predicted": None, "label": None, "probability": None, "units": []}
    classifier = TextClassifier.from_pretrained(run)
    for row, text in ((rows[0], TEXTS[0]), (rows[2], TEXTS[2])):
        found = classifier.explain(text)
        assert row["predicted"] == row["label"] == classifier.predict(text)
        assert [(unit["start"], unit["end"]) for unit in row["units"]] == [tuple(span) for span in found.spans.tolist()]
        np.testing.assert_allclose([unit["drop"] for unit in row["units"]], found.drops_of(), atol=1e-5)
    assert len(rows[0]["units"]) == 3
    page = (tmp_path / "why" / "explanations.html").read_text()
    assert "&lt;b&gt;A film&lt;/b&gt;" in page
    assert len(re.findall("<article", page)) == 2
    shown = sys.stdout.getvalue()
    assert "\x1b[38;5;16;48;5;" in shown
    assert "3 documents are explained in" in shown


def test_a_file_gets_no_colours(run, tmp_path, monkeypatch, capsys):
    rows = explain(run, tmp_path, monkeypatch, make_rows(6), max_test_samples=4, unit="word", label="b")
    assert [(row["id"], row["label"]) for row in rows] == [(0, "b"), (1, "b"), (2, "b"), (3, "b")]
    out = capsys.readouterr().out
    assert out.startswith("4 documents are explained in")
    assert "\x1b" not in out
    assert "cat" not in out


def test_what_is_there_is_replaced_on_demand_alone(run, tmp_path, monkeypatch):
    """A page of somebody else's has the same name; the second start is as careful with what the first has written."""
    (tmp_path / "why").mkdir()
    theirs = tmp_path / "why" / "explanations.html"
    theirs.write_text("theirs")
    with pytest.raises(
        ValueError, match=r"has explanations\.html, which would be replaced\. .*overwrite_output_dir to"
    ):
        explain(run, tmp_path, monkeypatch)
    assert theirs.read_text() == "theirs"
    explain(run, tmp_path, monkeypatch, overwrite_output_dir="true")
    assert theirs.read_text().startswith("<!doctype html>")
    with pytest.raises(ValueError, match=r"has explanations\.jsonl, explanations\.html, which would be replaced"):
        explain(run, tmp_path, monkeypatch)


def test_faithfulness(run, tmp_path, monkeypatch, capsys):
    text = " ".join(f"The {word} won the match." for word in ("cat", "bank", "film", "mat", "prize"))
    explain(run, tmp_path, monkeypatch, [{"text": text}, {"text": text * 2}], faithfulness="true")
    summary = json.loads((tmp_path / "why" / "faithfulness.json").read_text())
    assert summary["texts"] == 2
    assert summary["difference"] == pytest.approx(summary["aopc_by_drop"] - summary["aopc_at_random"], abs=1e-3)
    assert "Where 10% to 50% of the parts of 2 documents are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "sport"}, r"Unknown label 'sport'. Known labels: 'a', 'b', 'c'"),
        ({"text_column": "body"}, r"has no column 'body'; it has \['key', 'text'\]. Set text_column to one of these"),
        ({"id_column": "id"}, r"has no column 'id'; it has \['key', 'text'\]. Set id_column"),
        ({"test_file": "nowhere.jsonl"}, r"There is no file 'nowhere.jsonl'. Check test_file"),
        ({"unit": "line"}, r"unit must be one of \['sentence', 'word'\], got 'line'"),
        ({"max_test_samples": 0}, r"max_test_samples must be at least 1, got 0"),
        ({"rows": []}, r"has no documents. Check test_file"),
        ({"rows": [{"a": "x", "b": "y"}]}, r"It is not clear which column of .* is the text; it has \['a', 'b'\]"),
        (
            {"rows": [{"text": "x"}, {"text": 3}]},
            r"Row 1 of .*, counted from 0, has 3 in 'text', which is no text. Give texts",
        ),
    ],
)
def test_mistakes_are_named_before_the_model_is_loaded(run, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(TextClassifier, "from_pretrained", None)
    with pytest.raises(ValueError, match=message):
        explain(run, tmp_path, monkeypatch, **options)
    assert not (tmp_path / "why").exists()
