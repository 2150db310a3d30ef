"""Files cut into pieces: each is what a reading of the whole file has there, and reads no more than it has to."""

import csv
import io
import json
import random
from pathlib import Path

import fsspec
import hub_client
import pyarrow as pa
import pytest
from hub_server import HubServer
from huggingface_hub import HfApi
from pyarrow import parquet

from hf_causal_clf.backbone.identity import identify_files
from hf_causal_clf.data import pieces as pieces_module
from hf_causal_clf.data.files import FORMATS, stream_file
from hf_causal_clf.data.locations import find_files
from hf_causal_clf.data.pieces import PieceReader, cut, index_file
from hf_causal_clf.data.planning import Columns, plan_files

DRAW = random.Random(0)
ROWS = [{"key": f"k{row}", "text": DRAW.choice(['wört, "q"\n', "x ", "ü"]) * DRAW.randint(1, 30)} for row in range(337)]


def lines(path, between="\n", encoding="utf-8"):
    path.write_bytes(between.join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode(encoding))


def table(path, delimiter=",", encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("key", "text"), *(row.values() for row in ROWS)])


WRITERS = {
    "lines.jsonl": lines,
    "blank.jsonl": lambda path: lines(path, "\n\n \n"),
    "dos.jsonl": lambda path: lines(path, "\r\n"),
    "bom.jsonl": lambda path: lines(path, encoding="utf-8-sig"),
    "old_mac.jsonl": lambda path: lines(path, "\r"),
    "wide.jsonl": lambda path: lines(path, encoding="utf-16"),
    "array.json": lambda path: path.write_text(json.dumps(ROWS)),
    "spread.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "comma.csv": table,
    "semicolon.csv": lambda path: table(path, ";", "utf-8-sig"),
    "wide.csv": lambda path: table(path, ",", "utf-16"),
    "small.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7),
    "large.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=100),
}
BY_BYTES = ("lines.jsonl", "blank.jsonl", "dos.jsonl", "bom.jsonl", "comma.csv", "semicolon.csv")


@pytest.mark.parametrize("name", WRITERS)
def test_pieces_are_the_rows_of_the_whole_file_in_any_order(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    whole = [(row["key"], row["text"]) for row in stream_file(path, ["text", "key"])]
    assert whole == [tuple(row.values()) for row in ROWS]
    for size in (1, 10, 64, 1000):
        found = index_file(str(path), size, ["text", "key"])
        assert (found.rows, set(found.columns)) == (337, {"key", "text"})
        assert (found.starts is not None) == (name in BY_BYTES)
        pieces = cut([found], size)
        assert [piece.first for piece in pieces] == list(range(0, 337, size))
        for order in (pieces[:40], pieces[1::3][:40], pieces[::-1][:3]):
            read = PieceReader("text", "key")
            for piece in order:
                assert read(piece) == whole[piece.first : piece.first + size]


@pytest.mark.parametrize("name", ["lines.jsonl", "comma.csv"])
def test_a_piece_reads_its_own_bytes(tmp_path, monkeypatch, name):
    WRITERS[name](tmp_path / name)
    pieces = cut([index_file(str(tmp_path / name), 20, ["text"])], 20)
    taken = []

    class Counted(io.BytesIO):
        def readline(self):
            line = super().readline()
            taken.append(len(line))
            return line

    monkeypatch.setattr(pieces_module, "open_binary", lambda path: Counted(Path(path).read_bytes()))
    read = PieceReader("text", "key")
    for piece in pieces:
        read(piece)
    assert sum(taken) == (tmp_path / name).stat().st_size


def test_a_parquet_file_is_decoded_from_the_row_group_on(tmp_path, monkeypatch):
    WRITERS["large.parquet"](tmp_path / "a.parquet")
    pieces = cut([index_file(str(tmp_path / "a.parquet"), 50, ["text"])], 50)
    groups = []
    iterate = parquet.ParquetFile.iter_batches

    def noted(self, *args, row_groups, **options):
        groups.append(list(row_groups))
        return iterate(self, *args, row_groups=row_groups, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", noted)
    read = PieceReader("text")
    for piece in (pieces[0], pieces[4], pieces[5], pieces[1]):
        assert [text for _, text in read(piece)] == [row["text"] for row in ROWS[piece.first : piece.first + 50]]
    assert [found[0] for found in groups] == [0, 2, 0]  # sought forward, gone on with, sought back


def test_numbers_of_rows_are_ids_without_reading(tmp_path):
    lines(tmp_path / "a.jsonl")
    lines(tmp_path / "b.jsonl")
    files = find_files(str(tmp_path), FORMATS)
    plan = plan_files(files, 100, Columns())
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.jsonl").unlink()
    assert [row for piece in plan.pieces for row in PieceReader("text").ids(piece)] == list(range(2 * 337))
    assert [piece.rows for piece in plan.pieces] == [100, 100, 100, 37] * 2


def test_a_file_that_has_changed_is_named(tmp_path):
    lines(tmp_path / "a.jsonl")
    piece = plan_files([str(tmp_path / "a.jsonl")], 100, Columns()).pieces[-1]
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"a\.jsonl' has changed: 0 of 37 rows are at their place"):
        PieceReader("text")(piece)


def test_files_are_found_by_name_folder_and_pattern(tmp_path, monkeypatch):
    for name in ("b.jsonl", "a.csv", "deep/c.parquet", "notes.txt", "_prediction.json", ".hidden/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def found(source):
        return [str(Path(name).relative_to(tmp_path)) for name in find_files(source, FORMATS)]

    assert found(str(tmp_path)) == ["a.csv", "b.jsonl", "deep/c.parquet"]
    assert found(f"{tmp_path}/*.jsonl") == ["b.jsonl"]
    assert found(f"{tmp_path}/**/*.parquet") == ["deep/c.parquet"]
    monkeypatch.chdir(tmp_path)
    assert found("b.jsonl") == ["b.jsonl"]
    (tmp_path / "what[1]?.csv").write_text("x")
    assert found("what[1]?.csv") == ["what[1]?.csv"]  # a name, not a pattern, where there is such a file
    for source, message in [
        ("*.docx", r"There are no files '\*\.docx'"),
        ("nowhere.csv", "There is no file 'nowhere.csv'"),
        ("notes.txt", "'notes.txt' has an unknown ending; known are .csv"),
        ("*.txt", r"notes\.txt' has an unknown ending"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_files(source, FORMATS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"There is no document .* in 'empty'"):
        find_files("empty", FORMATS)
    with pytest.raises(OSError, match="'nothing://x' cannot be reached: Protocol not known"):
        find_files("nothing://x", FORMATS)


def test_files_of_a_url_are_found_and_read(tmp_path):
    memory = fsspec.filesystem("memory")
    for name in ("a.jsonl", "b.jsonl"):
        memory.pipe(f"/docs/{name}", "".join(json.dumps(row) + "\n" for row in ROWS[:12]).encode())
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=50)
    memory.pipe("/docs/c.parquet", sink.getvalue())
    files = find_files("memory://docs/*", FORMATS)
    plan = plan_files(files, 10, Columns(id="key"))
    read = PieceReader("text", "key")
    found = [row for piece in plan.pieces for row in read(piece)]
    assert found == [tuple(row.values()) for row in [*ROWS[:12], *ROWS[:12], *ROWS]]


def test_files_of_the_hub_are_told_by_its_own_hashes(tmp_path):
    with HubServer() as server, hub_client.using(server, tmp_path / "home", server.token):
        HfApi().create_repo("alice/rows", repo_type="dataset")
        lines(tmp_path / "a.jsonl")
        push = {"repo_id": "alice/rows", "path_in_repo": "data/a.jsonl", "repo_type": "dataset"}
        HfApi().upload_file(path_or_fileobj=tmp_path / "a.jsonl", **push)
        (file,) = find_files("hf://datasets/alice/rows", FORMATS)
        assert file == "hf://datasets/alice/rows/data/a.jsonl"
        before = identify_files([file])
        read, plan = PieceReader("text", "key"), plan_files([file], 100, Columns(id="key"))
        assert [row for piece in plan.pieces for row in read(piece)] == [tuple(row.values()) for row in ROWS]
        (tmp_path / "a.jsonl").write_text('{"text": "another"}')
        HfApi().upload_file(path_or_fileobj=tmp_path / "a.jsonl", **push)
        assert before.keys() == {"a.jsonl"}
        assert identify_files([file]) != before


def test_all_files_need_the_columns(tmp_path):
    lines(tmp_path / "a.jsonl")
    (tmp_path / "b.csv").write_text("text,id\nx,1\n")
    files = find_files(str(tmp_path), FORMATS)
    assert plan_files(files, 10, Columns()).total == 338
    with pytest.raises(ValueError, match=r"b\.csv' has no column 'key'; it has \['text', 'id'\]\. Set id_column"):
        plan_files(files, 10, Columns(id="key"))
    (tmp_path / "c.csv").write_text("body\n")
    assert plan_files([str(tmp_path / "c.csv")], 10, Columns()) is None
