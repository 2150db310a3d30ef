"""A finished run that answers on another machine, asked as if it were here. Knows HTTP, no model."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from ..backbone.loading import load_tokenizer
from ..cli.packages import missing_packages
from ..runs.run import Run
from ..task.texts import Empty, Texts, read_texts
from .answers import Answer, read_label, read_probabilities
from .dialects import Batch, Dialect, NotAsked, Own, check_approach, dialect_of

if TYPE_CHECKING:
    import httpx

_TRY_AGAIN = (429, 502, 503, 504)  # statuses after which the same request may be answered
_NOT_OF_TEXTS = (401, 403, 404)  # statuses that are about key, path or model
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0  # seconds between tries; each is twice the last
_T = TypeVar("_T")


class Unfinished(Exception):
    """Not all texts were answered.

    Attributes:
        probabilities: Float32 `(texts, labels)` of those that were, NaN for the others.
    """

    probabilities: np.ndarray


class ServerLost(Unfinished, OSError):
    """The server did not answer for longer than `retry_for`, or not in a way that can be read."""


class TextsRefused(Unfinished, ValueError):
    """The server refused a text, or would."""


class RemoteClassifier:
    """Asks a server that `hf-causal-clf serve` started, or vLLM with a run's model, in the words of `TextClassifier`.

    Texts are sent in batches, several at a time. What the server cannot take now (429, 503) or does not answer is sent
    again, with pauses that grow, so a server that is started again goes on where it ended.

    vLLM and other servers of the OpenAI form know a model and nothing of the run, so give the run as well: labels,
    suffix or prompt, where documents are cut, temperature and thresholds are read from its `classification.json` and
    its tokenizer's files, and token ids are sent. Embedding-based runs and encoders are asked at vLLM's `/classify`,
    instruction-based ones at `/v1/completions`.

    Args:
        url: Address of the server, such as `"http://127.0.0.1:8000"`.
        run: For a server of the OpenAI form, the folder or Hub repository whose model it serves: with an export that
            was written with `fold_temperature`, that export and not the run. `None` for `hf-causal-clf serve`.
        model: The server's name for the model, where it has several, as adapters on one base.
        api_key: What the server was started with, if with one (vLLM's `--api-key`).
        batch_size: Most texts of a request; prompts, where an instruction-based run takes several for a text.
        concurrency: Requests at a time.
        timeout: Seconds that a request may take.
        retry_for: Seconds for which a request is tried again.

    Raises:
        ImportError: If httpx is not installed.
        OSError: If the server does not answer within `retry_for`, or is another one; or if `run` cannot be read.
        ValueError: If `url` is none, or a number is not above 0; or if such a server cannot give the probabilities of
            `run`, or `model` is not one of its models.
    """

    def __init__(
        self,
        url: str,
        run: str | PathLike[str] | None = None,
        *,
        model: str | None = None,
        api_key: str | None = None,
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
        self._base = url if run is None else url.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self.concurrency, self.timeout, self.retry_for = concurrency, timeout, retry_for
        self._dialect: Dialect = self._own(batch_size) if run is None else self._of_run(str(run), model, batch_size)

    def __repr__(self) -> str:
        return f"RemoteClassifier({self.url!r}), {len(self.labels)} labels"

    @property
    def labels(self) -> list[str]:
        """Label names, in the order of the columns of `predict_proba`."""
        return list(self._dialect.labels)

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
        return given.spread(read_probabilities(await self._answers(given), self.labels))

    async def apredict(self, texts: str | Iterable[str], *, empty: Empty = "error", abstain: bool = False) -> Any:
        """As `predict`, for use in an event loop."""
        if abstain and not self._dialect.abstains:
            raise ValueError("abstain needs a run with a fitted target error, and the server's has none.")
        given = read_texts(texts, empty=empty)
        labels: list[Any] = [None] * given.count
        for position, answer in zip(given.positions, await self._answers(given), strict=True):
            labels[position] = read_label(answer, abstain=abstain)
        return labels[0] if given.single else labels

    def _own(self, batch_size: int) -> Dialect:
        response = _finish(self._get("/run"))
        try:
            return Own(response.json(), batch_size)
        except (ValueError, TypeError, KeyError) as error:
            raise OSError(
                f"{self.url} is no server of hf-causal-clf serve. Check the address; for vLLM, give the run as well: "
                "RemoteClassifier(url, run)."
            ) from error

    def _of_run(self, source: str, model: str | None, batch_size: int) -> Dialect:
        run = Run.read(source)
        check_approach(run, source)
        tokenizer = load_tokenizer(source)
        response = _finish(self._get("/v1/models"))
        try:
            models = {each["id"]: each for each in response.json()["data"]}
        except (ValueError, TypeError, KeyError) as error:
            reason = f"it answers GET /v1/models with HTTP status {response.status_code}"
            raise OSError(
                f"{self.url} is no server of the OpenAI form: {reason}. Check address and api_key."
            ) from error
        if model is None and len(models) == 1:
            (model,) = models
        if model not in models:
            raise ValueError(f"model must be one of {list(models)}, which {self.url} serves, got {model!r}.")
        longest = {"max_model_len": models[models[model].get("parent") or model].get("max_model_len")}  # an adapter's
        return dialect_of(run, source, tokenizer, {**models[model], **longest}, batch_size)

    async def _get(self, path: str) -> httpx.Response:
        async with self._client() as client:
            return await self._tried(client, "GET", path)

    async def _answers(self, given: Texts) -> list[Answer]:
        """Return the server's answer to each text. Errors count empty ones, too, which are not sent."""
        found: dict[int, Answer] = {}
        batches = self._dialect.batches(given.texts)

        async def work(client: httpx.AsyncClient) -> None:
            for batch in batches:
                places = [given.positions[row] for row in batch.rows]
                said = [await self._ask(client, body, places) for body in batch.bodies]
                found.update(zip(batch.rows, self._read(batch, said), strict=True))

        async with self._client() as client:
            workers = [asyncio.create_task(work(client)) for _ in range(self.concurrency)]
            try:
                await asyncio.gather(*workers)
            except (Unfinished, NotAsked) as error:
                raise self._with_answers(error, found, given) from error.__cause__
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return [found[row] for row in range(len(given.texts))]

    def _with_answers(self, error: Unfinished | NotAsked, found: dict[int, Answer], given: Texts) -> Unfinished:
        if isinstance(error, NotAsked):
            place = given.positions[error.row]
            error = TextsRefused(f"{self.url} is not asked about text {place}, counted from 0: {error}")
        error.probabilities = np.full((given.count, len(self.labels)), np.nan, dtype=np.float32)
        error.probabilities[[given.positions[row] for row in found]] = read_probabilities(
            list(found.values()), self.labels
        )
        return error

    async def _ask(self, client: httpx.AsyncClient, body: bytes, places: Sequence[int]) -> Any:
        response = await self._tried(client, "POST", self._dialect.path, body)
        if response.status_code != 200:
            raise self._refusal(response, places)
        try:
            return response.json()
        except ValueError as error:
            raise ServerLost(f"{self.url} answers in another form: no JSON.") from error

    def _read(self, batch: Batch, said: list[Any]) -> list[Answer]:
        try:
            return batch.read(said)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ServerLost(
                f"{self.url}{self._dialect.path} answers in another form ({type(error).__name__}: {error}). Is it the "
                "server and the model of this run? What was answered is in this error's `probabilities`."
            ) from error

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

    def _refusal(self, response: httpx.Response, places: Sequence[int]) -> Exception:
        """Return the error of an answer that is none, to texts in these places of those given."""
        try:
            said = response.json()
            reason, position = said["error"], said.get("position")
            reason = str(reason["message"] if isinstance(reason, dict) else reason)  # vLLM's and OpenAI's are objects
        except (ValueError, TypeError, KeyError):
            return ServerLost(f"{self.url} answers with HTTP status {response.status_code}.")
        if response.status_code >= 500 or response.status_code in _NOT_OF_TEXTS:
            return ServerLost(f"{self.url}: {reason}")
        first, last = (places[0], places[-1]) if position is None else (places[position],) * 2
        which = f"text {first}" if first == last else f"texts {first} to {last}"
        return TextsRefused(f"{self.url} refuses {which} of those given, counted from 0: {reason}")

    def _client(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(base_url=self._base, timeout=self.timeout, headers=self._headers)


def _finish(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, also where an event loop runs already, as in a notebook."""
    with ThreadPoolExecutor(1) if _in_a_loop() else nullcontext() as thread:
        return asyncio.run(work) if thread is None else thread.submit(asyncio.run, work).result()


def _in_a_loop() -> bool:
    try:
        return asyncio.get_running_loop() is not None
    except RuntimeError:
        return False
