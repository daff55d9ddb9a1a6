"""TOPIQ, a learned measure of image quality, by the pyiqa package (Chen et al. 2024, arXiv 2308.03060).

- `topiq_nr`: without a reference (weights of KonIQ), the mean over the frames that are chosen;
- `topiq_fr`: with the true frame as the reference (weights of KADID), the mean over all frames that have one.

Both lie near [0, 1]; more is better. They were trained on photographs, at several hundred pixels a side. The package is
an extra of this project: its licence forbids commercial use since its version 0.1.16.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics.base import Column, FrameMetric, Provenance, RunFacts
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import Package, Published, require_packages
from latent_geodesics.metrics.perceptual import check_truth
from latent_geodesics.metrics.protocol import FrameChoice, InnerFrames, RandomFrames
from latent_geodesics.models.weights import WeightsRegistry, load_tensors

LEAST_SIDE = 32
PYIQA = Package(name="pyiqa", module="pyiqa", extra="pyiqa")
_CHUNK = 8


class _Topiq(Published, FrameMetric):
    """What both have in common."""

    package = PYIQA

    def check(self, facts: RunFacts) -> None:  # noqa: D102
        if min(facts.image_size) < LEAST_SIDE:
            height, width = facts.image_size
            raise UserError(
                f"The metric {self.title} needs images of at least {LEAST_SIDE} pixels a side, and those of this run "
                f"have {width} x {height}: leave it out, or take a model of larger images."
            )

    def score(self, *images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """The network's judgement of images in [0, 1], and of their references where it takes such."""
        network = _loaded(self.file, self._registry.take(self.file)).to(images[0].device)
        with torch.no_grad():
            chunks = zip(*(torch.split(part.detach().float().clamp(0, 1), _CHUNK) for part in images), strict=True)
            return torch.cat([network(*chunk).flatten().cpu() for chunk in chunks])

    def provenance(self, column: str, facts: RunFacts) -> Provenance:  # noqa: D102
        return Provenance(network=self.file, weights=self.weights, counts={"pairs": self.count(column)})


class TopiqNoReference(_Topiq):
    """`topiq_nr` over the inner frames, or others, which must be the same for every pair."""

    file = "topiq_nr"
    columns: ClassVar = {"topiq_nr": Column(title="TOPIQ, no reference", better="higher")}

    def __init__(self, *, frames: FrameChoice | None = None, weights: WeightsRegistry | None = None) -> None:
        if isinstance(frames, RandomFrames):
            raise UserError("TopiqNoReference takes the same frames of every pair: give InnerFrames or AllFrames.")
        super().__init__(weights=weights)
        self.frames: FrameChoice = frames or InnerFrames()

    def per_frame(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, "p n"]]:  # noqa: D102
        made, found = measured.morph.frames, measured.empty
        chosen = list(self.frames.choose(made.shape[1], seed=0, pair=0)[0])
        for row, sequence in enumerate(made):
            found[row, chosen] = self.score(sequence[chosen])
        return {"topiq_nr": found}

    def provenance(self, column: str, facts: RunFacts) -> Provenance:
        """With the frames that count."""
        return replace(super().provenance(column, facts), notes=[self.frames.words])


class TopiqTruth(_Topiq):
    """`topiq_fr` of every frame against the true one."""

    file = "topiq_fr"
    columns: ClassVar = {"topiq_fr": Column(title="TOPIQ against truth", better="higher")}

    def per_frame(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, "p n"]]:  # noqa: D102
        return {"topiq_fr": measured.against_truth(self.score)}

    def check(self, facts: RunFacts) -> None:  # noqa: D102
        super().check(facts)
        check_truth(self, facts)


def build_topiq(name: str, file: Path) -> Any:
    """Pyiqa's network with the weights of a file, all of which must fit.

    Its own loading fetches a second network that the file holds already, and passes over weights that do not fit.
    """
    require_packages([(name, PYIQA)])
    import pyiqa

    with torch.random.fork_rng(devices=[]):
        network = pyiqa.create_metric(
            name, device=torch.device("cpu"), pretrained=False, backbone_pretrain=False, check_input_range=False
        )
    found = load_tensors(file)
    state = {key.removeprefix("module."): value for key, value in found.get("params", found).items()}
    try:
        network.net.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"'{file}' does not hold the weights of {name}: restore it.") from error
    return network.eval()


@lru_cache(maxsize=2)
def _loaded(name: str, file: Path) -> Any:
    return build_topiq(name, file)
