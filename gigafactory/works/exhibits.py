"""What jobs leave for people to look at: pictures, films, certificates, scenarios that failed.

Jobs put them in folders that are agreed upon, so a look opens these alone and never walks through
a dataset. Files are opened as `api.files` opens them: no link is followed.
"""

import json
import os
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from gigafactory.works.api import files

FOLDERS = ("preview", "pictures", "video", "failures", "scenarios")
MEDIA = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
}
"""What a browser may show of a job: nothing in which a script can stand."""
FILES_MAX = 60
"""Of a folder; the rest is among the artifacts."""
CERTIFICATE, CERTIFICATE_BYTES_MAX = "certificate.json", 4 << 20
Json = dict[str, Any]


def exhibits(output: Path, kind: str) -> Json:
    """Files to look at, by folder and name, and the certificate where there is one."""
    found = [one for folder in FOLDERS for one in islice(files.listed(output, folder), FILES_MAX)]
    return {
        "files": found,
        "certificate": _certificate(output) if kind == "synthesize" else None,
    }


def pictures(output: Path, most: int = 3, bytes_max: int = 60_000) -> dict[str, bytes]:
    """The first pictures by path, whole: to be kept elsewhere."""
    small = (
        one["path"]
        for folder in FOLDERS
        for one in files.listed(output, folder)
        if MEDIA.get(Path(one["path"]).suffix, "").startswith("image/")
        and one["bytes"] <= bytes_max
    )
    return {path: files.read_from(output, path, 0, bytes_max) for path in islice(small, most)}


def _certificate(output: Path) -> Json | None:
    try:
        changed = os.lstat(output / CERTIFICATE)
    except OSError:
        return None
    return _read(output, changed.st_mtime_ns, changed.st_size)


@lru_cache(64)
def _read(output: Path, changed_unix_ns: int, size_bytes: int) -> Json | None:
    """The certificate; it is read once for each time that it was written."""
    text = files.read_from(output, CERTIFICATE, 0, CERTIFICATE_BYTES_MAX)
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None
