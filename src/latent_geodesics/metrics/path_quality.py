"""Numbers of a path in the latent space, from its curves and from the noise that the network finds on it."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.base import OF_DENSITY, OF_METRIC, Column, FrameMetric, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph

MIDDLE = (0.25, 0.75)
_gain = partial(Column, better="higher", within=OF_DENSITY, bound="closure")


class PathQuality(SequenceMetric):
    """Length, log-density, residual and closure of a path; a method without a path has none of them.

    - `length`: int p~^-alpha |g'| du, p~ relative to the density at the path's start;
    - `log_density_mean`, `log_density_min`: over the way without its two ends, which every method shares, in nats,
      relative to its start;
    - `closure`: by how much the line integral of the score along the path differs from that along the great circle, in
      nats: 0 for the score of a density. `length_misfit` is what that makes of the length (see `PathCurves`). Where
      they are more than half of what the path gains on the great circle (`length_reference`,
      `log_density_reference`), tables mark the number and do not rank it;
    - `log_density_end`: at the far end;
    - `residual_mean`: mean norm of the geodesic gradient over the interior of the path;
    - `strength`: alpha mean|P s| times the distance, along the great circle: how hard the problem is, the same for all
      methods of a pair.

    Where the prompt moves along the path there is no one density: all but the residual and the strength are left empty.
    A method with a density of its own has its closure and strength alone: the rest would stand beside another
    density's.
    """

    needs = "path"
    columns: ClassVar = {
        "log_density_mean": _gain(title="mean log-density, nats", against="log_density_reference"),
        "log_density_min": _gain(title="least log-density, nats", against="log_density_min_reference"),
        "log_density_end": Column(title="log-density at the far end, nats", shown=False),
        "log_density_reference": Column(title="the great circle's mean log-density, nats", shown=False),
        "log_density_min_reference": Column(title="the great circle's least log-density, nats", shown=False),
        "length": Column(
            title="relative length", better="lower", within=OF_METRIC, bound="length_misfit", against="length_reference"
        ),
        "length_misfit": Column(title="misfit of the length", shown=False),
        "length_reference": Column(title="the great circle's length", shown=False),
        "closure": Column(title="closure, nats"),
        "residual_mean": Column(title="residual", better="lower", within=OF_METRIC),
        "strength": Column(title="strength"),
    }

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
        curves = measured.curves
        if curves is None:
            return {}
        reference = curves if curves.reference is None else curves.reference
        of_one_density = {
            "length": curves.length,
            "length_misfit": curves.length_misfit,
            "length_reference": reference.length,
            "log_density_mean": curves.inner_mean(curves.log_density),
            "log_density_min": curves.log_density[:, 1:-1].min(-1).values,
            "log_density_end": curves.log_density[:, -1],
            "log_density_reference": reference.inner_mean(reference.log_density),
            "log_density_min_reference": reference.log_density[:, 1:-1].min(-1).values,
            "closure": curves.closure.abs(),
        }
        moving = measured.posed.moving.to(curves.length.device)
        found = {name: torch.where(moving, torch.nan, values) for name, values in of_one_density.items()}
        found["residual_mean"] = curves.inner_mean(curves.residual)
        if measured.morph.posed is not None:
            empty = {name: torch.full_like(values, torch.nan) for name, values in found.items()}
            found = empty | {"closure": found["closure"]}
        return found | {"strength": reference.strength}


class NoiseNorm(FrameMetric):
    """|eps| / sqrt(d) over the middle half of a path, and at its ends; a method without a path has neither.

    A noisy latent is x = sqrt(abar) z + sigma eps with |eps| near sqrt(d), and a network that has learnt the noise
    predicts one of nearly that norm: |eps(x)| / sqrt(d) is close to 1 for noised real images, with a spread of a few
    hundredths. It is less where x is more probable than noisy images are (for the conditional score |s| = |eps| /
    sigma), which is where a path through the most probable latents leads. Inverted images lie below 1 themselves, so
    the middle of a path is held against its ends: `noise_norm_ends` are those.

    The points are those that are decoded, under the condition by which they are. Costs a network evaluation a frame.
    """

    needs = "path"
    columns: ClassVar = {
        "noise_norm": Column(title="|eps| / sqrt(d) in the middle"),
        "noise_norm_ends": Column(title="|eps| / sqrt(d) at the ends"),
    }

    def per_frame(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, "p n"]]:  # noqa: D102
        solution, pairs = measured.morph.solution, measured.posed
        if solution is None:
            return {"noise_norm": torch.full(measured.morph.frames.shape[:2], torch.nan)}
        model, x = pairs.model, pairs.points(solution.path, measured.u)
        rows = x.flatten(0, 1).float()
        t = torch.full((len(rows),), model.time(pairs.tau), dtype=torch.long, device=rows.device)
        eps = model.network.noise(rows, t, pairs.condition(measured.u).flatten(0, 1))
        return {"noise_norm": (eps.norm(dim=-1) / model.dimension**0.5).view(x.shape[:2]).cpu()}

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
        found = self.per_frame(measured)["noise_norm"]
        low, high = MIDDLE
        middle = ((measured.u >= low) & (measured.u <= high)).cpu()
        return {"noise_norm": found[:, middle].mean(-1), "noise_norm_ends": found[:, [0, -1]].mean(-1)}


class DensityBow(SequenceMetric):
    """`log_density_bow` = max_u |log p(g(u)) - (1 - u) log p(g(0)) - u log p(g(1))|, in nats.

    How far the log-density of a path is from linear: zero where log p changes evenly along it, as along the geodesics
    of the graph of log p; large where a path cuts across improbable points, or climbs to improbably probable ones. A
    method without a path, or under a prompt that moves, has none.
    """

    needs = "path"
    columns: ClassVar = {"log_density_bow": Column(title="bow of the log-density, nats", better="lower")}

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
        if measured.curves is None:
            return {}
        level = measured.curves.log_density
        linear = torch.lerp(level[:, :1], level[:, -1:], measured.curves.u.to(level))
        moving = measured.posed.moving.to(level.device)
        return {"log_density_bow": torch.where(moving, torch.nan, (level - linear).abs().amax(-1))}
