"""What a request may be: its size, its form and its texts. Knows bytes, JSON and texts, no server."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from typing import Any

from transformers.utils import logging

from ..task.scorer import Scorer
from ..task.texts import is_empty

logger = logging.get_logger(__name__)

_EXAMPLE = '{"texts": ["a document", "another"]}'


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        position: Which of its texts is the reason, from 0; `None` where it is not one of them.
    """

    def __init__(self, status: int, sentence: str, position: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.position = status, position


@dataclass(frozen=True)
class Limits:
    """How much a request may hold.

    Attributes:
        max_request_bytes: Most bytes of its body.
        max_texts: Most texts.
    """

    max_request_bytes: int
    max_texts: int


async def read_body(chunks: AsyncIterable[bytes], limit: int) -> bytes:
    """Read a body, no further than it may go.

    Raises:
        Refused: If it is longer.
    """
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise Refused(413, f"The request has more than {limit:,} bytes. Send fewer or shorter texts.")
    return bytes(body)


def read_request(body: bytes, limits: Limits, control_tokens: re.Pattern[str] | None) -> list[str]:
    """Return the texts of a request.

    Args:
        body: Its body.
        limits: How many there may be.
        control_tokens: What no text may contain; `None` for nothing.

    Raises:
        Refused: If it is no JSON of the right form, or a text is not one that is classified.
    """
    try:
        given = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is not JSON in UTF-8. Send {_EXAMPLE}.") from error
    if not isinstance(given, dict) or set(given) != {"texts"}:
        raise Refused(422, f"The body must be an object with the key 'texts' and no other. Send {_EXAMPLE}.")
    texts = given["texts"]
    if not isinstance(texts, list) or not texts:
        raise Refused(422, f"'texts' must be a list of at least one text. Send {_EXAMPLE}.")
    if len(texts) > limits.max_texts:
        raise Refused(413, f"There are {len(texts):,} texts; a request may have {limits.max_texts:,}. Send fewer.")
    for position, text in enumerate(texts):
        wrong = next(wrong_with(text, control_tokens), None)
        if wrong is not None:
            raise Refused(422, f"Text {position}, counted from 0, {wrong}", position)
    return texts


def wrong_with(text: Any, control_tokens: re.Pattern[str] | None) -> Iterator[str]:
    """Say what keeps a text from being classified, as the end of a sentence that begins with the text's name."""
    if not isinstance(text, str):
        yield "is not a string. Send strings."
        return
    if is_empty(text):
        yield "is empty. Leave it out."
        return
    if "\0" in text:
        yield "has a NUL character, so it may be no text. Remove it."
    if not _is_unicode(text):
        yield "has half of a surrogate pair, which is no character. Remove it."
    if control_tokens is not None and (found := control_tokens.search(text)):
        yield f"has the model's control token {found[0]!r}. Remove it."


def _is_unicode(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def log_failure(error: Exception) -> str:
    """Log where a classifier failed, without the message, which may quote a text; return what its client is told."""
    places = "".join(traceback.format_tb(error.__traceback__)[-3:])
    logger.error(f"The classifier failed with {type(error).__name__}:\n{places.rstrip()}")
    return f"The classifier failed with {type(error).__name__}; the server's log says where."


def control_tokens(scorer: Scorer) -> re.Pattern[str] | None:
    """Return what finds a control token of a model's tokenizer in a text; `None` where there is none.

    Only tokens that are flagged special: others (`<h1>`, runs of spaces) are what documents are made of.
    """
    texts: set[str] = set()
    for part in _parts(scorer):
        tokenizer = getattr(getattr(part, "encoder", part), "tokenizer", None)
        if tokenizer is not None:
            texts |= set(tokenizer.all_special_tokens)
            texts |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts = {text for text in texts if text.strip()}
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True)))) if texts else None


def _parts(scorer: Any) -> Iterator[Any]:
    """The scorers that read texts: of a combination or a cascade those of its members, which may be such themselves."""
    members = getattr(scorer, "members", ()) or getattr(scorer, "stages", ())
    if not members:
        yield scorer
    for each in members:
        yield from _parts(each.scorer)
