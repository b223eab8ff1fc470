"""Whether a chip may stand in a place, for an owner, on a day: dated export and import rules.

Not legal advice. `judge` answers for a day, `over` for a stretch of time, `ways` what single
change would make it lawful, `fastest` what may stand instead. Rules are rows of
`data/law_rules.csv`; what a rule asks and nobody knows gives `unknown`, never a free pass.
"""

from gigafactory.stack.law.rules import (
    OUTCOMES,
    Book,
    Rule,
    Term,
    countries,
    country,
    in_group,
    shipped,
    with_rules,
)
from gigafactory.stack.law.verdict import (
    MAY_STAND,
    NOTICE,
    READ_FROM,
    READ_UP_TO,
    Duty,
    Interval,
    Question,
    Ruling,
    Verdict,
    judge,
    over,
)
from gigafactory.stack.law.ways import Way, fastest, ways

__all__ = [
    "MAY_STAND",
    "NOTICE",
    "OUTCOMES",
    "READ_FROM",
    "READ_UP_TO",
    "Book",
    "Duty",
    "Interval",
    "Question",
    "Rule",
    "Ruling",
    "Term",
    "Verdict",
    "Way",
    "countries",
    "country",
    "fastest",
    "in_group",
    "judge",
    "over",
    "shipped",
    "ways",
    "with_rules",
]
