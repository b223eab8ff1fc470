"""A linear model in arrays, and HiGHS to solve it.

HiGHS is called directly: what a plan asks for is dozens of solves of nearly the same model (bounds,
shadow prices, conflicts), and a modelling layer takes longer to build one than HiGHS to solve it.
One thread and one seed, so the same model has the same answer, to the byte.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

INF = float("inf")
Array = np.ndarray[Any, Any]
Row = tuple[Array, Array, float, float]
"""Columns, their coefficients, lower and upper bound of the sum."""


@dataclass(frozen=True)
class Solved:
    """What came back. Prices are only there for a linear model."""

    status: str
    """"optimal", "infeasible", "time" or "unbounded"."""
    values: Array
    objective: float = INF
    bound: float = -INF
    row_prices: Array | None = None
    """What the objective gains by one more of each row's bound."""
    column_prices: Array | None = None

    @property
    def found(self) -> bool:
        """There is an answer, the best or not yet proven so."""
        return self.values.size > 0


class Linear:
    """Columns and rows, grown in blocks."""

    def __init__(self) -> None:
        self.columns, self.rows = 0, 0
        self._column_blocks: list[tuple[Array, Array, Array]] = []
        self._row_blocks: list[tuple[Array, Array]] = []
        self._terms: list[tuple[Array, Array, Array]] = []
        # To HiGHS a model of nothing is none; this one has an answer.
        self.put(self.add_rows(0.0, 0.0), self.add_columns(0.0, 0.0), 1.0)

    def add_columns(self, lower: Any, upper: Any, integer: bool = False) -> Array:
        """Indices of new columns, one per element of `upper`."""
        upper = np.atleast_1d(np.asarray(upper, float))
        lower = np.broadcast_to(np.asarray(lower, float), upper.shape)
        self._column_blocks.append((lower, upper, np.full(upper.shape, integer)))
        self.columns += upper.size
        return np.arange(self.columns - upper.size, self.columns)

    def add_rows(self, lower: Any, upper: Any) -> Array:
        """Indices of new rows, one per element of `upper`."""
        upper = np.atleast_1d(np.asarray(upper, float))
        lower = np.broadcast_to(np.asarray(lower, float), upper.shape)
        self._row_blocks.append((lower, upper))
        self.rows += upper.size
        return np.arange(self.rows - upper.size, self.rows)

    def put(self, rows: Any, columns: Any, values: Any) -> None:
        """Coefficients; the three are broadcast against each other."""
        row, column, value = np.broadcast_arrays(rows, columns, np.asarray(values, float))
        self._terms.append((row.ravel(), column.ravel(), value.ravel()))

    def bounds(self) -> tuple[Array, Array, Array]:
        """Lower bounds, upper bounds and which are integer, of all columns."""
        lower, upper, integer = (
            np.concatenate([block[part] for block in self._column_blocks]) for part in range(3)
        )
        return lower, upper, integer

    def solve(
        self,
        cost: Array,
        *,
        rows: tuple[Row, ...] = (),
        fix: tuple[Array, Array] | None = None,
        relax: Array | bool = False,
        start: Array | None = None,
        gap: float = 0.0,
        slack: float = 0.0,
        time_limit_s: float = INF,
    ) -> Solved:
        """Least `cost` under these and further `rows`, with some columns fixed or made continuous.

        `fix` is (columns, values); `relax` is True for all columns or an array of them; `start` an
        answer to begin with; `gap` the share and `slack` the amount of cost that may be lost.
        """
        import highspy

        lower, upper, integer = self.bounds()
        if fix is not None:
            lower, upper = lower.copy(), upper.copy()
            lower[fix[0]] = upper[fix[0]] = fix[1]
        if relax is True:
            integer[:] = False
        elif relax is not False:
            integer[relax] = False
        # Around a thousand is where HiGHS' absolute tolerances mean what they should.
        scale = 1e3 / max(float(np.abs(cost).max(initial=0.0)), 1e-300)
        if not cost.any():
            scale = 1.0
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self.columns, self.rows + len(rows)
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost * scale, lower, upper
        row_lower = [block[0] for block in self._row_blocks]
        row_upper = [block[1] for block in self._row_blocks]
        terms = list(self._terms)
        for number, (columns, values, least, most) in enumerate(rows):
            at = np.full(len(columns), self.rows + number)
            size = max(float(np.abs(values).max(initial=0.0)), 1e-300)
            terms.append((at, columns, values / size))
            row_lower.append(np.array([least / size]))
            row_upper.append(np.array([most / size]))
        lp.row_lower_ = np.concatenate(row_lower)
        lp.row_upper_ = np.concatenate(row_upper)
        at, column, value = (np.concatenate([block[part] for block in terms]) for part in range(3))
        order = np.lexsort((column, at))
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.concatenate(
            ([0], np.cumsum(np.bincount(at, minlength=lp.num_row_)))
        ).astype(np.int32)
        lp.a_matrix_.index_ = column[order].astype(np.int32)
        lp.a_matrix_.value_ = value[order]
        whole = bool(integer.any())
        if whole:
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            lp.integrality_ = [kinds[int(each)] for each in integer]
        highs = highspy.Highs()
        for option, setting in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", 0),
            ("mip_rel_gap", gap),
            ("mip_abs_gap", max(slack * scale, 1e-7)),
            ("time_limit", max(time_limit_s, 0.0)),
        ):
            highs.setOptionValue(option, setting)
        highs.passModel(lp)
        if start is not None and whole:
            solution = highspy.HighsSolution()
            solution.col_value = start.tolist()
            highs.setSolution(solution)
        highs.run()
        return self._read(highs, highs.getModelStatus(), scale, whole)

    def _read(self, highs: Any, status: Any, scale: float, whole: bool) -> Solved:
        """The answer in the units of the question."""
        import highspy

        named = highspy.HighsModelStatus
        nothing = np.empty(0)
        if status == named.kUnboundedOrInfeasible:
            # Presolve cannot tell which; the simplex method can.
            highs.setOptionValue("presolve", "off")
            highs.run()
            status = highs.getModelStatus()
        if status == named.kInfeasible:
            return Solved("infeasible", nothing)
        if status in (named.kUnbounded, named.kUnboundedOrInfeasible):
            return Solved("unbounded", nothing)
        found = highs.getInfo()
        said = "optimal" if status == named.kOptimal else "time"
        if found.primal_solution_status != int(highspy.SolutionStatus.kSolutionStatusFeasible):
            bound = found.mip_dual_bound / scale if whole else -INF
            return Solved("time", nothing, bound=bound)
        solution = highs.getSolution()
        value = found.objective_function_value / scale
        bound = found.mip_dual_bound / scale if whole else value
        return Solved(
            said,
            np.array(solution.col_value),
            value,
            bound,
            None if whole else np.array(solution.row_dual)[: self.rows] / scale,
            None if whole else np.array(solution.col_dual) / scale,
        )


def cpu_s() -> float:
    """CPU seconds of this process so far."""
    return time.process_time()
