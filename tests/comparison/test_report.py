"""What `report.md` says, and that nothing in a run's name changes how it is shown."""

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from test_ranking import ENTRIES, make_results

from hf_causal_clf.comparison.ranking import Entry, compare_runs
from hf_causal_clf.comparison.report import render_report, render_summary

GOLDEN = Path(__file__).parents[1] / "golden"
FIGURES = [
    ("Macro F1 with 95 % intervals", "figures/f1_macro.png"),
    ("Reliability: embedding, rank 8", "embedding-rank-8/seed-1/figures/reliability_diagram.png"),
]
DATA = "Made up: 48 training, 15 validation and 200 test documents, 4 labels, single-label."


def test_a_made_up_report():
    report = json.loads((GOLDEN / "comparison.json").read_text(encoding="utf-8"))
    page = render_report(report, title="Comparison", data=DATA, figures=FIGURES)
    assert page == (GOLDEN / "comparison.md").read_text(encoding="utf-8")


def test_generation_of_an_earlier_version_that_did_not_say_of_how_many_documents():
    report = json.loads((GOLDEN / "comparison.json").read_text(encoding="utf-8"))
    for row in report["runs"]:
        later = [name for name in row["metrics"] if name.startswith(("generation_documents", "generation_scoring"))]
        for name in [*later, *(name for name in row["metrics"] if "generation" in name and "_ci_" in name)]:
            del row["metrics"][name]
    page = render_report(report, title="Comparison", data=DATA)
    assert "| instruction | all | 0.869 | 0.500 | 0.870 | 0.510 |" in page


def shown(markdown: str) -> list[str]:
    """The text of each heading, paragraph and cell, as a reader sees it."""
    found = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown):
        assert token.type != "html_block"
        if token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "text_special", "image"}, token.content
            parts = [part for child in token.children for part in child.children or [child]]
            found.append("".join(part.content for part in parts))
    return found


ODD = [
    "a|b",
    "*bold*",
    "snake_case_name",
    "<b>x</b>",
    "<!-- gone",
    "`code`",
    "[link](https://x.org)",
    "&amp;",
    "$x$",
    "a\\|b",
    "{{ 7 * 7 }}",
    "[",
    "good",
]


@pytest.mark.parametrize("odd", ODD)
def test_a_name_is_shown_as_it_is(odd):
    entries = [
        Entry(odd, "embedding", [make_results(0.9, 1, speed=1)], (1,)),
        Entry(f"{odd} too", "instruction", [make_results(0.89, 2, speed=20)], (1,)),
        ENTRIES[2],
    ]
    report = compare_runs(entries)
    page = shown(render_report(report, title="T", data="D", figures=[(f"Reliability: {odd}", "figures/f.png")]))
    assert page.count(odd) >= 3  # runs, cost and pairs
    assert page.count(f"{odd} too") >= 3
    assert f"Reliability: {odd}" in page  # the heading; and the figure's text
    assert page[-1] == f"Reliability: {odd}"
    assert report["recommendation"]["text"] in page
    assert f"The rule: {report['recommendation']['rule']}" in page
    assert report["recommendation"]["text"] in " ".join(render_summary(report).split("\n\n")[1].split("\n"))


def test_names_of_runs_without_calibration_are_shown_as_they_are():
    results = [make_results(accuracy, seed) for accuracy, seed in ((0.9, 1), (0.5, 2))]
    for each in results:
        each.metrics["calibration"] = {"documents": 80, "temperature": 1.0, "thresholds": None}
    names = ("*a*", "b_c_d")
    report = compare_runs([Entry(name, "embedding", [each], (1,)) for name, each in zip(names, results, strict=True)])
    assert "Unchanged: *a*; b_c_d (fitted: temperature 1)." in shown(render_report(report, title="T", data="D"))


def trial(number, f1):
    validation = None if f1 is None else {"f1_macro": 0.1, "f1_micro": f1, "nll": 1.0}
    return {"number": number, "parameters": {}, "validation": validation}


def test_tuning():
    """Scores of the metric that decides, what failed, and how the best one was found."""
    names = ("a|b", "*other*", "majority class")
    entries = [Entry(name, "embedding", [make_results(0.8, seed)], (1,)) for seed, name in enumerate(names)]
    searches = {
        "a|b": {
            "trials": [trial(1, 0.5), trial(2, None), trial(3, 0.625), trial(4, 0.6)],
            "improvements": [1, 3],
            "chosen": "head_init verbalizer",
        },
        "*other*": {"trials": [trial(1, None), trial(2, 0.25)], "improvements": [2], "chosen": "learning_rate 1e-05"},
    }
    tuning = {"trials": 4, "seed": 1, "metric": "f1_micro", "searches": searches}
    report = compare_runs(entries, average="micro") | {"tuning": tuning}
    page = shown(render_report(report, title="T", data="D"))
    start = page.index("Tuning")
    table = [page[row : row + 6] for row in range(start + 1, start + 19, 6)]
    assert table[1] == [
        *("a|b", "4, 1 failed", "0.500", "0.625"),
        "head_init verbalizer",
        "0.500 in trial 1, 0.625 in trial 3",
    ]
    assert table[2] == [*("*other*", "2, 1 failed", "failed", "0.250"), "learning_rate 1e-05", "0.250 in trial 2"]
    assert page[start + 19].startswith("Micro F1 of the validation documents")
    assert page[start + 19].endswith("Not tuned: majority class.")
    assert "Tuning" not in shown(render_report(compare_runs(entries), title="T", data="D"))
