"""Documents: links lead somewhere, commands name recipes, files and options that exist, README stays short."""

import re
from pathlib import Path

import forking
import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("recipes/**/*.md"),
        *ROOT.glob("hf_causal_clf/*.md"),
        *ROOT.glob("model_cards/README.md"),
    ]
    if path.name != "CHANGELOG.md"
)
COMMAND = re.compile(
    r"(?:hf-causal-clf |python recipes/|accelerate launch (?:--\S+ \S+ )*recipes/)"
    r"([\w/]+)(?:\.py)?((?: +(?:\\\n *)?[^\s`#]+)*)"
)


def text_of(document):
    return (ROOT / document).read_text(encoding="utf-8")


def commands(document):
    """Recipe and arguments of each command line."""
    return [(match[1], match[2].replace("\\\n", " ").split()) for match in COMMAND.finditer(text_of(document))]


def test_all_documents_are_found():
    assert {
        "README.md",
        "CONTRIBUTING.md",
        "recipes/README.md",
        "recipes/RESULTS.md",
        "recipes/benchmarks/README.md",
    } <= set(DOCUMENTS)
    assert {"hf_causal_clf/README.md", "model_cards/README.md"} <= set(DOCUMENTS)
    assert len([command for document in DOCUMENTS for command in commands(document)]) > 15


def test_the_readme_is_short():
    assert len(text_of("README.md").splitlines()) <= 150


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", text_of(document)):
        if "://" not in target:
            assert (ROOT / document).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_to_headings_lead_somewhere(document):
    for target, heading in re.findall(r"\]\(([^)#\s]*)#([\w-]+)\)", text_of(document)):
        if "://" in target:
            continue
        file = (ROOT / document).parent / target if target else ROOT / document
        names = re.findall(r"(?m)^#+ (.*)$", file.read_text(encoding="utf-8"))
        assert heading in [re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in names]


@pytest.fixture(scope="session")
def options():
    """The options of each recipe, from its `--help-all`."""
    known = {}

    def of(recipe):
        if recipe not in known:
            flag = "--help" if recipe == "quickstart" or "/" in recipe else "--help-all"
            done = forking.run([f"recipes/{recipe}.py", flag])
            assert done.returncode == 0, done.stderr
            known[recipe] = set(re.findall(r"--[\w-]+", done.stdout)) | {"--help", "--help-all"}
        return known[recipe]

    return of


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_exist(document, options):
    from accelerate.commands.launch import launch_command_parser

    launcher = {option for action in launch_command_parser()._actions for option in action.option_strings}
    for recipe, arguments in commands(document):
        assert (ROOT / "recipes" / f"{recipe}.py").is_file(), recipe
        given = [word for word in arguments if word.startswith("--")]
        unknown = set(given) - options(recipe) - launcher if given else set()
        assert not unknown, (recipe, unknown)
        for word in arguments:
            if word.startswith("recipes/"):
                assert (ROOT / word).exists(), word
