import numpy as np
import pytest
import tiny
import tokenizer_families
from tokenizers.processors import TemplateProcessing

from hf_causal_clf import DocumentEncoder, LabelSpace, PromptTemplate, Verbalizer
from hf_causal_clf.task.chunks import chunk_spans, largest_of_chunks, mean_over_chunks, rows_of

SENTENCES = {
    "spaced": 'The cat sat on a mat. It saw "the bank." Shares fell 3.5 percent! And then?\nWhat of 7 markets… ',
    "not spaced": "很忙！然后？银行。下跌。市场。股票！",
}
TOKENIZERS = {
    "tiny": tiny.make_tokenizer,
    **{
        name: lambda name=name: tokenizer_families.make_tokenizer(name)
        for name in ("sentencepiece_bpe", "legacy_sentencepiece_bpe")
    },
}


@pytest.mark.parametrize(("name", "sentences"), [*((name, "spaced") for name in TOKENIZERS), ("tiny", "not spaced")])
def test_a_chunk_ends_where_a_sentence_does(name, sentences):
    tokenizer, text = TOKENIZERS[name](), SENTENCES[sentences]
    length = len(DocumentEncoder(tokenizer, None).encode(text))
    encoder = DocumentEncoder(tokenizer, length, long_documents="chunks")
    chunks = encoder.chunks(text * 5)
    assert len(chunks) > 4
    for chunk in chunks[:-1]:
        text = tokenizer.decode(chunk)
        assert text.rstrip(" \n").endswith((".", '."', "!", "?", "…", "。", "！", "？")), text
        assert not text.endswith("3."), text
        assert length * 3 // 4 < len(chunk) <= length
    assert len(chunks[-1]) == length


def test_without_a_sentence_in_the_last_quarter_a_chunk_is_full():
    assert chunk_spans(50, 20, lambda place: place in (5, 15)) == [(0, 20), (18, 38), (30, 50)]
    assert chunk_spans(50, 20, lambda place: place == 16)[0] == (0, 16)
    assert chunk_spans(20, 20, lambda place: True) == [(0, 20)]
    assert chunk_spans(21, 20, lambda place: False) == [(0, 20), (1, 21)]
    assert chunk_spans(3, 1, lambda place: False) == [(0, 1), (1, 2), (2, 3)]


def test_each_chunk_is_framed_as_a_document_of_its_own():
    tokenizer = tiny.make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    text = "the cat sat on a mat and saw the football match " * 9
    encoder = DocumentEncoder(tokenizer, 30, suffix="\n\nTopic:", long_documents="chunks")
    whole, suffix = encoder.whole_ids(text), encoder.encode("a")[2:]
    assert tokenizer.decode(suffix).startswith("\n\nTopic:")
    spans = chunk_spans(len(whole), encoder.document_budget, lambda place: False)
    assert encoder.chunks(text) == [[1, *whole[start:end], *suffix] for start, end in spans]
    assert max(map(len, encoder.chunks(text))) == 30
    assert encoder.encode(text) == encoder.chunks(text)[0]
    assert encoder.chunks("the cat") == [encoder.encode("the cat")]
    cut = DocumentEncoder(tokenizer, 30, "head_tail")
    assert cut.chunks(text) == [cut.encode(text)]
    unlimited = DocumentEncoder(tokenizer, None, long_documents="chunks")
    assert unlimited.chunks(text) == [unlimited.encode(text)]


@pytest.mark.parametrize("multi_label", [False, True])
def test_each_chunk_stands_in_a_prompt_of_its_own(tokenizer, multi_label):
    text = "the cat sat on a mat and saw the football match. " * 20
    verbalizer = Verbalizer(LabelSpace(["sport", "tech"], multi_label=multi_label))
    encoder = PromptTemplate(max_length=160, long_documents="chunks").bind(tokenizer, verbalizer)
    chunks = encoder.chunks(text)
    assert len(chunks) > 3
    before, after = encoder.prefix_ids, encoder.suffix_ids
    assert [chunk[len(before) : len(chunk) - len(after)] for chunk in chunks] == encoder.document_chunks(text)
    for chunk in chunks:
        assert chunk[: len(before)] == before
        assert chunk[len(chunk) - len(after) :] == after
        assert len(chunk) + encoder.longest_answer <= 160
    longer = encoder.longest_answer + 7
    assert max(map(len, encoder.chunks(text, answer_tokens=longer))) <= 160 - longer
    assert encoder.chunks("the cat") == [encoder.prompt_ids("the cat")]


def test_the_mean_over_chunks():
    found = np.arange(12, dtype=np.float32).reshape(6, 2) ** 2
    _, counts = rows_of([[0, 1, 2], [3], [4, 5]])
    expected = [found[:3].mean(0), found[3], found[4:].mean(0)]
    np.testing.assert_allclose(mean_over_chunks(found, counts), expected)
    np.testing.assert_array_equal(largest_of_chunks(found[:, 0], counts), [16, 36, 100])
    for pool in (mean_over_chunks, largest_of_chunks):
        np.testing.assert_array_equal(pool(found, np.ones(6, dtype=np.int64)), found)
        assert pool(found[:0], rows_of([])[1]).shape == (0, 2)


def test_a_way_that_does_not_exist(tokenizer):
    for make in (
        lambda way: DocumentEncoder(tokenizer, 8, long_documents=way),
        lambda way: PromptTemplate(long_documents=way),
    ):
        with pytest.raises(ValueError, match=r"`long_documents` must be one of \['truncate', 'chunks'\], got 'split'"):
            make("split")
