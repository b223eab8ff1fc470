"""Who may do what: keys, users and tenants, and the record of who did what.

All of it is the fold of the `Acted` events of run `house` over the blueprint's tenants. An act is
durable before it holds and before anybody is told, so a crash loses nothing that was said to be
done. Acts are written one after another, each with the digest of the one before: one chain.

A key is 256 random bits; only its SHA-256 is kept, and its first 8 characters are the key's id.
A password needs salt and a slow hash because people choose it; 256 random bits are beyond
guessing, so a plain hash suffices (NIST SP 800-63B, section 5.1.2.2, on look-up secrets). Nor
need the look-up take constant time: whoever times it learns of the hash of a guess, and cannot
choose guesses by their hash.
"""

import asyncio
import hashlib
import json
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gigafactory.blueprint.check import check
from gigafactory.blueprint.parts import Name
from gigafactory.blueprint.schema import Blueprint, Tenant
from gigafactory.factory.events import Acted, Json
from gigafactory.failpoint import failpoint
from gigafactory.faults import Fault, Refused, nearest
from gigafactory.ledger import audit
from gigafactory.ledger.store import HOUSE, Ledger, Row, read
from gigafactory.works.oidc import TOKEN_CHARS_MAX, USER, Claims, Oidc

PREFIX = "gf-"
ID_CHARS = 8
OWNER_ONLY = 0o600
BATCH_MAX = 256  # acts in one transaction of the ledger

_VIEWER = frozenset({"read"})
_CALLER = frozenset({"infer"})
_MEMBER = _VIEWER | _CALLER | {"submit"}
_ADMIN = _MEMBER | {"manage"}
ROLES: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "caller": _CALLER,
    "viewer": _VIEWER,
    "member": _MEMBER,
    "admin": _ADMIN,
    "operator": _ADMIN | {"operate"},
}
"""Names of sets of scopes: caller and viewer lie each within member, that in admin, and so on."""
CLAIMED = ("caller", "viewer", "member", "admin")  # no token makes an operator
CHANGES = ("key.make", "key.revoke", "user.set", "tenant.set")
OWN_TO_SET = {"keep_prompts"}  # what an admin may change of the own tenant


@dataclass(frozen=True, slots=True)
class Grant:
    """What the bearer of a key or token may do until it expires. `key` is an id, no secret."""

    user: str
    tenant: str
    scopes: frozenset[str]
    key: str
    expires_unix_s: float | None = None

    def may(self, scope: str, tenant: str) -> bool:
        """Whether this reaches `scope` in `tenant`; an operator's reaches all."""
        return "operate" in self.scopes or (tenant == self.tenant and scope in self.scopes)

    def __str__(self) -> str:
        """As the audit has it: TENANT/USER:KEY."""
        return f"{self.tenant}/{self.user}:{self.key}"


@dataclass(frozen=True)
class Key:
    """A key, without what opens: `id` is the start of its hash, `by` who made it."""

    id: str
    tenant: str
    user: str
    role: str
    by: str
    made_unix_s: float
    expires_unix_s: float | None = None
    revoked_unix_s: float | None = None


@dataclass(frozen=True)
class User:
    """Somebody by name in a tenant. With role "none" no key or token of that name opens it."""

    name: str
    tenant: str
    role: str


@dataclass
class _Wish:
    """An act on its way. `says` is asked when its turn comes; it refuses by raising."""

    by: str
    did: str
    about: str
    says: Callable[[], Json]
    done: asyncio.Future[Acted]


class House:
    """The doors of a factory. One at a time for a ledger; used from one event loop.

    `where` is what `ledger` writes to, to be read at the start; `home` is the folder of this
    user's own key, the ledger's where it is left out. `clock` is Unix time.
    """

    def __init__(
        self,
        ledger: Ledger,
        where: Path | str,
        blueprint: Blueprint,
        home: Path | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self._ledger, self._where, self._blueprint, self._clock = ledger, where, blueprint, clock
        self._home = Path(where).parent if home is None else home
        self.tenants: dict[str, Tenant] = dict(blueprint.tenants)
        self.keys: dict[str, Key] = {}
        self.users: dict[tuple[str, str], User] = {}  # by tenant and name
        self.head = audit.Head(0, "")
        self._placed: dict[str, str] = {}  # tenant of users whom an operator has set
        self._ids: dict[str, str] = {}  # of keys, by the hash of the key
        self._grants: dict[str, Grant] = {}  # the same, of keys asked for since the last change
        self._wishes: deque[_Wish] = deque()
        self._writer: asyncio.Task[None] | None = None
        if fault := audit.verify(self._replayed()):
            raise Refused(fault)
        self._take_over()
        oidc = blueprint.access.oidc
        self._oidc = Oidc(oidc) if oidc else None

    def who(self, token: str) -> Grant | None:
        """Whom a key or token speaks for, now; None for nobody. Never waits for anything."""
        if len(token) > TOKEN_CHARS_MAX:
            return None
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
        grant = self._grants.get(digest) or self._look(token, digest)
        if grant is None:
            return None
        if grant.expires_unix_s is not None and self._clock() >= grant.expires_unix_s:
            return None
        return grant

    def local(self, tenant: str) -> str:
        """The key that this home's own user asks with, an operator's; made at first use.

        To be called before anything else acts. A file that somebody else could read, or the
        key of another tenant, is replaced and what it held is revoked.
        """
        file = self._home / "key"
        before = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        known = self.keys.get(self._ids.get(digest_of(before), ""))
        if known and known.revoked_unix_s is None:
            safe = file.stat().st_mode & 0o077 == 0
            if safe and (known.tenant, known.role) == (tenant, "operator") and self.who(before):
                return before
            self._at_once("key.revoke", known.id, {})
        key, digest = self._new_key()
        said = _key_said(tenant, "local", "operator", None, digest)
        self._at_once("key.make", digest[:ID_CHARS], said)
        failpoint("house.local")
        write_own(file, key + "\n")
        return key

    async def make_key(
        self, by: Grant, tenant: str, user: str, role: str, expires_unix_s: float | None = None
    ) -> tuple[str, Key]:
        """A new key, which can be read this once. It reaches no further than `by` does."""
        key, digest = self._new_key()

        def says() -> Json:
            grant = self._manager(by, tenant)
            _must_be_user(user)
            _must_reach(grant, role)
            if expires_unix_s is not None and not self._clock() < expires_unix_s:
                raise _no("the key would open nothing", "expires", "that time is over", "a later")
            if grant.expires_unix_s is not None and (
                expires_unix_s is None or expires_unix_s > grant.expires_unix_s
            ):
                why = f"yours ends at {grant.expires_unix_s:.0f}, in Unix seconds"
                raise _no("the key would outlive yours", "expires", why, "let it end by then")
            return _key_said(tenant, user, role, expires_unix_s, digest)

        await self._do(str(by), "key.make", digest[:ID_CHARS], says)
        return key, self.keys[digest[:ID_CHARS]]

    async def revoke(self, by: Grant, key_id: str) -> None:
        """From now on the key opens nothing. Keys that were made with it are not touched."""

        def says() -> Json:
            key = self.keys.get(key_id)
            if key is None or not by.may("manage", key.tenant):
                raise _no(f"there is no key {key_id!r}", "key", "none is known to you", "list them")
            _must_reach(self._manager(by, key.tenant), key.role)
            if key.revoked_unix_s is not None:
                raise _no(f"{key_id!r} is revoked already", "key", "it stays so", "nothing to do")
            return {}

        await self._do(str(by), "key.revoke", key_id, says)

    async def set_user(self, by: Grant, name: str, tenant: str, role: str) -> User:
        """Say what a user is in a tenant: keys and tokens of that name reach no further.

        A role of "none" shuts them out. An operator's word also says whose tenant the user's
        tokens are for, whatever these claim.
        """

        def says() -> Json:
            grant = self._manager(by, tenant)
            _must_be_user(name)
            _must_reach(grant, role)
            if before := self.users.get((tenant, name)):
                _must_reach(grant, before.role)
            for key in self.keys.values():
                if (key.tenant, key.user) == (tenant, name) and self._alive(key):
                    _must_reach(grant, key.role)
            return {"tenant": tenant, "role": role, "placed": "operate" in grant.scopes}

        await self._do(str(by), "user.set", name, says)
        return self.users[tenant, name]

    async def set_tenant(self, by: Grant, name: str, changes: Mapping[str, Any]) -> Tenant:
        """Change keys of a tenant, as a blueprint writes them; an operator may add a tenant.

        An admin may change `keep_prompts` of the own one.
        """

        def says() -> Json:
            grant = self._standing(by)
            own = grant.may("manage", name) and set(changes) <= OWN_TO_SET
            if not own and not grant.may("operate", name):
                why = f"an admin may set {', '.join(OWN_TO_SET)} of the own tenant, no more"
                raise _no(f"you may not change {name!r}", "tenant", why, "ask an operator")
            said = json.loads(json.dumps(dict(changes), allow_nan=False))
            tenants = {**self.tenants, name: changed(self.tenants.get(name), name, said)}
            grown = self._blueprint.model_copy(update={"tenants": tenants})
            faults = [
                Fault(what, ".".join(map(str, place)), why, remedy)
                for place, what, why, remedy in check(grown, Path())
                # The first of a new cohort is alone in it until the second comes.
                if place == ("tenants",)
                or (place[:2] == ("tenants", name) and place[2:] != ("cohort",))
            ]
            if faults:
                raise Refused(*faults)
            return {"changes": said}

        await self._do(str(by), "tenant.set", name, says)
        return self.tenants[name]

    async def act(self, by: Grant | str, did: str, about: str, said: Json) -> Acted:
        """Put on record what was done elsewhere (`job.submit`); the caller knows it is allowed.

        Acts that arrive while the ledger is busy share its next transaction.
        """
        assert did not in CHANGES, f"{did} has a method of its own"
        said = json.loads(json.dumps(said, allow_nan=False))  # as the ledger will give it back
        return await self._do(str(by), did, about, lambda: said)

    def verify(self, noted: audit.Head | None = None) -> Fault | None:
        """The first place where the audit is not as it was written, as it lies there now."""
        return audit.verify(read(self._where, HOUSE, kinds=["Acted"]), noted)

    def _look(self, token: str, digest: str) -> Grant | None:
        """Whom a token speaks for that was not asked for since the last change."""
        if key := self.keys.get(self._ids.get(digest, "")):
            if (grant := self._of_key(key)) and self._alive(key):
                self._grants[digest] = grant
                return grant
        elif self._oidc and token.count(".") == 2 and (said := self._oidc.claims(token, digest)):
            return self._of_claims(said)
        return None

    def _alive(self, key: Key) -> bool:
        late = key.expires_unix_s is not None and self._clock() >= key.expires_unix_s
        return key.revoked_unix_s is None and not late

    def _of_key(self, key: Key) -> Grant | None:
        return self._grant(key.user, key.tenant, ROLES[key.role], key.id, key.expires_unix_s)

    def _of_claims(self, said: Claims) -> Grant | None:
        """An operator's word on tenant and role counts most, then the tenant's own on the role."""
        tenant = self._placed.get(said.user) or said.tenant or ""
        claimed = (ROLES[role] for role in CLAIMED if role in said.roles)
        scopes = frozenset[str]().union(*claimed)
        if user := self.users.get((tenant, said.user)):
            scopes = ROLES[user.role]
        return self._grant(said.user, tenant, scopes, said.key, said.expires_unix_s)

    def _grant(
        self, user: str, tenant: str, scopes: frozenset[str], key: str, expires_unix_s: float | None
    ) -> Grant | None:
        """The scopes that are left of these: a tenant must be there, a user be no less."""
        if known := self.users.get((tenant, user)):
            scopes = scopes & ROLES[known.role]
        if tenant not in self.tenants or not scopes:
            return None
        return Grant(user, tenant, scopes, key, expires_unix_s)

    def _standing(self, by: Grant) -> Grant:
        """What a grant still is: since it was looked up it may have been revoked or narrowed.

        One that is no key's (of a token, of the works itself) holds until it expires.
        """
        if key := self.keys.get(by.key):
            now = self._of_key(key) if self._alive(key) else None
        else:
            late = by.expires_unix_s is not None and self._clock() >= by.expires_unix_s
            left = self._grant(by.user, by.tenant, by.scopes, by.key, by.expires_unix_s)
            now = None if late else left
        if now is None:
            raise _no("your key opens nothing any more", "key", "it ended", "ask for another")
        return now

    def _manager(self, by: Grant, tenant: str) -> Grant:
        """`by` as it stands, which may manage `tenant`, which is there."""
        grant = self._standing(by)
        if not grant.may("manage", tenant):
            why = "it takes an admin of that tenant or an operator"
            raise _no(f"you may not manage {tenant!r}", "tenant", why, "ask one")
        if tenant not in self.tenants:
            remedy = nearest(tenant, self.tenants)  # told to operators alone: others stop above
            raise _no(f"there is no tenant {tenant!r}", "tenant", "none has that name", remedy)
        return grant

    async def _do(self, by: str, did: str, about: str, says: Callable[[], Json]) -> Acted:
        """Have an act written; who stops waiting for it does not stop it."""
        done: asyncio.Future[Acted] = asyncio.get_running_loop().create_future()
        self._wishes.append(_Wish(by, did, about, says, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await done

    async def _write(self) -> None:
        """Write what is wished for, a batch at a time; an act holds once it is durable."""
        while self._wishes:
            batch = self._batch()
            acts = [act for _, act in batch]
            try:
                if acts:
                    await asyncio.wrap_future(self._ledger.append(HOUSE, *acts))
            except Exception as failure:  # whatever it is, nobody may wait for ever
                for wish, _ in batch:
                    _answer(wish.done, failure)
                continue
            failpoint("house.acted")
            for wish, act in batch:
                self._fold(act)
                _answer(wish.done, act)

    def _batch(self) -> list[tuple[_Wish, Acted]]:
        """The next acts, linked. One that changes what is allowed is the last."""
        batch: list[tuple[_Wish, Acted]] = []
        digest = self.head.digest
        while self._wishes and len(batch) < BATCH_MAX:
            wish = self._wishes.popleft()
            try:
                act = self._linked(digest, wish.by, wish.did, wish.about, wish.says())
            except Exception as refusal:  # Refused, or a mistake of ours: the asker hears of it
                _answer(wish.done, refusal)
                continue
            batch.append((wish, act))
            digest = act.digest
            if wish.did in CHANGES:
                break
        return batch

    def _linked(self, previous: str, by: str, did: str, about: str, said: Json) -> Acted:
        fields: dict[str, Any] = {
            "at_s": self._clock(),
            "by": by,
            "did": did,
            "about": about,
            "said": said,
        }
        return Acted(**fields, previous=previous, digest=audit.link(previous, fields))

    def _at_once(self, did: str, about: str, said: Json) -> None:
        """An act of the house itself, while nothing else acts: else the chain would fork."""
        assert self._writer is None or self._writer.done()
        act = self._linked(self.head.digest, HOUSE, did, about, said)
        self._ledger.append(HOUSE, act).result()
        self._fold(act)

    def _replayed(self) -> Iterator[Row]:
        """Rows of the audit; each is folded when the next is asked for, so once it is verified."""
        for row in read(self._where, HOUSE, kinds=["Acted"]):
            yield row
            act = row.event()
            assert isinstance(act, Acted)
            self._fold(act)

    def _fold(self, act: Acted) -> None:
        """The state after an act: all that keys, users and tenants are comes from here."""
        said, about = act.said, act.about
        self.head = audit.Head(self.head.acts + 1, act.digest)
        if act.did == "key.make":
            rest = {name: said[name] for name in ("tenant", "user", "role", "expires_unix_s")}
            self.keys[about] = Key(about, by=act.by, made_unix_s=act.at_s, **rest)
            self._ids[said["sha256"]] = about
        elif act.did == "key.revoke":
            self.keys[about] = replace(self.keys[about], revoked_unix_s=act.at_s)
        elif act.did == "user.set":
            self.users[said["tenant"], about] = User(about, said["tenant"], said["role"])
            if said["placed"]:
                self._placed[about] = said["tenant"]
        elif act.did == "tenant.set":
            self.tenants[about] = changed(self.tenants.get(about), about, said["changes"])
        else:
            return
        self._grants.clear()

    def _new_key(self) -> tuple[str, str]:
        """A key and its hash, whose id is not taken yet."""
        while True:
            key = PREFIX + secrets.token_urlsafe(32)
            digest = digest_of(key)
            if digest[:ID_CHARS] not in self.keys:
                return key, digest

    def _take_over(self) -> None:
        """Keys of `keys.json`, where older versions kept them, become keys of members."""
        file = self._home / "keys.json"
        if not file.exists():
            return
        for digest, tenant in json.loads(file.read_text(encoding="utf-8")).items():
            if digest not in self._ids and digest[:ID_CHARS] not in self.keys:
                said = _key_said(tenant, "keys.json", "member", None, digest)
                self._at_once("key.make", digest[:ID_CHARS], said)
        failpoint("house.taken_over")
        file.unlink()


def changed(tenant: Tenant | None, name: str, changes: Mapping[str, Any]) -> Tenant:
    """A tenant with changes as a blueprint writes them; a new one where there was none.

    Raises `Refused` with every fault.
    """
    try:
        part = _adapter().validate_python({name: changes})[name]
    except ValidationError as error:
        raise Refused(*(_fault(name, one) for one in error.errors())) from None
    if tenant is None:
        return part
    return tenant.model_copy(update={key: getattr(part, key) for key in part.model_fields_set})


@cache
def _adapter() -> TypeAdapter[dict[str, Tenant]]:
    return TypeAdapter(dict[Name, Tenant])


def _fault(name: str, error: Mapping[str, Any]) -> Fault:
    """What pydantic says of a key of a tenant."""
    place = [str(part) for part in error["loc"] if part != "[key]"]
    why = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = [field.alias or key for key, field in Tenant.model_fields.items()]
        what, remedy = f"unknown key {place[-1]!r}", nearest(place[-1], known)
    else:
        what = f"{place[-1]} cannot be {str(error.get('input'))[:100]!r}"
        remedy = "`gigafactory schema blueprint` prints what every key takes"
    return Fault(what, ".".join(("tenants", *place)), why, remedy)


def digest_of(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def write_own(file: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half_done = file.with_name(file.name + ".tmp")
    half_done.unlink(missing_ok=True)  # One left by a crash might be open to others.
    with open(os.open(half_done, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(half_done, file)


def _key_said(tenant: str, user: str, role: str, expires_unix_s: float | None, digest: str) -> Json:
    """What the ledger keeps of a key."""
    return {
        "tenant": tenant,
        "user": user,
        "role": role,
        "expires_unix_s": expires_unix_s,
        "sha256": digest,
    }


def _must_be_user(name: str) -> None:
    if not USER.fullmatch(name):
        why = "a name has 1 to 255 printable characters without blanks"
        raise _no(f"{name[:40]!r} is no name of a user", "user", why, "an address or a short name")


def _must_reach(grant: Grant, role: str) -> None:
    if role not in ROLES:
        raise _no(f"there is no role {role!r}", "role", "none has that name", nearest(role, ROLES))
    if not ROLES[role] <= grant.scopes:
        why = f"yours lacks {', '.join(sorted(ROLES[role] - grant.scopes))}"
        raise _no(f"{role!r} is more than you are", "role", why, "ask somebody who is that")


def _answer(done: asyncio.Future[Acted], answer: Acted | Exception) -> None:
    if done.cancelled():
        return
    if isinstance(answer, Exception):
        done.set_exception(answer)
    else:
        done.set_result(answer)


def _no(what: str, where: str, why: str, remedy: str) -> Refused:
    return Refused(Fault(what, where, why, remedy))
