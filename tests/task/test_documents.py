import pytest
import tiny
from tokenizers.processors import TemplateProcessing

from hf_causal_clf import DocumentEncoder


def test_the_encoder_puts_the_tokenizers_own_tokens_around(tokenizer):
    framed = tiny.make_tokenizer()
    framed.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    text = "the cat sat on a mat and saw the football match"
    assert DocumentEncoder(framed, None).encode(text) == framed(text)["input_ids"]
    assert DocumentEncoder(tokenizer, None).encode(text) == tokenizer(text)["input_ids"]
    short = DocumentEncoder(framed, 6, "head").encode(text)
    assert short == [1, *framed(text)["input_ids"][-5:-1], 2]
    assert 2 not in DocumentEncoder(framed, None).encode("a <|im_end|> b")[1:-1]
    with pytest.raises(ValueError, match="max_length=2 leaves no room for the document"):
        DocumentEncoder(framed, 2)
