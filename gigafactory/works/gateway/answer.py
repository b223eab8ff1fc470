"""What an engine answers, as the client is told it, and the usage in it, which is billed.

Every answer bears the public name of the model. Of a stream nothing is parsed but what comes
before the first word and the chunk with the usage: the others are searched as bytes. In JSON a
quote inside a text is escaped, so `"usage":{` is never a text.
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
    """One answer as it comes; `end` waits for the settlement of `usage`."""

    def __init__(self, request: str, name: str, ask: Ask):
        self.ask = ask
        self.usage: Usage | None = None
        self.spoke = False
        self.end = b""
        self._name = b'"model":' + orjson.dumps(name)
        self._engines_name: bytes | None = None

    def whole(self, body: bytes) -> None:
        """An answer that came whole."""
        usage = counts(orjson.loads(body)["usage"])
        self.end = MODEL_NAME.sub(lambda _: self._name, body, count=1)
        self.usage = usage

    def heard(self, said: bytes) -> bytes:
        """What of these whole events goes to the client at once."""
        if self.usage is not None:
            return b""  # What follows the usage is the engine's own goodbye.
        if ERROR in said:
            raise Refusal(502, "the engine broke off with an error", "engine_error")
        if said.endswith(DONE) and (len(said) == len(DONE) or said[-len(DONE) - 1] == 10):
            said = said[: -len(DONE)]
        if not self.spoke:
            self.spoke = speaks(said)
        if self._engines_name is None and (found := MODEL_NAME.search(said)):
            self._engines_name = found[0]
        if self._engines_name is not None:
            said = said.replace(self._engines_name, self._name)
        if b'"usage":' not in said or not (found := USAGE.search(said)):
            return said
        # Events end in an empty line, and a text in JSON holds none: so the chunk is found.
        before = said.rfind(b"\n\n", 0, found.start())
        begins = before + 2 if before >= 0 else 0
        ends = said.index(b"\n\n", found.start())
        self._last(orjson.loads(said[begins:ends].removeprefix(b"data: ")))
        return said[:begins]

    def _last(self, chunk: dict[str, Any]) -> None:
        """The chunk with the usage as OpenAI sends it: apart, and to those who asked for it."""
        usage = chunk.pop("usage")
        self.usage = counts(usage)
        end = event(chunk) if chunk.get("choices") else b""
        if self.ask.usage_wanted:
            end += event(chunk | {"choices": [], "usage": usage})
        self.end = end + DONE


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
