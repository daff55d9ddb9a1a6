"""How visible the difference between frames is to a person, by models of vision that need no weights.

- FLIP (Andersson et al. 2020), `flip-evaluator`, BSD-3: the mean over the pixels of a difference in [0, 1] that one
  sees who flips between two images, at 67 pixels a degree;
- ColorVideoVDP (Mantiuk et al. 2024), `cvvdp`, MIT: 10 minus its quality in JOD (just-objectionable differences; 0:
  no difference; 1: three in four people see which is the worse), on its display `standard_fhd`, frames as still images.

Of each, with D(test, reference) and frames x_0 .. x_m:

- `ppl_seq_<name>` = sum_k D(x_{k+1}, x_k) and `pdv_<name>` = Var_k D(x_{k+1}, x_k), as `metrics.perceptual` has them;
- `truth_<name>` = mean_k D(x_k, y_k) against the true frames y; NaN without them.
"""

from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.base import Column, Provenance, RunFacts, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import Images, Package

PIXELS_PER_DEGREE = 67.0
DISPLAY = "standard_fhd"
_CHUNK = 4


def _columns(name: str, title: str) -> Mapping[str, Column]:
    return {
        f"ppl_seq_{name}": Column(title=f"visible length ({title})", better="lower"),
        f"pdv_{name}": Column(title=f"variance of its steps ({title})", better="lower"),
        f"truth_{name}": Column(title=f"visible error to truth ({title})", better="lower"),
    }


class _Visible(SequenceMetric):
    name: ClassVar[str]
    package: ClassVar[Package]
    conditions: ClassVar[str]
    """How it looks at images, for a table's note."""

    @abstractmethod
    def differences(self, test: Images, reference: Images) -> Float[Tensor, " n"]:
        """The differences between images in [0, 1], two by two."""

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
        frames = measured.morph.frames.detach().float().clamp(0, 1)
        length, spread, error = torch.full((3, len(frames)), torch.nan, dtype=torch.float64)
        for row in torch.nonzero(~measured.failed).flatten().tolist():
            steps = self.differences(frames[row, 1:], frames[row, :-1]).double()
            length[row], spread[row] = steps.sum(), steps.var(correction=0)
            truth = measured.truth(row)
            if truth is not None:
                error[row] = self.differences(frames[row], truth.to(frames)).double().mean()
        return dict(zip(self.names, (length, spread, error), strict=True))

    def provenance(self, column: str, facts: RunFacts) -> Provenance:  # noqa: D102
        notes = [f"{self.package.name} {self.package.version}, {self.conditions}"]
        return Provenance(network=self.name, counts={"pairs": self.count(column)}, notes=notes)


class Flip(_Visible):
    """FLIP; see the module's text."""

    name = "flip"
    package = Package(name="flip-evaluator", module="flip_evaluator", extra="visible")
    conditions = f"{PIXELS_PER_DEGREE:g} pixels a degree"
    columns: ClassVar = _columns("flip", "FLIP")

    def differences(self, test: Images, reference: Images) -> Float[Tensor, " n"]:  # noqa: D102
        import flip_evaluator

        options = {"ppd": PIXELS_PER_DEGREE}
        found = [
            flip_evaluator.evaluate(reference=true, test=made, dynamicRangeString="LDR", applyMagma=False,
                                    parameters=options)[1]
            for made, true in zip(_arrays(test), _arrays(reference), strict=True)
        ]  # fmt: skip
        return torch.tensor(found, dtype=torch.float64)


class ColorVideoVdp(_Visible):
    """ColorVideoVDP; see the module's text."""

    name = "cvvdp"
    package = Package(name="cvvdp", module="pycvvdp", extra="visible")
    conditions = f"display {DISPLAY}, still images"
    columns: ClassVar = _columns("cvvdp", "ColorVideoVDP, JOD")

    def differences(self, test: Images, reference: Images) -> Float[Tensor, " n"]:
        """10 minus the quality of each image, in JOD."""
        model = _vision(str(test.device))
        with torch.no_grad():
            chunks = zip(torch.split(test, _CHUNK), torch.split(reference, _CHUNK), strict=True)
            found = [model.predict(made, true, dim_order="BCHW")[0].reshape(-1).cpu() for made, true in chunks]
        return (10 - torch.cat(found).double()).clamp_min(0)


@lru_cache(maxsize=2)
def _vision(device: str) -> Any:
    import pycvvdp

    return pycvvdp.cvvdp(display_name=DISPLAY, device=torch.device(device), quiet=True)


def _arrays(images: Images) -> list[Any]:
    """Images as arrays [h w 3], each in a row of its own in memory."""
    return [image.movedim(0, -1).contiguous().cpu().numpy() for image in images]
