import itertools

import pytest

from hf_causal_clf import LabelSpace, Verbalizer

NAMES = ["politics", "politics in the middle east", "sport"]


def test_every_label_set_comes_back():
    verbalizer = Verbalizer(LabelSpace(NAMES, multi_label=True))
    for count in range(4):
        for chosen in itertools.combinations(NAMES, count):
            parsed = verbalizer.parse(f" {verbalizer.verbalize(chosen)}\n")
            assert parsed.error is None
            assert parsed.labels == chosen


def test_every_label_comes_back_from_its_answer():
    verbalizer = Verbalizer(LabelSpace(NAMES), {"sport": "games"})
    assert [verbalizer.parse(verbalizer.verbalize(name)).labels for name in NAMES] == [(name,) for name in NAMES]
    assert verbalizer.verbalize("sport") == "games"
    assert verbalizer.parse("sport").error == "'sport' is not an answer"


@pytest.mark.parametrize(
    ("multi_label", "text", "error"),
    [
        (False, "", "empty answer"),
        (False, "Sport", "differs from 'sport' in case or spacing"),
        (False, "sport, because of the ball", "extra text after 'sport'"),
        (False, "politics in the middle east!", "extra text after 'politics in the middle east'"),
        (False, "weather", "'weather' is not an answer"),
        (True, "politics; sport", "wrong delimiter: expected ', ' between labels"),
        (True, "politics and sport", "wrong delimiter: expected ', ' between labels"),
        (True, "sport, politics", "labels out of order"),
        (True, "sport, sport", "repeated label 'sport'"),
        (True, "politics, weather", "'weather' is not an answer"),
        (True, "politics, Sport", "differs from 'sport' in case or spacing"),
    ],
)
def test_malformed_answers_say_why(multi_label, text, error):
    parsed = Verbalizer(LabelSpace(NAMES, multi_label=multi_label)).parse(text)
    assert parsed.labels == ()
    assert parsed.error == error


@pytest.mark.parametrize(
    ("multi_label", "kwargs", "message"),
    [
        (False, {"answers": {"sport": "POLITICS "}}, "'politics' and 'sport' collide"),
        (False, {"answers": {"film": "x"}}, "unknown labels \\['film'\\]"),
        (False, {"answers": {"sport": "  "}}, "answer of label 'sport' is empty"),
        (True, {"empty_answer": "Sport"}, "collide.*change `empty_answer`"),
        (True, {"answers": {"sport": "ball, games"}}, "contains the label delimiter"),
        (True, {"delimiter": " "}, "visible character"),
    ],
)
def test_answers_that_cannot_be_told_apart(multi_label, kwargs, message):
    with pytest.raises(ValueError, match=message):
        Verbalizer(LabelSpace(NAMES, multi_label=multi_label), **kwargs)


def test_dictionary_round_trip():
    labels = LabelSpace(NAMES, multi_label=True)
    verbalizer = Verbalizer(labels, {"sport": "games"}, delimiter=" | ", empty_answer="nothing")
    again = Verbalizer.from_dict(verbalizer.to_dict(), labels)
    assert again.to_dict() == verbalizer.to_dict()
    assert again.verbalize([]) == "nothing"


def test_the_longest_answer_that_a_text_begins_with_is_named():
    verbalizer = Verbalizer(LabelSpace(["war", "war and peace", "zoo"]))
    assert verbalizer.parse("war and peace, by Tolstoy").error == "extra text after 'war and peace'"
    assert verbalizer.parse("x" * 100).error == f"'{'x' * 60}' is not an answer"


def test_the_label_that_is_repeated_is_named():
    verbalizer = Verbalizer(LabelSpace(NAMES, multi_label=True))
    assert verbalizer.parse("politics, sport, sport").error == "repeated label 'sport'"
    assert verbalizer.parse("sport,").error == "extra text after 'sport'"
