"""The firms over HTTP: tenants, users, keys, budgets, bills, and the record of who did what.

What is another tenant's is answered as if it were not there. Limits in SI, money in units of
the blueprint's currency; bills in micro-units.
"""

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from fastapi import Query
from pydantic import BaseModel
from starlette.responses import Response

from gigafactory.blueprint.schema import Budget, Tenant
from gigafactory.ledger import sheet
from gigafactory.ledger.store import HOUSE, read
from gigafactory.works import billing
from gigafactory.works.api.guard import Who, nothing, route

if TYPE_CHECKING:
    from gigafactory.works.api import Api
    from gigafactory.works.house import Grant

MONTH = r"^[1-9][0-9]{3}-(0[1-9]|1[0-2])$"
AUDIT_MAX = 1000
BILLS_FRESH_S = 3.0
Role = Literal["none", "caller", "viewer", "member", "admin", "operator"]


class Tenants(BaseModel):
    """Tenants by name, as they are in force now."""

    tenants: dict[str, Tenant]


class User(BaseModel):
    """Somebody in a tenant."""

    name: str
    tenant: str
    role: Role


class Users(BaseModel):
    """Users that one may see."""

    users: list[User]


class NewUser(BaseModel):
    """What somebody shall be; one's own tenant where none is named."""

    role: Role
    tenant: str | None = None


class Key(BaseModel):
    """A key, without what opens."""

    id: str
    tenant: str
    user: str
    role: str
    by: str
    made_unix_s: float
    expires_unix_s: float | None
    revoked_unix_s: float | None


class Keys(BaseModel):
    """Keys that one may see."""

    keys: list[Key]


class NewKey(BaseModel):
    """A key to be made; one's own tenant where none is named."""

    user: str
    role: Role = "member"
    tenant: str | None = None
    expires_unix_s: Annotated[float, Query(ge=0, lt=1e12)] | None = None


class MadeKey(BaseModel):
    """A new key, which can be read this once."""

    key: str
    made: Key


class Left(BaseModel):
    """What is left of a budget in the window that runs now."""

    tenant: str
    budget: Budget
    spent: float
    reserved: float
    left: float
    resets_unix_s: float


class Budgets(BaseModel):
    """Budgets that one may see."""

    budgets: list[Left]


class Item(BaseModel):
    """A line of a bill: a job in a pool, or a service that answered."""

    what: Literal["job", "service"]
    run: str
    name: str
    pool: str
    chip_h: float
    energy_measured_kwh: float
    energy_modelled_kwh: float
    carbon_g: float
    requests: int
    input_tokens: int
    output_tokens: int
    disputed: int
    money_micro: int


class Bill(BaseModel):
    """What a tenant used in a month, and owes."""

    month: str
    tenant: str
    currency: str
    chip_h: dict[str, float]
    """By pool."""
    energy_measured_kwh: float
    energy_modelled_kwh: float
    carbon_g: float
    requests: int
    input_tokens: int
    output_tokens: int
    disputed: int
    chips_micro: int
    tokens_micro: int
    total_micro: int
    items: list[Item]


class Bills(BaseModel):
    """The bills of a month; who used nothing has none."""

    month: str
    bills: list[Bill]


class Act(BaseModel):
    """Somebody did something."""

    seq: int
    at_unix_s: float
    by: str
    did: str
    about: str
    said: dict[str, Any]
    digest: str


class Audit(BaseModel):
    """Acts in order; `acts` and `digest` of the whole chain are to be noted elsewhere."""

    audit: list[Act]
    next: int
    acts: int
    digest: str
    fault: dict[str, str] | None
    """Where the chain is broken; asked for with `verify`."""


class Firm:
    """The routes."""

    def __init__(self, api: "Api"):
        self._works, self._house = api.works, api.works.house
        self._bills: list[dict[str, Any]] = []
        self._counted_s = float("-inf")
        self._counting = asyncio.Lock()

    @route("GET", "/api/tenants", "read", response_model=Tenants)
    async def tenants(self, who: Who) -> Response:
        """Tenants, with weight, quota and limits."""
        mine = {name: self._tenant(name) for name in self._seen(who, "read")}
        return _json({"tenants": mine})

    @route("GET", "/api/tenants/{tenant}", "read", response_model=Tenant)
    async def tenant(self, tenant: str, who: Who) -> Response:
        """One tenant."""
        self._must_see(who, "read", tenant)
        return _json(self._tenant(tenant))

    @route("PATCH", "/api/tenants/{tenant}", "manage", response_model=Tenant)
    async def set_tenant(self, tenant: str, changes: dict[str, Any], who: Who) -> Response:
        """Change keys of a tenant, written as in the blueprint; operators make tenants, too."""
        if not who.may("manage", tenant):
            raise nothing("tenant", tenant, self._seen(who, "manage"))
        await self._works.set_tenant(who, tenant, changes)
        return _json(self._tenant(tenant))

    @route("GET", "/api/users", "manage", response_model=Users)
    async def users(self, who: Who) -> dict[str, Any]:
        """Users who were set by name."""
        users = self._house.users.values()
        return {"users": [asdict(user) for user in users if who.may("manage", user.tenant)]}

    @route("PUT", "/api/users/{user}", "manage", response_model=User)
    async def set_user(self, user: str, new: NewUser, who: Who) -> dict[str, Any]:
        """Say what a user is: their keys and tokens reach no further."""
        tenant = self._must_see(who, "manage", new.tenant)
        return asdict(await self._house.set_user(who, user, tenant, new.role))

    @route("GET", "/api/keys", "manage", response_model=Keys)
    async def keys(self, who: Who) -> dict[str, Any]:
        """Keys by id, with whom they are for; what opens is known to nobody."""
        keys = self._house.keys.values()
        return {"keys": [asdict(key) for key in keys if who.may("manage", key.tenant)]}

    @route("POST", "/api/keys", "manage", response_model=MadeKey)
    async def make_key(self, new: NewKey, who: Who) -> dict[str, Any]:
        """Make a key that reaches no further than the one that asks."""
        tenant = self._must_see(who, "manage", new.tenant)
        made = await self._house.make_key(who, tenant, new.user, new.role, new.expires_unix_s)
        return {"key": made[0], "made": asdict(made[1])}

    @route("DELETE", "/api/keys/{key}", "manage", response_model=Key)
    async def revoke(self, key: str, who: Who) -> dict[str, Any]:
        """From now on the key opens nothing."""
        known = self._house.keys.get(key)
        if known is None or not who.may("manage", known.tenant):
            raise nothing("key", key)
        await self._house.revoke(who, key)
        return asdict(self._house.keys[key])

    @route("GET", "/api/budgets", "read", response_model=Budgets)
    async def budgets(self, who: Who, tenant: str | None = None) -> Response:
        """What is spent, reserved and left of each budget, and when it is whole again."""
        names = [self._must_see(who, "read", tenant)] if tenant else self._seen(who, "read")
        found = [
            {
                "tenant": name,
                "budget": left.budget.model_dump(mode="json"),
                "spent": left.spent,
                "reserved": left.reserved,
                "left": max(0.0, left.budget.limit - left.spent - left.reserved),
                "resets_unix_s": left.resets_unix_s,
            }
            for name in names
            for left in self._works.budgets.left(name)
        ]
        return _json({"budgets": found})

    @route("GET", "/api/bill", "read", response_model=Bills,
           responses={200: {"content": {"text/csv": {}}}})  # fmt: skip
    async def bill(
        self,
        who: Who,
        month: Annotated[str | None, Query(pattern=MONTH, examples=["2026-11"])] = None,
        tenant: str | None = None,
        form: Literal["json", "csv"] = "json",
    ) -> Response:
        """A month's bill, UTC; the month that runs now where none is named."""
        names = {self._must_see(who, "read", tenant)} if tenant else set(self._seen(who, "read"))
        asked = month or time.strftime("%Y-%m", time.gmtime())
        async with self._counting:  # Each takes a while and a core: one after another.
            if time.monotonic() - self._counted_s > BILLS_FRESH_S:
                self._bills = await billing.months(self._works.home.ledger)
                self._counted_s = time.monotonic()
        found = [b for b in self._bills if b["month"] == asked and b["tenant"] in names]
        if form == "csv":
            return Response(sheet.table(found), media_type="text/csv")
        return _json({"month": asked, "bills": found})

    @route("GET", "/api/audit", "operate", response_model=Audit)
    async def audit(
        self,
        after: Annotated[int, Query(ge=0, lt=1 << 53)] = 0,
        limit: Annotated[int, Query(ge=1, le=AUDIT_MAX)] = AUDIT_MAX,
        verify: bool = False,
    ) -> Response:
        """Who did what; with `verify`, whether the record is as it was written."""
        fault = await asyncio.to_thread(self._house.verify) if verify else None
        acts, last = await asyncio.to_thread(self._acts, after, limit)
        head = self._house.head
        return _json(
            {
                "audit": acts,
                "next": last,
                "acts": head.acts,
                "digest": head.digest,
                "fault": fault and asdict(fault),
            }
        )

    def _acts(self, after: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        acts: list[dict[str, Any]] = []
        for row in read(self._works.home.ledger, HOUSE, after, ["Acted"]):
            after = row.seq
            said = {key: row.body[key] for key in ("by", "did", "about", "said", "digest")}
            acts.append({"seq": row.seq, "at_unix_s": row.at_s, **said})
            if len(acts) == limit:
                break
        return acts, after

    def _tenant(self, name: str) -> dict[str, Any]:
        return self._house.tenants[name].model_dump(mode="json")

    def _seen(self, who: "Grant", scope: str) -> list[str]:
        return [name for name in self._house.tenants if who.may(scope, name)]

    def _must_see(self, who: "Grant", scope: str, tenant: str | None) -> str:
        """The tenant that is meant: one's own where none is named."""
        name = who.tenant if tenant is None else tenant
        if name not in self._house.tenants or not who.may(scope, name):
            raise nothing("tenant", name, self._seen(who, scope))
        return name


def _json(whole: Any) -> Response:
    return Response(orjson.dumps(whole), media_type="application/json")
