"""The pages of an audit and a plan: they say what the files say, and text that others chose stays text in them."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from hf_causal_clf import LabelSpace
from hf_causal_clf.data.splits import ClassificationData
from hf_causal_clf.evaluation.calibration import to_probabilities
from hf_causal_clf.labelling.audit import write_audit, write_page
from hf_causal_clf.labelling.exporting import write_documents
from hf_causal_clf.labelling.files import AUDIT_PAGE, PLAN_PAGE
from hf_causal_clf.labelling.judging import Judged
from hf_causal_clf.labelling.parts import length_parts
from hf_causal_clf.labelling.plan import write_plan
from hf_causal_clf.runs.files import read_json

sys.path.insert(0, str(Path(__file__).parents[1] / "pages"))
from read_page import read_page, tables
from test_run_page import HOSTILE

NAMES = ["sport", "business", "tech", "news", "film", "food", "law", "art"]
WRONG, TWINS = "Documents whose label may be wrong", "Pairs with different labels, the most similar first"


def audited(folder, *, names=NAMES, texts=None, multi_label=False, with_documents=False):
    """Write an audit of 60 documents, of which some are judged otherwise, and return the folder."""
    space, draw = LabelSpace(names, multi_label=multi_label), np.random.default_rng(0)
    gold = np.arange(60) % len(names)
    logits = draw.normal(size=(60, len(names))) + 6 * np.eye(len(names))[np.where(np.arange(60) % 7, gold, gold // 2)]
    if multi_label:
        gold, logits = np.eye(len(names), dtype=np.int64)[gold], logits - 3
        gold[4] = 0
    texts = texts or [f"secret number {row} {'abcdefghij'[row % 10] * 9} of many" for row in range(60)]
    texts = [texts[row % len(texts)] for row in range(60)]
    texts[21] = texts[20]
    rows = {
        "id": [f"{texts[row][:30]} {row}" for row in range(60)],
        "text": texts,
        "label": list(map(space.decode, gold)),
    }
    if texts[0].startswith("secret"):
        rows["id"] = [f"d{row}" for row in range(60)]
    train = Dataset.from_dict(rows)
    splits = {"train": train, "validation": train, "test": train.select([3, 9, 20])}
    data = ClassificationData(space, splits, {}, folds=np.arange(60) % 5)
    probabilities = to_probabilities(logits.astype(np.float32), multi_label=multi_label).astype(np.float32)
    predicted = (probabilities > 0.5).astype(np.int64) if multi_label else probabilities.argmax(axis=1)
    judged = Judged(data, predicted, probabilities, logits, {"kind": "heads", "model": "a/model", "folds": 5})
    summary = write_audit(judged, folder, similarity=0.95, parts=length_parts(data.texts("train")))
    write_page(judged, summary, folder, with_documents=with_documents)
    return folder


def planned(folder, *, names=NAMES, texts=("A secret.",), multi_label=False, with_documents=False):
    """Write a plan with 30 documents to label, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    space = LabelSpace(names, multi_label=multi_label)
    probabilities = np.random.default_rng(0).dirichlet([1] * len(names), 30)
    predicted = [space.decode(row > 0.2 if multi_label else row.argmax()) for row in probabilities]
    write_documents(folder, [texts[row % len(texts)] for row in range(30)], predicted, probabilities, space, "a head")
    measured = [
        {"documents": n, "f1": 0.9 - 4 / n, "low": 0.85 - 4 / n, "high": 0.93 - 4 / n} for n in (20, 28, 40, 57)
    ]
    expected = [{"documents": n, "f1": 0.9 - 4 / n, "low": 0.8, "high": 0.95} for n in (114, 2000)]
    plan = {
        "documents": 57,
        "test_documents": 100,
        "f1_average": "macro",
        "model": "a/model",
        "measured": measured,
        "expected": expected,
        "law": {"limit": 0.9, "scale": 4.0, "exponent": 1.0},
        "chosen": {"by": "mix", "number": 30, "of": 900, "labels": dict.fromkeys(names, 3)},
    }
    write_plan(plan, folder, with_documents=with_documents)
    return folder


@pytest.fixture
def _cleanlab():
    pytest.importorskip("cleanlab")


@pytest.mark.usefixtures("_cleanlab")
@pytest.mark.parametrize("multi_label", [False, True])
def test_an_audit_is_sorted_by_how_sure_it_is_with_what_is_predicted_and_the_nearest(multi_label, tmp_path, capsys):
    folder = audited(tmp_path, multi_label=multi_label)
    table, summary = pd.read_parquet(folder / "audit.parquet"), read_json(folder / "audit.json")
    page = read_page((folder / AUDIT_PAGE).read_text())
    assert "secret" not in page.text
    assert "--with_documents true" in page.text
    heading, *rows = tables(page)[WRONG]
    shown = lambda label: label if isinstance(label, str) else ", ".join(label) or "–"  # noqa: E731
    differs = [row.error or shown(row.label) != shown(row.suggested) for row in table.itertuples()]
    expected = table[differs]
    assert len(rows) == len(expected) > 5
    labels = dict(zip(table["id"], table["label"]))
    for cells, row in zip(rows, expected.itertuples()):
        named = dict(zip(heading, cells, strict=True))
        assert (named["document"], named["label"], named["suggested"]) == (
            row.id,
            shown(row.label),
            shown(row.suggested),
        )
        sure = row.probabilities[summary["labels"].index(named["furthest off"] if multi_label else row.suggested)]
        assert named["its probability"] == f"{sure:.3f}"
        assert named["how sure it is wrong"] == f"{row.score:.3f}"
        assert named["counts as wrong"] == ("yes" if row.error else "no")
        near = [f"{i} ({shown(labels[i])}, {s:.2f})" for i, s in zip(row.nearest, row.similarity)]
        assert named["nearest documents"] == " ".join(near)
    assert [float(cells[heading.index("how sure it is wrong")]) for cells in rows] == sorted(
        (round(score, 3) for score in expected["score"]), reverse=True
    )
    assert tables(page)[TWINS][1][0] == "d20"
    assert "3 of 3 test documents have one in training." in page.all("header")[0].text
    assert str(folder / AUDIT_PAGE) not in capsys.readouterr().out


@pytest.mark.usefixtures("_cleanlab")
def test_the_text_of_documents_is_shown_where_that_is_asked_for(tmp_path):
    page = read_page((audited(tmp_path / "audit", with_documents=True) / AUDIT_PAGE).read_text())
    heading, *rows = tables(page)[WRONG]
    for cells in rows:
        assert cells[heading.index("text")].startswith(f"secret number {cells[0].replace('d21', 'd20')[1:]} ")
        assert cells[-1].count("secret number") == 2
    assert tables(page)[TWINS][1][0].startswith("d20secret number 20 ")
    quiet, shown = (
        read_page((planned(tmp_path / str(each), with_documents=each) / PLAN_PAGE).read_text()) for each in (0, 1)
    )
    assert "secret" not in quiet.text
    assert tables(shown)["Documents to label next"][1][-1] == "A secret."


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_plan_has_its_forecast_in_words_and_numbers_and_what_to_label(multi_label, tmp_path, capsys):
    page = read_page((planned(tmp_path, multi_label=multi_label) / PLAN_PAGE).read_text())
    assert "Macro F1 of 0.86 (0.80 – 0.95) expected at 114 documents." in page.all("header")[0].text
    assert "Macro F1 of 0.86 (0.80 – 0.95) expected at 114" in " ".join(capsys.readouterr().out.split())
    numbers = tables(page)["What more labels would bring"]
    assert numbers[1] == ["measured", "20", "0.700", "0.650", "0.730"]
    assert numbers[-1] == ["expected", "2,000", "0.898", "0.800", "0.950"]
    heading, *rows = tables(page)["Documents to label next"]
    assert len(rows) == 30
    assert ("most probable" in heading) == multi_label
    written = (tmp_path / "to_label.jsonl").read_text().splitlines()
    assert f'"predicted": "{rows[4][1]}"' in written[4] or multi_label
    assert tables(page)["How many of them are predicted to have each label"][1] == ["sport", "3"]


@pytest.mark.usefixtures("_cleanlab")
@pytest.mark.parametrize(("make", "name"), [(audited, AUDIT_PAGE), (planned, PLAN_PAGE)])
@pytest.mark.parametrize("multi_label", [False, True])
def test_what_others_wrote_stays_text(make, name, multi_label, tmp_path):
    options = {"multi_label": multi_label, "with_documents": True}
    usual = read_page((make(tmp_path / "plain", **options) / name).read_text())
    text = (make(tmp_path / "hostile", names=HOSTILE, texts=HOSTILE, **options) / name).read_text()
    page = read_page(text)
    text.encode()
    assert "\x00" not in text
    for tag in ("script", "img", "h1", "b", "svg", "section"):
        assert len(page.all(tag)) == len(usual.all(tag)), tag
    assert len(text) < 2_000_000
    assert "<script>alert(1)</script>" in page.text
    for cell in page.all("td"):
        assert {each.tag for each in cell.all()} <= {"bdi", "details", "summary", "p"}
