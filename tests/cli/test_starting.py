"""What a user sees of an error, of a bug and of Ctrl-C, and the exit code."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_causal_clf import LabelSpace
from hf_causal_clf.cli.mistakes import Mistakes, report
from hf_causal_clf.cli.starting import children_ignore_interrupts, run_script
from hf_causal_clf.runs.disk import how_to_go_on

SCRIPT = """
def missing_file():
    raise FileNotFoundError("There is no file 'x'. Give another.")

def ends():
    raise SystemExit("Not like this.")

def turned_into_a_message():
    try:
        int("x")
    except ValueError as error:
        raise ValueError("x must be a number.") from error

def passed_on():
    try:
        int("x")
    except ValueError:
        raise

def unequal():
    list(zip([1], [], strict=True))

def asserted():
    assert 1 + 1 == 3

def interrupted():
    raise KeyboardInterrupt
"""
NAMES = {"__name__": "__main__"}
exec(SCRIPT, NAMES)


def run(main, *arguments):
    with pytest.raises(SystemExit) as end:
        run_script(main, *arguments)
    return end.value.code


@pytest.fixture(autouse=True)
def command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.setenv("RANK", "0")


@pytest.mark.parametrize(
    ("main", "message"),
    [
        (NAMES["missing_file"], "There is no file 'x'. Give another.\n"),
        (NAMES["ends"], "Not like this.\n"),
        (NAMES["turned_into_a_message"], "x must be a number.\n"),
        (lambda: LabelSpace(["a"] * 2), "Label names must be unique, but these are given more than once: ['a'].\n"),
    ],
)
def test_an_expected_error_is_its_message_alone(main, message, capsys):
    assert run(main) == 2
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("main", "error"),
    [
        (NAMES["passed_on"], ValueError),
        (NAMES["unequal"], ValueError),
        (NAMES["asserted"], AssertionError),
        (lambda: torch.zeros(2).reshape(3), RuntimeError),
        (lambda: json.loads("{"), ValueError),
        (lambda: Path("/nowhere").stat(), OSError),
    ],
)
def test_a_bug_keeps_its_traceback(main, error, capsys):
    with pytest.raises(error):
        run_script(main)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [["--log_level", "debug"], ["--log_level=debug"]])
def test_debug_shows_the_traceback(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    assert run(NAMES["turned_into_a_message"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "invalid literal for int" in told
    assert told.endswith("ValueError: x must be a number.\n")


def test_an_exit_code_passes():
    for code in (0, 7, None):
        assert run(sys.exit, code) == code


def test_ctrl_c_is_one_line_that_says_how_to_go_on(capsys):
    assert run(NAMES["interrupted"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "\nStopped. To go on, start the same command again.\n"
    with pytest.raises(SystemExit):
        run_script(NAMES["interrupted"], go_on=lambda: "take a walk")
    assert capsys.readouterr().err == "\nStopped. To go on, take a walk.\n"


def test_another_process_speaks_only_if_it_lives_on(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    assert run(NAMES["missing_file"]) == 2
    assert slept == [20.0]
    assert "There is no file" in capsys.readouterr().err
    assert run(NAMES["interrupted"]) == 130
    assert capsys.readouterr().err == ""


def test_the_report_of_torchrun_says_the_message(monkeypatch, tmp_path):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    run(NAMES["missing_file"])
    told = str(ChildFailedError("x", {0: ProcessFailure(0, 1, 2, str(tmp_path / "error.json"))}))
    assert "traceback : There is no file 'x'. Give another." in told


def test_all_mistakes_are_told_with_a_line_each():
    mistakes = Mistakes()
    mistakes.report()
    with mistakes.noted():
        raise_here("one")
    with pytest.raises(ValueError, match=r"^one$"):
        mistakes.report()
    for message in ("one", "two"):
        with mistakes.noted():
            raise_here(message)
    with pytest.raises(ValueError, match=r"^one\ntwo$"):
        mistakes.report()


def test_a_bug_is_not_noted():
    with pytest.raises(ValueError, match="invalid literal"), Mistakes().noted():
        int("x")


def raise_here(message):
    report([message])


def test_children_leave_ctrl_c_to_their_parent():
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    before = signal.getsignal(signal.SIGINT)
    with children_ignore_interrupts():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_going_on_is_by_the_checkpoints_of_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_causal_clf.runs.disk._locks", {tmp_path: None})
    assert how_to_go_on() == "start the same command again"
    (tmp_path / "checkpoint-3").mkdir()
    assert how_to_go_on() == "start the same command again"
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text("{}")
    assert "--resume_from_checkpoint true" in how_to_go_on()
