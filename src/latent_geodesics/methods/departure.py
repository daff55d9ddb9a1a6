"""Leaving an image: from one image, or two, to an initial value problem in the latent space, and back to images.

An image is encoded and inverted to the noise level tau with its own condition. The path that leaves it lies on the
sphere of its own radius R = |x_0|, as in the code published with Yu et al. 2025 (arXiv 2504.06675); one that carries on
a path between two images stays on the sphere of that path, R = (|x_A| + |x_B|)/2, and is decoded at the norm |x_B|.

A velocity is carried on by the geodesic, with any integrator, or by one of the two lines that know nothing of the
density: along the great circle ("slerp" beyond its ends) or straight ahead ("lerp" beyond its ends). Both are known in
closed form and cost no evaluation of the score.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_geodesics.core.hermite import HermitePath
from latent_geodesics.core.manifold import Euclidean, Manifold, Sphere
from latent_geodesics.core.path import Path, StraightLine
from latent_geodesics.core.records import BoundaryProblem, InitialProblem, Solution
from latent_geodesics.core.solvers import InitialSolver
from latent_geodesics.data.starts import Start
from latent_geodesics.methods.conditions import geometry_of, moves
from latent_geodesics.methods.encoding import Setting
from latent_geodesics.methods.lines import known_solution

ARC_KNOTS = 65


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Images at the noise level tau.

    Attributes:
        prompts: What each shows.
        latents: Their inverted latents, at their own norms.
        condition: The embeddings under which they were inverted.
    """

    prompts: tuple[str, ...]
    latents: Float[Tensor, "p d"]
    condition: Float[Tensor, "p l c"]

    @property
    def norms(self) -> Float[Tensor, " p"]:
        """`|x|` of each."""
        norms: Tensor = self.latents.norm(dim=-1)
        return norms

    def rows(self, which: Sequence[int]) -> "Encoded":
        """Some of the images."""
        index = torch.tensor(list(which), dtype=torch.long)
        prompts = tuple(self.prompts[row] for row in which)
        return Encoded(prompts=prompts, latents=self.latents[index], condition=self.condition[index])


@dataclass(frozen=True, kw_only=True)
class Departure:
    """Images to leave.

    Attributes:
        starts: What they are.
        places: The place of each among all images of the run.
        total: How many images the run has.
        first: The images.
        second: Those that give a direction, for the velocities that need one.
    """

    setting: Setting
    starts: tuple[Start, ...]
    places: tuple[int, ...]
    total: int
    first: Encoded
    second: Encoded | None = None

    @property
    def ids(self) -> list[str]:
        """The names of the images."""
        return [start.id for start in self.starts]


@dataclass(frozen=True, kw_only=True)
class Lead:
    """The path that led to the start of another: the boundary problem between two images, solved."""

    problem: BoundaryProblem
    solution: Solution
    first: Encoded
    second: Encoded

    def decode(self, setting: Setting, u: Float[Tensor, " n"]) -> Float[Tensor, "p n 3 h w"]:
        """The images at the positions u of the path, whose norm moves from that of the first to that of the second."""
        first, second = self.first.norms, self.second.norms
        norms = torch.lerp(first[:, None], second[:, None], u.to(first)) / ((first + second) / 2)[:, None]
        points = self.solution.path.point(u) * norms[..., None]
        return setting.decode(points, u, condition0=self.first.condition, condition1=self.second.condition)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where paths start, how fast, and under which condition.

    Attributes:
        x0: The starts, on the sphere.
        v0: The velocities, tangent there; |v0| is the Euclidean length of the path.
        radius: The radius of the sphere of each.
        norms: The norm at which the points of each path are decoded.
        condition0: The embedding at the start of each path.
        condition1: The embedding at its end; None where it stays.
        lead: The path before the start, if there is one.
    """

    x0: Float[Tensor, "p d"]
    v0: Float[Tensor, "p d"]
    radius: Float[Tensor, " p"]
    norms: Float[Tensor, " p"]
    condition0: Float[Tensor, "p l c"]
    condition1: Float[Tensor, "p l c"] | None = None
    lead: Lead | None = None

    def moving(self, setting: Setting) -> Bool[Tensor, " p"]:
        """Which paths have another density at each position, and so no length."""
        end = self.condition0 if self.condition1 is None else self.condition1
        return moves(setting.condition, self.condition0, end)

    def problem(self, setting: Setting) -> InitialProblem:
        """The initial value problem."""
        return InitialProblem(
            field=setting.field(self.condition0, self.condition1),
            manifold=Sphere(radius=self.radius),
            x0=self.x0,
            v0=self.v0,
            geometry=geometry_of(setting.geometry, setting.power),
        )

    def decode(self, setting: Setting, path: Path, u: Float[Tensor, " n"]) -> Float[Tensor, "p n 3 h w"]:
        """The images at the positions u of a path from the start."""
        points = path.point(u) * (self.norms / self.radius)[:, None, None]
        return setting.decode(points, u, condition0=self.condition0, condition1=self.condition1)


def encode_images(setting: Setting, images: Float[Tensor, "p 3 h w"], prompts: Sequence[str]) -> Encoded:
    """Inverts images to the noise level, each under its own prompt."""
    condition = setting.model.condition(list(prompts))
    latents = setting.model.invert(images, condition=condition, tau=setting.tau, remember=True).sound
    return Encoded(prompts=tuple(prompts), latents=latents, condition=condition)


class Continuation(ABC):
    """Follows initial velocities, for a batch of images."""

    @abstractmethod
    def carry_on(self, problem: InitialProblem) -> Solution:
        """The path that leaves each start with its velocity."""

    def manifold(self, problem: InitialProblem) -> Manifold:
        """What the path lies on: the problem's own manifold unless the path leaves it."""
        return problem.manifold


class GeodesicOn(Continuation):
    """The geodesic of the density.

    Args:
        solver: The integrator.
    """

    def __init__(self, *, solver: InitialSolver) -> None:
        self.solver = solver

    def carry_on(self, problem: InitialProblem) -> Solution:
        """The geodesics, integrated."""
        return self.solver.solve(problem)


class GreatCircleOn(Continuation):
    """`x(u) = cos(u a) x0 + sin(u a) R v0 / |v0|`, with the angle `a = |v0| / R`."""

    def carry_on(self, problem: InitialProblem) -> Solution:
        """The great circles, however long."""
        sphere = problem.manifold
        assert isinstance(sphere, Sphere)
        u = torch.linspace(0, 1, ARC_KNOTS, dtype=torch.float64).to(problem.x0)
        angle = (problem.v0.norm(dim=-1) / problem.x0.norm(dim=-1))[:, None, None]
        turned, x0, v0 = angle * u[:, None], problem.x0[:, None], problem.v0[:, None]
        points = sphere.project(turned.cos() * x0 + turned.sin() * v0 / angle)
        path = HermitePath(
            knots=torch.cat([x0, points[:, 1:]], 1),
            velocities=turned.cos() * v0 - angle * turned.sin() * x0,
            accelerations=-angle.square() * points,
            manifold=sphere,
        )
        return _known(path, problem.x0)


class StraightOn(Continuation):
    """`x(u) = x0 + u v0`. It leaves the sphere: its norm grows."""

    def carry_on(self, problem: InitialProblem) -> Solution:
        """The straight lines."""
        return _known(StraightLine(x0=problem.x0, x1=problem.x0 + problem.v0), problem.x0)

    def manifold(self, problem: InitialProblem) -> Manifold:
        """The flat space around the sphere."""
        return Euclidean()


def _known(path: Path, like: Float[Tensor, "p d"]) -> Solution:
    none = torch.zeros(path.pairs, dtype=torch.long, device=like.device)
    whole = torch.ones_like(like[:, 0])
    return known_solution(
        path, evaluations=none, iterations=none, sequential=none, residual=whole * torch.nan, reached=whole
    )
