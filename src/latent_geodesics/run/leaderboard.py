"""The tasks of a suite: a run's methods as rows of it, and one page of all rows."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.run.compare.report import IN_BRACKETS
from latent_geodesics.run.compare.runs import find_runs
from latent_geodesics.run.compare.shards import join_shards
from latent_geodesics.run.files import write_json
from latent_geodesics.run.pages import Page, heading, interval_text
from latent_geodesics.run.results import COST, FRAMES, KNOWN, PATH, PROTOCOL_MARK, by_part, column_title
from latent_geodesics.run.runner import Run
from latent_geodesics.run.statistics import Interval, interval, normal_interval
from latent_geodesics.run.suite import DEFINITION, Suite, read_rows, row_of, suite_of_run

log = logging.getLogger(__name__)

FIRST = ("truth_clevr_aligned", "truth_clevr", "ppl_seq_clevr")
"""The column by which rows are ordered is the first of these that a suite has: a fade is nowhere late, so that without
an alignment of the times it would be first."""

LEAST_SECONDS = 0.01
"""Clocks tell no more of what takes less."""
PROTOCOLS = "By published protocols"
PARTS = {
    FRAMES: "What anybody's frames are measured by.",
    PROTOCOLS: f"As the papers measure, on these pairs. {IN_BRACKETS}",
    PATH: "What the model's density says: compare rows of one model, score and tau alone.",
    COST: "Seconds are of the machine that each row was made on.",
}


class Submit:
    """Makes rows of a suite from finished runs: `run.py task=submit task.runs=[runs/benchmark/<time>]`.

    The first submission defines the suite: its pairs, frames and columns. Every later one must agree with it.

    Args:
        runs: Folders of runs of task=interpolation; shards of one run are put together.
        suite: Name and version, such as `clevr-morph-1`.
        folder: Where suites are.
        by: Who ran it.
    """

    def __init__(
        self,
        *,
        runs: Sequence[str] | str,
        suite: str = "clevr-morph-1",
        folder: str = "benchmarks",
        by: str = "latent-geodesics",
    ) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*-[1-9][0-9]*", suite):
            raise UserError(f"task.suite must be a name with a version, such as clevr-morph-1, got {suite!r}.")
        self.records = join_shards(find_runs([runs] if isinstance(runs, str) else runs))
        self.name, self.folder, self.by = suite, Path(folder) / suite, by

    def run(self, run: Run) -> Mapping[str, float]:
        """Writes a JSON for each method; returns how many."""
        suite = Suite.read(self.folder) if (self.folder / DEFINITION).exists() else None
        rows: dict[str, dict[str, Any]] = {}
        for record in self.records:
            found = suite_of_run(record, self.name)
            suite = suite or found
            _check_same(suite, found, record.folder)
            for method in dict.fromkeys(record.table["method"]):
                if method in rows:
                    raise UserError(f"The runs have {method} twice: submit one of them, or name the shards of one run.")
                rows[method] = row_of(record, method, suite=self.name, by=self.by)
                suite.check_row(rows[method], self.folder / f"{method}.json")
        assert suite is not None
        suite.write(self.folder)
        for method, row in rows.items():
            write_json(self.folder / f"{method}.json", row)
        log.info("In '%s' now: %s; `make leaderboard` shows them.", self.folder, counted(len(rows), "row"))
        return {"rows": float(len(rows))}


class Leaderboard:
    """Makes the page of a suite: `make leaderboard`, or `run.py task=leaderboard`.

    Args:
        suite: The folder of the suite.
    """

    def __init__(self, *, suite: str = "benchmarks/clevr-morph-1") -> None:
        self.suite, self.rows = read_rows(Path(suite))
        if not self.rows:
            raise UserError(f"The suite '{suite}' has no rows yet: task=submit makes them of a run.")

    def run(self, run: Run) -> Mapping[str, float]:
        """Writes `report.html` and `leaderboard.csv`; returns the means."""
        page, table = leaderboard_page(self.suite, self.rows)
        summary = {
            f"{row['method']}/{column}": float(value)
            for row in table.to_dict("records")
            for column, value in row.items()
            if column != "method" and np.isfinite(value)
        }
        return run.finish(page, summary={"rows": float(len(self.rows))} | summary, leaderboard=table)


def leaderboard_page(suite: Suite, rows: Sequence[Mapping[str, Any]]) -> tuple[Page, pd.DataFrame]:
    """The page of a suite's rows, and the means that it shows, a row a method and a column a number."""
    cells = {row["method"]: _cells(suite, row) for row in rows}
    by = next((name for name in FIRST if name in suite.columns), suite.columns[0])
    usual = _usual_pairs(suite, cells)
    ordered = sorted(rows, key=lambda row: _rank(by, cells[row["method"]], usual))
    page = Page(
        f"Leaderboard: {suite.name}",
        f"Numbers are means over the {counted(len(suite.pairs), 'pair')}, errors to the truth over those with true "
        "frames. Their 95 % intervals are bootstrapped over kinds of change, each with all of its pairs. A dash is "
        "what a method did not measure or failed at. A mean over another number of pairs than in most rows says so. "
        f"Rows are ordered by {column_title(by)}, those with such a mean last. A row is added by a file; "
        "benchmarks/README.md says how.",
        {"pairs": len(suite.pairs), "frames": suite.frames, "pixels": " x ".join(map(str, suite.image_size))},
    )
    about = [
        {
            "method": row["title"],
            "by": row["by"],
            "model": row["model"],
            "settings": ", ".join(f"{name}={value}" for name, value in row["settings"].items() if value is not None),
            "note": " ".join(filter(None, (row.get("note"), row.get("link")))) or None,
        }
        for row in ordered
    ]
    measured = [name for name in suite.columns if any(name in found for found in cells.values())]
    parts = by_part(measured) | {PROTOCOLS: [name for name in measured if PROTOCOL_MARK in name]}
    for title, text in PARTS.items():
        if names := sorted(parts.get(title, ()), key=lambda name: name != by):
            # What draws no path has no row among the paths.
            having = [row for row in ordered if title != PATH or any(name in cells[row["method"]] for name in names)]
            page.section(title, text, table=_shown(having, cells, names, usual))
    page.section("Who and how", table=pd.DataFrame(about))
    means = [{"method": row["method"]} | {k: v.mean for k, v in cells[row["method"]].items()} for row in ordered]
    return page, pd.DataFrame(means)


def _cells(suite: Suite, row: Mapping[str, Any]) -> dict[str, Interval]:
    """Column -> mean with interval, of what the row has numbers of."""
    clusters = [suite.pairs[pair] for pair in suite.pairs]
    found = {}
    for column in suite.columns:
        values = [row["pairs"][pair].get(column) for pair in suite.pairs]
        numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
        if np.isfinite(numbers).any():
            found[column] = interval(numbers, clusters=clusters)
        elif column in row["whole"]:
            whole = row["whole"][column]
            error = whole.get("standard_error")
            found[column] = normal_interval(whole["value"], np.nan if error is None else error, n=len(clusters))
    return found


def _usual_pairs(suite: Suite, cells: Mapping[str, Mapping[str, Interval]]) -> dict[str, int]:
    """Column -> of how many pairs most rows have it: a mean over easy pairs alone does not compare with the others."""
    counts = {name: [found[name].n for found in cells.values() if name in found] for name in suite.columns}
    return {name: max(set(of_rows), key=lambda n: (of_rows.count(n), n)) for name, of_rows in counts.items() if of_rows}


def _shown(
    rows: Sequence[Mapping[str, Any]],
    cells: Mapping[str, Mapping[str, Interval]],
    names: Sequence[str],
    usual: Mapping[str, int],
) -> pd.DataFrame:
    headings = {name: " ".join(filter(None, heading(name))) for name in names}
    shown = []
    for row in rows:
        found = cells[row["method"]]
        numbers = {words: _cell_text(name, found.get(name), usual) for name, words in headings.items()}
        shown.append({"method": row["title"]} | numbers)
    return pd.DataFrame(shown)


def _cell_text(column: str, cell: Interval | None, usual: Mapping[str, int]) -> str:
    if cell is None:
        return "-"
    text = "< 0.01" if column == "seconds" and 0 <= cell.mean < LEAST_SECONDS else interval_text(cell)
    return text if cell.n == usual[column] else f"{text} ({counted(cell.n, 'pair')})"


def _rank(column: str, cells: Mapping[str, Interval], usual: Mapping[str, int]) -> tuple[bool, bool, float]:
    """The best first, then means over other pairs, and what has no number last."""
    if column not in cells:
        return True, True, 0.0
    sign = -1 if KNOWN.get(column) is not None and KNOWN[column].better == "higher" else 1
    return False, cells[column].n != usual[column], sign * cells[column].mean


def _check_same(suite: Suite, found: Suite, folder: Path) -> None:
    """Refuses a run on other pairs or frames, or with columns that the suite has not."""
    for name in ("manifest_sha256", "pairs", "frames", "image_size"):
        ours, theirs = getattr(suite, name), getattr(found, name)
        if (dict(ours) if isinstance(ours, Mapping) else ours) != (
            dict(theirs) if isinstance(theirs, Mapping) else theirs
        ):
            said = "" if name in ("manifest_sha256", "pairs") else f" ({theirs} in place of {ours})"
            raise UserError(
                f"The run '{folder}' is not on {suite.name}: its {name} differ{said}; run experiment=benchmark on the "
                "suite's pairs, or raise the version by task.suite=<name>-<number>."
            )
    foreign = sorted(set(found.columns) - set(suite.columns))
    if foreign:
        raise UserError(
            f"The run '{folder}' measures {', '.join(foreign[:3])}, which {suite.name} has not: raise the version by "
            "task.suite=<name>-<number>."
        )
