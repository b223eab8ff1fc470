"""The commands of a factory that many share: tenants, users, keys, budgets, bills, the audit.

Thin: they ask the works through `Client`, here or at `$GIGAFACTORY_URL`. Bills and the audit are
read from the ledger of this home where none runs.
"""

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gigafactory.door import AS_JSON, door, say, write_whole
from gigafactory.faults import Fault, Refused, nearest
from gigafactory.running import connected, last_run, runs, table

TENANT = Annotated[str | None, typer.Option(help="of this tenant; your own by default")]
ROLE = "none, caller, viewer, member, admin or operator"
DAY_S = 86_400.0
MONTH = re.compile(r"[1-9][0-9]{3}-(0[1-9]|1[0-2])")

keys = typer.Typer(
    no_args_is_help=True,
    help="Keys: who may ask. Made once, read once; only their hashes are kept.",
)


def mount(app: typer.Typer) -> None:
    """Add these commands to the door."""
    for command in (tenants, users, budgets, bill, audit):
        app.command()(command)
    keys.command("make")(make)
    keys.command("list")(list_)
    keys.command("revoke")(revoke)
    app.add_typer(keys, name="keys")


def tenants(
    name: Annotated[str | None, typer.Argument(help="one of them; made where it is new")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="as in the blueprint: quota=2"),
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """List who shares the factory, or change what one may use.

    Examples: `gigafactory tenants`, `gigafactory tenants lab --set quota=2`,
    `gigafactory tenants lab --set "budgets=[{limit: 100 EUR, per: month}]"`
    """
    with door(as_json), connected() as factory:
        if name is not None and set_:
            changes = dict(_change(one) for one in set_)
            found = {name: factory.set_tenant(name, changes)}
        elif set_:
            why, hint = "it is not said whose", "gigafactory tenants NAME --set quota=2"
            raise Refused(Fault("--set without a tenant", "--set", why, hint))
        else:
            found = factory.tenants()
            if name is not None and name not in found:
                why, hint = "none of that name is yours", nearest(name, found)
                raise Refused(Fault(f"there is no tenant {name!r}", name, why, hint))
            found = found if name is None else {name: found[name]}
        header = ("tenant", "weight", "quota", "borrow", "cohort", "budgets")
        rows = [
            (of, str(it["weight"]), *(_or_dash(it[key]) for key in header[2:5]),
             ", ".join(map(_budget, it["budgets"])))
            for of, it in found.items()
        ]  # fmt: skip
        say({"tenants": found}, as_json, lambda: table(header, rows))


def users(
    name: Annotated[str | None, typer.Argument(help="one of them, to be set")] = None,
    role: Annotated[str | None, typer.Option(help=ROLE)] = None,
    tenant: TENANT = None,
    as_json: AS_JSON = False,
) -> None:
    """List users, or say what one is: no key or token of that name reaches further.

    Examples: `gigafactory users`, `gigafactory users ann --role viewer --tenant lab`
    """
    with door(as_json), connected() as factory:
        if (name is None) != (role is None):
            hint = "gigafactory users ann --role viewer"
            raise Refused(Fault("half a user", "--role", "a name goes with a role", hint))
        if name is not None and role is not None:
            found = [factory.set_user(name, role, tenant)]
        else:
            found = [user for user in factory.users() if tenant in (None, user["tenant"])]
        header = ("name", "tenant", "role")
        rows = [[user[key] for key in header] for user in found]
        say({"users": found}, as_json, lambda: table(header, rows))


def make(
    user: Annotated[str, typer.Argument(help="whose key it will be")],
    role: Annotated[str, typer.Option(help=ROLE)] = "member",
    tenant: TENANT = None,
    days: Annotated[float | None, typer.Option(min=0, help="until it opens nothing")] = None,
    as_json: AS_JSON = False,
) -> None:
    """Make a key, and print it this once; it reaches no further than yours.

    Example: `gigafactory keys make ann --role member --tenant lab --days 90`
    """
    with door(as_json), connected() as factory:
        expires_unix_s = None if days is None else time.time() + days * DAY_S
        made = factory.make_key(user, role, tenant, expires_unix_s)
        say(made, as_json, lambda: made["key"])


def list_(as_json: AS_JSON = False) -> None:
    """List keys by id; what opens is known to nobody.

    Example: `gigafactory keys list`
    """
    with door(as_json), connected() as factory:
        found = factory.keys()
        header = ("id", "tenant", "user", "role", "made", "opens until, UTC")
        rows = [
            [*(key[of] for of in header[:4]), f"{_time(key['made_unix_s']):.10}", _until(key)]
            for key in found
        ]
        say({"keys": found}, as_json, lambda: table(header, rows))


def revoke(
    key: Annotated[str, typer.Argument(help="its id, as `gigafactory keys list` has it")],
    as_json: AS_JSON = False,
) -> None:
    """From now on the key opens nothing.

    Example: `gigafactory keys revoke 1a2b3c4d`
    """
    with door(as_json), connected() as factory:
        answer = factory.revoke(key)
        say(answer, as_json, lambda: f"{key}: revoked")


def budgets(tenant: TENANT = None, as_json: AS_JSON = False) -> None:
    """What is spent, reserved and left of each budget, and when it is whole again.

    Example: `gigafactory budgets --tenant lab`
    """
    with door(as_json), connected() as factory:
        found = factory.budgets(tenant)
        header = ("tenant", "budget", "spent", "reserved", "left", "until")
        rows = [
            [row["tenant"], _budget(row["budget"])]
            + [f"{row[key]:,.6g}" for key in ("spent", "reserved", "left")]
            + [_time(row["resets_unix_s"])]
            for row in found
        ]
        say({"budgets": found}, as_json, lambda: table(header, rows))


def bill(
    run: Annotated[str | None, typer.Option(help="a run of this home; else the last")] = None,
    month: Annotated[str | None, typer.Option(help="a month instead, UTC: 2026-11")] = None,
    tenant: Annotated[str | None, typer.Option(help="only of this tenant")] = None,
    csv: Annotated[Path | None, typer.Option(help="write its lines here, as CSV")] = None,
    as_json: AS_JSON = False,
) -> None:
    """What each tenant used and owes: chip-hours, energy, carbon, tokens, money.

    Of a run, or with --month of a month over all runs.

    Examples: `gigafactory bill --run laptop-1 --json`,
    `gigafactory bill --month 2026-11 --csv november.csv`
    """
    with door(as_json):
        if run is not None and month is not None:
            hint = "name one of them"
            raise Refused(Fault("--run and --month", "--month", "each is another bill", hint))
        if month is not None and not MONTH.fullmatch(month):
            hint = "write it as 2026-11"
            raise Refused(Fault(f"{month!r} is no month", "--month", "it has another form", hint))
        if month is None and csv is None and (run or not os.environ.get("GIGAFACTORY_URL")):
            _bill_of_run(run, tenant, as_json)
            return
        if runs():
            with connected() as factory:
                asked = factory.bill(month, tenant)
                text = factory.bill_csv(month, tenant) if csv else ""
        else:
            asked, text = _month_at_home(month, tenant)
        if csv is not None:
            write_whole(csv, text)
        say(asked, as_json, lambda: _bills(asked))


def audit(
    verify: Annotated[bool, typer.Option(help="whether it is as it was written")] = False,
    as_json: AS_JSON = False,
) -> None:
    """Who did what, as a chain of digests; exit code 1 where --verify finds it broken.

    Note the last digest elsewhere: it shows whether the end was cut off.

    Example: `gigafactory audit --verify --json`
    """
    with door(as_json):
        if runs():
            with connected() as factory:
                whole = factory.audit(verify=verify)
                page = whole
                while page["audit"]:
                    page = factory.audit(page["next"])
                    whole["audit"] += page["audit"]
        else:
            whole = _audit_at_home()
        header = ("time", "by", "did", "about")
        rows = [
            (_time(act["at_unix_s"]), act["by"], act["did"], act["about"]) for act in whole["audit"]
        ]

        def shown() -> Any:
            from rich.console import Group

            said = f"{whole['acts']} acts, last digest {whole['digest'] or 'none'}"
            broken = whole["fault"]
            verdict = f"; BROKEN at {broken['where']}: {broken['why']}" if broken else "; whole"
            return Group(table(header, rows), said + verdict * verify)

        say(whole, as_json, shown)
        if verify and whole["fault"]:
            raise typer.Exit(1)


def _bill_of_run(run: str | None, tenant: str | None, as_json: bool) -> None:
    from gigafactory.console import terminal

    book, last = last_run(run)
    rows = [row for row in book.bill(last["run"]) if tenant in (None, row["tenant"])]
    currency = last["plan"]["currency"]
    whole = {"run": last["run"], "currency": currency, "tenants": rows}
    say(whole, as_json, lambda: terminal.bill(rows, currency))


def _bills(asked: dict[str, Any]) -> Any:
    """The bills of a month as those of a run; of several currencies a table each."""
    from rich.console import Group

    from gigafactory.console import terminal

    if not asked["bills"]:
        return f"nobody used anything in {asked['month']}"
    rows: dict[str, list[dict[str, Any]]] = {}
    for of in asked["bills"]:
        energy_kwh = of["energy_measured_kwh"] + of["energy_modelled_kwh"]
        row = {**of, "chip_s": sum(of["chip_h"].values()) * 3600, "energy_kwh": energy_kwh}
        rows.setdefault(of["currency"], []).append(row)
    return Group(*(terminal.bill(rows[currency], currency) for currency in rows))


def _month_at_home(month: str | None, tenant: str | None) -> tuple[dict[str, Any], str]:
    """A month's bills from the ledger of this home, and their lines as CSV."""
    from gigafactory.ledger import sheet

    book, _ = last_run()
    asked = month or time.strftime("%Y-%m", time.gmtime())
    found = [b for b in book.months() if b["month"] == asked and tenant in (None, b["tenant"])]
    return {"month": asked, "bills": found}, sheet.table(found)


def _audit_at_home() -> dict[str, Any]:
    from dataclasses import asdict

    from gigafactory.ledger import audit as chain
    from gigafactory.ledger.store import HOUSE, read
    from gigafactory.works.home import Home

    rows = list(read(Home.default().ledger, HOUSE, kinds=["Acted"]))
    fault, head = chain.verify(rows), chain.head(rows)
    kept = ("by", "did", "about", "said", "digest")
    acts = [
        {"seq": row.seq, "at_unix_s": row.at_s, **{key: row.body[key] for key in kept}}
        for row in rows
    ]
    return {
        "audit": acts,
        "acts": head.acts,
        "digest": head.digest,
        "fault": fault and asdict(fault),
    }


def _change(said: str) -> tuple[str, Any]:
    """A key of a tenant with its value, which is read as YAML, like the blueprint."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    key, sign, value = said.partition("=")
    try:
        if sign:
            return key.strip(), YAML(typ="safe").load(value)
        why = "it has no '='"
    except YAMLError as error:
        why = str(error).splitlines()[0]
    raise Refused(Fault(f"--set {said!r} sets nothing", "--set", why, "write it as quota=2"))


def _budget(budget: dict[str, Any]) -> str:
    """A budget in a few letters, in SI."""
    unit = {"energy": "J", "carbon": "gCO2e", "tokens": "tokens"}.get(
        budget["of"], budget.get("currency") or ""
    )
    return f"{budget['limit']:,.6g} {unit} per {budget['per']}"


def _or_dash(value: Any) -> str:
    return "–" if value is None else str(value)


def _until(key: dict[str, Any]) -> str:
    """How long a key opens, or since when it does no more."""
    if key["revoked_unix_s"] is not None:
        return f"revoked {_time(key['revoked_unix_s']):.16}"
    ends_unix_s = key["expires_unix_s"]
    if ends_unix_s is None:
        return "for ever"
    return "expired " * (ends_unix_s <= time.time()) + f"{_time(ends_unix_s):.16}"


def _time(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S}"
