"""`/v1/files`: what batches read and write, in OpenAI's protocol.

A file is two: `FOLDER/TENANT/ID` holds what was sent, and `ID.json` says what it is. The second
is written last, whole, and only then does the file exist; what a crash left without its other
half is removed when the works opens. Both are for the owner of the works alone. No name that a
client chose is ever part of a path, and an id is looked up, never opened.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gigafactory.failpoint import failpoint
from gigafactory.works.gateway.exchange import Client, Message, Receive
from gigafactory.works.gateway.refusal import Headers, Refusal, unfit

FILES = "/v1/files"
FILE_BYTES_MAX = 100_000_000
TENANT_BYTES_MAX = 10_000_000_000  # of all its files; what batches write counts, and is not refused
TENANT_FILES_MAX = 10_000
REST_BYTES_MAX = 1 << 16  # of an upload, beside the file
FIELD_BYTES_MAX = 1024
NAME_CHARS_MAX = 255
PIECE_BYTES = 1 << 18
STALL_S_MAX = 60.0  # a client that sends or takes nothing for so long has left
OWNER_ONLY = 0o600
JSON_TYPE: Headers = [(b"content-type", b"application/json")]


@dataclass(frozen=True)
class File:
    """A file that exists."""

    id: str
    tenant: str
    name: str
    purpose: str
    size_bytes: int
    made_unix_s: float

    def said(self) -> Message:
        """As OpenAI tells it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": int(self.made_unix_s),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class Files:
    """The files of all tenants, each of which sees its own."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: dict[str, File] = {}  # oldest first
        self._used_bytes: Counter[str] = Counter()  # by tenant, with uploads under way
        self.readers: Counter[str] = Counter()
        """Batches that read a file, which therefore stays."""

    def open(self, growing: frozenset[str] = frozenset()) -> None:
        """Find what is there, and clear away halves that a crash left, but not what still grows."""
        found = []
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for half in self._folder.glob("*/*.half"):
            half.unlink()
        for path in sorted(self._folder.glob("*/*")):
            other = path.with_suffix("" if path.suffix == ".json" else ".json")
            if path.name not in growing and not other.exists():
                path.unlink()
            elif path.suffix == ".json":
                found.append(File(**json.loads(path.read_text(encoding="utf-8"))))
        for file in sorted(found, key=lambda file: file.made_unix_s):
            self._add(file)

    def path(self, tenant: str, name: str) -> Path:
        """Where the content of a file lies or will lie; `name` is an id of ours."""
        folder = self._folder / tenant
        if not folder.exists():
            folder.mkdir(mode=0o700)
            sync_folder(self._folder)
        return folder / name

    def get(self, tenant: str, name: Any) -> File:
        """A file of this tenant, or a refusal in the words for what nobody has."""
        file = self._files.get(name) if isinstance(name, str) else None
        if file is None or file.tenant != tenant:
            raise Refusal(404, f"no file {name!r}", "not_found", "file_id")
        return file

    def publish(self, tenant: str, name: str, shown: str, purpose: str) -> File:
        """Make a file of content that lies durable in its place; durable when this returns."""
        path = self.path(tenant, name)
        file = File(name, tenant, shown, purpose, path.stat().st_size, time.time())
        failpoint("files.before_entry")
        half = path.with_suffix(".half")
        with owned(half) as out:
            out.write(json.dumps(asdict(file)).encode())
            out.flush()
            os.fsync(out.fileno())
        half.replace(path.with_suffix(".json"))
        sync_folder(path.parent)
        return file

    async def adopt(self, tenant: str, name: str, shown: str) -> None:
        """Publish what a batch has written, unless it was, or is deleted."""
        if name not in self._files and self.path(tenant, name).exists():
            self._add(await asyncio.to_thread(self.publish, tenant, name, shown, "batch_output"))

    async def answer(self, tenant: str, scope: Message, receive: Receive, client: Client) -> None:
        """Answer a request for `/v1/files` and what lies under it."""
        method, (name, _, part) = scope["method"], after(FILES, scope).partition("/")
        match method, bool(name), part:
            case "POST", False, "":
                said = await self._upload(tenant, scope, receive)
            case "GET", False, "":
                own = [file for file in self._files.values() if file.tenant == tenant]
                purpose = query(scope).get("purpose")
                wanted = [file.said() for file in own if purpose in (None, file.purpose)]
                said = page(wanted, scope, TENANT_FILES_MAX, TENANT_FILES_MAX)
            case "GET", True, "":
                said = self.get(tenant, name).said()
            case "GET", True, "content":
                await self._content(self.get(tenant, name), client)
                return
            case "DELETE", True, "":
                said = await self._delete(self.get(tenant, name))
            case _:
                raise no_such(method, scope)
        await client.answer(200, said, JSON_TYPE)

    async def _upload(self, tenant: str, scope: Message, receive: Receive) -> Message:
        kind = next((v for k, v in scope["headers"] if k == b"content-type"), b"")
        form, options = parse_options_header(kind)
        if form != b"multipart/form-data" or not options.get(b"boundary"):
            raise Refusal(400, "a file is sent as multipart/form-data", "invalid_form")
        if sum(file.tenant == tenant for file in self._files.values()) >= TENANT_FILES_MAX:
            raise full(f"{TENANT_FILES_MAX} files")
        name = f"file-{os.urandom(16).hex()}"
        path = self.path(tenant, name)
        form_bytes, stored = 0, False
        out = owned(path)
        upload = _Upload(out)
        try:
            parser = MultipartParser(options[b"boundary"], upload.callbacks())  # type: ignore[arg-type]
            more = True
            while more:
                message = await heard(receive)
                body, more = message.get("body", b""), message.get("more_body", False)
                form_bytes += len(body)
                self._used_bytes[tenant] += len(body)
                if form_bytes > FILE_BYTES_MAX + REST_BYTES_MAX:
                    raise too_large()
                if self._used_bytes[tenant] > TENANT_BYTES_MAX:
                    raise full(f"{TENANT_BYTES_MAX} bytes")
                parser.write(body)
            shown = upload.judge()
            await asyncio.to_thread(synced, out)
            file = await asyncio.to_thread(self.publish, tenant, name, shown, "batch")
            stored = True
        except FormParserError as fault:
            raise Refusal(400, f"the form is broken: {fault}", "invalid_form") from fault
        except OSError as fault:
            why = f"the file could not be kept: {fault.strerror}"
            raise Refusal(503, why, "not_kept", retry_s=5) from fault
        finally:
            self._used_bytes[tenant] -= form_bytes
            if not stored:
                with suppress(OSError):
                    out.close()
                path.unlink(missing_ok=True)
        self._add(file)
        return file.said()

    async def _content(self, file: File, client: Client) -> None:
        length = b"%d" % file.size_bytes
        with open(self.path(file.tenant, file.id), "rb") as content:
            kind = (b"content-type", b"application/octet-stream")
            await client.start(200, [kind, (b"content-length", length)])
            with suppress(TimeoutError):  # whoever takes nothing is cut off
                while piece := await asyncio.to_thread(content.read, PIECE_BYTES):
                    async with asyncio.timeout(STALL_S_MAX):
                        await client.tell(piece, more=True)
                    if client.left():
                        return
                await client.tell(b"", more=False)

    async def _delete(self, file: File) -> Message:
        if self.readers[file.id]:
            raise Refusal(400, f"a batch reads {file.id}; cancel it first", "file_in_use")
        del self._files[file.id]
        self._used_bytes[file.tenant] -= file.size_bytes
        await asyncio.to_thread(self._remove, file)
        return {"id": file.id, "object": "file", "deleted": True}

    def _remove(self, file: File) -> None:
        path = self.path(file.tenant, file.id)
        path.unlink(missing_ok=True)  # the content first: without it the entry counts for nothing
        sync_folder(path.parent)
        path.with_suffix(".json").unlink(missing_ok=True)

    def _add(self, file: File) -> None:
        self._files[file.id] = file
        self._used_bytes[file.tenant] += file.size_bytes


class _Upload:
    """A form as its pieces come: the file goes to the disk, the rest is short."""

    def __init__(self, out: BinaryIO):
        self._out = out
        self._size = 0
        self._fields: dict[str, bytes] = {}
        self._name = self._shown = ""
        self._files = 0
        self._header, self._value = b"", b""
        self._whole = False

    def callbacks(self) -> dict[str, Any]:
        """What the parser calls."""
        return {
            "on_header_field": self._heard_field,
            "on_header_value": self._heard_value,
            "on_header_end": self._header_ends,
            "on_part_begin": self._begins,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._hears,
            "on_end": self._ends,
        }

    def judge(self) -> str:
        """The name of the file, once all is there; else what is wrong."""
        if not self._whole or self._files != 1:
            raise Refusal(400, "a form has one file, and an end", "invalid_form", "file")
        if self._fields.get("purpose") != b"batch":
            raise unfit("purpose", "is batch: files serve nothing else here")
        return self._shown

    def _begins(self) -> None:
        self._name = ""

    def _heard_field(self, said: bytes, start: int, end: int) -> None:
        self._header += said[start:end]

    def _heard_value(self, said: bytes, start: int, end: int) -> None:
        self._value += said[start:end]

    def _header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"name", b"").decode("latin-1")
            if self._name == "file":
                shown = options.get(b"filename", b"").decode(errors="replace")
                self._shown = shown[:NAME_CHARS_MAX] or "file"
        self._header, self._value = b"", b""

    def _headers_end(self) -> None:
        if self._name not in ("file", "purpose"):
            name = self._name[:NAME_CHARS_MAX]
            raise Refusal(400, f"{name} is not supported here", "unsupported_parameter", name)
        self._files += self._name == "file"

    def _hears(self, said: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._size += end - start
            if self._size > FILE_BYTES_MAX:
                raise too_large()
            self._out.write(said[start:end])
            return
        value = self._fields.get(self._name, b"") + said[start:end]
        if len(value) > FIELD_BYTES_MAX:
            raise unfit(self._name, f"has at most {FIELD_BYTES_MAX} bytes")
        self._fields[self._name] = value

    def _ends(self) -> None:
        self._whole = True


def owned(path: Path) -> BinaryIO:
    """A new file, for the owner of this process alone."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY), "wb")


def synced(out: BinaryIO) -> None:
    """End a file; it is durable when this returns, and its name when its folder is synced."""
    out.flush()
    os.fsync(out.fileno())
    out.close()


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


async def heard(receive: Receive) -> Message:
    """The next piece of a request that is not whole yet."""
    try:
        async with asyncio.timeout(STALL_S_MAX):
            message = await receive()
    except TimeoutError:
        message = {"type": "http.disconnect"}
    if message["type"] == "http.disconnect":
        raise Refusal(499, "the client left before its request was whole", "client_left")
    return message


def after(path: str, scope: Message) -> str:
    """What of a request's path comes after this one."""
    return scope["path"].removeprefix(path).strip("/")


def query(scope: Message) -> dict[str, str]:
    """The first value of each name in the query."""
    said = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return {name: values[0] for name, values in said.items()}


def page(listed: Sequence[Message], scope: Message, limit: int, limit_max: int) -> Message:
    """A page of what is listed oldest first, as a query asks for it: newest first by default."""
    asked = query(scope)
    order, said = asked.get("order", "desc"), asked.get("limit", str(limit))
    if order not in ("asc", "desc"):
        raise unfit("order", "is asc or desc")
    if not said.isdecimal() or len(said) > 6 or not 1 <= int(said) <= limit_max:
        raise unfit("limit", f"is a whole number from 1 to {limit_max}")
    rows = list(listed if order == "asc" else reversed(listed))
    if (last := asked.get("after")) is not None:
        places = [place for place, row in enumerate(rows) if row["id"] == last]
        if not places:
            raise unfit("after", "is the id of what is listed")
        rows = rows[places[0] + 1 :]
    shown = rows[: int(said)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(rows) > len(shown),
    }


def too_large() -> Refusal:
    """The refusal of a file beyond the limit."""
    return Refusal(413, f"a file has at most {FILE_BYTES_MAX} bytes", "too_large")


def full(most: str) -> Refusal:
    """The refusal of a file beyond what a tenant may keep."""
    return Refusal(400, f"a tenant keeps at most {most}; delete some", "quota_exceeded")


def no_such(method: str, scope: Message) -> Refusal:
    """The refusal of a path or method that is not there."""
    return Refusal(404, f"there is no {method} {scope['path']}", "not_found")
