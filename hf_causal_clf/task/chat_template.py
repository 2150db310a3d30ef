"""Chat templates: the text that a tokenizer's template writes around a document and around its answer.

Renders a conversation with slots; knows no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from transformers.utils import logging

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

# Some chat templates state today's date; a run would be prompted in another way tomorrow
_FIXED_DATE = "{% macro strftime_now(format) %}01 Jan 2025{% endmacro %}"
_ADVICE = "Leave `use_chat_template` off, or set another `tokenizer.chat_template`."
_DOCUMENT_SLOT = "\ue000document\ue001"
_ANSWER_SLOT = "\ue000answer\ue001"
_SPACE = "\v"  # white space that no template writes: it shows where what is given is trimmed


class ChatFrame(NamedTuple):
    """What a chat template writes around a document and its answer.

    Attributes:
        before: Text before the document.
        after: Text between document and answer.
        closing: Text after the answer.
        trims: Whether white space at the document's beginning and at its end is left out.
    """

    before: str
    after: str
    closing: str
    trims: tuple[bool, bool]


def chat_frame(tokenizer: PreTrainedTokenizerBase, instruction: str) -> ChatFrame:
    """Render a tokenizer's chat template around an instruction and slots for document and answer.

    Raises:
        ValueError: If there is no template, or it does not place the user's text.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            "`use_chat_template` is set, but the tokenizer has no chat template. Leave it off, or set "
            "`tokenizer.chat_template`."
        )
    document = f"{_SPACE}{_DOCUMENT_SLOT}{_SPACE}"
    messages = [{"role": "system", "content": instruction}, {"role": "user", "content": document}]
    rendered = _render(tokenizer, messages)
    if rendered is None or instruction.strip() not in rendered:  # some templates trim what they are given
        logger.info("The chat template has no system role: the instruction is put before the document in its turn.")
        messages = [{"role": "user", "content": f"{instruction}\n\n{document}"}]
        rendered = _render(tokenizer, messages)
    if rendered is None or rendered.count(_DOCUMENT_SLOT) != 1:
        raise ValueError(f"The tokenizer's chat template does not place the user's text exactly once. {_ADVICE}")
    before, after = rendered.split(_DOCUMENT_SLOT)
    trims = (not before.endswith(_SPACE), not after.startswith(_SPACE))
    before, after = before.removesuffix(_SPACE), after.removeprefix(_SPACE)
    answered = _render(tokenizer, [*messages, {"role": "assistant", "content": _ANSWER_SLOT}], answered=True) or ""
    between, found, closing = answered.rpartition(_ANSWER_SLOT)
    if not between.startswith(rendered) or _ANSWER_SLOT in between:
        logger.info(
            "The chat template's answers do not go on from its generation prompt (it may ask for thinking, which is "
            "not kept). The labels are trained and scored right after the generation prompt."
        )
        return ChatFrame(before, after, closing if found else "", trims)
    return ChatFrame(before, after + between[len(rendered) :], closing, trims)


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], *, answered: bool = False
) -> str | None:
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        return tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=not answered,
            enable_thinking=False,
            chat_template=_FIXED_DATE + tokenizer.get_chat_template(),
        )
    except TemplateSyntaxError as error:
        raise ValueError(f"The tokenizer's chat template is not valid Jinja ({error}). {_ADVICE}") from error
    except TemplateError:  # a template's own `raise_exception`, for roles that it does not know
        return None
