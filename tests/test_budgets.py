"""Budgets over time: nobody gets past a limit, whatever the order, the clock or a restart."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gigafactory.blueprint.schema import Budget, Tenant
from gigafactory.factory import events as ev
from gigafactory.ledger.store import Ledger, read
from gigafactory.works.budgets import Budgets, Hold, Spent, bounds, refill
from tests.test_blueprint import GOOD, faults

DAY_S = 86_400
PERIODS = ("hour", "day", "week", "month", "quarter", "year")


def unix(*day):
    return datetime(*day, tzinfo=UTC).timestamp()


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, *day):
        self.now = unix(*day)

    def __call__(self):
        return self.now


def budgets_of(*limits, at=(2026, 11, 22)):
    clock = Clock(*at)
    budgets = Budgets(clock)
    budgets.set("lab", [Budget(limit=limit, per=per) for limit, per in limits])
    return budgets, clock


def test_a_limit_is_reached_to_the_unit_and_not_passed():
    budgets, _ = budgets_of(("3 EUR", "month"), ("1000 tokens", "day"))
    first = budgets.reserve("lab", money_micro=2_000_000, tokens=600)
    refused = budgets.reserve("lab", money_micro=1_000_001, tokens=1)
    assert isinstance(refused, Spent)
    assert (refused.budget.of, refused.resets_unix_s) == ("money", unix(2026, 12, 1))
    refused = budgets.reserve("lab", money_micro=1, tokens=401)
    assert (refused.budget.of, refused.resets_unix_s) == ("tokens", unix(2026, 11, 23))
    assert isinstance(budgets.reserve("lab", money_micro=1_000_000, tokens=400), Hold)
    budgets.settle(first, 500_000, 100)
    assert isinstance(budgets.reserve("lab", money_micro=1_500_000, tokens=500), Hold)


def test_what_is_released_or_settled_twice_counts_once():
    budgets, _ = budgets_of(("3 EUR", "month"))
    hold = budgets.reserve("lab", money_micro=3_000_000)
    budgets.release(hold)
    budgets.release(hold)
    again = budgets.reserve("lab", money_micro=3_000_000)
    budgets.settle(again, 1_000_000, 5)
    budgets.settle(again, 1_000_000, 5)
    budgets.release(again)
    (left,) = budgets.left("lab")
    assert (left.spent, left.reserved) == (1.0, 0.0)


def test_energy_that_was_drawn_stops_what_would_start():
    budgets, _ = budgets_of(("5 kWh", "day"), ("2 kgCO2e", "day"))
    assert budgets.spent_out("lab") is None
    budgets.spend("lab", unix(2026, 11, 22, 3), energy_j=4 * 3.6e6, carbon_g=2500)
    assert budgets.spent_out("lab").budget.of == "carbon"
    assert budgets.reserve("lab", tokens=1).budget.of == "carbon"
    budgets.spend("lab", unix(2026, 11, 22, 4), energy_j=3.6e6)
    assert budgets.spent_out("lab").budget.of == "energy"


def test_a_tenant_without_budgets_has_no_end():
    budgets, _ = budgets_of()
    assert isinstance(budgets.reserve("lab", money_micro=10**15, tokens=10**15), Hold)
    assert isinstance(budgets.reserve("stranger", tokens=10**15), Hold)
    assert budgets.spent_out("lab") is None
    assert budgets.left("lab") == []


def test_a_budget_of_nothing_lets_nothing_start():
    budgets, _ = budgets_of(("0 tokens", "day"))
    assert isinstance(budgets.reserve("lab", tokens=1), Spent)
    assert budgets.spent_out("lab").resets_unix_s == unix(2026, 11, 23)


@pytest.mark.parametrize(
    ("per", "moment", "begins", "ends"),
    [
        ("hour", (2026, 12, 31, 23, 59), (2026, 12, 31, 23), (2027, 1, 1)),
        ("day", (2028, 2, 29, 1), (2028, 2, 29), (2028, 3, 1)),
        ("week", (2027, 1, 3, 5), (2026, 12, 28), (2027, 1, 4)),
        ("month", (2028, 2, 29), (2028, 2, 1), (2028, 3, 1)),
        ("month", (2026, 12, 31), (2026, 12, 1), (2027, 1, 1)),
        ("quarter", (2026, 11, 22), (2026, 10, 1), (2027, 1, 1)),
        ("quarter", (2026, 3, 31), (2026, 1, 1), (2026, 4, 1)),
        ("year", (2028, 12, 31), (2028, 1, 1), (2029, 1, 1)),
    ],
)
def test_windows_are_those_of_the_calendar(per, moment, begins, ends):
    assert bounds(per, unix(*moment)) == (unix(*begins), unix(*ends))


@given(st.sampled_from(PERIODS), st.floats(0, 4e9))
def test_every_moment_is_in_one_window_that_ends_where_the_next_begins(per, moment):
    began, ends = bounds(per, moment)
    assert began <= moment < ends
    assert bounds(per, began) == (began, ends)
    assert bounds(per, ends)[0] == ends


def test_a_new_window_is_empty_but_for_what_is_still_reserved():
    budgets, clock = budgets_of(("10 tokens", "day"))
    budgets.settle(budgets.reserve("lab", tokens=6), 0, 6)
    held = budgets.reserve("lab", tokens=4)
    clock.now += DAY_S
    assert isinstance(budgets.reserve("lab", tokens=7), Spent)
    assert isinstance(budgets.reserve("lab", tokens=6), Hold)
    budgets.settle(held, 0, 4)
    (left,) = budgets.left("lab")
    assert (left.spent, left.reserved, left.resets_unix_s) == (4, 6, unix(2026, 11, 24))


def test_a_clock_that_jumps_about_gives_no_second_budget():
    budgets, clock = budgets_of(("10 tokens", "hour"), at=(2026, 11, 22, 12, 30))
    budgets.settle(budgets.reserve("lab", tokens=10), 0, 10)
    for hours in (-1, 1, 1, -1, 2, -2):
        clock.now += hours * 3600
        taken = budgets.reserve("lab", tokens=10)
        if isinstance(taken, Hold):
            budgets.settle(taken, 0, 10)
    # It stood in 11, 12, 13, 12, 14 and 12 o'clock; each hour has its ten tokens once.
    assert {began: spent for _, w in _windows(budgets) for began, spent in w.all().items()} == {
        unix(2026, 11, 22, hour): 10 for hour in (11, 12, 13, 14)
    }


def _windows(budgets):
    return [(t, w) for t, account in budgets._accounts.items() for w in account.windows]


def test_a_changed_limit_keeps_what_was_spent():
    budgets, _ = budgets_of(("10 tokens", "day"))
    held = budgets.reserve("lab", tokens=2)
    budgets.settle(budgets.reserve("lab", tokens=5), 0, 5)
    budgets.set("lab", [Budget(limit="8 tokens", per="day"), Budget(limit="9 EUR", per="day")])
    assert isinstance(budgets.reserve("lab", tokens=2), Spent)
    assert isinstance(budgets.reserve("lab", tokens=1), Hold)
    budgets.settle(held, 0, 2)
    assert [left.spent for left in budgets.left("lab")] == [7, 0]


def test_charges_count_in_the_windows_in_which_the_attempt_ran():
    budgets, clock = budgets_of(("9 EUR", "day"), ("99 kWh", "month"), at=(2026, 12, 2, 6))
    piece = {"carbon_g": 0.0, "chip_s": 0.0, "month": ""}
    since, until = unix(2026, 11, 30), unix(2026, 12, 2, 6)
    december = unix(2026, 12, 1)
    budgets.charge("lab", [
        {**piece, "from_unix_s": since, "until_unix_s": december, "money_micro": 4_000_000,
         "energy_j": 4.0},
        {**piece, "from_unix_s": december, "until_unix_s": until, "money_micro": 5_000_000,
         "energy_j": 5.0},
    ])  # fmt: skip
    assert [left.spent for left in budgets.left("lab")] == [1.0, 5.0]  # 6 of 30 hours are today's
    clock.now = unix(2026, 12, 1, 1)
    assert [left.spent for left in budgets.left("lab")] == [4.0, 5.0]
    clock.now = unix(2026, 11, 30, 1)
    assert [left.spent for left in budgets.left("lab")] == [4.0, 4.0]


class Gate(RuleBasedStateMachine):
    """Any order of asking, settling, giving up, changing limits, and setting the clock."""

    def __init__(self):
        super().__init__()
        self.clock = Clock(2026, 11, 22, 12)
        self.budgets = Budgets(self.clock)
        self.open, self.settled = [], {}
        self.limits = {}
        self.change(50, 60)

    @rule(tokens=st.integers(0, 100), micro=st.integers(0, 100))
    def change(self, tokens, micro):
        self.limits = {"tokens": max(tokens, self.most("tokens")),
                       "money": max(micro, self.most("money"))}  # fmt: skip
        self.budgets.set("lab", [
            Budget(limit=self.limits["money"] / 1e6, of="money", per="hour"),
            Budget(limit=float(self.limits["tokens"]), of="tokens", per="hour"),
        ])  # fmt: skip

    def hour(self):
        return self.clock.now // 3600

    def sums(self, of):
        at = 0 if of == "money" else 1
        held = sum(hold[at + 1] for hold in self.open)
        return {h: s[at] + held for h, s in self.settled.items()} or {0: held}

    def most(self, of):
        return max(self.sums(of).values())

    @rule(tokens=st.integers(0, 40), micro=st.integers(0, 40))
    def ask(self, tokens, micro):
        spent = self.settled.get(self.hour(), (0, 0))
        fits = (
            spent[0] + sum(h[1] for h in self.open) + micro <= self.limits["money"]
            and spent[1] + sum(h[2] for h in self.open) + tokens <= self.limits["tokens"]
        )
        got = self.budgets.reserve("lab", money_micro=micro, tokens=tokens)
        assert isinstance(got, Hold) == fits
        if fits:
            self.open.append((got, micro, tokens))
        else:
            assert got.resets_unix_s == (self.hour() + 1) * 3600

    @rule(which=st.randoms(use_true_random=False), share=st.floats(0, 1))
    def settle(self, which, share):
        if self.open:
            hold, micro, tokens = self.open.pop(which.randrange(len(self.open)))
            used = int(micro * share), int(tokens * share)
            self.budgets.settle(hold, *used)
            before = self.settled.get(self.hour(), (0, 0))
            self.settled[self.hour()] = (before[0] + used[0], before[1] + used[1])

    @rule(which=st.randoms(use_true_random=False))
    def give_up(self, which):
        if self.open:
            self.budgets.release(self.open.pop(which.randrange(len(self.open)))[0])

    @rule(hours=st.integers(-3, 3), seconds=st.floats(-10, 10))
    def jump(self, hours, seconds):
        # What is held moves on with the clock: only the hour it stands in can take it.
        at = self.clock.now + hours * 3600 + seconds
        spent = self.settled.get(at // 3600, (0, 0))
        held = [sum(h[i] for h in self.open) for i in (1, 2)]
        if spent[0] + held[0] <= self.limits["money"] and (
            spent[1] + held[1] <= self.limits["tokens"]
        ):
            self.clock.now = at

    @invariant()
    def settled_and_reserved_stay_within_the_limit(self):
        for left in self.budgets.left("lab"):
            unit = 1e6 if left.budget.of == "money" else 1
            at = 0 if left.budget.of == "money" else 1
            assert round(left.spent * unit) == self.settled.get(self.hour(), (0, 0))[at]
            assert round(left.reserved * unit) == sum(h[at + 1] for h in self.open)
            assert round((left.spent + left.reserved) * unit) <= self.limits[left.budget.of]


TestGate = Gate.TestCase
TestGate.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_after_a_restart_the_ledger_says_what_was_spent(tmp_path):
    where = tmp_path / "ledger.db"
    now = datetime.now(UTC).timestamp()
    before = now - 400 * DAY_S
    charges = [
        {"from_unix_s": before, "until_unix_s": now, "month": "", "chip_s": 1.0,
         "energy_j": 400.0 * DAY_S, "carbon_g": 3.0, "money_micro": 4_000_000},
    ]  # fmt: skip
    submitted = {"kind": "finetune", "chips": 1, "pools": ("p",)}
    ledger = Ledger(where)
    ledger.append(
        "r",
        ev.JobSubmitted(0.0, "train", tenant="shop", **submitted),
        ev.JobDone(1.0, "train", 1, True, {}, {"chip_s": 1.0, "charges": charges}),
        ev.RequestSettled(1.0, "a", "lab", "svc", 100, 20, 0.1, 0.2, "complete", 70),
        ev.RequestSettled(1.0, "b", "lab", "svc", 10, 2, 0.1, 0.2, "complete", None),
        ev.RequestSettled(1.0, "c", "shop", "svc", 1, 1, 0.1, 0.2, "complete", 5),
        ev.RequestDisputed(1.0, "d", "lab", "crash"),
    ).result()
    ledger.close()
    budgets = Budgets(lambda: now)
    every = [Budget(limit="1 M tokens", per="year"), Budget(limit="9 EUR", per="month")]
    budgets.set("lab", every)
    budgets.set("shop", [Budget(limit="9 GWh", per="day"), Budget(limit="5 EUR", per="year")])
    refill(budgets, where, now)
    refill(budgets, where, now)  # as when a budget is added: nothing is counted twice
    assert [left.spent for left in budgets.left("lab")] == [132, 70e-6]
    energy, money = budgets.left("shop")
    assert energy.spent == pytest.approx(now - bounds("day", now)[0])
    this_year = (now - bounds("year", now)[0]) / (400 * DAY_S)
    assert money.spent == pytest.approx(5e-6 + 4 * this_year, abs=2e-6)
    assert len(list(read(where))) == 6


def test_what_the_ledger_has_not_yet_is_not_forgotten_by_a_refill(tmp_path):
    budgets, clock = budgets_of(("10 tokens", "day"))
    budgets.settle(budgets.reserve("lab", tokens=7), 0, 7)
    refill(budgets, tmp_path / "none.db", clock.now)
    assert budgets.left("lab")[0].spent == 7


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("{limit: 5 MB, per: month}", ["'5 MB'", "100 EUR"]),
        ("{limit: 5 EUR, per: fortnight}", ["fortnight", "'month'"]),
        ("{limit: 5 EUR, pr: month}", ["pr", "did you mean per"]),
        ("{limit: -5 kWh, per: day}", ["-5 kWh"]),
        ("{limit: .inf, per: day}", ["limit", "less than"]),
        ("{limit: 5 USD, per: day}", ["USD", "write the limit in EUR"]),
        ("{per: day}", ["limit", "missing"]),
    ],
)
def test_a_budget_written_wrongly_is_told_with_its_line(budget, words):
    fault = faults(GOOD.replace("lab: {}", f"lab: {{budgets: [{budget}]}}"))[0]
    text = " ".join((fault.what, fault.where, fault.why, fault.remedy))
    assert "mill.yaml:8, tenants.lab.budgets.0" in fault.where
    assert fault.remedy
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("text", "limit", "of"),
    [
        ("100 EUR", 100, "money"),
        ("5 kWh", 1.8e7, "energy"),
        ("2 kgCO2e", 2000, "carbon"),
        ("3 M tokens", 3e6, "tokens"),
    ],
)
def test_a_limit_says_by_its_unit_what_it_is_of(text, limit, of):
    budget = Budget(limit=text, per="month")
    assert (budget.limit, budget.of) == (limit, of)
    said = Tenant(budgets=[budget]).model_dump(mode="json")
    assert Tenant.model_validate(said).budgets == (budget,)
