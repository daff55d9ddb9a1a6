"""What an interpolation run shows of each pair (strip, films, curves, numbers), and its report of all of them."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from latent_geodesics.experiments.interpolation.figures import Curve, draw_overview, draw_pair
from latent_geodesics.methods.base import UNSOLVED, status_sentence
from latent_geodesics.metrics import MetricRecord
from latent_geodesics.models.accelerator import machine_cores
from latent_geodesics.run.compare.report import IN_BRACKETS, OwnTables, write_own
from latent_geodesics.run.compare.tables import ComparisonTable
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import file_stem, write_text
from latent_geodesics.run.pages import OPEN, Cell, interval_text, number, render_template, settings_of
from latent_geodesics.run.results import (
    COLUMNS,
    KNOWN,
    STAGE_TITLES,
    BatchResult,
    MethodResult,
    by_part,
    closes,
    protocol_notes,
    unknown_images,
    unsolved_inversions,
)
from latent_geodesics.run.sections import Given, Picture
from latent_geodesics.run.sequences import save_frame
from latent_geodesics.run.tracking import RunLogger

log = logging.getLogger(__name__)

TRUTH, ENDS = "true_frames", "the_two_images"


@dataclass(frozen=True, kw_only=True)
class PairPage:
    """What the report shows of one pair; files are relative to the run's folder.

    Attributes:
        ends: The two images as the model's size crops them.
        players: The sequences, as `Rows.sequence` gives them.
        reconstruction: PSNR of the worse end as the model gives it back, dB; None where it could not be inverted.
        courses: For each method with a path, its curves as the logger is told them: name -> values.
    """

    id: str
    group: str
    prompt_a: str
    prompt_b: str
    strip: str
    ends: Sequence[str]
    players: Sequence[Mapping[str, Any]]
    reconstruction: float | None
    figure: str | None
    rows: Sequence[Mapping[str, Any]]
    courses: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    @property
    def given(self) -> Given:
        """What went in, and how well the model gives it back."""
        note = "The ends as given, cropped to the model's size"
        if self.reconstruction is not None:
            note += f"; the model gives them back with {self.reconstruction:.1f} dB (PSNR, the worse one)"
        ends = zip(self.ends, (self.prompt_a, self.prompt_b), strict=True)
        pictures = [Picture(file=file, caption=prompt) for file, prompt in ends]
        return Given(pictures=pictures, note=f"{note}.", warning=self.unknown)

    @property
    def unknown(self) -> str | None:
        """What to say where the model does not know such images, so that nothing between them means anything."""
        return unknown_images("this pair", self.reconstruction)


@dataclass(frozen=True, kw_only=True)
class ProtocolRow:
    """A number under a published protocol, method by method.

    Attributes:
        column: Its name.
        cells: A cell for each method.
        counts: What it is a number of.
    """

    column: str
    cells: Sequence[Cell]
    counts: str


@dataclass(frozen=True, kw_only=True)
class InterpolationReport:
    """The report of a run.

    Attributes:
        table: A row for each pair and method.
        summary: The run's summary.
        pages: The pairs that are finished.
        config: The run's configuration.
        expected: How many pairs the run has in all.
        records: What the metrics amount to over all pairs.
        skipped: Why metrics are skipped, a sentence each.
    """

    table: pd.DataFrame
    summary: Mapping[str, float]
    pages: Sequence[PairPage]
    config: Mapping[str, Any]
    expected: int
    records: Sequence[MetricRecord]
    skipped: Sequence[str] = ()

    def write(self, folder: Path) -> None:
        """Writes the tables of means, the overview and `report.html` into the run's folder."""
        own = write_own(folder, finished=len(self.pages) == self.expected, pairs=self.expected)
        remarks = own.remarks
        if unsolved := unsolved_inversions(self.table):
            log.warning(unsolved)
            remarks = [*remarks, unsolved]
        draw_overview(folder / "figures" / "overview.png", self.table)
        write_text(folder / "report.html", _page(self, folder, own, [*remarks, *self.skipped]))


def _page(report: InterpolationReport, folder: Path, own: OwnTables, remarks: Sequence[str]) -> str:
    """The page; `remarks` are what a reader must know before comparing the methods."""
    table, pages = report.table, report.pages
    measured = [name for name in COLUMNS if name in table.columns and table[name].notna().any()]
    columns = {name: COLUMNS[name] for names in by_part(measured).values() for name in names}
    methods = list(dict.fromkeys(table["method"]))
    return render_template(
        "report.html",
        folder=folder,
        title="Interpolation along probability-density geodesics",
        settings=settings_of(report.config, "model", "condition", "tau", "alpha", "guidance", "frames", "seed"),
        columns=columns,
        methods=methods,
        means=own.means.html_parts([name for name in columns if name in own.means.columns]),
        stages=_stages(table),
        pairs=len(pages),
        expected=report.expected,
        remarks=remarks,
        in_brackets=IN_BRACKETS,
        protocols=_protocol_rows(report.records, methods, own.protocols),
        notes=protocol_notes(report.records),
        verdicts=_verdicts(report.summary),
        statuses=_statuses(table),
        overview="figures/overview.png" if (folder / "figures" / "overview.png").exists() else None,
        pages=[(page, _page_rows(page, columns)) for page in pages],
    )


def _statuses(table: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """Status -> what it means, and of how many sequences it is; empty where nothing was to be solved."""
    found = table["status"].value_counts(sort=False).to_dict()
    told = {str(name): (status_sentence(str(name)), int(count)) for name, count in found.items()}
    return {} if set(told) <= set(UNSOLVED) else told


def _stages(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Seconds a pair by stage, method by method; empty for a table from before they were told apart."""
    columns = [name for name in STAGE_TITLES if name in table.columns]
    means = table.groupby("method", sort=False)[columns].mean()
    return {
        str(method): {STAGE_TITLES[name].partition(",")[0]: _seconds(means.loc[method, name]) for name in columns}
        for method in (means.index if columns else ())
    }


def _seconds(value: float) -> str:
    """Three digits, and none beyond a millisecond."""
    return number(round(float(value), 3))


def _protocol_rows(
    records: Sequence[MetricRecord], methods: Sequence[str], protocols: ComparisonTable | None
) -> list[ProtocolRow]:
    """A row for each column that follows a published protocol, with intervals as the table of protocols has them."""
    known = {} if protocols is None else {row.method: row.cells for row in protocols.rows}
    columns: dict[str, dict[str, MetricRecord]] = {}
    for record in records:
        if record.protocol is not None:
            columns.setdefault(record.column, {})[record.method] = record
    rows = []
    for column, found in columns.items():
        values = pd.Series([found[name].value if name in found else float("nan") for name in methods])
        one = next(iter(found.values()))
        cells = []
        for name, value in zip(methods, values, strict=True):
            interval = known.get(name, {}).get(column)
            shown = number(value) if interval is None else interval_text(interval)
            cells.append(Cell(text=shown, mark="best" if _is_best(value, values, one.better) else ""))
        rows.append(
            ProtocolRow(
                column=column,
                cells=cells,
                counts=", ".join(_of_what(name, count) for name, count in one.counts.items()),
            )
        )
    return rows


def _of_what(name: str, count: int) -> str:
    return f"{count} {name.removesuffix('s') if count == 1 else name}"


def _page_rows(page: PairPage, columns: Mapping[str, str]) -> dict[str, list[Cell]]:
    frame = pd.DataFrame(page.rows).set_index("method")
    frame = frame.reindex(columns=list(dict.fromkeys([*frame, *columns])))  # where all methods failed there are none
    return {str(method): _row(frame.loc[method], frame, columns, ranked=not page.unknown) for method in frame.index}


def _row(values: "pd.Series[Any]", among: pd.DataFrame, columns: Mapping[str, str], *, ranked: bool) -> list[Cell]:
    """The cells of a method on a pair; the best among all is marked, unless nothing is to be ranked.

    Numbers that the score leaves uncertain are marked and compared with none.
    """
    cells = []
    for name in columns:
        rivals = among[[closes(other, name) for _, other in among.iterrows()]]
        known = closes(values, name)
        column = KNOWN.get(name)
        better = None if column is None else column.better
        best = known and ranked and _is_best(float(values[name]), rivals[name].astype(float), better)
        text = number(values[name]) if known else f"{number(values[name])} {OPEN}"
        cells.append(Cell(text=text, mark="best" if best else ""))
    return cells


def _is_best(value: float, among: "pd.Series[float]", better: str | None) -> bool:
    """Whether a number is the best to the digits that are printed."""
    best = {"higher": among.max(), "lower": among.min()}.get(better or "")
    return best is not None and number(value) == number(best) != "-"


def _verdicts(summary: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """(method, what is compared, share of the pairs) for the comparisons that a reader looks for first."""
    asked = {
        "log_density_mean": "the mean log-density is higher",
        "log_density_min": "the least log-density is higher",
        "length": "the length is smaller",
        "ppl_seq_clevr": "the perceptual path is shorter",
        "truth_clevr": "the frames are nearer to the true ones",
    }
    found = []
    for method in ("geodesic", "geodesic_paper"):
        for column, words in asked.items():
            share = summary.get(f"{method}/{column}_better_than_slerp")
            if share is not None:
                found.append((method, words, share))
    return found


def show_pair(rows: Rows, result: BatchResult, place: int) -> PairPage:
    """Writes the pictures of the pair at a place of a batch; returns what the report says of it."""
    pairs, batch = result.pairs, result.pairs.batch
    pair, truth = batch.pairs[place], batch.truth[place]
    at_positions = batch.true_frames(place, len(result.u))
    truth = truth if at_positions is None else at_positions
    of_pair, made = result.of_pair(place), result.made(place)
    shown = {one.method: one.frames for one in made}
    if truth is not None:
        shown = {TRUTH: truth} | shown
    if not shown:
        shown = {ENDS: torch.stack([batch.images_a[place], batch.images_b[place]])}
    drawn = [one for one in made if one.result.curves is not None and one.result.morph.posed is None]
    curves = [_curve(one.result, one.index) for one in drawn]  # of one density, that of the run
    ends = [
        rows.file(f"ends/{file_stem(pair.id, end)}.png", partial(save_frame, frame=image))
        for end, image in (("a", batch.images_a[place]), ("b", batch.images_b[place]))
    ]
    # Side by side: what takes time is compression, which needs no interpreter.
    with ThreadPoolExecutor(machine_cores()) as pool:
        strip = pool.submit(rows.strip, shown, pair.id)
        players = [
            pool.submit(rows.sequence, frames, pair.id, name, truth=frames is truth) for name, frames in shown.items()
        ]
        figure = None
        if curves:
            name = f"figures/{file_stem(pair.id)}.png"
            figure = rows.file(name, lambda file: draw_pair(file, curves, density=pairs.density))
    numbers = {one.method: one.row for one in of_pair}
    page = PairPage(
        id=pair.id,
        group=pair.group,
        prompt_a=pair.prompt_a,
        prompt_b=pair.prompt_b,
        ends=ends,
        strip=strip.result(),
        players=[
            job.result() | {"verdict": numbers.get(name, {}).get("verdict")}
            for name, job in zip(shown, players, strict=True)
        ],
        reconstruction=None if place in pairs.lost else float(pairs.given_back[place].min()),
        figure=figure,
        rows=list(numbers.values()),
        courses={curve.method: _course(curve) for curve in curves},
    )
    for one in made:
        if not one.settled:
            log.warning("'%s' on pair '%s' ended %s.", one.method, pair.id, one.status)
    return page


def log_courses(logger: RunLogger, pages: Sequence[PairPage]) -> None:
    """Tells the logger how density, residual and length go along the paths of all pairs."""
    for page in pages:
        for method, course in page.courses.items():
            name = file_stem(page.id) + "/" + file_stem(method)
            iterations = range(len(course["residual"]))
            logger.curve(f"log_density/{name}", course["log_density"], against=course["u"], axis="u")
            logger.curve(f"residual/{name}", course["residual"], against=iterations, axis="iteration")
            logger.curve(f"length/{name}", course["length"], against=iterations, axis="iteration")


def _course(curve: Curve) -> dict[str, list[float]]:
    found = {
        "u": curve.u, "log_density": curve.log_density, "residual": curve.residuals, "length": curve.lengths,
    }  # fmt: skip
    return {name: values.tolist() for name, values in found.items()}


def _curve(result: MethodResult, index: int) -> Curve:
    curves, solution = result.curves, result.morph.solution
    assert curves is not None and solution is not None
    trace = solution.trace
    return Curve(
        method=result.method,
        u=_numbers(curves.u),
        log_density=_numbers(curves.log_density[index]),
        speed=_numbers(curves.speed[index] / curves.speed[index].mean().clamp_min(1e-12)),
        evaluations=_numbers(trace.evaluations[:, index]),
        lengths=_numbers(trace.length[:, index]),
        residuals=_numbers(trace.residual[:, index]),
    )


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
