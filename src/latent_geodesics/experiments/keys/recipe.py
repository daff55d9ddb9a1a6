"""Keys: one path through several key images, by every method that can."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.progress import advance, telling
from latent_geodesics.data import KeyBatch, KeyData
from latent_geodesics.data.keys import read_keys
from latent_geodesics.experiments.keys.figures import draw_speeds
from latent_geodesics.experiments.keys.legs import leg_rows, over_legs
from latent_geodesics.experiments.keys.page import keys_page, least
from latent_geodesics.experiments.keys.sequences import DRAWN, Made, left_out, make_sequence, strip_of, worst_key
from latent_geodesics.methods import EncodedPairs
from latent_geodesics.methods.chains import meeting, shares
from latent_geodesics.run.each import Rows
from latent_geodesics.run.files import file_stem, title_of
from latent_geodesics.run.morphs import Morphs
from latent_geodesics.run.results import broken_pairs, summarise, unknown_images
from latent_geodesics.run.runner import Run
from latent_geodesics.run.sequences import save_frame

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
        reasons = list(self.left_out.values())
        for reason in reasons if run.leads else ():
            log.warning("%s", reason)
        weights = self.morphs.weights
        run.record_environment(weights=weights, machinery=self.morphs.model.machinery)
        batches = [[sequence] for sequence in self.data.sequences]
        read = partial(read_keys, size=self.morphs.model.image_size)
        tables = run.each(batches, partial(self.work, run), read=read, made_with=weights)
        if not run.leads:
            return {}
        results = tables["results"]
        judged = results.dropna(subset="verdict") if "verdict" in results else results[:0]  # what failed has none
        for name, rows in judged.groupby("pair", sort=False):
            told = [f"{title_of(row['method'])} {row['verdict']}" for _, row in rows.iterrows()]
            log.info("Sequence '%s', from leg to leg: %s.", name, "; ".join(told))
        sequences, frames = self.data.sequences, self.morphs.frames
        page = keys_page(run, tables, sequences, frames=frames, smooth=self.smooth, notes=reasons)
        return run.finish(page, tables, summary=summarise(results), broken=broken_pairs(results, run.folder))

    def work(self, run: Run, batch: KeyBatch) -> Rows:
        """A sequence by every method: frames, a film, a strip, the figure of speeds, and the verdict of each leg."""
        rows, sequence = run.rows(), batch.sequence
        encoded = self.morphs.encode(batch.legs, seed=run.seed)
        shown = _keys(rows, batch, encoded)
        if said := unknown_images(f"sequence '{sequence.id}'", least(shown["keys_db"])):
            log.warning("%s", said)
        legs = meeting(encoded, loop=sequence.loop)
        steps = shares(sequence.positions, self.morphs.frames)
        made = self._made(legs, batch, steps)
        verdicts = {}
        for name, one in made.items():
            row = {**one.row, "keys_db": worst_key(batch.images, steps, one.frames)}
            if one.frames is not None:
                of_legs = leg_rows(name, one.frames, legs, sequence, steps)
                rows.add("legs", *of_legs)
                row |= over_legs(of_legs)
                verdicts[name] = row["verdict"]
            rows.add("results", row)
        rows.whole = all(one.frames is not None for one in made.values())
        frames = {name: one.frames for name, one in made.items() if one.frames is not None}
        rows.strip(strip_of(batch.images, steps, frames), sequence.id)
        film = slice(None, -1 if sequence.loop else None)  # of a loop the last frame is the first
        players = [
            rows.sequence(found[film], sequence.id, name) | {"verdict": verdicts[name]}
            for name, found in frames.items()
        ]
        rows.kept["shown"] = shown | {"id": sequence.id, "players": players}
        _draw(rows, batch, made)
        return rows

    def _made(self, legs: EncodedPairs, batch: KeyBatch, steps: Sequence[int]) -> dict[str, Made]:
        """What each method makes of a sequence that it can."""
        methods = {name: method for name, method in self.morphs.methods.items() if name not in self.left_out}
        made = {}
        for name, method in methods.items():
            with telling(f"{name}: "):
                made[name] = make_sequence(name, method, legs, batch.sequence, steps, smooth=self.smooth)
            advance(1 / len(methods))
        return made


def _keys(rows: Rows, batch: KeyBatch, encoded: EncodedPairs) -> dict[str, Any]:
    """Writes the keys as the model's size crops them, the first of a loop once, and tells how they are given back."""
    name, count = batch.sequence.id, len(batch.images) - batch.sequence.loop
    decibels = torch.cat([encoded.given_back[:, 0], encoded.given_back[-1:, 1]])
    files = [
        rows.file(f"keys/{file_stem(name, str(number))}.png", partial(save_frame, frame=image))
        for number, image in enumerate(batch.images[:count])
    ]
    return {"keys": files, "keys_db": decibels[:count].tolist()}


def _draw(rows: Rows, batch: KeyBatch, made: Mapping[str, Made]) -> None:
    """Draws the speeds of those methods that have a path."""
    sequence = batch.sequence
    speeds = {name: one.speeds for name, one in made.items() if len(one.speeds)}
    if speeds:
        at = sequence.times[0] + np.linspace(0, 1, DRAWN) * (sequence.times[-1] - sequence.times[0])
        figure = f"figures/{file_stem(sequence.id)}.png"
        rows.file(figure, lambda file: draw_speeds(file, speeds, at, times=sequence.times))
