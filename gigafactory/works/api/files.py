"""Files of an attempt, as its tenant may read them: never a link, never outside its folder.

A job writes what it likes into its folder, links too. So a path is opened part by part, each
relative to the folder before it, and no link is followed: nothing can be swapped in between.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from starlette.responses import StreamingResponse

from gigafactory.faults import Fault
from gigafactory.works.api.guard import Denied, nothing

FILES_MAX = 10_000
PIECE_BYTES = 1 << 18
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def open_inside(folder: Path, path: str) -> int:
    """A descriptor of the regular file `path` in `folder`. Raises `Denied` where there is none."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise nothing("file", path)
    handles: list[int] = []
    try:
        at: int | None = None
        for part in (str(folder), *parts[:-1]):
            at = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            handles.append(at)
        # A pipe must not hold us up until somebody writes.
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except (OSError, ValueError):
        raise nothing("file", path) from None
    finally:
        for handle in handles:
            os.close(handle)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise nothing("file", path)
    return file


def listed(
    folder: Path, inside: str = "", most: int = FILES_MAX, cursor: int = 0
) -> Iterator[dict]:
    """Regular files under `folder`, by name: `path`, `bytes`, `changed_unix_s`; no links.

    With `inside` those of this folder in it alone; the first `cursor` of them are passed over.
    """
    only = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        top = os.open(folder, only)
        if inside:
            above = top
            try:
                top = os.open(inside, only, dir_fd=above)
            finally:
                os.close(above)
    except OSError:
        return
    found = 0
    try:
        for at, folders, names, handle in os.fwalk(".", dir_fd=top):
            folders.sort()
            for name in sorted(names):
                said = os.stat(name, dir_fd=handle, follow_symlinks=False)
                path = os.path.normpath(os.path.join(inside, at, name))
                if not stat.S_ISREG(said.st_mode) or not path.isprintable():
                    continue
                found += 1
                if found > cursor:
                    yield {"path": path, "bytes": said.st_size, "changed_unix_s": said.st_mtime}
                if found == cursor + most:
                    return
    finally:
        os.close(top)


def read_from(folder: Path, path: str, offset: int, bytes_max: int) -> bytes:
    """What a file holds from `offset` on; nothing where there is no such file yet."""
    try:
        handle = open_inside(folder, path)
    except Denied:
        return b""
    with os.fdopen(handle, "rb") as file:
        file.seek(offset)
        return file.read(bytes_max)


def span(asked: str, size_bytes: int) -> tuple[int, int] | None:
    """First and last byte of a `Range` header; None where the whole file is to be sent."""
    if not (match := RANGE.fullmatch(asked.strip())) or match.groups() == ("", ""):
        return None  # Another unit, or several ranges: the whole is a right answer to both.
    first, last = match.groups()
    if len(first + last) > 36:
        return None
    start = int(first) if first else max(0, size_bytes - int(last))
    end = min(int(last), size_bytes - 1) if first and last else size_bytes - 1
    if first and last and int(last) < start:
        return None
    if start >= size_bytes:
        why, hint = f"the file has {size_bytes} bytes", "ask for what is there"
        fault = Fault("this range cannot be sent", asked[:80], why, hint)
        raise Denied(416, fault, {"Content-Range": f"bytes */{size_bytes}"})
    return start, end


def sent(folder: Path, path: str, ranges: str, kind: str, disposition: str) -> StreamingResponse:
    """The file `path` in `folder`, or the part of it that a `Range` header asks for."""
    handle = open_inside(folder, path)
    try:
        size_bytes = os.fstat(handle).st_size
        part = span(ranges, size_bytes)
    except BaseException:
        os.close(handle)
        raise
    start, end = part or (0, size_bytes - 1)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - start + 1),
        "Content-Disposition": disposition,
        "X-Content-Type-Options": "nosniff",
    }
    if part:
        headers["Content-Range"] = f"bytes {start}-{end}/{size_bytes}"
    body = pieces(handle, start, end)
    return StreamingResponse(body, 206 if part else 200, headers, kind)


def pieces(handle: int, start: int, end: int) -> Iterator[bytes]:
    """The bytes from `start` to `end`, both included; closes the file however it ends."""
    with os.fdopen(handle, "rb") as file:
        file.seek(start)
        left = end - start + 1
        while left > 0 and (piece := file.read(min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
