"""A finished run that answers on another machine, asked as if it were here. Knows HTTP and answers, no model."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from ..cli.packages import missing_packages
from ..task.texts import Empty, read_texts
from .answers import Answer, read_label, read_probabilities

if TYPE_CHECKING:
    import httpx

_TRY_AGAIN = (429, 502, 503, 504)  # statuses after which the same request may be answered
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0  # seconds between tries; each is twice the last
_T = TypeVar("_T")


class Unfinished(Exception):
    """Not all texts were answered.

    Attributes:
        probabilities: Float32 `(texts, labels)` of those that were, NaN for the others.
    """

    probabilities: np.ndarray


class ServerLost(Unfinished, OSError):
    """The server did not answer for longer than `retry_for`."""


class TextsRefused(Unfinished, ValueError):
    """The server refused a text."""


class RemoteClassifier:
    """Asks a server that `hf-causal-clf serve` started, in the words of `TextClassifier`.

    Texts are sent in batches, several at a time. What the server cannot take now (429, 503) or does not answer is sent
    again, with pauses that grow, so a server that is started again goes on where it ended.

    Args:
        url: Address of the server, such as `"http://127.0.0.1:8000"`.
        batch_size: Most texts of a request.
        concurrency: Requests at a time.
        timeout: Seconds that a request may take.
        retry_for: Seconds for which a request is tried again.

    Raises:
        ImportError: If httpx is not installed.
        OSError: If the server does not answer within `retry_for`, or is another one.
        ValueError: If `url` is none, or a number is not above 0.
    """

    def __init__(
        self,
        url: str,
        *,
        batch_size: int = 64,
        concurrency: int = 4,
        timeout: float = 300.0,
        retry_for: float = 60.0,
    ) -> None:
        if missing := list(missing_packages(("httpx",), "RemoteClassifier")):
            raise ImportError(missing[0])
        for name, value in (("batch_size", batch_size), ("concurrency", concurrency), ("timeout", timeout)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}.")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"url must be like 'http://127.0.0.1:8000', got {url!r}.")
        self.url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
        self._base = url
        self.concurrency, self.timeout, self.retry_for = concurrency, timeout, retry_for
        said = _finish(self._describe())
        self._labels: list[str] = said["labels"]
        self._abstains: bool = said["abstains"]
        self._most_bytes: int = said["max_request_bytes"]
        self.batch_size = min(batch_size, said["max_texts"])

    def __repr__(self) -> str:
        return f"RemoteClassifier({self.url!r}), {len(self._labels)} labels"

    @property
    def labels(self) -> list[str]:
        """Label names, in the order of the columns of `predict_proba`."""
        return list(self._labels)

    def predict_proba(self, texts: str | Iterable[str], *, empty: Empty = "error") -> np.ndarray:
        """Return the probability of each label, float32 `(n, labels)`; arguments as for `TextClassifier.predict_proba`.

        Raises:
            ServerLost: If the server does not answer within `retry_for`; with what was answered.
            TextsRefused: If it refuses a text; with what was answered.
            ValueError: If `texts` are none.
        """
        return _finish(self.apredict_proba(texts, empty=empty))

    def predict(self, texts: str | Iterable[str], *, empty: Empty = "error", abstain: bool = False) -> Any:
        """Return the label name of each text, or their list; arguments as for `TextClassifier.predict`.

        Raises:
            ServerLost: As for `predict_proba`.
            TextsRefused: As for `predict_proba`.
            ValueError: If `texts` are none, or with `abstain` if the run has no fitted target error.
        """
        return _finish(self.apredict(texts, empty=empty, abstain=abstain))

    async def apredict_proba(self, texts: str | Iterable[str], *, empty: Empty = "error") -> np.ndarray:
        """As `predict_proba`, for use in an event loop."""
        given = read_texts(texts, empty=empty)
        return given.spread(read_probabilities(await self._answers(given.texts), self._labels))

    async def apredict(self, texts: str | Iterable[str], *, empty: Empty = "error", abstain: bool = False) -> Any:
        """As `predict`, for use in an event loop."""
        if abstain and not self._abstains:
            raise ValueError("abstain needs a run with a fitted target error, and the server's has none.")
        given = read_texts(texts, empty=empty)
        labels: list[Any] = [None] * given.count
        for position, answer in zip(given.positions, await self._answers(given.texts), strict=True):
            labels[position] = read_label(answer, abstain=abstain)
        return labels[0] if given.single else labels

    async def _describe(self) -> dict[str, Any]:
        async with self._client() as client:
            response = await self._tried(client, "GET", "/run")
        try:
            said = response.json()
            return {name: said[name] for name in ("labels", "abstains", "max_request_bytes", "max_texts")}
        except (ValueError, TypeError, KeyError) as error:
            raise OSError(f"{self.url} is no server of hf-causal-clf serve. Check the address.") from error

    async def _answers(self, texts: Sequence[str]) -> list[Answer]:
        """Return the server's answer to each text."""
        found: dict[int, Answer] = {}
        batches = self._batches(texts)

        async def work(client: httpx.AsyncClient) -> None:
            for rows, body in batches:
                response = await self._tried(client, "POST", "/predict", body)
                if response.status_code != 200:
                    raise self._refusal(response, rows)
                found.update(zip(rows, response.json()["predictions"], strict=True))

        async with self._client() as client:
            workers = [asyncio.create_task(work(client)) for _ in range(self.concurrency)]
            try:
                await asyncio.gather(*workers)
            except Unfinished as error:
                error.probabilities = np.full((len(texts), len(self._labels)), np.nan, dtype=np.float32)
                error.probabilities[list(found)] = read_probabilities(list(found.values()), self._labels)
                raise
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return [found[row] for row in range(len(texts))]

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[range, bytes]]:
        """Yield the bodies of requests, as large as they may be, and which texts they have."""
        start, quoted, size = 0, list[bytes](), 0
        for row, text in enumerate(map(_quoted, texts)):
            longer = size + len(text) + 1
            if quoted and (len(quoted) == self.batch_size or longer + len(_body([])) > self._most_bytes):
                yield range(start, row), _body(quoted)
                start, quoted, longer = row, [], len(text) + 1
            quoted.append(text)
            size = longer
        if quoted:
            yield range(start, len(texts)), _body(quoted)

    async def _tried(self, client: httpx.AsyncClient, method: str, path: str, body: bytes = b"") -> httpx.Response:
        """Send a request until it is answered, and return the answer: one that trying again would not change."""
        import httpx

        failed, wait = None, _FIRST_WAIT
        while True:
            pause = wait * random.uniform(0.5, 1.0)  # so that clients do not come back all at once
            try:
                response = await client.request(method, path, content=body)
                if response.status_code not in _TRY_AGAIN:
                    return response
                reason = f"HTTP status {response.status_code}"
                asked = response.headers.get("Retry-After", "")
                pause = max(pause, min(float(asked), _LONGEST_WAIT)) if asked.isdecimal() else pause
            except httpx.TransportError as error:
                reason = type(error).__name__
            now = time.monotonic()
            failed = failed or now
            if now + pause - failed > self.retry_for:
                raise ServerLost(
                    f"{self.url} has not answered for {self.retry_for:g} s ({reason}). Start it again, or give a "
                    "longer retry_for; what was answered is in this error's `probabilities`."
                )
            await asyncio.sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _refusal(self, response: httpx.Response, rows: range) -> Exception:
        """Return the error of an answer that is none."""
        try:
            said = response.json()
            reason, position = str(said["error"]), said.get("position")
        except (ValueError, TypeError, KeyError):
            return ServerLost(f"{self.url} answers with HTTP status {response.status_code}.")
        if response.status_code >= 500:
            return ServerLost(f"{self.url}: {reason}")
        first, last = (rows[0], rows[-1]) if position is None else (rows[position], rows[position])
        which = f"text {first}" if first == last else f"texts {first} to {last}"
        return TextsRefused(f"{self.url} refuses {which} of those given, counted from 0: {reason}")

    def _client(self) -> httpx.AsyncClient:
        import httpx

        headers = {"Content-Type": "application/json"}
        return httpx.AsyncClient(base_url=self._base, timeout=self.timeout, headers=headers)


def _quoted(text: str) -> bytes:
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # the server says that it is no text
        return json.dumps(text).encode()


def _body(quoted: Sequence[bytes]) -> bytes:
    return b'{"texts":[' + b",".join(quoted) + b"]}"


def _finish(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, also where an event loop runs already, as in a notebook."""
    with ThreadPoolExecutor(1) if _in_a_loop() else nullcontext() as thread:
        return asyncio.run(work) if thread is None else thread.submit(asyncio.run, work).result()


def _in_a_loop() -> bool:
    try:
        return asyncio.get_running_loop() is not None
    except RuntimeError:
        return False
