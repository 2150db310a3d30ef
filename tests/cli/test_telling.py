"""What a script tells on standard output."""

import pytest

from hf_causal_clf.cli.telling import beginning, listed, tell, unbroken


def test_lines_are_broken_between_words_and_stay_below_100_characters(capsys):
    words = " ".join(f"word{number}" for number in range(60))
    tell(words)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert all(len(line) < 100 for line in lines)
    assert all(line.startswith("  word") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == words
    tell("a" * 150 + " b")
    assert capsys.readouterr().out.splitlines() == ["a" * 150, "  b"]


def test_what_belongs_together_stays_in_one_line(capsys):
    tell(", ".join(unbroken(f"{number} 'a name' (1)") for number in range(20)))
    lines = capsys.readouterr().out.splitlines()
    assert all(line.strip().removesuffix(",").endswith("(1)") for line in lines)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_process_tells(monkeypatch, capsys, rank):
    monkeypatch.setenv("RANK", rank)
    tell("a")
    assert capsys.readouterr().out == ("a\n" if rank == "0" else "")


def test_beginnings_and_lists():
    assert beginning("a\nb  c") == "'a b c'"
    assert beginning("x" * 40) == repr("x" * 40)
    assert beginning("x" * 41) == repr("x" * 40 + "…")
    assert beginning(1.5) == "1.5"
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 others"
