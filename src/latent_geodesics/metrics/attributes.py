"""How far the objects of a sequence are from those of the true frames: in place, colour and size, and in number.

The objects of a frame and of the true frame are seen by the same means (`metrics.objects`) and matched by place. Means
are over the objects that are matched; the others are counted.

- `truth_place`: distance of the centres, in pixels;
- `truth_color`: root mean square difference of the colours over the channels, in [0, 1];
- `truth_radius`: |log(r / r_true)|, so that 0.1 is ten per cent; NaN where a radius cannot be told (grey objects);
- `truth_missed`, `truth_extra`: how many objects of the true frame the frame lacks, and how many it has besides.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.base import Column, FrameMetric, RunFacts
from latent_geodesics.metrics.measured import MeasuredMorph
from latent_geodesics.metrics.networks import network_hash
from latent_geodesics.metrics.objects import SeenObject, match, see_objects
from latent_geodesics.metrics.perceptual import check_truth
from latent_geodesics.models.attributes import shared_network


class AttributeErrors(FrameMetric):
    """Errors of recovered scene attributes against the true frames; the module's text names the columns.

    Args:
        network: Folder of the attribute network that finds the objects.
    """

    columns: ClassVar = {
        "truth_place": Column(title="place error, pixels", better="lower"),
        "truth_color": Column(title="colour error", better="lower"),
        "truth_radius": Column(title="size error, log ratio", better="lower"),
        "truth_missed": Column(title="objects missed a frame", better="lower"),
        "truth_extra": Column(title="objects too many a frame", better="lower"),
    }

    def __init__(self, *, network: str) -> None:
        super().__init__()
        self.network = shared_network(network)
        self.folder = Path(network)

    def per_frame(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, "p n"]]:
        """The columns, frame by frame; NaN without true frames."""
        frames = measured.morph.frames
        found = {name: torch.full(frames.shape[:2], torch.nan) for name in self.columns}
        width = frames.shape[-1]
        for row, sequence in enumerate(frames):
            truth = measured.truth(row)
            if truth is None:
                continue
            pairs = zip(see_objects(self.network, sequence), see_objects(self.network, truth), strict=True)
            for number, (seen, true) in enumerate(pairs):
                for name, value in object_errors(seen, true, width=width).items():
                    found[name][row, number] = value
        return found

    @property
    def weights(self) -> Mapping[str, str]:
        """The hash of the attribute network's files."""
        return {"attributes_clevr": network_hash(self.folder)}

    def check(self, facts: RunFacts) -> None:
        """Refuses a run without true frames."""
        check_truth(self, facts)


def object_errors(seen: Sequence[SeenObject], true: Sequence[SeenObject], *, width: int) -> dict[str, float]:
    """The columns of one frame, `width` pixels wide; NaN where nothing is matched."""
    pairs = match([item.pixel for item in seen], [item.pixel for item in true])
    places = [width * math.dist(seen[i].pixel, true[j].pixel) for i, j in pairs]
    colors = [math.dist(seen[i].rgb, true[j].rgb) / math.sqrt(3) for i, j in pairs]
    radii = [abs(math.log(seen[i].radius / true[j].radius)) for i, j in pairs]
    return {
        "truth_place": _mean(places),
        "truth_color": _mean(colors),
        "truth_radius": _mean(radii),
        "truth_missed": float(len(true) - len(pairs)),
        "truth_extra": float(len(seen) - len(pairs)),
    }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
