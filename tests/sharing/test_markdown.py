import pytest
from markdown_it import MarkdownIt

from hf_causal_clf.sharing.markdown import code, escape, table

RENDERER = MarkdownIt("commonmark").enable("table")


def cells(markdown):
    """The text of each cell, row by row, as a reader sees it."""
    found, row = [], None
    for token in RENDERER.parse(markdown):
        if token.type == "tr_open":
            found.append([])
        elif token.type == "inline":
            row = [child.content for child in token.children if child.type in ("text", "code_inline", "text_special")]
            found[-1].append("".join(row))
    return found


def test_a_table_has_a_heading_and_a_row_a_line():
    assert table([["run", "F1"], ["a", "0.9"], ["b", "0.8"]]) == "| run | F1 |\n|---|---|\n| a | 0.9 |\n| b | 0.8 |"


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("a|b", "a|b"),
        ("|", "|"),
        (r"a\|b", "a|b"),  # escaped already
        (r"a\\|b", r"a\|b"),  # the backslash is escaped, the bar is not
        ("two\nlines", "two lines"),
        (escape("x|y *z*"), "x|y *z*"),
        (escape("back\\|slash"), "back\\|slash"),
        (code("plain"), "plain"),
        ("", ""),
    ],
)
def test_no_cell_breaks_the_table(cell, shown):
    assert cells(table([["heading", "other"], [cell, "beside"]])) == [["heading", "other"], [shown, "beside"]]
