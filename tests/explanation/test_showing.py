"""Document text stays text, whatever is in it."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_causal_clf.explanation.explanation import Explanation
from hf_causal_clf.explanation.page import render_explanations
from hf_causal_clf.explanation.showing import heading, marked_text, printable, strengths
from hf_causal_clf.explanation.units import cut

sys.path.insert(0, str(Path(__file__).parents[1] / "pages"))
from read_page import read_page, tables

HOSTILE = (
    '<script>alert("1")</script> </mark></p><img src=x onerror=alert(1)>. '
    "\x1b[2J\x1b]0;title\x07 clears & 'quotes'.\r\n\u202eturned \u2066isolated. \x00\x85\ud800 <!-- <b>"
)


def explanation(text=HOSTILE, label="<b>&\x1b[31m", drops=(0.4, -0.2, 0.1, 0.0)):
    spans = np.array(cut(text, "sentence"))
    column = np.array(drops[: len(spans)], dtype=np.float32)
    probabilities = np.array([0.75, 0.25], dtype=np.float32)
    return Explanation(text, (label, "b"), label, label, probabilities, spans, np.stack([column, -column], axis=1))


def render(*explanations):
    return render_explanations(explanations, run="<i>", rows_file="explanations.jsonl")


def test_hostile_text_stays_text_in_a_page():
    names = ["</h3><script>", "\u202eturned", "w" * 100_000]
    made = render(*((name, explanation(label=label)) for name, label in zip(names, (*names[1:], "<b>&\x1b[31m"))))
    page, usual = read_page(made), read_page(render(*((name, explanation("A. B. C. D", "a")) for name in "123")))
    for tag in ("script", "img", "b", "i", "h3", "article", "table"):
        assert len(page.all(tag)) == len(usual.all(tag)), tag
    assert [each.text for each in page.all("p", **{"class": "marked"})] == [printable(HOSTILE)] * 3
    assert not set(made) & set("\x00\x1b\x85\ud800\u2066\r")
    assert len(made) < 60_000
    made.encode()
    assert "</h3><script>" in page.all("h3")[0].text


def test_a_page_of_several_documents_leads_to_each():
    page = read_page(
        render((7, explanation("Good. Bad! So so. Nothing", "sport")), ("x", explanation("Yes. No", "tech")))
    )
    heading, *rows = tables(page)["Documents, and the part that changes most"]
    assert rows == [
        ["7", "sport", "sport", "0.750", "-0.400", "Good."],
        ["x", "tech", "tech", "0.750", "-0.400", "Yes."],
    ]
    assert len(heading) == len(rows[0])
    links = [each.attributes["href"][1:] for each in page.all("table")[0].all("a")]
    assert links == [each.attributes["id"] for each in page.all("article")]


def test_a_page_lists_the_parts_that_matter_most():
    page = read_page(render((7, explanation("Good. Bad! So so. Nothing", "sport"))))
    assert "Predicted: sport. Probability of sport: 0.750." in page.all("article")[0].text
    assert tables(page)["How the probability changes without it: 7"] == [
        *(["change", "without"], ["-0.400", "Good."], ["+0.200", "Bad!"], ["-0.100", "So so."])
    ]
    marks = [each.attributes["class"] for each in page.all("article")[0].all("mark")]
    assert marks == ["for3", "against2", "for1"]


def test_a_page_has_the_first_documents_and_says_so(monkeypatch):
    monkeypatch.setattr("hf_causal_clf.explanation.page.MOST", 2)
    page = read_page(render(*((name, explanation("Good. Bad!", "sport")) for name in range(3))))
    assert len(page.all("article")) == 2
    assert "The first 2 of 3 documents are here; all are in explanations.jsonl." in page.text


def test_a_terminal_is_not_steered():
    shown = marked_text(explanation())
    assert set(re.findall(r"\x1b[^m]*m", shown)) == {
        *("\x1b[38;5;16;48;5;39m", "\x1b[38;5;16;48;5;215m", "\x1b[38;5;16;48;5;195m", "\x1b[0m")
    }
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == printable(HOSTILE)
    assert "\x1b" not in heading(explanation(), "\x1b[2J\n")
    assert "\n" not in heading(explanation(), "a\nb")


@pytest.mark.parametrize(
    ("drops", "expected"),
    [
        ([0.4, -0.2, 0.039, 0.0], [3, -2, 0, 0]),
        ([0.004, -0.001], [1, 0]),  # noise is not marked strongly
        ([np.nan], [0]),
        ([0.0, 0.0], [0, 0]),
        ([0.3, 0.3], [3, 3]),
    ],
)
def test_how_strongly_parts_are_marked(drops, expected):
    assert strengths(np.array(drops, dtype=np.float32)) == expected


def test_headings_of_several_labels():
    found = explanation(label="a")
    assert heading(found, 3) == "3: a (0.750)"
    for predicted, shown in ((["b", "a"], "b, a (a 0.750)"), ([], "no label (a 0.750)"), (["a"], "a (0.750)")):
        named = Explanation(found.text, found.labels, "a", predicted, found.probabilities, found.spans, found.drops)
        assert heading(named, "x") == f"x: {shown}"
