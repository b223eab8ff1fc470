"""Who may do what: keys, users, tenants, and a record of it that holds through anything."""

import asyncio
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.blueprint.load import parse
from gigafactory.faults import Refused
from gigafactory.ledger.store import HOUSE, Ledger, LedgerFailure, read
from gigafactory.works.house import ROLES, Grant, House, digest_of
from tests import test_oidc as tokens

MILL = """\
gigafactory: 1
name: mill
start: 2026-11-23
owner: FR
sites:
  home: {country: FR, power: 100 kW, systems: {h100-8: 2}}
tenants:
  lab: {quota: 8}
  shop: {weight: 2}
models:
  tiny: {config: qwen3-moe-tiny}
workloads:
  train: {kind: pretrain, tenant: lab, model: tiny, tokens: 1 k tokens}
"""
BLUEPRINT = parse(MILL, Path("mill.yaml"))
NOBODY = "gf-" + "x" * 43
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where no disk need be waited for


class Clock:
    def __init__(self, unix_s=1_800_000_000.0):
        self.unix_s = unix_s

    def __call__(self):
        return self.unix_s


@contextmanager
def opened(folder, blueprint=BLUEPRINT, clock=time.time):
    file = Path(folder) / "ledger.db"
    ledger = Ledger(file)
    try:
        yield House(ledger, file, blueprint, clock=clock)
    finally:
        ledger.close()


@pytest.fixture
def house(tmp_path):
    with opened(tmp_path) as house:
        yield house


def operator(house):
    return house.who(house.local("lab"))


async def bearer(house, by, tenant, role, user="ada", **more):
    """A new key, looked up."""
    key, _ = await house.make_key(by, tenant, user, role, **more)
    return house.who(key)


def told(refused):
    return " ".join(fault.what for fault in refused.value.faults)


def test_a_key_says_whose_it_is_and_can_be_read_only_once(house, tmp_path):
    key, made = asyncio.run(house.make_key(operator(house), "shop", "ada", "member"))
    assert house.who(key) == Grant("ada", "shop", ROLES["member"], made.id)
    assert house.keys[made.id] == made
    assert made.id == digest_of(key)[:8]
    assert len(key) >= len("gf-") + 43  # 256 bits
    written = b"".join(file.read_bytes() for file in tmp_path.glob("ledger.db*"))
    assert digest_of(key).encode() in written
    assert key.encode() not in written


def test_what_is_no_key_is_nobodys(house):
    key = house.local("lab")
    for wrong in (
        "",
        "gf-",
        NOBODY,
        key[:-1],
        key + "=",
        key.upper(),
        "a.b.c",
        "\udc80",
        "x" * 10**6,
    ):
        assert house.who(wrong) is None
    assert house.who(key).may("operate", "lab")


def test_a_key_answers_until_it_expires_and_not_a_moment_longer(tmp_path):
    clock = Clock()
    with opened(tmp_path, clock=clock) as house:
        ends_s = clock.unix_s + 60
        key, made = asyncio.run(house.make_key(operator(house), "lab", "ada", "viewer", ends_s))
        assert made.expires_unix_s == ends_s
        clock.unix_s = ends_s - 0.001
        assert house.who(key)
        clock.unix_s = ends_s
        assert house.who(key) is None
        with pytest.raises(Refused, match="would open nothing"):
            asyncio.run(house.make_key(operator(house), "lab", "ada", "viewer", ends_s))


def test_a_revoked_key_opens_nothing_from_that_moment_and_stays_so(house, tmp_path):
    key, made = asyncio.run(house.make_key(operator(house), "lab", "ada", "admin"))
    held = house.who(key)
    asyncio.run(house.revoke(operator(house), made.id))
    assert house.who(key) is None
    with pytest.raises(Refused, match="opens nothing any more"):  # nor what was looked up before
        asyncio.run(house.make_key(held, "lab", "ada", "viewer"))
    with pytest.raises(Refused, match="revoked already"):
        asyncio.run(house.revoke(operator(house), made.id))
    with opened(copy_of(tmp_path)) as again:
        assert again.who(key) is None


def copy_of(folder):
    """The ledger as it lies there now, as another process would find it after a crash."""
    copied = Path(tempfile.mkdtemp(dir=folder))
    for file in Path(folder).glob("ledger.db*"):
        (copied / file.name).write_bytes(file.read_bytes())
    if (Path(folder) / "key").exists():
        (copied / "key").touch(0o600)
        (copied / "key").write_bytes((Path(folder) / "key").read_bytes())
    return copied


def test_roles_are_sets_of_scopes_each_within_the_next_and_callers_and_viewers_share_nothing():
    for below in ("caller", "viewer"):
        chain = [ROLES[role] for role in ("none", below, "member", "admin", "operator")]
        assert all(less < more for less, more in itertools.pairwise(chain))
    assert ROLES["caller"] == {"infer"}
    assert ROLES["viewer"] == {"read"}
    assert ROLES["operator"] == {"infer", "read", "submit", "manage", "operate"}


def test_only_an_operator_reaches_another_tenant():
    for scope in ROLES["operator"]:
        for role, scopes in ROLES.items():
            grant = Grant("ada", "lab", scopes, "k")
            assert grant.may(scope, "lab") == (scope in scopes)
            assert grant.may(scope, "shop") == (role == "operator")


def test_an_admin_manages_the_own_tenant_and_no_other(house):
    async def story():
        root = operator(house)
        admin = await bearer(house, root, "lab", "admin")
        _, shops = await house.make_key(root, "shop", "eve", "viewer")
        key, made = await house.make_key(admin, "lab", "bob", "admin")
        await house.set_user(admin, "bob", "lab", "viewer")
        assert house.who(key).scopes == ROLES["viewer"]
        await house.revoke(admin, made.id)
        await house.set_user(root, "eve", "lab", "operator")
        for attempt in (
            house.make_key(admin, "shop", "bob", "viewer"),
            house.make_key(admin, "no-such-tenant", "bob", "viewer"),
            house.make_key(admin, "lab", "bob", "operator"),
            house.set_user(admin, "bob", "shop", "viewer"),
            house.set_user(admin, "bob", "lab", "operator"),
            house.set_user(admin, "eve", "lab", "none"),  # an operator
            house.set_user(admin, "local", "lab", "none"),  # the user of an operator's key
            house.revoke(admin, root.key),
            house.set_tenant(admin, "lab", {"quota": 16}),
            house.set_tenant(admin, "shop", {"keep_prompts": True}),
            house.set_tenant(admin, "new", {}),
        ):
            with pytest.raises(Refused):
                await attempt
        with pytest.raises(Refused) as foreign:
            await house.revoke(admin, shops.id)
        with pytest.raises(Refused) as unknown:
            await house.revoke(admin, "12345678")
        assert told(foreign).replace(shops.id, "12345678") == told(unknown)
        assert (await house.set_tenant(admin, "lab", {"keep_prompts": True})).keep_prompts

    asyncio.run(story())


def test_a_caller_asks_models_and_is_narrowed_by_what_the_user_is_set_to(house):
    async def story():
        root = operator(house)
        key, _ = await house.make_key(root, "lab", "bot", "caller")
        assert house.who(key).scopes == {"infer"}
        for role, left in (("member", {"infer"}), ("viewer", None), ("caller", {"infer"})):
            await house.set_user(root, "bot", "lab", role)
            grant = house.who(key)
            assert (grant.scopes if grant else None) == left
        members, _ = await house.make_key(root, "lab", "bot", "member")
        assert house.who(members).scopes == {"infer"}

    asyncio.run(story())


@pytest.mark.parametrize("role", ["none", "caller", "viewer", "member"])
def test_below_an_admin_nobody_manages_anything(house, role):
    async def story():
        less = Grant("ada", "lab", ROLES[role], "")
        for attempt in (
            house.make_key(less, "lab", "ada", "none"),
            house.set_user(less, "ada", "lab", "viewer"),
            house.revoke(less, operator(house).key),
            house.set_tenant(less, "lab", {"keep_prompts": True}),
        ):
            with pytest.raises(Refused):
                await attempt

    asyncio.run(story())


def test_a_key_made_by_a_key_ends_with_it_at_the_latest(tmp_path):
    clock = Clock()

    async def story(house):
        ends_s = clock.unix_s + 3600
        admin = await bearer(house, operator(house), "lab", "admin", expires_unix_s=ends_s)
        for later in (None, ends_s + 1):
            with pytest.raises(Refused, match="outlive yours"):
                await house.make_key(admin, "lab", "bob", "viewer", later)
        assert await bearer(house, admin, "lab", "viewer", expires_unix_s=ends_s)

    with opened(tmp_path, clock=clock) as house:
        asyncio.run(story(house))


def test_a_user_who_is_shut_out_has_no_key_that_opens(house):
    async def story():
        root = operator(house)
        key, _ = await house.make_key(root, "lab", "ada", "admin")
        other, _ = await house.make_key(root, "shop", "ada", "member")
        await house.set_user(root, "ada", "lab", "none")
        assert house.who(key) is None
        assert house.who(other)  # another tenant's ada
        await house.set_user(root, "ada", "lab", "operator")
        assert house.who(key).scopes == ROLES["admin"]  # no more than the key was made for

    asyncio.run(story())


def test_names_and_roles_that_do_not_exist_are_refused(house):
    async def story():
        root = operator(house)
        for tenant, user, role in (
            ("labs", "ada", "viewer"),
            ("lab", "a b", "viewer"),
            ("lab", "", "viewer"),
            ("lab", "ada", "king"),
        ):
            with pytest.raises(Refused):
                await house.make_key(root, tenant, user, role)
            with pytest.raises(Refused):
                await house.set_user(root, user, tenant, role)

    asyncio.run(story())


def test_a_tenant_changes_in_the_units_of_a_blueprint_and_at_once(house):
    async def story():
        root = operator(house)
        changed = await house.set_tenant(
            root, "lab", {"budgets": [{"limit": "100 EUR", "per": "month"}], "weight": 3}
        )
        assert changed is house.tenants["lab"]
        assert (changed.weight, changed.quota) == (3, 8)  # what is left out stays
        assert changed.budgets[0].limit == 100
        assert (await house.set_tenant(root, "lab", {"quota": None})).quota is None
        assert (await house.set_tenant(root, "new", {"quota": 4})).quota == 4
        assert await bearer(house, root, "new", "member")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("name", "changes", "what"),
    [
        ("lab", {"wieght": 2}, "unknown key 'wieght'"),
        ("lab", {"weight": -1}, "weight cannot be"),
        ("lab", {"quota": 17}, "the quotas add up to 17 chips"),  # 16 stand
        ("shop", {"borrow": 4}, "borrows beyond a quota"),
        ("lab", {"budgets": [{"limit": "5 USD", "per": "day"}]}, "a budget in USD cannot be kept"),
        ("A b", {}, "A b cannot be"),
    ],
)
def test_a_change_is_refused_as_a_blueprint_with_it_would_be(house, name, changes, what):
    before = dict(house.tenants)
    with pytest.raises(Refused) as refused:
        asyncio.run(house.set_tenant(operator(house), name, changes))
    assert what in told(refused)
    assert house.tenants == before


def test_a_cohort_can_be_founded_one_tenant_after_the_other(house):
    async def story():
        root = operator(house)
        await house.set_tenant(root, "lab", {"cohort": "eu", "borrow": 4})
        await house.set_tenant(root, "shop", {"cohort": "eu", "quota": 8})

    asyncio.run(story())
    assert {tenant.cohort for tenant in house.tenants.values()} == {"eu"}


def test_a_restart_gives_the_same_house(tmp_path):
    async def story(house):
        root = operator(house)
        await house.make_key(root, "lab", "ada", "admin")
        _, gone = await house.make_key(root, "shop", "eve", "viewer", time.time() + 99)
        await house.revoke(root, gone.id)
        await house.set_user(root, "eve", "shop", "none")
        await house.set_tenant(root, "new", {"budgets": [{"limit": "5 kWh", "per": "week"}]})
        await house.act(root, "job.submit", "train", {"kind": "pretrain"})

    with opened(tmp_path) as house:
        asyncio.run(story(house))
        before = state(house)
    with opened(tmp_path) as house:
        assert state(house) == before
        assert house.verify(before[-1]) is None


def state(house):
    return house.keys, house.users, house.tenants, house.head


def test_the_local_key_is_an_operators_and_only_its_owner_reads_it(tmp_path):
    with opened(tmp_path) as house:
        key = house.local("lab")
        assert house.who(key).scopes == ROLES["operator"]
        assert (tmp_path / "key").read_text() == key + "\n"
        assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
        assert house.local("lab") == key
    with opened(tmp_path) as house:
        assert house.local("lab") == key
        (tmp_path / "key").chmod(0o644)
        safe = house.local("lab")
        assert house.who(key) is None  # others could have read it
        assert house.who(safe)
        assert house.who(house.local("shop")).tenant == "shop"
        assert house.who(safe) is None
        assert len([key for key in house.keys.values() if key.revoked_unix_s is None]) == 1


def test_keys_of_an_older_home_become_keys_of_members_once(tmp_path):
    old = {digest_of("gf-old"): "lab", digest_of("gf-other"): "shop"}
    (tmp_path / "keys.json").write_text(json.dumps(old))
    with opened(tmp_path) as house:
        assert house.who("gf-old").scopes == ROLES["member"]
        assert house.who("gf-other").tenant == "shop"
        assert not (tmp_path / "keys.json").exists()
        acts = [row.body for row in read(tmp_path / "ledger.db", HOUSE)]
        assert [(act["by"], act["did"]) for act in acts] == [("house", "key.make")] * 2
        asyncio.run(house.revoke(operator(house), house.who("gf-old").key))
    (tmp_path / "keys.json").write_text(json.dumps(old))  # a backup was put back
    with opened(tmp_path) as house:
        assert house.who("gf-old") is None
        assert len(house.keys) == 3


def test_what_is_done_elsewhere_is_on_record_and_cannot_pass_for_a_change(house, tmp_path):
    grant = Grant("ada", "lab", ROLES["member"], "12345678")
    act = asyncio.run(house.act(grant, "job.cancel", "train", {"why": "too dear", "n": [1, 2.5]}))
    row = list(read(tmp_path / "ledger.db", HOUSE))[-1]
    assert row.event() == act
    assert (row.body["by"], row.subject) == ("lab/ada:12345678", "train")
    with pytest.raises(AssertionError):
        asyncio.run(house.act(grant, "key.make", "0" * 8, {}))
    with pytest.raises(ValueError):
        asyncio.run(house.act(grant, "job.submit", "train", {"loss": float("nan")}))


def test_acts_of_many_at_once_are_one_chain_in_few_transactions(tmp_path):
    async def story(house):
        root = operator(house)
        admin = await bearer(house, root, "lab", "admin")
        wishes = [house.act(root, "job.submit", f"job-{n}", {"n": n}) for n in range(300)]
        wishes[100:100] = [house.make_key(admin, "lab", "bob", "viewer"),
                           house.revoke(root, admin.key),
                           house.make_key(admin, "lab", "bob", "viewer")]  # fmt: skip
        return await asyncio.gather(*wishes, return_exceptions=True)

    class Counting(Ledger):
        appends = 0

        def append(self, run, *happened):
            self.appends += 1
            return super().append(run, *happened)

    file = tmp_path / "ledger.db"
    ledger = Counting(file)
    house = House(ledger, file, BLUEPRINT)
    answers = asyncio.run(story(house))
    assert [type(one) for one in answers[100:103]] == [tuple, type(None), Refused]
    assert not any(isinstance(one, Exception) for one in answers[:100] + answers[103:])
    assert house.verify() is None
    assert house.head.acts == 2 + 300 + 2
    assert ledger.appends < 12
    ledger.close()


def test_who_stops_waiting_for_an_act_neither_stops_it_nor_splits_the_chain(house):
    async def story():
        root = operator(house)
        for _ in range(20):
            task = asyncio.create_task(house.make_key(root, "lab", "ada", "viewer"))
            await asyncio.sleep(0)
            task.cancel()
            await house.act(root, "job.submit", "train", {})
        while not house._writer.done():
            await asyncio.sleep(0.01)

    asyncio.run(story())
    assert house.verify() is None
    assert house.head.acts == 1 + 40


def test_what_the_ledger_could_not_write_did_not_happen(tmp_path):
    class Full(Ledger):
        full = False

        def append(self, run, *happened):
            future = super().append(run, *() if self.full else happened)
            if self.full:
                future = type(future)()
                future.set_exception(LedgerFailure("no space left on device"))
            return future

    async def story(house, ledger):
        root = operator(house)
        ledger.full = True
        for attempt in (
            house.make_key(root, "lab", "ada", "viewer"),
            house.set_tenant(root, "lab", {"weight": 9}),
            house.act(root, "job.submit", "train", {}),
        ):
            with pytest.raises(LedgerFailure):
                await attempt
        assert (len(house.keys), house.tenants["lab"].weight, house.head.acts) == (1, 1, 1)
        ledger.full = False
        await house.make_key(root, "lab", "ada", "viewer")

    file = tmp_path / "ledger.db"
    ledger = Full(file)
    house = House(ledger, file, BLUEPRINT)
    asyncio.run(story(house, ledger))
    assert house.verify() is None
    ledger.close()


def test_a_ledger_with_a_forged_key_is_not_opened(tmp_path):
    with opened(tmp_path) as house:
        asyncio.run(house.make_key(operator(house), "lab", "ada", "viewer"))
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("update events set body = replace(body, 'viewer', 'operator')")
    with pytest.raises(Refused) as refused, opened(tmp_path):
        pass
    assert "tampered" in told(refused)


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.test_house import opened, operator

async def live(house):
    root = operator(house)
    print("local", house.local("lab"), flush=True)
    for n in range(4):
        key, made = await house.make_key(root, "lab", f"ada-{n}", "viewer")
        print("key", key, flush=True)
        await house.act(root, "job.submit", f"job-{n}", {})
        print("act", f"job-{n}", flush=True)
        await house.set_tenant(root, f"new-{n}", {"weight": n + 1})
        print("tenant", f"new-{n}", flush=True)

with opened(sys.argv[1]) as house:
    print("old", "gf-old", flush=True)
    asyncio.run(live(house))
"""


@pytest.mark.parametrize(
    ("place", "lines"),
    [
        ("house.taken_over", 0),
        ("house.local", 1),
        ("ledger.before_commit:7", 6),
        ("ledger.after_commit:7", 6),
        ("house.acted:9", 10),
    ],
)
def test_killed_anywhere_the_house_forgets_nothing_that_it_said(tmp_path, place, lines):
    (tmp_path / "keys.json").write_text(json.dumps({digest_of("gf-old"): "lab"}))
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)],
        env={**os.environ, "GIGAFACTORY_FAILPOINT": place},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=60,
    )
    assert child.returncode == -9, child.stderr
    said = [line.split() for line in child.stdout.splitlines()]
    assert len(said) == lines
    with opened(tmp_path) as house:
        assert house.who("gf-old").scopes == ROLES["member"]
        local = house.local("lab")
        assert house.who(local)
        acts = {row.subject for row in read(tmp_path / "ledger.db", HOUSE)}
        for what, name in said:
            if what == "key":
                assert house.who(name)
            elif what == "local":
                assert name == local
            elif what == "act":
                assert name in acts
            elif what == "tenant":
                assert name in house.tenants
        asyncio.run(house.make_key(operator(house), "lab", "ada", "viewer"))
        assert house.verify() is None


@contextmanager
def with_provider(folder):
    """A house that believes the tokens of `tests/test_oidc.py`."""
    file = Path(folder) / "jwks.json"
    file.write_text(tokens.key_set())
    oidc = (
        f"access: {{oidc: {{issuer: '{tokens.ISSUER}', audience: {tokens.AUDIENCE}, "
        f"jwks: '{file}', tenant_claim: firm, role_claim: role}}}}\n"
    )
    with opened(folder, parse(MILL + oidc, Path("mill.yaml"))) as house:
        yield house


def test_a_token_speaks_for_whom_its_claims_say_and_no_token_makes_an_operator(tmp_path):
    with with_provider(tmp_path) as house:
        assert house.who(tokens.token()).scopes == ROLES["admin"]  # of member and admin
        assert house.who(tokens.token(tokens.said(role="viewer"))).scopes == ROLES["viewer"]
        for claims in ({"role": "operator"}, {"role": None}, {"role": [["admin"], 7]},
                       {"firm": "other"}, {"firm": None}, {"firm": ["lab"]}):  # fmt: skip
            assert house.who(tokens.token(tokens.said(**claims))) is None
        for roles, scopes in ((["operator", "viewer"], ROLES["viewer"]),
                              ("caller", ROLES["caller"]),
                              (["viewer", "caller"], {"read", "infer"}),
                              (["caller", "none", "member"], ROLES["member"])):  # fmt: skip
            assert house.who(tokens.token(tokens.said(role=roles))).scopes == scopes


def test_the_word_of_the_house_counts_more_than_a_claim(tmp_path):
    async def story(house):
        root, one = operator(house), tokens.token()
        held = house.who(one)
        admin = await bearer(house, root, "shop", "admin", user="eve")
        await house.set_user(admin, "ada", "shop", "admin")
        assert house.who(one).tenant == "lab"  # no tenant takes another's users
        await house.set_user(held, "ada", "lab", "viewer")
        assert house.who(one).scopes == ROLES["viewer"]
        with pytest.raises(Refused):  # what was looked up before is no more than that either
            await house.make_key(held, "lab", "bob", "viewer", held.expires_unix_s)
        await house.set_user(root, "ada", "shop", "operator")
        assert (house.who(one).tenant, house.who(one).scopes) == ("shop", ROLES["operator"])
        await house.set_user(root, "ada", "shop", "none")
        assert house.who(one) is None
        unclaimed = tokens.token(tokens.said(sub="bob", firm=None, role=None))
        await house.set_user(root, "bob", "lab", "member")
        assert house.who(unclaimed).tenant == "lab"

    with with_provider(tmp_path) as house:
        asyncio.run(story(house))
        before = house.who(tokens.token(tokens.said(sub="bob")))
    with with_provider(tmp_path) as house:
        assert house.who(tokens.token(tokens.said(sub="bob"))).scopes == before.scopes


def test_a_token_that_was_believed_ends_at_its_time(tmp_path):
    with with_provider(tmp_path) as house:
        one = tokens.token(tokens.said(exp=time.time() + 60))
        ends_s = house.who(one).expires_unix_s
        house._clock = Clock(ends_s - 0.01)
        assert house.who(one)
        house._clock = Clock(ends_s)
        assert house.who(one) is None


LEVELS = ["none", "viewer", "member", "admin", "operator"]
NAMES = ("ada", "bob")
TENANTS = ("lab", "shop", "new")
steps = st.one_of(
    st.tuples(
        st.just("key"),
        st.integers(0, 9),
        st.sampled_from(TENANTS),
        st.sampled_from(NAMES),
        st.integers(0, 4),
        st.sampled_from([None, 5, 50, 500]),
    ),
    st.tuples(
        st.just("user"),
        st.integers(0, 9),
        st.sampled_from(TENANTS),
        st.sampled_from(NAMES),
        st.integers(0, 4),
    ),
    st.tuples(st.just("revoke"), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("tenant"), st.integers(0, 9), st.sampled_from(TENANTS)),
    st.tuples(st.just("wait"), st.integers(1, 100)),
    st.tuples(st.just("restart")),
)


class Model:
    """The rules again, in the plainest words: a role is a number, a grant the least of two."""

    def __init__(self, root):
        self.now_s = 0
        self.tenants, self.users, self.keys = {"lab", "shop"}, {}, [root]

    def level(self, key):
        """What a key is worth now, 0 to 4."""
        late = key["ends_s"] is not None and self.now_s >= key["ends_s"]
        if key["revoked"] or late or key["tenant"] not in self.tenants:
            return 0
        return min(key["level"], self.users.get((key["tenant"], key["user"]), 4))

    def manages(self, by, tenant, level):
        mine = self.level(by)
        own = mine == 3 and by["tenant"] == tenant
        return (own or mine == 4) and tenant in self.tenants and level <= mine

    def may(self, step):
        """Whether the step is to be accepted."""
        by = self.keys[step[1] % len(self.keys)]
        if step[0] == "key":
            _, _, tenant, _, level, lasts_s = step
            ends_s = by["ends_s"]
            within = ends_s is None or (lasts_s is not None and self.now_s + lasts_s <= ends_s)
            return self.manages(by, tenant, level) and within
        if step[0] == "user":
            _, _, tenant, name, level = step
            of = [k for k in self.keys if (k["tenant"], k["user"]) == (tenant, name)]
            alive = [
                k["level"]
                for k in of
                if not k["revoked"] and (k["ends_s"] is None or self.now_s < k["ends_s"])
            ]
            before = self.users.get((tenant, name), 0)
            return self.manages(by, tenant, max([level, before, *alive]))
        if step[0] == "revoke":
            key = self.keys[step[2] % len(self.keys)]
            return self.manages(by, key["tenant"], key["level"]) and not key["revoked"]
        return self.level(by) == 4  # a tenant

    def take(self, step, token):
        if step[0] == "key":
            tenant, user, level, lasts_s = step[2:]
            ends_s = None if lasts_s is None else self.now_s + lasts_s
            self.keys.append({"token": token, "tenant": tenant, "user": user, "level": level,
                              "ends_s": ends_s, "revoked": False})  # fmt: skip
        elif step[0] == "user":
            self.users[step[2], step[3]] = step[4]
        elif step[0] == "revoke":
            self.keys[step[2] % len(self.keys)]["revoked"] = True
        else:
            self.tenants.add(step[2])


async def carry_out(house, model, held, step, clock):
    """Do a step with the grant that was looked up when its key was made, however old."""
    by = held[step[1] % len(held)]
    if step[0] == "key":
        _, _, tenant, user, level, lasts_s = step
        ends_s = None if lasts_s is None else clock.unix_s + lasts_s
        return (await house.make_key(by, tenant, user, LEVELS[level], ends_s))[0]
    if step[0] == "user":
        await house.set_user(by, step[3], step[2], LEVELS[step[4]])
    elif step[0] == "revoke":
        token = model.keys[step[2] % len(model.keys)]["token"]
        await house.revoke(by, digest_of(token)[:8])
    else:
        await house.set_tenant(by, step[2], {"weight": 2})
    return None


@settings(max_examples=100, deadline=None)
@given(st.lists(steps, max_size=25))
def test_no_grant_exceeds_its_granter_whatever_is_done_by_whom(story):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        clock = Clock()
        with opened(folder, clock=clock) as house:
            token = house.local("lab")
            root = {"token": token, "tenant": "lab", "user": "local", "level": 4,
                    "ends_s": None, "revoked": False}  # fmt: skip
            model, held = Model(root), [house.who(token)]
            for step in story:
                if step[0] == "wait":
                    clock.unix_s += step[1]
                    model.now_s += step[1]
                elif step[0] == "restart":
                    before = state(house)
                    with opened(copy_of(folder), clock=clock) as again:
                        assert state(again) == before
                        agree(again, model)
                else:
                    allowed, granter = model.may(step), held[step[1] % len(held)]
                    try:
                        key = asyncio.run(carry_out(house, model, held, step, clock))
                        assert allowed, step
                    except Refused:
                        assert not allowed, step
                        continue
                    model.take(step, key)
                    if key:
                        made = house.keys[digest_of(key)[:8]]
                        granted = Grant(made.user, made.tenant, ROLES[made.role], made.id)
                        assert granted.scopes <= granter.scopes
                        assert granter.may("operate", made.tenant) or made.tenant == granter.tenant
                        held.append(house.who(key) or granted)
                agree(house, model)
            assert house.verify(house.head) is None


def agree(house, model):
    """Every key opens what the model says, now, and nothing else."""
    for key in model.keys:
        grant, level = house.who(key["token"]), model.level(key)
        if level == 0:
            assert grant is None
        else:
            assert grant.scopes == ROLES[LEVELS[level]]
            assert grant.tenant == key["tenant"]
            foreign = next(name for name in TENANTS if name != key["tenant"])
            for scope in ROLES["operator"]:
                assert grant.may(scope, foreign) == (level == 4)
