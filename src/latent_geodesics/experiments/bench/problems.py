"""What is solved while time is taken: pairs of images, or random points on the sphere of noisy latents."""

from pathlib import Path
from typing import Any

import torch

from latent_geodesics.core.manifold import Sphere
from latent_geodesics.core.records import BoundaryProblem
from latent_geodesics.data import ImagePair, PairBatch, PairSelection, read_batch
from latent_geodesics.methods import PairEncoder
from latent_geodesics.models.latent_model import LatentModel


def bench_problem(
    model: LatentModel, data: PairSelection | None, *, pairs: int, score: Any, tau: float, alpha: float, seed: int
) -> BoundaryProblem:
    """The problems of all pairs of a data set in one batch, or, where there is none, so many random ones."""
    if data is None:
        return random_problem(model, pairs=pairs, score=score, tau=tau, alpha=alpha, seed=seed)
    encoder = PairEncoder(model=model, score=score, tau=tau, alpha=alpha)
    return encoder.encode(read_batch(data.pairs, size=model.image_size)).problem


def random_problem(
    model: LatentModel, *, pairs: int, score: Any, tau: float, alpha: float, seed: int = 0
) -> BoundaryProblem:
    """Random ends on the sphere of radius sqrt(d): for speed, which does not depend on where the points lie."""
    generator = torch.Generator().manual_seed(seed)
    sphere = Sphere(model.dimension**0.5)
    x0, x1 = (
        sphere.project(torch.randn(pairs, model.dimension, generator=generator)).to(model.device) for _ in range(2)
    )
    condition = model.condition(["a red cube"]).expand(pairs, -1, -1)
    field = model.field(condition0=condition, tau=tau, score=score)
    return BoundaryProblem(field=field, manifold=sphere, x0=x0, x1=x1, alpha=alpha)


def one_pair(model: LatentModel, data: PairSelection | None, *, seed: int = 0) -> PairBatch:
    """The first pair of a data set, or two random images where there is none."""
    if data is not None:
        return read_batch(data.pairs[:1], size=model.image_size)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 1, 3, *model.image_size, generator=generator)
    pair = ImagePair(id="random", image_a=Path(), image_b=Path(), prompt_a="a red cube", prompt_b="a blue sphere")
    return PairBatch(pairs=(pair,), images_a=images[0], images_b=images[1], truth=(None,))
