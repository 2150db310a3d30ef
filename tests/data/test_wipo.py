import pytest

from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.data.wipo import read_wipo

RECORD = """<?xml version="1.0" encoding="utf-8"?>
<record cy="WO" pn="{pn}"><ipcs ed="7" mc="{main}">{others}</ipcs>
<tis><ti xml:lang="EN">A {word} plough</ti></tis><abs><ab>It  ploughs &amp; digs.</ab></abs>
<cls><cl>1. A plough.</cl></cls><txts><txt>Long <b>text</b> here.</txt></txts></record>"""


def write(folder, pn, main="A01B00100", others=(), word="steel"):
    folder.mkdir(parents=True, exist_ok=True)
    codes = "".join(f'<ipc ic="{code}"/>' for code in others)
    (folder / f"{pn}.xml").write_text(RECORD.format(pn=pn, main=main, others=codes, word=word))


@pytest.mark.parametrize(
    ("level", "labels"), [("section", ["A", "B"]), ("class", ["A01", "B62"]), ("subclass", ["A01B", "B62D", "A01C"])]
)
def test_labels_at_each_level(tmp_path, level, labels):
    write(tmp_path / "a", "WO1", others=["B62D00500", "A01C00300"])
    assert read_wipo(tmp_path, level=level)[0]["label"] == labels


def test_text_is_from_the_chosen_fields(tmp_path):
    write(tmp_path, "WO1")
    assert read_wipo(tmp_path)[0] == {"id": "WO1", "text": "A steel plough. It ploughs & digs.", "label": ["A"]}
    assert read_wipo(tmp_path, fields=["txt", "cl"])[0]["text"] == "Long text here.. 1. A plough."


def test_malformed_files_are_named_and_counted(tmp_path, caplog):
    write(tmp_path, "WO1")
    write(tmp_path / "again", "WO1")
    (tmp_path / "cut.xml").write_text("<record pn='WO2'>")
    (tmp_path / "other.xml").write_text("<patent/>")
    (tmp_path / "code.xml").write_text("<record pn='WO3'><ipcs mc=''/><ti>x</ti></record>")
    (tmp_path / "empty.xml").write_text("<record pn='WO4'><ipcs mc='A01B'/></record>")
    (tmp_path / "bomb.xml").write_text(
        '<!DOCTYPE r [<!ENTITY a "b">]><record pn="WO5"><ipcs mc="A01B"/><ti>&a;</ti></record>'
    )
    rows = read_wipo(tmp_path)
    assert [row["id"] for row in rows] == ["WO1"]
    assert "6 of 7 files" in caplog.text
    for reason in (
        "cut.xml: no element found",
        "other.xml: no <record>",
        "code.xml: no main IPC code",
        "empty.xml: no text in ti, ab",
        "bomb.xml: declares entities",
        "'WO1' occurs twice",
    ):
        assert reason in caplog.text


def test_folders_as_splits_of_a_multi_label_task(tmp_path):
    for split, start in (("train", 0), ("validation", 10), ("test", 20)):
        for number in range(start, start + 4):
            write(tmp_path / split, f"WO{number}", others=["B62D00500"] * (number % 2), word=f"nice{number}")
    files = {f"{split}_file": str(tmp_path / split) for split in ("train", "validation", "test")}
    data = load_data(DataArguments(**files, multi_label=True, id_column="id"))
    assert data.label_space.names == ("A", "B")
    assert list(data.splits["test"]["id"]) == ["WO20", "WO21", "WO22", "WO23"]
    assert data.gold("test").tolist() == [[1, 0], [1, 1], [1, 0], [1, 1]]


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"ipc_level must be one of \['section', 'class', 'subclass'\], got 'group'"):
        DataArguments(train_file="x", ipc_level="group")
    with pytest.raises(ValueError, match="ipc_fields must be some of"):
        DataArguments(train_file="x", ipc_fields=["title"])
    with pytest.raises(ValueError, match="no readable WIPO-Alpha record"):
        read_wipo(tmp_path)
