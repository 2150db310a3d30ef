"""Text and label columns that are found where they are not named."""

import pytest
from conftest import make_rows, write_jsonl
from datasets import Dataset
from test_data_files import write_csv

from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.columns import find_columns
from hf_causal_clf.data.splits import load_data

LONG = ["the match was won at last", "shares fell on all markets", "new phones and computers", "a cup is a cup"]


def found(columns, **given):
    """Names that are found in columns of values."""
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    arguments = find_columns(DataArguments(train_file="x.csv", **given), list(columns), rows)
    return arguments.text_column, arguments.label_column


@pytest.mark.parametrize(
    ("columns", "given", "expected"),
    [
        ({"text": LONG, "label": "abab"}, {}, ("text", "label")),
        ({"ID": "1234", "Message": LONG, "CATEGORY ": "abab"}, {}, ("Message", "CATEGORY ")),
        ({"label": "abab", "title": LONG, "content": LONG}, {}, ("content", "label")),
        ({"text": LONG, "abstract": LONG, "label": "abab", "topic": "aabb"}, {}, ("text", "label")),
        ({"text": LONG, "Kategorie": "abab"}, {}, ("text", "Kategorie")),
        ({"Meldung": LONG, "class": [0, 1, 0, 1]}, {}, ("Meldung", "class")),
        ({"Meldung": LONG, "Art": "abab"}, {}, ("Meldung", "Art")),
        ({"Art": "abab", "Meldung": LONG}, {}, ("Meldung", "Art")),
        ({"Art": [["a"], ["a"], ["b"], ["b"]], "Meldung": LONG}, {}, ("Meldung", "Art")),
        ({"Art": ["1", "1", "b", "b"], "Meldung": LONG}, {}, ("Meldung", "Art")),
        ({"Art": "abab", "Meldung": LONG, "leer": ["", " ", "", ""]}, {}, ("Meldung", "Art")),
        ({"Meldung": LONG, "topic": [2020.0, 2021.0, 2020.0, 2021.0]}, {}, ("Meldung", "topic")),
        ({"text": LONG, "label": "0000"}, {}, ("text", "label")),
        ({"Text": LONG, "Summary": LONG, "Description": LONG, "Label": "abab"}, {}, ("Text", "Label")),
        ({"TEXT": LONG, "Body": LONG, " LABEL": "abab", "Topic": "aabb"}, {}, ("TEXT", " LABEL")),
        ({"Text": LONG, "text": LONG, "Label": "aabb", "label": "abab"}, {}, ("text", "label")),
        ({"": "0123", "ticket_id": LONG, "Meldung": LONG, "Art": "abab"}, {}, ("Meldung", "Art")),
        ({"ticket": ["T1", "T2", "T3", "T4"], "Meldung": LONG, "Art": "abab"}, {}, ("Meldung", "Art")),
        ({"leer": [None] * 4, "Meldung": LONG, "Art": "abab"}, {}, ("Meldung", "Art")),
        ({"mit": LONG, "Meldung": LONG, "Art": "abab"}, {"id_column": "mit"}, ("Meldung", "Art")),
        ({"one": LONG, "two": LONG, "label": "abab"}, {"text_column": "two"}, ("two", "label")),
        ({"one": "aabb", "two": "abab", "text": LONG}, {"label_column": "two"}, ("text", "two")),
        ({"text": "abab", "body": LONG}, {"label_column": "text"}, ("body", "text")),
        ({"a": "xxyy", "b": LONG, "c": "abab"}, {"text_column": "b", "label_column": "c"}, ("b", "c")),
    ],
)
def test_columns_are_found(columns, given, expected):
    assert found(columns, **given) == expected


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({"body": LONG, "abstract": LONG, "label": "abab"}, {}, r"several columns could be the text: \['body', 'abs"),
        (
            {"text": LONG, "topic": "abab", "intent": "aabb"},
            {},
            r"several columns could be the label.*--label_column N",
        ),
        ({"title": LONG, "summary": LONG, "label": "abab"}, {}, "no column is for sure the text.*--text_column NAME"),
        ({"text": LONG, "region": "abab", "Art": "aabb"}, {}, "no column is for sure the label"),
        ({"text": LONG, "Art": "abcd"}, {}, "no column is for sure the label"),  # nothing repeats
        ({"Meldung": [1.5, 2.5, 3.5, 1.5], "class": "abab"}, {}, "no column is for sure the text"),
        ({"Meldung": "abab", "Art": "abab"}, {}, "for sure the text and no column is for sure the label"),
        ({"Meldung": "wxyz", "Art": ["a longer one"] * 4}, {}, "for sure the text and no column is for sure the label"),
        ({"Meldung": LONG, "Preis": [1.5, 2.5, 1.5, 2.5]}, {}, "for sure the text and no column is for sure the label"),
        ({"one": LONG, "two": LONG, "Art": "abab"}, {}, "for sure the text and no column is for sure the label"),
        ({"text": LONG}, {}, "no column is for sure the label"),
        ({"text": LONG, "year": [2020, 2021, 2020, 2021]}, {}, r"no column is for sure the label.*'year' \(2020\)"),
        ({"text": LONG, "year": ["2020", "2021", "2020", "2021"]}, {}, "no column is for sure the label"),
        ({"text": LONG, "len": [1.0, 2.0, 1.0, 2.0]}, {}, "no column is for sure the label"),
        ({"text": LONG, "len": ["1.5", "-2", "1.5", "-2"]}, {}, "no column is for sure the label"),
        ({"text": LONG, "spam": [True, False, True, False]}, {}, "no column is for sure the label"),
        ({"Meldung": LONG, "Jahr": [2020, 2021, 2020, 2021]}, {}, "no column is for sure the label"),
        ({"text": LONG, "lang": ["en"] * 4}, {}, "no column is for sure the label"),
        ({"text": LONG, "notes": [""] * 4}, {}, "no column is for sure the label"),
        ({"text": LONG, "lang": ["en", "", "en", " "]}, {}, "no column is for sure the label"),
        ({"Text": LONG, "TEXT": LONG, "label": "abab"}, {}, r"could be the text: \['Text', 'TEXT'\]"),
    ],
)
def test_several_candidates_are_a_question_and_no_guess(columns, given, message):
    with pytest.raises(ValueError, match=message):
        found(columns, **given)


def test_a_question_shows_the_beginnings_of_values():
    columns = {"one": ["a secret " * 10] * 2, "two": ["line\nbreak", "x"], **{f"c{n:02}": [0, 1] for n in range(30)}}
    with pytest.raises(ValueError, match="no column is for sure the text") as raised:
        found(columns)
    said = str(raised.value)
    assert "'one' ('a secret a secret a secret a secret a se…')" in said
    assert "'two' ('line break')" in said
    assert "'c17' (0) and 12 others. Name them with --text_column NAME --label_column NAME." in said
    assert "\n" not in said


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_of_a_table_are_found_whatever_is_between_its_cells(tmp_path, delimiter, capsys):
    rows = [(f"T{index}", row["text"], row["label"]) for index, row in enumerate(make_rows(60))]
    path = write_csv(tmp_path / "tickets.csv", [("Ticket", "Message", "Category"), *rows], delimiter)
    data = load_data(DataArguments(train_file=path))
    assert data.text_column == "Message"
    assert data.label_space.names == ("business", "sport", "tech")
    assert sorted(text for split in data.splits for text in data.texts(split)) == sorted(row[1] for row in rows)
    said = " ".join(capsys.readouterr().out.split())
    assert "training validation test documents 42 6 12 repeated 0 0 0 also in training 0 0" in said
    assert "The text is the column 'Message', the label 'Category'." in said


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "folder"])
def test_columns_of_other_files_and_of_data_sets_are_found(tmp_path, ending):
    rows = [{"nr": index, "Body": row["text"], "Topic": row["label"]} for index, row in enumerate(make_rows(30))]
    table = Dataset.from_list(rows)
    if ending == "folder":
        (tmp_path / "news").mkdir()
        table.to_parquet(tmp_path / "news" / "train.parquet")
        source = {"dataset_name": str(tmp_path / "news")}
    else:
        source = {"train_file": str(tmp_path / f"train.{ending}")}
        (table.to_parquet if ending == "parquet" else table.to_json)(source["train_file"])
    data = load_data(DataArguments(**source))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 21, "validation": 3, "test": 6}
    assert set(data.texts("test")) <= {row["text"] for row in make_rows(30)}


def test_a_column_of_dates_that_is_not_needed_does_not_matter(tmp_path):
    rows = [{**row, "when": f"2020-01-{index + 1:02}"} for index, row in enumerate(make_rows(30))]
    write_jsonl(tmp_path / "train.jsonl", rows)
    assert load_data(DataArguments(dataset_name=str(tmp_path))).label_space.names == ("business", "sport", "tech")


def test_the_same_names_are_needed_in_all_splits(tmp_path):
    train = write_csv(
        tmp_path / "train.csv", [("Body", "Topic"), *((row["text"], row["label"]) for row in make_rows(9))]
    )
    test = write_csv(tmp_path / "test.csv", [("text", "Topic"), ("a", "sport")])
    with pytest.raises(
        ValueError, match="test split has no column 'Body', which is the text in the training documents"
    ):
        load_data(DataArguments(train_file=train, test_file=test))


def test_names_further_down_are_names_too(tmp_path):
    rows = [{"text": f"document {index}", "kind": "ab"[index % 2]} for index in range(1200)]
    path = write_jsonl(tmp_path / "topic.jsonl", [*rows[:1100], *({**row, "topic": "x"} for row in rows[1100:])])
    with pytest.raises(ValueError, match="Row 0 of the train split, counted from 0: the label is missing"):
        load_data(DataArguments(train_file=path))
    path = write_jsonl(tmp_path / "unknown.jsonl", [*rows[:1100], *({**row, "Art": "x"} for row in rows[1100:])])
    with pytest.raises(ValueError, match=r"no column is for sure the label.*'kind' \('a'\), 'Art' \('x'\)"):
        load_data(DataArguments(train_file=path))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_that_was_found_may_be_written_in_another_case_in_the_other_files(tmp_path, ending):
    files = {}
    for split, (text, label) in {
        "train": ("Text", "Label"),
        "validation": ("text", "label"),
        "test": ("TEXT", "Label"),
    }.items():
        table = Dataset.from_list([{text: row["text"], label: row["label"]} for row in make_rows(9)])
        files[f"{split}_file"] = str(tmp_path / f"{split}.{ending}")
        {"csv": table.to_csv, "parquet": table.to_parquet}.get(ending, table.to_json)(files[f"{split}_file"])
    data = load_data(DataArguments(**files))
    for split in data.splits:
        assert list(zip(data.texts(split), data.splits[split]["label"])) == [
            (row["text"], row["label"]) for row in make_rows(9)
        ]
    with pytest.raises(
        ValueError, match=r"test split has no column 'Text'; it has \['TEXT', 'Label'\]. Set text_column"
    ):
        load_data(DataArguments(**files, text_column="Text"))


def test_of_two_columns_that_differ_by_case_none_is_taken(tmp_path):
    train = write_jsonl(
        tmp_path / "train.jsonl", [{"Text": row["text"], "label": row["label"]} for row in make_rows(9)]
    )
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "a", "TEXT": "b", "label": "sport"}])
    with pytest.raises(
        ValueError, match="test split has no column 'Text', which is the text in the training documents"
    ):
        load_data(DataArguments(train_file=train, test_file=test))
