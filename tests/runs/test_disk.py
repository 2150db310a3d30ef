"""One process at a time writes into an output folder, and a killed one does not keep it."""

import os
import time

import forking
import pytest
from test_recipes import arguments
from test_recipes import run as run_recipe

from hf_causal_clf.runs.disk import folder_written_aside, lock_folder

HOLD = "import sys, time; from hf_causal_clf.runs.disk import lock_folder; lock_folder(sys.argv[1]); print(1, flush=True); time.sleep(60)"


@pytest.fixture
def held(tmp_path):
    """An output folder that another process is writing into, and that process."""
    process = forking.start(["-c", HOLD, tmp_path / "run"], tmp_path)
    said = tmp_path / "stdout"
    while process.is_alive() and not (said.is_file() and said.read_text()):
        time.sleep(0.01)
    assert process.is_alive()
    yield tmp_path / "run", process
    process.kill()
    process.join()


def test_a_folder_in_use_is_refused_until_its_process_is_gone(held):
    folder, process = held
    with pytest.raises(ValueError, match=r"Another process is writing into .*run.*choose another output_dir"):
        lock_folder(folder)
    lock_folder(folder.with_name("other"))
    process.kill()
    process.join()
    lock_folder(folder)
    lock_folder(folder)  # this process has it


def test_a_recipe_does_not_start_where_another_is_training(held, checkpoint, files, monkeypatch):
    folder, _ = held
    with pytest.raises(ValueError, match="Another process is writing into"):
        run_recipe("embed", arguments("embed", checkpoint, files, folder), monkeypatch)
    assert not folder.exists()


@pytest.mark.parametrize("folder", ["/proc/run", "/proc/run/deep", "/sys/run", "/dev/null/run"])
def test_where_nothing_can_be_written_no_other_process_is_blamed(folder):
    with pytest.raises(OSError, match=r"Nothing can be written into .*Choose another output_dir"):
        lock_folder(folder)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_is_there_whole_or_not_at_all(tmp_path, there):
    target = tmp_path / "out"
    if there:
        target.mkdir()
    (tmp_path / ".out.writing").mkdir()  # of a killed process
    (tmp_path / ".out.writing" / "half").touch()
    with pytest.raises(FileExistsError), folder_written_aside(target) as aside:
        os.mkdir(aside)  # anything that fails
    assert list(tmp_path.rglob("*")) == ([target] if there else [])
    with folder_written_aside(target) as aside:
        (aside / "one").touch()
        assert not (target / "one").exists()
    assert sorted(tmp_path.rglob("*")) == [target, target / "one"]
    with pytest.raises(OSError, match="not empty"), folder_written_aside(target) as aside:
        (aside / "two").touch()
    assert sorted(tmp_path.rglob("*")) == [target, target / "one"]
