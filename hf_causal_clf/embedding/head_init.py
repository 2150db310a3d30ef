"""A head that starts from the answers: the LM head's rows of each label's answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from ..backbone.loading import quiet
from ..task.tokens import PlainTokenizer

_END = -1  # no token's id


def verbalizer_head(
    output_embeddings: torch.Tensor, answer_ids: Sequence[Sequence[int]], *, end_tokens: int = 1
) -> torch.Tensor:
    """Return the weight of a head that reads the answer slot as the language model does.

    A label's row is the mean of the LM head's rows of its answer's tokens, up to and including the first that no other
    answer has after the same tokens. Where all answers begin differently, that is the first token alone, and the head's
    softmax is the language model's own at the answer slot, restricted to those tokens. An answer that another one
    begins with is taken whole. (Answers that only repeat one token, as "1" and "11" may, start alike; training tells
    them apart.)

    The mean row over the labels is taken away. It changes no softmax, and keeps sigmoids from saturating, since a
    language model's logits have no natural zero.

    Args:
        output_embeddings: Weight of the LM head, `(vocabulary, hidden)`.
        answer_ids: One token-id list per label, end of answer included, as `PromptEncoder.answer_ids`.
        end_tokens: Number of tokens of the end of answer.

    Returns:
        float32 `(labels, hidden)`.
    """
    beginnings = Counter(tuple(ids[:length]) for ids in answer_ids for length in range(1, len(ids) + 1))
    rows = []
    for ids in answer_ids:
        own = next(length for length in range(1, len(ids) + 1) if beginnings[tuple(ids[:length])] == 1)
        chosen = list(ids[: min(own, len(ids) - end_tokens)])  # the end of answer is the same for all
        rows.append(output_embeddings[chosen].float().mean(dim=0))
    stacked = torch.stack(rows)
    return stacked - stacked.mean(dim=0)


def suffix_head(
    output_embeddings: torch.Tensor, tokenizer: PreTrainedTokenizerBase, suffix: str, names: Sequence[str]
) -> torch.Tensor | None:
    """Return the weight of a head that reads the end of a text after a document as the language model does.

    As `verbalizer_head`, with each label's name as the answer.

    Args:
        output_embeddings: Weight of the LM head, `(vocabulary, hidden)`.
        tokenizer: The backbone's tokenizer.
        suffix: Text after each document.
        names: The labels' names.

    Returns:
        float32 `(labels, hidden)`; `None` where a name has no tokens, or two have the same.
    """
    plain, space = PlainTokenizer(tokenizer), "" if suffix[-1].isspace() else " "
    answers = [plain.encode(space + name, continues=True) for name in names]
    if not all(answers) or len(set(map(tuple, answers))) < len(answers):
        return None
    return verbalizer_head(output_embeddings, [[*ids, _END] for ids in answers])


def read_output_embeddings(source: str, *, dtype: str | torch.dtype = "auto", **hub_kwargs: Any) -> torch.Tensor | None:
    """Read the weight of a causal-LM checkpoint's LM head, tied or not, without its layers.

    A bias, scale or soft cap that some language models put on their logits is not part of it.

    Args:
        source: Hub id or folder of the checkpoint.
        dtype: Data type of the weight; `"auto"` takes the checkpoint's.
        hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

    Returns:
        `(vocabulary, hidden)`, on the CPU; `None` if the checkpoint has no LM head.
    """
    config = AutoConfig.from_pretrained(source, **hub_kwargs)
    text_config = config.get_text_config()
    text_config.num_hidden_layers = 0  # without layers, only embeddings, last norm and LM head are read
    if "layer_types" in vars(text_config):
        text_config.layer_types = []
    with quiet():  # the weights of the layers are reported as unexpected
        model, found = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, output_loading_info=True, **hub_kwargs
        )
    if found["missing_keys"]:
        return None
    return model.get_output_embeddings().weight.detach().cpu()
