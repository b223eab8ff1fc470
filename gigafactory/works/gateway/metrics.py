"""What the gateway counts, for Prometheus. Every label is a name that the blueprint knows.

`generate_latest(gateway.metrics.registry)` is the text of it.
"""

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# The same bounds for both times of the same answers: so no quantile of the first word is later
# than that of the end.
TIMES_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """A registry of its own; children of a label are looked up once and kept."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on = self.registry
        by = ["tenant", "model"]
        requests = Counter(
            "gigafactory_requests", "Settled requests.", [*by, "outcome"], registry=on
        )  # fmt: skip
        prompt = Counter("gigafactory_prompt_tokens", "Tokens of prompts.", by, registry=on)
        completion = Counter("gigafactory_completion_tokens", "Tokens of answers.", by, registry=on)
        money = Counter(
            "gigafactory_request_money_micro", "Billed, in micro-units.", by, registry=on
        )
        ttft = Histogram(
            "gigafactory_ttft_seconds",
            "To the first word.",
            ["model"],
            buckets=TIMES_S,
            registry=on,
        )
        duration = Histogram(
            "gigafactory_request_seconds",
            "To the end of answers.",
            ["model"],
            buckets=TIMES_S,
            registry=on,
        )
        refused = Counter(
            "gigafactory_refused", "Refused requests.", ["status", "code"], registry=on
        )
        queued = Gauge(
            "gigafactory_queued", "Requests that wait for a seat.", ["model"], registry=on
        )
        self.under_way = Gauge(
            "gigafactory_under_way", "Requests between door and end.", registry=on
        )
        self._children = cache(
            lambda tenant, model: (
                prompt.labels(tenant, model), completion.labels(tenant, model),
                money.labels(tenant, model), ttft.labels(model), duration.labels(model),
            )
        )  # fmt: skip
        self._requests = cache(requests.labels)
        self._refused = cache(refused.labels)
        self._queued = cache(queued.labels)

    def settled(
        self,
        tenant: str,
        model: str,
        outcome: str,
        prompt_tokens: int,
        completion_tokens: int,
        money_micro: int,
        ttft_s: float,
        duration_s: float,
    ) -> None:
        """A request came to its end."""
        self._requests(tenant, model, outcome).inc()
        prompt, completion, money, ttft, duration = self._children(tenant, model)
        if outcome != "error":
            prompt.inc(prompt_tokens)
            completion.inc(completion_tokens)
            money.inc(money_micro)
            ttft.observe(ttft_s)
            duration.observe(duration_s)

    def refused(self, status: int, code: str | None) -> None:
        """A request was turned away."""
        self._refused(str(status), code or "").inc()

    def queued(self, model: str, count: int) -> None:
        """So many wait."""
        self._queued(model).set(count)
