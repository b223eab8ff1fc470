"""Films: H.264 in MP4, by PyAV. The same pictures give the same bytes: one thread, no dates.

Pictures are (H, W, 3) uint8, RGB. H.264 keeps colour at half the resolution, so an odd width or
height gets one more column or row, a copy of the last. No B-frames: picture i is shown at i / fps.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

QUALITY = 20
"""x264's constant rate factor: 18 looks like the original, 28 is small."""
PRESET = "veryfast"
KEY_FRAMES = 10
"""Pictures from one key frame to the next: what a reader decodes at most to see any one."""


class Writer:
    """`with Writer(path, width, height, fps) as film: film.add(rgb)`."""

    def __init__(self, path: Path, width: int, height: int, fps: float):
        self.shape = (height, width, 3)
        # Without the bit-exact flag the file names the versions of the libraries that made it.
        options = {"movflags": "faststart", "fflags": "+bitexact"}
        self._container = av.open(str(path), "w", format="mp4", options=options)
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        codec = self._stream.codec_context
        codec.thread_count = 1
        codec.max_b_frames = 0
        codec.gop_size = KEY_FRAMES
        codec.options = {"preset": PRESET, "crf": str(QUALITY)}

    def add(self, rgb: np.ndarray) -> None:
        """The next picture."""
        assert rgb.shape == self.shape, f"{rgb.shape} in a film of {self.shape}"
        height, width, _ = rgb.shape
        if height % 2 or width % 2:
            rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file; before that it cannot be read."""
        self._container.mux(self._stream.encode())
        self._container.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: Path) -> Iterator[np.ndarray]:
    """The pictures of a film, one after the other."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="rgb24")
