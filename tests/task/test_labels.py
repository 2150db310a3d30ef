import numpy as np
import pytest

from hf_causal_clf import LabelSpace


def test_single_label_round_trip():
    labels = LabelSpace(["sport", "business", "tech"])
    assert [labels.encode(name) for name in labels.names] == [0, 1, 2]
    assert labels.encode(np.int64(2)) == 2
    assert [labels.decode(index) for index in (0, np.int64(1), 2)] == ["sport", "business", "tech"]
    assert labels.encode_batch(["tech", "sport"]).tolist() == [2, 0]
    assert labels.id2label == {0: "sport", 1: "business", 2: "tech"}
    assert labels.problem_type == "single_label_classification"


def test_multi_label_round_trip_keeps_label_space_order():
    labels = LabelSpace(["a", "b", "c"], multi_label=True)
    assert labels.encode(["c", "a"]) == [1, 0, 1]
    assert labels.encode([]) == [0, 0, 0]
    assert labels.decode([1, 0, 1]) == ["a", "c"]
    assert labels.encode_batch([["b"], []]).tolist() == [[0, 1, 0], [0, 0, 0]]
    assert labels.encode_batch([]).shape == (0, 3)
    assert LabelSpace.from_dict(labels.to_dict()) == labels


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sport"], "at least two labels"),
        (["sport", "sport"], "more than once: \\['sport'\\]"),
        (["sport", " "], "non-empty strings"),
        ("sport", "list of label names"),
    ],
)
def test_bad_names(names, message):
    with pytest.raises(ValueError, match=message):
        LabelSpace(names)


@pytest.mark.parametrize(
    ("multi_label", "value", "message"),
    [
        (False, "film", "Unknown label 'film'. Known labels: 'sport', 'tech'"),
        (False, 2, "Unknown label 2"),
        (False, True, "Unknown label True"),
        (False, ["sport"], "one label per document"),
        (True, "sport", "list of labels"),
        (True, ["film"], "Unknown label 'film'"),
    ],
)
def test_bad_labels(multi_label, value, message):
    with pytest.raises(ValueError, match=message):
        LabelSpace(["sport", "tech"], multi_label=multi_label).encode(value)


def test_many_labels_are_listed_in_part():
    few, many = (LabelSpace([f"label {index}" for index in range(count)]) for count in (20, 21))
    listed = ", ".join(f"'label {index}'" for index in range(20))
    with pytest.raises(ValueError, match=f"^Unknown label 'film'. Known labels: {listed}\\.$"):
        few.index("film")
    with pytest.raises(ValueError, match=f"^Unknown label 'film'. Known labels: {listed}, … \\(21 in all\\)\\.$"):
        many.index("film")


def test_batches_and_vectors():
    space = LabelSpace(["a", "b", "c"], multi_label=True)
    assert space.encode_batch([]).shape == (0, 3)
    assert space.encode_batch([["a"], []]).dtype == np.int64
    assert LabelSpace(["a", "b"]).encode_batch(["b"]).dtype == np.int64
    assert LabelSpace(["a", "b"]).decode(np.int64(1)) == "b"
    with pytest.raises(ValueError, match=r"^Expected a 0/1 vector of length 3, got length 2\.$"):
        space.decode([0, 1])
