"""Whether a chip may stand in a country, for an owner, on a day: dated export rules.

Not legal advice. The rules were read up to `READ_UP_TO`; those in force then are taken to be in
force since. A rule is a row of `data/law_rules.csv`: its blank columns ask nothing, the others
all have to hold, and of two rows with one name either does. What a rule asks and nobody knows
gives `unknown`, never a free pass. Rules on named buyers, state funding, re-export and bare HBM
are not among the rows.
"""

from dataclasses import dataclass
from datetime import date

from gigafactory.stack import facts
from gigafactory.stack.chips import Chip

READ_UP_TO = date(2026, 6, 30)
NOTICE = f"not legal advice; rules read up to {READ_UP_TO.isoformat()}"

NO_RULE, UNKNOWN = "no_rule_applies", "unknown"
# From mild to strict: where two governments speak, the stricter is the verdict.
OUTCOMES = (
    NO_RULE,
    "allowed_with_conditions",
    "notification_required",
    "case_by_case",
    "licence_required",
    UNKNOWN,
    "withheld",
    "presumption_of_denial",
    "prohibited",
)
MAY_STAND = OUTCOMES[:3]
LIMITS = {  # column -> (field of the chip, sense, unit of the column in SI)
    "min_tpp": ("tpp", ">=", 1.0),
    "max_tpp": ("tpp", "<", 1.0),
    "min_performance_density": ("performance_density", ">=", 1.0),
    "min_interconnect_gb_s": ("interconnect_bytes_per_s", ">=", 1e9),
    "max_memory_bandwidth_gb_s": ("peak_memory_bytes_per_s", "<", 1e9),
}


@dataclass(frozen=True)
class Verdict:
    """An outcome of `OUTCOMES`, the rule it follows from, and where that is written."""

    outcome: str
    rule: str
    source: str

    @property
    def may_stand(self) -> bool:
        """No licence has to be won first, and nothing is unknown."""
        return self.outcome in MAY_STAND


def verdict(chip: Chip, destination: str, owner: str | None, on: date) -> Verdict:
    """The strictest of what each government says of `chip` in `destination` (ISO code).

    `owner` is the country of the ultimate parent of who will hold the chip; None if unknown.
    """
    if chip.kind == "cpu":
        return Verdict(NO_RULE, "", "the rules read here control accelerators, not CPU cores")
    governments = sorted({row["government"] for row in facts.rows("law_rules")})
    said = [_of_government(name, chip, destination, owner, on) for name in governments]
    return max(said, key=lambda one: OUTCOMES.index(one.outcome))


def _of_government(
    government: str, chip: Chip, destination: str, owner: str | None, on: date
) -> Verdict:
    """The applying rule of highest priority; an unknown one counts if none above it applies."""
    free = Verdict(NO_RULE, "", f"no rule of {government} among those read applies; {NOTICE}")
    if government == "US" == destination:  # A delivery at home is no export.
        return free
    rows = [row for row in facts.rows("law_rules") if row["government"] == government]
    for row in sorted(rows, key=lambda row: -int(row["priority"])):
        applies = _all(
            _on_day(row, on), _in_scope(row, destination, owner), *_conditions(row, chip)
        )
        if applies is None:
            return Verdict(UNKNOWN, row["rule"], row["source"])
        if applies:
            return Verdict(row["outcome"], row["rule"], row["source"])
    return free


def _on_day(row: dict[str, str], on: date) -> bool:
    return row["from_date"] <= on.isoformat() < (row["to_date"] or "9999")


def _in_scope(row: dict[str, str], destination: str, owner: str | None) -> bool | None:
    """Whether the rule reaches this destination or, where it asks, this owner."""
    by_owner = _in_group(owner, row["owners"]) if row["owners"] else False
    reached = (_in_group(destination, row["destinations"]), by_owner)
    if True in reached:
        return True
    return None if None in reached else False


def _in_group(country: str | None, scope: str) -> bool | None:
    """Whether `country` is one of `scope`: codes and groups of codes, joined by `+`."""
    if country is None:
        return None
    words = scope.split("+")
    group = facts.by_subject("country_groups").get(country, {}).get("export_group")
    if country in words:
        return True
    if group is None:  # A country not in the table may be in any group.
        return None if any(word.startswith("D") for word in words) else False
    return group.text in words


def _conditions(row: dict[str, str], chip: Chip) -> list[bool | None]:
    """Each limit that the rule sets, against the chip; None where the chip's figure is unknown."""
    said: list[bool | None] = []
    if row["families"]:
        said.append(chip.family in row["families"].split("+") if chip.family else None)
    if row["vendor_country"]:
        vendor = chip.vendor_country
        said.append(vendor == row["vendor_country"] if vendor else None)
    for column, (field, sense, unit) in LIMITS.items():
        figure = getattr(chip, field)
        if row[column]:
            limit = float(row[column]) * unit
            at_least = None if figure is None else figure >= limit
            said.append(at_least if sense == ">=" or at_least is None else not at_least)
    return said


def _all(*said: bool | None) -> bool | None:
    """Three-valued and: one False decides, else one unknown does."""
    if False in said:
        return False
    return None if None in said else True
