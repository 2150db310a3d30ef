"""The page of a run in a real browser, Debian's Chromium, from the command in a process of its own.

Needs `apt-get install chromium` and `pip install '.[demo,browser]'`. `DEMO_SCREENSHOTS=folder` keeps pictures to look at.
"""

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import hub_client
import numpy as np
import pytest
from hub_server import HubServer
from huggingface_hub import HfApi
from test_classifier import save_folder
from test_hub import BASE, REPO, finish

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.evaluation.selective import Abstention
from hf_causal_clf.runs.run import Run
from hf_causal_clf.serving.space import push_space
from hf_causal_clf.sharing.hub import push_run

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
AXE = importlib.util.find_spec("axe_playwright_python")
GRADIO = importlib.util.find_spec("gradio")
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 700}
HOSTILE = "</script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>${alert(3)}{{value}}"
LABELS = ("sport", HOSTILE, "business")
TEXT = "the football match and the shares <b>bold</b>"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and AXE and GRADIO), reason="no chromium, gradio or axe-playwright-python"),
]


@pytest.fixture(scope="module", params=[False, True], ids=["single", "multi"])
def run(request, checkpoint, tmp_path_factory):
    """A run with a hostile label name that is not sure of everything."""
    multi_label, folder = request.param, tmp_path_factory.mktemp("demo") / "run"
    save_folder(folder, checkpoint, "embedding", LabelSpace(LABELS, multi_label))
    calibration = Calibration((0.5, 1.0, 2.0), (0.4, 0.5, 0.6)) if multi_label else Calibration(0.25)
    abstention = Abstention(0.1, (0.0, 1.5, 0.0) if multi_label else (1.5,))
    replace(Run.read(folder), calibration=calibration, abstention=abstention).write(folder)
    return folder


@contextmanager
def started(words, hub, temporary, token=None):
    """A process that shows a page; its Hub, and its proxy, which notes what leaves this machine, is the server."""
    variables = {**hub_client.environment(hub, temporary / "home", token), "TMPDIR": str(temporary)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, env=variables, **streams) as process:
        lines = []
        while not (found := re.search(r"Open http://[\d.]+:(\d+) in a browser", "".join(lines))):
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        try:
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said.replace("Traceback", "", said.count("InvalidPathError"))  # Gradio's of a bad path
    assert not hub.outside


@pytest.fixture(scope="module")
def server(run, browser, tmp_path_factory):
    """Its address. It has to stop while a page is open, and to leave no file."""
    temporary = tmp_path_factory.mktemp("files")
    command = ["-m", "hf_causal_clf_command", "demo", "--model_name_or_path", str(run), "--port", "0"]
    limits = ["--max_request_bytes", "5000", "--max_documents", "4"]
    with HubServer() as hub:
        with started([*command, *limits], hub, temporary) as address:
            yield address
            page = browser.new_page()
            page.goto(address)
            page.get_by_label("Document").wait_for()
            assert list(temporary.glob("hf-causal-clf-demo-*"))
        assert not hub.requests
    assert not list(temporary.glob("hf-causal-clf-demo-*"))
    page.close()


@pytest.fixture
def opened(browser, server):
    """Opens the page; the browser has to say nothing of it, and to ask no other host."""
    contexts, said = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: None if of(server, request.url) else said.append(request.url))
        page.goto(server)
        page.get_by_label("Document").wait_for()
        return page

    yield open_page
    assert said == []
    for context in contexts:
        context.close()


def of(server, url):
    return url.startswith((f"{server}/", "data:", f"blob:{server}/"))


def look(page, name, run):
    if folder := os.environ.get("DEMO_SCREENSHOTS"):
        kind = "multi" if TextClassifier.from_pretrained(run).label_space.multi_label else "single"
        page.screenshot(path=Path(folder) / f"{name}-{kind}.png", full_page=True)


def ask(page, text):
    page.get_by_label("Document").fill(text)
    page.get_by_role("button", name="Classify", exact=True).click()
    page.locator(".answer table:visible, .answer [role=alert]:visible").first.wait_for()


def cells(page):
    rows = page.locator(".answer tbody tr:visible").all()
    return [[each.inner_text().strip() for each in row.locator("th, td").all()] for row in rows]


def test_a_document_gets_the_answer_of_the_classifier(opened, run):
    page, classifier = opened(viewport=WIDE), TextClassifier.from_pretrained(run)
    ask(page, TEXT)
    look(page, "wide-document", run)
    probabilities = classifier.predict_proba(TEXT)
    order = np.argsort(-probabilities, kind="stable")
    found = cells(page)
    assert [row[0] for row in found] == [LABELS[index] for index in order]
    assert [row[1] for row in found] == [f"{probabilities[index]:.3f}" for index in order]
    heading = page.locator(".answer h2").inner_text()
    if classifier.label_space.multi_label:
        assert [row[2] for row in found] == [f"{(0.4, 0.5, 0.6)[index]:.3f}" for index in order]
        expected = classifier.predict(TEXT, abstain=True)
        assert [row[0] for row in found if "not sure" in row[3]] == [
            name for name, said in expected.items() if said is None
        ]
        assert heading == (", ".join(classifier.predict(TEXT)) or "None of the labels")
    else:
        assert heading == "No answer: not sure enough"
        assert page.get_by_text("The most probable label would be").inner_text().endswith(f"{LABELS[order[0]]}.")
    assert page.locator("img").count() == 0


def test_an_example_is_the_name_of_a_label(opened):
    page = opened()
    page.get_by_role("button", name="business", exact=True).click()
    page.wait_for_function("document.querySelector('textarea').value == 'business'")
    page.get_by_role("button", name=HOSTILE[:30]).click()  # a long one is cut on its button
    page.wait_for_function("text => document.querySelector('textarea').value == text", arg=HOSTILE)


def test_a_file_is_classified_and_comes_back(opened, run, tmp_path):
    page, classifier = opened(viewport=WIDE, accept_downloads=True), TextClassifier.from_pretrained(run)
    source = tmp_path / "docu<i>ments.csv"
    rows = [["k1", TEXT], ["k2", ""], ["k3", 'a "cat",\non a mat']]
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([["key", "speech"], *rows])
    page.get_by_role("tab", name="A CSV file").click()
    page.locator("input[type=file]").set_input_files(source)
    page.get_by_role("button", name="Remove").or_(page.get_by_label("Clear")).first.wait_for()
    page.get_by_role("button", name="Classify all").click()
    page.get_by_text("It is not clear which column is the text; there are ['key', 'speech']. Name it.").wait_for()
    page.get_by_label("Text column").fill("speech")
    page.get_by_role("button", name="Classify all").click()
    page.get_by_text("3 documents: ").wait_for()
    look(page, "wide-file", run)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the answers").click()
    assert download.value.suggested_filename == "answers.csv"
    with open(download.value.path(), newline="") as file:
        found = list(csv.DictReader(file))
    assert [[row["key"], row["speech"]] for row in found] == rows
    texts = [rows[0][1], rows[2][1]]
    probabilities = [[float(row[f"probabilities.{name}"]) for name in LABELS] for row in (found[0], found[2])]
    np.testing.assert_allclose(probabilities, classifier.predict_proba(texts), atol=1e-5)
    said = [row["predicted"] for row in (found[0], found[2])]
    multi_label = classifier.label_space.multi_label
    assert (list(map(json.loads, said)) if multi_label else said) == classifier.predict(texts)
    assert found[1]["predicted"] == found[1]["probabilities.sport"] == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened, run, scheme):
    page = opened(color_scheme=scheme, viewport=WIDE)
    script = (Path(AXE.origin).parent / "axe.min.js").read_text(encoding="utf-8")
    for tab in ("A document", "A CSV file"):
        page.get_by_role("tab", name=tab).click()
        if tab == "A document":
            ask(page, TEXT)
        page.wait_for_timeout(500)  # transitions of colours
        found = page.evaluate(script + "; axe.run(document, {resultTypes: ['violations']})")
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []
        assert len(found["passes"]) > 15


def test_nothing_is_wider_than_a_phone(opened, run):
    page = opened(viewport=PHONE, color_scheme="dark")
    ask(page, TEXT)
    look(page, "phone-document", run)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.get_by_role("tab", name="A CSV file").click()
    page.wait_for_timeout(300)
    look(page, "phone-file", run)
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_limits_and_empty_documents(opened, tmp_path):
    page = opened()
    for text, said in ((" ", "The document is empty"), ("word " * 1001, "more than 5,000 bytes")):
        page.get_by_label("Document").fill(text)
        page.get_by_role("button", name="Classify", exact=True).click()
        page.locator(".answer [role=alert]", has_text=said).wait_for()
    page.get_by_role("tab", name="A CSV file").click()
    page.get_by_role("button", name="Classify all").click()
    page.get_by_text("There is no file, or it was removed").wait_for()
    source = tmp_path / "documents.csv"
    source.write_text("text\n" + "a\n" * 5)
    page.locator("input[type=file]").set_input_files(source)
    page.get_by_text("documents.csv").wait_for()
    page.get_by_role("button", name="Classify all").click()
    page.get_by_text("The file has more than 4 documents").wait_for()


def test_the_server_gives_nothing_else(server, run):
    from httpx import Client

    with Client(base_url=server, trust_env=False) as client:
        page = client.get("/")
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert str(run.parent) not in page.text
        for path in (run / "classification.json", ROOT / "recipes" / "demo.py", "/etc/passwd"):
            assert client.get(f"/gradio_api/file={path}").status_code == 403
        large = client.post("/gradio_api/upload", files={"files": ("a.csv", b"text\n" + b"a" * 6000)})
        assert large.status_code == 413
        assert client.get("/docs").status_code == 404
        assert client.get("/gradio_api/info").json()["named_endpoints"] == {}


def test_a_path_that_was_not_uploaded_is_not_read(server, tmp_path):
    """Which a client may send that is no browser."""
    from httpx import Client

    (tmp_path / "private.csv").write_text("text\nsecret\n")
    with Client(base_url=server, trust_env=False, timeout=60) as client:
        called = [each for each in client.get("/config").json()["dependencies"] if len(each["inputs"]) == 2]
        file = {"path": str(tmp_path / "private.csv"), "meta": {"_type": "gradio.FileData"}}
        for each in called:
            body = {"data": [file, ""], "fn_index": each["id"], "session_hash": "other"}
            client.post("/gradio_api/queue/join", json=body).raise_for_status()
            with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "other"}) as events:
                answer = next(line for line in events.iter_lines() if "process_completed" in line)
            assert '"success":false' in answer
            assert "documents" not in answer
        assert called


def test_the_app_of_a_space_shows_the_run_from_the_hub(browser, checkpoint, tmp_path):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    finish(tmp_path / "run")
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    with HubServer() as hub:
        with hub_client.using(hub, tmp_path / "home", hub.token):
            HfApi().create_repo(BASE)
            HfApi().upload_folder(repo_id=BASE, folder_path=checkpoint)
            push_run(tmp_path / "run", REPO, base_model=BASE, private=True)
            push_space("alice/page", REPO)
        app = hub.files("alice/page", repo_type="space")["app.py"].decode()
        (tmp_path / "app.py").write_text(app.replace("port=7860", "port=0"))
        shutil.rmtree(tmp_path / "home")
        with started([str(tmp_path / "app.py")], hub, tmp_path, hub.token) as address:
            page = browser.new_page()
            page.goto(address)
            ask(page, TEXT)
            assert page.locator(".answer h2").inner_text() == classifier.predict(TEXT)
            assert page.locator("h1").inner_text() == REPO
            page.close()
