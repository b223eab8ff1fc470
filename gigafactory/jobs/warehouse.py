"""A task that can be judged exactly: say something about a warehouse, get one JSON tool call.

"Take four pallets of olive oil from dock 3 to aisle B7, thanks" has one right answer:
`{"tool":"move","arguments":{"item":"olive oil","pallets":4,"from":"dock 3","to":"aisle B7"}}`.

Two splits speak of the same five tools. They share no item, place or hazard, and no word of
their phrasings but function words and the nouns boxes, dock, order and pallets (tests hold
this); numbers are shared. Seen phrasings with unseen words are easy for a tuned model; only
`heldout`, where the verbs too are new, says whether it learned the task.
"""

import json
import random
import re
from dataclasses import dataclass
from typing import Any

Call = dict[str, Any]

TOOLS: dict[str, dict[str, type]] = {
    "move": {"item": str, "pallets": int, "from": str, "to": str},
    "count": {"item": str, "place": str},
    "reserve": {"item": str, "boxes": int, "order": int},
    "inspect": {"place": str, "hazard": str},
    "ship": {"order": int, "dock": int, "urgent": bool},
}

NUMBER_WORDS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    "|sixteen|seventeen|eighteen|nineteen|twenty"
)
NUMBERS = dict(enumerate(NUMBER_WORDS.split("|"), start=2))


@dataclass(frozen=True)
class Speech:
    """How one split talks. In a pattern, `(a|b)` is a choice and `{name}` an argument."""

    items: str
    """Between bars, as places and hazards are."""
    places: str
    """`{letter}` and `{digit}` are drawn; a leading "the " is said but not part of the name."""
    hazards: str
    openers: tuple[str, ...]
    """Said before a request."""
    closers: tuple[str, ...]
    """Said after anything."""
    haste: tuple[str, ...]
    """Said where a shipment is urgent."""
    leisure: tuple[str, ...]
    """Said where it is not."""
    requests: dict[str, tuple[str, ...]]
    """Imperatives by tool."""
    statements: dict[str, tuple[str, ...]]
    """Whole sentences by tool, which take no opener."""


SPEECH = {
    "train": Speech(
        items=(
            "olive oil|rice|tomato sauce|winter tyres|printer paper|candles|apple juice|bolts"
            "|copper wire|cat food|toothpaste|garden chairs|light bulbs|black tea|cement"
            "|wool blankets|frying pans|shampoo|dog leashes|car batteries|flour|desk lamps"
            "|cough syrup|bicycle pumps|frozen peas|plastic cups|steel pipes|baby shoes|mirrors"
            "|hammers|face masks|goat cheese|almonds|dried figs|mattresses|keyboards|vinegar"
            "|roof beams|sea salt|window frames|zinc plates|leather belts|jam|nails|ovens|quilts"
            "|inkjet printers|upholstery|envelopes|extension cords|xylophones|yarn|lentils"
            "|raincoats|gloves|old books|usb cables|violins|tents|nappies|pepper|bath towels"
            "|hair dryers|lemonade|fishing rods|paper bags|hinges|noodles|screwdrivers|corn flakes"
            "|saffron|buckets|ginger tea|tulip bulbs|ear plugs|maple syrup|kayaks|goggles|quinoa"
            "|barbed wire|whistles|jigsaw puzzles|onion powder|wheelchairs|ribbons|sponges|pillows"
            "|gas bottles|hot sauce|tin foil|oat flakes|sleeping bags|glue|canoes|lipstick|flutes"
        ),
        places=(
            "dock {digit}|aisle {letter}{digit}|bay {digit}|rack {letter}{digit}"
            "|room {digit}{digit}|line {letter}|hall {letter}|row {digit}|station {letter}"
            "|section {letter}{digit}|door {digit}|unit {digit}{digit}|the cold room"
            "|the north store|the packing area|the workshop|the basement|the entrance|the garage"
            "|the attic|the quarantine|the east wing|the canteen|the archive|the furnace|the oven"
            "|the fridge|the kitchen|the library|the tunnel|the tower|the vault|the greenhouse"
            "|the laundry|the shed|the sauna|the junction|the pantry|the backyard|the clinic"
            "|the foyer|the balcony|the stairwell|the lounge|the hangar|the pharmacy"
        ),
        hazards=(
            "leaks|broken glass|mould|fire damage|rats|ice|loose bolts|smoke|oil spills|rust"
            "|blocked exits|birds|theft|heat|open doors|bad wiring|noise|torn labels"
        ),
        openers=("please ", "could you ", "can you please ", "hello, ", "now ", "next, ")
        + ("I need you to ", "we have to ", "I would like you to ")
        + ("",) * 4,
        closers=(", please", ", thanks", " today", " before noon", ", will you") + ("",) * 6,
        haste=(
            *("it's urgent", "it is very urgent", "as soon as possible", "immediately", "express"),
            *("top priority", "hurry up", "without delay", "as fast as you can", "quickly", "ASAP"),
            *("it must not be late", "this is very important", "at once"),
        ),
        leisure=(
            *("no hurry", "it is not urgent", "whenever you can", "normal priority", "", "", ""),
            *("low priority", "when there is time", "you need not hurry", "later is fine"),
        ),
        requests={
            "move": (
                "(move|take|carry|transfer|push) {pallets} pallets of {item} from {from} to {to}",
                "(move|take|bring|relocate) {pallets} pallets of {item} to {to} from {from}",
                "(pick up|fetch|collect) {pallets} pallets of {item} at {from} and"
                " (bring|deliver|take) them to {to}",
                "go to {from}, (grab|take) {pallets} pallets of {item} and (drop|leave) them"
                " (in|at) {to}",
                "use the forklift to (bring|lift) {pallets} pallets of {item} from {from} to {to}",
                "fill {to} with {pallets} pallets of {item}, they are (in|at) {from}",
            ),
            "count": (
                "count the {item} (in|at) {place}",
                "count all (the|our) {item} (in|at) {place}",
                "tell me how (many|much) {item} (there is|we have) (in|at) {place}",
                "go to {place} and count the {item}",
                "(give me|report) the (number|quantity) of {item} (in|at) {place}",
                "do the inventory of {item} (in|at) {place}",
                "(determine|calculate|note) the (total|quantity) of {item} (in|at) {place}",
                "check the stock of {item} (in|at) {place}",
            ),
            "reserve": (
                "(reserve|hold|book) {boxes} boxes of {item} for order {order}",
                "(reserve|assign) {item} for order {order}, {boxes} boxes",
                "(keep|save) {boxes} boxes of {item} for order {order}",
                "(block|lock) {boxes} boxes of {item}, they are for order {order}",
                "do not sell {boxes} boxes of {item}, order {order} needs them",
                "(promise|give) order {order} {boxes} boxes of {item}",
                "(dedicate|attribute|link) {boxes} boxes of {item} to order {order}",
            ),
            "inspect": (
                "(inspect|check|examine) {place} for {hazard}",
                "go to {place} and (check|look) for {hazard}",
                "look for {hazard} (in|at) {place}",
                "(see|verify) (if|whether) there is any sign of {hazard} (in|at) {place}",
                "walk through {place} and watch out for {hazard}",
                "(monitor|explore|test) {place} for {hazard}",
                "(confirm|ensure) {place} has no {hazard}",
                "(start|carry out) an inspection of {place}, we expect {hazard}",
            ),
            "ship": (
                "(ship|send|dispatch) order {order} from dock {dock}{urgency}",
                "(ship|send) order {order} through dock {dock}{urgency}",
                "(use|take) dock {dock} to (ship|dispatch) order {order}{urgency}",
                "(release|deliver|hand over|forward) order {order} at dock {dock}{urgency}",
                "bring order {order} on its way from dock {dock}{urgency}",
            ),
        },
        statements={
            "move": (
                "{pallets} pallets of {item} (must|should) be moved from {from} to {to}",
                "there are {pallets} pallets of {item} at {from}, move them to {to}",
                "from {from} to {to}, (move|carry|send) {pallets} pallets of {item}",
                "{to} needs {pallets} pallets of {item}, take them from {from}",
                "{from} must be emptied, its {pallets} pallets of {item} belong in {to}",
                "{to} is the new home of the {pallets} pallets of {item} from {from}",
                "{to} gets {pallets} pallets of {item}, which stand in {from}",
                "{pallets} pallets of {item} are blocking {from}, their new place is {to}",
            ),
            "count": (
                "how (many|much) {item} (is|are) (in|at) {place}?",
                "what is the stock of {item} (in|at) {place}?",
                "are there any {item} (in|at) {place}? (count them|give me a number)",
                "I need the number of {item} (in|at) {place}",
                "nothing says how (many|much) {item} {place} holds",
                "the stock of {item} (in|at) {place} is (unknown|unclear)",
            ),
            "reserve": (
                "order {order} (needs|requires) {boxes} boxes of {item}, (reserve|hold) them",
                "{boxes} boxes of {item} must be reserved for order {order}",
                "for order {order}, (reserve|hold|block) {boxes} boxes of {item}",
                "{boxes} boxes of {item} belong to order {order}, (hold|keep) them back",
                "order {order} was promised {boxes} boxes of {item}",
                "{boxes} boxes of {item} are (meant|destined) for order {order}",
            ),
            "inspect": (
                "{place} must be (checked|inspected) for {hazard}",
                "is there any {hazard} (in|at) {place}? (check|have a look)",
                "there (might|could) be {hazard} (in|at) {place}",
                "we suspect {hazard} (in|at) {place}, go and see",
                "a driver saw {hazard} (in|at) {place}",
                "{hazard} could be a problem (in|at) {place}",
            ),
            "ship": (
                "order {order} is to be shipped from dock {dock}{urgency}",
                "order {order} leaves from dock {dock}{urgency}",
                "from dock {dock}, (send|ship) order {order}{urgency}",
                "order {order} is ready, ship it from dock {dock}{urgency}",
                "a driver collects order {order} at dock {dock}{urgency}",
                "order {order} has to depart from dock {dock}{urgency}",
                "dock {dock} is where order {order} leaves{urgency}",
                "the van of order {order} stands at dock {dock}{urgency}",
            ),
        },
    ),
    "heldout": Speech(
        items=(
            "honey|soy milk|tennis balls|ceramic tiles|red wine|umbrellas|brown sugar|kettles"
            "|solar panels|hiking boots|dish soap|paint rollers|orange marmalade|yoga mats"
            "|ground coffee|vacuum cleaners"
        ),
        places=(
            "gate {digit}|shelf {letter}{digit}|zone {letter}|lane {letter}{digit}"
            "|cell {digit}{digit}|ramp {digit}|the freezer|the mezzanine|the south yard"
        ),
        hazards="dust|cracks|gas smell|water stains|insects",
        openers=("kindly ", "would you ", "team, ", "the boss wants you to ", "", "", ""),
        closers=(", if you would", " this morning", ", cheers", "", "", ""),
        haste=("it's an emergency", "right away", "this is a rush job"),
        leisure=("take your time", "it can wait", "there is no rush", ""),
        requests={
            "move": (
                "(shift|haul) {pallets} pallets of {item} out of {from} and into {to}",
                "(drive|get) {pallets} pallets of {item} over to {to}, you will find them at"
                " {from}",
                "(clear|remove) {pallets} pallets of {item} from {from} and (put|store) them in"
                " {to}",
            ),
            "count": (
                "find out how many {item} are left in {place}",
                "do a stocktake of the {item} at {place}",
                "let me know the amount of {item} sitting in {place}",
            ),
            "reserve": (
                "(set aside|put aside|earmark) {boxes} boxes of {item} for order {order}",
                "allocate {boxes} boxes of {item} to order {order}",
            ),
            "inspect": (
                "(search|scan|survey) {place} for {hazard}",
                "make sure that {place} is free of {hazard}",
            ),
            "ship": (
                "(get|let) order {order} (out|go out) via dock {dock}{urgency}",
                "load order {order} on the truck at dock {dock}{urgency}",
            ),
        },
        statements={
            "move": (
                "we want {pallets} pallets of {item} in {to}, currently they are in {from}",
                "{from} is too full, so {pallets} pallets of {item} have to go to {to}",
            ),
            "count": (
                "do we still have {item} at {place}, and how many?",
                "I wonder how many {item} remain in {place}",
            ),
            "reserve": (
                "the customer of order {order} will get {boxes} boxes of {item}, so nobody else"
                " may touch them",
            ),
            "inspect": (
                "somebody reported {hazard} in {place}, have it looked at",
                "I am worried about {hazard} in {place}",
            ),
            "ship": ("the truck for order {order} is waiting at dock {dock}{urgency}",),
        },
    ),
}


@dataclass(frozen=True)
class Example:
    """One instruction and the one call that carries it out."""

    instruction: str
    call: Call

    @property
    def answer(self) -> str:
        """The call as the model shall write it: compact JSON, keys in the order of `TOOLS`."""
        return json.dumps(self.call, separators=(",", ":"))


def examples(split: str, seed: int | str, count: int) -> list[Example]:
    """`count` examples of `split`; every tool in turn; the same for the same seed."""
    draw = random.Random(f"warehouse/{split}/{seed}")
    tools = draw.sample(list(TOOLS), len(TOOLS))
    return [example(SPEECH[split], tools[i % len(tools)], draw) for i in range(count)]


def example(speech: Speech, tool: str, draw: random.Random) -> Example:
    """One example of `tool`: draw the arguments, then a way to say them."""
    spoken, arguments = {}, {}
    for name, kind in TOOLS[tool].items():
        spoken[name], arguments[name] = argument(speech, name, kind, draw)
        while name == "to" and arguments["to"] == arguments["from"]:
            spoken[name], arguments[name] = argument(speech, name, kind, draw)
    if "urgent" in arguments:
        words = draw.choice(speech.haste if arguments["urgent"] else speech.leisure)
        spoken["urgency"] = words and f", {words}"

    # Requests come in more shapes (openers), so they are drawn twice as often.
    if draw.random() < 2 / 3:
        pattern = draw.choice(speech.openers) + draw.choice(speech.requests[tool])
    else:
        pattern = draw.choice(speech.statements[tool])
    if not pattern.endswith("?"):
        pattern += draw.choice(speech.closers) + draw.choice((".", "", "!"))
    sentence = re.sub(r"\(([^()]*)\)", lambda choice: draw.choice(choice[1].split("|")), pattern)
    sentence = sentence.format(**spoken)
    if draw.random() < 0.8:
        sentence = sentence[0].upper() + sentence[1:]
    return Example(sentence, {"tool": tool, "arguments": arguments})


def argument(speech: Speech, name: str, kind: type, draw: random.Random) -> tuple[str, Any]:
    """One argument as it is said and as it is meant."""
    if kind is bool:
        return "", draw.random() < 0.5
    if name == "order":
        order = draw.randrange(1000, 10000)
        return str(order), order
    if name == "dock":
        dock = draw.randrange(1, 10)
        return str(dock), dock
    if kind is int:
        number = draw.choice(list(NUMBERS))
        return draw.choice((str(number), NUMBERS[number])), number
    if name in ("item", "hazard"):
        word = draw.choice((speech.items if name == "item" else speech.hazards).split("|"))
        return word, word
    place = draw.choice(speech.places.split("|"))
    place = re.sub(r"\{digit\}", lambda _: str(draw.randrange(1, 10)), place)
    place = place.replace("{letter}", draw.choice("ABCDEFGHKLMNPRST"))
    return place, place.removeprefix("the ")


def parse(text: str) -> Call | None:
    """The call that `text` is, or None: one JSON object, a known tool, its arguments, typed.

    White space and the order of keys are free; nothing may stand around the object.
    """
    try:
        call = json.loads(text, object_pairs_hook=unique)
        types = TOOLS[call["tool"]]
        arguments = call["arguments"]
        typed = {name: type(value) for name, value in arguments.items()} == types
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return call if typed and call.keys() == {"tool", "arguments"} else None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys come once; `json` would silently keep the last."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def exact(text: str, call: Call) -> bool:
    """Whether `text` is `call`. `parse` has compared the types, so `==` cannot take 1 for true."""
    return parse(text) == call
