r"""Metrics of a sequence of images by a perceptual distance between them.

With D(a, b) the distance of a perceptual network (`metrics.networks`: the shipped one, `clevr`, is not LPIPS) and
frames x_0 .. x_m:

- `ppl_seq_<network>` = sum_k D(x_k, x_{k+1}): the length of the sequence as DiffMorpher's PPL sums it (Zhang et al.
  2023, arXiv 2312.07409), not StyleGAN's PPL.
- `pdv_<network>` = Var_k D(x_k, x_{k+1}), the population variance: how unevenly the change is spread.
- `truth_<network>` = mean_k D(x_k, y_k) and `truth_rmse`, the root mean square pixel error, against the true frames y.
- `truth_<network>_aligned` and `truth_rmse_aligned`: the same along the best monotone alignment of the times, which
  does not charge for showing the right picture early or late (dynamic time warping).
- `reconstruction_psnr`: of the two ends against the two images, in dB, and `reconstruction_mse`, what it is made of.

Frame by frame, a sequence that shows the right pictures a little early is charged for it, and a cross-fade, which is
half right everywhere, is not. So errors to a true sequence are also taken along a *warping path*: cells (i, j) of
frames i against true frames j, from (0, 0) to the last of both, each step one on in i, in j or in both. No frame and no
true frame is left out, and none comes before an earlier one. Of all such paths the one of least

    E = \sum_k w_k D(i_k, j_k) / \sum_k w_k,     w_k = (i_k - i_{k-1}) + (j_k - j_{k-1}),

is taken; the weights make every path's sum the same, so that long ways round gain nothing (Sakoe, Chiba 1978, symmetric
form). The first cell has the weight 2. Where the times agree this is the mean over the frames; it never exceeds it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.metrics.base import Column, FrameMetric, MorphMetric, Provenance, RunFacts, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import NETWORKS, PerceptualNetwork, as_network


@dataclass(frozen=True)
class Alignment:
    """The best warping path."""

    cells: tuple[tuple[int, int], ...]  # the pairs (i, j), in order
    error: float  # E, in the unit of the distances
    per_frame: Float[Tensor, " n"]  # the weighted mean over the cells of each frame i


def align(distances: Float[Tensor, "n m"]) -> Alignment:
    """The best monotone alignment of n frames with m true ones, both ends fixed, by D(i, j), finite and at least 0."""
    if distances.ndim != 2 or not distances.numel() or not bool(torch.isfinite(distances).all()):
        raise ValueError(f"distances must be a matrix of finite numbers; received {list(distances.shape)}")
    cost = distances.double().cpu()
    cells = _best_path(cost.tolist())
    i, j = torch.tensor(cells).T
    weights = torch.cat([torch.tensor([2]), i.diff() + j.diff()]).double()
    along = weights * cost[i, j]
    sums = torch.zeros(2, len(cost), dtype=torch.float64).index_add_(1, i, torch.stack([along, weights]))
    return Alignment(cells=cells, error=float(along.sum() / weights.sum()), per_frame=sums[0] / sums[1])


def _best_path(cost: list[list[float]]) -> tuple[tuple[int, int], ...]:
    """By dynamic programming; of equal ways the one nearest to equal times, which is the diagonal one."""
    n, m = len(cost), len(cost[0])
    best = [[float("inf")] * m for _ in range(n)]
    came: list[list[tuple[int, int]]] = [[(0, 0)] * m for _ in range(n)]
    for i in range(n):
        for j in range(m):
            if i == j == 0:
                best[i][j] = 2 * cost[i][j]
                continue
            ways = [(i - 1, j - 1, 2), (i - 1, j, 1), (i, j - 1, 1)]
            known = [
                (best[a][b] + w * cost[i][j], order, (a, b)) for order, (a, b, w) in enumerate(ways) if a >= 0 <= b
            ]
            best[i][j], _, came[i][j] = min(known)
    path = [(n - 1, m - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        path.append(came[i][j])
    return tuple(reversed(path))


def _by_network(titles: Mapping[str, str]) -> dict[str, Column]:
    """The columns of every network: patterns of their names -> titles, which name all but the shipped network."""
    names = {network: "" if network == "clevr" else f" ({network.replace('_', ' ')})" for network in NETWORKS}
    return {
        pattern.format(network): Column(title=title + named, better="lower")
        for network, named in names.items()
        for pattern, title in titles.items()
    }


class PerceptualSmoothness(SequenceMetric):
    """Perceptual length of a sequence and the variance of its steps, by a network or an attribute network's folder."""

    columns: ClassVar = _by_network({"ppl_seq_{}": "perceptual length", "pdv_{}": "variance of its steps"})

    def __init__(self, *, network: str | PerceptualNetwork) -> None:
        self.network = as_network(network)
        super().__init__()

    @property
    def names(self) -> Sequence[str]:  # noqa: D102
        return (f"ppl_seq_{self.network.name}", f"pdv_{self.network.name}")

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
        steps = measured.distances(self.network).steps.double()
        return dict(zip(self.names, (steps.sum(-1), steps.var(-1, correction=0)), strict=True))

    @property
    def networks(self) -> Sequence[PerceptualNetwork]:  # noqa: D102
        return (self.network,)

    def provenance(self, column: str, facts: RunFacts) -> Provenance:  # noqa: D102
        return Provenance(network=self.network.name, weights=self.network.weights, counts={"pairs": self.count(column)})


def _squares(frames: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    return (frames - truth).square().mean(dim=(1, 2, 3))


class TruthError(FrameMetric):
    """Distance to the true in-between frames, where the pair has them at the positions of the sequence.

    The network may be given by an attribute network's folder. Where the metric is optional, a run without any true
    frames is served nonetheless, its columns left empty, instead of being refused.
    """

    columns: ClassVar = {
        "truth_rmse": Column(title="pixel error to truth", better="lower"),
        "truth_rmse_aligned": Column(title="pixel error to truth, times aligned", better="lower"),
    } | _by_network(
        {"truth_{}": "perceptual error to truth", "truth_{}_aligned": "perceptual error to truth, times aligned"}
    )

    def __init__(self, *, network: str | PerceptualNetwork, optional: bool = False) -> None:
        self.network = as_network(network)
        self.optional = optional
        super().__init__()

    @property
    def names(self) -> Sequence[str]:  # noqa: D102
        by_network = f"truth_{self.network.name}"
        return ("truth_rmse", by_network, "truth_rmse_aligned", f"{by_network}_aligned")

    def per_frame(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, "p n"]]:  # noqa: D102
        squares, perceptual = measured.against_truth(_squares), measured.distances(self.network).truth
        found = [squares.sqrt(), perceptual, measured.empty, measured.empty]
        for row, (by_pixels, by_network) in self._alignments(measured).items():
            found[2][row], found[3][row] = by_pixels.per_frame.sqrt(), by_network.per_frame
        return dict(zip(self.names, found, strict=True))

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """The errors in pixels, over all pixels of all frames, and the perceptual ones; NaN without true frames."""
        squares, perceptual = measured.against_truth(_squares), measured.distances(self.network).truth
        aligned = torch.full((2, len(squares)), torch.nan, dtype=torch.float64)
        for row, (by_pixels, by_network) in self._alignments(measured).items():
            aligned[:, row] = torch.tensor([by_pixels.error**0.5, by_network.error], dtype=torch.float64)
        return dict(zip(self.names, (squares.mean(-1).sqrt(), perceptual.mean(-1), *aligned), strict=True))

    def _alignments(self, measured: MeasuredMorph) -> dict[int, tuple[Alignment, Alignment]]:
        """By mean square errors and by the network, for the sequences that are whole and have true frames."""

        def find() -> dict[int, tuple[Alignment, Alignment]]:
            found = {}
            for row in torch.nonzero(~measured.failed).flatten().tolist():
                truth, perceptual = measured.truth(row), measured.truth_distances(self.network, row)
                if truth is not None and perceptual is not None:
                    frames = measured.morph.frames[row].flatten(1).double()
                    squares = torch.cdist(frames, truth.to(frames).flatten(1)).square() / frames.shape[1]
                    found[row] = align(squares), align(perceptual)
            return found

        return measured.own.recall(("alignments", self.network.key), find)

    @property
    def networks(self) -> Sequence[PerceptualNetwork]:  # noqa: D102
        return (self.network,)

    def check(self, facts: RunFacts) -> None:
        """Refuses a run without true frames, unless the metric is optional, and images too small for the network."""
        super().check(facts)
        if not self.optional:
            check_truth(self, facts)


def check_truth(metric: MorphMetric, facts: RunFacts) -> None:
    """Refuses a run without true frames."""
    if not facts.with_truth:
        raise UserError(
            f"The metric {metric.title} needs true in-between frames, and this run of "
            f"{counted(facts.pairs, 'pair')} has none at the positions of {facts.frames} frames: leave it out, give a "
            "manifest that names them in its column `frames`, or take another number of frames."
        )


class Reconstruction(SequenceMetric):
    """How well the ends of a sequence are the images that it was to lead between."""

    columns: ClassVar = {
        "reconstruction_psnr": Column(title="ends, dB", better="higher"),
        "reconstruction_mse": Column(title="ends, mean square error", better="lower", shown=False),
    }

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
        frames, batch = measured.morph.frames, measured.pairs.batch
        ends = frames[:, [0, -1]] - torch.stack([batch.images_a, batch.images_b], dim=1).to(frames)
        error = ends.square().mean(dim=(1, 2, 3, 4))
        return {"reconstruction_psnr": -10 * error.clamp_min(1e-10).log10(), "reconstruction_mse": error}

    def check(self, facts: RunFacts) -> None:  # noqa: D102
        if not facts.images:
            raise UserError(
                f"The metric {self.title} needs the images that the sequences lead between: give their pairs, or "
                "leave it out."
            )
