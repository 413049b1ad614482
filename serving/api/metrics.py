"""What operators watch: Prometheus metrics of the HTTP server and its engine."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from fourfold.serving.engine.requests import Completion

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One server's metrics, in a registry of its own so that two servers in a process do not mix.

    Args:
        gauges: Current values by name and description, asked of the engine at every scrape.
        counters: The same for values that only grow.
    """

    def __init__(
        self,
        gauges: dict[tuple[str, str], Callable[[], float]] | None = None,
        counters: dict[tuple[str, str], Callable[[], float]] | None = None,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Asked(gauges or {}, counters or {}))
        self.requests = Counter(
            "fourfold_http_requests", "HTTP requests by route and status", ["route", "status"], registry=self._registry
        )
        self.in_flight = Gauge("fourfold_http_in_flight", "HTTP requests being served", registry=self._registry)
        self._tokens = Counter("fourfold_tokens", "Tokens by kind", ["kind"], registry=self._registry)
        self._finished = Counter("fourfold_answers", "Answers by how they ended", ["reason"], registry=self._registry)
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

    def count(self, completion: Completion) -> None:
        """Count a finished answer."""
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
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Asked(Collector):
    """Values that the engine keeps anyway are read when somebody looks, not copied as they change."""

    def __init__(
        self, gauges: dict[tuple[str, str], Callable[[], float]], counters: dict[tuple[str, str], Callable[[], float]]
    ) -> None:
        self._gauges, self._counters = gauges, counters

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        for (name, text), ask in self._gauges.items():
            yield GaugeMetricFamily(name, text, value=ask())
        for (name, text), ask in self._counters.items():
            yield CounterMetricFamily(name, text, value=ask())
