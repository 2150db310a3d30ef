"""What Prometheus is told. Knows numbers only."""

from __future__ import annotations

from collections.abc import Callable


class Metrics:
    """Counts of requests and texts, and how long they take, in a registry of their own.

    Args:
        waiting: Returns the number of texts that wait.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        options = {"namespace": "hf_causal_clf", "registry": self._registry}
        self._requests = Counter("requests", "Requests to classify texts, by HTTP status.", ["status"], **options)
        self._request_seconds = Histogram("request_seconds", "From a request to its answer.", **options)
        self._texts = Counter("texts", "Texts that were classified.", **options)
        self._call_texts = Histogram(
            "call_texts", "Texts in a call of the classifier.", buckets=[2**power for power in range(11)], **options
        )
        self._call_seconds = Histogram("call_seconds", "Seconds of a call of the classifier.", **options)
        Gauge("waiting_texts", "Texts that wait for a call.", **options).set_function(waiting)

    def tell_request(self, status: int, seconds: float) -> None:
        """Count a request that ended with an HTTP status."""
        self._requests.labels(str(status)).inc()
        self._request_seconds.observe(seconds)

    def tell_call(self, texts: int, seconds: float) -> None:
        """Count a call of the classifier."""
        self._texts.inc(texts)
        self._call_texts.observe(texts)
        self._call_seconds.observe(seconds)

    def page(self) -> tuple[bytes, str]:
        """Return what `/metrics` answers, and its content type."""
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
