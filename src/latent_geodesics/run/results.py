"""What a run finds, as records: what all methods made of a batch, and a row for every pair and method."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import counted
from latent_geodesics.core.records import Status
from latent_geodesics.data import ImagePair
from latent_geodesics.methods import EncodedPairs, Morph
from latent_geodesics.methods.base import LOST, UNINVERTED
from latent_geodesics.metrics import Column, MetricRecord, PathCurves, known_columns, verdict_word
from latent_geodesics.models.accelerator import DECODING, METRICS, SOLVING, STAGES

DESCRIPTIVE = ("pair", "group", "cluster", "method", "status", "failure", "inversion", "unknown", "verdict")
COSTS = {
    "evaluations": Column(title="score evaluations"),
    "unet_calls": Column(title="U-Net calls"),
    "peak_memory_mb": Column(title="peak memory, MB"),
    "seconds": Column(title="seconds", better="lower"),
}
"""What a sequence costs; `seconds` are to find it and to decode it."""
STAGE_COLUMNS = {f"seconds_{stage}": Column(title=f"{stage}, seconds", shown=False) for stage in STAGES}
"""Seconds of a pair by stage. Encoding and inversion serve all methods, so each row of a pair has the same share of its
batch's; an inversion from the cache is what it took to read. Solving and decoding add up to `seconds`. Of metrics, what
they can share between methods is in the row of the first."""
KNOWN = {**known_columns(), **COSTS}
"""Every column that a metric of this package gives, and the costs."""
LOWER_IS_BETTER = tuple(name for name, column in KNOWN.items() if column.better == "lower")
HIGHER_IS_BETTER = tuple(name for name, column in KNOWN.items() if column.better == "higher")

PROTOCOL_MARK = "@"
GENTLER = "try a larger tau, a smaller alpha, or float32 weights"
"""What to do where a model's score was not finite."""
COLUMNS = {name: column.title for name, column in KNOWN.items() if column.shown and PROTOCOL_MARK not in name}
"""The columns that pages show, with their headings; those of published protocols have a table of their own."""
FRAMES, PATH, COST = "The frames", "The path", "The cost"
"""The parts of a table of means: by what anybody's frames are measured, what one model's density says, what it took."""
OF_PATH = frozenset(known_columns(needs="path"))
STAGE_TITLES = {name: column.title for name, column in STAGE_COLUMNS.items()}
"""Those of the seconds of each stage, which have a table of their own too."""
LEAST_PSNR = 25.0
"""dB: ends that a model gives back worse are images that it does not know."""


def knows(decibels: float | None) -> bool:
    """Whether a model knows images that it gives back with so much PSNR in dB; of what was not measured, it does."""
    return decibels is None or not decibels < LEAST_PSNR


def unknown_images(whose: str, decibels: float | None) -> str | None:
    """What to say where a model gives images back with so little PSNR that it does not know them, or None."""
    if knows(decibels):
        return None
    return (
        f"The model does not know the images of {whose}: it gives them back with {decibels:.1f} dB, and below "
        f"{LEAST_PSNR:.0f} dB nothing between them means anything. Take a model that was trained on images of this "
        "kind."
    )


def column_title(name: str) -> str:
    """What people read of a column; its name where no metric of this package gives it."""
    column = {**KNOWN, **STAGE_COLUMNS}.get(name)
    return name if column is None else column.title


def by_part(columns: Iterable[str]) -> dict[str, list[str]]:
    """Columns by what they speak of; those that no page shows, and those of published protocols, are in no part."""
    parts: dict[str, list[str]] = {FRAMES: [], PATH: [], COST: []}
    for name in columns:
        if PROTOCOL_MARK not in name and (name not in KNOWN or KNOWN[name].shown):
            cost = name in COSTS or name in STAGE_COLUMNS
            parts[COST if cost else PATH if name in OF_PATH else FRAMES].append(name)
    return {part: names for part, names in parts.items() if names}


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one method made of some pairs, and how it measured.

    Attributes:
        failure: What it raised instead.
        seconds_metrics: Time to measure it, per pair.
    """

    method: str
    pairs: EncodedPairs
    morph: Morph
    curves: PathCurves | None
    scores: Mapping[str, Float[Tensor, " p"]]
    failure: str | None = None
    seconds_metrics: float = float("nan")

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of a pair by stage: the columns `STAGE_COLUMNS`."""
        found = dict(self.pairs.seconds) | {
            SOLVING: self.morph.seconds_solving,
            DECODING: self.morph.seconds_decoding,
            METRICS: self.seconds_metrics,
        }
        return {f"seconds_{stage}": found[stage] for stage in STAGES}

    def row(self, index: int) -> dict[str, Any]:
        """The line of `results.csv` for one of the pairs; see `result_row`.

        Only one whose inversion was left unsolved has the column `inversion`, and only one whose images the model does
        not know the column `unknown`.
        """
        fault, ends = (self.morph.posed or self.pairs).fault(index), float(self.pairs.given_back[index].min())
        row = result_row(
            self.pairs.batch.pairs[index],
            self.morph,
            index=index,
            method=self.method,
            stages=self.stages,
            scores=self.scores,
            failure=self.failure,
        )
        return (
            row
            | ({} if fault is None else {"inversion": fault.words})
            | ({} if knows(ends) else {"unknown": f"given back with {ends:.1f} dB"})
        )


def result_row(
    pair: ImagePair,
    morph: Morph,
    *,
    index: int,
    method: str,
    scores: Mapping[str, Float[Tensor, " p"]],
    stages: Mapping[str, float] | None = None,
    failure: str | None = None,
) -> dict[str, Any]:
    """The line of `results.csv` for a pair and method.

    `verdict` says in a word what the columns of `metrics.Verdict` do, where they were measured; only a failed sequence
    has the column `failure`.

    Args:
        pair: The pair.
        morph: What the method made of a batch of pairs.
        index: The pair's place in the batch.
        method: The method's name.
        scores: Column -> values of the batch's pairs.
        stages: Seconds by stage, the columns `STAGE_COLUMNS`; NaN if not given.
        failure: What the method raised instead.
    """
    numbers = {name: float(values[index]) for name, values in scores.items()}
    verdict, evaluations = verdict_word(numbers), float(morph.evaluations[index])
    return {
        "pair": pair.id,
        "group": pair.group,
        "cluster": pair.cluster or pair.id,
        "method": method,
        "status": morph.statuses[index],
        "seconds": morph.seconds,
        "evaluations": int(evaluations) if np.isfinite(evaluations) else evaluations,
        "unet_calls": morph.unet_calls,
        "peak_memory_mb": morph.peak_memory_mb,
    } | dict(stages or dict.fromkeys(STAGE_COLUMNS, float("nan"))) | (
        {} if verdict is None else {"verdict": verdict}
    ) | numbers | ({} if failure is None else {"failure": failure})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """What one method made of one pair: a `MethodResult` and the place of the pair in it."""

    result: MethodResult
    index: int

    @property
    def method(self) -> str:
        """The method's name."""
        return self.result.method

    @property
    def frames(self) -> Float[Tensor, "n 3 h w"]:
        """Its sequence; NaN where it failed."""
        return self.result.morph.frames[self.index]

    @property
    def failed(self) -> bool:
        """Whether the method raised an error, so that there is nothing to show."""
        return self.result.failure is not None

    @property
    def status(self) -> str:
        """How its solver ended, in words."""
        return self.result.morph.statuses[self.index].replace("_", " ")

    @property
    def settled(self) -> bool:
        """Whether its solver ended as it should, if it has one."""
        solution = self.result.morph.solution
        return solution is None or solution.status[self.index].ok

    @property
    def row(self) -> dict[str, Any]:
        """The line of `results.csv`."""
        return self.result.row(self.index)


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What all methods made of a batch of pairs.

    Attributes:
        u: The positions of the frames.
        methods: Their results; a method that failed on the batch as a whole has several, which hold every pair once
            between them.
        states: Method -> metric -> its states after this batch alone.
    """

    pairs: EncodedPairs
    u: Float[Tensor, " n"]
    methods: tuple[MethodResult, ...]
    states: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @property
    def whole(self) -> bool:
        """Whether no method failed."""
        return all(method.failure is None for method in self.methods)

    def of_pair(self, place: int) -> list[PairResult]:
        """What each method made of the pair at a place of the batch, in the methods' order."""
        wanted = self.pairs.batch.ids[place]
        return [
            PairResult(result=result, index=result.pairs.batch.ids.index(wanted))
            for result in self.methods
            if wanted in result.pairs.batch.ids
        ]

    def made(self, place: int) -> list[PairResult]:
        """What the methods that did not fail made of the pair at a place."""
        return [one for one in self.of_pair(place) if not one.failed]


def broken_pairs(table: pd.DataFrame, folder: object) -> str | None:
    """One sentence on the sequences of a table that are none; None if all are whole.

    Args:
        table: A row a pair and method.
        folder: Where the others are.
    """
    lost = table[table["status"].isin(LOST)]
    if lost.empty:
        return None
    named = "; ".join(f"{method} on {', '.join(rows['pair'])}" for method, rows in lost.groupby("method", sort=False))
    said = f"{len(lost)} of {counted(len(table), 'sequence')} failed ({named}): the others are in '{folder}'."
    if (lost["status"] != Status.NON_FINITE_SCORE.value).any():
        return f"{said} The first said: {lost['failure'].dropna().iloc[0]}"
    return f"{said} The score was not finite: {GENTLER}."


def non_finite(named: Sequence[str], folder: object, remedy: str, *, of: str = "score") -> str | None:
    """One sentence on what a run could not follow to its end; None where there is nothing.

    Args:
        named: Whose score, or whatever it is, was not finite.
        folder: Where the other results are.
        remedy: What to do.
        of: What of them was not finite.
    """
    if not len(named):
        return None
    return f"The {of} of {', '.join(named)} was not finite: the other results are in '{folder}'; {remedy}."


def unsolved_inversions(table: pd.DataFrame) -> str | None:
    """One sentence on the pairs whose images were not inverted to the tolerance; None if all were."""
    if "inversion" not in table.columns:
        return None
    found = table.dropna(subset="inversion").drop_duplicates("pair")
    found = found[found["status"] != UNINVERTED]
    if found.empty:
        return None
    named = "; ".join(f"{row['pair']} ({row['inversion']})" for _, row in found.iterrows())
    return (
        f"The inversion of {len(found)} of {counted(table['pair'].nunique(), 'pair')} did not settle, so that "
        f"their sequences do not begin and end in quite the images given: {named}. Raise model.refinements or "
        "model.steps, or lower tau."
    )


def summarise(table: pd.DataFrame, records: Sequence[MetricRecord] = ()) -> dict[str, float]:
    """Means over the pairs as a flat mapping `<method>/<column>` -> number, and how often the geodesic wins.

    Args:
        table: A row a pair and method.
        records: What the metrics amount to over all pairs, which goes before means.
    """
    numbers = [column for column in table.columns if column not in DESCRIPTIVE]
    summary: dict[str, float] = {"pairs": float(table["pair"].nunique())}
    for method, rows in table.groupby("method", sort=False):
        for column in numbers:
            values = rows[column].to_numpy(dtype=float)
            if np.isfinite(values).any():
                summary[f"{method}/{column}"] = float(np.nanmean(values))
    over_pairs = {f"{one.method}/{one.column}": one.value for one in records if np.isfinite(one.value)}
    return summary | wins(table, methods=("geodesic", "geodesic_paper"), against="slerp") | over_pairs


def protocol_notes(records: Sequence[MetricRecord]) -> dict[str, dict[str, str]]:
    """In what numbers depart from their source's: protocol -> notes -> titles of the columns that they are about."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for record in records:
        if record.protocol is not None and record.notes:
            notes = found.setdefault(record.protocol, {}).setdefault("; ".join(record.notes), {})
            notes[record.title.partition(" (")[0]] = None
    return {
        protocol: {notes: "; ".join(titles) for notes, titles in about.items()} for protocol, about in found.items()
    }


def closes(means: "Mapping[str, float] | pd.Series[float]", column: str) -> bool:
    """Whether a number is known well enough to be ranked, given the means of all columns; see `Column.closes`.

    What says nothing of its misfit, as tables from before it was measured, is taken as it is.
    """
    known = KNOWN.get(column)
    if known is None or known.bound is None or known.against is None:
        return True
    value, bound, against = (float(means.get(name, np.nan)) for name in (column, known.bound, known.against))
    return known.closes(value, bound, against)


def wins(table: pd.DataFrame, *, methods: Sequence[str], against: str) -> dict[str, float]:
    """The share of pairs on which a method is strictly better than another, column by column.

    Numbers that the score leaves uncertain, because its line integral does not close, are compared by nobody.
    """
    shares: dict[str, float] = {}
    other = table[table["method"] == against].set_index("pair")
    for method in methods:
        ours = table[table["method"] == method].set_index("pair")
        both = ours.index.intersection(other.index)
        if both.empty:
            continue
        for column in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
            if column not in table.columns or not closes(ours.loc[both].mean(numeric_only=True), column):
                continue
            gain = ours.loc[both, column].astype(float) - other.loc[both, column].astype(float)
            gain = gain.dropna() * (1 if column in HIGHER_IS_BETTER else -1)
            if len(gain):
                shares[f"{method}/{column}_better_than_{against}"] = float((gain > 0).mean())
    return shares
