"""`report.html` of a comparison: what `report.md` says, whatever runs are called."""

import json
from pathlib import Path

import pytest
from read_page import read_page, tables
from test_ranking import ENTRIES, make_results
from test_report import DATA, GOLDEN, ODD

from hf_causal_clf.comparison.curves import learning_curve_tables
from hf_causal_clf.comparison.page import render_comparison, render_curves
from hf_causal_clf.comparison.ranking import Entry, compare_runs
from hf_causal_clf.comparison.report import report_values

FIGURES = [
    ("Macro F1 with 95 % intervals", "figures/f1_macro.png"),
    ("Reliability: a", "a/figures/reliability_diagram.png"),
]


def render(report, output=Path("/nowhere"), folders=(), figures=()):
    return render_comparison(report, report_values(report), DATA, output, figures, dict(folders))


def test_it_says_what_the_markdown_says(tmp_path):
    report = json.loads((GOLDEN / "comparison.json").read_text(encoding="utf-8"))
    text = render(report)
    page, markdown = read_page(text), (GOLDEN / "comparison.md").read_text(encoding="utf-8")
    assert report["recommendation"]["text"] in page.all("header")[0].text
    assert report["recommendation"]["rule"] in page.text
    shown = tables(page)
    assert len(shown) == 6
    for rows in shown.values():
        for row in rows:
            assert "|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" in markdown
    ids = [each.attributes["id"] for each in page.all() if "id" in each.attributes]
    assert len(set(ids)) == len(ids)
    assert {each.attributes["href"] for each in page.all("nav")[0].all("a")} <= {f"#{name}" for name in ids}


@pytest.mark.parametrize("odd", [*ODD, "</table><script>alert(1)</script>", "\u202eabc\u2067"])
def test_a_name_is_shown_as_it_is(odd):
    entries = [
        Entry(odd, "embedding", [make_results(0.9, 1, speed=1)], (1,)),
        Entry(f"{odd} too", "instruction", [make_results(0.89, 2, speed=20)], (1,)),
        ENTRIES[2],
    ]
    report = compare_runs(entries)
    page = read_page(render(report))
    assert [cell[0] for cell in tables(page)["Test documents, with 95 % bootstrap intervals"][1:]] == [
        row["name"] for row in report["runs"]
    ]
    assert report["recommendation"]["text"] in page.all("header")[0].text
    assert len(page.all("script")) == 1
    assert odd in [each.text for each in page.all("header")[0].all("bdi")]


def test_a_control_character_is_no_part_of_a_page():
    results = [make_results(accuracy, seed) for accuracy, seed in ((0.9, 1), (0.5, 2))]
    for each in results:
        each.metrics["calibration"] = {"documents": 80, "temperature": 1.0, "thresholds": None}
    entries = [Entry(name, "embedding", [each], (1,)) for name, each in zip(("a\x00", "b\x1b"), results)]
    text = render(compare_runs(entries))
    assert "Unchanged: a�; b� (fitted: temperature 1)." in text
    assert not {"\x00", "\x1b"} & set(text)


def test_a_run_is_linked_to_its_page_if_it_has_one_below(tmp_path):
    report = compare_runs(ENTRIES)
    names = [row["name"] for row in report["runs"]]
    folders = {name: tmp_path / "out" / f"a b{place}" for place, name in enumerate(names)}
    folders[names[1]] = tmp_path / "elsewhere"
    for name in names[:2]:
        folders[name].mkdir(parents=True)
        (folders[name] / "report.html").touch()
    page = read_page(render(report, tmp_path / "out", folders))
    [links] = [each.all("a") for each in page.all("section", id="runs")]
    assert [(each.text, each.attributes["href"]) for each in links] == [(names[0], "a%20b0/report.html")]


def test_figures_stand_where_they_belong(tmp_path):
    for path in ("figures/f1_macro", "a/figures/reliability_diagram"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{path}.svg").write_text("<svg><title>x</title></svg>")
        (tmp_path / f"{path}.json").write_text('[["run", "F1"], ["<b>", 0.5]]')
    page = read_page(render(compare_runs(ENTRIES), tmp_path, figures=FIGURES))
    assert [each.attributes["id"] for each in page.all("section", id="runs")[0].all("figure")] == ["figures-f1-macro"]
    assert len(page.all("section", id="before")[0].all("figure")) == 1
    assert tables(page)["Reliability: a"] == [["run", "F1"], ["<b>", "0.500"]]


def test_learning_curves_lead_to_the_comparisons(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "learning_curves.svg").write_text("<svg/>")
    parts = learning_curve_tables([40, 160], {"<b>": [0.42, 0.55], "b": [0.31, 0.34]}, "macro")
    page = read_page(render_curves(parts, tmp_path, {160: "size-160", 40: "size-40"}, "macro"))
    assert [(each.text, each.attributes["href"]) for each in page.all("a")] == [
        ("40 training documents", "size-40/report.html"),
        ("160 training documents", "size-160/report.html"),
    ]
    [until] = tables(page).values()
    assert until[1][0] == "<b>"
    assert "with 40 and 160 training documents" in page.all("header")[0].text
