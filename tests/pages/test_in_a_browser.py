"""Pages in a real browser, Debian's Chromium: no error, sorting, filters, accessibility rules, a phone's width, paper.

Needs `apt-get install chromium` and `pip install '.[browser]'`.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from test_run_page import ERRORS, HOSTILE, describe

from hf_causal_clf.comparison.page import render_comparison
from hf_causal_clf.comparison.ranking import compare_runs
from hf_causal_clf.comparison.report import report_values
from hf_causal_clf.evaluation import figure_numbers, plots
from hf_causal_clf.evaluation.plot_style import save_figure
from hf_causal_clf.pages.run import render_run
from hf_causal_clf.runs.finished import FinishedRun

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import make_cards

CHROMIUM = shutil.which("chromium")
AXE = importlib.util.find_spec("axe_playwright_python")
PHONE = {"viewport": {"width": 375, "height": 700}}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.figures,
    pytest.mark.skipif(CHROMIUM is None or AXE is None, reason="no chromium, or no axe-playwright-python"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Files of a single-label page, a multi-label one, one with hostile text in it, and one of each other kind."""
    from test_labelling_pages import audited, planned
    from test_ranking import ENTRIES
    from test_showing import explanation, render

    folder, written = tmp_path_factory.mktemp("browser"), {}
    for kind in ("single", "multi", "hostile"):
        multi_label = kind == "multi"
        description = describe(multi_label, HOSTILE if kind == "hostile" else None)
        run = FinishedRun.read(make_cards.write_run(folder / kind, description, **make_cards.COST))
        draw(run, multi_label)
        texts = HOSTILE if kind == "hostile" else ["Shares fell. " * 40, "A short text.", "שלום עולם"]
        written[kind] = folder / f"{kind}.html"
        written[kind].write_text(render_run(run, [texts[row % len(texts)] for row in range(240)]), encoding="utf-8")
    report = compare_runs(ENTRIES)
    written["comparison"] = folder / "comparison.html"
    page = render_comparison(report, report_values(report), "Made-up documents.", folder, [], {})
    written["comparison"].write_text(page, encoding="utf-8")
    for kind, options in (("", {}), (" hostile", {"names": HOSTILE, "texts": HOSTILE, "multi_label": True})):
        written[f"audit{kind}"] = audited(folder / f"audit{kind}", with_documents=True, **options) / "audit.html"
        written[f"plan{kind}"] = planned(folder / f"plan{kind}", with_documents=True, **options) / "plan.html"
    written["why"] = folder / "why.html"
    names = ["a", "w" * 5_000, HOSTILE[1], "שלום", "d", "e", "f"]
    texts = [{}, {"label": HOSTILE[0]}, {"text": "w" * 100_000}, {"text": "Good. Bad! So so.", "label": "sport"}]
    explained = [(name, explanation(**texts[place % len(texts)])) for place, name in enumerate(names)]
    written["why"].write_text(render(*explained), encoding="utf-8")
    return written


def draw(run, multi_label):
    """Draw two figures, with ids of the same names in them."""
    found, names = run.results, run.label_space.names
    rows = figure_numbers.label_f1_numbers(found.gold, found.predicted, names)
    save_figure(plots.label_f1_bars(found.gold, found.predicted, names), run.folder / "figures/label_f1", rows)
    if not multi_label:
        rows = figure_numbers.confusion_numbers(found.gold, found.predicted, names)
        figure = plots.confusion_matrix(found.gold, found.predicted, names)
        save_figure(figure, run.folder / "figures/confusion_matrix", rows)


@pytest.fixture
def opened(browser, pages):
    """Opens a page; all that the browser says of it has to be nothing, and it has to ask for nothing."""
    contexts, said = [], []

    def open_page(kind, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on(
            "request", lambda request: said.append(request.url) if request.url[:5] not in ("file:", "data:") else None
        )
        page.goto(pages[kind].as_uri())
        return page

    yield open_page
    assert said == []
    for context in contexts:
        context.close()


def column(page, caption, place):
    """The texts of the visible cells of a column."""
    table = page.locator("table", has=page.locator("caption", has_text=caption))
    return [text.strip() for text in table.locator(f"tbody tr:visible > :nth-child({place})").all_inner_texts()]


KINDS = ("single", "multi", "hostile", "comparison", "audit", "audit hostile", "plan", "plan hostile", "why")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing(opened, kind, scheme):
    page = opened(kind, color_scheme=scheme)
    for summary in page.locator("figure > details > summary").all():
        summary.click()
    script = (Path(AXE.origin).parent / "axe.min.js").read_text(encoding="utf-8")
    found = page.evaluate(script + "; axe.run(document, {resultTypes: ['violations']})")
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []
    assert len(found["passes"]) > 15


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wider_than_a_phone(opened, kind):
    page = opened(kind, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate("getComputedStyle(document.body).fontSize") == "16px"
    assert opened(kind, viewport={"width": 320, "height": 500}).evaluate("document.documentElement.scrollWidth") == 320


def test_tables_sort(opened):
    page = opened("single")
    table = page.locator("table", has=page.locator("caption", has_text=ERRORS))
    heading, names = table.locator("th").nth(3), table.locator("th").nth(1)
    given = column(page, ERRORS, 4)
    for expected, said in ((sorted(given), "ascending"), (sorted(given, reverse=True), "descending")):
        heading.locator("button").click()
        assert column(page, ERRORS, 4) == expected
        assert heading.get_attribute("aria-sort") == said
    names.locator("button").press("Enter")
    assert column(page, ERRORS, 2) == sorted(column(page, ERRORS, 2))
    assert table.locator("th[aria-sort]").count() == 1
    ids = table.locator("th").nth(0).locator("button")
    ids.click()
    assert list(map(int, column(page, ERRORS, 1))) == sorted(map(int, column(page, ERRORS, 1)))  # 9 before 10


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_errors_are_found_by_words_and_labels(opened, kind):
    page = opened(kind)
    everything = len(column(page, ERRORS, 1))
    page.get_by_label("Search").fill("a SHORT text")
    short = len(column(page, ERRORS, 1))
    assert 0 < short < everything
    assert page.get_by_role("status").inner_text() == f"{short} of {everything} rows"
    page.get_by_label("Search").fill("")
    name = page.locator(".filters").get_by_label("gold").locator("option").nth(2).inner_text()
    page.locator(".filters").get_by_label("gold").select_option(label=name)
    kept = column(page, ERRORS, 2)
    assert 0 < len(kept) < everything
    assert all(name in each.split(", ") for each in kept)
    page.get_by_label("Search").fill("no such words")
    assert column(page, ERRORS, 1) == []


@pytest.mark.parametrize(
    ("kind", "caption", "label"),
    [
        ("audit", "Documents whose label may be wrong", "suggested"),
        ("plan", "Documents to label next", "predicted"),
        ("why", "Documents, and the part that changes most", "predicted"),
    ],
)
def test_documents_are_found_by_labels_and_sorted(opened, kind, caption, label):
    page = opened(kind)
    everything = column(page, caption, 1)
    choice = page.locator(".filters").first.get_by_label(label)
    choice.select_option(label="sport")
    assert 0 < len(column(page, caption, 1)) < len(everything)
    choice.select_option(label="all")
    heading = page.locator("table", has=page.locator("caption", has_text=caption)).locator("th").nth(3)
    for _ in range(2):
        heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert sorted(column(page, caption, 1)) == sorted(everything)


def test_an_explained_document_is_one_click_away(opened):
    page = opened("why")
    page.get_by_role("link", name="d", exact=True).click()
    assert page.evaluate("location.hash") == "#document-5"
    assert page.locator("#document-5 mark").first.is_visible()


def test_hostile_text_runs_nothing_and_is_found(opened):
    page = opened("hostile")
    assert page.evaluate("document.scripts.length") == 1
    assert page.locator("img").count() == 0
    page.get_by_label("Search").fill("<script>alert(1)</script>")
    assert len(column(page, ERRORS, 1)) > 0
    page.locator(".filters").get_by_label("predicted").select_option(label=HOSTILE[0])
    assert set(column(page, ERRORS, 3)) == {HOSTILE[0]}


@pytest.mark.parametrize("kind", KINDS)
def test_it_prints(opened, kind):
    page = opened(kind)
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert not np.any([each.is_visible() for each in page.locator(".filters").all()])
