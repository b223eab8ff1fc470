"""The engine of what acts: a policy answers observations, a detector answers pictures.

    python -P -m gigafactory.jobs.act_child FOLDER HOST PORT

    POST /v1/act  {"observation": [0.1, ...]}  or a list of such, for a policy
    POST /v1/act  {"image": "base64 of PNG or JPEG"}  or a list of such, for a detector

It has the guard of the other engines (`engine_child`: a key, and an end with its parent), and
tells a `usage` of no tokens, since none are made.
"""

import base64
import binascii
import sys
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gigafactory.jobs.engine_child import Guard, Message, Receive, Send, end_with_parent
from gigafactory.jobs.engines import ACT, MODEL, ROWS_MAX, config

IMAGES_MAX = 64  # in one request
PIXELS_MAX = 1 << 22  # of one picture
USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

Answers = Callable[[dict[str, Any]], dict[str, Any]]


class Unfit(ValueError):
    """A request that the model cannot answer, and why."""


def policy(folder: Path) -> Answers:
    """Answers observations with actions, each in [-1, 1]."""
    from gigafactory.jobs.policy import load

    acts = load(folder)
    size, names = acts.config["observation_size"], acts.config.get("action_names", [])

    def answer(said: dict[str, Any]) -> dict[str, Any]:
        try:
            asked = np.array(said["observation"], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise Unfit("observation is a list of numbers, or a list of such lists") from error
        rows = np.atleast_2d(asked)
        if rows.ndim != 2 or rows.shape[1] != size:
            raise Unfit(f"an observation has {size} numbers, not {rows.shape[-1]}")
        if not 1 <= len(rows) <= ROWS_MAX:
            raise Unfit(f"observation is one, or a list of 1 to {ROWS_MAX}")
        if not np.isfinite(rows).all():
            raise Unfit("an observation holds finite numbers")
        actions = np.asarray(acts.act(rows)).tolist()
        found = {"actions": actions} if asked.ndim == 2 else {"action": actions[0]}
        return {"object": "action", "action_names": names, **found}

    return answer


def detector(folder: Path) -> Answers:
    """Answers pictures with labelled boxes, px."""
    from gigafactory.jobs.detector import load

    looks = load(folder)

    def answer(said: dict[str, Any]) -> dict[str, Any]:
        asked = said.get("image")
        many = asked if isinstance(asked, list) else [asked]
        if not 1 <= len(many) <= IMAGES_MAX:
            raise Unfit(f"image is one picture, or a list of 1 to {IMAGES_MAX}")
        found = [looks.detect(picture(one)[None])[0] for one in many]
        return {"object": "detections", "detections": found if many is asked else found[0]}

    return answer


def picture(said: Any) -> np.ndarray:
    """(H, W, 3) u8 of a PNG or JPEG in base64."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(
            BytesIO(base64.b64decode(said, validate=True)), formats=["PNG", "JPEG"]
        ) as one:
            if one.width * one.height > PIXELS_MAX:
                raise Unfit(f"an image has at most {PIXELS_MAX} pixels")
            return np.asarray(one.convert("RGB"))
    except (TypeError, binascii.Error, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise Unfit("image is a PNG or JPEG in base64") from error


ENGINES: dict[str, Callable[[Path], Answers]] = {"policy": policy, "detector": detector}


class App:
    """The ASGI app of one model."""

    def __init__(self, answers: Answers):
        self._answers = answers

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            return
        if scope["path"] == "/health":
            return await tell(send, 200, {})
        if scope["path"] != ACT or scope["method"] != "POST":
            why = f"a model that acts answers POST {ACT}"
            return await tell(send, 404, {"error": {"message": why, "param": None}})
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            said = orjson.loads(body)
            if not isinstance(said, dict):
                raise Unfit("the body is a JSON object")
            answer = {"model": MODEL, **self._answers(said), "usage": USAGE}
        except (Unfit, orjson.JSONDecodeError) as fault:
            about = next((n for n in ("observation", "image") if n in str(fault)), None)
            return await tell(send, 400, {"error": {"message": str(fault), "param": about}})
        await tell(send, 200, answer)


async def tell(send: Send, status: int, said: dict[str, Any]) -> None:
    """A whole answer."""
    body = orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main(folder: str, host: str, port: str) -> None:
    """Serve until the parent is gone."""
    import uvicorn

    app = Guard(App(ENGINES[config(Path(folder))["gigafactory"]](Path(folder))))
    uvicorn.run(app, host=host, port=int(port), log_level="error", access_log=False, lifespan="off")


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    main(*sys.argv[1:])
