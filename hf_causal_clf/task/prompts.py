"""Prompt templates: from a document to token ids, the same way in training and at inference.

A prompt is `prefix + document + suffix`, put together from token ids and never from retokenised text. The prefix
(instruction and label list) is the same for every document; only the document is ever shortened; document text is
tokenised as plain text, so it cannot contain control tokens. Knows tokenizers, but neither models nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from .chat_template import chat_frame
from .chunks import DocumentCutter
from .labels import Label
from .tokens import PlainTokenizer, check_truncation, continuing_ids, special_frame, starts, token_ids, truncate
from .verbalizer import Verbalizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.get_logger(__name__)
SINGLE_LABEL_INSTRUCTION = "Classify the document. Answer with one of these labels: {labels}."
MULTI_LABEL_INSTRUCTION = (
    "Classify the document. Answer with all labels that apply, in this order: {labels}. "
    "If no label applies, answer: {empty_answer}."
)
PLAIN_FRAME = ("\n\nDocument:\n", "\n\nLabel:")  # between instruction, document and answer, without a chat template


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
        truncation: Where a document that is too long loses text: at its `"tail"`, its `"head"`, at `"both"` ends
            (which keeps the middle), or in its middle (`"head_tail"`).
        answer_tokens: Number of tokens of `max_length` that are kept free for the answer, its end included; `None` for
            the longest possible answer, which in a multi-label space names all labels (see `reserving`).
        long_documents: Whether a document that is too long is cut (`"truncate"`), or read in overlapping `"chunks"`,
            each in a prompt of its own (see `PromptEncoder.chunks`).

    Raises:
        ValueError: If `truncation` or `long_documents` is not one of these.
    """

    instruction: str | None = None
    use_chat_template: bool = False
    max_length: int | None = 1024
    truncation: str = "tail"
    answer_tokens: int | None = None
    long_documents: str = "truncate"

    def __post_init__(self) -> None:
        check_truncation(self.max_length, self.truncation, self.long_documents)

    def bind(self, tokenizer: PreTrainedTokenizerBase, verbalizer: Verbalizer) -> PromptEncoder:
        """Fix tokenizer and answers, check that they fit, and return the encoder of prompts and answers."""
        return PromptEncoder(self, tokenizer, verbalizer)

    def reserving(
        self, tokenizer: PreTrainedTokenizerBase, verbalizer: Verbalizer, labels: Iterable[Iterable[Label]]
    ) -> PromptTemplate:
        """Return the template with the room for an answer that 99 % of the training documents need at most.

        In a single-label space, and without `max_length`, it is the template itself. A training document with more
        labels keeps its answer whole and loses more text (`PromptEncoder.document_ids`).

        Args:
            tokenizer: The model's tokenizer.
            verbalizer: Labels and their answer texts.
            labels: The labels of each training document.

        Raises:
            ValueError: If the answer of a training document leaves no room for any of its text.
        """
        if self.max_length is None or not verbalizer.labels.multi_label:
            return self
        encoder = replace(self, max_length=None).bind(tokenizer, verbalizer)
        lengths = sorted(len(encoder.target_ids(value)) for value in labels)
        frame = len(encoder.prefix_ids) + len(encoder.suffix_ids)
        if frame + lengths[-1] >= self.max_length:
            raise ValueError(
                f"max_length={self.max_length} leaves no room for a training document: the prompt without it takes "
                f"{frame} tokens and its answer {lengths[-1]}. Use a max_length well above {frame + lengths[-1]}, or a "
                "shorter instruction or shorter answers."
            )
        shortest = max(map(len, [*encoder.answer_ids, encoder.empty_ids]))  # any one label has to fit
        tokens = max(lengths[math.ceil(0.99 * len(lengths)) - 1], shortest)
        logger.warning(
            f"max_length keeps {tokens} tokens free for the answer, which is enough for 99 % of the training "
            f"documents. (An answer with all labels takes {encoder.longest_answer}.)"
        )
        return replace(self, answer_tokens=tokens)

    def render_instruction(self, verbalizer: Verbalizer) -> str:
        """Return the instruction with the answers filled in."""
        text = self.instruction
        if text is None:
            text = MULTI_LABEL_INSTRUCTION if verbalizer.labels.multi_label else SINGLE_LABEL_INSTRUCTION
        text = text.replace("{delimiter}", verbalizer.delimiter).replace("{empty_answer}", verbalizer.empty_answer)
        return text.replace("{labels}", ", ".join(verbalizer.answers))

    def to_dict(self) -> dict[str, Any]:
        """Return the wording as JSON-serialisable values; length and truncation are saved apart from it."""
        wording = {"instruction": self.instruction, "use_chat_template": self.use_chat_template}
        return wording if self.answer_tokens is None else {**wording, "answer_tokens": self.answer_tokens}


class PromptEncoder:
    """A prompt template bound to a tokenizer and a verbalizer.

    With a chat template, prompt and answer have the token ids of the rendered conversation: white space that the
    template writes before the answer and that the tokenizer joins to its first token is part of the answer, all else
    that it writes there (a line break, an empty thinking block) is part of the suffix.

    Attributes:
        frame: Text before the document (without the tokenizer's own beginning) and after it, up to the answer slot.
        prefix_ids: Token ids that all prompts start with.
        suffix_ids: Token ids between the document and the answer slot.
        end_ids: Token ids that end an answer: one, or as many as the chat template writes up to its control token.
        end_id: The last of them, at which generation stops.
        first_ids: One token-id list per label: the answer as it follows the prompt, without its end.
        answer_ids: The same, end of answer included.
        joined_ids: One token-id list per label: delimiter and answer as they follow another label (multi-label).
        empty_ids: Token ids of the answer for a document with no label, end included (multi-label, else empty).
        document_budget: Number of tokens of a document that fit; `None` for all.
        long_documents: That of the template.

    Raises:
        ValueError: If an answer has no tokens, contains a control token or cannot be told from another one, if the
            tokenizer has no end-of-sequence token or chat template, or if `max_length` leaves no room for a document.
    """

    def __init__(self, template: PromptTemplate, tokenizer: PreTrainedTokenizerBase, verbalizer: Verbalizer) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.verbalizer = verbalizer
        self.long_documents = template.long_documents
        self._cut = DocumentCutter(tokenizer, template.truncation, template.long_documents)
        self._plain = PlainTokenizer(tokenizer)
        instruction = template.render_instruction(verbalizer)
        lead, beginning, self._trims = "", [], (False, False)
        if template.use_chat_template:
            before, after, closing, self._trims = chat_frame(tokenizer, instruction)
            self.end_ids = self._end(closing)
        else:
            before, after, lead = instruction + PLAIN_FRAME[0], PLAIN_FRAME[1], " "
            beginning = special_frame(tokenizer)[0]
            self.end_ids = self._end("")
        self.end_id = self.end_ids[-1]
        self._set_prefix(beginning, before)
        multi_label = verbalizer.labels.multi_label
        texts = [*verbalizer.answers, verbalizer.empty_answer] if multi_label else list(verbalizer.answers)
        after, answers = self._split_answers(after, lead, texts)
        self.frame = (before, after)
        self.first_ids = answers[: len(verbalizer.answers)]
        self.joined_ids = (
            [self._checked(text, continuing_ids(tokenizer, verbalizer.delimiter + text)) for text in verbalizer.answers]
            if multi_label
            else []
        )
        self.answer_ids = [[*ids, *self.end_ids] for ids in self.first_ids]
        self.empty_ids = [*answers[-1], *self.end_ids] if multi_label else []
        self._check_distinct()
        self._reserved = self.longest_answer if template.answer_tokens is None else template.answer_tokens
        self.document_budget = self._budget()

    def _end(self, closing: str) -> list[int]:
        """Token ids that end an answer, from the text that the chat template writes after one."""
        ids = continuing_ids(self.tokenizer, closing) if closing else []
        control = next((place for place, index in enumerate(ids) if index in self._plain.control_ids), 0)
        if ids:
            return ids[: control + 1]
        if self.tokenizer.eos_token_id is None:
            raise ValueError(
                "Neither the chat template nor the tokenizer has a token that ends an answer. Set `eos_token`."
                if self.template.use_chat_template
                else "The tokenizer has no end-of-sequence token, which ends an answer. Set `eos_token`."
            )
        return [self.tokenizer.eos_token_id]

    def _set_prefix(self, beginning: list[int], before: str) -> None:
        """Set the prefix, and how a document goes on from it: the space that belongs to its first token, if any."""
        whole = token_ids(self.tokenizer, f"{before}a")
        kept = next((text for text in _shortened(before) if starts(whole, token_ids(self.tokenizer, text))), before)
        prefix = token_ids(self.tokenizer, kept)
        self.prefix_ids = beginning + prefix
        self._lead = before[len(kept) :]
        # Some tokenizers put a space before every text; within the prompt that is right only where they do it there too
        self._continues = whole != prefix + self._plain.encode(f"{self._lead}a")

    def _split_answers(self, after: str, lead: str, texts: Sequence[str]) -> tuple[str, list[list[int]]]:
        """Set the suffix. Return its text, and the answers' token ids as they follow it.

        White space at the end of `after` that an answer's first token takes up is taken from the suffix.
        """
        whole = [continuing_ids(self.tokenizer, after + lead + text) for text in texts]
        for kept in _shortened(after):
            self.suffix_ids = continuing_ids(self.tokenizer, kept)
            if all(starts(ids, self.suffix_ids) for ids in whole):
                answers = [ids[len(self.suffix_ids) :] for ids in whole]
                break
        else:  # the tokenizer joins other text: what the prompt ends with must not depend on the answer
            kept, self.suffix_ids = after, continuing_ids(self.tokenizer, after)
            answers = [continuing_ids(self.tokenizer, lead + text) for text in texts]
        return kept, [self._checked(text, ids) for text, ids in zip(texts, answers, strict=True)]

    def _checked(self, text: str, ids: list[int]) -> list[int]:
        if not ids or not token_ids(self.tokenizer, text):
            raise ValueError(f"The answer {text!r} has no tokens with this tokenizer. Give it another text.")
        if self._plain.unknown_id in ids and self.tokenizer.unk_token not in text:
            raise ValueError(f"The answer {text!r} has characters that this tokenizer does not know. Use other words.")
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
        """Number of document tokens that fit beside the frame and what is kept free for the answer."""
        if self.template.max_length is None:
            return None
        used = len(self.prefix_ids) + len(self.suffix_ids) + self._reserved
        if used >= self.template.max_length:
            answer = f" and the longest answer {self._reserved}" if self._reserved else ""
            raise ValueError(
                f"max_length={self.template.max_length} leaves no room for the document: the prompt without it takes "
                f"{used - self._reserved} tokens{answer}. Use a max_length well above {used}, or a shorter instruction "
                "or shorter answers."
            )
        return self.template.max_length - used

    @property
    def longest_answer(self) -> int:
        """Number of tokens of the longest possible answer, end included."""
        if not self.verbalizer.labels.multi_label:
            return max(map(len, self.answer_ids))
        return max(len(self.target_ids(self.verbalizer.labels.names)), len(self.empty_ids))

    def whole_ids(self, document: str) -> list[int]:
        """Token ids of a document, as plain text, none cut off."""
        document = document.lstrip() if self._trims[0] else document
        document = document.rstrip() if self._trims[1] else document
        return self._plain.encode(self._lead + document, continues=self._continues)

    def document_ids(self, document: str, *, answer_tokens: int = 0) -> list[int]:
        """Token ids of a document, as plain text, shortened to fit beside an answer of `answer_tokens` too."""
        return self._shorten(self.whole_ids(document), answer_tokens)

    def document_chunks(self, document: str, *, answer_tokens: int = 0) -> list[list[int]]:
        """Token ids of each chunk of a document: `document_ids` alone where it fits or is to be cut."""
        return self._cut(self.whole_ids(document), self._room(answer_tokens))

    def _shorten(self, ids: list[int], answer_tokens: int) -> list[int]:
        return truncate(ids, self._room(answer_tokens), self.template.truncation)

    def _room(self, answer_tokens: int) -> int | None:
        """Number of document tokens that fit beside an answer of `answer_tokens` too."""
        if self.document_budget is None:
            return None
        # Known in training alone: only the few documents with longer answers are cut in another place there
        return max(0, self.document_budget - max(0, answer_tokens - self._reserved))

    def prompt_ids(self, document: str, *, answer_tokens: int = 0) -> list[int]:
        """Token ids of the whole prompt, up to the answer slot (see `document_ids`): a long document is cut."""
        return self.fit(self.whole_ids(document), answer_tokens=answer_tokens)

    def chunks(self, document: str, *, answer_tokens: int = 0) -> list[list[int]]:
        """Token ids of the prompt of each chunk of a document (see `document_chunks`)."""
        return self.fit_chunks(self.whole_ids(document), answer_tokens=answer_tokens)

    encode = prompt_ids  # what a head reads, in place of `DocumentEncoder.encode`

    def fit(self, ids: list[int], *, answer_tokens: int = 0) -> list[int]:
        """Token ids of the whole prompt, from those of the whole document."""
        return [*self.prefix_ids, *self._shorten(ids, answer_tokens), *self.suffix_ids]

    def fit_chunks(self, ids: list[int], *, answer_tokens: int = 0) -> list[list[int]]:
        """Token ids of the prompt of each chunk, from those of the whole document."""
        return [[*self.prefix_ids, *part, *self.suffix_ids] for part in self._cut(ids, self._room(answer_tokens))]

    def target_ids(self, value: Label | Iterable[Label]) -> list[int]:
        """Token ids of the gold answer, end included (see `LabelSpace.encode` for `value`)."""
        encoded = self.verbalizer.labels.encode(value)
        if isinstance(encoded, int):
            return self.answer_ids[encoded]
        chosen = [index for index, present in enumerate(encoded) if present]
        return [*self.chain_ids(chosen), *self.end_ids] if chosen else self.empty_ids

    def chain_ids(self, chosen: Sequence[int]) -> list[int]:
        """Token ids of a multi-label answer that may go on: labels in label-space order, at least one, no end."""
        ids = list(self.first_ids[chosen[0]])
        for index in chosen[1:]:
            ids += self.joined_ids[index]
        return ids


def _shortened(text: str) -> Iterator[str]:
    """The text, and the text with less and less of the white space that it ends with."""
    return (text[:end] for end in range(len(text), len(text.rstrip()) - 1, -1))
