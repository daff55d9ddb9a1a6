"""Small sequences of images as metrics see them, made of shapes that move, fade or stand still."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from latent_geodesics.core.path import StraightLine
from latent_geodesics.core.records import Solution
from latent_geodesics.data import ImagePair, PairBatch
from latent_geodesics.methods import Morph
from latent_geodesics.methods.lines import known_solution
from latent_geodesics.metrics import MeasuredMorph, PathCurves

SIDE = 32
NETWORK = "data/models/clevr-attributes"


def scene(place: float, *, side: int = SIDE, color: tuple[float, float, float] = (0.8, 0.2, 0.1)) -> Tensor:
    """A soft disc on a grey floor, its centre at `place` of the way from the left to the right."""
    axis = torch.arange(side) + 0.5
    distance = ((axis[None, :] - place * side) ** 2 + (axis[:, None] - side / 2) ** 2).sqrt()
    disc = torch.sigmoid(2 * (side / 8 - distance))
    floor = 0.5 + 0.05 * torch.sin(axis[:, None] / 3 + axis[None, :] / 5)
    return floor * (1 - disc) + torch.tensor(color)[:, None, None] * disc


def motion(count: int = 5, *, start: float = 0.2, end: float = 0.8, side: int = SIDE) -> Tensor:
    """The disc on its way."""
    return torch.stack([scene(float(place), side=side) for place in torch.linspace(start, end, count)])


def fade(count: int = 5, **options) -> Tensor:
    """The first image of the motion fading into the last."""
    ends = motion(2, **options)
    return torch.stack([torch.lerp(ends[0], ends[1], float(u)) for u in torch.linspace(0, 1, count)])


def measured(
    frames: Tensor, *, images: Tensor | None = None, truth: bool = True, model=None, start: int = 0
) -> MeasuredMorph:
    """Sequences [p n 3 h w] between their own ends, or between `images` [p 2 3 h w]; a moving disc is the truth."""
    p, n = frames.shape[:2]
    ends = frames[:, [0, -1]] if images is None else images
    pairs = tuple(ImagePair(id=f"pair-{start + row}", image_a=Path("a"), image_b=Path("b")) for row in range(p))
    true = tuple(motion(n, side=frames.shape[-1]) if truth else None for _ in range(p))
    batch = PairBatch(pairs=pairs, images_a=ends[:, 0], images_b=ends[:, 1], truth=true)
    along = torch.linspace(0, 1, 7)

    def curves_of(values: Tensor, reference: PathCurves | None = None) -> PathCurves:
        return PathCurves(
            u=along,
            log_density=(values.mean(-1, keepdim=True) * along.to(values)).double(),
            speed=values.new_ones(p, 7),
            residual=values.new_ones(p, 7) * along.to(values),
            length=values.std(-1),
            strength=values.amax(-1),
            alpha=0.5,
            reference=reference,
        )

    return MeasuredMorph(
        pairs=SimpleNamespace(
            batch=batch,
            model=model,
            moving=torch.zeros(p, dtype=torch.bool),
            tau=0.6,
            points=lambda path, u: path.point(u),
            condition=lambda u: model.condition(["a disc"])[None].expand(p, len(u), -1, -1),
        ),
        morph=Morph(
            frames=frames,
            statuses=("converged",) * p,
            evaluations=frames.new_zeros(p),
            seconds=0.0,
            solution=None if model is None else _path(ends.to(frames), model.dimension),
        ),
        u=torch.linspace(0, 1, n, dtype=torch.float64),
        curves=curves_of(frames.flatten(1), curves_of(ends.to(frames).flatten(1))),
    )


def _path(ends: Tensor, dimension: int) -> Solution:
    """A straight line between two latents made of the pixels of each pair's images."""
    latents = ends.flatten(2)[..., :dimension].float().nan_to_num()
    return known_solution(StraightLine(x0=latents[:, 0], x1=latents[:, 1]))


def sequences(count: int, *, frames: int = 5) -> Tensor:
    """Different sequences: discs on ways of their own, with noise."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for row in range(count):
        ways = motion(frames, start=0.2 + 0.03 * row, end=0.8 - 0.05 * row)
        found.append((ways + 0.05 * torch.rand(ways.shape, generator=generator)).clamp(0, 1))
    return torch.stack(found)
