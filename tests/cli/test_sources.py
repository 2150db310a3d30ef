"""A folder that is not there, and a Hub that cannot be reached, are told at once."""

import time

import pytest
from huggingface_hub import HfApi, constants

from hf_causal_clf.backbone.loading import read_decoder_config
from hf_causal_clf.cli.sources import check_source, missing_folder
from hf_causal_clf.runs.run import Run


@pytest.mark.parametrize(
    "source", ["./nope", "../nope", "/nope/model", "~/nope", "runs/quickstart/embed", "runs/", ".hidden", "a b/c"]
)
def test_what_can_only_be_a_folder_is_told_as_one(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a clone may have runs
    assert missing_folder(source).startswith(f"There is no folder {source!r}, and a Hub id has the form user/name.")
    with pytest.raises(OSError, match="There is no folder"):
        check_source(source, "config.json")


@pytest.mark.parametrize("source", ["gpt2", "user/name", "user/name-1.5_b", "runs/mine"])
def test_what_may_be_a_hub_id_passes(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert missing_folder(source) is None


def test_a_folder_passes_and_its_home_is_spelled_out(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert missing_folder(str(tmp_path / "model")) is None
    assert f"Write {str(tmp_path / 'model')!r}: ~ stands" in missing_folder("~/model")


@pytest.mark.parametrize(("read", "file"), [(read_decoder_config, "config.json"), (Run.read, "classification.json")])
def test_a_hub_that_cannot_be_reached_is_asked_once(read, file, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    start = time.monotonic()
    with pytest.raises(OSError, match=r"no folder 'runs/mine', and the Hub, where 'runs/mine' may be .*cannot be"):
        read("runs/mine")
    assert time.monotonic() - start < 5
    asked = []
    monkeypatch.setattr(HfApi, "model_info", lambda *args, **kwargs: asked.append(args))
    monkeypatch.setattr("hf_causal_clf.cli.sources.try_to_load_from_cache", lambda *args: str(tmp_path / file))
    check_source("runs/mine", file)
    assert not asked
