"""Metrics of a sequence of images by a perceptual distance between them.

With D(a, b) the perceptual distance of the shipped attribute network (`perceptual_clevr`: unit-normalised features,
squared difference, as LPIPS is built; Zhang et al. 2018, arXiv 1801.03924) and frames x_0 .. x_m:

- `ppl_seq_clevr` = sum_k D(x_k, x_{k+1}): the length of the sequence as DiffMorpher's PPL sums it (Zhang et al. 2023,
  arXiv 2312.07409), not StyleGAN's PPL.
- `pdv_clevr` = Var_k D(x_k, x_{k+1}), the population variance: how unevenly the change is spread.
- `truth_clevr` = mean_k D(x_k, y_k) and `truth_rmse`, the root mean square pixel error, against the true frames y.
- `reconstruction_psnr`: of the two ends against the two images, in dB.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.base import MeasuredMorph, SequenceMetric
from latent_geodesics.models.attributes import AttributeNetwork

__all__ = ["PerceptualSmoothness", "Reconstruction", "TruthError"]


class PerceptualSmoothness(SequenceMetric):
    """Perceptual length of a sequence and the variance of its steps.

    Args:
        network: Folder of the attribute network whose features are compared.
    """

    def __init__(self, *, network: str) -> None:
        self.network = AttributeNetwork.from_folder(network)
        self.folder = Path(network)

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """`ppl_seq_clevr` and `pdv_clevr`."""
        frames = measured.morph.frames
        p, n = frames.shape[:2]
        steps = self.network.perceptual_distance(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1))
        steps = steps.view(p, n - 1)
        return {"ppl_seq_clevr": steps.sum(-1), "pdv_clevr": steps.var(-1, correction=0)}

    @property
    def weights(self) -> Mapping[str, str]:
        """The hash of the attribute network's files."""
        files = sorted(file for file in self.folder.iterdir() if file.suffix in (".safetensors", ".json"))
        return {"perceptual_clevr": hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()}


class TruthError(SequenceMetric):
    """Distance to the true in-between frames, where the pair has as many of them as the sequence has frames.

    Args:
        network: Folder of the attribute network whose features are compared.
    """

    def __init__(self, *, network: str) -> None:
        self.network = AttributeNetwork.from_folder(network)

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """`truth_rmse` and `truth_clevr`; NaN without true frames."""
        rmse, perceptual = [], []
        for frames, truth in zip(measured.morph.frames, measured.pairs.batch.truth, strict=True):
            if truth is None or len(truth) != len(frames):
                rmse.append(torch.tensor(float("nan")))
                perceptual.append(torch.tensor(float("nan")))
                continue
            truth = truth.to(frames)
            rmse.append((frames - truth).square().mean().sqrt())
            perceptual.append(self.network.perceptual_distance(frames, truth).mean())
        return {"truth_rmse": torch.stack(rmse), "truth_clevr": torch.stack(perceptual)}


class Reconstruction(SequenceMetric):
    """How well the ends of a sequence are the images that it was to lead between."""

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """`reconstruction_psnr`, in dB."""
        frames, batch = measured.morph.frames, measured.pairs.batch
        ends = frames[:, [0, -1]] - torch.stack([batch.images_a, batch.images_b], dim=1).to(frames)
        error = ends.square().mean(dim=(1, 2, 3, 4)).clamp_min(1e-10)
        return {"reconstruction_psnr": -10 * error.log10()}
