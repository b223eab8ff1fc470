"""A small detector of things in pictures: learned from synthesized frames, on a CPU in minutes.

A convolutional net with one grid of answers, a cell for 8 x 8 pixels: a score for each class and
the distances from the cell's middle to the four edges of a box. Coarser grids are added to it
from above, so that a cell sees the whole picture. A cell answers for a thing whose box has its
middle near it, the smallest where there are several; its score is to be the overlap of its box
(varifocal loss), so that the best placed box wins. Boxes are of what is seen, in pixels.

What a step sees depends on the seed and the step, the state is saved whole, so an interrupted run
ends with the bytes of an undisturbed one (same machine, same number of threads).

Measured on one core of an AMD EPYC, 256 x 256: 82 pictures a CPU-s learned in bfloat16, 50 in
float32. Sources: FCOS, Tian et al. 2019, arXiv:1904.01355; VarifocalNet, Zhang et al. 2020,
arXiv:2008.13367; GIoU, Rezatofighi et al. 2019, arXiv:1902.09630.

Shapes: B pictures, H and W pixels, G = H/8 * W/8 cells, K classes, N things.
"""

import base64
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from gigafactory.jobs.context import Context
from gigafactory.jobs.engines import config, leave
from gigafactory.jobs.learning import Learning
from gigafactory.jobs.worlds.scene import WorldRefused

STRIDE = 8  # px, of a cell
PADDED = 32  # px; sides of what the net sees are whole numbers of these
WIDTHS = (16, 32, 64, 96, 128)
NEAR = 1.5  # cells around a thing's middle that answer for it
PIXELS_MIN = 30  # a thing of which less is seen is neither learned nor asked for
SIDE_MIN = 4  # px
FOREGROUND = 0.01  # the score that cells start with
WARMUP = 0.05  # of all steps
SCORE_MIN = 0.05
OVERLAP_MAX = 0.5  # of two boxes of one class
BOXES_MAX = 100
CHECKPOINT_STEPS = 100
REPORT_STEPS = 10


def run(context: Context) -> dict[str, Any]:
    """Learn from the frames of the jobs `of`, further where `start` names a detector's job."""
    work = context.work
    cpu_s = time.process_time()
    torch.set_num_threads(context.chips)
    torch.manual_seed(work.get("seed", 0))

    context.phase("load")
    frames = gathered(context)
    net = begun(context, frames.classes).train()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.02, foreach=True)
    learning = Learning(context, net.state_dict(), optimizer, loss=None)
    progress = learning.progress

    context.phase("work")
    steps, peak = work["steps"], work.get("learning_rate", 2e-3)
    for step in learning.steps(steps, CHECKPOINT_STEPS, lambda step: peak * rate(step, steps)):
        pictures, wanted = batch(frames.rgb, frames.boxes, step, work)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            said = net(pictures)
        loss = loss_of(said.float(), wanted, len(frames.classes))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # A running mean: what one batch says is mostly which pictures it holds.
        before = progress["loss"]
        progress["loss"] = loss.item() if before is None else 0.95 * before + 0.05 * loss.item()
        if (step + 1) % REPORT_STEPS == 0 or step + 1 == steps:
            context.report(step=step + 1, steps=steps, loss=progress["loss"])

    context.phase("save")
    save(context.output / "model", net, frames.classes, frames.rgb, frames.cameras)
    return {
        "steps": steps,
        "loss": progress["loss"],
        "frames": len(frames.rgb),
        "things": sum(map(len, frames.boxes)),
        "parameters": sum(p.numel() for p in net.parameters()),
        "cpu_s": time.process_time() - cpu_s,
    }


@dataclass(frozen=True)
class Frames:
    """A dataset in memory. `boxes[i]` is (N, 5) float32: class, x0, y0, x1, y1."""

    classes: tuple[str, ...]
    rgb: np.ndarray
    boxes: list[np.ndarray]
    cameras: int


def gathered(context: Context) -> Frames:
    """The frames of all jobs `of`; `cameras` is the most that one of them has."""
    names = context.work["of"]
    datasets = [context.inputs[name] / "dataset" / "coco" for name in names]
    found = [read(folder, context.check) for folder in datasets]
    if len({(one.classes, one.rgb.shape[1:]) for one in found}) > 1:
        raise WorldRefused(
            "the frames do not fit together",
            ", ".join(names),
            "they differ in their classes or in the size of their pictures",
            "learn from frames of one kind of world and of one size",
        )
    return Frames(
        found[0].classes,
        np.concatenate([one.rgb for one in found]),
        [boxes for one in found for boxes in one.boxes],
        max(one.cameras for one in found),
    )


def read(folder: Path, check: Callable[[], None]) -> Frames:
    """Pictures and boxes of a COCO dataset as `synthesize` writes it; `check` may say stop."""
    told = json.loads((folder / "annotations" / "instances.json").read_text(encoding="utf-8"))
    classes = tuple(one["name"] for one in told["categories"])
    boxes: dict[int, list[tuple[float, ...]]] = {image["id"]: [] for image in told["images"]}
    for one in told["annotations"]:
        x, y, width, height = one["bbox"]
        if counts(one["area"], width, height):
            boxes[one["image_id"]].append((one["category_id"] - 1, x, y, x + width, y + height))
    pictures = []
    for image in told["images"]:
        check()
        with Image.open(folder / "images" / image["file_name"]) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    found = [np.array(rows, np.float32).reshape(-1, 5) for rows in boxes.values()]
    cameras = len({image["camera"] for image in told["images"]})
    return Frames(classes, np.stack(pictures), found, cameras)


def counts(pixels: float, width: float, height: float) -> bool:
    """Whether enough of a thing is seen for it to be learned, and to be asked for."""
    return pixels >= PIXELS_MIN and min(width, height) >= SIDE_MIN


def batch(
    rgb: np.ndarray, things: list[np.ndarray], step: int, work: dict[str, Any]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The pictures of a step, (B, 3, H, W) in 0..1, each mirrored or not, lighter or darker."""
    draw = np.random.default_rng([work.get("seed", 0), step])
    at = epoch_order(len(rgb), step, work)
    pictures, wanted = [], []
    for index in at:
        picture, boxes = rgb[index], things[index]
        if draw.random() < 0.5:
            picture, width = picture[:, ::-1], picture.shape[1]
            boxes = boxes[:, [0, 3, 2, 1, 4]] * [1, -1, 1, -1, 1] + [0, width, 0, width, 0]
        gain = np.exp(draw.normal(0, 0.15, (1, 1, 3)) + draw.normal(0, 0.2))
        picture = np.clip(picture * gain + draw.normal(0, 8), 0, 255) / 255
        pictures.append(picture.astype(np.float32))
        wanted.append(torch.from_numpy(boxes.astype(np.float32)))
    return planes(np.stack(pictures)), wanted


def epoch_order(count: int, step: int, work: dict[str, Any]) -> np.ndarray:
    """Which pictures a step sees: every one is seen once before any is seen again."""
    size = work.get("batch", 16)
    places = np.arange(step * size, (step + 1) * size)
    orders = {
        epoch: np.random.default_rng([work.get("seed", 0), 1, epoch]).permutation(count)
        for epoch in np.unique(places // count).tolist()
    }
    return np.array([orders[place // count][place % count] for place in places.tolist()])


def planes(pictures: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) in 0..1 as the net takes it, padded at the right and below."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    x = F.pad(x, (0, -x.shape[3] % PADDED, 0, -x.shape[2] % PADDED))
    return x.to(memory_format=torch.channels_last)


class Convolution(nn.Sequential):
    """3 x 3, normalised, SiLU."""

    def __init__(self, into: int, out: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(into, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.SiLU(inplace=True),
        )


class Net(nn.Module):
    """Pictures (B, 3, H, W) to (B, K + 4, H/8, W/8): logits, and logs of distances in cells."""

    def __init__(self, classes: int):
        super().__init__()
        w2, w4, w8, w16, w32 = WIDTHS
        self.to_8 = nn.Sequential(
            Convolution(3, w2, 2),
            Convolution(w2, w4, 2),
            Convolution(w4, w8, 2),
            Convolution(w8, w8),
        )
        self.to_16 = nn.Sequential(Convolution(w8, w16, 2), Convolution(w16, w16))
        self.to_32 = nn.Sequential(Convolution(w16, w32, 2), Convolution(w32, w32))
        self.from_32, self.from_16 = nn.Conv2d(w32, w16, 1), nn.Conv2d(w16, w8, 1)
        self.mix_16 = Convolution(w16, w16)
        self.head = nn.Sequential(Convolution(w8, w8), Convolution(w8, w8))
        self.answer = nn.Conv2d(w8, classes + 4, 1)
        nn.init.normal_(self.answer.weight, std=0.01)
        bias = torch.zeros(classes + 4)
        bias[:classes] = -math.log(1 / FOREGROUND - 1)
        self.answer.bias = nn.Parameter(bias)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """See the class."""
        at_8 = self.to_8(pictures)
        at_16 = self.to_16(at_8)
        at_32 = self.to_32(at_16)
        at_16 = self.mix_16(at_16 + F.interpolate(self.from_32(at_32), scale_factor=2.0))
        at_8 = self.head(at_8 + F.interpolate(self.from_16(at_16), scale_factor=2.0))
        return self.answer(at_8)


def begun(context: Context, classes: tuple[str, ...]) -> Net:
    """The net to learn on: fresh, or as the job `start` left it."""
    net, start = Net(len(classes)), context.work.get("start")
    if start:
        there = context.inputs[start] / "model"
        known = config(there)["classes"]
        if tuple(known) != classes:
            raise WorldRefused(
                f"{start} knows other things",
                "classes",
                f"{', '.join(known)} there, {', '.join(classes)} here",
                "pretrain a detector for this world",
            )
        net.load_state_dict(load_file(there / "model.safetensors"))
    return net


def middles(height: int, width: int) -> torch.Tensor:
    """(G, 2): x and y of the cells' middles, px."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * STRIDE


def corners(answers: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """(..., G, 4) boxes of (..., G, 4) answers: x0, y0, x1, y1, px."""
    reach = answers.clamp(-6, 6).exp() * STRIDE
    return torch.cat([at - reach[..., :2], at + reach[..., 2:]], -1)


def assigned(at: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which cells answer (M,), and for which thing each does (M,): the smallest near it."""
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    low, high = boxes[:, 1:3], boxes[:, 3:5]
    away = (at[:, None] - (low + high) / 2).abs()
    # Near the middle, and within the box; of a box smaller than a cell, the cells around it.
    near = (away <= torch.maximum(torch.full_like(low, STRIDE / 2), ((high - low) / 2)
                                  .clamp(max=NEAR * STRIDE))).all(-1)  # fmt: skip
    area = (high - low).prod(-1).expand(len(at), -1)
    smallest, thing = torch.where(near, area, math.inf).min(1)
    cells = smallest.isfinite().nonzero()[:, 0]
    return cells, thing[cells]


def loss_of(said: torch.Tensor, wanted: list[torch.Tensor], classes: int) -> torch.Tensor:
    """Varifocal loss of the scores and GIoU loss of the boxes, by the things that count."""
    height, width = said.shape[2:]
    at = middles(height, width)
    said = said.flatten(2).transpose(1, 2)  # (B, G, K + 4)
    logits = said[..., :classes]
    target, box_loss = torch.zeros_like(logits), said.new_zeros(())
    answering = 0
    for index, boxes in enumerate(wanted):
        cells, thing = assigned(at, boxes)
        found = corners(said[index, cells, classes:], at[cells])
        true = boxes[thing, 1:]
        overlap, apart = overlaps(found, true)
        target[index, cells, boxes[thing, 0].long()] = overlap.detach().clamp(min=0.05)
        box_loss = box_loss + (1 - apart).sum()
        answering += len(cells)
    score = logits.sigmoid()
    weight = torch.where(target > 0, target, 0.75 * score.detach() ** 2)
    score_loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return (score_loss + 2.0 * box_loss) / max(1, answering)


def overlaps(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and GIoU of boxes side by side, (N, 4) and (N, 4)."""
    inner = torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])
    outer = torch.maximum(one[:, 2:], other[:, 2:]) - torch.minimum(one[:, :2], other[:, :2])
    shared = inner.clamp(min=0).prod(-1)
    hull = outer.prod(-1).clamp(min=1e-6)
    both = (one[:, 2:] - one[:, :2]).prod(-1) + (other[:, 2:] - other[:, :2]).prod(-1) - shared
    iou = shared / both.clamp(min=1e-6)
    return iou, iou - (hull - both) / hull


def rate(step: int, steps: int) -> float:
    """Share of the peak rate: up, then down to nothing along a cosine."""
    warm = max(1, int(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class Detector:
    """A learned detector, for use."""

    def __init__(self, net: Net, classes: tuple[str, ...]):
        self.classes = classes
        self._net = net.eval()

    @torch.inference_mode()
    def detect(self, rgb: np.ndarray) -> list[list[dict[str, Any]]]:
        """For each of (n, H, W, 3) u8 its things, best first: class, score, box in px."""
        said = self._net(planes(rgb.astype(np.float32) / 255))
        at, height, width = middles(*said.shape[2:]), *rgb.shape[1:3]
        said = said.flatten(2).transpose(1, 2)
        scores, kinds = said[..., : len(self.classes)].sigmoid().max(-1)
        boxes = corners(said[..., len(self.classes) :], at)
        boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height] * 2))
        return [
            [
                {
                    "class": self.classes[kinds[one, cell]],
                    "score": round(scores[one, cell].item(), 4),
                    "box": [round(edge, 2) for edge in boxes[one, cell].tolist()],
                }
                for cell in kept(boxes[one], scores[one], kinds[one])
            ]
            for one in range(len(rgb))
        ]


def kept(boxes: torch.Tensor, scores: torch.Tensor, kinds: torch.Tensor) -> list[int]:
    """The cells whose boxes stand: of those that overlap in one class, the best."""
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= SCORE_MIN][: 4 * BOXES_MAX]
    boxes = boxes[order]
    # Apart by class, as classes far from each other.
    moved = boxes + 1e5 * kinds[order, None]
    inner = torch.minimum(moved[:, None, 2:], moved[:, 2:]) - torch.maximum(
        moved[:, None, :2], moved[:, :2]
    )
    shared = inner.clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    over = shared > OVERLAP_MAX * (area[:, None] + area - shared)
    stands = np.ones(len(order), bool)
    beaten = over.numpy()
    for place in range(len(order)):
        if stands[place]:
            stands[place + 1 :] &= ~beaten[place, place + 1 :]
    return order[torch.from_numpy(stands)][:BOXES_MAX].tolist()


def load(folder: Path) -> Detector:
    """The detector that a job left in `folder`."""
    classes = tuple(config(folder)["classes"])
    net = Net(len(classes))
    net.load_state_dict(load_file(folder / "model.safetensors"))
    return Detector(net, classes)


def save(folder: Path, net: Net, classes: tuple[str, ...], rgb: np.ndarray, cameras: int) -> None:
    """The model, what it is, and a picture that it can be asked about."""
    height, width = rgb.shape[1:3]
    told = {
        "gigafactory": "detector",
        "classes": classes,
        "width": width,
        "height": height,
        "cameras": cameras,
    }
    out = BytesIO()
    Image.fromarray(rgb[0]).save(out, "PNG")
    example = {"image": base64.b64encode(out.getvalue()).decode()}
    tensors = {name: part.numpy() for name, part in net.state_dict().items()}
    leave(folder, told, example, tensors)
