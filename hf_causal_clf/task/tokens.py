"""Token ids of plain text: no control token comes out of it, and only the document is shortened."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers.utils import logging

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

TRUNCATION_SIDES = ("tail", "head", "both", "head_tail")
LONG_DOCUMENTS = ("truncate", "chunks")


class PlainTokenizer:
    """Tokenises document text so that no control token of the tokenizer can come out of it.

    Attributes:
        control_ids: Ids of all added tokens (special or not) except those made of white space.
        unknown_id: Id of the token that stands for characters that the tokenizer does not know, if it has one that
            means nothing else. It is kept: a document of such characters is not an empty one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        tokens = {
            token: index for token, index in tokenizer.get_added_vocab().items() if token.replace("▁", " ").strip()
        }
        self.control_ids = frozenset(tokens.values()) | frozenset(tokenizer.all_special_ids)
        unknown = tokenizer.unk_token_id
        self.unknown_id = None if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id) else unknown
        texts = sorted((*tokens, *tokenizer.all_special_tokens), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts))) if texts else None

    def encode(self, text: str, *, continues: bool = False) -> list[int]:
        """Return the token ids of `text` without beginning- or end-of-sequence tokens.

        With `continues`, also without the space that some tokenizers put before every text.
        """
        ids = (
            continuing_ids(self.tokenizer, text, plain=True)
            if continues
            else token_ids(self.tokenizer, text, plain=True)
        )
        if self._pattern is None or not self.control_ids.intersection(ids):
            return ids
        # An added token that is not flagged special is still recognised: cut each one apart after its first
        # character. What survives even that (a token of one character, a normalised match) is left out.
        cuts = [match.start() + 1 for match in self._pattern.finditer(text)]
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        first = continuing_ids if continues else token_ids
        ids = first(self.tokenizer, pieces[0], plain=True)
        ids += [token for piece in pieces[1:] for token in continuing_ids(self.tokenizer, piece, plain=True)]
        return [token for token in ids if token not in self.control_ids or token == self.unknown_id]


def warn_of_unknown(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Warn where more than 1 % of the tokens of documents stand for characters that the tokenizer does not know.

    Of many documents, 1,000 are looked at.
    """
    plain = PlainTokenizer(tokenizer)
    if plain.unknown_id is None:
        return
    some = [plain.encode(text) for text in random.Random(0).sample(texts, min(1000, len(texts)))]
    unknown, total = (sum(counts) for counts in ([ids.count(plain.unknown_id) for ids in some], map(len, some)))
    if unknown > 0.01 * total:
        hit = sum(plain.unknown_id in ids for ids in some)
        logger.warning(
            f"The tokenizer does not know many characters of the training documents: {unknown / total:.1%} of their "
            f"tokens are {tokenizer.unk_token!r}, in {hit:,} of {len(some):,} documents that were looked at. Use a "
            "model whose tokenizer knows their language."
        )


def truncate(ids: list[int], budget: int | None, side: str) -> list[int]:
    """Shorten a list of token ids to `budget`, taking tokens away at `side` (one of `TRUNCATION_SIDES`).

    `"head_tail"` keeps half of the budget at the beginning, and one more where it is odd, and half at the end, which
    Sun et al. found best for BERT (arXiv 1905.05583). `"both"` keeps the middle.
    """
    if budget is None or len(ids) <= budget:
        return ids
    if side == "head_tail":
        return [*ids[: budget - budget // 2], *ids[len(ids) - budget // 2 :]]
    start = {"tail": 0, "head": len(ids) - budget, "both": (len(ids) - budget) // 2}[side]
    return ids[start : start + budget]


def check_truncation(max_length: int | None, side: str, long_documents: str = "truncate") -> None:
    """Raise a `ValueError` for a length that is not positive, or a side or a way that is not known."""
    if side not in TRUNCATION_SIDES:
        raise ValueError(f"`truncation` must be one of {list(TRUNCATION_SIDES)}, got {side!r}.")
    if long_documents not in LONG_DOCUMENTS:
        raise ValueError(f"`long_documents` must be one of {list(LONG_DOCUMENTS)}, got {long_documents!r}.")
    if max_length is not None and max_length < 1:
        raise ValueError(f"`max_length` must be a positive number of tokens, got {max_length}.")


def special_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the token ids that the tokenizer itself puts before and after a text."""
    bare, full = token_ids(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    return [], []


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, plain: bool = False) -> list[int]:
    """Token ids of a text without those that the tokenizer puts around; `plain` reads control tokens as text."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=plain, verbose=False)["input_ids"])


def continuing_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, plain: bool = False) -> list[int]:
    """Token ids of a text as it goes on from another: tokenised after a character that it does not merge with."""
    for anchor in ("\n", ".", "a"):
        known = token_ids(tokenizer, anchor, plain=plain)
        ids = token_ids(tokenizer, anchor + text, plain=plain)
        if known and tokenizer.unk_token_id not in known and starts(ids, known):
            return ids[len(known) :]
    return token_ids(tokenizer, text, plain=plain)


def starts(ids: list[int], beginning: list[int]) -> bool:
    """Whether token ids start with others."""
    return ids[: len(beginning)] == beginning
