"""A method's paths between neighbouring keys as one path of latents, and as one sequence of frames."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.joined import JoinedPath
from latent_geodesics.core.manifold import Euclidean, Sphere
from latent_geodesics.core.path import StraightLine
from latent_geodesics.core.records import BoundaryProblem, Solution
from latent_geodesics.data import KeySequence
from latent_geodesics.methods.base import CurveMethod, Meter, Method
from latent_geodesics.methods.encoding import EncodedPairs, decode_paths
from latent_geodesics.methods.geodesic import Reposed

STANDING = 1e-2


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The path of latents through the keys of a sequence, and what its points are decoded under.

    A latent is a point of `directions`, which is of norm 1 at each key, times the norm at that position; norms and
    conditions go from key to key straight, or by the same spline as the directions where the path is smooth.

    Attributes:
        pairs: The legs.
        solution: Their paths, as the method found them.
        statuses: How each leg ended.
    """

    pairs: EncodedPairs
    solution: Solution
    statuses: tuple[str, ...]
    directions: JoinedPath
    norms: JoinedPath
    conditions: JoinedPath

    def latents(self, u: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The latents at the positions u."""
        found: Tensor = self.directions.point(u)[0] * self.norms.point(u)[0]
        return found

    def velocities(self, u: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Their derivatives; at an inner key that of the leg that leaves it."""
        turn = self.directions.velocity(u)[0] * self.norms.point(u)[0]
        found: Tensor = turn + self.directions.point(u)[0] * self.norms.velocity(u)[0]
        return found

    def frames(self, u: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
        """The images at the positions u."""
        pairs = self.pairs
        condition = self.conditions.point(u).reshape(1, len(u), *pairs.condition_a.shape[1:])
        return decode_paths(
            pairs.model, self.latents(u)[None], condition=condition, tau=pairs.tau, guidance=pairs.guidance
        )[0]

    @property
    def misses(self) -> float:
        """The largest distance of the path from a key at its position, relative to the key's norm."""
        keys = torch.cat([self.pairs.latents_a, self.pairs.latents_b[-1:]])
        away = self.latents(self.directions.positions) - keys
        return float((away.norm(dim=-1) / keys.norm(dim=-1)).max())

    @property
    def turns(self) -> float:
        """The largest jump of the velocity at an inner key, relative to the mean of the speeds before and after it.

        Where the path stands still at a key, as a smooth one does that turns back, a jump is relative to a hundredth of
        the mean speed of the legs: what is left of the velocities there is rounding.
        """
        arriving, leaving = self._sides()
        speed = (arriving.norm(dim=-1) + leaving.norm(dim=-1)) / 2
        jump = (leaving - arriving).norm(dim=-1)
        lengths = (self.pairs.latents_b - self.pairs.latents_a).norm(dim=-1)
        least = STANDING * float((lengths / self.directions.positions.diff().to(lengths)).mean())
        return float((jump / speed.clamp_min(max(least, torch.finfo(speed.dtype).tiny))).max()) if len(jump) else 0.0

    def _sides(self) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]]:
        """The velocities just before and just after each inner key."""
        at = self.directions.positions[1:]
        points, norms = self.directions.point(at)[0], self.norms.point(at)[0]
        sides = []
        for turn, stretch in (
            (self.directions.arrivals(), self.norms.arrivals()),
            (self.directions.departures().roll(-1, 0), self.norms.departures().roll(-1, 0)),
        ):
            sides.append(turn * norms + points * stretch)
        arriving, leaving = sides if self.directions.loop else (side[:-1] for side in sides)
        return arriving, leaving


def has_path(method: Method) -> bool:
    """Whether a method has a path of latents between two images, at the positions that it is given."""
    return isinstance(method, CurveMethod) or (isinstance(method, Reposed) and isinstance(method.method, CurveMethod))


def chain_of(method: Method, legs: EncodedPairs, sequence: KeySequence, *, smooth: bool) -> Chain:
    """Solves a method's legs and joins them.

    Args:
        method: One that has a path.
        legs: The neighbours, as the run poses them.
        sequence: The keys.
        smooth: Whether the velocity is to be continuous at the inner keys.
    """
    pairs = legs
    if isinstance(method, Reposed):
        pairs, method = meeting(method.pose(legs), loop=sequence.loop), method.method
    if not isinstance(method, CurveMethod):
        raise UserError(f"{type(method).__name__} has no path of latents between two images.")
    solution, on = method.solution(pairs), method.manifold(pairs.problem)
    on = Sphere(1.0) if isinstance(on, Sphere) else on
    join = partial(JoinedPath, positions=sequence.positions, smooth=smooth, loop=sequence.loop)
    norms = StraightLine(x0=pairs.norms_a[:, None], x1=pairs.norms_b[:, None])
    conditions = StraightLine(x0=pairs.condition_a.flatten(1), x1=pairs.condition_b.flatten(1))
    radius = (pairs.norms_a + pairs.norms_b) / 2
    return Chain(
        pairs=pairs,
        solution=solution,
        statuses=solution.status_names,
        directions=join(legs=solution.path, manifold=on, scales=1 / radius),
        norms=join(legs=norms, manifold=Euclidean()),
        conditions=join(legs=conditions, manifold=Euclidean()),
    )


def draw_chain(
    method: Method, legs: EncodedPairs, sequence: KeySequence, steps: Sequence[int], *, smooth: bool
) -> tuple[Chain, Float[Tensor, "n 3 h w"], dict[str, Any]]:
    """The chain, its frames on the CPU, and what both cost: `evaluations` of the score, and the cost of a `Morph`.

    Args (those of `chain_of`, and):
        steps: How many steps between frames each leg has.
    """
    meter = Meter(legs.model)
    chain = chain_of(method, legs, sequence, smooth=smooth)
    meter.solved()
    frames = chain.frames(positions_of(sequence.positions, steps))
    cost = meter.cost(1) | {"evaluations": int(chain.solution.stats["evaluations"].sum())}
    return chain, frames.cpu(), cost


def meeting(legs: EncodedPairs, *, loop: bool) -> EncodedPairs:
    """Legs of which each begins at the very latent at which the one before ends.

    A latent depends on those that it was inverted beside, by rounding: an inner key is taken as the leg has it that
    leaves it.
    """
    own = torch.cat([legs.latents_a, legs.latents_a[:1] if loop else legs.latents_b[-1:]])
    norms = torch.cat([legs.norms_a, legs.norms_a[:1] if loop else legs.norms_b[-1:]])
    radius, problem = (norms[:-1] + norms[1:]) / 2, legs.problem
    return replace(
        legs,
        norms_a=norms[:-1],
        norms_b=norms[1:],
        problem=BoundaryProblem(
            field=problem.field,
            manifold=Sphere(radius=radius),
            x0=own[:-1] * (radius / norms[:-1])[:, None],
            x1=own[1:] * (radius / norms[1:])[:, None],
            geometry=problem.geometry,
        ),
    )


def shares(positions: Float[Tensor, " k1"], frames: int) -> list[int]:
    """How many of the steps between `frames` images each leg has, so that every key is an image.

    Each has at least one, and else as near to its share of the time as whole numbers come (largest remainders).

    Raises:
        UserError: where there are fewer images than keys.
    """
    widths, steps = positions.diff(), frames - 1
    if steps < len(widths):
        raise UserError(f"frames must be at least {len(widths) + 1}, one for each key, got {frames}.")
    wanted = widths * steps
    found = wanted.floor().clamp_min(1).to(torch.int64)
    while int(found.sum()) != steps:
        lacking = wanted - found
        if int(found.sum()) < steps:
            found[int(lacking.argmax())] += 1
        else:
            found[int(torch.where(found > 1, lacking, torch.inf).argmin())] -= 1
    counts: list[int] = found.tolist()
    return counts


def positions_of(positions: Float[Tensor, " k1"], steps: Sequence[int]) -> Float[Tensor, " n"]:
    """The positions of the images of a sequence, leg by leg evenly; the keys are met exactly."""
    parts = [
        torch.lerp(positions[leg], positions[leg + 1], torch.linspace(0, 1, count + 1, dtype=torch.float64)[:-1])
        for leg, count in enumerate(steps)
    ]
    return torch.cat([*parts, positions[-1:]])
