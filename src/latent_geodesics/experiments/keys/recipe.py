"""Keys: one path through several key images, by every method that can."""

import logging
from collections.abc import Mapping
from functools import partial

import numpy as np

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import KeyBatch, KeyData
from latent_geodesics.data.keys import read_keys
from latent_geodesics.experiments.keys.figures import draw_speeds
from latent_geodesics.experiments.keys.sequences import DRAWN, make_sequence
from latent_geodesics.experiments.keys.words import (
    LEAD,
    SHARP,
    SMOOTH,
    described,
    left_out,
    notes_on,
    pictures_of,
    strip_of,
    worst_key,
)
from latent_geodesics.methods.chains import meeting, shares
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import file_stem
from latent_geodesics.run.morphs import Morphs
from latent_geodesics.run.results import COSTS, broken_pairs, summarise, unknown_images
from latent_geodesics.run.runner import Run

log = logging.getLogger(__name__)


class Keys:
    """Creates the experiment of paths through key images.

    Args:
        morphs: The methods, without metrics, and the number of images of a sequence.
        data: The keys.
        smooth: Whether the velocity is to be continuous at the inner keys; methods without a path of latents are then
            left out.
    """

    shares_work = True

    def __init__(self, *, morphs: Morphs, data: KeyData, smooth: bool = False) -> None:
        if not isinstance(data, KeyData):
            raise UserError("The experiment keys takes key images: choose data=keys data.keys=[a.png,b.png,c.png].")
        self.morphs, self.data, self.smooth = morphs, data, smooth
        self.left_out = left_out(morphs.methods) if smooth else {}
        if len(self.left_out) == len(morphs.methods):
            raise UserError(next(iter(self.left_out.values())))
        for sequence in data.sequences:
            shares(sequence.positions, morphs.frames)

    def run(self, run: Run) -> Mapping[str, float]:
        """Makes every sequence; returns means over them, `<method>/<column>` -> number."""
        for reason in self.left_out.values() if run.leads else ():
            log.warning("%s", reason)
        weights = self.morphs.weights
        run.record_environment(weights=weights, machinery=self.morphs.model.machinery)
        batches = [[sequence] for sequence in self.data.sequences]
        read = partial(read_keys, size=self.morphs.model.image_size)
        tables = run.each(batches, partial(self.work, run), read=read, made_with=weights)
        if not run.leads:
            return {}
        results = tables["results"]
        lead = f"{LEAD} {SMOOTH if self.smooth else SHARP}"
        page = run.page(
            "Paths through key images",
            lead,
            *("condition", "tau", "alpha", "frames", "fps", "smooth", "seed"),
            sequences=tables.counted,
        )
        for players, sequence in zip(tables.kept("players"), self.data.sequences, strict=False):
            notes = [described(sequence)]
            worst = float(results[results["pair"] == sequence.id]["keys_db"].min())
            if said := unknown_images(f"sequence '{sequence.id}'", worst):
                log.warning("%s", said)
                notes.append(said)
            page.section(sequence.id, *notes, players=players, pictures=pictures_of(run, sequence))
        shown = results.drop(columns=[name for name in ("group", "cluster", "failure") if name in results])
        shown = shown.rename(columns={name: column.title for name, column in COSTS.items()})
        page.section("Numbers", *notes_on(results), *self.left_out.values(), table=shown)
        return run.finish(page, tables, summary=summarise(results), broken=broken_pairs(results, run.folder))

    def work(self, run: Run, batch: KeyBatch) -> Rows:
        """A sequence by every method: frames, a film, a strip, the figure of speeds."""
        rows, sequence = run.rows(), batch.sequence
        legs = meeting(self.morphs.encode(batch.legs, seed=run.seed), loop=sequence.loop)
        steps = shares(sequence.positions, self.morphs.frames)
        made = {
            name: make_sequence(name, method, legs, sequence, steps, smooth=self.smooth)
            for name, method in self.morphs.methods.items()
            if name not in self.left_out
        }
        for one in made.values():
            rows.add("results", {**one.row, "keys_db": worst_key(batch.images, steps, one.frames)})
        rows.whole = all(one.frames is not None for one in made.values())
        shown = {name: one.frames for name, one in made.items() if one.frames is not None}
        rows.strip(strip_of(batch.images, steps, shown), sequence.id)
        film = slice(None, -1 if sequence.loop else None)  # of a loop the last frame is the first
        rows.kept["players"] = [rows.sequence(frames[film], sequence.id, name) for name, frames in shown.items()]
        speeds = {name: one.speeds for name, one in made.items() if len(one.speeds)}
        if speeds:
            at = sequence.times[0] + np.linspace(0, 1, DRAWN) * (sequence.times[-1] - sequence.times[0])
            figure = f"figures/{file_stem(sequence.id)}.png"
            rows.file(figure, lambda file: draw_speeds(file, speeds, at, times=sequence.times))
        return rows
