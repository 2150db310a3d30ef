"""What becomes of a value in a cell of a page."""

import pytest

from hf_causal_clf.pages.page import column_kinds
from hf_causal_clf.pages.text import Names, cell_html
from hf_causal_clf.sharing.cells import Code, Link, Name, names_in


@pytest.mark.parametrize(
    ("value", "html"),
    [
        (None, ""),
        (1234567, "1,234,567"),
        (0.98765, "0.988"),
        (True, "yes"),
        ("0.9 [0.8, 1.0]", "0.9 [0.8, 1.0]"),
        ("a < b", "a &lt; b"),
        (Name("<i>"), "<bdi>&lt;i&gt;</bdi>"),
        (Code("adamw_8bit"), "<code>adamw_8bit</code>"),
        (Names(["a", "<b>"]), "<bdi>a</bdi>, <bdi>&lt;b&gt;</bdi>"),
        (Names([]), "–"),
        ((Code("x"), ", 3 steps"), "<code>x</code>, 3 steps"),
        (Link("a&b", "x/report.html"), '<a href="x/report.html"><bdi>a&amp;b</bdi></a>'),
        (Link("x", '"onclick="alert(1)'), '<a href="&#34;onclick=&#34;alert(1)"><bdi>x</bdi></a>'),
        (Name("a\x00\ud800b\tc\n"), "<bdi>a��b\tc\n</bdi>"),
        (Name("d" * 160), f"<bdi>{'d' * 160}</bdi>"),
    ],
)
def test_a_cell(value, html):
    assert cell_html(value) == html


def test_the_rest_of_a_long_text_is_behind_a_click():
    text = "".join(chr(0x4E00 + place) for place in range(900))
    shown = f"<summary><bdi>{text[:160]}…</bdi></summary><bdi>…{text[160:]}</bdi>"
    assert cell_html(Name(text)) == f"<details>{shown}</details>"
    assert cell_html(Name("x" * 1001)).endswith("…</bdi><p>1 more characters are not shown.</p></details>")


def test_columns_of_numbers_are_known():
    rows = [["a", "b", "c", "d", "e"], [1, "0.9 [0.8, 1]", "x", None, "+0.1"], [None, "–", "2", "", "-0.2"]]
    assert column_kinds(rows) == ["number", "number", "text", "text", "number"]
    assert column_kinds([["a", "b"]]) == ["text", "text"]
    assert column_kinds([["label"], [Name("2024")]]) == ["text"]


def test_names_are_found_in_a_text_the_longest_first():
    parts = names_in("run (a.b) beats run and run (a", ["run", "run (a.b)"])
    assert "".join(parts) == "run (a.b) beats run and run (a"
    assert [part for part in parts if isinstance(part, Name)] == ["run (a.b)", "run", "run"]
