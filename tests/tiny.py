"""Tiny models and a tiny tokenizer, built in the process."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = (
    "the cat sat on a mat and saw the football match while shares in the bank fell as politics in the middle east "
    "kept markets busy; a new film about computers and phones won the prize for sport, business and tech"
)
_SIZE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "llama": (LlamaConfig, _SIZE),
    "qwen2": (Qwen2Config, _SIZE),
    "qwen3": (Qwen3Config, {**_SIZE, "head_dim": 8}),
    "mistral": (MistralConfig, {**_SIZE, "sliding_window": None}),
    "mistral_sliding": (MistralConfig, {**_SIZE, "sliding_window": 7}),
    "gemma2": (Gemma2Config, {**_SIZE, "head_dim": 8, "sliding_window": 7}),
    "gemma3": (
        Gemma3TextConfig,
        {**_SIZE, "head_dim": 8, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "phi3": (Phi3Config, _SIZE),
    "gpt2": (
        GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "gpt_neox": (
        GPTNeoXConfig,
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
        },
    ),
    "opt": (
        OPTConfig,
        {
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "word_embed_proj_dim": 32,
            "pad_token_id": 1,
        },
    ),
    "bloom": (BloomConfig, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with pad == eos, control tokens and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHATML,
    )


def make_config(name: str, vocab_size: int, **changes: object) -> PreTrainedConfig:
    """The configuration of a tiny model of an architecture, with weights large enough to matter."""
    kind, size = ARCHITECTURES[name]
    spread = "init_std" if kind is OPTConfig else "initializer_range"
    return kind(vocab_size=vocab_size, **{**size, spread: 0.3, **changes})


def make_causal_lm(name: str, vocab_size: int, **kwargs: object):
    """A tiny causal language model with fixed random weights."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(make_config(name, vocab_size), **kwargs).eval()


def save_checkpoint(folder: Path, name: str, tokenizer: PreTrainedTokenizerFast, **changes: object) -> str:
    """Save a tiny model, its configuration changed or not, and its tokenizer as a checkpoint folder."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(make_config(name, len(tokenizer), **changes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_encoder(folder: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """Save a tiny BERT, which reads 64 tokens, and a tokenizer as a checkpoint folder."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=len(tokenizer), **size, max_position_embeddings=64, pad_token_id=2)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
