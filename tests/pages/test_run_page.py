"""The page of a run: it says what the run's files say, loads nothing, and text that others chose stays text in it."""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from read_page import read_page, tables

from hf_causal_clf.pages import run as run_page
from hf_causal_clf.pages.run import MOST_ERRORS, render_run, write_card_and_page
from hf_causal_clf.runs.files import FIGURES, PAGE_FILE
from hf_causal_clf.runs.finished import FinishedRun

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import make_cards

HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "\u202ereversed\u2066 and never ended",
    "a\x00b\x07\x9b\ufffe",
    "{{ 7 * 7 }}{% for %}",
    "'\"><b>&amp;&lt;",
    "w" * 100_000,
    "</bdi></details><h1>new",
]
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9pt"><g id="a" style="fill: #fff"/><use href="#a"/></svg>'
ERRORS = "Test documents with a wrong answer"


def describe(multi_label, names=None):
    description = make_cards.instruction_description() if multi_label else make_cards.embedding_description()
    if names is not None:
        description["label_space"]["names"] = names
        del description["training"]["label_counts"]
        description["temperature"] = description["thresholds"] = None
        description["verbalizer"] = multi_label and {**description["verbalizer"], "answers": dict(zip(names, names))}
        description["verbalizer"] = description["verbalizer"] or None
    return description


def finished(folder, multi_label=False, names=None, **options):
    options = {**make_cards.COST, **options}
    write = make_cards.write_run(folder / "news", describe(multi_label, names), **options)
    for name in FIGURES:
        (write / "figures" / f"{name}.svg").write_text(SVG)
    return FinishedRun.read(write)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {kind: finished(tmp_path_factory.mktemp("page"), kind) for kind in (False, True)}


@pytest.mark.parametrize("multi_label", [False, True])
def test_it_is_whole_and_loads_nothing(runs, multi_label):
    page = read_page(render_run(runs[multi_label]))
    ids = [each.attributes["id"] for each in page.all() if "id" in each.attributes]
    assert len(set(ids)) == len(ids)
    assert len(page.all("svg")) >= 5
    for each in page.all():
        assert not [name for name in each.attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href", "srcset", "xlink:href", "data", "action"):
            if name in each.attributes:
                where = each.attributes[name]
                outside = each.tag == "a" and where.startswith("https://huggingface.co/")  # followed by a click only
                assert outside or where.startswith("data:") or (where[0] == "#" and where[1:] in ids), where
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set(each.attributes.get(name, "").split()) <= set(ids)
    assert [row["http-equiv"] for row in (each.attributes for each in page.all("meta")) if "http-equiv" in row]


def test_its_policy_lets_its_own_script_and_style_run_and_nothing_else(runs):
    page = read_page(render_run(runs[False]))
    [policy] = [each.attributes["content"] for each in page.all("meta") if "http-equiv" in each.attributes]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for tag in ("script", "style"):
        [element] = page.all(tag)
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert allowed[f"{tag}-src"] == f"'sha256-{digest}'"
    assert allowed["default-src"] == "'none'"
    assert not re.search(r"@import|url\(|https?:", page.all("style")[0].text + page.all("script")[0].text)


@pytest.mark.parametrize("multi_label", [False, True])
def test_it_lists_what_the_run_gets_wrong_the_surest_first(runs, multi_label):
    found, names = runs[multi_label].results, runs[multi_label].label_space.names
    heading, *rows = tables(read_page(render_run(runs[multi_label])))[ERRORS]
    expected = []
    for row, (gold, predicted) in enumerate(zip(found.gold, found.predicted)):
        if np.array_equal(gold, predicted):
            continue
        if not multi_label:
            sure = float(found.probabilities[row, predicted])
            cells = [names[gold], names[predicted], f"{sure:.3f}", f"{found.probabilities[row, gold]:.3f}"]
        else:
            off = [abs(p - g) if g != d else 0.0 for p, g, d in zip(found.probabilities[row], gold, predicted)]
            sure, label = max(off), int(np.argmax(off))
            shown = [", ".join(name for name, flag in zip(names, flags) if flag) or "–" for flags in (gold, predicted)]
            cells = [*shown, names[label], f"{found.probabilities[row, label]:.3f}"]
        expected.append((-sure, [str(found.ids[row]), *cells]))
    assert len(heading) == 5
    assert len(expected) > 10
    assert rows == [cells for _, cells in sorted(expected, key=lambda each: each[0])]


def test_its_words_and_tables_are_those_of_the_files(runs):
    run = runs[False]
    page = read_page(render_run(run))
    said = " ".join(page.all("header")[0].text.split())
    metrics, wrong = run.results.metrics, int((run.results.gold != run.results.predicted).sum())
    assert f"on 240 test documents its macro F1 is {metrics['test']['f1_macro']:.3f}" in said
    assert f"It gets {wrong} of these documents wrong." in said
    assert "it reads 121 documents a second on a GPU, so that 1,000 take 8.3 seconds" in said
    assert "2.33 GiB" in said
    assert "Fitted on the validation documents: temperature 0.62, which on test" in said
    labels = tables(page)["Documents and F1 of each label"]
    assert labels[0] == ["label", "training", "validation", "test", "F1 on test"]
    assert labels[1][:3] == ["business", "70", "22"]
    assert not any("documents" in cell for cell in labels[-1])
    assert ["Optimizer", "adamw_8bit"] in tables(page)["Settings"]
    [link] = page.all("a", href="https://huggingface.co/example-org/made-up-135m")
    assert link.text == "example-org/made-up-135m"


def test_documents_are_shown_where_that_is_asked_for_only(tmp_path, runs):
    run = runs[False]
    texts = [f"secret number {row}" for row in range(240)]
    write_card_and_page(run.folder)
    assert "secret number" not in (run.folder / PAGE_FILE).read_text()
    assert "with_documents true" in (run.folder / PAGE_FILE).read_text()
    write_card_and_page(run.folder, texts)
    shown = tables(read_page((run.folder / PAGE_FILE).read_text()))[ERRORS]
    assert shown[0][-1] == "text"
    assert all(row[-1] == f"secret number {row[0]}" for row in shown[1:])
    assert "secret number" not in (run.folder / "README.md").read_text()
    right = int(np.flatnonzero(run.results.gold == run.results.predicted)[0])
    assert f"secret number {right}<" not in (run.folder / PAGE_FILE).read_text()


@pytest.mark.parametrize("multi_label", [False, True])
def test_what_others_wrote_stays_text(tmp_path, multi_label):
    """Labels, ids, documents and the folder's name change no element, and a long one is cut with that said."""
    plain = finished(tmp_path / "plain", multi_label, [f"label {place}" for place in range(len(HOSTILE))])
    run = finished(tmp_path / "hostile", multi_label, HOSTILE)
    folder = run.folder.rename(run.folder.with_name("<b>&{{ 7 * 7 }}"))
    texts = [HOSTILE[row % len(HOSTILE)] + str(row) for row in range(240)]
    text = render_run(FinishedRun.read(folder), texts)
    page, usual = read_page(text), read_page(render_run(plain, ["a"] * 240))
    text.encode()
    assert "\x00" not in text
    for tag in ("script", "img", "h1", "b", "table", "svg", "section"):
        assert len(page.all(tag)) == len(usual.all(tag)), tag
    assert page.all("h1")[0].text == "<b>&{{ 7 * 7 }}"
    assert len(text) < 2_000_000
    [shown] = [element for element in page.all("table") if element.all("caption")[0].text == ERRORS]
    cells = [row.all("td")[-1] for row in shown.all("tr")[1:]]
    long = [cell for cell in cells if cell.text.startswith("www")]
    assert long
    assert all("more characters are not shown." in cell.text and len(cell.text) < 1_100 for cell in long)
    assert any("99,00" in cell.text for cell in long)
    for cell in cells:
        assert {each.tag for each in cell.all()} <= {"bdi", "details", "summary", "p"}
        if not cell.all("details"):
            assert [each.tag for each in cell.children] == ["bdi"]  # it turns the direction of nothing beside it
    names = " ".join(row[0] for row in tables(page)["Documents and F1 of each label"])
    assert "<script>alert(1)</script>" in names
    assert "a�b��" in names


def test_a_page_is_bounded_and_says_what_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(run_page, "MOST_ERRORS", 7)
    run = finished(tmp_path)
    wrong = int((run.results.gold != run.results.predicted).sum())
    page = read_page(render_run(run))
    assert len(tables(page)[ERRORS]) == 8
    [section] = page.all("section", id="errors")
    assert f"{wrong} of 240 test documents" in section.text
    assert "The first 7 are here; all are in predictions.parquet." in section.text
    assert MOST_ERRORS == 500


@pytest.mark.parametrize("approach", ["tfidf", "frozen"])
def test_a_baseline_has_a_page_as_well(tmp_path, approach):
    description = make_cards.frozen_description()
    if approach == "tfidf":
        none = dict.fromkeys(("name_or_path", "revision", "dtype", "quantization"))
        description |= {"approach": "tfidf", "pooling": None, "base_model": none, "training": {}}
    folder = make_cards.write_run(tmp_path / "base", description, figures=(), trainable_parameters=5, seconds=300.0)
    said = read_page(render_run(FinishedRun.read(folder))).all("header")[0].text
    assert "to train and test it took 5.0 minutes" in said
    assert "with_documents" not in render_run(FinishedRun.read(folder))


def test_a_run_without_a_mistake(tmp_path):
    run = finished(tmp_path)
    run.results.predicted[:] = run.results.gold
    page = read_page(render_run(run))
    assert ERRORS not in tables(page)
    assert "None of the 240 test documents." in page.all("section", id="errors")[0].text


def test_warnings_come_before_the_numbers(tmp_path):
    description = make_cards.embedding_description()
    description["training"]["overlap"] = {"train/validation": 3, "train/test": 12, "validation/test": 0}
    description["training"]["label_counts"]["train"][3] = 0
    folder = make_cards.write_run(tmp_path / "news", description, **make_cards.COST)
    [shown] = [
        each
        for each in read_page(render_run(FinishedRun.read(folder))).all("ul")
        if each.attributes.get("class") == "warnings"
    ]
    assert [each.text for each in shown.all("li")] == [
        "12 test documents are also among the train documents.",
        "There are labels with no training document, of which the F1 says little: sport.",
    ]


@pytest.mark.figures
def test_figures_are_part_of_the_page_with_their_numbers(tmp_path):
    from hf_causal_clf.evaluation import figure_numbers, plots
    from hf_causal_clf.evaluation.plot_style import save_figure

    folder = make_cards.write_run(tmp_path / "news", make_cards.embedding_description(), **make_cards.COST)
    found = FinishedRun.read(folder).results
    names = make_cards.embedding_description()["label_space"]["names"]
    rows = figure_numbers.confusion_numbers(found.gold, found.predicted, names)
    save_figure(plots.confusion_matrix(found.gold, found.predicted, names), folder / "figures/confusion_matrix", rows)
    save_figure(plots.label_f1_bars(found.gold, found.predicted, names), folder / "figures/label_f1")
    text = render_run(FinishedRun.read(folder))
    page = read_page(text)
    ids = [each.attributes["id"] for each in page.all() if "id" in each.attributes]
    assert len(set(ids)) == len(ids)
    assert len(page.all("svg")) == 2
    for svg in page.all("svg"):
        assert svg.attributes["role"] == "img"
        title, words = svg.attributes["aria-labelledby"].split()
        assert [each.text for each in svg.all() if each.attributes.get("id") in (title, words)] != ["", ""]
        assert not [each for each in svg.all() if "style" in each.attributes or each.tag in ("metadata", "style")]
        for each in svg.all():
            for value in each.attributes.values():
                for referred in re.findall(r"url\(#([^)]+)\)", value):
                    assert referred in ids
            assert each.attributes.get("href", "data:").startswith("data:") or each.attributes["href"][1:] in ids
    shown = tables(page)["Which label is taken for which"]
    assert shown[0] == ["true label", "predicted label", "documents", "share of the true label's"]
    assert [row[:3] for row in shown[1:]] == [[a, b, str(count)] for a, b, count, _ in rows[1:]]
    assert json.loads((folder / "figures/confusion_matrix.json").read_text()) == rows


def test_a_picture_that_is_too_large_is_one_of_pixels_or_left_out(tmp_path, monkeypatch):
    from hf_causal_clf.pages import figures

    run = finished(tmp_path)
    monkeypatch.setattr(figures, "MOST_BYTES", 40)
    (run.folder / "figures" / "label_f1.png").write_bytes(b"\x89PNG" + bytes(50))
    page = read_page(render_run(run))
    assert not page.all("svg")
    assert all(each.attributes["src"].startswith("data:image/png;base64,") for each in page.all("img"))
    assert "figures/label_f1.png" in page.all("section", id="labels")[0].text
    assert all(each.attributes["alt"] for each in page.all("img"))
    (run.folder / "figures" / "set_sizes.svg").write_text("<svg>")  # damaged
    assert len(read_page(render_run(run)).all("img")) == len(page.all("img"))


def test_a_page_that_cannot_be_rendered_costs_no_run(tmp_path, monkeypatch):
    """It is warned about with the reason and with what writes it later, and is listed then."""
    folder = finished(tmp_path).folder
    manifest, warned = folder / "manifest.json", []
    with monkeypatch.context() as patch:
        patch.setattr(run_page, "render_page", lambda *args, **values: 1 / 0)
        patch.setattr(run_page.logger, "warning", warned.append)
        write_card_and_page(folder)
    assert not (folder / PAGE_FILE).exists()
    assert (folder / "README.md").read_text().startswith("---")
    [said] = warned
    assert "has no report.html: ZeroDivisionError: division by zero." in said
    manifest.write_text('{"settings": null, "files": ["README.md"], "checkpoints": false}')
    command = re.search(r'python -c "(.*)"', said)[1].replace("RUN", str(folder))
    exec(command, {})
    assert read_page((folder / PAGE_FILE).read_text()).all("h1")[0].text == "news"
    assert json.loads(manifest.read_text())["files"] == ["README.md", PAGE_FILE]
