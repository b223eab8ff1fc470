"""Budgets held against what jobs use: a tenant that has spent one is closed until the next window.

Closed, it starts nothing, what it runs stops at its next checkpoint, and its quota is lent to its
cohort; when the window ends it opens and its jobs go on. What a running attempt has cost so far
is counted as if its chips were busy all the time, so a budget closes early rather than late: it
is overrun by what an attempt uses until it has stopped (`GRACE_S` of the driver), no more.
"""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gigafactory.blueprint.schema import Budget, Tenant
from gigafactory.factory import events as ev
from gigafactory.faults import Fault
from gigafactory.plan import PlannedJob
from gigafactory.units import show_duration
from gigafactory.works.budgets import PIECE, Budgets, Spent, refill

if TYPE_CHECKING:
    from gigafactory.works.driver import Works

EVERY_S = 1.0
UNITS = {"energy": ("kWh", 3.6e6), "carbon": ("gCO2e", 1.0), "tokens": ("tokens", 1.0)}

Ended = ev.JobDone | ev.JobFailed | ev.JobLost | ev.JobStopped


class Spending:
    """What every tenant of a running works has spent, and what the core knows of each."""

    def __init__(self, works: "Works", clock_unix: Callable[[], float] = time.time):
        self._works, self._clock = works, clock_unix
        self.budgets = Budgets(clock_unix)
        self.closed: dict[str, Spent] = {}
        """Tenants that start nothing now, with the budget that is spent."""
        shares = works.plan.tables().get("tenants", ())
        self._known = {name: (tuple(share), True) for name, *share in shares}
        self._looked_s = float("-inf")

    def hear(self, event: ev.Event) -> None:
        """Count what an ended attempt cost; note what the core was told of a tenant."""
        if isinstance(event, Ended):
            tenant = self._works.planned[event.job].spec.work.tenant
            self.budgets.charge(tenant, event.used.get("charges", ()))
        elif isinstance(event, ev.TenantChanged):
            share = (event.weight, event.quota, event.borrow, event.cohort)
            self._known[event.tenant] = (share, event.open)

    def refill(self) -> None:
        """Count what the ledger knows, of all runs; for the start, and for other budgets."""
        for name, tenant in self._works.tenants.items():
            self.budgets.set(name, tenant.budgets)
        refill(self.budgets, self._works.home.ledger, self._clock())

    async def turn(self) -> None:
        """Close who has spent a budget, open whose window has ended, tell the core of changes."""
        if time.monotonic() - self._looked_s < EVERY_S:
            return
        self._looked_s = time.monotonic()
        await self._works.happen(*self._changes())
        for running in self._works.running():
            tenant = self._works.planned[running.started.job].spec.work.tenant
            if tenant in self.closed and running.stop_by_s is None:
                self._works.ask_to_stop(running)

    def why(self, tenant: str) -> str:
        """Why the tenant starts nothing, or nothing."""
        if (spent := self.closed.get(tenant)) is None:
            return ""
        opens_s = show_duration(max(0.0, spent.resets_unix_s - self._clock()))
        return f"{shown(spent.budget)} is spent; it goes on in {opens_s}"

    def refusal(self, job: PlannedJob) -> Fault | None:
        """Why a job can never be paid: it is quoted above a whole window of a budget."""
        tenant, quote = job.spec.work.tenant, job.quote
        if job.spec.kind == "serve":
            return None  # nobody knows how long it runs
        asks = {
            "money": quote.money.value,
            "energy": quote.energy_kwh.value * 3.6e6,
            "carbon": quote.carbon_g.value,
        }
        for budget in self._works.tenants[tenant].budgets:
            if asks.get(budget.of, 0.0) > budget.limit:
                unit, size = UNITS.get(budget.of, (self._works.plan.currency, 1.0))
                return Fault(
                    f"{job.spec.name!r} costs more than {tenant} may spend",
                    f"tenants.{tenant}.budgets",
                    f"it is quoted at {asks[budget.of] / size:.4g} {unit}, "
                    f"and {shown(budget)} is the whole of it",
                    "make the job smaller, or have an operator raise the budget",
                )
        return None

    def _changes(self) -> Iterator[ev.TenantChanged]:
        so_far = self._so_far()
        for name, tenant in self._works.tenants.items():
            self.budgets.run(name, so_far.get(name))
            spent = self.budgets.spent_out(name)
            if spent is None:
                self.closed.pop(name, None)
            else:
                self.closed[name] = spent
            share = (tenant.weight, tenant.quota, tenant.borrow, tenant.cohort or "")
            known = self._known.get(name, ((1.0, None, None, ""), True))
            if (share, spent is None) != known:
                yield ev.TenantChanged(
                    self._works.clock(), name, *share, open=spent is None, why=self.why(name)
                )

    def _so_far(self) -> dict[str, Budgets]:
        """What running attempts have used, by tenants that have budgets which jobs can spend."""
        used: dict[str, Budgets] = {}
        now = self._clock()
        for running in self._works.running():
            tenant = self._works.planned[running.started.job].spec.work.tenant
            budgets: tuple[Budget, ...] = self._of(tenant).budgets
            if any(budget.of in PIECE for budget in budgets):
                counted = used.setdefault(tenant, Budgets(self._clock))
                counted.set(tenant, budgets)
                counted.charge(tenant, self._works.cost_so_far(running, now))
        return used

    def _of(self, tenant: str) -> Tenant:
        return self._works.tenants.get(tenant) or Tenant()


def shown(budget: Budget) -> str:
    """A budget in words: `the budget of 5 EUR a month`."""
    unit, size = UNITS.get(budget.of, (budget.currency or "", 1.0))
    return f"the budget of {budget.limit / size:.6g} {unit} a {budget.per}"
