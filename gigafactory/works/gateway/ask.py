"""What a client asks: read, found sound, and put into the words of an engine.

A setting that would change the form of the answer and that nobody here knows is refused; one
that the engine lacks is refused with 501 and the name of an engine that has it, if one does;
sampling that an engine does not heed (one that batches all requests under one setting) is let
through and named to the client. Nothing that a request names is ever fetched.

What an engine lacks its replica says, in these words: embeddings, logprobs, response_format,
sampling, stop, tool_choice, tools. Source: OpenAI API reference as of openai-python 3.54.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from gigafactory.works.gateway.refusal import Refusal, unfit

if TYPE_CHECKING:
    from gigafactory.works.services import Replica

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RESPONSES, EMBEDDINGS = "/v1/responses", "/v1/embeddings"
ACT = "/v1/act"
"""What the engine of a policy or a detector answers; clients name it in the path."""

MAX_TOKENS = {CHAT: 1024, TEXT: 16, EMBEDDINGS: 0}  # where the client asks for none
TEMPLATE_TOKENS_MAX = 512  # what a chat template adds to what is said: taken for enough, no proof
BOUND = f"bytes asked, {TEMPLATE_TOKENS_MAX} for the template, and max_tokens"
NESTING_MAX = 64  # a JSON schema of a tool is some ten deep

SAMPLING = frozenset({
    "temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty",
    "repetition_penalty", "logit_bias",
})  # fmt: skip
UNHEEDED = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "reasoning_effort", "verbosity",
})  # fmt: skip
"""Accepted without effect everywhere: none changes what an engine of ours answers."""

NEUTRAL = {
    "n": 1, "best_of": 1, "echo": False, "logprobs": False, "top_logprobs": 0, "stop": [],
    "response_format": {"type": "text"}, "modalities": ["text"], "tool_choice": "auto",
    "parallel_tool_calls": True, "encoding_format": "float",
}  # fmt: skip
"""A value that asks for what happens anyway."""

NEEDS = {
    "response_format": "response_format", "tools": "tools", "tool_choice": "tool_choice",
    "parallel_tool_calls": "tool_choice", "stop": "stop", "logprobs": "logprobs",
    "top_logprobs": "logprobs",
}  # fmt: skip
"""Settings beyond their neutral value, and what an engine must have for them."""

HAS_MOST = "vllm"
"""The engine that has all of these but embeddings; of `TEMPLATES`, what the model's own shows."""
TEMPLATES = frozenset({"tools", "tool_choice"})

TURN = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"})
PARTS = frozenset({"text", "input_text", "output_text"})


@dataclass(frozen=True, slots=True)
class Ask:
    """A sound request, in an engine's words but for the model's name and the sampling.

    `tokens_max` bounds prompt and answer together: a token stands for a byte at least, so
    bytes bound the tokens of what is said without a tokenizer. What a template adds nothing here
    can bound; usage beyond `tokens_max` is not billed.
    """

    path: str
    stream: bool
    usage_wanted: bool
    max_tokens: int
    length_asked: bool
    """Whether the client asked for `max_tokens`; else a replica of less context has less."""
    tokens_max: int
    needs: frozenset[str]
    body: bytes
    sampling: bytes
    """`"temperature":0.5,` and so on: for engines that heed them."""
    ignored: tuple[str, ...]
    sampled: tuple[str, ...]

    def fault(self, replica: "Replica") -> Refusal | None:
        """Why a replica cannot answer this; None where it can."""
        if missing := self.needs & replica.lacks:
            what = ", ".join(sorted(missing))
            why = f"the engine {replica.engine} lacks {what} with this model"
            if "text" in missing:
                why = "this model acts and writes nothing: ask /v1/policies/NAME/act"
            elif "act" in missing:
                why = "this model writes, it does not act: ask /v1/chat/completions"
            elif "embeddings" in missing:
                why += f": no engine has them of a model that writes, {HAS_MOST} neither"
            elif replica.engine != HAS_MOST:
                only = " where the model's template shows tools" if missing & TEMPLATES else ""
                why += f"; {HAS_MOST} has it{only} (`engine: {HAS_MOST}`)"
            return Refusal(501, why, "engine_lacks", what)
        if self.length_asked and self.max_tokens > replica.context_tokens:
            return unfit("max_tokens", f"is a whole number from 1 to {replica.context_tokens}")
        if self.tokens_max > replica.cache_tokens:
            # One request beyond the whole KV cache would end the engine for everybody.
            return Refusal(
                400,
                f"this may take {self.tokens_max} tokens ({BOUND});"
                f" the engine holds {replica.cache_tokens}",
                "context_length_exceeded",
            )
        return None

    def body_for(self, replica: "Replica") -> bytes:
        """What the engine is sent."""
        sampling = b"" if "sampling" in replica.lacks else self.sampling
        if self.max_tokens:
            sampling += b'"max_tokens":%d,' % min(self.max_tokens, replica.context_tokens)
        return b'{"model":%b,%b%b' % (orjson.dumps(replica.model), sampling, self.body[1:])

    def ignored_by(self, replica: "Replica") -> tuple[str, ...]:
        """The settings that this replica does not heed."""
        return self.ignored + (self.sampled if "sampling" in replica.lacks else ())


def parse(body: bytes) -> dict[str, Any]:
    """The body as a JSON object, not nested beyond reason."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error}", "invalid_json") from error
    if not isinstance(said, dict):
        raise Refusal(400, "the body is not a JSON object", "invalid_json")
    if body.count(b"[") + body.count(b"{") > NESTING_MAX and depth(said) > NESTING_MAX:
        raise Refusal(400, f"the body is nested deeper than {NESTING_MAX}", "invalid_json")
    return said


def depth(said: Any) -> int:
    """How deep a JSON value is nested."""
    level, deep = [said], 0
    while level := [part for part in level if isinstance(part, dict | list)]:
        deep += 1
        level = [p for part in level for p in (part.values() if isinstance(part, dict) else part)]
    return deep


def understand(path: str, said: dict[str, Any], ready: Sequence["Replica"]) -> Ask:
    """What a client asks of chat completions, completions or embeddings.

    Of `ready` only the context counts, for the length of an answer where none is asked for.
    """
    said = {name: value for name, value in said.items() if value is not None}
    said.pop("model", None)
    stream, options = said.pop("stream", False), said.pop("stream_options", {})
    if not isinstance(stream, bool):
        raise unfit("stream", "is true or false")
    if not isinstance(options, dict):
        raise unfit("stream_options", "is an object")
    max_tokens = MAX_TOKENS[path]
    length_asked = not said.keys().isdisjoint(("max_tokens", "max_completion_tokens"))
    if path == EMBEDDINGS:
        if stream:
            raise unfit("stream", "is false: an embedding comes whole")
        asked = texts(said)
    else:
        if ready:
            max_tokens = min(max_tokens, max(replica.context_tokens for replica in ready))
        max_tokens = said.pop("max_tokens", max_tokens)
        max_tokens = said.pop("max_completion_tokens", max_tokens)
        most = max((replica.context_tokens for replica in ready), default=1 << 31)
        if type(max_tokens) is not int or not 1 <= max_tokens <= most:
            raise unfit("max_tokens", f"is a whole number from 1 to {most}")
        asked = messages(said) if path == CHAT else text(said)
    needs, ignored, sampling = {"embeddings" if path == EMBEDDINGS else "text"}, [], {}
    if "tools" in asked:
        needs.add("tools")
    for name, value in said.items():
        if name in SAMPLING:
            sampling[name] = value
        elif name in UNHEEDED:
            ignored.append(name)
        elif name in NEUTRAL and NEUTRAL[name] == value:
            pass
        elif name in NEEDS:
            needs.add(NEEDS[name])
            asked[name] = value
        else:
            raise Refusal(400, f"{name} is not supported here", "unsupported_parameter", name)
    if stream:
        asked["stream"] = True
        asked["stream_options"] = {"include_usage": True}
    try:
        body = orjson.dumps(asked)
        head = orjson.dumps(sampling)[1:-1] + b"," if sampling else b""
    except TypeError as error:  # a lone surrogate, an integer beyond 64 bits
        raise Refusal(400, f"this cannot be passed on: {error}", "invalid_json") from error
    return Ask(
        path=path,
        stream=stream,
        usage_wanted=options.get("include_usage") is True,
        max_tokens=max_tokens,
        length_asked=length_asked,
        tokens_max=len(body) + TEMPLATE_TOKENS_MAX + max_tokens,
        needs=frozenset(needs),
        body=body,
        sampling=head,
        ignored=tuple(ignored),
        sampled=tuple(sampling),
    )


def understand_act(said: dict[str, Any]) -> Ask:
    """What a client asks of a policy (`observation`) or a detector (`image`, base64): one or many.

    What stands in them the engine judges, which knows its model. Each counts as one of the
    engine's places; no tokens are billed, the service's own time is.
    """
    if len(said) != 1 or not said.keys() <= {"observation", "image"}:
        raise Refusal(
            400, 'the body is {"observation": [...]} or {"image": "base64"}', "invalid_value"
        )
    asked = next(iter(said.values()))
    many = isinstance(asked, list) and bool(asked) and not isinstance(asked[0], int | float)
    try:
        body = orjson.dumps(said)
    except TypeError as error:
        raise Refusal(400, f"this cannot be passed on: {error}", "invalid_json") from error
    return Ask(
        path=ACT,
        stream=False,
        usage_wanted=False,
        max_tokens=0,
        length_asked=False,
        tokens_max=len(asked) if many else 1,
        needs=frozenset({"act"}),
        body=body,
        sampling=b"",
        ignored=(),
        sampled=(),
    )


def messages(said: dict[str, Any]) -> dict[str, Any]:
    """Take the parts that make a chat's prompt out of a request."""
    turns, tools = said.pop("messages", None), said.pop("tools", None)
    if not isinstance(turns, list) or not turns:
        raise unfit("messages", "is a list of messages, at least one")
    silent = True
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise unfit("messages", "holds objects with a role and a content")
        if more := turn.keys() - TURN:
            raise unfit("messages", f"holds no {', '.join(sorted(more))}")
        content = turn.get("content")
        if isinstance(content, str):
            silent = silent and not content
            continue
        if not isinstance(content, list | None):
            raise unfit("messages", "holds text only: a string, or parts of type text")
        for part in content or ():
            silent = not worded(part) and silent
    if silent:
        raise unfit("messages", "says something")  # The engine does not survive an empty prompt.
    if not tools:
        return {"messages": turns}
    if not isinstance(tools, list):
        raise unfit("tools", "is a list")
    for tool in tools:
        function_only(tool)
    return {"messages": turns, "tools": tools}


def worded(part: Any) -> bool:
    """Whether a part of a message says something; it must be text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in PARTS:
        # An address in a request, fetched by us or an engine, would reach into our network.
        raise unfit("messages", f"holds text only: no address is fetched for a request ({kind})")
    if not isinstance(part.get("text"), str):
        raise unfit("messages", "holds text only: a string, or parts of type text")
    return bool(part["text"])


def function_only(tool: Any) -> None:
    """Refuse tools that somebody would have to call from here: mcp, web search, and so on."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind != "function":
        raise unfit("tools", f"holds functions, which the client calls; nobody calls {kind} here")


def text(said: dict[str, Any]) -> dict[str, Any]:
    """Take the prompt of a legacy completion out of a request."""
    prompt = said.pop("prompt", None)
    if not isinstance(prompt, str) or not prompt:
        raise unfit("prompt", "is one string, not empty")
    return {"prompt": prompt}


def texts(said: dict[str, Any]) -> dict[str, Any]:
    """Take what is to be embedded out of a request: texts, or lists of token numbers."""
    asked: dict[str, Any] = {n: said.pop(n) for n in ("input", "dimensions") if n in said}
    if said.get("encoding_format") == "base64":  # what OpenAI's client asks for by itself
        asked["encoding_format"] = said.pop("encoding_format")
    given = asked.get("input")
    if not given or not isinstance(given, str | list) or (isinstance(given, list) and "" in given):
        raise unfit("input", "is a text, or a list of texts or token numbers, none empty")
    return asked
