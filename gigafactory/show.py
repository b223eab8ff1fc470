"""What `up` shows on a terminal while it works: the plan, a bar a job, the first token."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from gigafactory.console import terminal
from gigafactory.console.words import verdict
from gigafactory.ledger.store import read
from gigafactory.plan import Plan
from gigafactory.units import show_duration
from gigafactory.works.driver import Works
from gigafactory.works.services import BY

REDRAW_S = 0.25
ENDED = ("done", "failed", "blocked", "cancelled")


def missed(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Thresholds that an evaluation did not keep to."""
    verdicts = (job["results"] or {}).get("verdicts", [])
    return [verdict for verdict in verdicts if not verdict["passed"]]


class Screen:
    """The watcher of `up`: prints what is final, redraws what moves."""

    def __init__(self, console: Console):
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._told: set[str] = set()
        self._drawn_s = 0.0
        self._plan: Plan | None = None

    def __enter__(self) -> "Screen":
        """Begin to redraw."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()

    def calibrating(self, thing: str) -> None:
        """Something of this machine is being measured."""
        task = self._task("calibrate")
        self._bars.update(task, note=thing, description="calibrate  this machine")

    def planned(self, plan: Plan, run: str, resumed: bool) -> None:
        """The factory in one screen, and every job's price."""
        self._plan = plan
        if "calibrate" in self._tasks:
            self._bars.remove_task(self._tasks.pop("calibrate"))
        self._console.print(terminal.factory(plan), "")
        self._console.print(terminal.quotes(plan), "")
        word = "goes on" if resumed else "begins"
        self._console.print(f"[bold]{run}[/] {word}")

    def opened(self, url: str, key: str) -> None:
        """Where to look and where to ask."""
        self._console.print(f"console  {url}/?key={key}", highlight=False, soft_wrap=True)
        self._console.print(
            f"gateway  {url}/v1  with that key, for any OpenAI client\n", highlight=False
        )

    def turned(self, works: Works) -> None:
        """Redraw the bars, a few times a second."""
        now_s = time.monotonic()
        if now_s - self._drawn_s < REDRAW_S and not works.factory.settled():
            return
        self._drawn_s = now_s
        if not works.engine.ready:
            self._bars.update(self._task("ray"), description="ray        starts", note="")
        elif "ray" in self._tasks:
            self._bars.remove_task(self._tasks.pop("ray"))
        for job in works.factory.jobs():
            status = works.factory.status(job)
            if status in ENDED and job not in self._told:
                self._told.add(job)
                if job in self._tasks:
                    self._bars.remove_task(self._tasks.pop(job))
                self._console.print(self._ended(works, job, status), highlight=False)
            elif status in ("running", "stopping", "paused"):
                self._moving(works, job, status)

    def answered(self, first: dict[str, Any]) -> None:
        """The first question and its answer."""
        answer = Text.assemble((first["prompt"], "dim"), "\n", (first["answer"], "bold"))
        title = f"{first['job']} answers"
        if first["first_s"] is not None:
            begins = "first answer" if first["acts"] else "first token"
            title = f"{begins} from {first['job']} after {show_duration(first['first_s'])}"
        self._console.print(Panel(answer, title=title, title_align="left"))

    def summary(self, summary: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
        """Predicted against measured, and what did not go well."""
        rows = [row for row in summary["jobs"] if row["measured_s"] is not None]
        self._console.print(terminal.compared(rows))
        for job in jobs:
            if job["state"] == "failed":
                error = job["error"] or {}
                self._console.print(f"[red]{job['name']} failed[/]: {error.get('what')}")
                for key in ("where", "why", "remedy"):
                    if error.get(key):
                        self._console.print(f"  {error[key]}", highlight=False, markup=False)
            if missed(job):
                said = verdict(job["results"]["verdicts"])
                self._console.print(Text.assemble((job["name"], "red"), f" {said}"))

    def _moving(self, works: Works, job: str, status: str) -> None:
        progress = works.progress.get(job, {})
        step, steps = progress.get("step"), progress.get("steps")
        kind = works.planned[job].spec.kind
        notes = [progress.get("phase", "starts") if status == "running" else status]
        if step is not None:
            notes.append(f"{step}/{steps}")
        if "loss" in progress:
            notes.append(f"loss {progress['loss']:.3f}")
        self._bars.update(
            self._task(job),
            description=f"{kind:<10} {job}",
            completed=step or 0,
            total=steps,
            note="  ".join(notes),
        )

    def _ended(self, works: Works, job: str, status: str) -> str:
        planned = works.planned[job]
        predicted_s = planned.quote.duration_s.value
        if status == "cancelled" and BY in _cancelled_by(works, job):
            return f"– {planned.spec.kind:<10} {job}: let go, nobody asked"
        judged = _judged(works, job) if planned.spec.kind == "evaluate" else None
        well = status == "done" and (judged is None or judged["passed"])
        mark = "[green]✓[/]" if well else "[red]✗[/]"
        said = verdict(judged["results"].get("verdicts")) if judged else ""
        said = f": {said}" if said else ""
        return (
            f"{mark} {planned.spec.kind:<10} {job}: {status}, quoted {show_duration(predicted_s)}"
            f"{said}"
        )

    def _task(self, name: str) -> Any:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=None, note="")
        return self._tasks[name]


def _judged(works: Works, job: str) -> dict[str, Any] | None:
    """What an evaluation that is done found, as the ledger has it."""
    rows = read(works.home.ledger, works.run, kinds=["JobDone"])
    return next((row.body for row in rows if row.subject == job), None)


def _cancelled_by(works: Works, job: str) -> set[str]:
    """Who cancelled a job, as the ledger has it."""
    rows = read(works.home.ledger, works.run, kinds=["JobCancelled"])
    return {row.body["by"] for row in rows if row.subject == job}
