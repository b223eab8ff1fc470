"""Promises to OpenAI's own client: responses, embeddings, tools, schemas; and nothing fetched."""

import asyncio
import json
import stat
from dataclasses import replace
from pathlib import Path
from random import Random

import openai
import pytest

from gigafactory.blueprint.schema import Tenant
from gigafactory.works.counted import Counted
from gigafactory.works.gateway.metrics import Metrics
from tests.gateway_house import HELLO, LACKS, RUN, open_house, replica, until

TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
CALL = {"index": 0, "id": "call_1", "type": "function"}
CALLS = [
    {"reasoning_content": "hm, "},
    {"reasoning_content": "rain"},
    {"content": "I "},
    {"content": "look"},
    {"tool_calls": [CALL | {"function": {"name": "weather", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"at":'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ' "sea"}'}}]},
]
WHOLE = [
    {"reasoning_content": "hm, rain", "content": "I look"},
    {"tool_calls": [CALL | {"function": {"name": "weather", "arguments": '{"at": "sea"}'}}]},
]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with open_house(tmp_path_factory.mktemp("home")) as house:
        yield house


@pytest.fixture(autouse=True)
def _as_it_was(house):
    yield
    house.engine.words, house.engine.deltas, house.engine.asked = 3, None, []
    house.services.serve("chat", replica(house.engine_url))
    house.doors.tenants["mill"] = Tenant()


def test_a_response_is_openais_and_is_billed_once(house):
    before = len(list_of_rows(house))
    answer = house.client().responses.create(
        model="chat", input="hello", instructions="be brief", max_output_tokens=9
    )
    assert (answer.output_text, answer.status, answer.model) == ("la la la ", "completed", "chat")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 3)
    (asked,) = house.engine.asked
    assert asked["messages"] == [{"role": "system", "content": "be brief"}, *HELLO]
    assert asked["max_tokens"] == 9
    assert len(list_of_rows(house)) == before + 2


def list_of_rows(house):
    from gigafactory.ledger import store

    return list(store.read(house.path, RUN))


def test_a_streamed_response_tells_its_events_in_order_and_its_usage_last(house):
    events = list(house.client().responses.create(model="chat", input="hello", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added",
        "output_text.delta", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    text = "".join(event.delta for event in events if event.type.endswith("text.delta"))
    done = events[-1].response
    assert text == done.output_text == 'la "usage":{"model":"model@main"} ' * 3
    assert done.usage.total_tokens == 10
    assert {event.response.id for event in events if hasattr(event, "response")} == {done.id}


def test_the_clients_own_stream_helper_puts_a_response_together(house):
    house.engine.deltas = CALLS
    with house.client().responses.stream(
        model="chat", input="hello", tools=[TOOL | {"type": "function", "strict": False}]
    ) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_response()
    house.engine.deltas = WHOLE
    whole = house.client().responses.create(
        model="chat", input="hello", tools=[TOOL | {"type": "function"}]
    )
    for answer in (streamed, whole):
        thought, said, call = answer.output
        assert thought.content[0].text == "hm, rain"
        assert said.content[0].text == "I look"
        assert (call.name, call.arguments, call.call_id) == ("weather", '{"at": "sea"}', "call_1")
    assert house.engine.asked[0]["tools"] == [
        {"type": "function", "function": TOOL | {"strict": False}}
    ]


def test_a_response_cut_short_says_so_and_the_talk_goes_on(house):
    create = house.client().responses.create
    create(
        model="chat",
        input=[
            {"role": "developer", "content": [{"type": "input_text", "text": "be brief"}]},
            {"role": "user", "content": "weather?"},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        ],
    )
    turns = house.engine.asked[0]["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "tool"]
    assert turns[2]["tool_calls"][0]["id"] == turns[3]["tool_call_id"] == "c1"


def test_what_would_need_a_store_is_refused_clearly(house):
    for setting in (
        {"previous_response_id": "resp_1"},
        {"conversation": "c"},
        {"background": True},
    ):
        with pytest.raises(openai.BadRequestError, match="none is kept here"):
            house.client().responses.create(model="chat", input="x", **setting)
    assert not house.engine.asked


URLS = [
    ("chat/completions", {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]}),
    ("chat/completions", {"messages": [{"role": "user", "content": [
        {"type": "file", "file": {"file_url": "http://localhost/"}}]}]}),
    ("chat/completions", {"messages": HELLO, "tools": [
        {"type": "mcp", "server_url": "http://localhost/"}]}),
    ("responses", {"input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": "http://localhost/"}]}]}),
    ("responses", {"input": [{"type": "input_file", "file_url": "http://localhost/"}]}),
    ("responses", {"input": "x", "tools": [
        {"type": "mcp", "server_label": "x", "server_url": "http://localhost/"}]}),
    ("responses", {"input": "x", "tools": [{"type": "web_search"}]}),
]  # fmt: skip


def test_no_address_in_a_request_is_fetched_or_passed_on(house):
    for path, body in URLS:
        answer = house.post({"model": "chat"} | body, f"/v1/{path}")
        assert answer.status_code == 400, body
        said = answer.json()["error"]["message"]
        assert "is fetched" in said or "nobody calls" in said
    assert not house.engine.asked


def test_tools_and_schemas_reach_an_engine_that_has_them(house):
    house.services.serve("chat", replica(house.engine_url, engine="vllm"))
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    house.engine.deltas = WHOLE
    answer = house.client().chat.completions.create(
        model="chat", messages=HELLO, response_format=form, parallel_tool_calls=False,
        tools=[{"type": "function", "function": TOOL}], tool_choice="required",
    )  # fmt: skip
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    asked = house.engine.asked[0]
    assert asked["response_format"] == form
    assert (asked["tool_choice"], asked["parallel_tool_calls"]) == ("required", False)
    house.client().responses.create(
        model="chat", input="x", text={"format": {"type": "json_schema", **form["json_schema"]}}
    )
    assert house.engine.asked[1]["response_format"] == form


def test_what_an_engine_lacks_is_501_and_names_one_that_has_it(house):
    house.services.serve("chat", replica(house.engine_url, lacks=LACKS | {"tools"}))
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}
    for path, body, what in (
        ("embeddings", {"input": "x"}, "embeddings"),
        ("chat/completions", {"messages": HELLO, "response_format": form}, "response_format"),
        ("chat/completions", {"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        ("responses", {"input": "x", "tools": [TOOL | {"type": "function"}]}, "tools"),
    ):
        answer = house.post({"model": "chat"} | body, f"/v1/{path}")
        assert answer.status_code == 501
        said = answer.json()["error"]["message"]
        assert what in said
        assert ("no engine has them" if what == "embeddings" else "vllm has it") in said
        assert ("template" in said) == (what in ("tools", "tool_choice"))
    assert not house.engine.asked


def test_an_engine_that_has_most_is_not_named_as_the_way_out_of_its_own_lack(house):
    lacks = replace(replica(house.engine_url, engine="vllm"), lacks=frozenset({"tools"}))
    house.services.serve("chat", lacks)
    tool = {"type": "function", "function": {"name": "f"}}
    answer = house.post({"model": "chat", "messages": HELLO, "tools": [tool]})
    assert answer.status_code == 501
    assert answer.json()["error"]["message"] == "the engine vllm lacks tools with this model"


def test_the_page_says_what_becomes_of_a_setting_that_an_engine_lacks(house):
    page = Path(__file__).parents[1] / "docs" / "serving.md"
    rows = [line.split("|")[1:3] for line in page.read_text("utf-8").splitlines() if "|" in line]
    house.services.serve("chat", replica(house.engine_url, lacks=LACKS | {"tools"}))
    tool = {"type": "function", "function": {"name": "f"}}
    for name, value in (
        ("tools", [tool]), ("tool_choice", "required"), ("stop", ["."]), ("logprobs", True),
        ("response_format", {"type": "json_object"}), ("n", 2), ("temperature", 0.5),
    ):  # fmt: skip
        (cell,) = [here for what, here in rows if f"`{name}`" in what]
        answer = house.post({"model": "chat", "messages": HELLO, name: value})
        told = answer.headers.get("x-gigafactory-ignored", str(answer.status_code))
        assert ("ignored" if told == name else told) in cell, name


def test_embeddings_pass_where_the_engine_has_them(house):
    house.services.serve("chat", replica(house.engine_url, engine="vllm"))
    before = len(list_of_rows(house))
    answer = house.client().embeddings.create(
        model="chat", input=["a", "b"], encoding_format="float"
    )
    assert (answer.data[0].embedding, answer.model) == ([0.5, 0.25], "chat")
    settled = list_of_rows(house)[before + 1].body
    assert (settled["prompt_tokens"], settled["completion_tokens"]) == (7, 0)
    for wrong in ("", [], ["a", ""], 7):
        assert house.post({"model": "chat", "input": wrong}, "/v1/embeddings").status_code == 400


def test_the_async_client_works_unchanged(house):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=house.key) as client:
            answer = await client.responses.create(model="chat", input="hello")
            stream = await client.chat.completions.create(model="chat", messages=HELLO, stream=True)
            models = [model.id async for model in client.models.list()]
            return answer.output_text, len([chunk async for chunk in stream]), models

    assert asyncio.run(ask()) == ("la la la ", 5, ["chat"])


def test_prompts_are_kept_for_those_who_ask_and_nobody_else(house, caplog):
    caplog.set_level("DEBUG")
    secret = [{"role": "user", "content": "the secret recipe"}]
    house.client().chat.completions.create(model="chat", messages=secret)
    house.engine.fault = 500
    assert house.post({"model": "chat", "messages": secret}).status_code == 502
    house.engine.fault = None
    prompts = house.home / "prompts"
    assert not prompts.exists()
    assert "recipe" not in caplog.text
    house.doors.tenants["mill"] = Tenant(keep_prompts=True)
    house.client().chat.completions.create(model="chat", messages=secret)
    (line,) = (prompts / "mill.jsonl").read_text().splitlines()
    assert json.loads(line)["asked"]["messages"] == secret
    assert stat.S_IMODE((prompts / "mill.jsonl").stat().st_mode) == 0o600
    assert not (prompts / "bank.jsonl").exists()


def test_no_quantile_of_the_first_word_is_later_than_that_of_the_end():
    """However fast the model, however many answers came whole, and whatever failed at once."""
    metrics, times = Metrics(), Random(7)
    for typical_s in (0.01, 0.02, 0.2, 2.0, 20.0, 200.0):
        model = f"of {typical_s} s"
        for _ in range(100):
            duration_s = typical_s * times.uniform(1, 1.3)
            ttft_s = duration_s * times.choice([0.9, 1])
            metrics.settled("mill", model, "complete", 7, 3, 1, ttft_s, duration_s)
            metrics.settled("mill", model, "error", 0, 0, 0, 0.001, 0.001)
        told = Counted(metrics.registry)
        first = told.quantiles("gigafactory_ttft_seconds", model)
        end = told.quantiles("gigafactory_request_seconds", model)
        assert first[0.5] <= end[0.5]
        assert first[0.95] <= end[0.95]


def test_what_passes_is_counted_for_prometheus(house):
    from prometheus_client import generate_latest

    house.client().chat.completions.create(model="chat", messages=HELLO)
    house.post({"model": "gpt", "messages": HELLO})

    def told():
        text = generate_latest(house.gateway.metrics.registry).decode()
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")

    refused = 'gigafactory_refused_total{code="model_not_found",status="404"}'
    until(lambda: refused in told())  # counted once the answer has gone
    figures = told()
    of = '{model="chat",tenant="mill"}'
    done = 'gigafactory_requests_total{model="chat",outcome="complete",tenant="mill"}'
    assert float(figures[done]) >= 1
    assert float(figures[f"gigafactory_completion_tokens_total{of}"]) >= 3
    assert float(figures['gigafactory_ttft_seconds_count{model="chat"}']) >= 1
    assert float(figures[refused]) >= 1
