"""Document text stays text, whatever is in it."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from hf_causal_clf.explanation.explanation import Explanation
from hf_causal_clf.explanation.showing import heading, marked_text, page, printable, strengths
from hf_causal_clf.explanation.units import cut

HOSTILE = (
    '<script>alert("1")</script> </mark></p><img src=x onerror=alert(1)>. '
    "\x1b[2J\x1b]0;title\x07 clears & 'quotes'.\r\n\u202eturned \u2066isolated. \x00\x85\ud800 <!-- <b>"
)


def explanation(text=HOSTILE, label="<b>&\x1b[31m", drops=(0.4, -0.2, 0.1, 0.0)):
    spans = np.array(cut(text, "sentence"))
    column = np.array(drops[: len(spans)], dtype=np.float32)
    probabilities = np.array([0.75, 0.25], dtype=np.float32)
    return Explanation(text, (label, "b"), label, label, probabilities, spans, np.stack([column, -column], axis=1))


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def test_hostile_text_stays_text_in_a_page():
    found = explanation()
    made = page([("</h2><script>", found)], title="<i>", notes=["<u>"])
    reader = Reader()
    reader.feed(made)
    assert reader.open == []
    assert {tag for tag, _ in reader.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "article", "mark"),
        *("table", "caption", "tr", "td"),
    }
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith(("on", "style", "src"))]
    assert printable(HOSTILE) in reader.text
    assert not set(made) & set("\x00\x1b\x85\ud800\u202e\u2066\r")
    made.encode()


def test_the_page_allows_its_own_style_alone():
    made = page([("1", explanation())], title="t")
    style = re.search(r"<style>(.*?)</style>", made, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"content=\"default-src 'none'; style-src 'sha256-{digest}'\"" in made


def test_a_page_lists_the_parts_that_matter_most():
    reader = Reader()
    reader.feed(page([(7, explanation("Good. Bad! So so. Nothing", "sport"))], title="t"))
    assert "7: sport (0.750)" in reader.text
    assert re.findall(r"([+\u2212]0\.\d+)(\S.*)", reader.text.split("changes by")[1]) == [
        ("\u22120.400", "Good."),
        ("+0.200", "Bad!"),
        ("\u22120.100", "So so."),
    ]
    marks = [attributes["class"] for tag, attributes in reader.tags if tag == "mark"]
    assert marks[2:] == ["for3", "against2", "for1"]  # after those of the legend


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
