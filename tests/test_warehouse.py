"""The warehouse task: two splits that share nothing, and a checker that is not to be charmed."""

import json
import re

import pytest

from gigafactory.jobs.warehouse import NUMBERS, SPEECH, TOOLS, exact, examples, parse

MOVE = {
    "tool": "move",
    "arguments": {"item": "olive oil", "pallets": 4, "from": "dock 3", "to": "aisle B7"},
}
SHIP = {"tool": "ship", "arguments": {"order": 4417, "dock": 1, "urgent": True}}


def test_the_same_seed_says_the_same_and_another_seed_says_something_else():
    assert examples("train", 7, 50) == examples("train", 7, 50)
    assert examples("train", 7, 50) != examples("train", 8, 50)
    assert examples("train", 7, 50) != examples("heldout", 7, 50)


@pytest.mark.parametrize("kind", ["items", "places", "hazards"])
def test_the_splits_share_no_vocabulary(kind):
    train, heldout = (set(getattr(SPEECH[split], kind).split("|")) for split in SPEECH)
    assert not train & heldout


@pytest.mark.parametrize("kind", ["openers", "closers", "haste", "leisure"])
def test_the_splits_share_no_manners(kind):
    train, heldout = (set(getattr(SPEECH[split], kind)) for split in SPEECH)
    assert train & heldout <= {""}


def test_what_the_splits_say_in_common_are_function_words_and_the_units():
    said = {}
    for split, speech in SPEECH.items():
        patterns = [p for tool in TOOLS for p in speech.requests[tool] + speech.statements[tool]]
        said[split] = set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", "", " ".join(patterns).lower())))
    function_words = "a and are at do for from go have how i in is it many me of on out over the"
    function_words += " them they to we"
    units = "boxes dock order pallets"
    assert said["train"] & said["heldout"] <= set((function_words + " " + units).split())


@pytest.mark.parametrize("split", SPEECH)
def test_each_instruction_says_all_that_its_call_needs(split):
    for example in examples(split, 1, 500):
        said = example.instruction.lower()
        for name, value in example.call["arguments"].items():
            ways = {str(value).lower(), NUMBERS.get(value, str(value).lower())}
            assert name == "urgent" or any(way in said for way in ways), example


@pytest.mark.parametrize("split", SPEECH)
def test_each_answer_is_exact_and_every_tool_gets_its_turn(split):
    asked = examples(split, 2, 100)
    assert all(exact(example.answer, example.call) for example in asked)
    assert {example.call["tool"] for example in asked} == TOOLS.keys()


def test_white_space_and_the_order_of_keys_are_free():
    text = """ {"arguments": {"to": "aisle B7", "from": "dock 3",
               "pallets": 4, "item": "olive oil"}, "tool": "move"}\n"""
    assert exact(text, MOVE)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (json.dumps(MOVE) + " Done!", "something stands after the object"),
        ("```json\n" + json.dumps(MOVE) + "\n```", "something stands around the object"),
        (json.dumps(MOVE).replace("4", '"4"'), "a number as text"),
        (json.dumps(MOVE).replace("4", "4.0"), "a number with a point"),
        (json.dumps(MOVE).replace("4", "true"), "a truth for a number"),
        (json.dumps(MOVE).replace('"to"', '"item": "rice", "to"'), "a key twice"),
        (json.dumps(MOVE)[:-1] + ', "note": ""}', "a key too many"),
        (json.dumps(MOVE).replace('"pallets": 4, ', ""), "an argument missing"),
        (json.dumps(MOVE).replace("move", "fly"), "no such tool"),
        ("[]", "a list"),
        ("null", "nothing"),
        ('{"tool": ["move"], "arguments": {}}', "a tool that is no name"),
        ('{"tool": "move", "arguments": 4}', "arguments that are none"),
        ("[" * 100_000, "an abyss"),
        ("", "silence"),
    ],
)
def test_what_is_not_the_call_itself_is_refused(text, why):
    assert parse(text) is None, why


def test_a_number_is_no_truth():
    assert exact(json.dumps(SHIP), SHIP)
    assert not exact(json.dumps(SHIP).replace("true", "1"), SHIP)
    assert not exact(json.dumps(SHIP).replace('"dock": 1', '"dock": true'), SHIP)
