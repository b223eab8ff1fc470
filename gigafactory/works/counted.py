"""What the gateway's registry holds now, as pages tell it: from memory, since the works started.

s, tokens, money in micro-units.
"""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Json = dict[str, Any]


class Counted:
    """What the gateway's registry holds now."""

    def __init__(self, registry: "CollectorRegistry | None"):
        self._samples: defaultdict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in registry.collect() if registry else ():
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def one(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        return sum(v for said, v in self._samples[name] if labels.items() <= said.items())

    def of(self, tenant: str) -> dict[str, float]:
        """What was asked by a tenant."""
        return {
            "requests": self.one("gigafactory_requests_total", tenant=tenant),
            "prompt_tokens": self.one("gigafactory_prompt_tokens_total", tenant=tenant),
            "completion_tokens": self.one("gigafactory_completion_tokens_total", tenant=tenant),
            "money_micro": self.one("gigafactory_request_money_micro_total", tenant=tenant),
        }

    def asked(self) -> list[Json]:
        """By tenant and model: requests by outcome, tokens, money."""
        rows: dict[tuple[str, str], Json] = {}
        for said, value in self._samples["gigafactory_requests_total"]:
            at = said["tenant"], said["model"]
            rows.setdefault(at, {"tenant": at[0], "model": at[1], "outcomes": {}})
            rows[at]["outcomes"][said["outcome"]] = int(value)
        for (tenant, model), row in rows.items():
            for name in ("prompt_tokens", "completion_tokens", "request_money_micro"):
                value = self.one(f"gigafactory_{name}_total", tenant=tenant, model=model)
                row[name.removeprefix("request_")] = int(value)
        return [rows[at] for at in sorted(rows)]

    def settled(self) -> dict[str, float]:
        """Requests by tenant."""
        counts: defaultdict[str, float] = defaultdict(float)
        for said, value in self._samples["gigafactory_requests_total"]:
            counts[said["tenant"]] += value
        return dict(counts)

    def refused(self) -> list[Json]:
        """Requests that were turned away, by status and code."""
        found = self._samples["gigafactory_refused_total"]
        return [{**said, "count": int(value)} for said, value in found if value]

    def quantiles(self, name: str, model: str) -> dict[float, float] | None:
        """Median and 95th percentile, interpolated within the histogram's buckets."""
        counts = sorted(
            (float(said["le"]), value)
            for said, value in self._samples[f"{name}_bucket"]
            if said["model"] == model
        )
        if not counts or not counts[-1][1]:
            return None
        return {share: _quantile(counts, share) for share in (0.5, 0.95)}


def _quantile(counts: list[tuple[float, float]], share: float) -> float:
    """As Prometheus has it: within a bucket all are spread evenly; none is beyond the last."""
    wanted, low, below = share * counts[-1][1], 0.0, 0.0
    for bound, upto in counts:
        if upto >= wanted:
            return (
                low
                if bound == float("inf")
                else low + (bound - low) * (wanted - below) / max(upto - below, 1e-9)
            )
        low, below = bound, upto
    raise AssertionError("the last bucket holds all")
