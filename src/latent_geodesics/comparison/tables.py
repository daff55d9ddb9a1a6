"""One table of many runs: a row for each method under each setting, a mean with its interval in every cell.

Pairs are the unit: where runs differ in their seed alone, a pair's values are averaged over the seeds first, so that
seeds do not count as pairs. A path that failed has no numbers; it lowers `n` and is counted in the column `failed`.
Numbers that are no means over pairs, such as FID, come with their own standard error; no test is made of them. Where a
source gives the sum over the pairs, so does the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from latent_geodesics.comparison.runs import RunRecord, varied_settings
from latent_geodesics.methods.statuses import FAILED
from latent_geodesics.pages import number
from latent_geodesics.records import Status
from latent_geodesics.results import DESCRIPTIVE, HIGHER_IS_BETTER, LOWER_IS_BETTER
from latent_geodesics.statistics import (
    Difference,
    Interval,
    holm,
    interval,
    normal_interval,
    paired_difference,
)

__all__ = ["ComparisonTable", "Row", "compare_runs"]

SEED = "seed"
LOST = (FAILED, Status.NON_FINITE_SCORE.value)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method under one setting.

    Attributes:
        settings: The values of what varies between the runs.
        cells: Column -> mean with interval.
        against: Column -> difference to the baseline on the same pairs, its p-value corrected over all rows.
        failed: How many of its paths failed.
    """

    method: str
    settings: Mapping[str, Any]
    cells: Mapping[str, Interval]
    against: Mapping[str, Difference]
    failed: int


@dataclass(frozen=True, kw_only=True)
class ComparisonTable:
    """Rows, the columns that they share, what varies, and the method that differences refer to."""

    rows: Sequence[Row]
    columns: Sequence[str]
    varied: Sequence[str]
    baseline: str | None

    def rank(self, column: str) -> Mapping[int, str]:
        """Which rows are best and second best in a column, where more or less is better: row -> `best` or `second`."""
        if column not in HIGHER_IS_BETTER + LOWER_IS_BETTER:
            return {}
        sign = -1 if column in HIGHER_IS_BETTER else 1
        means = [(sign * row.cells[column].mean, index) for index, row in enumerate(self.rows)]
        ordered = sorted(pair for pair in means if np.isfinite(pair[0]))
        return {index: place for (_, index), place in zip(ordered, ("best", "second"), strict=False)}

    def frame(self) -> pd.DataFrame:
        """The numbers in long form: a line for each row and column."""
        lines = []
        for row in self.rows:
            for column in self.columns:
                cell, against = row.cells[column], row.against.get(column)
                line = {"method": row.method} | dict(row.settings) | {
                    "column": column, "mean": cell.mean, "low": cell.low, "high": cell.high, "n": cell.n,
                    "failed": row.failed,
                }  # fmt: skip
                if against is not None:
                    line |= {
                        f"minus_{self.baseline}": against.interval.mean,
                        f"minus_{self.baseline}_low": against.interval.low,
                        f"minus_{self.baseline}_high": against.interval.high,
                        "p_value": against.p_value,
                    }
                lines.append(line)
        return pd.DataFrame(lines)

    def markdown(self) -> str:
        """A Markdown table; best in bold, second best in italics."""
        marks = {"best": "**{}**", "second": "*{}*", "": "{}"}
        return _lines(self._cells(marks, "{} [{}, {}]"), start="| ", between=" | ", end=" |", rule=True)

    def latex(self) -> str:
        """A LaTeX tabular for booktabs; best in bold, second best underlined."""
        marks = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}
        cells = self._cells(marks, r"{} {{\scriptsize [{}, {}]}}")
        cells = [[cell.replace("_", r"\_").replace("%", r"\%") for cell in line] for line in cells]
        body = [" & ".join(line) + r" \\" for line in cells]
        spec = "l" * (1 + len(self.varied)) + "r" * (len(cells[0]) - 1 - len(self.varied))
        return "\n".join(
            [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule",
             r"\end{tabular}", ""]
        )  # fmt: skip

    def html_frame(self) -> pd.DataFrame:
        """The table as a page shows it: words alone."""
        first, *rest = self._cells({"best": "{} (best)", "second": "{}", "": "{}"}, "{} [{}, {}]")
        return pd.DataFrame(rest, columns=first)

    def _cells(self, marks: Mapping[str, str], form: str) -> list[list[str]]:
        ranks = {column: self.rank(column) for column in self.columns}
        lines = [["method", *self.varied, *self.columns, "n", "failed"]]
        for index, row in enumerate(self.rows):
            shown = [
                marks[ranks[column].get(index, "")].format(_cell(row.cells[column], form)) for column in self.columns
            ]
            settings = [str(row.settings[name]) for name in self.varied]
            n = max((cell.n for cell in row.cells.values()), default=0)
            lines.append([row.method, *settings, *shown, str(n), str(row.failed)])
        return lines


def compare_runs(
    runs: Sequence[RunRecord], *, baseline: str | None, columns: Sequence[str] | None = None
) -> ComparisonTable:
    """The table of the runs.

    Args:
        runs: At least one.
        baseline: The method that differences and tests refer to, under the same setting; None, or a name that no run
            has, for none.
        columns: Which columns of `results.csv` and `metrics.json`, in order; all numbers if not given.
    """
    varied = [name for name in varied_settings(runs) if name != SEED]
    gathered = _gathered([run.table for run in runs], runs, varied)
    measured = _gathered([run.measured for run in runs], runs, varied)
    numbers = [
        name for name in gathered.columns
        if name not in DESCRIPTIVE and not name.startswith("@") and pd.api.types.is_numeric_dtype(gathered[name])
    ]  # fmt: skip
    known = [*numbers, *dict.fromkeys(measured["column"])]
    chosen = [name for name in (columns or known) if name in known]
    averaged = [name for name in chosen if name in numbers]
    summed = {name for run in runs for name in run.summed}
    values: dict[Any, Any] = {repr(run.settings.get(name)): run.settings.get(name) for run in runs for name in varied}
    rows: list[Row] = []
    keys = [f"@{name}" for name in varied]
    groups = gathered.groupby(keys, sort=False) if keys else [((), gathered)]
    for setting, part in groups:
        means = {str(name): _by_pair(of_method, averaged) for name, of_method in part.groupby("method", sort=False)}
        reference = means.get(baseline) if baseline is not None else None
        whole = measured[(measured[keys] == list(setting)).all(axis=1)] if keys else measured
        settings = {name: values[shown] for name, shown in zip(varied, setting, strict=True)}
        for method, by_pair in means.items():
            failed = part[(part["method"] == method) & part["status"].isin(LOST)]
            pairs = len(by_pair) - failed["pair"].nunique()
            cells = {name: interval(by_pair[name].to_numpy()) for name in averaged} | {
                name: _over_seeds(whole[whole["method"] == method], name, pairs)
                for name in chosen if name not in averaged
            }  # fmt: skip
            against = {} if reference is None or method == baseline else {
                name: paired_difference(by_pair[name], reference[name]) for name in averaged
            }  # fmt: skip
            cells = {name: cells[name].sum() if name in summed else cells[name] for name in chosen}
            against = {name: found.sum() if name in summed else found for name, found in against.items()}
            rows.append(Row(method=method, settings=settings, cells=cells, against=against, failed=len(failed)))
    reference_name = baseline if any(row.against for row in rows) else None
    return ComparisonTable(rows=_corrected(rows, averaged), columns=chosen, varied=varied, baseline=reference_name)


def _gathered(tables: Sequence[pd.DataFrame], runs: Sequence[RunRecord], varied: Sequence[str]) -> pd.DataFrame:
    """The runs' tables as one, with a column `@<name>` for each setting that varies."""
    return pd.concat(
        [
            table.assign(**{f"@{name}": repr(run.settings.get(name)) for name in varied})
            for table, run in zip(tables, runs, strict=True)
        ]
    )


def _over_seeds(measured: pd.DataFrame, column: str, pairs: int) -> Interval:
    """The mean over runs that differ in their seed; they share their pairs, so that it is no surer than one of them."""
    found = measured[measured["column"] == column]
    return normal_interval(float(found["value"].mean()), float(found["standard_error"].mean()), n=pairs)


def _by_pair(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    return rows.groupby("pair")[list(columns)].mean()


def _corrected(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """The rows with p-values corrected, column by column, for the number of rows that were compared."""
    against: list[dict[str, Difference]] = [dict(row.against) for row in rows]
    for column in columns:
        asked = [place for place, row in enumerate(rows) if column in row.against]
        corrected = holm([rows[place].against[column].p_value for place in asked])
        for place, p_value in zip(asked, corrected, strict=True):
            against[place][column] = Difference(interval=rows[place].against[column].interval, p_value=p_value)
    return [
        Row(method=row.method, settings=row.settings, cells=row.cells, against=found, failed=row.failed)
        for row, found in zip(rows, against, strict=True)
    ]


def _cell(cell: Interval, form: str) -> str:
    if not np.isfinite(cell.low):
        return number(cell.mean)
    if cell.low == cell.high:
        return number(cell.mean)
    return form.format(number(cell.mean), number(cell.low), number(cell.high))


def _lines(cells: Sequence[Sequence[str]], *, start: str, between: str, end: str, rule: bool) -> str:
    lines = [start + between.join(line) + end for line in cells]
    if rule:
        lines.insert(1, start + between.join("---" for _ in cells[0]) + end)
    return "\n".join(lines) + "\n"
