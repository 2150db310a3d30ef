"""Prompt templates: from a document to token ids, the same way in training and at inference.

A prompt is `prefix + document + suffix`, put together from token ids and never from retokenised text. The prefix
(instruction and label list) is the same for every document; only the document is ever shortened; document text is
tokenised as plain text, so it cannot contain control tokens. Knows tokenizers, but neither models nor torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .labels import Label
from .verbalizer import Verbalizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRUNCATION_SIDES = ("tail", "head", "both")
SINGLE_LABEL_INSTRUCTION = "Classify the document. Answer with one of these labels: {labels}."
MULTI_LABEL_INSTRUCTION = (
    "Classify the document. Answer with all labels that apply, in this order: {labels}. "
    "If no label applies, answer: {empty_answer}."
)
PLAIN_FRAME = ("\n\nDocument:\n", "\n\nLabel:")  # between instruction, document and answer, without a chat template
# Some chat templates state today's date; a run would be prompted in another way tomorrow
_FIXED_DATE = "{% macro strftime_now(format) %}01 Jan 2025{% endmacro %}"
_CHAT_ADVICE = "Leave `use_chat_template` off, or set another `tokenizer.chat_template`."
_DOCUMENT_SLOT = "\ue000document\ue001"
_ANSWER_SLOT = "\ue000answer\ue001"


@dataclass(frozen=True)
class PromptTemplate:
    """How a document is put to a language model as a classification question.

    Args:
        instruction: Text at the start of every prompt. `{labels}` is replaced by the answer texts, `{delimiter}` and
            `{empty_answer}` by those of the verbalizer. `None` takes a default for the kind of task.
        use_chat_template: Whether to use the tokenizer's chat template (instruction as the system message, document
            as the user's turn) instead of plain text.
        max_length: Maximum number of tokens of prompt and answer together; `None` for no limit. Only the document is
            shortened to fit.
        truncation: Where a document that is too long loses text: at its `"tail"`, its `"head"` or at `"both"` ends
            (which keeps the middle).

    Raises:
        ValueError: If `truncation` is not one of these.
    """

    instruction: str | None = None
    use_chat_template: bool = False
    max_length: int | None = 1024
    truncation: str = "tail"

    def __post_init__(self) -> None:
        check_truncation(self.max_length, self.truncation)

    def bind(self, tokenizer: PreTrainedTokenizerBase, verbalizer: Verbalizer) -> PromptEncoder:
        """Fix tokenizer and answers, check that they fit, and return the encoder of prompts and answers."""
        return PromptEncoder(self, tokenizer, verbalizer)

    def render_instruction(self, verbalizer: Verbalizer) -> str:
        """Return the instruction with the answers filled in."""
        text = self.instruction
        if text is None:
            text = MULTI_LABEL_INSTRUCTION if verbalizer.labels.multi_label else SINGLE_LABEL_INSTRUCTION
        text = text.replace("{delimiter}", verbalizer.delimiter).replace("{empty_answer}", verbalizer.empty_answer)
        return text.replace("{labels}", ", ".join(verbalizer.answers))

    def to_dict(self) -> dict[str, Any]:
        """Return the wording as JSON-serialisable values; length and truncation are saved apart from it."""
        return {"instruction": self.instruction, "use_chat_template": self.use_chat_template}


class PromptEncoder:
    """A prompt template bound to a tokenizer and a verbalizer.

    Attributes:
        frame: Text before the document (without the tokenizer's own beginning) and after it, up to the answer slot.
        prefix_ids: Token ids that all prompts start with.
        suffix_ids: Token ids between the document and the answer slot.
        end_id: Token id that ends an answer.
        answer_ids: One token-id list a label: the answer as it follows the prompt, end of answer included.
        joined_ids: One token-id list a label: delimiter and answer as they follow another label (multi-label).
        empty_ids: Token ids of the answer for a document with no label, end included (multi-label, else empty).

    Raises:
        ValueError: If an answer has no tokens, contains a control token or cannot be told from another one, if the
            tokenizer has no end-of-sequence token or chat template, or if `max_length` leaves no room for a document.
    """

    def __init__(self, template: PromptTemplate, tokenizer: PreTrainedTokenizerBase, verbalizer: Verbalizer) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.verbalizer = verbalizer
        self._plain = PlainTokenizer(tokenizer)
        instruction = template.render_instruction(verbalizer)
        if template.use_chat_template:
            before, after, self.end_id = _chat_frame(tokenizer, instruction)
            lead = ""
            self.prefix_ids = _encode(tokenizer, before)
        else:
            before, after, lead = instruction + PLAIN_FRAME[0], PLAIN_FRAME[1], " "
            if tokenizer.eos_token_id is None:
                raise ValueError("The tokenizer has no end-of-sequence token, which ends an answer. Set `eos_token`.")
            self.end_id = tokenizer.eos_token_id
            self.prefix_ids = _beginning(tokenizer) + _encode(tokenizer, before)
        self.suffix_ids = _encode(tokenizer, after)
        self.frame = (before, after)
        multi_label = verbalizer.labels.multi_label
        self._first = [self._answer(lead, text) for text in verbalizer.answers]
        self.joined_ids = (
            [self._answer(verbalizer.delimiter, text) for text in verbalizer.answers] if multi_label else []
        )
        self.answer_ids = [[*ids, self.end_id] for ids in self._first]
        self.empty_ids = [*self._answer(lead, verbalizer.empty_answer), self.end_id] if multi_label else []
        self._check_distinct()
        self.document_budget = self._budget()

    def _answer(self, lead: str, text: str) -> list[int]:
        """Token ids of `lead + text` as a continuation: tokenised after a line break, which merges with nothing."""
        anchor, ids = _encode(self.tokenizer, "\n"), _encode(self.tokenizer, f"\n{lead}{text}")
        ids = ids[len(anchor) :] if anchor and ids[: len(anchor)] == anchor else _encode(self.tokenizer, lead + text)
        if not ids or not _encode(self.tokenizer, text):
            raise ValueError(f"The answer {text!r} has no tokens with this tokenizer. Give it another text.")
        if self._plain.control_ids.intersection(ids):
            raise ValueError(f"The answer {text!r} contains a control token of this tokenizer. Give it another text.")
        return ids

    def _check_distinct(self) -> None:
        texts = dict.fromkeys(map(tuple, self.answer_ids))
        if len(texts) < len(self.answer_ids):
            same = [
                text
                for text, ids in zip(self.verbalizer.answers, self.answer_ids, strict=True)
                if self.answer_ids.count(ids) > 1
            ]
            raise ValueError(f"The answers {same} have the same tokens with this tokenizer. Give them other texts.")

    def _budget(self) -> int | None:
        """Number of document tokens that fit beside the frame and the longest answer."""
        if self.template.max_length is None:
            return None
        used = len(self.prefix_ids) + len(self.suffix_ids) + self.longest_answer
        if used >= self.template.max_length:
            raise ValueError(
                f"max_length={self.template.max_length} leaves no room for the document: the prompt without it takes "
                f"{used - self.longest_answer} tokens and the longest answer {self.longest_answer}. Use a max_length "
                f"well above {used}, or a shorter instruction or shorter answers."
            )
        return self.template.max_length - used

    @property
    def longest_answer(self) -> int:
        """Number of tokens of the longest possible answer, end included."""
        if not self.verbalizer.labels.multi_label:
            return max(map(len, self.answer_ids))
        return max(len(self.target_ids(self.verbalizer.labels.names)), len(self.empty_ids))

    def document_ids(self, document: str) -> list[int]:
        """Token ids of a document, as plain text, shortened to fit."""
        return truncate(self._plain.encode(document), self.document_budget, self.template.truncation)

    def prompt_ids(self, document: str) -> list[int]:
        """Token ids of the whole prompt, up to the answer slot."""
        return [*self.prefix_ids, *self.document_ids(document), *self.suffix_ids]

    encode = prompt_ids  # what a head reads, in place of `DocumentEncoder.encode`

    def target_ids(self, value: Label | Iterable[Label]) -> list[int]:
        """Token ids of the gold answer, end included (see `LabelSpace.encode` for `value`)."""
        encoded = self.verbalizer.labels.encode(value)
        if isinstance(encoded, int):
            return self.answer_ids[encoded]
        chosen = [index for index, present in enumerate(encoded) if present]
        if not chosen:
            return self.empty_ids
        ids = list(self._first[chosen[0]])
        for index in chosen[1:]:
            ids += self.joined_ids[index]
        return [*ids, self.end_id]


class PlainTokenizer:
    """Tokenises document text so that no control token of the tokenizer can come out of it.

    Attributes:
        control_ids: Ids of all added tokens (special or not) except those made of white space.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        tokens = {
            token: index for token, index in tokenizer.get_added_vocab().items() if token.replace("▁", " ").strip()
        }
        self.control_ids = frozenset(tokens.values()) | frozenset(tokenizer.all_special_ids)
        texts = sorted((*tokens, *tokenizer.all_special_tokens), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts))) if texts else None

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text` without beginning- or end-of-sequence tokens."""
        ids = _encode(self.tokenizer, text, plain=True)
        if self._pattern is None or not self.control_ids.intersection(ids):
            return ids
        # An added token that is not flagged special is still recognised: cut each one apart after its first
        # character. What survives even that (a token of one character, a normalised match) is left out.
        cuts = [match.start() + 1 for match in self._pattern.finditer(text)]
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        ids = [token for piece in pieces for token in _encode(self.tokenizer, piece, plain=True)]
        return [token for token in ids if token not in self.control_ids]


def truncate(ids: list[int], budget: int | None, side: str) -> list[int]:
    """Shorten a list of token ids to `budget`, taking tokens away at `side` (`"tail"`, `"head"` or `"both"`)."""
    if budget is None or len(ids) <= budget:
        return ids
    start = {"tail": 0, "head": len(ids) - budget, "both": (len(ids) - budget) // 2}[side]
    return ids[start : start + budget]


def check_truncation(max_length: int | None, side: str) -> None:
    """Raise a `ValueError` for a length that is not positive or a side that is not known."""
    if side not in TRUNCATION_SIDES:
        raise ValueError(f"`truncation` must be one of {list(TRUNCATION_SIDES)}, got {side!r}.")
    if max_length is not None and max_length < 1:
        raise ValueError(f"`max_length` must be a positive number of tokens, got {max_length}.")


def special_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the token ids that the tokenizer itself puts before and after a text."""
    bare, full = _encode(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    return [], []


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return special_frame(tokenizer)[0]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, plain: bool = False) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=plain, verbose=False)["input_ids"])


def _chat_frame(tokenizer: PreTrainedTokenizerBase, instruction: str) -> tuple[str, str, int]:
    """Render the chat template around a document slot: text before it, text after it, id that ends an answer."""
    if not tokenizer.chat_template:
        raise ValueError(
            "`use_chat_template` is set, but the tokenizer has no chat template. Leave it off, or set "
            "`tokenizer.chat_template`."
        )
    messages = [{"role": "system", "content": instruction}, {"role": "user", "content": _DOCUMENT_SLOT}]
    rendered = _render(tokenizer, messages)
    if rendered is None or instruction not in rendered:  # templates without a system role
        messages = [{"role": "user", "content": f"{instruction}\n\n{_DOCUMENT_SLOT}"}]
        rendered = _render(tokenizer, messages)
    if rendered is None or rendered.count(_DOCUMENT_SLOT) != 1:
        raise ValueError(f"The tokenizer's chat template does not place the user's text exactly once. {_CHAT_ADVICE}")
    before, after = rendered.split(_DOCUMENT_SLOT)
    closed = _render(tokenizer, [*messages, {"role": "assistant", "content": _ANSWER_SLOT}], answered=True) or ""
    closing = _encode(tokenizer, closed.split(_ANSWER_SLOT)[-1]) if _ANSWER_SLOT in closed else []
    control = PlainTokenizer(tokenizer).control_ids  # some templates put a space before the end token
    end_id = next((index for index in closing if index in control), closing[0] if closing else tokenizer.eos_token_id)
    if end_id is None:
        raise ValueError("Neither the chat template nor the tokenizer has a token that ends an answer.")
    return before, after, end_id


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
        raise ValueError(f"The tokenizer's chat template is not valid Jinja ({error}). {_CHAT_ADVICE}") from error
    except TemplateError:  # a template's own `raise_exception`, for roles that it does not know
        return None
