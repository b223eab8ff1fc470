"""The condition of a rule, as text: `dc and (tpp>=4800 or (tpp>=1600 and pd>=5.92))`.

Grammar: `and`, `or`, `not`, parentheses; comparisons `< <= > >= == !=`, chained as in
`2400<=tpp<4800`; `in` and `not in` a list such as `('H20','MI308')` or a field that is one;
numbers, texts in quotes, `True`, `False`, and the fields of `FIELDS`. Nothing else: no call, no
attribute, no arithmetic. Python's parser reads it, nothing evaluates it as Python.

Three-valued: a comparison with a field that nobody knows is None, and so is what depends on it.
"""

import ast
import difflib
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

Facts = Mapping[str, Any]
Truth = bool | None

NUMBER, TEXT, TRUTH, LIST = "a number", "a text", "True or False", "a list of texts"
FIELDS = {
    "tpp": NUMBER,  # total processing performance, TOP/s times bit length
    "pd": NUMBER,  # performance density, TPP per mm2 of die
    "mem_bw": NUMBER,  # GB/s
    "interconnect": NUMBER,  # GB/s, both directions added
    "hbm_bw_density": NUMBER,  # GB/s per mm2, of a bare stack
    "dc": TRUTH,  # designed or marketed for data centres
    "family": TEXT,
    "item": TEXT,  # GPU or HBM
    "vendor": TEXT,  # NVIDIA, AMD, Huawei, ...
    "vendor_us": TRUTH,
    "vendor_country": TEXT,  # of who designed the chip, ISO code
    "seller": TEXT,  # country of who ships it
    "export_kind": TEXT,  # export_from_us or reexport
    "destination": TEXT,
    "parent": TEXT,  # country of the owner's ultimate parent
    "buyer": TEXT,
    "state_funded": TRUTH,
    "n_gpus": NUMBER,
    "end_use_us": TRUTH,
    # What duties ask, of a site, a model or data rather than of a chip:
    "it_power_kw": NUMBER,
    "training_flop": NUMBER,
    "pi_subjects_per_year": NUMBER,
    "ciio": TRUTH,  # operator of critical information infrastructure
    "important_data": TRUTH,
    "personal_data": TRUTH,
    "dest": TEXT,  # the same as `destination`, as rules on data say it
    "adequacy": LIST,  # countries that the EU finds adequate
}
LENGTH_MAX = 2000

_ORDER: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SAME: dict[type, Callable[[Any, Any], bool]] = {ast.Eq: operator.eq, ast.NotEq: operator.ne}
_AMONG: dict[type, Callable[[Any, Any], bool]] = {
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}


class BadCondition(ValueError):
    """Not in the grammar; `column` counts characters from 1, `near` are fields spelt alike."""

    def __init__(self, why: str, column: int = 1, near: tuple[str, ...] = ()):
        self.why, self.column, self.near = why, column, near
        super().__init__(f"{why}, at character {column}")


class Condition:
    """A parsed condition; `limits` and `names` are the numbers and texts it holds fields to."""

    def __init__(self, text: str):
        self.text = text
        self.fields: set[str] = set()
        self.limits: list[tuple[str, float]] = []
        self.names: list[tuple[str, str]] = []
        self._says = self._truth(_tree(text))

    def holds(self, facts: Facts) -> Truth:
        """Whether it holds of `facts` (a field that is absent or None is unknown)."""
        truth: Truth = self._says(facts)
        return truth

    def missing(self, facts: Facts) -> list[str]:
        """The fields it asks that `facts` does not know."""
        return sorted(field for field in self.fields if facts.get(field) is None)

    def _truth(self, node: ast.expr) -> Callable[[Facts], Truth]:
        """A function of the facts that is True, False or None."""
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return _all([self._truth(one) for one in values])
            case ast.BoolOp(values=values):
                return _any([self._truth(one) for one in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _not(self._truth(operand))
            case ast.Constant(value=bool(value)):
                return lambda facts: value
            case ast.Compare():
                return self._comparison(node)
            case ast.Name(id=name) if self._kind(node) == TRUTH:
                return lambda facts: facts.get(name)
        raise _bad(node, "neither true nor false")

    def _comparison(self, node: ast.Compare) -> Callable[[Facts], Truth]:
        """`a < b <= c` is `a < b and b <= c`."""
        sides = [node.left, *node.comparators]
        pairs = zip(sides, node.ops, sides[1:], strict=False)
        return _all([self._pair(left, op, right) for left, op, right in pairs])

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Callable[[Facts], Truth]:
        kinds = self._kind(left), self._kind(right)
        compare = (_ORDER | _SAME | _AMONG).get(type(op))
        if type(op) in _ORDER:
            fits = kinds == (NUMBER, NUMBER)
        elif type(op) in _AMONG:
            fits = kinds == (TEXT, LIST)
        else:
            fits = kinds[0] == kinds[1] != LIST
        if compare is None or not fits:
            raise _bad(right, f"{kinds[0]} cannot be compared so with {kinds[1]}")
        for field, limit in ((left, right), (right, left)):
            if isinstance(field, ast.Name) and not isinstance(limit, ast.Name):
                self._note(field.id, _literal(limit))
        one, other = _value(left), _value(right)

        def said(facts: Facts) -> Truth:
            a, b = one(facts), other(facts)
            return None if a is None or b is None else compare(a, b)

        return said

    def _note(self, field: str, held_to: Any) -> None:
        if FIELDS[field] == NUMBER:
            self.limits.append((field, held_to))
        elif FIELDS[field] == TEXT:
            texts = held_to if isinstance(held_to, tuple) else (held_to,)
            self.names += [(field, text) for text in texts]

    def _kind(self, node: ast.expr) -> str:
        """What kind of value a side of a comparison is; notes the fields that are asked."""
        match node:
            case ast.Name(id=name):
                if name not in FIELDS:
                    near = difflib.get_close_matches(name, FIELDS, n=3)
                    raise _bad(node, f"unknown field {name!r}", tuple(near))
                self.fields.add(name)
                return FIELDS[name]
            case ast.Constant(value=bool()):
                return TRUTH
            case ast.Constant(value=int() | float() as value) if math.isfinite(value):
                return NUMBER
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
                return NUMBER
            case ast.Constant(value=str()):
                return TEXT
            case ast.Tuple(elts=many) if all(self._kind(one) == TEXT for one in many):
                return LIST
        raise _bad(node, "no field, number, text in quotes, or list of texts")


def _tree(text: str) -> ast.expr:
    if len(text) > LENGTH_MAX:
        raise BadCondition(f"longer than {LENGTH_MAX} characters", LENGTH_MAX)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What it warns of is not in the grammar anyway.
            return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise BadCondition(error.msg, error.offset or 1) from None
    except (ValueError, RecursionError, MemoryError):
        raise BadCondition("it cannot be read") from None


def _bad(node: ast.expr, why: str, near: tuple[str, ...] = ()) -> BadCondition:
    return BadCondition(why, node.col_offset + 1, near)


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.UnaryOp(operand=operand):
            return -_literal(operand)
        case ast.Tuple(elts=many):
            return tuple(_literal(one) for one in many)
    assert isinstance(node, ast.Constant)
    return node.value


def _value(node: ast.expr) -> Callable[[Facts], Any]:
    if isinstance(node, ast.Name):
        name = node.id
        return lambda facts: facts.get(name)
    value = _literal(node)
    return lambda facts: value


def _all(parts: list[Callable[[Facts], Truth]]) -> Callable[[Facts], Truth]:
    """One False decides; else one None leaves it open."""

    def said(facts: Facts) -> Truth:
        open_ = False
        for part in parts:
            truth = part(facts)
            if truth is False:
                return False
            open_ |= truth is None
        return None if open_ else True

    return said


def _any(parts: list[Callable[[Facts], Truth]]) -> Callable[[Facts], Truth]:
    return _not(_all([_not(part) for part in parts]))


def _not(part: Callable[[Facts], Truth]) -> Callable[[Facts], Truth]:
    def said(facts: Facts) -> Truth:
        truth = part(facts)
        return None if truth is None else not truth

    return said
