"""What a labelled picture is: the form in which the renderer hands it to every format.

Metres, seconds, pixels; the world is right-handed, z up. A camera's own axes are OpenCV's: x to
the right, y down, z forward; the middle of the first pixel is at (0.5, 0.5).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: a point p of the world is seen at `intrinsics @ (inverse(pose) @ p)`."""

    name: str
    width: int
    height: int
    intrinsics: np.ndarray
    """(3, 3), pixels."""
    pose: np.ndarray
    """(4, 4), the world's coordinates from the camera's."""


@dataclass(frozen=True)
class Label:
    """One thing as one camera sees it, and where it is in the world."""

    thing: int
    """Its number in the instance image, the same in all frames of a clip."""
    name: str
    class_: str
    box: tuple[int, int, int, int]
    """Of the pixels that are seen: x0, y0, x1, y1; x1 and y1 are the first outside."""
    pixels: int
    """That are seen."""
    full_box: tuple[float, float, float, float] | None
    """Of its whole cuboid, projected and clipped to the picture; none where it is unbounded."""
    visible: float
    """Share of its pixels within the picture that nothing hides, 0 to 1."""
    position: np.ndarray
    """(3,), the middle of its cuboid in the world, m."""
    rotation: np.ndarray
    """(3, 3), the world's axes from the cuboid's."""
    size: np.ndarray
    """(3,), whole edges of its cuboid, m."""


@dataclass(frozen=True)
class Frame:
    """What one camera sees at one moment."""

    moment: int
    time_s: float
    camera: Camera
    rgb: np.ndarray
    """(H, W, 3) uint8."""
    depth: np.ndarray
    """(H, W) float32, m along the optical axis; inf where nothing is."""
    instance: np.ndarray
    """(H, W) uint16, the number of the thing; 0: none."""
    labels: tuple[Label, ...]
    """Of every thing that has a pixel, by number."""


@dataclass(frozen=True)
class Clip:
    """Frames of one scene, by moment, then by camera."""

    index: int
    seed: int
    world: str
    drawn: dict[str, float]
    classes: tuple[str, ...]
    fps: float
    frames: tuple[Frame, ...]
