"""Metrics of a sequence of images by a perceptual distance between them.

With D(a, b) the distance of a perceptual network (`metrics.networks`: the shipped one, `clevr`, is not LPIPS) and
frames x_0 .. x_m:

- `ppl_seq_<network>` = sum_k D(x_k, x_{k+1}): the length of the sequence as DiffMorpher's PPL sums it (Zhang et al.
  2023, arXiv 2312.07409), not StyleGAN's PPL.
- `pdv_<network>` = Var_k D(x_k, x_{k+1}), the population variance: how unevenly the change is spread.
- `truth_<network>` = mean_k D(x_k, y_k) and `truth_rmse`, the root mean square pixel error, against the true frames y.
- `truth_<network>_aligned` and `truth_rmse_aligned`: the same along the best monotone alignment of the times, which
  does not charge for showing the right picture early or late (`metrics.time_alignment`).
- `reconstruction_psnr`: of the two ends against the two images, in dB, and `reconstruction_mse`, what it is made of.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.metrics.base import Column, FrameMetric, Provenance, RunFacts, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import NETWORKS, PerceptualNetwork, as_network
from latent_geodesics.metrics.time_alignment import Alignment, align


def _title(words: str, network: str) -> str:
    """The shipped network needs no mention: it is what every number is made of unless another is named."""
    return words if network == "clevr" else f"{words} ({network.replace('_', ' ')})"


class PerceptualSmoothness(SequenceMetric):
    """Perceptual length of a sequence and the variance of its steps.

    Args:
        network: The perceptual network, or the folder of an attribute network whose features are compared.
    """

    columns: ClassVar = {
        name: column
        for network in NETWORKS
        for name, column in (
            (f"ppl_seq_{network}", Column(title=_title("perceptual length", network), better="lower")),
            (f"pdv_{network}", Column(title=_title("variance of its steps", network), better="lower")),
        )
    }

    def __init__(self, *, network: str | PerceptualNetwork) -> None:
        self.network = as_network(network)
        super().__init__()

    @property
    def names(self) -> Sequence[str]:
        """By the network."""
        return (f"ppl_seq_{self.network.name}", f"pdv_{self.network.name}")

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """The two columns."""
        steps = measured.distances(self.network).steps.double()
        return dict(zip(self.names, (steps.sum(-1), steps.var(-1, correction=0)), strict=True))

    @property
    def networks(self) -> Sequence[PerceptualNetwork]:
        """Its own."""
        return (self.network,)

    def provenance(self, column: str, facts: RunFacts) -> Provenance:
        """The network and the number of pairs."""
        return Provenance(network=self.network.name, weights=self.network.weights, counts={"pairs": self.count(column)})


class TruthError(FrameMetric):
    """Distance to the true in-between frames, where the pair has them at the positions of the sequence.

    Args:
        network: The perceptual network, or the folder of an attribute network whose features are compared.
        optional: Whether a run without any true frames is served nonetheless, its columns left empty, instead of being
            refused.
    """

    columns: ClassVar = {
        "truth_rmse": Column(title="pixel error to truth", better="lower"),
        "truth_rmse_aligned": Column(title="pixel error to truth, times aligned", better="lower"),
    } | {
        name: column
        for network in NETWORKS
        for name, column in (
            (f"truth_{network}", Column(title=_title("perceptual error to truth", network), better="lower")),
            (
                f"truth_{network}_aligned",
                Column(title=_title("perceptual error to truth, times aligned", network), better="lower"),
            ),
        )
    }

    def __init__(self, *, network: str | PerceptualNetwork, optional: bool = False) -> None:
        self.network = as_network(network)
        self.optional = optional
        super().__init__()

    @property
    def names(self) -> Sequence[str]:
        """By the network."""
        by_network = f"truth_{self.network.name}"
        return ("truth_rmse", by_network, "truth_rmse_aligned", f"{by_network}_aligned")

    def per_frame(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, "p n"]]:
        """All errors of each frame; NaN without true frames."""
        squares, perceptual = self._squares(measured), measured.distances(self.network).truth
        found = [squares.sqrt(), perceptual, torch.full_like(squares, torch.nan), torch.full_like(squares, torch.nan)]
        for row, (by_pixels, by_network) in self._alignments(measured).items():
            found[2][row], found[3][row] = by_pixels.per_frame.sqrt(), by_network.per_frame
        return dict(zip(self.names, found, strict=True))

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """The errors in pixels, over all pixels of all frames, and the perceptual ones; NaN without true frames."""
        squares, perceptual = self._squares(measured), measured.distances(self.network).truth
        aligned = torch.full((2, len(squares)), torch.nan, dtype=torch.float64)
        for row, (by_pixels, by_network) in self._alignments(measured).items():
            aligned[:, row] = torch.tensor([by_pixels.error**0.5, by_network.error], dtype=torch.float64)
        return dict(zip(self.names, (squares.mean(-1).sqrt(), perceptual.mean(-1), *aligned), strict=True))

    def _squares(self, measured: MeasuredMorph) -> Float[Tensor, "p n"]:
        frames = measured.morph.frames
        found = torch.full(frames.shape[:2], torch.nan)
        for row, sequence in enumerate(frames):
            truth = measured.truth(row)
            if truth is not None:
                found[row] = (sequence - truth.to(sequence)).square().mean(dim=(1, 2, 3))
        return found

    def _alignments(self, measured: MeasuredMorph) -> dict[int, tuple[Alignment, Alignment]]:
        """By mean square errors and by the network, for the sequences that are whole and have true frames."""
        return measured.own.recall(("alignments", self.network.key), lambda: self._found_alignments(measured))

    def _found_alignments(self, measured: MeasuredMorph) -> dict[int, tuple[Alignment, Alignment]]:
        found = {}
        for row in torch.nonzero(~measured.failed).flatten().tolist():
            truth, perceptual = measured.truth(row), measured.truth_distances(self.network, row)
            if truth is not None and perceptual is not None:
                frames = measured.morph.frames[row].flatten(1).double()
                squares = torch.cdist(frames, truth.to(frames).flatten(1)).square() / frames.shape[1]
                found[row] = align(squares), align(perceptual)
        return found

    @property
    def networks(self) -> Sequence[PerceptualNetwork]:
        """Its own."""
        return (self.network,)

    def check(self, facts: RunFacts) -> None:
        """Refuses a run without true frames, unless the metric is optional, and images too small for the network."""
        super().check(facts)
        if not self.optional:
            check_truth(self, facts)


def check_truth(metric: object, facts: RunFacts) -> None:
    """Refuses a run without true frames.

    Raises:
        UserError: names the metric and the data.
    """
    if not facts.with_truth:
        raise UserError(
            f"The metric {type(metric).__name__} needs true in-between frames, and this run of "
            f"{counted(facts.pairs, 'pair')} has none at the positions of {facts.frames} frames: leave it out, give a "
            "manifest that names them in its column `frames`, or take another number of frames."
        )


class Reconstruction(SequenceMetric):
    """How well the ends of a sequence are the images that it was to lead between."""

    columns: ClassVar = {
        "reconstruction_psnr": Column(title="ends, dB", better="higher"),
        "reconstruction_mse": Column(title="ends, mean square error", better="lower", shown=False),
    }

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """The two columns; images are in [0, 1]."""
        frames, batch = measured.morph.frames, measured.pairs.batch
        ends = frames[:, [0, -1]] - torch.stack([batch.images_a, batch.images_b], dim=1).to(frames)
        error = ends.square().mean(dim=(1, 2, 3, 4))
        return {"reconstruction_psnr": -10 * error.clamp_min(1e-10).log10(), "reconstruction_mse": error}

    def check(self, facts: RunFacts) -> None:
        """Refuses sequences whose own ends stand for the images."""
        if not facts.images:
            raise UserError(
                "The metric Reconstruction needs the images that the sequences lead between: give their pairs, or "
                "leave it out."
            )
