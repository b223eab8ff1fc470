"""How well a detector sees: mean average precision on frames of layouts that it never saw.

Matching and precision are COCO's own (pycocotools). The interval is of 95 %, by resampling
layouts rather than frames, since frames of one layout resemble each other; a regression against
another detector is resampled in pairs, on the same frames. Of fewer than LAYOUTS_MIN layouts the
interval is everything, so a gate on its end stays shut.

Source: https://cocodataset.org/#detection-eval; Efron & Tibshirani 1993, ch. 8 (cluster bootstrap)
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gigafactory.jobs import detector, engines, worlds
from gigafactory.jobs.context import Context
from gigafactory.jobs.synthesize import shoot
from gigafactory.jobs.synthesize.frame import Frame
from gigafactory.jobs.worlds.scene import seed_of

RESAMPLES = 400
RECALLS = np.linspace(0, 1, 101)
BATCH = 16
SURE = 0.4  # a box is drawn
LAYOUT_FRAMES = 4  # of one layout: more layouts say more than more frames
LAYOUTS_MIN = 10  # of fewer, resampling says nothing
SHOWN = 8  # pictures with the boxes found
AT_50 = 0  # the first of COCO's thresholds of overlap


def evaluate(context: Context) -> dict[str, Any]:
    """Metrics of the detector of job `of`; beside that of job `against`, where one is named."""
    work = context.work
    folder = context.inputs[work["of"]] / "model"
    told = engines.config(folder)
    judged = {"": detector.load(folder)}
    if against := work.get("against"):
        judged["against"] = detector.load(context.inputs[against] / "model")
    frames, layouts = held_out(context, told)
    found: dict[str, list] = {}
    for name, one in judged.items():
        found[name] = []
        for at in range(0, len(frames), BATCH):
            context.check()
            pictures = np.stack([frame.rgb for frame in frames[at : at + BATCH]])
            found[name] += one.detect(pictures)
            context.report(examples=at + len(pictures), of=name or work["of"])
    classes = tuple(told["classes"])
    scored = {name: Scored(frames, layouts, classes, rows) for name, rows in found.items()}
    metrics = scored[""].metrics() | {"frames": len(frames)}
    draws = np.random.default_rng([work.get("seed", 0), 7]).multinomial(
        scored[""].layouts, np.full(scored[""].layouts, 1 / scored[""].layouts), RESAMPLES
    )
    drawn = {name: one.map50(draws) for name, one in scored.items()}
    enough = scored[""].layouts >= LAYOUTS_MIN
    metrics["map50_low"], metrics["map50_high"] = ends(drawn[""]) if enough else (0.0, 1.0)
    if against:
        metrics["map50_against"] = scored["against"].metrics()["map50"]
        metrics["regression"] = metrics["map50"] - metrics["map50_against"]
        low, high = ends(drawn[""] - drawn["against"]) if enough else (-1.0, 1.0)
        metrics |= {"regression_low": low, "regression_high": high}
    samples = show(context.output / "pictures", frames, found[""])
    return {"metrics": metrics, "samples": samples}


def held_out(context: Context, told: dict[str, Any]) -> tuple[list[Frame], list[int]]:
    """`examples` frames of held-out layouts as the detector takes them, and of which layout."""
    work = context.work
    there = worlds.build(work["world"], seed_of(work.get("seed", 0), "heldout", 0)).model().ncam
    wanted = {key: told[key] for key in ("width", "height")} | {
        "cameras": min(told["cameras"], max(there, 1)),
        "name": work["name"],
        "world": work["world"],
        "seed": work.get("seed", 0),
        "layouts": "heldout",
        "randomise": True,
        "clip": 1,
        "fps": 10.0,
    }
    frames: list[Frame] = []
    layouts: list[int] = []
    while len(frames) < work["examples"]:
        context.check()
        layout = layouts[-1] + 1 if layouts else 0
        clip, _, _ = shoot(wanted, layout, min(LAYOUT_FRAMES, work["examples"] - len(frames)))
        frames += clip.frames
        layouts += [layout] * len(clip.frames)
        context.report(frames=len(frames))
    return frames, layouts


class Scored:
    """The boxes found in frames, matched with the true ones."""

    def __init__(
        self,
        frames: list[Frame],
        layouts: list[int],
        classes: tuple[str, ...],
        found: list[list[dict[str, Any]]],
    ):
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells of each step
            told, rows = dataset(frames, classes), detections(found, classes)
            true = indexed(told)
            said = true.loadRes(rows) if rows else indexed(told | {"annotations": []})
            self._judged = COCOeval(true, said, "bbox")
            self._judged.evaluate()
            self._judged.accumulate()
            self._judged.summarize()
        self.layouts = max(layouts) + 1
        images = self._judged.params.imgIds
        self._at = dict(zip(images, layouts, strict=True))

    def metrics(self) -> dict[str, float]:
        """COCO's two means over the classes that there are."""
        map50_95, map50 = self._judged.stats[:2]
        return {"map50": float(max(map50, 0)), "map50_95": float(max(map50_95, 0))}

    def map50(self, draws: np.ndarray) -> np.ndarray:
        """(R,): the mean at an overlap of 0.5 where layout l is there `draws[r, l]` times."""
        means, present = np.zeros(len(draws)), np.zeros(len(draws))
        for kind in self._judged.params.catIds:
            hits, weights, wanted = self._of(kind, draws)
            right = np.cumsum(hits * weights, axis=1)
            seen = np.cumsum(weights, axis=1)
            there = wanted > 0
            precision = right / np.maximum(seen, 1e-9)
            # The best precision at this recall or beyond, as COCO has it.
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = right / np.maximum(wanted, 1)[:, None]
            for one in np.flatnonzero(there):
                places = np.searchsorted(recall[one], RECALLS)
                inside = places[places < recall.shape[1]]
                means[one] += precision[one, inside].sum() / len(RECALLS)
            present += there
        return means / np.maximum(present, 1)

    def _of(self, kind: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of one class, best first: hit or not (N,), weights (R, N); things in all (R,)."""
        scores: list[np.ndarray] = []
        hits: list[np.ndarray] = []
        where: list[np.ndarray] = []
        wanted = np.zeros(len(draws))
        area = self._judged.params.areaRng[0]
        for judged in self._judged.evalImgs:
            if judged is None or judged["category_id"] != kind or judged["aRng"] != area:
                continue
            layout = self._at[judged["image_id"]]
            wanted += draws[:, layout] * (~np.array(judged["gtIgnore"], bool)).sum()
            counted = ~np.array(judged["dtIgnore"][AT_50], bool)
            scores.append(np.array(judged["dtScores"])[counted])
            hits.append(np.array(judged["dtMatches"][AT_50])[counted] > 0)
            where.append(np.full(int(counted.sum()), layout))
        if not scores:
            return np.zeros(0), np.zeros((len(draws), 0)), wanted
        order = np.argsort(-np.concatenate(scores), kind="mergesort")
        return np.concatenate(hits)[order], draws[:, np.concatenate(where)[order]], wanted


def indexed(told: dict[str, Any]) -> COCO:
    """Annotations as pycocotools holds them, without a file."""
    one = COCO()
    one.dataset = told
    one.createIndex()
    return one


def dataset(frames: list[Frame], classes: tuple[str, ...]) -> dict[str, Any]:
    """The truth in COCO's form; what is too small to be asked for neither counts nor hurts."""
    annotations: list[dict[str, Any]] = []
    for image, frame in enumerate(frames, 1):
        for label in frame.labels:
            x0, y0, x1, y1 = label.box
            counts = detector.counts(label.pixels, x1 - x0, y1 - y0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": classes.index(label.class_) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": label.pixels,
                    "iscrowd": int(not counts),
                }
            )
    return {
        "images": [{"id": image} for image in range(1, len(frames) + 1)],
        "annotations": annotations,
        "categories": [{"id": at, "name": name} for at, name in enumerate(classes, 1)],
    }


def detections(found: list[list[dict[str, Any]]], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """What was found, in COCO's form."""
    return [
        {
            "image_id": image,
            "category_id": classes.index(one["class"]) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": one["score"],
        }
        for image, boxes in enumerate(found, 1)
        for one in boxes
        for x0, y0, x1, y1 in [one["box"]]
    ]


def ends(drawn: np.ndarray) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def show(
    folder: Path, frames: list[Frame], found: list[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Pictures with what was found drawn in, from all parts of the frames."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for at in np.linspace(0, len(frames) - 1, min(SHOWN, len(frames)), dtype=int).tolist():
        picture = Image.fromarray(frames[at].rgb)
        pen = ImageDraw.Draw(picture)
        sure = [one for one in found[at] if one["score"] >= SURE]
        for one in sure:
            pen.rectangle(one["box"], outline=(255, 230, 0))
            pen.text(one["box"][:2], one["class"], fill=(255, 255, 255))
        name = f"frame-{at:05d}.png"
        picture.save(folder / name)
        samples.append({"picture": f"pictures/{name}", "found": len(sure)})
    return samples
