"""What a client asks: read, found sound, and put into the words of the engine.

The engine is asked for what it can do and no more. A setting that would change the shape of
the answer and is not supported (`n`, `stop`, `logprobs`) is refused; one that it merely does
not heed (`temperature`) is let through and named to the client.

Source: OpenAI API reference, chat completions and completions, as of openai-python 3.54.
"""

import json
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

MAX_TOKENS = {CHAT: 1024, TEXT: 16}  # where the client asks for none: the engine's, OpenAI's
TEMPLATE_TOKENS_MAX = 512  # what a chat template adds to what is said: roles, a system prompt
RETRY_S = 2  # told to clients whose model is still loading

IGNORED = frozenset({
    "temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "logit_bias",
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "reasoning_effort", "verbosity",
})  # fmt: skip
"""Accepted without effect: with continuous batching, sampling is the model's, not the request's."""

NEUTRAL = {
    "n": 1, "best_of": 1, "echo": False, "logprobs": False, "top_logprobs": 0, "stop": [],
    "response_format": {"type": "text"}, "modalities": ["text"], "tool_choice": "auto",
    "parallel_tool_calls": True,
}  # fmt: skip
"""Accepted with this one value, which asks for what happens anyway."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers; `url` is None until its job says that it is ready.

    `context_tokens` bounds one answer, `cache_tokens` prompt and answer together: a request
    that does not fit the engine's KV cache would end the engine for everybody.
    """

    job: str
    url: str | None
    engine_model: str
    context_tokens: int = 0
    cache_tokens: int = 0


@dataclass(frozen=True)
class Ask:
    """A sound request; `body` is what the engine is sent, `ignored` what it does not heed."""

    path: str
    stream: bool
    usage_wanted: bool
    tokens_max: int
    body: bytes
    ignored: tuple[str, ...]


class Refusal(Exception):
    """What the client is told instead of an answer, or of the rest of one."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None
    ):
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> Response:
        """The refusal as a whole answer, in OpenAI's form."""
        headers = {"retry-after": str(RETRY_S)} if self.status == 503 else {}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def parse(body: bytes) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}", "invalid_json") from error
    if not isinstance(said, dict):
        raise Refusal(400, "the body is not a JSON object", "invalid_json")
    return said


def understand(path: str, said: dict[str, Any], endpoint: Endpoint) -> Ask:
    """What a client asks, in the words of the engine."""
    said = {name: value for name, value in said.items() if value is not None}
    said.pop("model")
    stream, options = said.pop("stream", False), said.pop("stream_options", {})
    if not isinstance(stream, bool):
        raise unfit("stream", "is true or false")
    if not isinstance(options, dict):
        raise unfit("stream_options", "is an object")
    legacy = said.pop("max_tokens", min(MAX_TOKENS[path], endpoint.context_tokens))
    max_tokens = said.pop("max_completion_tokens", legacy)
    if type(max_tokens) is not int or not 1 <= max_tokens <= endpoint.context_tokens:
        raise unfit("max_tokens", f"is a whole number from 1 to {endpoint.context_tokens}")
    prompt = messages(said) if path == CHAT else text(said)
    ignored = tuple(sorted(IGNORED & said.keys()))
    for name in said.keys() - IGNORED:
        if name not in NEUTRAL or said[name] != NEUTRAL[name]:
            raise Refusal(400, f"{name} is not supported here", "unsupported_parameter", name)
    asked = {"model": endpoint.engine_model, "max_tokens": max_tokens, **prompt}
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    try:
        body = json.dumps(asked, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise Refusal(400, f"the text is not Unicode: {error}", "invalid_json") from error
    # A token stands for a byte at least, so bytes bound the tokens without a tokenizer.
    tokens_max = len(body) + TEMPLATE_TOKENS_MAX + max_tokens
    if tokens_max > endpoint.cache_tokens:
        raise Refusal(
            400,
            f"this may take {tokens_max} tokens (bytes asked, and max_tokens);"
            f" the engine holds {endpoint.cache_tokens}",
            "context_length_exceeded",
        )
    usage_wanted = options.get("include_usage") is True
    return Ask(path, stream, usage_wanted, tokens_max, body, ignored)


def messages(said: dict[str, Any]) -> dict[str, Any]:
    """Take the parts that make a chat's prompt out of a request."""
    turns, tools = said.pop("messages", None), said.pop("tools", None)
    if not isinstance(turns, list) or not turns:
        raise unfit("messages", "is a list of messages, at least one")
    silent = True
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise unfit("messages", "holds objects with a role and a content")
        content = turn.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        for part in parts:
            is_text = isinstance(part, dict) and part.get("type") == "text"
            if not is_text or not isinstance(part.get("text"), str):
                raise unfit("messages", "holds text only: a string, or parts of type text")
            silent = silent and not part["text"]
    if silent:
        raise unfit("messages", "says something")  # The engine does not survive an empty prompt.
    if tools is None:
        return {"messages": turns}
    if not isinstance(tools, list):
        raise unfit("tools", "is a list")
    return {"messages": turns, "tools": tools}


def text(said: dict[str, Any]) -> dict[str, Any]:
    """Take the prompt of a legacy completion out of a request."""
    prompt = said.pop("prompt", None)
    if not isinstance(prompt, str) or not prompt:
        raise unfit("prompt", "is one string, not empty")
    return {"prompt": prompt}


def unfit(param: str, must: str) -> Refusal:
    """The refusal of a parameter that is not what it must be."""
    return Refusal(400, f"{param} {must}", "invalid_value", param)
