"""Where objects are on the floor, recovered from an image with the camera that is known to have taken it.

The network finds an object's centre in the image to a fraction of a pixel. The camera at u, and the height of the
object's centre, are those of the true scene at u; the ray through the pixel meets that height at one point. (The
network's own guess of the place on the floor, made without the camera, is several times less exact.)
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics import FrameMetric, MeasuredMorph
from latent_geodesics.metrics.attributes import match
from latent_geodesics.metrics.base import Column
from latent_geodesics.metrics.networks import network_hash
from latent_geodesics.models.attributes import AttributeNetwork, shared_network
from recipes.clevr.rendering.motion import floor_position, scene_between
from recipes.clevr.rendering.scene import ClevrScene

Ends = tuple[ClevrScene, ClevrScene]


@dataclass(frozen=True, kw_only=True)
class FloorTrack:
    """The course of one object over the floor in a sequence.

    Attributes:
        true: Its true place in each frame, world units.
        found: Where the frame shows it; NaN where the frame does not.
    """

    true: Float[Tensor, "n 2"]
    found: Float[Tensor, "n 2"]


def read_scenes(file: str | Path) -> dict[str, Ends]:
    """The two recorded ends of each pair, by its id.

    Raises:
        UserError: when the file does not exist or a line of it is no record of two scenes.
    """
    file = Path(file)
    if not file.is_file():
        raise UserError(f"The scenes '{file}' do not exist: set metrics.floor.scenes, or leave metrics.floor out.")
    scenes = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            scenes[str(record["id"])] = (ClevrScene.from_dict(record["a"]), ClevrScene.from_dict(record["b"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"Line {number} of '{file}' is no record of two scenes ({error}): restore it.") from error
    return scenes


def track(
    network: AttributeNetwork, frames: Float[Tensor, "n 3 h w"], ends: Ends, u: Float[Tensor, " n"]
) -> list[FloorTrack]:
    """The course of every object of a motion over the floor, as a sequence shows it."""
    count = len(ends[0].objects)
    true, found = torch.full((count, len(u), 2), torch.nan), torch.full((count, len(u), 2), torch.nan)
    for number, (seen, position) in enumerate(zip(network.detect(frames.float().cpu()), u.tolist(), strict=True)):
        scene = scene_between(*ends, position)
        for index, item in enumerate(scene.objects):
            true[index, number] = torch.tensor(item.position)
        for i, index in match([item.pixel for item in seen], scene.pixels()):
            height = scene.objects[index].half_height
            found[index, number] = torch.tensor(floor_position(scene.camera, seen[i].pixel, height))
    return [FloorTrack(true=true[index], found=found[index]) for index in range(count)]


class FloorError(FrameMetric):
    """`truth_floor`: distance on the floor between where a frame shows the objects and where they truly are.

    In world units, in which a large object's radius is 0.7; a mean over the objects that the frame shows. NaN for pairs
    that are no recorded motion.

    Args:
        network: Folder of the attribute network that finds the objects.
        scenes: The file of recorded scenes, a line a pair.
    """

    columns: ClassVar = {"truth_floor": Column(title="place error on the floor, world units", better="lower")}

    def __init__(self, *, network: str, scenes: str) -> None:
        super().__init__()
        self.network, self.scenes = shared_network(network), read_scenes(scenes)
        self.folder = Path(network)

    def per_frame(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, "p n"]]:
        """The error of each frame."""
        frames = measured.morph.frames
        found = torch.full(frames.shape[:2], torch.nan)
        for row, (pair, sequence) in enumerate(zip(measured.pairs.batch.ids, frames, strict=True)):
            if measured.truth(row) is not None and pair in self.scenes:
                tracks = track(self.network, sequence, self.scenes[pair], measured.u)
                errors = torch.stack([(one.found - one.true).norm(dim=-1) for one in tracks])
                found[row] = errors.nanmean(dim=0)
        return {"truth_floor": found}

    @property
    def weights(self) -> Mapping[str, str]:
        """The hash of the attribute network's files."""
        return {"attributes_clevr": network_hash(self.folder)}


def travelled(ends: Ends) -> float:
    """The longest way that an object of a motion goes over the floor, world units."""
    return max(math.dist(a.position, b.position) for a, b in zip(ends[0].objects, ends[1].objects, strict=True))
