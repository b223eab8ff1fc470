"""A running factory from Python, here or on another machine: `Client(url, key)`.

Every method answers with plain dicts as docs/api.md has them, and raises `Refused` with the
factory's own faults. Reads are tried again while the factory does not answer; what changes
something is not, since nobody can tell whether it was done.
"""

import json
import os
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote as quoted

import httpx

from gigafactory.faults import Fault, Refused

Json = dict[str, Any]
TRIES = 4
PAUSE_S = 0.25  # doubled each time
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
STREAM = httpx.Timeout(60.0, connect=5.0, read=60.0)  # a line comes every 15 s at least


class Unreachable(Refused):
    """Nobody answers there."""


class Client:
    """Talks to a factory; a context manager.

    Without arguments: `$GIGAFACTORY_URL` and `$GIGAFACTORY_KEY`, else the factory that runs from
    this user's own home.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ):
        url = url or os.environ.get("GIGAFACTORY_URL")
        key = key or os.environ.get("GIGAFACTORY_KEY")
        if url is None or key is None:
            url, key = _at_home(url, key)
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT,
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def me(self) -> Json:
        """Who asks: `user`, `tenant`, `scopes`, `key` (its id), `expires_unix_s`."""
        return self._get("/api/me")

    def submit(self, name: str, work: Mapping[str, Any]) -> Json:
        """Give the factory one more job; answers with its quote and places. Durable."""
        return self._send("POST", "/api/jobs", {"name": name, "work": work})

    def submit_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[Json]:
        """Many jobs, each `{name, work}`: for each `{name, accepted, errors}`, in their order.

        As many go in one request as a body holds.
        """
        answers: list[Json] = []
        for batch in _batches(jobs):
            answers += self._send("POST", "/api/jobs/batch", batch)["jobs"]
        return answers

    def quote(self, name: str, work: Mapping[str, Any]) -> Json:
        """What a job would take; nothing is accepted."""
        return self._send("POST", "/api/jobs/quote", {"name": name, "work": work})

    def jobs(self, tenant: str | None = None, status: str | None = None) -> Iterator[Json]:
        """The jobs that one may see, in the order they came."""
        cursor: int | None = 0
        while cursor is not None:
            page = self._get("/api/jobs", cursor=cursor, tenant=tenant, status=status)
            yield from page["jobs"]
            cursor = page["cursor"]

    def job(self, name: str, after: int | None = None) -> Json:
        """All that is known of a job; with `after`, once its `seq` is beyond, or half a minute."""
        return self._get(f"/api/jobs/{_part(name)}", after=after)

    def watch(self, name: str) -> Iterator[Json]:
        """A job whenever something of it changes, to its end; the last is as `job` gives it."""
        while True:
            try:
                for event, told in self._events(f"/api/jobs/{_part(name)}/watch"):
                    yield told
                    if event == "end":
                        return
            except Unreachable:
                pass
            self._get(f"/api/jobs/{_part(name)}")  # Raises where nobody answers for good.

    def cancel(self, name: str) -> Json:
        """Cancel a job; what it used so far is billed."""
        return self._send("POST", f"/api/jobs/{_part(name)}/cancel")

    def logs(self, name: str, offset: int = 0) -> Json:
        """What the newest attempt printed: `text`, `offset` for the next call, `ended`."""
        return self._get(f"/api/jobs/{_part(name)}/logs", offset=offset)

    def follow(self, name: str) -> Iterator[str]:
        """The log as it grows, until the job ends."""
        with self._stream(f"/api/jobs/{_part(name)}/logs", follow=True) as reply:
            yield from reply.iter_text()

    def artifacts(self, name: str) -> Json:
        """Files that the newest attempt left: `attempt`, `committed`, `files`, all of them."""
        path = f"/api/jobs/{_part(name)}/artifacts"
        whole = page = self._get(path)
        while (cursor := page.pop("cursor", None)) is not None:
            page = self._get(path, cursor=cursor)
            whole["files"] += page["files"]
        return whole

    def fetch(self, name: str, path: str, to: Path) -> Path:
        """Bring one of the files into the folder `to`, whole or not at all."""
        folder = Path(to).resolve()
        file = (folder / path).resolve()
        if not file.is_relative_to(folder):
            why = "it leads out of the folder"
            raise Refused(Fault("this file is not fetched", path, why, "name one of `artifacts`"))
        file.parent.mkdir(parents=True, exist_ok=True)
        half = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with (
                self._stream(f"/api/jobs/{_part(name)}/artifacts/{quoted(path)}") as reply,
                open(half, "wb") as out,
            ):
                for piece in reply.iter_bytes():
                    out.write(piece)
            os.replace(half, file)
        finally:
            half.unlink(missing_ok=True)
        return file

    def events(self, after: int = 0, follow: bool = False) -> Iterator[Json]:
        """Rows of the ledger about one's own, in order; with `follow`, for ever."""
        while True:
            page = self._get("/api/events", after=after)
            yield from page["events"]
            if page["next"] == after:
                break
            after = page["next"]
        while follow:
            try:
                for _, row in self._events("/api/events", after=after, follow=True):
                    after = row["seq"]
                    yield row
            except Unreachable:
                pass
            self._get("/api/me")

    def tenants(self) -> dict[str, Json]:
        """Tenants by name, with weight, quota and limits."""
        return self._get("/api/tenants")["tenants"]

    def set_tenant(self, name: str, changes: Mapping[str, Any]) -> Json:
        """Change keys of a tenant, written as in the blueprint."""
        return self._send("PATCH", f"/api/tenants/{_part(name)}", changes)

    def users(self) -> list[Json]:
        """Users who were set by name."""
        return self._get("/api/users")["users"]

    def set_user(self, name: str, role: str, tenant: str | None = None) -> Json:
        """Say what a user is: none, caller, viewer, member, admin or operator."""
        return self._send("PUT", f"/api/users/{_part(name)}", {"role": role, "tenant": tenant})

    def keys(self) -> list[Json]:
        """Keys by id, with whom they are for."""
        return self._get("/api/keys")["keys"]

    def make_key(
        self,
        user: str,
        role: str = "member",
        tenant: str | None = None,
        expires_unix_s: float | None = None,
    ) -> Json:
        """A new key: `key`, to be read this once, and `made`, what is known of it."""
        new = {"user": user, "role": role, "tenant": tenant, "expires_unix_s": expires_unix_s}
        return self._send("POST", "/api/keys", new)

    def revoke(self, key_id: str) -> Json:
        """From now on the key opens nothing."""
        return self._send("DELETE", f"/api/keys/{_part(key_id)}")

    def budgets(self, tenant: str | None = None) -> list[Json]:
        """What is spent, reserved and left of each budget, and when it is whole again."""
        return self._get("/api/budgets", tenant=tenant)["budgets"]

    def bill(self, month: str | None = None, tenant: str | None = None) -> Json:
        """The bills of a month; the one that runs now where none is named."""
        return self._get("/api/bill", month=month, tenant=tenant)

    def bill_csv(self, month: str | None = None, tenant: str | None = None) -> str:
        """The same as a table for other programs."""
        return self._ask("GET", "/api/bill", {"month": month, "tenant": tenant, "form": "csv"}).text

    def audit(self, after: int = 0, verify: bool = False) -> Json:
        """Who did what, from there on; with `verify`, whether the record is whole."""
        return self._get("/api/audit", after=after, verify=verify)

    def nodes(self) -> list[Json]:
        """Machines: whether they take work, and what runs there."""
        return self._get("/api/nodes")["nodes"]

    def drain(self, node: str, now: bool = False, undo: bool = False) -> Json:
        """Have a machine take no more work; with `now` what runs there moves; or work again."""
        how = {"now": now, "undo": undo}
        return self._send("POST", f"/api/nodes/{quoted(node)}/drain", how)

    def services(self) -> list[Json]:
        """What the gateway answers for."""
        return self._get("/api/services")["services"]

    def act(self, name: str, observation: Any = None, image: Any = None) -> Json:
        """Ask a served policy for actions, or a detector (`image`: bytes of a PNG or JPEG).

        An observation is a list of numbers; a list of several is answered together, as is one of
        images. An image may be base64, too.
        """
        if isinstance(image, bytes):
            image = b64encode(image).decode()
        elif isinstance(image, list | tuple):
            image = [b64encode(one).decode() if isinstance(one, bytes) else one for one in image]
        said = {"observation": observation} if image is None else {"image": image}
        return self._send("POST", f"/v1/policies/{_part(name)}/act", said)

    def _get(self, path: str, **asked: Any) -> Json:
        answer: Json = self._ask("GET", path, asked).json()
        return answer

    def _send(self, method: str, path: str, body: Any = None) -> Json:
        answer: Json = self._ask(method, path, {}, body).json()
        return answer

    def _ask(self, method: str, path: str, asked: Json, body: Any = None) -> httpx.Response:
        tries = TRIES if method == "GET" else 1
        for left in reversed(range(tries)):
            try:
                reply = self._http.request(method, path, params=_given(asked), json=body)
            except httpx.HTTPError as error:
                if not left:
                    raise self._unreachable(error) from None
            else:
                if not left or reply.status_code not in (429, 502, 503, 504):
                    return _right(reply)
            time.sleep(PAUSE_S * 2 ** (tries - 1 - left))
        raise AssertionError("the last try answers or raises")

    def _stream(self, path: str, **asked: Any) -> "_Streamed":
        return _Streamed(self, self._http, path, _given(asked))

    def _events(self, path: str, **asked: Any) -> Iterator[tuple[str, Json]]:
        """Server-sent events, by name."""
        with self._stream(path, **asked) as reply:
            name = ""
            for line in reply.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)

    def _unreachable(self, error: Exception) -> Unreachable:
        what, why = "the factory does not answer", str(error) or repr(error)
        return Unreachable(Fault(what, self.url, why, "see that it runs; try again in a moment"))


class _Streamed:
    """An answer that is read while it comes; broken off, it is `Unreachable`."""

    def __init__(self, client: Client, http: httpx.Client, path: str, asked: Json):
        self._client = client
        self._reply = http.stream("GET", path, params=asked, timeout=STREAM)

    def __enter__(self) -> httpx.Response:
        try:
            reply = self._reply.__enter__()
            if reply.status_code >= 400:
                reply.read()
                _right(reply)
        except httpx.HTTPError as error:
            raise self._client._unreachable(error) from None
        return reply

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        self._reply.__exit__(kind, error, trace)
        if isinstance(error, httpx.HTTPError):
            raise self._client._unreachable(error) from None


def _at_home(url: str | None, key: str | None) -> tuple[str, str]:
    """The factory that runs from this home, and its own user's key, which goes nowhere else."""
    from gigafactory.works.home import Home

    home = Home.default()
    address = home.address()
    here = str(address["url"]) if address else None
    if url is None and here is None:
        why = "nothing answers for this home"
        hint = "start it with `gigafactory up laptop`, or set GIGAFACTORY_URL to another"
        raise Refused(Fault("no factory runs", str(home.path), why, hint))
    if key is None:
        if url not in (None, here):
            why = "GIGAFACTORY_KEY is not set, and this home's key is for this home"
            hint = "`gigafactory keys make` on the factory's machine makes one"
            raise Refused(Fault(f"no key for {url}", "GIGAFACTORY_KEY", why, hint))
        key = (home.path / "key").read_text(encoding="utf-8").strip()
    return url or here or "", key


def _right(reply: httpx.Response) -> httpx.Response:
    """The answer, unless it holds faults."""
    if reply.is_success:
        return reply
    try:
        said = reply.json()
        if "error" in said:  # the gateway speaks in OpenAI's form
            told, at = said["error"], reply.url.path
            why = f"status {reply.status_code}, {told['code']}"
            raise Refused(
                Fault(told["message"], at, why, "docs/serving.md tells what may be asked")
            )
        faults = [Fault(**fault) for fault in said["errors"]]
    except (ValueError, KeyError, TypeError):
        why = f"status {reply.status_code}"
        hint = "see that this is the address of a factory"
        faults = [Fault("the factory failed to answer", str(reply.url.path), why, hint)]
    raise Refused(*faults)


def _given(asked: Json) -> Json:
    return {key: value for key, value in asked.items() if value is not None}


def _part(name: str) -> str:
    return quoted(name, safe="")


BATCH_BYTES = 900_000  # the factory takes 1 MB


def _batches(jobs: Iterable[Mapping[str, Any]]) -> Iterator[Json]:
    """Jobs in bodies of the right size."""
    batch: list[Mapping[str, Any]] = []
    size_bytes = 0
    for job in jobs:
        job_bytes = len(json.dumps(job)) * 2  # Letters beyond ASCII are longer on the wire.
        if batch and size_bytes + job_bytes > BATCH_BYTES:
            yield {"jobs": batch}
            batch, size_bytes = [], 0
        batch.append(job)
        size_bytes += job_bytes
    if batch:
        yield {"jobs": batch}
