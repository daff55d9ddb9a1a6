"""What a sweep does to the pictures: for a few pairs, a strip of frames for each swept value, and links to the runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from latent_geodesics.run.canvas import Frames, draw_grid, frame_files, frames_on_disk, shown_positions
from latent_geodesics.run.compare.figures import is_number
from latent_geodesics.run.compare.runs import RunRecord, shown_value, value_words_of
from latent_geodesics.run.compare.settings import setting_title
from latent_geodesics.run.files import file_stem, title_of
from latent_geodesics.run.pages import Cell

PAIRS, METHODS, VALUES, COLUMNS = 3, 4, 12, 7
FOLDER = "strips"


def draw_strips(folder: Path, runs: Sequence[RunRecord], varied: Sequence[str]) -> dict[str, str]:
    """Writes `strips/<pair>.png` and `.pdf` for the first pairs that all runs have frames of; returns file -> caption.

    A method whose frames no value changes has one row. Of runs that differ in their seed alone the first is shown.
    """
    shown = _one_for_each_value(runs, varied)
    if len(shown) < 2:
        return {}
    pairs = [pair for pair in dict.fromkeys(runs[0].table["pair"]) if all(pair in set(r.table["pair"]) for r in shown)]
    methods = [name for name in dict.fromkeys(runs[0].table["method"]) if name != "true_frames"][:METHODS]
    captions: dict[str, str] = {}
    for pair in map(str, pairs):
        counts = [len(frame_files(run.folder, pair, method)) for run in shown for method in methods]
        at = shown_positions(min(filter(None, counts), default=1), COLUMNS)
        rows = {name: frames for method in methods for name, frames in _rows(shown, varied, pair, method, at).items()}
        stem = f"{FOLDER}/{file_stem(pair)}"
        if draw_grid(folder / stem, {pair: rows}, at=at):
            captions[f"{stem}.png"] = f"{pair} (as a figure for a paper: {stem}.pdf)"
        if len(captions) == PAIRS:
            break
    return captions


def links(folder: Path, runs: Sequence[RunRecord], varied: Sequence[str]) -> pd.DataFrame:
    """A row for each run: where its page is, what it was set to, how many pairs it holds."""
    words = value_words_of(runs, varied)
    rows: list[dict[str, Any]] = []
    for run in runs:
        page = run.folder / "report.html"
        link = quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix()) if page.is_file() else None
        rows.append(
            {"run": Cell(text=run.folder.name, link=link)}
            | {setting_title(name): words[name][shown_value(run, run.value(name))] for name in varied}
            | {"seed": str(run.settings.get("seed")), "pairs": run.table["pair"].nunique(),
               "finished": "yes" if run.finished else "no"}
        )  # fmt: skip
    return pd.DataFrame(rows, dtype=object)


def _one_for_each_value(runs: Sequence[RunRecord], varied: Sequence[str]) -> list[RunRecord]:
    """The first run of each setting in the order of the values, evenly chosen where there are too many."""
    first: dict[tuple[str, ...], RunRecord] = {}
    for run in runs:
        first.setdefault(tuple(shown_value(run, run.value(name)) for name in varied), run)
    found = list(first.values())
    orders = {name: list(dict.fromkeys(shown_value(run, run.value(name)) for run in found)) for name in varied}
    numeric = {name for name in varied if all(is_number(run.value(name)) for run in found)}

    def place(run: RunRecord) -> list[float]:
        values = ((name, run.value(name)) for name in varied)
        return [float(v) if name in numeric else orders[name].index(shown_value(run, v)) for name, v in values]

    found.sort(key=place)
    return [found[round(at)] for at in np.linspace(0, len(found) - 1, min(VALUES, len(found)))]


def _rows(
    runs: Sequence[RunRecord], varied: Sequence[str], pair: str, method: str, at: Sequence[float]
) -> dict[str, Frames]:
    """What a row is called -> frames, of a pair and method under each setting that changes them."""
    found = [(run, frames_on_disk(run.folder, pair, method, at=at)) for run in runs]
    found = [(run, frames) for run, frames in found if frames]
    if len(found) < 2:
        return {}
    telling = list(varied)
    for name in varied:
        others = [other for other in telling if other != name]
        if all(_equal(frames, same[0]) for same in _by(found, others).values() for frames in same):
            telling = others
    return {", ".join([title_of(method), *values]): same[0] for values, same in _by(found, telling).items()}


def _by(found: Sequence[tuple[RunRecord, Frames]], names: Sequence[str]) -> dict[tuple[str, ...], list[Frames]]:
    """The frames of runs by the values of some settings, as rows are named after them."""
    words = value_words_of([run for run, _ in found], names)
    groups: dict[tuple[str, ...], list[Frames]] = {}
    for run, frames in found:
        told = [(name, run.value(name), words[name][shown_value(run, run.value(name))]) for name in names]
        named = tuple(f"{setting_title(name)} {said}" if is_number(value) else said for name, value, said in told)
        groups.setdefault(named, []).append(frames)
    return groups


def _equal(frames: Frames, others: Frames) -> bool:
    return len(frames) == len(others) and all(map(np.array_equal, frames, others))
