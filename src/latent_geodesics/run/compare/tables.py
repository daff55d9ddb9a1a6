"""One table of many runs: a row for each method under each setting, a mean with its interval in every cell.

Pairs are the unit: where runs differ in their seed alone, a pair's values are averaged over the seeds first, so that
seeds do not count as pairs. Intervals and tests take pairs of one cluster (a kind of change, say) together. A path that
failed has no numbers; it lowers `n` and is counted in the column `failed`. Numbers that are no means over pairs, such
as FID, come with their own standard error; no test is made of them. Where a source gives the sum over the pairs, so
does the table. Rows over different pairs, or of different data, are not ranked against one another, and what else a
reader must know stands in the table's notes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from latent_geodesics.core.errors import UserError, nearest
from latent_geodesics.methods.base import LOST
from latent_geodesics.run import pages
from latent_geodesics.run.compare.runs import SEED, RunRecord, notes_on, shown_value, value_words_of, varied_settings
from latent_geodesics.run.compare.settings import OF_SCORE, says_images
from latent_geodesics.run.files import csv_text, guarded, title_of
from latent_geodesics.run.results import (
    DESCRIPTIVE,
    HIGHER_IS_BETTER,
    KNOWN,
    LEAST_PSNR,
    LOWER_IS_BETTER,
    by_part,
    closes,
    column_title,
    knows,
)
from latent_geodesics.run.statistics import (
    Difference,
    Interval,
    holm,
    interval,
    normal_interval,
    paired_difference,
)

SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method under one setting.

    Attributes:
        settings: The values of what varies between the runs.
        words: What people read of these values.
        cells: Column -> mean with interval.
        against: Column -> difference to the baseline on the same pairs, its p-value corrected over all rows.
        failed: How many of its paths failed.
        open: The columns whose numbers are not known well enough to be ranked; see `results.closes`.
        over: Column -> the pairs that its cell is a number of.
        data: The values of what varies of the data.
        unknown: Whether its ends are given back so badly that its numbers say nothing of its images: those of the
            mean pair, or one end of most of the pairs.
    """

    method: str
    settings: Mapping[str, Any]
    cells: Mapping[str, Interval]
    against: Mapping[str, Difference]
    failed: int
    open: frozenset[str] = frozenset()
    over: Mapping[str, frozenset[str]] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    unknown: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparisonTable:
    """Rows, the columns that they share, what varies, the method that differences refer to, and notes on all that."""

    rows: Sequence[Row]
    columns: Sequence[str]
    varied: Sequence[str]
    baseline: str | None
    notes: Sequence[str] = ()

    def rank(self, column: str) -> Mapping[int, str]:
        """Which rows are best and second best in a column, where more or less is better: row -> `best` or `second`.

        Numbers that are printed alike share a place. Rows over different pairs, and numbers of different densities, are
        ranked apart; a row that has no other to be compared with is not ranked, nor is a number whose score does not
        close.
        """
        if column not in HIGHER_IS_BETTER + LOWER_IS_BETTER:
            return {}
        sign = -1 if column in HIGHER_IS_BETTER else 1
        groups = self.comparable(column)
        places: dict[int, str] = {}
        for group in groups:
            closed = [i for i in group if column not in self.rows[i].open and not self.rows[i].unknown]
            means = {index: self.rows[index].cells[column].mean for index in closed}
            ordered = sorted(closed, key=lambda index: sign * means[index])
            printed = dict.fromkeys(pages.number(means[index]) for index in ordered)
            if len(closed) > 1 or (len(groups) == 1 and closed == group):
                ranked = dict(zip(printed, ("best", "second"), strict=False))
                places |= {i: ranked[pages.number(means[i])] for i in ordered if pages.number(means[i]) in ranked}
        return places

    def comparable(self, column: str) -> list[list[int]]:
        """The rows that have a number in a column, those over the same pairs of the same data together.

        Lengths and log-densities moreover stand with those of the same metric and density alone.
        """
        within = KNOWN[column].within if column in KNOWN else frozenset()
        return self.groups(column, [name for name in self.varied if not within.isdisjoint(name.split("."))])

    def groups(self, column: str, settings: Sequence[str]) -> list[list[int]]:
        """The rows that have a number in a column, those over the same pairs with the same settings together."""
        groups: dict[Any, list[int]] = {}
        for index, row in enumerate(self.rows):
            if np.isfinite(row.cells[column].mean):
                made_with = tuple(repr(row.settings[name]) for name in settings)
                groups.setdefault((row.data, row.over.get(column), made_with), []).append(index)
        return list(groups.values())

    def frame(self) -> pd.DataFrame:
        """The numbers in long form, a line for each row and column, as a spreadsheet may have them (`csv_text`)."""
        return guarded(self._long())

    def csv(self) -> str:
        """The same as CSV."""
        return csv_text(self._long())

    def _long(self) -> pd.DataFrame:
        lines = []
        for row in self.rows:
            for column in self.columns:
                cell, against = row.cells[column], row.against.get(column)
                line = {"method": row.method} | dict(row.settings) | {
                    "column": column, "mean": cell.mean, "low": cell.low, "high": cell.high, "n": cell.n,
                    "failed": row.failed, "open": column in row.open,
                }  # fmt: skip
                if against is not None:
                    line |= {
                        f"minus_{self.baseline}": against.interval.mean,
                        f"minus_{self.baseline}_low": against.interval.low,
                        f"minus_{self.baseline}_high": against.interval.high,
                        "p_value": against.p_value,
                    }
                lines.append(line | ({"note": " ".join(self.notes)} if self.notes else {}))
        return pd.DataFrame(lines)

    def markdown(self) -> str:
        """A Markdown table, notes below it; see `pages.markdown`."""
        return pages.markdown(self)

    def latex(self, columns: Sequence[str] | None = None) -> str:
        """A LaTeX tabular for a paper; see `pages.latex`."""
        return pages.latex(self, columns)

    def html_parts(self, columns: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
        """The table, or some of its columns, in parts (`results.by_part`)."""
        chosen = self.columns if columns is None else columns
        measured = [name for name in chosen if any(np.isfinite(row.cells[name].mean) for row in self.rows)]
        return {part: self.html_frame(names) for part, names in by_part(measured).items()}

    def html_frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The rows that have some number as a page shows them; see `pages.page_table`."""
        chosen = self.columns if columns is None else columns
        rows = [row for row in self.rows if any(np.isfinite(row.cells[name].mean) for name in chosen)]
        return pages.page_table(replace(self, rows=rows), chosen)


def compare_runs(
    runs: Sequence[RunRecord], *, baseline: str | None, columns: Sequence[str] | None = None
) -> ComparisonTable:
    """The table of the runs.

    Args:
        runs: At least one.
        baseline: The method that differences and tests refer to, under the same setting; None for none. That no run has
            it becomes a note.
        columns: Which columns of `results.csv` and `metrics.json`, in order; all numbers if not given.

    Raises:
        UserError: for a column that no run has, or that holds words.
    """
    varied = [name for name in varied_settings(runs) if name != SEED]
    lists = [name for name in OF_SCORE if name not in varied and len({run.value(name) for run in runs} - {None}) > 1]
    gathered = _gathered([run.table for run in runs], runs, [*varied, *lists])
    measured = _gathered([run.measured for run in runs], runs, varied)
    numbers = _numbers(runs)
    chosen = _chosen(columns, [*numbers, *dict.fromkeys(measured["column"])])
    averaged = [name for name in chosen if name in numbers]
    summed = {name for run in runs for name in run.summed}
    values: dict[str, dict[str, Any]] = {
        name: {shown_value(run, run.value(name)): run.value(name) for run in runs} for name in varied
    }
    words = value_words_of(runs, varied)
    rows: list[Row] = []
    keys = [f"@{name}" for name in varied]
    groups = gathered.groupby(keys, sort=False) if keys else [((), gathered)]
    for setting, part in groups:
        whole = measured[(measured[keys] == list(setting)).all(axis=1)] if keys else measured
        shown = dict(zip(varied, map(str, setting), strict=True))
        found = _rows(part, whole, chosen=chosen, averaged=averaged, summed=summed, baseline=baseline)
        settings = {name: values[name][value] for name, value in shown.items()}
        told = {name: words[name][value] for name, value in shown.items()}
        data = tuple(value for name, value in shown.items() if says_images(name))
        data += tuple(part[f"@{name}"].iloc[0] for name in lists)
        rows += [replace(row, settings=settings, words=told, data=data) for row in found]
    table = ComparisonTable(
        rows=_corrected(rows, averaged),
        columns=chosen,
        varied=varied,
        baseline=baseline if any(row.against for row in rows) else None,
    )
    notes = [
        *notes_on(runs, chosen),
        *_notes_on_ends(table),
        *_notes_on_rows(table),
        *_notes_on_closure(table),
        *_no_baseline(table, baseline),
    ]
    return replace(table, notes=notes)


def _notes_on_ends(table: ComparisonTable) -> list[str]:
    names = dict.fromkeys(title_of(row.method) for row in table.rows if row.unknown)
    if not names:
        return []
    return [
        f"Not ranked, since the ends are given back with less than {LEAST_PSNR:.0f} dB: {', '.join(names)}. A model "
        "that does not know such images says nothing of what lies between them."
    ]


def _rows(
    part: pd.DataFrame,
    measured: pd.DataFrame,
    *,
    chosen: Sequence[str],
    averaged: Sequence[str],
    summed: Collection[str],
    baseline: str | None,
) -> list[Row]:
    """The rows of one setting, a method each, their p-values not yet corrected."""
    asked = [*averaged, *_bounds(averaged, part)]
    means = {str(name): _by_pair(of_method, asked) for name, of_method in part.groupby("method", sort=False)}
    reference = means.get(baseline) if baseline is not None else None
    clusters = part.groupby("pair")["cluster"].first() if "cluster" in part.columns else None
    rows = []
    for method, by_pair in means.items():
        failed = part[(part["method"] == method) & part["status"].isin(LOST)]
        whole = frozenset(by_pair.index) - frozenset(failed["pair"])
        kin = None if clusters is None else clusters.reindex(by_pair.index).astype(str).tolist()
        cells = {name: interval(by_pair[name].to_numpy(), clusters=kin) for name in averaged} | {
            name: _over_seeds(measured[measured["method"] == method], name, len(whole))
            for name in chosen if name not in averaged
        }  # fmt: skip
        unclosed = frozenset(name for name in chosen if not closes(by_pair.mean(), name))
        against = {} if reference is None or method == baseline else {
            name: paired_difference(by_pair[name], reference[name], clusters=clusters)
            for name in averaged if name not in unclosed
        }  # fmt: skip
        over = {name: frozenset(by_pair.index[np.isfinite(by_pair[name])]) for name in averaged}
        rows.append(
            Row(
                method=method,
                settings={},
                cells={name: cells[name].sum() if name in summed else cells[name] for name in chosen},
                against={name: found.sum() if name in summed else found for name, found in against.items()},
                failed=len(failed),
                open=unclosed,
                over={name: over.get(name, whole) for name in chosen},
                unknown=_unknown(part[part["method"] == method], by_pair),
            )
        )
    return rows


def _unknown(rows: pd.DataFrame, by_pair: pd.DataFrame) -> bool:
    if "reconstruction_psnr" in by_pair and not knows(by_pair["reconstruction_psnr"].mean()):
        return True
    if "unknown" not in rows:
        return False
    said = rows["unknown"].fillna("") != ""  # nothing, or an empty cell
    return bool(rows.loc[said, "pair"].nunique() > len(by_pair) / 2)


def _numbers(runs: Sequence[RunRecord]) -> list[str]:
    """The columns of the runs' tables that hold numbers.

    Raises:
        UserError: where one holds numbers in one run and words in another.
    """
    kinds: dict[str, dict[str, RunRecord]] = {}
    for run in runs:
        for name in run.table.columns.difference(list(DESCRIPTIVE), sort=False):
            cells = run.table[name]
            kind = "empty" if cells.isna().all() else "numbers" if pd.api.types.is_numeric_dtype(cells) else "words"
            kinds.setdefault(name, {})[kind] = run
    for name, found in kinds.items():
        if {"numbers", "words"} <= set(found):
            raise UserError(
                f"The column {name} has numbers in '{found['numbers'].folder}' and words in '{found['words'].folder}': "
                "leave one of them out, or do it again."
            )
    return [name for name, found in kinds.items() if "words" not in found]


def _chosen(columns: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The columns that were asked for, or all that are known."""
    if columns is None:
        return list(known)
    unknown = [name for name in dict.fromkeys(columns) if name not in known]
    if unknown:
        asked = ", ".join(f"'{name}'{_guess(str(name), known)}" for name in unknown)
        raise UserError(f"No run has a column of numbers {asked}: there are {', '.join(known)}.")
    return list(dict.fromkeys(columns))


def _guess(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f" (did you mean '{near}'?)" if near else ""


def _notes_on_rows(table: ComparisonTable) -> list[str]:
    """Whether some rows are not ranked against one another."""
    apart = [name for name in table.columns if len(table.groups(name, [])) > 1]
    if not apart:
        return []
    where = f"In {'; '.join(map(column_title, apart[:SHOWN]))}" + (" and other columns" if len(apart) > SHOWN else "")
    rows = "The rows" if apart == [name for name in table.columns if table.groups(name, [])] else f"{where} the rows"
    return [
        f"{rows} are not all over the same pairs: their means do not compare as they stand, and only rows over the "
        "same pairs are ranked against one another."
    ]


def _bounds(columns: Sequence[str], part: pd.DataFrame) -> list[str]:
    """The other columns that say how well those are known."""
    named = [KNOWN[name] for name in columns if name in KNOWN]
    others = dict.fromkeys(other for column in named for other in (column.bound, column.against) if other is not None)
    return [name for name in others if name in part.columns and name not in columns]


def _notes_on_closure(table: ComparisonTable) -> list[str]:
    """Which numbers are not ranked because the score does not close."""
    found = {name: [title_of(row.method) for row in table.rows if name in row.open] for name in table.columns}
    named = {name: ", ".join(dict.fromkeys(methods)) for name, methods in found.items() if methods}
    if not named:
        return []
    where = "; ".join(f"{column_title(name)} of {methods}" for name, methods in named.items())
    return [
        f"{pages.OPEN} The score's line integral does not close: along the path and along the great circle it "
        "differs by so much that the number, with the density fixed at the other end, may gain nothing on the great "
        f"circle ({where}). Such numbers are not ranked."
    ]


def _no_baseline(table: ComparisonTable, baseline: str | None) -> list[str]:
    """That there is no method of the name that differences should refer to."""
    methods = list(dict.fromkeys(row.method for row in table.rows))
    if baseline is None or baseline in methods:
        return []
    return [f"No run has the method '{baseline}'{_guess(baseline, methods)}, so that no differences from it are given."]


def _gathered(tables: Sequence[pd.DataFrame], runs: Sequence[RunRecord], varied: Sequence[str]) -> pd.DataFrame:
    """The runs' tables as one, with a column `@<name>` for each setting that varies."""
    return pd.concat(
        [
            table.assign(**{f"@{name}": shown_value(run, run.value(name)) for name in varied})
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
    return [replace(row, against=found) for row, found in zip(rows, against, strict=True)]
