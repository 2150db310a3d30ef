"""Spaces that show a run, against a Hub on loopback: what is in them, and what is never replaced there."""

import ast
import re
from importlib.metadata import version
from pathlib import Path

import hub_client
import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import HfApi
from packaging.requirements import Requirement
from test_classifier import save_folder

from hf_causal_clf import __version__
from hf_causal_clf.serving import space
from hf_causal_clf.serving.demo import run_demo
from hf_causal_clf.serving.space import push_space

RUN, SPACE = "alice/news", "alice/news-demo"


@pytest.fixture(scope="module")
def finished(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "run"
    save_folder(folder, checkpoint, "embedding")
    return folder


@pytest.fixture
def hub(finished, tmp_path, monkeypatch):
    """A Hub with a run on it."""
    monkeypatch.setattr(space, "version", lambda name: "6.31.0" if name == "gradio" else version(name))
    with HubServer() as server, hub_client.using(server, tmp_path / "home", server.token):
        HfApi().create_repo(RUN)
        HfApi().upload_folder(repo_id=RUN, folder_path=finished, ignore_patterns="README.md")
        yield server


def files(hub):
    return {name: content.decode() for name, content in hub.files(SPACE, repo_type="space").items()}


def test_the_files_of_a_space(hub):
    address = push_space(SPACE, RUN, examples=["a 'text'", "\n<b>"], max_documents=10)
    assert address == f"{hub.url}/spaces/{SPACE}"
    found = files(hub)
    assert set(found) == {"README.md", "app.py", "requirements.txt"}
    metadata = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", found["README.md"], re.DOTALL)[1])
    assert metadata["title"] == "news-demo"
    assert (metadata["sdk"], metadata["sdk_version"], metadata["app_file"]) == ("gradio", "6.31.0", "app.py")
    assert metadata["models"] == [RUN]

    given = {}
    module = ast.parse(found["app.py"])
    assert [ast.unparse(each) for each in module.body[:-1]] == [
        f"from {run_demo.__module__} import {run_demo.__name__}"
    ]
    exec(ast.unparse(module.body[-1]), {"run_demo": lambda name, **options: given.update(options, name=name)})
    assert given["name"] == RUN
    assert given["revision"] == HfApi().model_info(RUN).sha
    assert (given["host"], given["port"]) == ("0.0.0.0", 7860)
    assert (given["examples"], given["max_documents"]) == (["a 'text'", "\n<b>"], 10)

    pins = {pin.name: pin for pin in map(Requirement, found["requirements.txt"].split())}
    assert str(pins.pop("hf_causal_clf")) == f"hf_causal_clf[demo]=={__version__}"
    assert all(pin.specifier.contains(version(name), prereleases=True) for name, pin in pins.items())
    assert {"torch", "transformers", "peft"} <= set(pins)
    assert not hub.outside
    assert not hub.find(str(Path.home()) + "/")


def test_a_space_is_written_again_beside_what_others_have_added(hub):
    push_space(SPACE, RUN)
    before = files(hub)
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=SPACE, repo_type="space")
    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="extra.json", repo_id=RUN)
    push_space(SPACE, RUN, max_documents=5)
    after = files(hub)
    assert after["notes.txt"] == "mine"
    assert HfApi().model_info(RUN).sha in after["app.py"]
    assert "max_documents=5" in after["app.py"]
    assert after["app.py"] != before["app.py"]
    push_space(SPACE, RUN, revision=hub.repo(RUN).at("main").parent.id)
    assert hub.repo(RUN).at("main").parent.id in files(hub)["app.py"]


@pytest.mark.parametrize("name", ["README.md", "app.py", "requirements.txt"])
def test_what_somebody_has_changed_is_not_replaced(hub, name):
    push_space(SPACE, RUN)
    HfApi().upload_file(path_or_fileobj=b"# mine\n", path_in_repo=name, repo_id=SPACE, repo_type="space")
    before = hub.repo(SPACE, "space").at("main").id
    with pytest.raises(ValueError, match=rf"has files that somebody has written or changed \({re.escape(name)}\)"):
        push_space(SPACE, RUN)
    assert hub.repo(SPACE, "space").at("main").id == before


@pytest.mark.parametrize("name", ["app.py", "index.html"])
def test_somebody_elses_space_is_not_replaced(hub, name):
    HfApi().create_repo(SPACE, repo_type="space", space_sdk="gradio")
    HfApi().upload_file(path_or_fileobj=b"# mine\n", path_in_repo=name, repo_id=SPACE, repo_type="space")
    before = hub.repo(SPACE, "space").at("main").id
    with pytest.raises(ValueError, match=name):
        push_space(SPACE, RUN)
    assert hub.repo(SPACE, "space").at("main").id == before


def test_a_new_space_that_has_nothing_yet_is_written(hub):
    HfApi().create_repo(SPACE, repo_type="space", space_sdk="gradio")
    push_space(SPACE, RUN)
    assert "app.py" in files(hub)


def test_what_is_pushed_meanwhile_is_not_replaced(hub, monkeypatch):
    push_space(SPACE, RUN)
    check = space._check_untouched

    def check_and_change(api, repo_id):
        head = check(api, repo_id)
        api.upload_file(path_or_fileobj=b"# mine\n", path_in_repo="app.py", repo_id=repo_id, repo_type="space")
        return head

    monkeypatch.setattr(space, "_check_untouched", check_and_change)
    with pytest.raises(OSError, match=f"The Space '{SPACE}' cannot be written: .*412"):
        push_space(SPACE, RUN)
    assert files(hub)["app.py"] == "# mine\n"


@pytest.mark.parametrize(
    ("of_the_run", "given", "expected"), [(False, None, False), (True, None, True), (True, False, False)]
)
def test_a_space_is_private_where_the_run_is(hub, of_the_run, given, expected):
    hub.repo(RUN).private = of_the_run
    push_space(SPACE, RUN, private=given)
    assert hub.repo(SPACE, "space").private is expected


def test_what_cannot_be_pushed(hub, finished, tmp_path):
    with pytest.raises(ValueError, match=r"is a folder\. Push the run, and give its id: .*push_to_hub\('user/name'\)"):
        push_space(SPACE, str(finished))
    HfApi().create_repo("alice/nothing")
    with pytest.raises(FileNotFoundError, match=r"has no classification\.json"):
        push_space(SPACE, "alice/nothing")
    with pytest.raises(OSError, match=r"(?s)The Space 'bob/demo' cannot be written: .* Log in with `hf auth login`"):
        push_space("bob/demo", RUN)
    assert not [key for key in hub.repos if key[0] == "space"]
