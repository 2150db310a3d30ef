"""The ASGI application: routes, refusals and metrics around a `TextClassifier`. Knows Starlette, no server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..classifier import TextClassifier
from ..cli.mistakes import raised_here
from .answers import write_answers
from .batching import Batcher, QueueFull
from .metrics import Metrics
from .openapi import describe
from .requests import Limits, Refused, control_tokens, log_failure, read_body, read_request

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_BATCHES = 4  # in a call: enough to sort by length, and not long to wait for
_GONE = 499  # status, in the metrics, of a request whose client has not waited


def make_app(classifier: TextClassifier, limits: Limits) -> Starlette:
    """Return the application, which answers `/predict`, `/health`, `/run`, `/metrics` and `/openapi.json`.

    Texts of requests that wait together go into one call of the classifier. Nothing of a text is logged.

    Args:
        classifier: A loaded run.
        limits: How much a request may hold; its `max_texts` is also how many texts may wait.

    Raises:
        ImportError: If Starlette or prometheus-client is not installed.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    service = _Service(classifier, limits)
    gets = {
        "/health": service.health,
        "/run": service.run,
        "/metrics": service.metrics_page,
        "/openapi.json": service.openapi,
    }
    return Starlette(
        routes=[
            Route("/predict", service.predict, methods=["POST"]),
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()),
        ],
        exception_handlers={HTTPException: _no_route},
        lifespan=service.lifespan,
    )


class _Service:
    """The endpoints."""

    def __init__(self, classifier: TextClassifier, limits: Limits) -> None:
        self.classifier, self.limits = classifier, limits
        self.abstention = classifier.abstention
        self.control_tokens = control_tokens(classifier.scorer)
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.batcher = Batcher(
            self._answer,
            batch_size=classifier.scorer.batch_size,
            call_size=_BATCHES * classifier.scorer.batch_size,
            max_waiting=limits.max_texts,
            on_call=self.metrics.tell_call,
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self.batcher:
            yield

    async def predict(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        start, headers = time.perf_counter(), {}
        try:
            status, answer = 200, await self._predictions(request)
        except Exception as error:
            status, answer = _failure(error)
            if isinstance(error, QueueFull):
                headers["Retry-After"] = str(error.retry_after)
        self.metrics.tell_request(status, time.perf_counter() - start)
        return JSONResponse(answer, status, headers)

    async def _predictions(self, request: Request) -> dict[str, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which a web page of another origin cannot send without being asked
            raise Refused(415, "The content type must be application/json: -H 'Content-Type: application/json'.")
        body = await read_body(request.stream(), self.limits.max_request_bytes)
        texts = read_request(body, self.limits, self.control_tokens)
        answers = await _while_connected(request, self.batcher.predict(texts))
        return {"predictions": list(answers)}

    def _answer(self, texts: list[str]) -> np.ndarray:
        """The answer to each text, objects `(n,)`."""
        probabilities, stages = self.classifier.score(texts)
        decisions = self.classifier.decisions(probabilities, stages)
        answers = write_answers(probabilities, decisions, self.classifier.label_space, self.abstention)
        return np.array(answers, dtype=object)

    async def health(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"status": "ok"})

    async def run(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse(
            {
                "approach": self.classifier.approach,
                "labels": self.classifier.labels,
                "multi_label": self.classifier.label_space.multi_label,
                "abstains": self.abstention is not None,
                "max_request_bytes": self.limits.max_request_bytes,
                "max_texts": self.limits.max_texts,
            }
        )

    async def metrics_page(self, request: Request) -> Response:
        from starlette.responses import Response

        page, kind = self.metrics.page()
        return Response(page, headers={"Content-Type": kind})

    async def openapi(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        from .. import __version__

        abstains = self.abstention is not None
        return JSONResponse(describe(self.classifier.label_space, self.limits, abstains=abstains, version=__version__))


async def _no_route(request: Request, error: Exception) -> Response:
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse

    assert isinstance(error, HTTPException)
    known = "There are POST /predict, GET /health, GET /run, GET /metrics and GET /openapi.json."
    return JSONResponse({"error": known}, error.status_code, error.headers)


async def _while_connected(request: Request, answer: Coroutine[Any, Any, np.ndarray]) -> np.ndarray:
    """Wait for an answer as long as the client does: what nobody waits for takes no place in the queue.

    Raises:
        Refused: If the client has gone.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, watch = asyncio.create_task(answer), asyncio.create_task(gone())
    try:
        await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Refused(_GONE, "The client has gone.")
        return work.result()
    finally:
        work.cancel()
        watch.cancel()


def _failure(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return status and answer of a request that failed. Only an error that says nothing of a text is logged."""
    from starlette.requests import ClientDisconnect

    if isinstance(error, ClientDisconnect):
        return _GONE, {}
    if isinstance(error, Refused):
        position = {} if error.position is None else {"position": error.position}
        return error.status, {"error": str(error), **position}
    if isinstance(error, QueueFull):
        return 429, {"error": str(error)}
    if isinstance(error, ValueError) and raised_here(error):  # about a text, such as one that has no tokens
        return 422, {"error": str(error)}
    return 500, {"error": log_failure(error)}
