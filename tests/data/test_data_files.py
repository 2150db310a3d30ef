"""Files as people have them: what a cell looks like, delimiters, encodings; and what is not what its ending says."""

import json

import pytest
from conftest import make_rows, write_jsonl
from datasets import Dataset

from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.files import stream_file
from hf_causal_clf.data.splits import load_data

# Cells that a reader of tables takes for a number, a date, a truth value or nothing
CELLS = {
    "zeros": ("01", "1"),
    "numbers": ("1e5", "100000.0", "1E5", "-inf", "0x1f", "1,000"),
    "dates": ("2021-01-05", "2021-01-06"),
    "times": ("2021-01-05 10:00:00", "2021-01-05T10:00:00Z"),
    "truth": ("true", "True", "false"),
    "nothing": ("None", "nan", "NaN", "NA", "null", "N/A", "<NA>", "#N/A"),
}
CELLS["all"] = tuple(cell for cells in CELLS.values() for cell in cells)


def write_csv(path, rows, delimiter=",", encoding="utf-8"):
    """A table with all of its cells in quotes."""
    quoted = (delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) + "\r\n" for row in rows)
    path.write_bytes("".join(quoted).encode(encoding))
    return str(path)


def write_rows(path, rows):
    return (
        write_csv(path, [tuple(rows[0]), *(row.values() for row in rows)])
        if path.suffix == ".csv"
        else write_jsonl(path, rows)
    )


def splits(tmp_path, rows, ending="csv"):
    return {
        f"{split}_file": write_rows(tmp_path / f"{split}.{ending}", rows) for split in ("train", "validation", "test")
    }


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("kind", ["text", "label", "key"])
@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
def test_texts_stay_texts_whatever_they_look_like(tmp_path, ending, kind, cells):
    rows = [{"key": f"k{row}", "text": f"text {row}", "label": f"label {row % 2}"} for row in range(len(cells))]
    for row, cell in zip(rows, cells):
        row[kind] = cell
    data = load_data(DataArguments(**splits(tmp_path, rows, ending), id_column="key"))
    for split in data.splits.values():
        found = [
            dict(zip(("key", "text", "label"), values)) for values in zip(split["id"], split["text"], split["label"])
        ]
        assert found == rows
    streamed = stream_file(tmp_path / f"test.{ending}", ["text", "key"])
    assert list(streamed) == rows == list(streamed)  # as often as it is asked


@pytest.mark.parametrize("ending", ["csv", "jsonl", "folder of csv", "folder of tsv"])
def test_names_that_are_digits_are_no_ids(tmp_path, ending):
    rows = [{"text": f"text {row}", "label": "1" if row % 2 else "0"} for row in range(8)]
    if ending.startswith("folder"):
        delimiter = "\t" if ending.endswith("tsv") else ","
        for split in ("train", "validation", "test"):
            lines = [("text", "label"), *(row.values() for row in rows)]
            write_csv(tmp_path / f"{split}.{ending[-3:]}", lines, delimiter)
        source = {"dataset_name": str(tmp_path)}
    else:
        source = splits(tmp_path, rows, ending)
    data = load_data(DataArguments(**source, label_list=["1", "0"]))
    assert list(data.splits["train"]["label"]) == [row["label"] for row in rows]
    assert data.gold("test").tolist() == [1, 0, 1, 0, 1, 0, 1, 0]


def test_names_with_leading_zeros_are_kept(tmp_path):
    rows = [{"text": f"text {row}", "label": ("01", "02", "10")[row % 3]} for row in range(9)]
    assert load_data(DataArguments(**splits(tmp_path, rows))).label_space.names == ("01", "02", "10")


def test_a_label_named_na_is_a_label(tmp_path):
    rows = [{"text": "a", "label": "NA"}, {"text": "b", "label": "x;NA"}, {"text": "c", "label": ""}]
    data = load_data(DataArguments(**splits(tmp_path, rows), multi_label=True, label_delimiter=";"))
    assert list(data.splits["test"]["label"]) == [["NA"], ["x", "NA"], []]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_integers_are_ids_and_the_mapping_is_printed(tmp_path, capsys, ending):
    rows = [{"text": f"text {row}", "label": int(row % 3 > 0)} for row in range(9)]
    files = {}
    for split in ("train", "validation", "test"):
        files[f"{split}_file"] = str(tmp_path / f"{split}.{ending}")
        Dataset.from_list(rows).to_json(files[f"{split}_file"]) if ending == "jsonl" else Dataset.from_list(
            rows
        ).to_parquet(files[f"{split}_file"])
    data = load_data(DataArguments(**files, label_list=["sport", "5"]))
    assert list(data.splits["train"]["label"])[:3] == ["sport", "5", "5"]
    said = " ".join(capsys.readouterr().out.split())
    assert "label 0 'sport' 3 3 3 label 1 '5' 6 6 6" in said


@pytest.mark.parametrize(("cells", "names", "ok"), [((0, 1), ["1", "0"], False), ((1, 2), ["1", "2", "3"], False),
                                                    ((0, 1), ["0", "1"], True), ((0, 1), ["5", "6"], True)])  # fmt: skip
def test_a_number_that_may_be_an_id_or_a_name_is_refused(tmp_path, cells, names, ok):
    rows = [{"text": f"text {row}", "label": cells[row % 2]} for row in range(8)]
    arguments = DataArguments(**splits(tmp_path, rows, "jsonl"), label_list=names)
    if ok:
        assert list(load_data(arguments).splits["train"]["label"])[:2] == names
    else:
        with pytest.raises(ValueError, match=r"may be the id of '[12]' or the name '[012]' of label_list"):
            load_data(arguments)


def test_many_labels_are_printed_in_part(tmp_path, capsys):
    rows = [{"text": f"text {row}", "label": f"label {row:02}"} for row in range(30)]
    load_data(DataArguments(**splits(tmp_path, rows)))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) < 100 for line in lines)
    said = " ".join(" ".join(lines).split())
    assert "label 0 'label 00' 1 1 1" in said
    assert said.count("'label ") == 10
    assert said.endswith("label 9 'label 09' 1 1 1 20 other labels 20 20 20")


def test_the_mapping_is_printed_by_one_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    load_data(DataArguments(**splits(tmp_path, make_rows(6))))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_encodings_are_found(tmp_path, delimiter, encoding):
    table = [("text", "label"), ("a;b, c\td | é", "é"), ("x", "y, z")]
    path = write_csv(tmp_path / "test.csv", table, delimiter, encoding)
    files = {f"{split}_file": path for split in ("train", "validation", "test")}
    data = load_data(DataArguments(**files))
    assert list(zip(data.splits["test"]["text"], data.splits["test"]["label"])) == table[1:]
    assert list(stream_file(tmp_path / "test.csv", ["text"])) == [dict(zip(table[0], row)) for row in table[1:]]


def test_a_reading_that_was_found_is_said(tmp_path, caplog):
    path = write_csv(tmp_path / "semicolon.csv", [("text", "label"), ("a", "b")], ";", "utf-16")
    assert list(stream_file(tmp_path / "semicolon.csv", ["text"])) == [{"text": "a", "label": "b"}]
    assert f"{path!r} is read as UTF-16" in caplog.text
    assert f"{path!r} is read with a semicolon between its cells" in caplog.text


def test_other_columns_do_not_turn_a_comma_into_a_semicolon(tmp_path):
    (tmp_path / "a.csv").write_text("text,a;b;c;d;e\nx,1;2;3;4;5\n")
    assert list(stream_file(tmp_path / "a.csv", ["text"])) == [{"text": "x", "a;b;c;d;e": "1;2;3;4;5"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.csv", "text,label\nfirst,a\nDas Café,b\n".encode("cp1252"), "not in UTF-8: it has the byte 0xe9. In cp1252, 'Das Café,b' would stand there.*iconv -f cp1252 -t UTF-8 latin.csv > latin-utf8.csv"),
        ("latin.jsonl", '{"text": "Café"}\n'.encode("cp1252"), "not in UTF-8.*iconv"),
        ("more.csv", b"text,label\nfootball, match,sport\nbank, shares,business\n", "ends in line 2 has 3 cells, the header 2"),
        ("trailing.csv", b"text,label\nfootball,sport,\nbank,business,\n", "ends in line 2 has 3 cells, the header 2"),
        ("fewer.csv", b"text,label\na line\nof two,sport\n", "ends in line 2 has 1 cells, the header 2"),
        ("open.csv", b'text,label\n"a,x\nb,y\n', "unexpected end of data, in line 3. Write a double quote within"),
        ("twice.csv", b"text,text,label\na,b,c\n", r"has these columns more than once: \['text'\]"),
        ("lines.jsonl", b'{"text": "a"}\n\n{oops\n', "double quotes, in line 3. Write one object a line, or one array"),
        ("array.json", b'[{"text": "a"},\n{oops}]', "double quotes, in line 2"),
        ("list.json", b'["a", "b"]', "entry 0, counted from 0, is no object, but 'a'"),
        ("half.jsonl", b'{"text": "\\ud83d"}\n', "surrogates not allowed, in line 1"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_for_sure_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(stream_file(tmp_path / name, ["text", "label"]))


def test_odd_files_are_read(tmp_path):
    long = "a" * 200_000  # more than the csv module takes unasked
    (tmp_path / "a.csv").write_text(f'key,text\n1,"two\n""lines"""\n\n2,{long}\n3,""\n4,\n')
    rows = list(stream_file(tmp_path / "a.csv", ["text"]))
    assert [row["text"] for row in rows] == ['two\n"lines"', long, None, None]
    (tmp_path / "a.json").write_text(
        "\n " + json.dumps([{"text": "\u2028 1"}, {"text": "\U0001f600", "label": 1}], indent=1)
    )
    assert list(stream_file(tmp_path / "a.json", ["text"])) == [
        {"text": "\u2028 1"},
        {"text": "\U0001f600", "label": 1},
    ]


def test_a_file_that_changes_is_read_again(tmp_path):
    files = splits(tmp_path, make_rows(6))
    first = load_data(DataArguments(**files)).texts("train")
    splits(tmp_path, make_rows(6, 50))
    assert load_data(DataArguments(**files)).texts("train") != first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nfootball, match,sport\nbank, shares,business\n", "rows of a CSV file have more cells than its header"),
        ("text,label\nCaf\xe9,sport\nbank,business\n", "cannot be read: 'utf-8' codec can't decode"),
    ],
)  # fmt: skip
def test_tables_of_a_data_set_folder_that_cannot_be_read_for_sure(tmp_path, content, message):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.csv").write_text(content, encoding="cp1252")
    with pytest.raises(ValueError, match=message):
        load_data(DataArguments(dataset_name=str(tmp_path)))


def test_a_json_column_of_a_data_set_folder_that_mixes_kinds_is_refused(tmp_path):
    for split in ("train", "validation", "test"):  # `datasets` would read the text "1" as the number 1
        write_jsonl(tmp_path / f"{split}.jsonl", [{"text": "a", "label": "1"}, {"text": "b", "label": 0}])
    with pytest.raises(ValueError, match=r"The columns \['label'\] mix texts with other values"):
        load_data(DataArguments(dataset_name=str(tmp_path), label_list=["1", "0"]))


def test_texts_of_a_data_set_folder_that_look_like_dates_are_refused(tmp_path):
    for split in ("train", "validation", "test"):  # `datasets` makes dates of them
        rows = [{"key": f"2020-01-0{day} 00:00:00", "text": f"{split} {day}", "label": str(day)} for day in (1, 2)]
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    with pytest.raises(ValueError, match=r"The columns \['key'\] hold texts that look like dates.*train_file"):
        load_data(DataArguments(dataset_name=str(tmp_path), id_column="key"))


@pytest.mark.parametrize("ids", [["a", 1], ["a", None], [None]])
def test_ids_of_several_kinds_are_refused(tmp_path, ids):
    rows = [{"key": key, "text": f"text {index}", "label": str(index)} for index, key in enumerate(ids)]
    with pytest.raises(ValueError, match="ids in column 'key' of the train split are of several kinds"):
        load_data(DataArguments(**splits(tmp_path, rows, "jsonl"), id_column="key"))
