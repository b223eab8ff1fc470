"""COCO: instances, panoptic segmentation, and beside them classes and depth as pictures.

Boxes are x, y, width, height in pixels of what is seen; masks are compressed run lengths, in the
string form that pycocotools reads. Image and annotation ids count from 1, categories are 1 + their
place in the world's classes.

Source: https://cocodataset.org/#format-data; run lengths as in cocoapi/common/maskApi.c
"""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gigafactory.jobs.synthesize.formats import (
    classes_8,
    depth_16,
    link_numbered,
    png,
    save,
    truth,
)
from gigafactory.jobs.synthesize.frame import Clip

PICTURES = ("images", "panoptic", "semantic", "depth")
DIGITS = 12
SEGMENT = ("category_id", "bbox", "area", "iscrowd")
"""What a panoptic segment says of itself, beside its id."""


def shard(folder: Path, clip: Clip) -> None:
    """One clip: its pictures, and rows of the tables that lack their ids alone.

    A row is a line: the frame's number in the clip, a tab, and the rest of the JSON object.
    """
    images, instances, segments = [], [], []
    for number, frame in enumerate(clip.frames):
        pictures = (
            frame.rgb,
            panoptic(frame.instance),
            classes_8(frame, clip.classes),
            depth_16(frame),
        )
        for part, picture in zip(PICTURES, pictures, strict=True):
            save(folder / part / f"{number:06d}.png", png(picture))
        masks = run_lengths(frame.instance)
        about = truth(clip, frame)
        rows = []
        for label, row in zip(frame.labels, about.pop("labels"), strict=True):
            x0, y0, x1, y1 = row.pop("box")
            segment = (1 + clip.classes.index(label.class_), [x0, y0, x1 - x0, y1 - y0])
            rows.append(dict(zip(SEGMENT, (*segment, row.pop("pixels"), 0), strict=True)))
            mask = {"size": list(frame.instance.shape), "counts": masks[label.thing]}
            instances.append(line(number, rows[-1] | {"segmentation": mask} | row))
        things = [label.thing for label in frame.labels]
        numbered = [{"id": thing} | row for thing, row in zip(things, rows, strict=True)]
        segments.append(line(number, {"segments_info": numbered}))
        size = {"width": frame.camera.width, "height": frame.camera.height}
        images.append(line(number, size | about))
    for name, lines in (("images", images), ("instances", instances), ("segments", segments)):
        (folder / name).with_suffix(".rows").write_text("".join(lines))


def join(folder: Path, shards: list[Path], classes: tuple[str, ...], fps: float) -> None:
    """The whole dataset; `fps` shows in the frames' `time_s`."""
    for part in PICTURES:
        link_numbered(shards, part, folder / part, DIGITS)
    head = {
        "info": {"description": "synthetic frames", "version": "1", "fps": fps},
        "licenses": [],
        "categories": [
            {"id": 1 + place, "name": name, "supercategory": "thing", "isthing": 1}
            for place, name in enumerate(classes)
        ],
    }
    picture = f'"file_name": "%0{DIGITS}d.png"'
    images = (f'{{"id": {1 + n}, {picture % n}, {row}' for n, row in rows(shards, "images"))
    instances = (
        f'{{"id": {count}, "image_id": {1 + n}, {row}'
        for count, (n, row) in enumerate(rows(shards, "instances"), start=1)
    )
    segments = (
        f'{{"image_id": {1 + n}, {picture % n}, {row}' for n, row in rows(shards, "segments")
    )
    tables = folder / "annotations"
    tables.mkdir(parents=True)
    write(tables / "instances.json", head, images, instances)
    # The rows of images are used up: they are read again, not kept.
    images = (f'{{"id": {1 + n}, {picture % n}, {row}' for n, row in rows(shards, "images"))
    write(tables / "panoptic.json", head, images, segments)


def line(number: int, row: dict[str, Any]) -> str:
    """A row that `join` puts its ids in front of."""
    return f"{number}\t{json.dumps(row)[1:]}\n"


def rows(shards: list[Path], name: str) -> Iterator[tuple[int, str]]:
    """The rows of a table, with the number of their frame among all frames from 0."""
    first = 0
    for part in shards:
        with open(part / f"{name}.rows") as lines:
            for line in lines:
                number, row = line.rstrip("\n").split("\t", 1)
                yield first + int(number), row
        first += len(os.listdir(part / PICTURES[0]))


def write(
    path: Path, head: dict[str, Any], images: Iterable[str], annotations: Iterable[str]
) -> None:
    """One JSON object, its long tables a row at a time."""
    with open(path, "w") as file:
        file.write(json.dumps(head)[:-1])
        for name, table in (("images", images), ("annotations", annotations)):
            file.write(f', "{name}": [')
            for number, row in enumerate(table):
                file.write((",\n" if number else "\n") + row)
            file.write("]")
        file.write("}\n")


def panoptic(instance: np.ndarray) -> np.ndarray:
    """The number of each pixel's thing as colour: red + 256 green + 65536 blue."""
    colour = np.zeros((*instance.shape, 3), np.uint8)
    colour[..., 0] = instance & 255
    colour[..., 1] = instance >> 8
    return colour


def run_lengths(instance: np.ndarray) -> dict[int, str]:
    """The mask of each thing as COCO's compressed run lengths, all in one pass.

    A mask, read down its columns, is runs of 0 and 1 in turn, the first of 0. The length of a run,
    from the fourth on less that of the run two before, is written in groups of five bits, the low
    ones first, in characters from "0"; bit six says that more follow.
    """
    pixels = instance.ravel(order="F")
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts, ends = np.r_[0, edges], np.r_[edges, pixels.size]
    things = pixels[starts]
    # Runs of one thing beside each other, in their order; never do two of them touch.
    order = np.argsort(things, kind="stable")[np.count_nonzero(things == 0) :]
    bounds = np.column_stack((starts[order], ends[order])).ravel()
    of = np.repeat(things[order], 2)
    first = np.flatnonzero(np.diff(of, prepend=0))
    last = np.r_[first[1:], of.size]
    lengths = np.diff(bounds, prepend=0)
    lengths[first] = bounds[first]
    # What is left after a thing's last run, where anything is.
    left = pixels.size - bounds[last - 1] if first.size else last[:0]
    lengths = np.insert(lengths, last[left > 0], left[left > 0])
    of = np.insert(of, last[left > 0], of[last[left > 0] - 1])
    first = np.flatnonzero(np.diff(of, prepend=0))
    place = np.arange(of.size) - np.repeat(first, np.diff(np.r_[first, of.size]))
    rest = lengths.copy()
    rest[2:] -= np.where(place[2:] > 2, lengths[:-2], 0)
    groups = np.zeros((rest.size, 7), np.uint8)  # 7 groups of 5 bits hold any 32-bit count
    more = np.ones(rest.size, bool)
    for column in groups.T:
        low, rest = rest & 31, rest >> 5
        # The last group is that whose top bit tells the sign of all that is left.
        done = rest == np.where(low & 16, -1, 0)
        column[more] = (48 + low + np.where(done, 0, 32))[more]
        more &= ~done
    text = groups[groups > 0].tobytes().decode("ascii")
    written = np.r_[0, np.cumsum(np.count_nonzero(groups, axis=1))]
    cuts = written[np.r_[first, of.size]]
    return {int(of[f]): text[a:b] for f, (a, b) in zip(first, pairwise(cuts), strict=True)}
