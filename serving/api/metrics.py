"""What operators watch: Prometheus metrics of the HTTP server and its engine."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fourfold.serving.engine.requests import Completion

if TYPE_CHECKING:  # it brings torch, which vLLM's gate need not wait for
    from fourfold.serving.engine.scheduler import Stats

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


# Stats of the engine that grow only, and those that do not.
_COUNTERS = {
    "steps": ("fourfold_engine_steps", "Forward passes of the language model"),
    "images_encoded": ("fourfold_images_encoded", "Images the vision tower has read"),
    "images_reused": ("fourfold_images_reused", "Images found in the feature cache"),
    "cancelled": ("fourfold_answers_cancelled", "Answers whose client left"),
    "failed": ("fourfold_answers_failed", "Answers that ended in an error"),
}
_GAUGES = {
    "waiting": ("fourfold_requests_waiting", "Answers waiting for a place in the batch"),
    "running": ("fourfold_requests_running", "Answers being made"),
}


class Metrics:
    """One server's metrics, in a registry of its own so that two servers in a process do not mix.

    Args:
        stats: Of the engine, asked at every scrape; None where it has metrics of its own.
    """

    def __init__(self, stats: "Callable[[], Stats] | None" = None) -> None:
        self._registry = CollectorRegistry()
        if stats is not None:
            self._registry.register(_EngineStats(stats))
        self.requests = Counter(
            "fourfold_http_requests", "HTTP requests by route and status", ["route", "status"], registry=self._registry
        )
        self.in_flight = Gauge("fourfold_http_in_flight", "HTTP requests being served", registry=self._registry)
        self._tokens = Counter("fourfold_tokens", "Tokens by kind", ["kind"], registry=self._registry)
        self._finished = Counter("fourfold_answers", "Answers by how they ended", ["reason"], registry=self._registry)
        self._decisions = Counter(
            "fourfold_decisions", "Questions of decisions by their kind, or refusal", ["kind"], registry=self._registry
        )
        self._first_token = Histogram(
            "fourfold_time_to_first_token_seconds",
            "From the request's arrival at the engine to its first token",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.stages = Histogram(
            "fourfold_stage_seconds",
            "Time of a request by stage: decode_image, preprocess, queue, vision, prefill, decode, total",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )

    def count_decisions(self, kinds: Mapping[str, int], prompt: int, cached: int) -> None:
        """Answers to questions about one input, and the tokens that were read."""
        for kind, number in kinds.items():
            self._decisions.labels(kind).inc(number)
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("prompt_cached").inc(cached)

    def count(self, completion: Completion) -> None:
        self._tokens.labels("prompt").inc(completion.prompt_tokens)
        self._tokens.labels("prompt_cached").inc(completion.cached_tokens)
        self._tokens.labels("completion").inc(completion.completion_tokens)
        self._finished.labels(completion.finish_reason).inc()
        for stage, seconds in completion.timings.items():
            if stage == "first_token":
                self._first_token.observe(seconds)
            else:
                self.stages.labels(stage).observe(seconds)

    def page(self) -> bytes:
        return generate_latest(self._registry)


class _EngineStats(Collector):
    """What the engine counts anyway is read when somebody looks, not copied as it changes."""

    def __init__(self, stats: "Callable[[], Stats]") -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        now = self._stats()
        for field, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, value=getattr(now, field))
        for field, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, value=getattr(now, field))
