"""What a client is told instead of an answer, or of the rest of one. In OpenAI's form."""

import math

import orjson

Headers = list[tuple[bytes, bytes]]


class Refusal(Exception):
    """An answer of the gateway's own; `retry_s` is when the same request can succeed.

    With `final` it cannot, or not soon: OpenAI's clients then do not try again by themselves.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_s: float | None = None,
        final: bool = False,
    ):
        super().__init__(message)
        self.status, self.retry_s, self.final = status, retry_s, final
        kind = "invalid_request_error" if status < 500 else "server_error"
        if status == 429:
            kind = "insufficient_quota" if final else "rate_limit_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.more: Headers = []

    def headers(self) -> Headers:
        """What the status line needs beside it."""
        headers = [(b"content-type", b"application/json"), *self.more]
        if self.retry_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_s))))
        if self.final:
            headers.append((b"x-should-retry", b"false"))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers

    def event(self) -> bytes:
        """The refusal as the last event of a stream."""
        return b"data: " + orjson.dumps(self.body) + b"\n\n"


def unfit(param: str, must: str) -> Refusal:
    """The refusal of a parameter that is not what it must be."""
    return Refusal(400, f"{param} {must}", "invalid_value", param)
