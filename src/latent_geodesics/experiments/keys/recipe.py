"""Keys: one path through several key images, by every method that can."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import Status
from latent_geodesics.data import KeyBatch, KeyData, KeySequence
from latent_geodesics.data.keys import read_keys
from latent_geodesics.experiments.keys.figures import draw_speeds
from latent_geodesics.methods import EncodedPairs, Method
from latent_geodesics.methods.base import Meter
from latent_geodesics.methods.chains import Chain, chain_of, has_path, meeting, positions_of, shares
from latent_geodesics.methods.statuses import CLOSED_FORM, FAILED, status_sentence
from latent_geodesics.run.each import Rows
from latent_geodesics.run.morphs import Morphs
from latent_geodesics.run.names import file_stem, title_of
from latent_geodesics.run.results import COSTS, broken_pairs, summarise
from latent_geodesics.run.runner import Run

__all__ = ["Keys"]

log = logging.getLogger(__name__)

LEAD = (
    "One path leads through all keys, each of them an image at a time of its own: between neighbours it is the "
    "method's path of two images."
)
SMOOTH = (
    "Each leg is bent by as much as it takes to give the path one velocity at each inner key, that of the parabola "
    "through three keys; the keys stay where they are."
)
SHARP = "The path turns at each key as the two legs there meet; smooth=true gives it one velocity."
WIDEST_STRIP = 24
DRAWN = 241


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a method made of a sequence: frames, a row of numbers, and its speeds where it has a path."""

    row: Mapping[str, Any]
    frames: Float[Tensor, "n 3 h w"] | None = None
    speeds: np.ndarray = field(default_factory=lambda: np.empty(0))


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
        self.left_out = _left_out(morphs.methods) if smooth else {}
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
            page.section(sequence.id, _described(sequence), players=players, pictures=_pictures(run, sequence))
        shown = results.drop(columns=[name for name in ("group", "cluster", "failure") if name in results])
        shown = shown.rename(columns={name: column.title for name, column in COSTS.items()})
        page.section("Numbers", *_notes(results), *self.left_out.values(), table=shown)
        return run.finish(page, tables, summary=summarise(results), broken=broken_pairs(results, run.folder))

    def work(self, run: Run, batch: KeyBatch) -> Rows:
        """A sequence by every method: frames, a film, a strip, the figure of speeds."""
        rows, sequence = run.rows(), batch.sequence
        legs = meeting(self.morphs.encode(batch.legs, seed=run.seed), loop=sequence.loop)
        steps = shares(sequence.positions, self.morphs.frames)
        made = {
            name: self._made(name, method, legs, sequence, steps)
            for name, method in self.morphs.methods.items()
            if name not in self.left_out
        }
        rows.add("results", *(one.row for one in made.values()))
        rows.whole = all(one.frames is not None for one in made.values())
        shown = {name: one.frames for name, one in made.items() if one.frames is not None}
        rows.strip(_strip(batch.images, steps, shown), sequence.id)
        film = slice(None, -1 if sequence.loop else None)  # of a loop the last frame is the first
        rows.kept["players"] = [rows.sequence(frames[film], sequence.id, name) for name, frames in shown.items()]
        speeds = {name: one.speeds for name, one in made.items() if len(one.speeds)}
        if speeds:
            at = sequence.times[0] + np.linspace(0, 1, DRAWN) * (sequence.times[-1] - sequence.times[0])
            figure = f"figures/{file_stem(sequence.id)}.png"
            rows.file(figure, lambda file: draw_speeds(file, speeds, at, times=sequence.times))
        return rows

    def _made(self, name: str, method: Method, legs: EncodedPairs, sequence: KeySequence, steps: list[int]) -> Made:
        row = {"pair": sequence.id, "group": sequence.group, "cluster": sequence.id, "method": name}
        try:
            if has_path(method):
                return self._along_a_path(row, method, legs, sequence, steps)
            return _leg_by_leg(row, method, legs, steps)
        except Exception as error:  # whatever a method raises is that method's, and the run goes on
            failure = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("%s failed on %s; the run goes on. %s", name, sequence.id, failure)
            log.debug("%s on %s", name, sequence.id, exc_info=error)
            return Made(row={**row, "status": FAILED, "failure": failure})

    def _along_a_path(
        self, row: Mapping[str, Any], method: Method, legs: EncodedPairs, sequence: KeySequence, steps: list[int]
    ) -> Made:
        meter = Meter(legs.model)
        chain = chain_of(method, legs, sequence, smooth=self.smooth)
        meter.solved()
        frames = chain.frames(positions_of(sequence.positions, steps))
        cost = meter.cost(1)
        found = {
            "status": _worst(chain.statuses),
            "seconds": cost["seconds"],
            "evaluations": int(chain.solution.stats["evaluations"].sum()),
            "unet_calls": cost["unet_calls"],
            "peak_memory_mb": cost["peak_memory_mb"],
            "miss": chain.misses,
            "turn": chain.turns,
        }
        return Made(row={**row, **found}, frames=frames.cpu(), speeds=_speeds(chain))


def _leg_by_leg(row: Mapping[str, Any], method: Method, legs: EncodedPairs, steps: list[int]) -> Made:
    """Sequences between neighbours, one after the other; each key is shown as the leg has it that arrives there."""
    frames: list[Tensor] = []
    statuses: list[str] = []
    seconds, calls, memory = 0.0, 0.0, 0.0
    for leg, count in enumerate(steps):
        morph = method.morph(legs.restrict([leg]), torch.linspace(0, 1, count + 1, dtype=torch.float64))
        frames.append(morph.frames[0, 1 if leg else 0 :].cpu())
        statuses += morph.statuses
        seconds, calls, memory = seconds + morph.seconds, calls + morph.unet_calls, max(memory, morph.peak_memory_mb)
    found = {"seconds": seconds, "evaluations": 0, "unet_calls": calls, "peak_memory_mb": memory}
    return Made(row={**row, "status": _worst(statuses), **found}, frames=torch.cat(frames))


def _left_out(methods: Mapping[str, Method]) -> dict[str, str]:
    """Method -> why it can have no continuous velocity, of those that cannot."""
    return {
        name: f"'{name}' makes the frames of one pair at a time and has no path of latents whose velocity could be "
        "continuous: it is left out; smooth=false joins its frames."
        for name, method in methods.items()
        if not has_path(method)
    }


def _worst(statuses: "tuple[str, ...] | list[str]") -> str:
    """The status of a sequence: that of the first leg that did not end as it should, or of the first."""
    good = (Status.CONVERGED.value, Status.RESOLVED.value, CLOSED_FORM)
    return next((status for status in statuses if status not in good), statuses[0])


def _speeds(chain: Chain) -> np.ndarray:
    speeds: np.ndarray = chain.velocities(torch.linspace(0, 1, DRAWN, dtype=torch.float64)).norm(dim=-1).cpu().numpy()
    return speeds


def _strip(
    keys: Float[Tensor, "k1 3 h w"], steps: list[int], shown: Mapping[str, Float[Tensor, "n 3 h w"]]
) -> dict[str, Float[Tensor, "m 3 h w"]]:
    """The keys where they belong, and below them every sequence; of long ones some frames, the keys among them."""
    at = np.cumsum([0, *steps]).tolist()
    count = at[-1] + 1
    chosen = sorted({*at, *np.linspace(0, count - 1, min(count, WIDEST_STRIP)).round().astype(int).tolist()})
    first = torch.ones(count, *keys.shape[1:])
    first[at] = keys.cpu().float()
    return {"keys": first[chosen]} | {name: frames[chosen] for name, frames in shown.items()}


def _described(sequence: KeySequence) -> str:
    keys = zip(sequence.times, sequence.images, sequence.prompts, strict=True)
    said = "; ".join(f"{time:g}: {file.name}" + (f" ({prompt})" if prompt else "") for time, file, prompt in keys)
    return f"Keys by their times: {said}." + (" It ends where it begins." if sequence.loop else "")


def _pictures(run: Run, sequence: KeySequence) -> dict[str, str]:
    stem = file_stem(sequence.id)
    pictures = {f"images/{stem}.png": "The keys, and every method below them."}
    if (run.folder / f"figures/{stem}.png").is_file():
        pictures[f"figures/{stem}.png"] = "Grey lines: the keys."
    return pictures


def _notes(results: Any) -> list[str]:
    said = {
        "miss": "largest distance of the path from a key, over the key's norm",
        "turn": "largest jump of the velocity at an inner key, over the speed there",
    }
    columns = ["; ".join(f"{name}: {words}" for name, words in said.items() if name in results)]
    ended = [f"{title_of(status)}: {status_sentence(status)}" for status in dict.fromkeys(results["status"])]
    return [f"{line[0].upper()}{line[1:]}." for line in columns if line] + ended
