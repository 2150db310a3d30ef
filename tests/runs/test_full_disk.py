"""A full disk and a read-only folder: an error that says so, earlier results as they were, and a way on."""

import errno
import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rows, write_jsonl
from safetensors.torch import save
from test_classifier import save_folder
from test_recipes import arguments
from test_recipes import run as run_recipe

from hf_causal_clf import TextClassifier
from hf_causal_clf.runs.disk import naming_full_disk
from hf_causal_clf.training.checkpoints import whole_checkpoints

MEGABYTE = 2**20


def mount(folder, *options):
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk, leave):
    """Fill a file system but for so many bytes; returns the file that takes the room."""
    filler = disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - leave))
    return filler


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("recipe", "room"), [("embed", 20), ("embed", 400), ("instruct", 400)])
def test_training_on_a_full_disk_loses_nothing_and_goes_on(
    checkpoint, files, disk, tmp_path, monkeypatch, recipe, room
):
    """Room for no checkpoint at all, and for a part of one."""
    run_recipe(recipe, arguments(recipe, checkpoint, files, tmp_path / "whole"), monkeypatch)
    run_recipe(recipe, arguments(recipe, checkpoint, files, disk / "run"), monkeypatch)
    earlier = contents(disk / "run")
    filler = fill(disk, room * 1024)
    again = arguments(recipe, checkpoint, files, disk / "run", overwrite_output_dir="true")
    with pytest.raises(
        OSError, match=r"The disk of '.*run' is full\. What was finished before is as it was\. Free"
    ) as e:
        run_recipe(recipe, again, monkeypatch)
    assert e.value.errno == errno.ENOSPC
    left = contents(disk / "run")
    assert {name: left[name] for name in earlier} == earlier
    going_on = ("checkpoint-", "runs/", ".unfinished/saved.json")  # what the next start takes up or removes
    assert not [name for name in left if name not in earlier and not name.startswith(going_on)]

    filler.unlink()
    if whole_checkpoints(disk / "run"):
        again += ["--resume_from_checkpoint", "true"]
    run_recipe(recipe, again, monkeypatch)
    texts = [row["text"] for row in make_rows(6)]
    found, wanted = (
        TextClassifier.from_pretrained(folder).predict_proba(texts) for folder in (disk / "run", tmp_path / "whole")
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("recipe", ["embed", "instruct"])
def test_weights_that_find_no_room_lose_nothing(checkpoint, files, tmp_path, monkeypatch, recipe):
    """As above where no file system can be mounted: half of the adapter is written, then there is no more room."""
    command = arguments(recipe, checkpoint, files, tmp_path / "run", overwrite_output_dir="true")
    run_recipe(recipe, command, monkeypatch)
    earlier = contents(tmp_path / "run")

    def half(tensors, path, **kwargs):
        whole = save(tensors, **kwargs)
        Path(path).write_bytes(whole[: len(whole) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("peft.peft_model.safe_save_file", half)
        with pytest.raises(OSError, match=r"The disk of '.*run' is full"):
            run_recipe(recipe, command, monkeypatch)
    left = contents(tmp_path / "run")
    assert {name: left.get(name) for name in earlier} == earlier
    run_recipe(recipe, command, monkeypatch)
    TextClassifier.from_pretrained(tmp_path / "run")


def test_saving_on_a_full_disk_keeps_the_earlier_run(checkpoint, files, disk, monkeypatch):
    """Without checkpoints, the first files are those of the finished run."""
    options = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": "false"}
    options["overwrite_output_dir"] = "true"
    run_recipe("embed", arguments("embed", checkpoint, files, disk / "run", **options), monkeypatch)
    earlier = contents(disk / "run")
    fill(disk, 20 * 1024)
    with pytest.raises(OSError, match=r"The disk of '.*run' is full"):
        run_recipe("embed", arguments("embed", checkpoint, files, disk / "run", **options), monkeypatch)
    left = contents(disk / "run")
    assert {name: left.get(name) for name in earlier} == earlier
    TextClassifier.from_pretrained(disk / "run")


def test_prediction_on_a_full_disk_goes_on_from_its_shards(checkpoint, disk, tmp_path, monkeypatch):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    documents = write_jsonl(tmp_path / "documents.jsonl", make_rows(40))
    predict = ["--model_name_or_path", str(tmp_path / "run"), "--test_file", documents, "--shard_size", "8"]
    run_recipe("predict", [*predict, "--output_dir", str(tmp_path / "whole")], monkeypatch)
    filler = fill(disk, 16 * 1024)
    with pytest.raises(OSError, match=r"The disk of '.*out' is full.*a prediction or a comparison from what is there"):
        run_recipe("predict", [*predict, "--output_dir", str(disk / "out")], monkeypatch)
    before = contents(disk / "out")
    whole = contents(tmp_path / "whole")
    assert 0 < len(before) < len(whole)
    assert all(whole[name] == digest for name, digest in before.items() if name.startswith("shard-"))
    filler.unlink()
    run_recipe("predict", [*predict, "--output_dir", str(disk / "out")], monkeypatch)
    assert contents(disk / "out") == whole


@pytest.mark.parametrize("recipe", ["embed", "predict"])
def test_a_read_only_folder_is_named_before_anything_is_loaded(checkpoint, files, disk, tmp_path, monkeypatch, recipe):
    (disk / "run").mkdir()
    (disk / "run" / "notes.txt").write_text("{}")
    mount(disk, "-o", "remount,ro")
    if recipe == "embed":
        command = arguments("embed", checkpoint, files, disk / "run")
    else:
        save_folder(tmp_path / "run", checkpoint, "embedding")
        command = ["--model_name_or_path", str(tmp_path / "run"), "--test_file", files["test_file"]]
        command += ["--output_dir", str(disk / "run")]
    monkeypatch.setattr("hf_causal_clf.embedding.model.PreTrainedModel.from_pretrained", None)
    with pytest.raises(
        OSError, match=r"Nothing can be written into '.*run' \(Read-only file system\)\. Choose another"
    ):
        run_recipe(recipe, command, monkeypatch)
    assert contents(disk) == {"run/notes.txt": hashlib.sha256(b"{}").hexdigest()}


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    for error in (ValueError("no"), OSError(errno.EACCES, "denied"), KeyError("x")):
        with pytest.raises(type(error)) as found, naming_full_disk(tmp_path):
            raise error
        assert found.value is error
    with pytest.raises(OSError, match=r"The disk of .* is full"), naming_full_disk(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
