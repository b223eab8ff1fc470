"""OpenAI's Responses API, told in chat completions and back.

All engines are asked for a chat, also those with a `/v1/responses` of their own: so an answer,
its events and its usage are the same on each, and nothing is stored anywhere. What would need a
store (`previous_response_id`, `conversation`, `background`) is refused.

Source: OpenAI API reference, `openai.types.responses` of openai-python 3.54.
"""

import time
from typing import Any

import orjson

from gigafactory.works.gateway.answer import DONE, Answer, counts, is_last, parsed
from gigafactory.works.gateway.ask import Ask, function_only
from gigafactory.works.gateway.refusal import Refusal, unfit

Json = dict[str, Any]

SAME = frozenset({
    "model", "stream", "temperature", "top_p", "top_logprobs", "parallel_tool_calls", "user",
    "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention",
})  # fmt: skip
"""Settings that a chat completion has under the same name."""
STORED = ("previous_response_id", "conversation", "background", "prompt")
NEUTRAL: Json = {"truncation": "disabled", "include": [], "max_tool_calls": None}
ECHOED = (
    "instructions", "max_output_tokens", "metadata", "temperature", "text", "top_p", "reasoning",
)  # fmt: skip


def as_chat(said: Json) -> Json:
    """The chat completion that a request for a response comes to."""
    said = {name: value for name, value in said.items() if value is not None}
    for name in STORED:
        if said.pop(name, None):
            raise Refusal(
                400, f"{name} needs stored responses, and none is kept here: send the whole input",
                "unsupported_parameter", name,
            )  # fmt: skip
    chat = {name: said.pop(name) for name in SAME & said.keys()}
    chat["messages"] = turns(said.pop("input", None), said.pop("instructions", None))
    if "max_output_tokens" in said:
        chat["max_tokens"] = said.pop("max_output_tokens")
    if tools := said.pop("tools", None):
        chat["tools"] = chat_tools(tools)
    choice = said.pop("tool_choice", "auto")
    if isinstance(choice, dict) and "name" in choice:
        choice = {"type": "function", "function": {"name": choice["name"]}}
    chat["tool_choice"] = choice
    if isinstance(reasoning := said.pop("reasoning", None), dict) and "effort" in reasoning:
        chat["reasoning_effort"] = reasoning["effort"]
    told = said.pop("text", None) or {}
    if not isinstance(told, dict):
        raise unfit("text", "is an object")
    form = told.get("format") or {"type": "text"}
    if form.get("type") == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type"}
        form = {"type": "json_schema", "json_schema": schema}
    chat["response_format"] = form
    for name, value in said.items():
        if name not in NEUTRAL or NEUTRAL[name] != value:
            raise Refusal(400, f"{name} is not supported here", "unsupported_parameter", name)
    return chat


def turns(given: Any, instructions: Any) -> list[Json]:
    """`input` as the messages of a chat."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise unfit("input", "is a text or a list of items")
    if given and not any("role" in item or item.get("type") in ITEMS for item in given):
        given = [{"role": "user", "content": given}]  # the parts of one message
    said: list[Json] = []
    if isinstance(instructions, str):
        said.append({"role": "system", "content": instructions})
    for item in given:
        kind = item.get("type", "message")
        if kind == "message":
            said.append({"role": role(item.get("role")), "content": as_text(item.get("content"))})
        elif kind == "function_call":
            function = {name: str(item.get(name, "")) for name in ("name", "arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if said and said[-1]["role"] == "assistant":
                said[-1].setdefault("tool_calls", []).append(call)
            else:
                said.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif kind == "function_call_output":
            output = as_text(item.get("output"))
            said.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        elif kind != "reasoning":  # An engine wants no old thoughts.
            raise unfit("input", f"holds messages and function calls, no {kind}")
    return said


ITEMS = frozenset({"message", "function_call", "function_call_output", "reasoning"})


def role(name: Any) -> Any:
    """What chat templates call the developer's role."""
    return "system" if name == "developer" else name


def as_text(content: Any) -> Any:
    """The parts of a message under the name that chats have for text; others are refused there."""
    if not isinstance(content, list):
        return content
    texts = ("input_text", "output_text")
    return [
        {"type": "text", "text": part.get("text")}
        if isinstance(part, dict) and part.get("type") in texts
        else part
        for part in content
    ]


def chat_tools(tools: Any) -> list[Json]:
    """Functions as chats declare them."""
    if not isinstance(tools, list):
        raise unfit("tools", "is a list")
    for tool in tools:
        function_only(tool)
    return [
        {"type": "function", "function": {n: v for n, v in tool.items() if n != "type"}}
        for tool in tools
    ]


class Response(Answer):
    """A response as it grows out of the chunks of a chat."""

    def __init__(self, request: str, name: str, ask: Ask, said: Json):
        super().__init__(request, name, ask)
        self._id = request
        self._number = 0
        self._items: list[Json] = []
        self._open: Json | None = None
        self._calls: dict[int, Json] = {}
        self._finish = ""
        self._response: Json = {
            "id": f"resp_{request}", "object": "response", "created_at": int(time.time()),
            "model": name, "status": "in_progress", "error": None, "incomplete_details": None,
            "output": [], "usage": None, "previous_response_id": None, "store": False,
            "parallel_tool_calls": said.get("parallel_tool_calls") is not False,
            "tool_choice": said.get("tool_choice") or "auto", "tools": said.get("tools") or [],
        }  # fmt: skip
        self._response |= {name: said[name] for name in ECHOED if said.get(name) is not None}

    def whole(self, body: bytes) -> None:
        """A chat that came whole."""
        chat = orjson.loads(body)
        message = chat["choices"][0]["message"]
        self._hear(message | {"tool_calls": numbered(message.get("tool_calls") or [])})
        self._close()
        self._finish = chat["choices"][0].get("finish_reason") or ""
        self.end = orjson.dumps(self._ended(chat["usage"]))
        self.usage = counts(chat["usage"])

    def heard(self, said: bytes) -> bytes:
        """Events for what whole chunks of the chat say."""
        if said.endswith(DONE):
            self.done = True
        told = b""
        if not self._number:
            told = self._event("response.created", response=self._response)
            told += self._event("response.in_progress", response=self._response)
        for chunk in parsed(said):
            if self.last and not chunk.get("usage"):
                continue
            if "error" in chunk:
                raise Refusal(502, "the engine broke off with an error", "engine_error")
            for choice in chunk.get("choices", ()):
                told += self._hear(choice.get("delta") or {})
                self._finish = choice.get("finish_reason") or self._finish
            if usage := chunk.get("usage"):
                counts(usage)
                self._usage = usage
                self.last = self.last or is_last(chunk)
        return told

    def ended(self) -> None:
        """The items are whole, and so is the response."""
        if self._usage is None:
            return
        end = self._close()
        response = self._ended(self._usage)
        self.usage = counts(self._usage)
        self.end = end + self._event(f"response.{response['status']}", response=response)

    def _ended(self, usage: Json) -> Json:
        cut_short = self._finish == "length"
        prompt, completion = counts(usage)
        return self._response | {
            "status": "incomplete" if cut_short else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut_short else None,
            "output": self._items,
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": detail(usage, "prompt", "cached_tokens")
                | {"cache_write_tokens": 0},
                "output_tokens": completion,
                "output_tokens_details": detail(usage, "completion", "reasoning_tokens"),
                "total_tokens": prompt + completion,
            },
        }

    def _hear(self, delta: Json) -> bytes:
        told = b""
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            told += self._into("reasoning")
            self._part()["text"] += thought
            told += self._at("response.reasoning_text.delta", delta=thought)
        if word := delta.get("content"):
            told += self._into("message")
            self._part()["text"] += word
            told += self._at("response.output_text.delta", delta=word, logprobs=[])
        for call in delta.get("tool_calls") or ():
            told += self._call(call)
        self.spoke = self.spoke or bool(told)
        return told

    def _call(self, call: Json) -> bytes:
        told, function = b"", call.get("function") or {}
        item = self._calls.get(call.get("index", 0))
        if item is None:
            told += self._close()
            number = call.get("index", 0)
            item = {
                "id": f"fc_{self._id}_{number}", "type": "function_call", "status": "in_progress",
                "call_id": call.get("id") or f"call_{self._id}_{number}",
                "name": function.get("name") or "", "arguments": "",
            }  # fmt: skip
            self._calls[number] = self._open = item
            told += self._added(item)
        if more := function.get("arguments"):
            item["arguments"] += more
            told += self._at("response.function_call_arguments.delta", delta=more)
        return told

    def _into(self, kind: str) -> bytes:
        """Have an item of a kind open."""
        if self._open is not None and self._open["type"] == kind:
            return b""
        told = self._close()
        name = f"{'msg' if kind == 'message' else 'rs'}_{self._id}_{len(self._items)}"
        item: Json = {"id": name, "type": kind, "status": "in_progress", "content": []}
        item["role" if kind == "message" else "summary"] = "assistant" if kind == "message" else []
        self._open = item
        told += self._added(item)
        if kind == "message":
            part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            told += self._at("response.content_part.added", part=part)
        else:
            part = {"type": "reasoning_text", "text": ""}
        item["content"].append(part)
        return told

    def _part(self) -> Json:
        assert self._open is not None
        return self._open["content"][0]

    def _close(self) -> bytes:
        """The item that is open is whole."""
        item = self._open
        if item is None:
            return b""
        item["status"] = "completed"
        if item["type"] == "function_call":
            told = self._at(
                "response.function_call_arguments.done",
                arguments=item["arguments"], name=item["name"],
            )  # fmt: skip
        elif item["type"] == "message":
            part = self._part()
            told = self._at("response.output_text.done", text=part["text"], logprobs=[])
            told += self._at("response.content_part.done", part=part)
        else:
            told = self._at("response.reasoning_text.done", text=self._part()["text"])
        self._open = None
        self._items.append(item)
        return told + self._event(
            "response.output_item.done", output_index=len(self._items) - 1, item=item
        )

    def _added(self, item: Json) -> bytes:
        return self._event("response.output_item.added", output_index=len(self._items), item=item)

    def _at(self, kind: str, **said: Any) -> bytes:
        """An event about the open item."""
        assert self._open is not None
        if self._open["type"] != "function_call":
            said["content_index"] = 0
        return self._event(kind, item_id=self._open["id"], output_index=len(self._items), **said)

    def _event(self, kind: str, **said: Any) -> bytes:
        said = {"type": kind, "sequence_number": self._number, **said}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(said))


def numbered(calls: list[Json]) -> list[Json]:
    """Tool calls of a whole answer, with the places that a stream would tell."""
    return [call | {"index": place} for place, call in enumerate(calls)]


def detail(usage: Json, side: str, name: str) -> Json:
    """A figure inside `usage` that only some engines tell; 0 where they do not."""
    return {name: ((usage.get(f"{side}_tokens_details") or {}).get(name)) or 0}
