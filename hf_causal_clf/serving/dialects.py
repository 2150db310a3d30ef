"""How servers want to be asked: ours, and vLLM's and other OpenAI-like ones for a run. Knows bodies and token ids.

An OpenAI-like server knows a model and nothing of a run, so the client does what `TextClassifier` does around the
model: it cuts, writes suffix or prompt, sends token ids, and calibrates the logits that come back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..runs.run import Run
from ..runs.schema import KINDS
from ..scorers import chunk_reader
from ..task.chunks import mean_over_chunks
from .answers import Answer, write_answers

_MOST_TOKENS = 128  # whose log-probabilities vLLM gives for a prompt (MAX_LOGPROB_TOKEN_IDS of 0.32)
_APPROACHES = ("embedding", "encoder", "instruction")


class NotAsked(ValueError):
    """A text that the server is not asked about, with its place among those of the call."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


@dataclass(frozen=True)
class Batch:
    """Texts that are asked about together.

    Attributes:
        rows: Their places among the texts of the call.
        bodies: JSON of the requests that they need.
        read: Turns what the server said to each request into an answer for each text. It raises `KeyError`,
            `IndexError`, `TypeError` or `ValueError` where that is of another form.
    """

    rows: range
    bodies: list[bytes]
    read: Callable[[list[Any]], list[Answer]]


class Dialect(Protocol):
    """A kind of server.

    Attributes:
        labels: Label names.
        abstains: Whether answers say where the run is not sure enough.
        path: Where requests go.
    """

    labels: list[str]
    abstains: bool
    path: str

    def batches(self, texts: Sequence[str]) -> Iterator[Batch]:
        """Yield the texts in batches; raises `NotAsked`."""
        ...


class Own:
    """A server that `hf-causal-clf serve` started.

    Args:
        said: Its answer to `GET /run`.
        batch_size: Most texts of a request.

    Raises:
        KeyError: If `said` is of another form; or `TypeError`.
    """

    path = "/predict"

    def __init__(self, said: Any, batch_size: int) -> None:
        self.labels: list[str] = said["labels"]
        self.abstains: bool = said["abstains"]
        self._most_bytes: int = said["max_request_bytes"]
        self._batch_size = min(batch_size, said["max_texts"])

    def batches(self, texts: Sequence[str]) -> Iterator[Batch]:
        """Yield the texts in requests as large as they may be."""
        start, quoted, size = 0, list[bytes](), 0
        for row, text in enumerate(map(_quoted, texts)):
            longer = size + len(text) + 1
            if quoted and (len(quoted) == self._batch_size or longer + len(_body([])) > self._most_bytes):
                yield Batch(range(start, row), [_body(quoted)], _predictions)
                start, quoted, longer = row, [], len(text) + 1
            quoted.append(text)
            size = longer
        if quoted:
            yield Batch(range(start, len(texts)), [_body(quoted)], _predictions)


class _OfRun:
    """What the dialects of OpenAI-like servers share: a run around a model that is served elsewhere."""

    def __init__(self, run: Run, tokenizer: PreTrainedTokenizerBase, model: dict[str, Any], batch_size: int) -> None:
        self.run = run
        self.labels = list(run.label_space.names)
        self.abstains = run.abstention is not None
        self._model = model
        self._batch_size = batch_size
        self._chunks = chunk_reader(run, tokenizer)

    def batches(self, texts: Sequence[str]) -> Iterator[Batch]:
        """Yield the texts in batches, cut and tokenised when they are sent."""
        for start in range(0, len(texts), self._batch_size):
            rows = range(start, min(start + self._batch_size, len(texts)))
            documents = [self._read(row, texts[row]) for row in rows]
            bodies, read_logits = self._ask([chunk for chunks in documents for chunk in chunks])
            counts = np.array([len(chunks) for chunks in documents])
            yield Batch(rows, bodies, partial(self._answers, read_logits, counts))

    def _ask(self, chunks: list[list[int]]) -> tuple[list[bytes], Callable[[list[Any]], np.ndarray]]:
        """Return requests about token ids, and what makes float32 `(chunks, labels)` of what was said to them."""
        raise NotImplementedError

    def _read(self, row: int, text: str) -> list[list[int]]:
        try:
            chunks = self._chunks(text)
        except ValueError as error:
            raise NotAsked(row, str(error)) from error
        longest, most = max(map(len, chunks)) + self._answer_tokens, self._model.get("max_model_len")
        if most is not None and longest > most:
            raise NotAsked(
                row,
                f"it needs {longest:,} tokens and the server takes {most:,}. Start it with --max-model-len {longest}, "
                "or train with a max_length.",
            )
        return chunks

    _answer_tokens = 0  # after those of a document

    def _answers(
        self, read_logits: Callable[[list[Any]], np.ndarray], counts: np.ndarray, said: list[Any]
    ) -> list[Answer]:
        logits = read_logits(said)
        if logits.shape != (counts.sum(), len(self.labels)):
            raise ValueError(f"{logits.shape[-1]} classes for {len(self.labels)} labels: it serves another model")
        if not np.isfinite(logits).all():
            raise ValueError("some of its numbers are none (NaN)")
        space, calibration = self.run.label_space, self.run.calibration
        probabilities = calibration.apply(mean_over_chunks(logits, counts), multi_label=space.multi_label)
        decisions = calibration.decide(probabilities, multi_label=space.multi_label)
        return write_answers(probabilities, decisions, space, self.run.abstention)


class Classify(_OfRun):
    """vLLM's `/classify`, for a head: an exported run, or an adapter that is loaded with its head."""

    path = "/classify"

    def _ask(self, chunks: list[list[int]]) -> tuple[list[bytes], Callable[[list[Any]], np.ndarray]]:
        body = {"model": self._model["id"], "input": chunks, "use_activation": False}  # logits, to be calibrated here
        return [json.dumps(body).encode()], _logits_of_classes


class Completions(_OfRun):
    """`/v1/completions`, for an instruction-based run: the log-probabilities of the tokens that answers consist of.

    vLLM is asked for what may follow the prompt and each beginning of an answer, a token of output for each: they share
    what its prefix cache holds. Other servers echo the prompt with each answer.
    """

    path = "/v1/completions"

    def __init__(self, run: Run, tokenizer: PreTrainedTokenizerBase, model: dict[str, Any], batch_size: int) -> None:
        assert run.prompt is not None
        self._answer_ids = run.prompt.bind(tokenizer).answer_ids
        self._answer_tokens = max(map(len, self._answer_ids)) + 1  # one is generated, as servers want it
        self._in_groups = model.get("owned_by") == "vllm"
        self._groups = _grouped(self._answer_ids)
        prompts = max(map(len, self._groups)) if self._in_groups else len(self._answer_ids)
        super().__init__(run, tokenizer, model, max(1, batch_size // prompts))

    def _ask(self, chunks: list[list[int]]) -> tuple[list[bytes], Callable[[list[Any]], np.ndarray]]:
        common = {"model": self._model["id"], "max_tokens": 1, "temperature": 0, "logprobs": 1}
        if not self._in_groups:
            prompts = [[*ids, *answer] for ids in chunks for answer in self._answer_ids]
            bodies = [{**common, "prompt": prompts, "echo": True}]
            return [json.dumps(body).encode() for body in bodies], lambda said: self._echoed(said, chunks)
        bodies = [
            {
                **common,
                "prompt": [[*ids, *beginning] for ids in chunks for beginning in group],
                "logprob_token_ids": sorted(set().union(*group.values())),
                "return_tokens_as_token_ids": True,
            }
            for group in self._groups
        ]
        return [json.dumps(body).encode() for body in bodies], lambda said: self._next_tokens(said, len(chunks))

    def _echoed(self, said: list[Any], chunks: list[list[int]]) -> np.ndarray:
        found = [choice["logprobs"]["token_logprobs"] for choice in _in_order(said[0]["choices"])]
        pairs = ((ids, answer) for ids in chunks for answer in self._answer_ids)
        sums = [sum(row[len(ids) : len(ids) + len(answer)]) for row, (ids, answer) in zip(found, pairs, strict=True)]
        return np.array(sums, np.float32).reshape(len(chunks), -1)

    def _next_tokens(self, said: list[Any], chunks: int) -> np.ndarray:
        logits = np.zeros((chunks, len(self._answer_ids)), np.float64)
        for group, answer in zip(self._groups, said, strict=True):
            found = iter(choice["logprobs"]["top_logprobs"][0] for choice in _in_order(answer["choices"]))
            for row in range(chunks):
                following = {beginning: next(found) for beginning in group}
                for label, ids in enumerate(self._answer_ids):
                    for place, token in enumerate(ids):
                        if token in group.get(tuple(ids[:place]), ()):
                            logits[row, label] += following[tuple(ids[:place])][f"token_id:{token}"]
        return logits.astype(np.float32)


def dialect_of(
    run: Run, source: str, tokenizer: PreTrainedTokenizerBase, model: dict[str, Any], batch_size: int
) -> Dialect:
    """Return how an OpenAI-like server is asked about a run.

    Args:
        run: The run.
        source: Its folder or Hub repository, for errors.
        tokenizer: Its tokenizer.
        model: What the server says of its model in `GET /v1/models`.
        batch_size: Most texts of a request, or prompts where a text takes several.

    Raises:
        ValueError: If such a server cannot give the run's probabilities.
    """
    check_approach(run, source)
    kind = Completions if run.approach == "instruction" else Classify
    return kind(run, tokenizer, model, batch_size)


def check_approach(run: Run, source: str) -> None:
    """Raise a `ValueError` for a run whose probabilities an OpenAI-like server cannot give."""
    instead = f"Start hf-causal-clf serve --model_name_or_path {source} and leave run out."
    if run.approach not in _APPROACHES:
        raise ValueError(f"{source!r} is a {KINDS[run.approach]}, which no other server knows. {instead}")
    if run.approach == "embedding" and run.pooling != "last":
        raise ValueError(f"{source!r} has {run.pooling} pooling, and other servers read the last token. {instead}")
    if run.approach == "instruction" and run.label_space.multi_label:
        raise ValueError(
            f"{source!r} is a multi-label instruction-based run: its probabilities are sums over many answers, which "
            f"are searched with the model at hand. {instead}"
        )


def _grouped(answers: Sequence[Sequence[int]]) -> list[dict[tuple[int, ...], set[int]]]:
    """Return the beginnings of answers and the tokens that may follow each, in groups of few enough tokens."""
    following: dict[tuple[int, ...], set[int]] = {}
    for ids in answers:
        for place, token in enumerate(ids):
            following.setdefault(tuple(ids[:place]), set()).add(token)
    groups: list[dict[tuple[int, ...], set[int]]] = []
    tokens: set[int] = set()
    for beginning, all_next in following.items():
        ordered = sorted(all_next)
        for start in range(0, len(ordered), _MOST_TOKENS):
            part = set(ordered[start : start + _MOST_TOKENS])
            if not groups or beginning in groups[-1] or len(tokens | part) > _MOST_TOKENS:
                groups.append({})
                tokens = set()
            groups[-1][beginning] = part
            tokens |= part
    return groups


def _in_order(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(items, key=lambda item: item["index"])


def _logits_of_classes(said: list[Any]) -> np.ndarray:
    return np.array([item["probs"] for item in _in_order(said[0]["data"])], np.float32)


def _predictions(said: list[Any]) -> list[Answer]:
    return list(said[0]["predictions"])


def _quoted(text: str) -> bytes:
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # the server says that it is no text
        return json.dumps(text).encode()


def _body(quoted: Sequence[bytes]) -> bytes:
    return b'{"texts":[' + b",".join(quoted) + b"]}"
