"""What a server counts, in the form that Prometheus reads.

Rules
    Counted is what the server does, never what a text says. What the model does is read from its engines when somebody
    asks (their own counters), so calls that requests share are counted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from bytelm.inference.job_usage import JobUsage
from bytelm.serving.session import Session
from bytelm.token_lm import abilities_of

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counts of one server."""

    def __init__(self, session: Session) -> None:
        at = self._registry = CollectorRegistry()
        self._requests = Counter("bytelm_requests", "Requests by path and status.", ["path", "status"], registry=at)
        self._cancelled = Counter("bytelm_cancelled", "Completions whose client went away.", registry=at)
        self._bytes = Counter("bytelm_written_bytes", "Bytes written in completions.", registry=at)
        self._drafted = Counter("bytelm_drafted_bytes", "Bytes that a drafter proposed.", registry=at)
        self._accepted = Counter("bytelm_accepted_bytes", "Drafted bytes that the model accepted.", registry=at)
        self._draftless = Counter("bytelm_draft_errors", "Completions whose drafter failed.", registry=at)
        times = (
            ("bytelm_request_seconds", "From a request to its whole answer."),
            ("bytelm_first_byte_seconds", "From a request to its first text."),
            ("bytelm_between_bytes_seconds", "From a text to the next."),
        )
        self._whole, self._first, self._between = (
            Histogram(name, text, buckets=SECONDS, registry=at) for name, text in times
        )
        running = Gauge("bytelm_running", "Requests that the model works on.", registry=at)
        running.set_function(lambda: session.running)
        waiting = Gauge("bytelm_waiting", "Requests in the queue.", registry=at)
        waiting.set_function(lambda: session.waiting)
        self._registry.register(_Engines(session))

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request is answered."""
        self._requests.labels(path, str(status)).inc()
        self._whole.observe(seconds)

    def cancelled(self) -> None:
        """A completion was dropped, as nobody waits for it."""
        self._cancelled.inc()

    def written(self, count: int, usage: JobUsage) -> None:
        """A completion of so many bytes has ended, with what is known of its cost."""
        self._bytes.inc(count)
        self._drafted.inc(usage.drafted)
        self._accepted.inc(usage.accepted)
        self._draftless.inc(usage.draft_error is not None)

    def piece(self, seconds: float, *, first: bool) -> None:
        """A piece of a completion has come, so long after the request or the piece before."""
        (self._first if first else self._between).observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _Engines(Collector):
    """What the engines have counted themselves."""

    def __init__(self, session: Session) -> None:
        self._engines = {id(engine): engine for engine in session.model.engines}

    def collect(self) -> Iterator[Metric]:
        used = [abilities_of(engine).usage for engine in self._engines.values()]
        counted = [usage for usage in used if usage is not None]
        if counted:
            yield CounterMetricFamily("bytelm_model_calls", "Model calls.", value=sum(each.calls for each in counted))
            yield CounterMetricFamily(
                "bytelm_tokens_fed", "Tokens that ran through a model.", value=sum(each.tokens_fed for each in counted)
            )
