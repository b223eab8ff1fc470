"""Bills: each month to its tenant, each request once, and no more nor less than was used."""

import csv
import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.blueprint.load import parse
from gigafactory.blueprint.schema import Budget
from gigafactory.factory import events as ev
from gigafactory.ledger import sheet
from gigafactory.ledger.book import COLUMNS, Book
from gigafactory.ledger.store import Ledger
from gigafactory.plan import Rates, make
from gigafactory.works.budgets import Budgets, refill
from tests import postgres
from tests.test_rates import POOL, PRICED, unix

PLAN = make(parse(PRICED, Path("mill.yaml")))
RATES = Rates.of(PLAN)
OPENED = unix(2026, 11, 23)


def opened(run="r"):
    return ev.RunOpened(0.0, run, "wall", OPENED, "", PLAN.model_dump(mode="json"))


def submitted(job, tenant):
    return ev.JobSubmitted(0.0, job, tenant, "finetune", 2, (POOL,))


def used(began_unix_s, held_s, basis="modelled", chips=2, old=False):
    chip_s, energy_j = held_s * chips, held_s * 10.0
    charges = RATES.attempt(POOL, chip_s, energy_j, began_unix_s, began_unix_s + held_s)
    usage = {"chip_s": chip_s, "energy_j": energy_j, "energy_basis": basis, "pool": POOL}
    return usage if old else {**usage, "charges": charges}


def written(path, rows):
    """A ledger of `(run, unix_s, event)`, as Parquet."""
    columns = [[] for _ in COLUMNS]
    for seq, (run, unix_s, event) in enumerate(rows, 1):
        kind, subject, at_s, body = ev.to_row(event)
        row = (seq, run, kind, subject, at_s, unix_s, json.dumps(body))
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, COLUMNS, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=COLUMNS), path)
    return Book.open(path)


def test_a_job_over_new_year_is_on_two_bills(tmp_path):
    began = unix(2026, 12, 31, 22)
    done = ev.JobDone(1.0, "train", 1, True, {}, used(began, 4 * 3600.0, "measured"))
    book = written(
        tmp_path / "l.parquet",
        [
            ("r", OPENED, opened()),
            ("r", OPENED, submitted("train", "lab")),
            ("r", began, ev.JobStarted(0.5, "train", 1, POOL, ("n",), (2,))),
            ("r", began + 4 * 3600, done),
        ],
    )
    december, january = book.months()
    assert (december["month"], january["month"]) == ("2026-12", "2027-01")
    for bill in (december, january):
        assert bill["tenant"] == "lab"
        assert bill["chip_h"] == {POOL: pytest.approx(4)}
        assert bill["energy_measured_kwh"] == pytest.approx(0.02)
        assert bill["energy_modelled_kwh"] == 0
        assert bill["carbon_g"] == pytest.approx(0.02 * 36)
        assert bill["total_micro"] == bill["chips_micro"] == 4 * 3_600_000
    assert book.monthly("2027-01") == [january]
    (row,) = book.bill("r")
    assert row["total_micro"] == 8 * 3_600_000


def test_prices_of_a_bill_are_those_of_the_day(tmp_path):
    """The plan's own price would be half of it."""
    began = unix(2027, 1, 20)
    book = written(
        tmp_path / "l.parquet",
        [
            ("r", OPENED, opened()),
            ("r", OPENED, submitted("train", "lab")),
            ("r", OPENED, ev.JobStarted(0.5, "train", 1, POOL, ("n",), (2,))),
            ("r", began, ev.JobDone(1.0, "train", 1, True, {}, used(began, 3600.0))),
            ("r", began, ev.RequestSettled(2.0, "q", "lab", "svc", 10**6, 10**6, 0.1, 1.0,
                                           "complete", RATES.request(began, 10**6, 10**6))),
        ],
    )  # fmt: skip
    (bill,) = book.months("lab")
    assert (bill["chips_micro"], bill["tokens_micro"]) == (2 * 7_200_000, 1_000_000)
    assert [(i["what"], i["name"]) for i in bill["items"]] == [("job", "train"), ("service", "svc")]
    (row,) = book.bill("r")
    assert row["total_micro"] == bill["total_micro"] == 2 * 7_200_000 + 1_000_000


def test_what_an_older_release_wrote_is_billed_as_it_was(tmp_path):
    ended = unix(2027, 1, 20)
    book = written(
        tmp_path / "l.parquet",
        [
            ("r", OPENED, opened()),
            ("r", OPENED, submitted("train", "lab")),
            ("r", OPENED, ev.JobStarted(0.5, "train", 1, POOL, ("n",), (2,))),
            ("r", ended, ev.JobDone(1.0, "train", 1, True, {}, used(ended, 3600.0, old=True))),
            ("r", ended, ev.RequestSettled(2.0, "q", "lab", "svc", 10**6, 10**6, 0.1, 1.0,
                                           "complete")),
        ],
    )  # fmt: skip
    (bill,) = book.months()
    assert (bill["chips_micro"], bill["tokens_micro"]) == (2 * 3_600_000, 500_000)
    assert bill["carbon_g"] == pytest.approx(0.01 * 36)
    (row,) = book.bill("r")
    assert row["total_micro"] == bill["total_micro"]


def test_one_month_goes_over_all_runs(tmp_path):
    at = unix(2026, 12, 2)
    settled = ev.RequestSettled(2.0, "q", "lab", "svc", 1, 2, 0.1, 1.0, "complete", 7)
    rows = [("r", OPENED, opened()), ("s", OPENED, opened("s")), ("r", at, settled),
            ("s", at, settled), ("s", at, settled)]  # fmt: skip
    (bill,) = written(tmp_path / "l.parquet", rows).months()
    assert (bill["requests"], bill["tokens_micro"]) == (2, 14)
    assert [(item["run"], item["requests"]) for item in bill["items"]] == [("r", 1), ("s", 1)]


def test_a_bill_as_csv_sums_to_the_bill(tmp_path):
    at = unix(2026, 12, 2)
    book = written(
        tmp_path / "l.parquet",
        [
            ("r", OPENED, opened()),
            ("r", OPENED, submitted("train", "lab")),
            ("r", at, ev.JobDone(1.0, "train", 1, True, {}, used(at, 1.0))),
            ("r", at, ev.RequestSettled(2.0, "q", "lab", "svc", 5, 2, 0.1, 1.0, "complete", 7)),
            ("r", at, ev.RequestDisputed(2.0, "p", "lab", "crash")),
        ],
    )
    (bill,) = book.months()
    lines = list(csv.DictReader(sheet.table([bill]).splitlines()))
    assert {(line["month"], line["tenant"], line["currency"]) for line in lines} == {
        ("2026-12", "lab", "EUR")
    }
    assert sum(Decimal(line["money"]) for line in lines) * 10**6 == bill["total_micro"] == 2007
    assert sum(int(line["disputed"]) for line in lines) == bill["disputed"] == 1


@pytest.mark.parametrize(
    ("micro", "text"),
    [(0, "0.000000"), (1, "0.000001"), (1_250_000, "1.250000"), (-5, "-0.000005")],
)
def test_money_is_written_to_the_millionth(micro, text):
    assert sheet.money(micro) == text


def test_an_empty_ledger_has_no_bills(tmp_path):
    assert Book.open(tmp_path / "none.db").months() == []


tenants = st.sampled_from(["lab", "shop", "mill"])
moments = st.floats(OPENED, unix(2027, 4, 1))
attempts = st.builds(
    lambda run, job, attempt, kind, began, held_s, basis, old: (
        run, began + held_s,
        kind(job, attempt, used(began, held_s, basis, old=old)),
    ),
    st.sampled_from("rs"), st.sampled_from(["a", "b", "c"]), st.integers(1, 3),
    st.sampled_from([
        lambda j, n, u: ev.JobDone(9.0, j, n, True, {}, u),
        lambda j, n, u: ev.JobFailed(9.0, j, n, {}, u),
        lambda j, n, u: ev.JobLost(9.0, j, n, "gone", u),
        lambda j, n, u: ev.JobStopped(9.0, j, n, u),
    ]),
    moments, st.floats(0, 5e6), st.sampled_from(["measured", "modelled"]), st.booleans(),
)  # fmt: skip
names = st.sampled_from([f"q{n}" for n in range(12)])
words = st.one_of(
    st.tuples(st.sampled_from("rs"), moments, st.builds(
        ev.RequestSettled, st.just(5.0), names, tenants, st.sampled_from(["svc", "svc.2"]),
        st.integers(0, 10**6), st.integers(0, 10**6), st.just(0.1), st.just(1.0),
        st.just("complete"), st.none() | st.integers(0, 10**9))),
    st.tuples(st.sampled_from("rs"), moments,
              st.builds(ev.RequestDisputed, st.just(5.0), names, tenants, st.just("crash"))),
)  # fmt: skip


@settings(deadline=None, max_examples=15)
@given(st.lists(attempts | words, max_size=30), st.randoms(use_true_random=False))
def test_tenants_owe_what_was_used_once_whatever_is_repeated(tmp_path_factory, said, order):
    """In any order, with any row twice, the first word on an attempt or a request stands."""
    owner = dict(zip("abc", ("lab", "shop", "lab"), strict=True))
    said = [*said, *order.choices(said, k=len(said) // 2)] if said else []
    rows = [("r", OPENED, opened()), ("s", OPENED, opened("s"))]
    rows += [(run, OPENED, submitted(job, owner[job])) for run in "rs" for job in owner]
    rows += [(run, OPENED, ev.JobStarted(1.0, j, n, POOL, ("n",), (2,)))
             for run in "rs" for j in owner for n in (1, 2, 3)]  # fmt: skip
    path = tmp_path_factory.mktemp("bills") / "l.parquet"
    book = written(path, rows + said)

    first, money, chip_s, requests = {}, Counter(), Counter(), Counter()
    for run, unix_s, event in said:
        number = getattr(event, "attempt", None)
        first.setdefault((run, event.subject, number), (unix_s, event))
    for (_, subject, _), (unix_s, event) in first.items():
        month = datetime.fromtimestamp(int(unix_s), UTC).strftime("%Y-%m")
        if isinstance(event, ev.RequestSettled):
            price = event.money_micro
            if price is None:
                tokens = event.prompt_tokens * 1e-7 + event.completion_tokens * 4e-7
                price = round(tokens * 1e6 + 1e-6)
            money[month, event.tenant] += price
            requests[event.tenant, "settled"] += 1
        elif isinstance(event, ev.RequestDisputed):
            requests[event.tenant, "disputed"] += 1
        else:
            for piece in event.used.get("charges") or [
                {"month": month, "money_micro": round(event.used["chip_s"] * 1000)}
            ]:
                money[piece["month"], owner[subject]] += piece["money_micro"]
            chip_s[owner[subject]] += event.used["chip_s"]

    made = book.months()
    billed = {(b["month"], b["tenant"]): b["total_micro"] for b in made}
    for key in billed.keys() | money.keys():
        assert billed.get(key, 0) == pytest.approx(money[key], abs=15)  # halves of old rows
    for tenant in ("lab", "shop", "mill"):
        mine = [b for b in made if b["tenant"] == tenant]
        assert sum(sum(b["chip_h"].values()) for b in mine) * 3600 == pytest.approx(
            chip_s[tenant], abs=1e-4
        )
        assert sum(b["requests"] for b in mine) == requests[tenant, "settled"]
        assert sum(b["disputed"] for b in mine) == requests[tenant, "disputed"]
        assert book.months(tenant) == mine
        for bill in mine:
            assert bill["total_micro"] == sum(item["money_micro"] for item in bill["items"])
            assert bill["total_micro"] == bill["chips_micro"] + bill["tokens_micro"]
    by_run = [row for run in "rs" for row in book.bill(run)]
    assert sum(row["total_micro"] for row in by_run) == sum(billed.values())
    assert sum(row["disputed"] for row in by_run) == sum(b["disputed"] for b in made)


def happened():
    return [
        opened(),
        submitted("train", "lab"),
        ev.JobStarted(0.5, "train", 1, POOL, ("n",), (2,)),
        ev.JobDone(1.0, "train", 1, True, {}, used(unix(2027, 1, 31, 23), 7200.0)),
        ev.RequestSettled(2.0, "q", "lab", "svc", 5, 2, 0.1, 1.0, "complete", 7),
        ev.RequestSettled(2.0, "ü\n", "lab", "svc", 5, 2, 0.1, 1.0, "complete"),
    ]


def test_a_book_stands_still_while_the_ledger_grows(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.append("r", *happened()).result()
    book = Book.open(tmp_path / "ledger.db")
    more = ev.RequestSettled(3.0, "p", "lab", "svc", 5, 2, 0.1, 1.0, "complete", 9)
    ledger.append("r", more).result()
    ledger.close()
    assert sum(bill["requests"] for bill in book.months()) == 2
    assert len(book.requests("r")) == 2
    assert sum(bill["requests"] for bill in Book.open(tmp_path / "ledger.db").months()) == 3


@pytest.fixture(params=["sqlite", *(["postgresql"] if postgres.BINARIES else [])])
def where(request, tmp_path):
    """Where a new ledger lies: a file, and where PostgreSQL is installed a database as well."""
    if request.param == "sqlite":
        yield tmp_path / "ledger.db"
        return
    server = postgres.Server()
    yield server.database()
    server.end()


def test_both_stores_and_the_simulated_one_bill_the_same(where, tmp_path):
    ledger = Ledger(where)
    ledger.append("r", *happened()).result()
    ledger.close()
    now = datetime.now(UTC).timestamp()
    lived = Book.open(where)
    simulated = written(tmp_path / "l.parquet", [("r", now, event) for event in happened()])
    assert len(lived.months()) >= 2  # two of the job; the requests are of this month
    assert lived.months() == simulated.months()
    assert lived.bill("r") == simulated.bill("r")

    budgets = Budgets(lambda: now)
    budgets.set("lab", [Budget(limit="9 EUR", per="month"), Budget(limit="99 tokens", per="year")])
    refill(budgets, where, now)
    assert [left.spent for left in budgets.left("lab")] == [7e-6, 14]
