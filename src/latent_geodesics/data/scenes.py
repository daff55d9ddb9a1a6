r"""Scenes: a density in the plane with two points to join, as the toy figures draw them.

A scene is described by a file of `conf/density/`, shipped or a user's own:

    # @package densities.wave
    density:
      _target_: my_module.Wave   # any latent_geodesics.Density of points [*b 2]
    a: [-3.0, 0.0]
    b: [3.0, 0.0]
    alpha: 1.0                   # the power on the density; 1 unless given
    window: [-4, 4, -2, 2]       # what is drawn: x_1 from, to, x_2 from, to; around the paths unless given
    title: a wave                # the file's name unless given
    exact:                       # a function (a, b, u: [n]) -> [n 2] where the geodesic is known
      _target_: my_module.exact
      _partial_: true

Two of those that are known are arcs of circles. Each is given at constant Euclidean speed, the parametrisation of
`g'' + |g'|^2 P_v s(g) = 0`, so that a solver's path can be compared with it position by position.

| density | cost 1/p | the circle |
|---|---|---|
| `x_2` | `1 / x_2` | its centre lies on the axis `x_2 = 0` |
| `(1 - |x|^2) / 2` | `2 / (1 - |x|^2)` | it meets the unit circle at right angles: `|centre|^2 = radius^2 + 1` |
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.core.fields import Density
from latent_geodesics.core.manifold import Euclidean
from latent_geodesics.core.records import BoundaryProblem

Exact = Callable[[Tensor, Tensor, Tensor], Tensor]
FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
STRAIGHT = 1e-9
KEYS = ("density", "a", "b", "alpha", "window", "title", "exact")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A density in the plane and two points to join.

    Attributes:
        name: what files and tables call it.
        title: what figures call it.
        density: `p`, of points of the plane.
        a: start, float64.
        b: end, float64.
        alpha: the power on `p`, at least 0.
        window: what is drawn, `x_1` from, to, `x_2` from, to; None for a box around the paths.
        exact: points of the geodesic at given positions, `(a, b, u: [n]) -> [n 2]`, where it is known.
    """

    name: str
    title: str
    density: Density
    a: Float[Tensor, " 2"]
    b: Float[Tensor, " 2"]
    alpha: float = 1.0
    window: tuple[float, float, float, float] | None = None
    exact: Exact | None = None

    @property
    def id(self) -> str:
        """The name, under which a run works through scenes."""
        return self.name

    @property
    def problem(self) -> BoundaryProblem:
        """The geodesic from `a` to `b`, as a problem of one pair in flat space."""
        return BoundaryProblem(
            field=self.density, manifold=Euclidean(), x0=self.a[None], x1=self.b[None], alpha=self.alpha
        )


def load_scenes(
    densities: Mapping[str, Mapping[str, Any]], density: Mapping[str, Any] | None = None
) -> tuple[Scene, ...]:
    """Makes the scenes that the configuration describes.

    Args:
        densities: name -> description, as in the module's text.
        density: one more, of a file that does not say where it belongs in the configuration; it is named `density`.

    Raises:
        UserError: when there is none, or when a density cannot be made, is no `Density`, is not one of points of the
            plane, or is not finite at an end; and when an end or a number is no such thing.
    """
    described = dict(densities) | ({"density": density} if density else {})
    if not described:
        raise UserError("No density was chosen: name some of conf/density/, as in density=[ring,banana].")
    return tuple(_scene(name, description) for name, description in described.items())


def half_plane_geodesic(a: Float[Tensor, " 2"], b: Float[Tensor, " 2"], u: Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    """The arc from `a` to `b` of the circle around a point of the axis; a segment where one is above the other.

    Args:
        a: start, above the axis.
        b: end, above the axis.
        u: positions in [0, 1].
    """
    across = 2 * (b[0] - a[0])
    if abs(float(across)) <= STRAIGHT * float((b - a).norm()):
        return torch.lerp(a, b, u.to(a)[:, None])
    middle = (b.square().sum() - a.square().sum()) / across
    return _arc(torch.stack([middle, torch.zeros_like(middle)]), a, b, u)


def poincare_disc_geodesic(
    a: Float[Tensor, " 2"], b: Float[Tensor, " 2"], u: Float[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """The arc from `a` to `b` of the circle orthogonal to the unit circle; a segment where the origin is in line.

    Args:
        a: start, inside the unit circle.
        b: end, inside the unit circle.
        u: positions in [0, 1].
    """
    ends = torch.stack([a, b])
    if abs(float(torch.linalg.det(ends))) <= STRAIGHT * float((b - a).norm()):
        return torch.lerp(a, b, u.to(a)[:, None])
    # |x - c|^2 = |c|^2 - 1 for both ends: 2 c . x = 1 + |x|^2.
    centre = torch.linalg.solve(ends, (1 + ends.square().sum(-1)) / 2)
    return _arc(centre, a, b, u)


def _scene(name: str, description: Mapping[str, Any]) -> Scene:
    if not isinstance(description, Mapping) or "density" not in description:
        raise UserError(
            f"The density '{name}' is not described by `density: {{_target_: module.Class}}` with the ends `a` and `b`."
        )
    unknown = [key for key in description if key not in KEYS]
    if unknown:
        raise UserError(
            f"The density '{name}' has {counted(len(unknown), 'unknown key')} ({', '.join(map(str, unknown))}): use "
            f"{', '.join(KEYS)}."
        )
    alpha = description.get("alpha", 1.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < float("inf"):
        raise UserError(f"The alpha of the density '{name}' must be a finite number of at least 0, got {alpha!r}.")
    exact = description.get("exact")
    scene = Scene(
        name=name,
        title=str(description.get("title", name)),
        density=_made(name, description["density"]),
        a=_point(name, "a", description.get("a")),
        b=_point(name, "b", description.get("b")),
        alpha=float(alpha),
        window=_window(name, description.get("window")),
        exact=None if exact is None else _made(name, exact),
    )
    _probe(scene)
    return scene


def _made(name: str, description: Any) -> Any:
    target = description.get("_target_") if isinstance(description, Mapping) else None
    if target is None:
        raise UserError(f"The density '{name}' names no class: give `_target_: module.Class`, got {description!r}.")
    try:
        return instantiate(description, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise UserError(
            f"The density '{name}' cannot be made of '{target}' ({_one_line(cause)}): check the name and the "
            "arguments, and that PYTHONPATH holds the folder of its module."
        ) from error


def _point(name: str, end: str, values: Any) -> Float[Tensor, " 2"]:
    numbers = isinstance(values, list | tuple) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not numbers or len(values) != 2 or not bool(torch.isfinite(torch.tensor(values, dtype=torch.float64)).all()):
        raise UserError(
            f"The end `{end}` of the density '{name}' must be two finite numbers, as in [-1.5, 0], got {values!r}."
        )
    return torch.tensor(values, dtype=torch.float64)


def _window(name: str, values: Any) -> tuple[float, float, float, float] | None:
    if values is None:
        return None
    if (
        not isinstance(values, list | tuple)
        or len(values) != 4
        or not values[0] < values[1]
        or not values[2] < values[3]
    ):
        raise UserError(
            f"The window of the density '{name}' must be four numbers, x_1 from, to, x_2 from, to, got {values!r}."
        )
    left, right, bottom, top = map(float, values)
    return left, right, bottom, top


def _probe(scene: Scene) -> None:
    """Asks the density once, as solvers and figures will."""
    name, density = scene.name, scene.density
    if not isinstance(density, Density):
        raise UserError(
            f"The density '{name}' is a {type(density).__name__}: subclass latent_geodesics.Density and write log_prob."
        )
    if bool((scene.a == scene.b).all()):
        raise UserError(f"The ends of the density '{name}' are the same point {scene.a.tolist()}: move one of them.")
    x = torch.stack([scene.a, scene.b])[None]
    u = torch.tensor([[0.0, 1.0]], dtype=x.dtype)
    try:
        log_prob, score = density.log_prob(x, u), density.score(x, u)
    except FAULTS as error:
        raise UserError(
            f"The density '{name}' fails on two points of the plane, x of shape [1, 2, 2] in float64 "
            f"({_one_line(error)}): its log_prob must take [..., 2] and give [...]."
        ) from error
    for function, answer, shape in (("log_prob", log_prob, (1, 2)), ("score", score, (1, 2, 2))):
        if not isinstance(answer, Tensor) or tuple(answer.shape) != shape:
            found = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise UserError(
                f"The {function} of the density '{name}' must give {list(shape)} for points of shape [1, 2, 2], got "
                f"{found}."
            )
        if not bool(torch.isfinite(answer).all()):
            raise UserError(
                f"The {function} of the density '{name}' is not finite at its ends a = {scene.a.tolist()}, b = "
                f"{scene.b.tolist()} ({answer.tolist()}): move them to where the density is positive."
            )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _arc(
    centre: Float[Tensor, " 2"], a: Float[Tensor, " 2"], b: Float[Tensor, " 2"], u: Float[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """The shorter arc from `a` to `b` around the centre."""
    start, end = torch.atan2(*(a - centre).flip(0)), torch.atan2(*(b - centre).flip(0))
    turn = torch.remainder(end - start + math.pi, 2 * math.pi) - math.pi
    angle = start + turn * u.to(a)
    arc: Tensor = centre + (a - centre).norm() * torch.stack([angle.cos(), angle.sin()], -1)
    return arc
