"""Everything that can happen in a factory, one frozen record each.

The ledger stores these and nothing else; both clocks write the same ones. `at_s` is seconds
since the run was opened. What the core needs stands in fields of its own; what only people
and queries need stands in `spec`, `quote`, `figures`, `results`.

Core events change the state of `step`. The others (`JobReported`, `Request*`, `Batch*`,
`Acted`, `FirstToken`) are facts that only queries read.
"""

from dataclasses import dataclass, field, fields
from typing import Any, get_args

Json = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """What all events share; `subject` is the job, node or request that it is about."""

    at_s: float

    @property
    def subject(self) -> str:
        """Name of what the event is about."""
        return ""


@dataclass(frozen=True)
class RunOpened(Event):
    """A plan was accepted; everything after it belongs to this run.

    `blueprint` is the text of the file; `plan` is whole, so the ledger alone rebuilds the run.
    """

    run: str
    clock: str  # "wall" or "virtual"
    opened_unix_s: float
    blueprint: str
    plan: Json

    @property
    def subject(self) -> str:
        """Name of the run."""
        return self.run


@dataclass(frozen=True)
class NodeEvent(Event):
    """What all events about a node share."""

    node: str

    @property
    def subject(self) -> str:
        """Name of the node."""
        return self.node


@dataclass(frozen=True)
class NodeJoined(NodeEvent):
    """A node of `chips` chips stands ready in `pool` (one system at one site).

    Nodes of a `block` of racks, and more so of a `rack`, are near each other. `replaced`: it is
    another machine under the old name, whose failures no longer count.
    """

    pool: str
    chips: int
    rack: str = ""
    block: str = ""
    rack_w: float | None = None
    replaced: bool = False


@dataclass(frozen=True)
class NodeLost(NodeEvent):
    """A node is gone; what ran on it is lost since its last checkpoint."""

    reason: str


@dataclass(frozen=True)
class NodeDrained(NodeEvent):
    """A node takes no new jobs; what runs on it ends first, or with `now` stops and moves."""

    now: bool = False


@dataclass(frozen=True)
class SiteCapped(Event):
    """What the machines of a site may draw has changed; jobs stop where it is too little."""

    site: str
    cap_w: float

    @property
    def subject(self) -> str:
        """Name of the site."""
        return self.site


@dataclass(frozen=True)
class PoolOpened(Event):
    """From now on new work may start in the pool, or with `open` false may not (law, calendar)."""

    pool: str
    open: bool
    why: str = ""

    @property
    def subject(self) -> str:
        """Name of the pool."""
        return self.pool


@dataclass(frozen=True)
class TenantChanged(Event):
    """What a tenant may use is another from now on; it takes nothing from what runs.

    `quota` in chips, None for no limit. Not `open`: it starts nothing (a budget is spent), and
    its quota is lent to its cohort.
    """

    tenant: str
    weight: float = 1.0
    quota: int | None = None
    borrow: int | None = None
    cohort: str = ""
    open: bool = True
    why: str = ""

    @property
    def subject(self) -> str:
        """Name of the tenant."""
        return self.tenant


@dataclass(frozen=True)
class JobEvent(Event):
    """What all events about a job share."""

    job: str

    @property
    def subject(self) -> str:
        """Name of the job."""
        return self.job


@dataclass(frozen=True)
class JobSubmitted(JobEvent):
    """A job was accepted; from here on it is never lost.

    `after` are jobs that must be done before it starts; a job in `through` is an evaluation
    that must have passed. `pools` are those where it may run (law, residency, fit), best
    first. A `service` runs until it is told to stop. An elastic job runs on fewer chips, down
    to `chips_min`. `expected_s` is how long it would take on `chips`; 0 where nobody knows.
    """

    tenant: str
    kind: str
    chips: int
    pools: tuple[str, ...]
    priority: int = 0
    retries: int = 3
    service: bool = False
    after: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    chips_min: int | None = None
    expected_s: float = 0.0
    deadline_s: float | None = None
    by: str = ""
    spec: Json = field(default_factory=dict)
    quote: Json = field(default_factory=dict)


@dataclass(frozen=True)
class AttemptEvent(JobEvent):
    """What all events about one attempt share; an old attempt's word changes nothing."""

    attempt: int


@dataclass(frozen=True)
class JobStarted(AttemptEvent):
    """An attempt runs on `chips` chips; from here on it is metered."""

    pool: str
    nodes: tuple[str, ...]
    chips: tuple[int, ...]  # on each node
    from_step: int = 0


@dataclass(frozen=True)
class JobReported(AttemptEvent):
    """Figures that the job told: step, tokens, loss, phase, endpoint."""

    figures: Json


@dataclass(frozen=True)
class JobCheckpointed(AttemptEvent):
    """A durable checkpoint of `step` exists; a later attempt goes on from it."""

    step: int


@dataclass(frozen=True)
class JobDone(AttemptEvent):
    """The attempt committed: this and only this record makes its output the job's output.

    `passed` is the verdict of an evaluation's gate (True for all other kinds). `used` holds
    `chip_s`, `cpu_s`, `energy_j` (with `energy_basis`), `phases`, and `charges`: what it costs,
    a piece for each month, price and carbon factor in force.
    """

    passed: bool
    results: Json
    used: Json


@dataclass(frozen=True)
class JobFailed(AttemptEvent):
    """The attempt ended by a fault of its own; it is retried after a pause, up to `retries`."""

    error: Json
    used: Json


@dataclass(frozen=True)
class JobLost(AttemptEvent):
    """The attempt vanished by no fault of the job: its lease ran out, the works restarted."""

    reason: str
    used: Json


@dataclass(frozen=True)
class JobStopped(AttemptEvent):
    """The attempt stopped at a checkpoint because the factory asked it to."""

    used: Json


@dataclass(frozen=True)
class JobCancelled(JobEvent):
    """Its owner wants the job no more."""

    by: str


@dataclass(frozen=True)
class Ticked(Event):
    """Time passed; a pause that the factory waits for may be over."""


@dataclass(frozen=True)
class RequestEvent(Event):
    """What all events about a gateway request share."""

    request: str

    @property
    def subject(self) -> str:
        """Identity of the request."""
        return self.request


@dataclass(frozen=True)
class RequestReserved(RequestEvent):
    """Durable before the first byte of the answer: who asks, what, and at most how much."""

    tenant: str
    job: str
    model: str
    tokens_max: int
    money_micro_max: int = 0
    key: str = ""
    """Which key asked: its id, never the key."""


@dataclass(frozen=True)
class RequestSettled(RequestEvent):
    """Durable before the last byte of the answer: the engine's own `usage`, billed once."""

    tenant: str
    job: str
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float
    duration_s: float
    outcome: str  # "complete", "disconnected" or "error"
    money_micro: int | None = None  # at the price of the reservation's day


@dataclass(frozen=True)
class RequestDisputed(RequestEvent):
    """A reservation that a crash left unsettled: billed 0, counted."""

    tenant: str
    reason: str


@dataclass(frozen=True)
class BatchEvent(Event):
    """What all events about a batch of requests share."""

    batch: str

    @property
    def subject(self) -> str:
        """Identity of the batch."""
        return self.batch


@dataclass(frozen=True)
class BatchOpened(BatchEvent):
    """A batch was accepted: each line of the file is a request, `BATCH:LINE`, until it ends."""

    tenant: str
    key: str
    endpoint: str
    file: str
    lines: int
    expires_unix_s: float
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True)
class BatchEnded(BatchEvent):
    """No further line of the batch will be asked."""

    tenant: str
    outcome: str  # "completed", "cancelled", "expired" or "failed"
    answered: int
    failed: int
    output: str = ""
    errors: str = ""


@dataclass(frozen=True)
class Acted(Event):
    """Somebody did something: the audit, and where keys, users and tenants come from.

    A chain: `digest` is the SHA-256 of `previous`, the digest before, and all other fields.
    `at_s` is Unix time, since these outlive runs.
    """

    by: str
    did: str  # "key.make", "key.revoke", "user.set", "tenant.set", "job.submit", ...
    about: str
    said: Json
    previous: str
    digest: str

    @property
    def subject(self) -> str:
        """What it was done to."""
        return self.about


@dataclass(frozen=True)
class FirstToken(Event):
    """The factory answered its first question."""

    job: str
    time_to_first_token_s: float
    prompt: str
    answer: str


@dataclass(frozen=True)
class Commanded(Event):
    """What the core answered: a fact to hold a replay against.

    It answers the core's last event before this record, or the one `back` before that.
    """

    commands: tuple[Json, ...]
    back: int = 0


CoreEvent = (
    NodeJoined | NodeLost | NodeDrained | SiteCapped | PoolOpened | TenantChanged
    | JobSubmitted | JobStarted | JobCheckpointed | JobDone | JobFailed | JobLost | JobStopped
    | JobCancelled | Ticked
)  # fmt: skip
AnyEvent = (
    CoreEvent | RunOpened | JobReported | RequestReserved | RequestSettled | RequestDisputed
    | BatchOpened | BatchEnded | Acted | FirstToken | Commanded
)  # fmt: skip
KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(AnyEvent)}


def to_row(event: Event) -> tuple[str, str, float, Json]:
    """`(kind, subject, at_s, body)` as the ledger stores it."""
    body = dict(vars(event))  # not `asdict`, which copies a spec and its quote for 0.2 ms
    return type(event).__name__, event.subject, body.pop("at_s"), body


def from_row(kind: str, at_s: float, body: Json) -> Event:
    """The event that `to_row` took apart; lists from JSON become tuples again."""
    known = {name.name for name in fields(KINDS[kind])}
    whole = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items() if k in known}
    return KINDS[kind](at_s=at_s, **whole)
