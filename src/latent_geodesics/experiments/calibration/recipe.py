"""Calibration: every published metric by this project's code and by the implementation that defines it.

What is measured are the shipped true frames of some pairs (or those of a manifest of one's own), against blends of each
pair's two images. One page says, number by number, by which weights both were computed and how far they are apart.
"""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import pandas as pd
import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import PairBatch, PairData, read_batch
from latent_geodesics.experiments.calibration.references import Calibrated, Frames, comparisons
from latent_geodesics.models.weights import WeightsRegistry
from latent_geodesics.run.pages import Page
from latent_geodesics.run.results import COLUMNS, COSTS, KNOWN, PROTOCOL_MARK
from latent_geodesics.run.runner import Run

log = logging.getLogger(__name__)

LEAST_SIDE, LEAST_FRAMES = 32, 16
LEAD = (
    "Each published metric twice on the same images: by this project's code, and by the implementation that its source "
    "or the field measures with. Where the published weights are not at hand, both take the same random weights in the "
    "published structure: such numbers mean nothing, but they agree."
)
DISTANCES = (
    "The images are the true frames of the pairs; those that they are held against are blends of each pair's two "
    "images, darkened for distances of sets, since the reference's kernel does not resolve near ones. Difference: "
    "relative to the reference, absolute where that is nothing. Lengths and variances of published protocols are sums, "
    "means and deviations of the same distances, over the frames that metrics.json of a run names."
)


class Calibration:
    """Creates the experiment of comparing metrics with their reference implementations.

    Args:
        data: Pairs with true frames.
        weights: Where published weights are taken from, as far as they are there.
        network: The folder of the attribute network, whose features are held against torch-fidelity's formulas.
        size: Height and width in pixels to which the frames are brought.
    """

    def __init__(self, *, data: PairData, weights: WeightsRegistry, network: str, size: Sequence[int]) -> None:
        sides = [side for side in size if isinstance(side, int) and side >= LEAST_SIDE]
        if len(size) != 2 or len(sides) != 2:
            raise UserError(f"task.size must be a height and a width of at least {LEAST_SIDE} pixels, got {size!r}.")
        self.pairs = [pair for pair in data.pairs if pair.frames]
        lengths = {len(pair.frames) for pair in self.pairs}
        if len(lengths) != 1 or len(self.pairs) * max(lengths) < LEAST_FRAMES:
            raise UserError(
                f"Calibration needs at least {LEAST_FRAMES} true frames in sequences of one length, and data has "
                f"{len(self.pairs)} pairs with {sorted(lengths) or 'no'} frames: choose others by data.manifest, "
                "data.limit or data.split."
            )
        self.size, self.weights, self.network = (sides[0], sides[1]), weights, network

    def run(self, run: Run) -> Mapping[str, float]:
        """Compares them; returns `<metric>/ours`, `/reference` and `/difference`, and the largest difference."""
        frames, found, missing = _frames(read_batch(self.pairs, size=self.size)), [], {}
        for name, (module, compare) in comparisons(self.network).items():
            if find_spec(module) is None:
                missing[name] = f"{name}: the package {module} is not installed, so that nothing was compared."
                log.warning("%s", missing[name])
                continue
            log.info("Comparing %s", name)
            torch.manual_seed(run.seed)
            found += list(compare(frames, self.weights))
        page = run.page(
            "Metrics beside their reference implementations", LEAD, pairs=len(self.pairs),
            frames=frames.made.shape[0] * frames.made.shape[1], pixels=" x ".join(map(str, self.size)), seed=run.seed,
        )  # fmt: skip
        _compose(page, found, list(missing.values()))
        summary = {
            f"{one.metric}/{part}": value for one in found
            for part, value in (("ours", one.ours), ("reference", one.reference), ("difference", one.difference))
        }  # fmt: skip
        summary |= {"largest_difference": max(one.difference for one in found), "compared": float(len(found))}
        results = pd.DataFrame({"metric": one.metric, "ours": one.ours, "reference": one.reference,
                                "difference": one.difference, "implementation": one.package.name,
                                "version": one.package.version, "weights": one.weights} for one in found)  # fmt: skip
        return run.finish(page, summary=summary, calibration=results)


def _frames(batch: PairBatch) -> Frames:
    """The true frames, and at the same positions blends of the two images, both as files of eight bits hold them."""
    made = torch.stack([truth for truth in batch.truth if truth is not None])
    u = torch.linspace(0, 1, made.shape[1])[None, :, None, None, None]
    blends = torch.lerp(batch.images_a[:, None], batch.images_b[:, None], u)
    return Frames(made=made, true=blends.mul(255).round().div(255))


def _compose(page: Page, found: Sequence[Calibrated], missing: Sequence[str]) -> None:
    """The page: a row for each number, and what was not compared."""
    rows = [
        {
            "metric": _title(one.metric),
            "of": one.of, "ours": f"{one.ours:.6g}", "reference": f"{one.reference:.6g}",
            "difference": f"{one.difference:.1e}", "implementation": f"{one.package.name} {one.package.version}",
            "by which weights": one.weights,
        }
        for one in found
    ]  # fmt: skip
    page.section("Number by number", DISTANCES, table=pd.DataFrame(rows))
    compared = _compared(found)
    own = "; ".join(title for name, title in COLUMNS.items() if name not in compared and name not in COSTS)
    page.section("Not compared", *missing, f"Without a reference implementation, or of paths: {own}.")


def _title(metric: str) -> str:
    """What a column is called, or a distance of sets, which every protocol has one of."""
    return KNOWN[metric].title if metric in KNOWN else KNOWN[f"{metric}{PROTOCOL_MARK}raw"].title.removesuffix(" (raw)")


def _compared(found: Sequence[Calibrated]) -> set[str]:
    """The columns that are made of what was compared."""
    stems = {one.metric.removeprefix("ppl_seq_").removeprefix("pdv_").removeprefix("truth_") for one in found}
    return {name for name in KNOWN if any(name.endswith((f"_{stem}", f"_{stem}_aligned")) or name == stem
                                          for stem in stems)} | {"reconstruction_mse"}  # fmt: skip
