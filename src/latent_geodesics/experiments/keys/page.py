"""The page of paths through key images: what went in, all methods under one slider, verdicts and numbers."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from latent_geodesics.data import KeySequence
from latent_geodesics.experiments.keys.legs import key_frames
from latent_geodesics.methods.base import status_sentence
from latent_geodesics.methods.chains import positions_of, shares
from latent_geodesics.metrics.pixels import MEANING
from latent_geodesics.run.each import Tables
from latent_geodesics.run.files import file_stem, title_of
from latent_geodesics.run.pages import Page
from latent_geodesics.run.results import COLUMNS, COSTS, unknown_images
from latent_geodesics.run.runner import Run
from latent_geodesics.run.sections import Given, Picture, Timeline, brief, rounded

LEAD = (
    "One path leads through all keys, each of them an image at a time of its own: between neighbours it is the "
    "method's path of two images."
)
SMOOTH = (
    "Each leg is bent by as much as it takes to give the path one velocity at each inner key, that of the parabola "
    "through three keys; the keys stay where they are. A status is that of the legs before they are bent."
)
SHARP = "The path turns at each key as the two legs there meet; smooth=true gives it one velocity."
KEYS = (
    "The keys as given, cropped to the model's size, each with the PSNR in dB with which the model gives it back from "
    "its latent alone."
)
LEGS = (
    "A leg leads from a key to the next one, and is named by their times; it is judged as a pair of images of its "
    f"own. {MEANING} None: no frame between its keys, or no change."
)
LEG_NUMBERS = {name: COLUMNS[name] for name in ("ghosting", "largest_step")}
NOTES = {
    "verdict": "Verdict: from leg to leg.",
    "ghosting": "Ghosting: the mean over the legs.",
    "keys_db": "Worst key: the PSNR of the key that the sequence shows worst.",
    "miss": "Miss: the largest distance of the path from a key, over the key's norm.",
    "turn": "Turn: the largest jump of the velocity at an inner key, over the speed there.",
}
NUMBERS = {
    "method": "method", "status": "status", "verdict": "verdict", "ghosting": COLUMNS["ghosting"],
    "keys_db": "worst key, dB", "miss": "miss", "turn": "turn",
} | {name: column.title for name, column in COSTS.items()}  # fmt: skip
"""Columns of `results.csv` that the page shows, by their titles."""


def keys_page(
    run: Run, tables: Tables, sequences: Sequence[KeySequence], *, frames: int, smooth: bool, notes: Sequence[str]
) -> Page:
    """Composes the page of what is finished; `notes` say what was left out."""
    results = tables["results"]
    page = run.page(
        "Paths through key images",
        f"{LEAD} {SMOOTH if smooth else SHARP}",
        *("model", "condition", "tau", "alpha", "guidance", "frames", "fps", "seed"),
        sequences=tables.counted,
    )
    by_id = {sequence.id: sequence for sequence in sequences}
    for shown in tables.kept("shown"):
        sequence = by_id[shown["id"]]
        page.section(
            sequence.id,
            given=_given(sequence, shown),
            players=shown["players"],
            timeline=timeline_of(sequence, shares(sequence.positions, frames)),
            pictures=_pictures(run, sequence),
        )
    page.section("Fade, morph or jump", LEGS, table=_legs(tables["legs"]))
    page.section("Numbers", *_notes(results), *notes, table=_numbers(results))
    return page


def timeline_of(sequence: KeySequence, steps: Sequence[int]) -> Timeline:
    """When the frames under the slider are; of a loop the last frame is the first, and is not shown twice."""
    start, end = sequence.times[0], sequence.times[-1]
    times = (start + (end - start) * positions_of(sequence.positions, steps)).tolist()
    shown = len(times) - sequence.loop
    return Timeline(
        times=times[:shown], keys=[key for key in key_frames(steps) if key < shown], loop=sequence.loop
    )  # fmt: skip


def _given(sequence: KeySequence, shown: Mapping[str, Any]) -> Given:
    pictures, step = [], min(later - sooner for sooner, later in pairwise(sequence.times))
    keys = zip(shown["keys"], shown["keys_db"], sequence.times, sequence.images, sequence.prompts, strict=False)
    for picture, decibels, time, file, prompt in keys:
        told = "" if math.isnan(decibels) else f"{decibels:.1f} dB"
        parts = (f"time {brief(time, to=step)}", file.name, prompt, told)
        pictures.append(Picture(file=picture, caption=", ".join(filter(None, parts))))
    again = f" The path ends where it begins, at time {brief(sequence.times[-1], to=step)}." if sequence.loop else ""
    return Given(pictures=pictures, note=KEYS + again, warning=unknown_images("this sequence", least(shown["keys_db"])))


def least(decibels: Sequence[float]) -> float | None:
    """The least of those that are known."""
    return min((each for each in decibels if not math.isnan(each)), default=None)


def _pictures(run: Run, sequence: KeySequence) -> dict[str, str]:
    """File -> caption, of what the run drew of a sequence."""
    stem = file_stem(sequence.id)
    pictures = {f"images/{stem}.png": "The keys, and every method below them."}
    if (run.folder / f"figures/{stem}.png").is_file():
        pictures[f"figures/{stem}.png"] = "Grey lines: the keys."
    return pictures


def _legs(legs: pd.DataFrame) -> pd.DataFrame | None:
    """A row for each leg and method, leg by leg."""
    if legs.empty:
        return None
    rows = []
    for _, leg in legs.sort_values(["pair", "leg"], kind="stable").iterrows():
        named = {"sequence": leg["pair"]} if legs["pair"].nunique() > 1 else {}
        half = leg["half_changed"]
        step = (leg["end"] - leg["start"]) / 10
        told = None if math.isnan(half) else rounded(half, to=step)
        numbers = {title: leg[name] for name, title in LEG_NUMBERS.items() if name in leg}
        ends = " to ".join(brief(leg[end], to=step) for end in ("start", "end"))
        words = {"leg": ends, "method": leg["method"], "verdict": leg["verdict"]}
        rows.append(named | words | {"half changed at time": told} | numbers)
    return pd.DataFrame(rows)


def _numbers(results: pd.DataFrame) -> pd.DataFrame:
    named = {"sequence": results["pair"]} if results["pair"].nunique() > 1 else {}
    return pd.DataFrame(named | {title: results[name] for name, title in NUMBERS.items() if name in results})


def _notes(results: pd.DataFrame) -> list[str]:
    """What the columns of the table and its statuses mean."""
    said = [words for name, words in NOTES.items() if name in results]
    ended = [f"{title_of(status)}: {status_sentence(status)}" for status in dict.fromkeys(results["status"])]
    return [" ".join(said), *ended]
