"""A classifier whose probabilities say which text they are of, and a client of the application around it."""

import asyncio
import math
import threading
import time

import httpx
import numpy as np

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.serving.app import make_app
from hf_causal_clf.serving.requests import Limits

LIMITS = Limits(max_request_bytes=10_000, max_texts=1000)


class Lengths:
    """A scorer of the length and the number of a text. A call takes some time, is noted, and waits at a gate."""

    approach, batch_size = "tfidf", 4

    def __init__(self, seconds):
        self.seconds, self.calls, self.gate = seconds, [], threading.Event()
        self.gate.set()

    def logits(self, texts):
        self.calls.append(list(texts))
        self.gate.wait()
        time.sleep(self.seconds)
        if any("poison" in text for text in texts):
            raise RuntimeError(f"of a text: {texts}")
        return np.array([[len(text) / 1000, number_of(text) / 10_000] for text in texts], np.float32)


def number_of(text):
    last = text.rpartition(" ")[2]
    return int(last) if last.isdecimal() else 0


def length_classifier(seconds=0.0, *, multi_label=True):
    return TextClassifier(Lengths(seconds), LabelSpace(["length", "number"], multi_label))


def numbered(draw, count):
    """Texts of random lengths, each with a number."""
    return [f"{'cat ' * draw.randint(1, 30)}{draw.randrange(10_000)}" for _ in range(count)]


def recovered(answers):
    """Length and number of the texts that answers of the multi-label classifier are of."""
    logits = [[math.log(p / (1 - p)) for p in answer["probabilities"].values()] for answer in answers]
    return [(round(length * 1000), round(number * 10_000)) for length, number in logits]


def during(classifier, work, *, limits=LIMITS):
    """Give a client of the application to a coroutine function, in an event loop of its own."""
    app = make_app(classifier, limits)

    async def main():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client,
        ):
            try:
                async with asyncio.timeout(60):
                    return await work(client)
            finally:
                getattr(classifier.scorer, "gate", threading.Event()).set()  # what is broken shall not wait for ever

    return asyncio.run(main())


async def until(true):
    """Wait until a function returns something true."""
    while not true():
        await asyncio.sleep(0.005)
