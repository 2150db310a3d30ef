"""Small tokenizers of each family, and chat templates in the form of each model family, written for these tests."""

import functools
import json

import tiny
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
CONTROL = [
    *(UNK, BOS, EOS, "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<think>", "</think>"),
]
# These take the white space after them, as those of Phi-3 do
SWALLOWING = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
_CORPUS = [
    tiny.WORDS,
    "Classify the document. Answer with one of these labels: sport, business, all labels that apply, in this order:",
    "[INST] the document [/INST] sport system user assistant model USER: the cat ASSISTANT: none",
]

TEMPLATES = {
    "chatml": tiny.CHATML,
    # [INST] <<SYS>> … <</SYS>> document [/INST] answer </s>: a space around the answer
    "llama2": (
        "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else none %}"
        "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] "
        "{% if system is not none %}<<SYS>>\n{{ system | trim }}\n<</SYS>>\n\n{% endif %}{{ m['content'] | trim }} [/INST]"
        "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }} </s>{% endif %}{% endfor %}"
    ),
    # two line breaks after each header; everything is trimmed
    "llama3": (
        "{% for m in messages %}{% if loop.first %}<s>{% endif %}"
        "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    # [INST] instruction, document [/INST] answer</s>
    "mistral": (
        "<s>{% set start = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ start + m['content'] }} [/INST]"
        "{% elif m['role'] == 'assistant' %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
    ),
    # no system role; the assistant is called model
    "gemma": (
        "<s>{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    # an empty thinking block before the answer, in the generation prompt only where thinking is off
    "qwen3": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}<think>\n\n"
        "</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
        "<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    # the same, but the generation prompt never has it: it lies between the two
    "thinking": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n"
        "{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% endif %}"
    ),
    # line breaks that the control tokens before them take
    "phi3": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    # a space before document and answer, nothing but text around them
    "vicuna": (
        "<s>{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] | trim }}{% elif m['role'] == 'user' %}"
        " USER: {{ m['content'] }}{% else %} ASSISTANT: {{ m['content'] }}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    ),
}


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=460, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _pieces() -> pre_tokenizers.PreTokenizer:
    """What sentencepiece learns its pieces from: words with the space before them, punctuation and line breaks apart."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Punctuation()]
    )


def _sentencepiece_bpe() -> Tokenizer:
    """A space before the text's first word; characters that are not known become their bytes."""
    learned = Tokenizer(models.BPE(unk_token=UNK))
    learned.pre_tokenizer = _pieces()
    trainer = trainers.BpeTrainer(vocab_size=220, special_tokens=CONTROL, show_progress=False)
    learned.train_from_iterator(_CORPUS, trainer)
    model = json.loads(learned.to_str())["model"]
    vocab = {**model["vocab"]}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=UNK, fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(CONTROL)
    return tokenizer


def _legacy_bpe() -> Tokenizer:
    """The same, as the first Llama tokenizers do it: a space before the text and after every control token."""
    tokenizer = _sentencepiece_bpe()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    return tokenizer


def _unigram() -> Tokenizer:
    """A space before the text and after every control token; characters that are not known become `<unk>`."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = _pieces()
    trainer = trainers.UnigramTrainer(
        vocab_size=220, special_tokens=CONTROL, unk_token=UNK, initial_alphabet=["\n", "▁"], show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


FAMILIES = {
    "byte_level_bpe": _byte_level,
    "sentencepiece_bpe": _sentencepiece_bpe,
    "legacy_sentencepiece_bpe": _legacy_bpe,
    "unigram": _unigram,
}


@functools.cache
def _trained(family: str) -> str:
    backend = FAMILIES[family]()
    backend.add_special_tokens([AddedToken(token, rstrip=True, special=True) for token in SWALLOWING])
    return backend.to_str()


def make_tokenizer(family: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of a family, with the chat template of that name."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(family)),
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=EOS,
        extra_special_tokens=[*CONTROL[3:], *SWALLOWING],
        chat_template=None if template is None else TEMPLATES[template],
    )
