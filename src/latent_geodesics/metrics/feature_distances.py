r"""Distances of what a method made to the real images: FID, KID, and the same by the shipped network's features.

Of two sets of images with the features x_1 .. x_n and y_1 .. y_m in R^d: Fréchet (Heusel et al. 2017,
arXiv 1706.08500), with means and covariances (over n - 1 and m - 1):

    |mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)).

With S_x = A^T A and S_y = B^T B, tr (S_x S_y)^(1/2) is the sum of the singular values of A B^T. This takes the root of
no matrix, and is exact where there are fewer images than dimensions, as is usual here.

Kernel (Bińkowski et al. 2018, arXiv 1801.01401): the unbiased estimate of the squared maximum mean discrepancy under
k(a, b) = (a.b / d + 1)^3. All images are used at once; the mean over random subsets, which others report, has the same
expectation with more variance.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.metrics.base import Column, Provenance, RunFacts, SetMetric
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import FeatureNetwork
from latent_geodesics.metrics.protocol import PROTOCOLS, Protocol

FEWEST = 2
FEWEST_LEFT = 3
GROUPS = 20
_ROWS = 1024
_TITLES = {"fid": "FID", "kid": "KID", "fd_clevr": "Fréchet distance, clevr", "kd_clevr": "kernel distance, clevr"}


class FeatureDistances(SetMetric):
    """Fréchet and kernel distance between frames of the sequences and the images that the pairs are made of.

    The features of every frame are states, not their mean and covariance: with the few hundred images of such a run
    they take less room than a covariance, serve every protocol's choice of frames, and both distances. They are put in
    an order that the pairs' names fix, so that neither batches nor processes change a draw.

    Args:
        network: The features.
        protocols: Name -> protocol, which says what frames are compared.
        seed: Of the random choice of frames.
        least: The fewest images on either side; a run with fewer is refused.
    """

    columns: ClassVar = {
        f"{name}@{protocol}": Column(title=f"{title} ({protocol})", better="lower")
        for protocol in PROTOCOLS
        for name, title in _TITLES.items()
    }

    frames: list[Tensor]
    ends: list[Tensor]
    keys: list[Tensor]

    def __init__(
        self, *, network: FeatureNetwork, protocols: Mapping[str, Protocol], seed: int = 0, least: int = 16
    ) -> None:
        super().__init__()
        if not protocols:
            raise UserError("FeatureDistances needs at least one protocol: name some of conf/protocol.")
        if least < FEWEST:
            raise UserError(f"least must be at least {FEWEST} images, got {least}.")
        self.network, self.protocols, self.seed, self.least = network, dict(protocols), seed, least
        for name in ("frames", "ends", "keys"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @property
    def names(self) -> Sequence[str]:  # noqa: D102
        return tuple(protocol.column(stem) for protocol in self.protocols.values() for stem in self._stems(protocol))

    @property
    def title(self) -> str:
        """What sentences call it, whatever its protocols."""
        return f"'{_TITLES[self.network.frechet]}'"

    def check(self, facts: RunFacts) -> None:  # noqa: D102
        generated = min(
            facts.pairs * len(protocol.generated.choose(facts.frames, seed=self.seed, pair=0)[0])
            for protocol in self.protocols.values()
        )
        fewest, side = min((generated, "frames"), (2 * facts.pairs, "images"))
        if fewest < self.least:
            raise UserError(
                f"The metric {self.title} needs at least {self.least} images on both sides, and this "
                f"run of {counted(facts.pairs, 'pair')} has {fewest} {side}: take more pairs, or lower "
                "`least` of the metric, knowing that so few say little."
            )

    def update(self, measured: MeasuredMorph) -> None:
        """Takes in the features of all frames and of both images of each pair."""
        batch, made = measured.pairs.batch, measured.morph.frames
        images = torch.stack([batch.images_a, batch.images_b], dim=1)
        # Pair by pair: what a network finds in a pair must not depend, by rounding, on the pairs beside it.
        key = ("features", self.network.name)
        found = measured.own.recall(key, lambda: torch.stack([self.network.features(one) for one in made]))
        real = measured.shared.recall(key, lambda: torch.stack([self.network.features(one) for one in images]))
        self.frames.append(torch.where(measured.failed[:, None, None], torch.nan, found))
        self.ends.append(real)
        # A number of each pair that depends on its name alone.
        digests = [hashlib.sha256(id.encode()).digest() for id in batch.ids]
        self.keys.append(torch.tensor([int.from_bytes(digest[:7], "big") for digest in digests]))

    def compute(self) -> Mapping[str, Float[Tensor, ""]]:
        """The distances; those of several draws are means over them."""
        found = self._distances(*self._ordered()) if len(self.keys) else dict.fromkeys(self.names, float("nan"))
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def standard_errors(self) -> Mapping[str, float]:
        """By the delete-a-group jackknife over pairs (Efron and Stein 1981).

        With theta_j the distance without the j-th of g groups of pairs: sqrt((g - 1)/g sum_j (theta_j - mean theta)^2).
        Drawing pairs with replacement, as a bootstrap does, would repeat images and so add to the distance itself.
        """
        if len(self.keys) == 0:
            return {}
        keys, frames, ends = self._ordered()
        if len(keys) < FEWEST_LEFT:
            return {}
        groups = min(len(keys), GROUPS)
        kept = [torch.arange(len(keys)) % groups != left_out for left_out in range(groups)]
        without = [self._distances(keys[rows], frames[rows], ends[rows]) for rows in kept]
        return {name: float(np.sqrt((groups - 1) * np.var([one[name] for one in without]))) for name in self.names}

    def _distances(
        self, keys: Int[Tensor, " p"], frames: Float[Tensor, "p n d"], ends: Float[Tensor, "p 2 d"]
    ) -> dict[str, float]:
        made = frames.isfinite().flatten(1).all(-1)  # a failed sequence is left out, its pair's images are not
        if not made.any():
            return dict.fromkeys(self.names, float("nan"))
        found: dict[str, float] = {}
        for protocol in self.protocols.values():
            draws = [part.flatten(0, 1) for part in self._draws(protocol, keys[made], frames[made])]
            for stem, distance in self._stems(protocol).items():
                found[protocol.column(stem)] = float(np.mean([distance(part, ends.flatten(0, 1)) for part in draws]))
        return found

    def _stems(self, protocol: Protocol) -> Mapping[str, Callable[[Tensor, Tensor], float]]:
        """The names of a protocol's distances, and what finds them."""
        found = {self.network.frechet: frechet_distance}
        return found | {self.network.kernel: kernel_distance} if protocol.kernel else found

    def _ordered(self) -> tuple[Int[Tensor, " p"], Float[Tensor, "p n d"], Float[Tensor, "p 2 d"]]:
        """The states, whether they are lists still or were joined over processes already."""
        keys, frames, ends = (dim_zero_cat(state) for state in (self.keys, self.frames, self.ends))
        order = keys.argsort()
        return keys[order], frames[order], ends[order]

    def _draws(
        self, protocol: Protocol, keys: Int[Tensor, " p"], frames: Float[Tensor, "p n d"]
    ) -> list[Float[Tensor, "p k d"]]:
        chosen = [protocol.generated.choose(frames.shape[1], seed=self.seed, pair=int(key)) for key in keys.tolist()]
        return [
            torch.stack([sequence[list(of_pair[draw])] for sequence, of_pair in zip(frames, chosen, strict=True)])
            for draw in range(len(chosen[0]))
        ]

    @property
    def networks(self) -> Sequence[FeatureNetwork]:  # noqa: D102
        return (self.network,)

    def provenance(self, column: str, facts: RunFacts) -> Provenance:
        """The protocol, how many images on both sides, and what so few do to the number."""
        protocol = next(one for one in self.protocols.values() if column.endswith(f"@{one.name}"))
        keys, frames, ends = self._ordered()
        chosen = len(protocol.generated.choose(frames.shape[1], seed=self.seed, pair=0)[0])
        made = int(frames.isfinite().flatten(1).all(-1).sum())
        counts = {"generated": made * chosen, "reference": 2 * len(keys), "dimensions": ends.shape[-1]}
        notes = [*protocol.departures(facts), f"{protocol.generated.words} against the pairs' own images"]
        if self.network.name != "inception" and protocol.source is not None:
            notes.append("features of the shipped network, the source has Inception's")
        fewest = min(counts["generated"], counts["reference"])
        if column.startswith(self.network.frechet) and fewest <= counts["dimensions"]:
            notes.append(f"biased upwards: {fewest} images in {counts['dimensions']} dimensions")
        return Provenance(
            protocol=protocol.name,
            network=self.network.name,
            weights=self.network.weights,
            counts=counts,
            notes=[*notes, *protocol.set_notes],
        )


def frechet_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The Fréchet distance, in float64; NaN for a set of fewer than two. Biased upwards for few images."""
    if min(len(x), len(y)) < FEWEST:
        return float("nan")
    x, y = x.double(), y.double()
    a, b = _factor(x), _factor(y)
    shared: Tensor = torch.linalg.svdvals(a @ b.T).sum()
    found: Tensor = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * shared
    return float(found)


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The kernel distance, in float64; NaN for a set of fewer than two. Unbiased, so that it may fall below 0."""
    if min(len(x), len(y)) < FEWEST:
        return float("nan")
    x, y = x.double(), y.double()
    return _mean_kernel(x, x, apart=True) + _mean_kernel(y, y, apart=True) - 2 * _mean_kernel(x, y, apart=False)


def _factor(x: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
    """A with A^T A the covariance, in as few rows as it needs."""
    centred: Tensor = (x - x.mean(0)) / math.sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return centred
    _, triangle = torch.linalg.qr(centred, mode="r")
    return torch.as_tensor(triangle)


def _mean_kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, apart: bool) -> float:
    """The mean of the kernel over pairs; `apart` leaves out those of an image with itself."""
    total = math.fsum(float(((rows @ y.T) / x.shape[1] + 1).pow(3).sum()) for rows in torch.split(x, _ROWS))
    if not apart:
        return total / (len(x) * len(y))
    own = float((x.square().sum(-1) / x.shape[1] + 1).pow(3).sum())
    return (total - own) / (len(x) * (len(x) - 1))
