"""Writes what a comparison of runs found: tables in four formats, the curves, and a page."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from latent_geodesics.core.errors import counted
from latent_geodesics.run.compare.figures import draw_sweep, sweep_axes
from latent_geodesics.run.compare.published import published_figures
from latent_geodesics.run.compare.runs import RunRecord, read_run
from latent_geodesics.run.compare.settings import listed_titles, setting_title
from latent_geodesics.run.compare.strips import draw_strips, links
from latent_geodesics.run.compare.tables import ComparisonTable, compare_runs
from latent_geodesics.run.files import title_of, write_json, write_text
from latent_geodesics.run.pages import Page
from latent_geodesics.run.results import COLUMNS, PROTOCOL_MARK, STAGE_TITLES, column_title

log = logging.getLogger(__name__)

SWEEP = "figures/sweep.png"
BASELINE = "slerp"
"""What a run's own methods are compared with."""
IN_BRACKETS = (
    "Sources mean different things by the same names. In brackets: the network that measures (clevr ships with the "
    "project and is no LPIPS), and the source whose definition is followed (raw is no source's)."
)
ALIKE = "their settings are the same, but for the seed where that differs"
MEANS_NOTE = (
    "Intervals: percentile bootstrap over pairs, those of one kind together, 95 %. Runs that differ in their seed "
    "alone are averaged pair by pair first. A number of fewer pairs than n says of how many. Lengths, log-densities "
    "and residuals are ranked within one density, score, tau and alpha alone. Best in blue, second best underlined, "
    "by what is printed. The same table: comparison.md, comparison.csv; shorter, for a paper: comparison.tex."
)
PROTOCOLS_NOTE = (
    f"{IN_BRACKETS} Fréchet and kernel distances: 95 % by the jackknife over pairs. The "
    "same table: protocols.md, protocols.tex, protocols.csv; what each number is made of: metrics.json of a run."
)
STRIPS_NOTE = "Of the first pairs, at the same positions u; a method that no value changes has one row."
DIFFERENCES_NOTE = (
    "p: Wilcoxon's signed-rank test over the pairs, those of one kind changing their signs together, two-sided, "
    "corrected by Holm's method. Where a kind has one pair it is the usual test."
)
PUBLISHED_NOTE = "Printed by the sources named, under their own protocols; a dash means that nothing contradicts it."


def write_comparison(
    folder: Path, runs: Sequence[RunRecord], *, baseline: str | None, columns: Sequence[str] | None = None
) -> Mapping[str, float]:
    """Compares runs: writes `comparison.*` and `protocols.*` (csv, md, tex), the curves, the page and the summary.

    Args:
        folder: Where to.
        runs: At least one.
        baseline: See `compare_runs`.
        columns: See `compare_runs`; the known columns that some run has, if not given.

    Returns:
        The summary: `<method>[<setting>=<value>]/<column>` -> mean.
    """
    table = write_tables(folder, runs, baseline=baseline, columns=columns)
    protocols = write_protocols(folder, runs, baseline=baseline)
    if sweep_axes(table):
        draw_sweep(folder / SWEEP, table, titles=COLUMNS)
    notes = say(table, protocols)
    strips = draw_strips(folder, runs, table.varied) if table.varied else {}
    _page(folder, runs, table, protocols, notes, strips).write(folder)
    summary = _summary(table) | (_summary(protocols) if protocols else {})
    write_json(folder / "summary.json", summary)
    log.info("%s compared: %s", counted(len(runs), "run"), folder / "report.html")
    return summary


def say(*tables: ComparisonTable | None) -> list[str]:
    """Warns of what a reader of some tables must know, each thing once, and returns it."""
    notes = list(dict.fromkeys(note for table in tables if table is not None for note in table.notes))
    for note in notes:
        log.warning("%s", note)
    return notes


@dataclass(frozen=True, kw_only=True)
class OwnTables:
    """A run's own means: of the known columns, by published protocols, and what a reader must know of them."""

    means: ComparisonTable
    protocols: ComparisonTable | None
    remarks: Sequence[str]


def write_own(folder: Path, *, finished: bool, pairs: int, columns: Sequence[str] | None = None) -> OwnTables:
    """Writes `comparison.*` and `protocols.*` of the run in a folder into it, and says what there is to say of them.

    Args:
        folder: The run's folder, which has its configuration and `results.csv` already.
        finished: Whether all of the run is there.
        pairs: How many pairs it has in all.
        columns: See `compare_runs`; the known columns that it has, if not given.
    """
    own = [replace(read_run(folder), finished=finished, pairs=pairs)]
    baseline = BASELINE if BASELINE in set(own[0].table["method"]) else None
    means = write_tables(folder, own, baseline=baseline, columns=columns)
    protocols = write_protocols(folder, own, baseline=baseline)
    return OwnTables(means=means, protocols=protocols, remarks=say(means, protocols))


def write_tables(
    folder: Path, runs: Sequence[RunRecord], *, baseline: str | None, columns: Sequence[str] | None = None
) -> ComparisonTable:
    """Writes `comparison.{csv,md,tex}` of the known columns, or of those named, and returns the table."""
    present = {name for run in runs for name in (*run.table.columns, *run.measured["column"])}
    known = [name for name in (*COLUMNS, *STAGE_TITLES) if name in present]
    table = compare_runs(runs, baseline=baseline, columns=columns or known)
    return _write_table(folder, "comparison", table, columns)


def write_protocols(folder: Path, runs: Sequence[RunRecord], *, baseline: str | None) -> ComparisonTable | None:
    """Writes `protocols.{csv,md,tex}` of the columns by published protocols; None where there are none."""
    named = dict.fromkeys(name for run in runs for name in (*run.table.columns, *run.measured["column"]))
    columns = [name for name in named if PROTOCOL_MARK in name]
    if not columns:
        return None
    return _write_table(folder, "protocols", compare_runs(runs, baseline=baseline, columns=columns))


def _write_table(
    folder: Path, stem: str, table: ComparisonTable, columns: Sequence[str] | None = None
) -> ComparisonTable:
    write_text(folder / f"{stem}.csv", table.csv())
    write_text(folder / f"{stem}.md", table.markdown())
    write_text(folder / f"{stem}.tex", table.latex(columns and table.columns))
    return table


def _page(
    folder: Path,
    runs: Sequence[RunRecord],
    table: ComparisonTable,
    protocols: ComparisonTable | None,
    notes: Sequence[str],
    strips: Mapping[str, str],
) -> Page:
    page = Page(
        "Runs compared",
        _lead(len(runs), table.varied),
        {"runs": len(runs), "methods": len({row.method for row in table.rows}),
         "differences from": "none" if table.baseline is None else title_of(table.baseline)},
    )  # fmt: skip
    if notes:
        page.section("Before comparing", *notes)
    if (axes := sweep_axes(table)) and (folder / SWEEP).exists():
        apart = f", a kind of line for each value of {listed_titles(axes[1:])}" if len(axes) > 1 else ""
        caption = (
            f"Means over the pairs against {setting_title(axes[0])}{apart}; bands and bars hold the mean with 95 % "
            "confidence. Numbers that are the same everywhere are left out."
        )
        page.section("As the settings vary", pictures={SWEEP: caption})
    if strips:
        page.section("The frames at each value", STRIPS_NOTE, pictures=strips)
    page.section("Means over the pairs", MEANS_NOTE)
    for title, part in table.html_parts().items():
        page.section(title, table=part)
    if protocols is not None:
        page.section("By the definitions of published sources", PROTOCOLS_NOTE, table=protocols.html_frame())
    if table.baseline is not None:
        title = f"Differences from {title_of(table.baseline)}, pair by pair"
        page.section(title, DIFFERENCES_NOTE, table=_differences(table))
    for dataset in dict.fromkeys(str(run.settings.get("data")) for run in runs):
        figures = published_figures(dataset)
        if len(figures):
            shown = figures.assign(flag=figures["flag"].replace("", None))
            page.section(f"Published figures for {dataset}", PUBLISHED_NOTE, table=shown)
    page.section("The runs", table=links(folder, runs, table.varied))
    return page


def _lead(runs: int, varied: Sequence[str]) -> str:
    """What is compared, in a sentence."""
    if runs == 1:
        return "The means of one run."
    return f"{runs} runs side by side; {f'what varies between them: {listed_titles(varied)}' if varied else ALIKE}."


def _differences(table: ComparisonTable) -> pd.DataFrame:
    lines = []
    for row in table.rows:
        for column, difference in row.against.items():
            found = difference.interval
            if found.n:
                lines.append(
                    {"method": title_of(row.method)}
                    | {setting_title(name): row.words[name] for name in table.varied}
                    | {"number": column_title(column),
                       "difference": found.mean, "95 % from": found.low,
                       "to": found.high, "pairs": found.n, "p": difference.p_value}
                )  # fmt: skip
    return pd.DataFrame(lines)


def _summary(table: ComparisonTable) -> dict[str, float]:
    summary: dict[str, float] = {"rows": float(len(table.rows))}
    for row in table.rows:
        setting = ",".join(f"{name}={row.settings[name]}" for name in table.varied)
        name = f"{row.method}[{setting}]" if setting else row.method
        summary |= {
            f"{name}/{column}": cell.mean for column, cell in row.cells.items() if np.isfinite(cell.mean)
        } | {
            f"{name}/{column}_minus_{table.baseline}": found.interval.mean for column, found in row.against.items()
            if np.isfinite(found.interval.mean)
        }  # fmt: skip
    return summary
