"""Sentences and words in any script."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_causal_clf.explanation.units import UNITS, cut, without

# Each piece is a sentence; together they are a text
SENTENCES = {
    "English": [
        "Dr. Smith paid $3.50 to J. K. Rowling, e.g. for v1.2 (No. 5). ",
        "The U.S. economy grew! ",
        '"Why?" she asked, and ... left. ',
        "See www.example.com/a.b?q=down. ",
        "It said no. ",
        "Then yes.",
    ],
    "German": [
        "Am 3. Mai kam z. B. Hr. Müller, d. h. der Chef, bzw. Frau Dr. Maier. ",
        "Er sagte: „Hallo.“ ",
        "Es kostet ca. 3 Mio. Euro. ",
        "Das war 2019. ",
        "Danach?",
    ],
    "French": ["« Ça va ? » ", "M. Dupont répond : oui ! ", "Il part."],
    "Spanish": ["¿Qué tal? ", "¡Bien! ", "El Sr. García vino el 3 de mayo."],
    "Russian": ["Он живёт на ул. Ленина в г. Москва. ", "А. С. Пушкин писал! ", "Да?"],
    "Chinese": ["今天天气很好。", "我们去公园吧！", "你来吗？", "“好的。”", "他说。"],
    "Japanese": ["これは文です。", "「はい。」", "と言った。"],
    "Korean": ["오늘 날씨가 좋다. ", "공원에 가자! ", "올래?"],
    "Arabic": ["ذهبت إلى السوق. ", "هل رأيت ذلك؟ ", "نعم! ", "اشتريت تفاحا."],
    "Urdu": ["یہ پہلا جملہ ہے۔ ", "یہ دوسرا ہے۔"],
    "Hebrew": ["זה משפט ראשון. ", "ומה זה?"],
    "Hindi": ["यह पहला वाक्य है। ", "क्या यह दूसरा है?"],
    "Thai": ["วันนี้อากาศดี ", "เราไปสวนกัน ", "คุณมาไหม"],
    "Amharic": ["ይህ የመጀመሪያው ነው። ", "ይህ ሁለተኛው ነው።"],
    "Armenian": ["Սա առաջինն է։ ", "Սա երկրորդն է։"],
    "no capital": ["i went home. ", "it was good. ", "really"],
    "list": ["Things:\n", "- milk\n", "- eggs and\n", "1. First\n", "2. Second\n\n\n", "End"],
    "code": ["import os\n\n", "def f(x):\n", "    return x + 1\n\n", "print(f(2));\n", "y = 1"],
    "lines that are wrapped": ["This is a sentence that goes\non in the next line, and\nends here. ", "Then one."],
    "lines of Windows": ["One.\r\n", "Two\r\n\r\n", "Three"],
    "marks alone": ["!!! ", "??? ", "..."],
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences(name):
    pieces = SENTENCES[name]
    text = "".join(pieces)
    assert [text[start:end] for start, end in cut(text, "sentence")] == pieces


@pytest.mark.parametrize(
    "pieces",
    [["a ", "b  ", "c\n"], [" x ", "y"], ["你", "好，", "世", "界 ", "hello", "世", "界"], ["สวัสดี ", "ครับ"], ["  "]],
)
def test_words(pieces):
    text = "".join(pieces)
    assert [text[start:end] for start, end in cut(text, "word")] == pieces


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.sampled_from("aB .!?。\n\r\t\"'„(1Ü\u0e01\u3042\u4e00\u06d4\x00\u2028\U0001f600e\u0301"), max_size=40)
)
def test_parts_are_the_whole_text_and_none_is_blank(text):
    for unit in UNITS:
        spans = cut(text, unit)
        assert "".join(text[start:end] for start, end in spans) == text
        assert len(spans) == 1 or all(text[start:end].strip() for start, end in spans)


@pytest.mark.parametrize("piece", [" ", "\n", "!", '"', "!(", "\n "])
def test_long_texts_take_no_time(piece):
    text, start = piece * 20_000 + "x", time.process_time()
    for unit in UNITS:
        cut(text, unit)
    assert time.process_time() - start < 2


def test_what_is_left():
    text = "One. Two! Three"
    assert without(text, [(0, 5)]) == "Two! Three"
    assert without(text, [(10, 15)]) == "One. Two!"
    assert without(text, [(0, 5), (10, 15)]) == "Two!"
    assert without(text, []) == text
    with pytest.raises(ValueError, match=r"unit must be one of \['sentence', 'word'\], got 'line'"):
        cut(text, "line")
