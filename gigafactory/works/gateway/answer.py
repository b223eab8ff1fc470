"""What an engine answers, as the client is told it, and the usage in it, which is billed.

Every answer bears the public name of the model. Of a stream nothing is parsed but what comes
before the first word and chunks with usage: the others are searched as bytes. In JSON a quote
inside a text is escaped, so `"usage":{` is never a text.

An engine may tell the usage so far in every chunk (vLLM's `continuous_usage_stats`): what is
billed is the last before `[DONE]` or the end of the stream. Where the connection breaks before
that, it counts only if the chunk was the last of the answer: one with no choice, or with the
reason why it ended.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from gigafactory.works.gateway.ask import Ask
from gigafactory.works.gateway.refusal import Refusal

MODEL_NAME = re.compile(rb'"model":\s*"[^"\\]*"')
USAGE = re.compile(rb'"usage":\s*\{')
ERROR = b'data: {"error"'
DONE = b"data: [DONE]\n\n"
WORDS = ("content", "reasoning_content", "reasoning", "tool_calls", "text")


class Usage(NamedTuple):
    """The two figures that are billed."""

    prompt_tokens: int
    completion_tokens: int


class Answer:
    """One answer as it comes; `end` waits for the settlement of `usage`.

    Of a stream both are there once it has `ended`. `last`: nothing of the answer is to follow;
    `done`: the engine has said so.
    """

    def __init__(self, request: str, name: str, ask: Ask):
        self.ask = ask
        self.usage: Usage | None = None
        self.spoke = False
        self.last = self.done = False
        self.end = b""
        self._usage: dict[str, Any] | None = None
        self._closing: dict[str, Any] | None = None
        self._name = b'"model":' + orjson.dumps(name)
        self._engines_name: bytes | None = None

    def whole(self, body: bytes) -> None:
        """An answer that came whole."""
        usage = counts(orjson.loads(body)["usage"])
        self.end = MODEL_NAME.sub(lambda _: self._name, body, count=1)
        self.usage = usage

    def heard(self, said: bytes) -> bytes:
        """What of these whole events goes to the client at once."""
        if said.endswith(DONE) and (len(said) == len(DONE) or said[-len(DONE) - 1] == 10):
            said = said[: -len(DONE)]
            self.done = True
        if self.last and b'"usage":' not in said:
            return b""  # What follows the last chunk is the engine's own goodbye.
        if ERROR in said:
            raise Refusal(502, "the engine broke off with an error", "engine_error")
        if not self.spoke:
            self.spoke = speaks(said)
        if self._engines_name is None and (found := MODEL_NAME.search(said)):
            self._engines_name = found[0]
        if self._engines_name is not None:
            said = said.replace(self._engines_name, self._name)
        if b'"usage":' not in said or not USAGE.search(said):
            return said
        # Events end in an empty line, and a text in JSON holds none: so the chunks are found.
        return b"".join(self._counted(piece + b"\n\n") for piece in said.split(b"\n\n") if piece)

    def ended(self) -> None:
        """The stream is at its end: the usage that was told last is the answer's."""
        if self._usage is None:
            return
        self.usage = counts(self._usage)
        closing = self._closing or {}
        if closing.get("choices"):
            self.end = event(closing)
        if self.ask.usage_wanted:
            self.end += event(closing | {"choices": [], "usage": self._usage})
        self.end += DONE

    def _counted(self, said: bytes) -> bytes:
        """What of one event, which may tell the usage, goes to the client at once."""
        if not USAGE.search(said):
            return b"" if self.last else said
        chunk = orjson.loads(said.removeprefix(b"data: "))
        self._usage = chunk.pop("usage")
        counts(self._usage)
        if self.last:
            return b""
        # The last chunk waits for the settlement; its usage goes apart, as OpenAI sends it.
        self.last = is_last(chunk)
        self._closing = chunk if self.last else chunk | {"choices": []}
        return b"" if self.last else event(chunk)


def is_last(chunk: dict[str, Any]) -> bool:
    """Whether an answer ends with this chunk, which bears its usage."""
    choices = chunk.get("choices")
    return not choices or any(choice.get("finish_reason") for choice in choices)


def event(said: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(said) + b"\n\n"


def parsed(said: bytes) -> Iterator[dict[str, Any]]:
    """The chunks in whole events, each when it is asked for."""
    for piece in said.split(b"\n\n"):
        if piece.startswith(b"data: {"):
            yield orjson.loads(piece[len(b"data: ") :])


def speaks(said: bytes) -> bool:
    """Whether events bear a word of the model; the first one only names its role."""
    choices = (choice for chunk in parsed(said) for choice in chunk.get("choices", ()))
    return any((choice.get("delta") or choice).get(word) for choice in choices for word in WORDS)


def counts(usage: dict[str, Any]) -> Usage:
    """The billed figures of `usage`; an embedding has no completion."""
    figures = usage["prompt_tokens"], usage.get("completion_tokens", 0)
    if not all(type(figure) is int and figure >= 0 for figure in figures):
        raise ValueError("no usage")
    return Usage(*figures)
