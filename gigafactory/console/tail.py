"""The end of the ledger in words: an event a line. Progress is left out, phases are told."""

from typing import TYPE_CHECKING, Any

from gigafactory.units import show_duration

if TYPE_CHECKING:
    from gigafactory.ledger.book import Book

LINES_MAX = 60

TAIL = f"""
select seq, at_s, kind, subject, body from happened where run = $run
    and (kind <> 'JobReported' or body->>'$.figures.phase' is not null)
order by seq desc limit {LINES_MAX}
"""

Json = dict[str, Any]


def tail(book: "Book", run: str) -> list[Json]:
    """The last lines, oldest first: `seq`, `at_s`, `kind`, `subject`, `text`."""
    return [_line(row) for row in reversed(book.ask(TAIL, run=run))]


def _line(row: Json) -> Json:
    """An event as people read it."""
    line = {key: row[key] for key in ("seq", "at_s", "kind", "subject")}
    return line | {"text": told(row["kind"], row["body"])}


def told(kind: str, body: Json) -> str:
    """What happened, in a few words; the subject and the time stand beside it."""
    match kind:
        case "RunOpened":
            return f"plan {body['plan']['name']} accepted, {body['clock']} clock"
        case "NodeJoined":
            return f"joined {body['pool']} with {_count(body['chips'], 'chip')}"
        case "NodeLost":
            return f"lost: {body['reason']}"
        case "NodeDrained":
            return "takes no new jobs"
        case "JobSubmitted":
            chips = _count(body["chips"], "chip")
            return f"accepted: {body['kind']} for {body['tenant']}, {chips}"
        case "TenantChanged":
            return (
                "shares otherwise from now on" if body["open"] else f"starts nothing: {body['why']}"
            )
        case "JobStarted":
            again = f" from step {body['from_step']}" if body["from_step"] else ""
            return f"attempt {body['attempt']} started on {body['pool']}{again}"
        case "JobReported":
            phase = body["figures"]["phase"]
            return "answers" if body["figures"].get("ready") else f"is in phase {phase}"
        case "JobCheckpointed":
            return f"checkpoint of step {body['step']}"
        case "JobDone":
            held = f"{body['used'].get('chip_s', 0):,.1f} chip-seconds"
            return f"done, {held}" if body["passed"] else f"done, gate not passed, {held}"
        case "JobFailed":
            return f"attempt {body['attempt']} failed: {body['error'].get('what')}"
        case "JobLost":
            return f"attempt {body['attempt']} lost: {body['reason']}"
        case "JobStopped":
            return f"attempt {body['attempt']} stopped at a checkpoint"
        case "JobCancelled":
            return f"cancelled by {body['by']}"
        case "RequestReserved":
            return f"{body['tenant']} asks {body['model']}, at most {body['tokens_max']} tokens"
        case "RequestSettled":
            tokens = f"{body['prompt_tokens']} + {body['completion_tokens']} tokens"
            return f"{body['outcome']}, {tokens} in {show_duration(body['duration_s'])}"
        case "RequestDisputed":
            return f"disputed, billed 0: {body['reason']}"
        case "BatchOpened":
            return f"batch of {_count(body['lines'], 'request')} for {body['tenant']}"
        case "BatchEnded":
            return f"batch {body['outcome']}: {body['answered']} answered, {body['failed']} failed"
        case "FirstToken":
            after = show_duration(body["time_to_first_token_s"])
            return f"{body['job']} answers for the first time, {after} after the start"
    return ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
