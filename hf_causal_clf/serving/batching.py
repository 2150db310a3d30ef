"""The queue before a classifier: waiting texts of several requests go into one call. Knows neither HTTP nor models."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

_GATHER = 0.002  # seconds that a call waits for more texts where they do not fill a batch yet
_LONGEST_RETRY = 60  # seconds
_RECENT = 0.2  # weight of the last call in the time that a text takes


class QueueFull(Exception):
    """There is no room for a request now.

    Attributes:
        retry_after: Whole seconds after which there may be.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The queue is full. Try again in {retry_after} s.")
        self.retry_after = retry_after


@dataclass(eq=False)
class _Request:
    texts: Sequence[str]
    answer: asyncio.Future[np.ndarray]
    taken: int = 0
    parts: list[np.ndarray] = field(default_factory=list)

    @property
    def rest(self) -> int:
        return 0 if self.answer.done() else len(self.texts) - self.taken


class Batcher:
    """Gives requests to a function, one call at a time, in a thread of its own.

    A call takes what has waited longest, up to `call_size` texts of any number of requests, so that the function can
    sort them by length. A request that does not fit into a call goes behind the others, so none waits for all of a long
    one. Use it as an asynchronous context manager; at its end nothing may be waiting.

    Args:
        predict: Returns a row for each text, `(n, …)`.
        batch_size: Texts that `predict` works on at once.
        call_size: Most texts of a call.
        max_waiting: Most texts that wait for a call.
        on_call: Is told the number of texts and the seconds of each call.
    """

    def __init__(
        self,
        predict: Callable[[list[str]], np.ndarray],
        *,
        batch_size: int,
        call_size: int,
        max_waiting: int,
        on_call: Callable[[int, float], None] = lambda texts, seconds: None,
    ) -> None:
        self.max_waiting = max_waiting
        self._predict, self._batch_size, self._call_size, self._on_call = predict, batch_size, call_size, on_call
        self._queue: deque[_Request] = deque()
        self._arrived = asyncio.Event()
        self._seconds = 0.0  # of a text, lately

    async def __aenter__(self) -> Batcher:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._work = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._work.cancel()
        self._thread.shutdown()

    @property
    def waiting(self) -> int:
        """Number of texts that wait for a call."""
        return sum(request.rest for request in self._queue)

    async def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Return a row for each text. A caller that is cancelled gives its place in the queue up.

        Raises:
            QueueFull: If the queue has no room for them.
            Exception: What the function raises for these texts alone.
        """
        waiting = self.waiting
        if waiting + len(texts) > self.max_waiting:
            seconds = math.ceil((waiting + len(texts) - self.max_waiting) * self._seconds)
            raise QueueFull(min(max(seconds, 1), _LONGEST_RETRY))
        request = _Request(texts, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self._arrived.set()
        return await request.answer  # cancelling the caller cancels it

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if self.waiting < self._batch_size:
                await asyncio.sleep(_GATHER)
            parts = self._take()
            if parts:
                await self._call(parts)
            if not self._queue:
                self._arrived.clear()

    def _take(self) -> list[tuple[_Request, list[str]]]:
        """Take the texts of a call out of the queue."""
        parts: list[tuple[_Request, list[str]]] = []
        room = self._call_size
        while room and self._queue:
            request = self._queue.popleft()
            texts = list(request.texts[request.taken : request.taken + min(room, request.rest)])
            if not texts:  # nobody waits for it any more
                continue
            request.taken += len(texts)
            room -= len(texts)
            parts.append((request, texts))
            if request.rest:
                self._queue.append(request)  # the room is used up
        return parts

    async def _call(self, parts: list[tuple[_Request, list[str]]]) -> None:
        texts = [text for _, part in parts for text in part]
        start = time.perf_counter()
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, texts)
        except Exception as error:
            if len(parts) > 1:  # one request's text fails that request alone
                for alone in parts:
                    await self._call([alone])
            elif not parts[0][0].answer.done():
                parts[0][0].answer.set_exception(error)
            return
        seconds = time.perf_counter() - start
        self._seconds += (seconds / len(texts) - self._seconds) * (_RECENT if self._seconds else 1)
        self._on_call(len(texts), seconds)
        begin = 0
        for request, part in parts:
            request.parts.append(rows[begin : begin + len(part)])
            begin += len(part)
            if not request.rest and not request.answer.done():
                request.answer.set_result(np.concatenate(request.parts))
