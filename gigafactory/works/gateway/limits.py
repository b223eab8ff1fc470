"""Requests and tokens a minute of each tenant: buckets that fill as time goes by.

In: s of a monotonic clock. Out: s until the same request can pass, 0 where it passes now.
"""

import math
from dataclasses import dataclass

from gigafactory.blueprint.schema import Tenant
from gigafactory.works.gateway.ask import BOUND
from gigafactory.works.gateway.refusal import Headers, Refusal

MINUTE_S = 60.0


@dataclass(slots=True)
class Bucket:
    """Holds what `per_minute` allows, full at first; what is above `level` was used."""

    per_minute: float
    level: float
    at_s: float

    def fill(self, per_minute: float, now_s: float) -> None:
        """Up to now, at the rate that holds from now on."""
        grown = (now_s - self.at_s) * self.per_minute / MINUTE_S
        self.level = min(self.level + grown, per_minute)
        self.per_minute, self.at_s = per_minute, now_s

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` is there; call `fill` first."""
        return max(0.0, amount - self.level) * MINUTE_S / self.per_minute


class Limits:
    """What each tenant has left of this minute."""

    def __init__(self) -> None:
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}

    def request(self, name: str, tenant: Tenant, now_s: float) -> None:
        """Count a request, or refuse it."""
        if (most := tenant.requests_per_minute) is not None:
            bucket = _bucket(self._requests, name, most, now_s)
            self._take(bucket, 1, f"{name} may ask {most} requests a minute", name, tenant, now_s)

    def tokens(self, name: str, tenant: Tenant, tokens: int, now_s: float) -> None:
        """Count what a request may take, or refuse it."""
        if (most := tenant.tokens_per_minute) is None:
            return
        if tokens > most:
            raise Refusal(
                400,
                f"this may take {tokens} tokens ({BOUND}); {name} may take {most} a minute",
                "request_too_large",
            )
        bucket = _bucket(self._tokens, name, most, now_s)
        self._take(bucket, tokens, f"{name} may take {most} tokens a minute", name, tenant, now_s)

    def give_back(self, name: str, tokens: int) -> None:
        """What a request was counted for and did not take."""
        if bucket := self._tokens.get(name):
            bucket.level = min(bucket.level + tokens, bucket.per_minute)

    def headers(self, name: str, tenant: Tenant, now_s: float) -> Headers:
        """What is left, as OpenAI tells it; nothing where there is no limit."""
        headers: Headers = []
        for what, most, buckets in (
            (b"requests", tenant.requests_per_minute, self._requests),
            (b"tokens", tenant.tokens_per_minute, self._tokens),
        ):
            if most is None:
                continue
            bucket = _bucket(buckets, name, most, now_s)
            full_s = b"%.3fs" % bucket.wait_s(most)
            headers += [
                (b"x-ratelimit-limit-" + what, b"%d" % most),
                (b"x-ratelimit-remaining-" + what, b"%d" % max(0, math.floor(bucket.level))),
                (b"x-ratelimit-reset-" + what, full_s),
            ]
        return headers

    def _take(
        self, bucket: Bucket, amount: int, rule: str, name: str, tenant: Tenant, now_s: float
    ) -> None:
        wait_s = bucket.wait_s(amount)
        if wait_s > 0:
            refusal = Refusal(429, rule, "rate_limit_exceeded", retry_s=wait_s)
            refusal.more = self.headers(name, tenant, now_s)
            raise refusal
        bucket.level -= amount


def _bucket(buckets: dict[str, Bucket], name: str, most: float, now_s: float) -> Bucket:
    bucket = buckets.get(name)
    if bucket is None:
        bucket = buckets[name] = Bucket(most, most, now_s)
    bucket.fill(most, now_s)
    return bucket
