import pytest

from hf_causal_clf.labelling.parts import column_parts, length_parts, read_columns


def rows_of(parts):
    return {name: inside.nonzero()[0].tolist() for name, inside in parts.items()}


def test_documents_are_in_quarters_by_length():
    parts = rows_of(length_parts(["a" * count for count in (1, 2, 3, 4, 5, 6, 7, 8, 9)]))
    assert list(parts.values()) == [[0, 1, 2], [3, 4], [5, 6], [7, 8]]
    assert list(parts)[:2] == [("length", "1 to 3 characters"), ("length", "over 3 to 5 characters")]
    assert length_parts(["same", "size"]) == {}


def test_documents_are_compared_by_the_values_of_columns(tmp_path):
    path = tmp_path / "train.csv"
    rows = [f"d{number},{'mail' if number % 2 else ''},{number},text" for number in range(24)]
    path.write_text("\n".join(["key,source,year,text", *rows]))
    columns = read_columns(path, ["source", "year"], "key")
    parts = rows_of(column_parts(columns, ["d3", "d2", "train/d5", "validation/d5", "d0", "d23"]))
    assert parts["source", "mail"] == [0, 2, 5]
    assert parts["year", "3"] == [0]
    parts = rows_of(column_parts(columns, [f"d{number}" for number in range(24)]))
    assert len(parts) == 1 + 4
    assert parts["year", "0 to 5.75"] == [0, 1, 2, 3, 4, 5]
    assert rows_of(column_parts(read_columns(path, ["source"], None), [3, 2, "train/5"])) == {
        ("source", "mail"): [0, 2]
    }
    with pytest.raises(ValueError, match=r"no columns \['sauce'\]; it has \['key', 'source', 'year', 'text'\]"):
        read_columns(path, ["sauce"], "key")
