import json
import os
from pathlib import Path

try:
    import httpx2  # that of huggingface_hub 2
except ImportError:
    import httpx as httpx2
import hub_client
import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError
from hub_server import HubServer
from huggingface_hub import HfApi, HfFileSystem, constants, errors
from huggingface_hub.utils import get_session
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def api(hub, tmp_path):
    """The client of the user, in this process."""
    with hub_client.using(hub, tmp_path / "home", hub.token):
        yield HfApi()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    (path / "sub").mkdir(parents=True)
    (path / "config.json").write_text('{"a": "é"}', encoding="utf-8")
    (path / "sub" / "notes.txt").write_text("notes", encoding="utf-8")
    (path / "empty.txt").touch()
    save_file({"weight": np.arange(100_000, dtype=np.float32)}, path / "model.safetensors")
    return path


@pytest.fixture
def pushed(api, hub, folder):
    """A repository with the folder as its first commit."""
    api.create_repo("alice/model")
    return api.upload_folder(repo_id="alice/model", folder_path=folder, commit_message="First").oid


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pushed_folder_comes_back_whole(api, hub, folder, pushed):
    assert hub.files("alice/model") == contents(folder)
    snapshot = api.snapshot_download("alice/model", allow_patterns=["*.json", "*.txt", "*.safetensors"])
    assert snapshot.endswith(pushed)
    assert load_file(f"{snapshot}/model.safetensors")["weight"][-1] == 99_999
    for path, content in contents(folder).items():
        assert Path(snapshot, path).read_bytes() == content

    assert api.whoami()["name"] == "alice"
    assert api.auth_check("alice/model") is None
    info = api.repo_info("alice/model", files_metadata=True)
    sizes = {file.rfilename: (file.size, bool(file.lfs)) for file in info.siblings}
    assert info.sha == pushed
    assert sizes["model.safetensors"] == ((folder / "model.safetensors").stat().st_size, True)
    assert sizes["sub/notes.txt"] == (5, False)
    assert {entry.path for entry in api.list_repo_tree("alice/model")} >= {"config.json", "sub"}
    assert [entry.path for entry in api.list_repo_tree("alice/model", "sub")] == ["sub/notes.txt"]
    assert {entry.path for entry in api.get_paths_info("alice/model", ["sub", "config.json", "no"])} == {
        "sub",
        "config.json",
    }
    assert [commit.title for commit in api.list_repo_commits("alice/model")] == ["First", "initial commit"]
    assert not api.verify_repo_checksums("alice/model", local_dir=folder).mismatches


def test_the_token_does_not_go_to_the_storage(api, hub, pushed):
    api.hf_hub_download("alice/model", "model.safetensors")
    stored = [request for request in hub.requests if request.route in ("lfs_put", "lfs_get")]
    assert {request.route for request in stored} == {"lfs_put", "lfs_get"}
    assert not any("authorization" in request.headers for request in stored)
    assert hub.outside == []


def test_a_second_push_sends_what_changed(api, hub, folder, pushed):
    del hub.requests[:]
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "empty.txt").unlink()
    second = api.upload_folder(repo_id="alice/model", folder_path=folder, delete_patterns="*.txt").oid
    assert hub.files("alice/model") == contents(folder)
    (commit,) = (request for request in hub.requests if request.route == "commit")
    assert [(line["key"], line["value"].get("path")) for line in commit.lines[1:]] == [
        ("deletedFile", "empty.txt"),
        ("file", "config.json"),
    ]
    assert "lfs_put" not in hub.routes()

    api.create_tag("alice/model", tag="v1", revision=pushed)
    api.create_branch("alice/model", branch="side/branch", revision=pushed)
    on_branch = api.upload_file(
        repo_id="alice/model", path_or_fileobj=b"1", path_in_repo="new.txt", revision="side/branch"
    )
    for revision, config in [("main", "{}"), (second, "{}"), (pushed, '{"a": "é"}'), ("v1", '{"a": "é"}')]:
        with open(api.hf_hub_download("alice/model", "config.json", revision=revision), encoding="utf-8") as file:
            assert file.read() == config
    assert api.file_exists("alice/model", "new.txt", revision="side/branch")
    assert not api.file_exists("alice/model", "new.txt")
    refs = api.list_repo_refs("alice/model")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "side/branch": on_branch.oid}
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", pushed)]
    api.delete_tag("alice/model", tag="v1")
    api.delete_branch("alice/model", branch="side/branch")
    assert not api.revision_exists("alice/model", "v1")

    assert api.upload_folder(repo_id="alice/model", folder_path=folder).oid == second
    api.delete_folder("sub", "alice/model")
    assert "sub/notes.txt" not in hub.files("alice/model")


def test_a_commit_on_an_old_parent_is_refused(api, hub, folder, pushed):
    api.upload_file(repo_id="alice/model", path_or_fileobj=b"1", path_in_repo="a.txt", parent_commit=pushed)
    with pytest.raises(errors.HfHubHTTPError, match="A commit has happened since"):
        api.upload_file(repo_id="alice/model", path_or_fileobj=b"2", path_in_repo="a.txt", parent_commit=pushed)
    assert hub.files("alice/model")["a.txt"] == b"1"


def test_errors_have_the_types_of_the_hub(api, hub, pushed):
    with pytest.raises(errors.RepositoryNotFoundError, match="404"):
        api.hf_hub_download("alice/none", "config.json")
    with pytest.raises(errors.RepositoryNotFoundError, match="401"):
        api.repo_info("alice/none", token=False)
    with pytest.raises(errors.RepositoryNotFoundError):
        api.repo_info("alice/model", repo_type="dataset")
    with pytest.raises(errors.RepositoryNotFoundError):
        api.repo_info("gpt2")
    with pytest.raises(errors.RepositoryNotFoundError):
        api.upload_file(repo_id="alice/none", path_or_fileobj=b"", path_in_repo="a")
    with pytest.raises(errors.EntryNotFoundError):
        api.hf_hub_download("alice/model", "none.json")
    with pytest.raises(errors.RevisionNotFoundError):
        api.hf_hub_download("alice/model", "config.json", revision="none")
    with pytest.raises(errors.RevisionNotFoundError):
        api.upload_file(repo_id="alice/model", path_or_fileobj=b"", path_in_repo="a", revision="none")
    with pytest.raises(errors.EntryNotFoundError):
        api.delete_file("none.json", "alice/model")
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        api.create_repo("alice/model")
    assert api.create_repo("alice/model", exist_ok=True).repo_id == "alice/model"
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        api.create_repo("bob/model")
    api.delete_repo("alice/model")
    with pytest.raises(errors.RepositoryNotFoundError):
        api.delete_repo("alice/model")


def test_private_and_gated_repositories_are_their_owners(api, hub, folder, tmp_path):
    def download(path: str, token: str | bool) -> str:
        return api.hf_hub_download("alice/private", path, token=token, cache_dir=tmp_path / "others")

    bob = hub.add_user("bob")
    api.create_repo("alice/private", private=True)
    api.upload_folder(repo_id="alice/private", folder_path=folder)
    assert api.repo_info("alice/private").private
    for path in ("config.json", "model.safetensors"):
        assert api.hf_hub_download("alice/private", path)
        for token, status in [(False, "401"), (bob, "404")]:
            with pytest.raises(errors.RepositoryNotFoundError, match=status):
                download(path, token)
    with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials"):
        api.repo_info("alice/private", token="hf_wrong")

    api.update_repo_settings("alice/private", private=False, gated="auto")
    assert api.repo_info("alice/private", token=False).gated == "auto"
    for token, status in [(False, "401"), (bob, "403")]:
        with pytest.raises(errors.GatedRepoError, match=status):
            download("config.json", token)
    hub.repo("alice/private").granted.add("bob")
    assert download("config.json", bob)
    for token in (bob, hub.read_token):
        with pytest.raises(errors.HfHubHTTPError, match="write token of the owner"):
            api.upload_file(repo_id="alice/private", path_or_fileobj=b"", path_in_repo="a", token=token)


@pytest.mark.parametrize(
    ("route", "status", "tries", "error"),
    [
        ("lfs_put", 403, 1, RuntimeError),
        ("lfs_put", 500, 6, RuntimeError),
        ("lfs_put", None, 6, RuntimeError),
        ("lfs_verify", 404, 1, RuntimeError),
        ("commit", 500, 1, errors.HfHubHTTPError),
        ("commit", None, 1, httpx2.RemoteProtocolError),
    ],
)
def test_a_push_that_fails_half_way_publishes_nothing(api, hub, folder, pushed, route, status, tries, error):
    save_file({"weight": np.ones(10, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    before = hub.files("alice/model")
    with hub.fail(route, status) as failed, pytest.raises(error):
        api.upload_folder(repo_id="alice/model", folder_path=folder)
    assert [request.status for request in failed] == [status] * tries
    assert hub.files("alice/model") == before
    assert api.repo_info("alice/model").sha == pushed
    api.upload_folder(repo_id="alice/model", folder_path=folder)
    assert hub.files("alice/model") == contents(folder)


def test_a_lost_connection_and_a_lost_answer(api, hub, folder, pushed):
    save_file({"weight": np.ones(10, dtype=np.float32)}, folder / "model.safetensors")
    with hub.fail("lfs_put", status=None, times=1) as failed:
        api.upload_folder(repo_id="alice/model", folder_path=folder)
    assert len(failed) == 1
    assert hub.files("alice/model") == contents(folder)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with hub.fail("commit", status=None, after=True), pytest.raises(httpx2.RemoteProtocolError):
        api.upload_folder(repo_id="alice/model", folder_path=folder)
    assert hub.files("alice/model") == contents(folder)


def test_find_sees_all_that_was_sent(api, hub, folder, pushed):
    save_file({"weight": np.ones(10, dtype=np.float32)}, folder / "x.safetensors", metadata={"note": "in-weights"})
    (folder / "ünder.txt").write_text("filler " * 100 + "gehéim", encoding="utf-8")
    assert hub.find("in-weights") == []
    with hub.fail("commit", 500), pytest.raises(errors.HfHubHTTPError):
        api.upload_folder(repo_id="alice/model", folder_path=folder, commit_message="said hére")
    assert any("/storage/" in place for place in hub.find("in-weights"))
    assert any(place.endswith("ünder.txt") for place in hub.find("gehéim"))
    assert hub.find("said hére")
    assert hub.find("ünder.txt")
    assert hub.find(hub.token) == []


def test_parts_of_a_file_can_be_read(api, hub, folder, pushed):
    whole = (folder / "model.safetensors").read_bytes()
    files = HfFileSystem()
    assert files.read_bytes("alice/model/model.safetensors", start=10, end=30) == whole[10:30]
    with files.open("alice/model/model.safetensors", block_size=2**16) as file:
        file.seek(-8, 2)
        assert file.read() == whole[-8:]
    assert api.get_safetensors_metadata("alice/model").parameter_count == {"F32": 100_000}
    assert hub.outside == []


def test_a_local_path_as_base_model_is_refused_as_by_the_hub(api, hub):
    api.create_repo("alice/model")

    def push(card: str):
        return api.upload_file(repo_id="alice/model", path_or_fileobj=card.encode(), path_in_repo="README.md")

    for value in (" /tmp/base", "\n- ok/ok\n- runs/a/b"):
        with pytest.raises(ValueError, match="Use a model id from"):
            push(f"---\nlibrary_name: peft\nbase_model:{value}\nlicense: mit\n---\ntext\n")
    push("---\nbase_model: HuggingFaceTB/SmolLM2-135M\n---\ntext\n")
    with pytest.warns(UserWarning, match="empty or missing yaml"):
        push("text\n")


def test_what_leaves_the_loopback_is_refused_and_seen(api, hub):
    with pytest.raises(httpx2.ProxyError, match="403"):
        get_session().get("https://huggingface.co/api/models/gpt2")
    assert hub.outside == ["huggingface.co:443"]


def test_the_process_is_as_before_afterwards(hub, tmp_path):
    before = constants.ENDPOINT, constants.HF_HUB_CACHE, dict(os.environ)
    with hub_client.using(hub, tmp_path, hub.token):
        assert HfApi().whoami()["name"] == "alice"
        hub.close()
        with pytest.raises(httpx2.TransportError):
            HfApi().whoami()
    assert (constants.ENDPOINT, constants.HF_HUB_CACHE, dict(os.environ)) == before
    assert constants.is_offline_mode()


def test_transformers_pushes_and_loads(api, hub, tokenizer, tmp_path):
    model = tiny.make_causal_lm("llama", len(tokenizer))
    model.push_to_hub("alice/llama", private=True)
    tokenizer.push_to_hub("alice/llama")
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(hub.files("alice/llama"))
    assert hub.repo("alice/llama").private
    loaded = AutoModelForCausalLM.from_pretrained("alice/llama")
    batch = AutoTokenizer.from_pretrained("alice/llama")("the cat sat", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
    with pytest.raises(OSError, match="alice/llama"):
        AutoTokenizer.from_pretrained("alice/llama", token=False, cache_dir=tmp_path)
    assert hub.outside == []


def test_peft_pushes_and_loads(api, hub, tokenizer):
    tiny.make_causal_lm("llama", len(tokenizer)).push_to_hub("alice/base")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("alice/base"), config).eval()
    revision = model.push_to_hub("alice/adapter").oid
    assert set(hub.files("alice/adapter")) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert json.loads(hub.files("alice/adapter")["adapter_config.json"])["base_model_name_or_path"] == "alice/base"
    ids = torch.tensor([[5, 6, 7]])
    for loaded in (
        AutoPeftModelForCausalLM.from_pretrained("alice/adapter", revision=revision),
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("alice/base"), "alice/adapter"),
        AutoModelForCausalLM.from_pretrained("alice/adapter"),
    ):
        with torch.no_grad():
            torch.testing.assert_close(loaded.eval()(ids).logits, model(ids).logits)
    assert hub.outside == []


def test_datasets_loads_and_pushes(api, hub, tmp_path):
    rows = {"text": ["a", "b", "c"], "label": [0, 1, 0]}
    api.create_repo("alice/rows", repo_type="dataset", private=True)
    Dataset.from_dict(rows).to_json(tmp_path / "train.jsonl")
    Dataset.from_dict(rows).to_parquet(tmp_path / "test.parquet")
    first = api.upload_file(
        repo_id="alice/rows", repo_type="dataset", path_or_fileobj=tmp_path / "train.jsonl", path_in_repo="train.jsonl"
    )
    assert load_dataset("alice/rows", split="train").to_dict() == rows
    Dataset.from_dict(rows).push_to_hub("alice/parquet")
    assert load_dataset("alice/parquet", split="train").to_dict() == rows
    api.upload_file(
        repo_id="alice/rows",
        repo_type="dataset",
        path_or_fileobj=b'{"text": "d", "label": 1}',
        path_in_repo="train.jsonl",
    )
    assert load_dataset("alice/rows", split="train").to_dict() == {"text": ["d"], "label": [1]}
    assert load_dataset("alice/rows", split="train", revision=first.oid).num_rows == 3
    api.upload_file(
        repo_id="alice/rows",
        repo_type="dataset",
        path_or_fileobj=tmp_path / "test.parquet",
        path_in_repo="parquet/test.parquet",
    )
    files = {"test": "hf://datasets/alice/rows/parquet/test.parquet"}
    assert load_dataset("parquet", data_files=files, split="test").num_rows == 3
    with pytest.raises(DatasetNotFoundError, match="alice/rows"):
        load_dataset("alice/rows", token=False, cache_dir=tmp_path / "others")
    assert hub.outside == []


PUSH_AND_LOAD = """
import sys
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

AutoModelForCausalLM.from_pretrained(sys.argv[1]).push_to_hub("alice/llama")
AutoTokenizer.from_pretrained(sys.argv[1]).push_to_hub("alice/llama")
AutoModelForCausalLM.from_pretrained("alice/llama")
AutoTokenizer.from_pretrained("alice/llama")
Dataset.from_dict({"text": ["a"]}).push_to_hub("alice/rows")
print(load_dataset("alice/rows")["train"][0])
"""


def test_a_process_of_its_own(hub, checkpoint, tmp_path):
    done = hub_client.run(hub, ["-c", PUSH_AND_LOAD, checkpoint], tmp_path / "home", hub.token)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'text': 'a'}"
    assert "model.safetensors" in hub.files("alice/llama")
    assert hub.outside == []
