"""The seam of initial velocities: images in, starts and velocities on their spheres out.

Every velocity is checked here: a zero one, one without a tangent part (a radial one) and one that is not finite give no
direction, and are refused with a sentence that names the image.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, is_out_of_memory
from latent_geodesics.core.manifold import Manifold, Sphere
from latent_geodesics.core.solvers import BoundarySolver
from latent_geodesics.methods.departure import Departure, Launch, Lead
from latent_geodesics.models.sources import why_unreadable


class InitialVelocity(ABC):
    """Says in which direction, how far and under which condition a path leaves its image.

    Attributes:
        needs_second: whether it needs a second image.
        words: what the velocity is, for reports.
    """

    needs_second: bool = False
    words: str = ""

    @abstractmethod
    def launch(self, departure: Departure) -> Launch:
        """Start and velocity for each image.

        Raises:
            UserError: when a velocity is zero, radial, not finite or of the wrong size.
        """

    def check(self, prompts: dict[str, tuple[str, str]]) -> None:
        """Refuse, before anything is computed, images that this velocity cannot leave.

        Args:
            prompts: for each image what it shows, and what its second image shows.
        """
        del prompts


def aimed(
    directions: Float[Tensor, "p d"],
    departure: Departure,
    *,
    angle: float | None,
    cause: str,
    remedy: str,
) -> Launch:
    """A launch from the first images, each on the sphere of its own norm, along the tangent parts of `directions`.

    Args:
        directions: a vector for each image, tangent or not.
        departure: the images.
        angle: the length of the paths as an angle, in radians; None keeps the length of each vector, as published.
        cause: what the vectors are, for a message.
        remedy: what to do when one of them gives no direction.

    Raises:
        UserError: when a vector is not finite, zero, or radial.
    """
    x0, radius = departure.first.latents, departure.first.norms
    directions = directions.to(x0)
    tangent = tangent_part(directions, x0, Sphere(radius=radius), ids=departure.ids, cause=cause, remedy=remedy)
    length = directions.norm(dim=-1) if angle is None else angle * radius
    return Launch(
        x0=x0,
        v0=tangent / tangent.norm(dim=-1, keepdim=True) * length[:, None],
        radius=radius,
        norms=radius,
        condition0=departure.first.condition,
    )


def tangent_part(
    v: Float[Tensor, "p d"], x: Float[Tensor, "p d"], manifold: Manifold, *, ids: list[str], cause: str, remedy: str
) -> Float[Tensor, "p d"]:
    """The part of each velocity along the manifold, where there is one.

    Raises:
        UserError: when a velocity is not finite, zero, or has no tangent part beyond rounding error.
    """
    tangent = manifold.tangent(x, v)
    size, along = v.norm(dim=-1), tangent.norm(dim=-1)
    least = math.sqrt(torch.finfo(v.dtype).eps)
    for bad, words in (
        (~torch.isfinite(v).all(-1), "is not finite"),
        (size == 0, "is zero"),
        (along <= least * size, "is radial (it points away from the origin and has no part along the sphere)"),
    ):
        if bool(bad.any()):
            name = ids[int(bad.nonzero()[0])]
            raise UserError(f"The initial velocity of '{name}', {cause}, {words}, so there is no way to go: {remedy}.")
    return tangent


def check_angle(angle: float | None) -> None:
    """Refuse an angle that is not a positive number.

    Raises:
        UserError: for one that is not.
    """
    if angle is not None and not (math.isfinite(angle) and angle > 0):
        raise UserError(f"The angle of an initial velocity must be a positive number of radians, or null; got {angle}.")


class BeyondSecond(InitialVelocity):
    """Solves the boundary problem between two images and goes on from the second with the velocity that it ends with.

    Beyond the second image its own condition holds: an embedding extrapolated beyond both prompts is none that the
    model has seen.

    Args:
        solver: The solver of the boundary problem.
        share: How far to go on, as a share of the way between the images.

    Raises:
        UserError: if `share` is not a positive number.
    """

    needs_second = True
    words = "the velocity with which the geodesic between two images reaches the second"

    def __init__(self, *, solver: BoundarySolver, share: float = 0.5) -> None:
        if not (math.isfinite(share) and share > 0):
            raise UserError(f"share must be a positive number (0.5 goes on half as far again); got {share}.")
        self.solver, self.share = solver, share

    def launch(self, departure: Departure) -> Launch:
        """The second image of each pair, and the velocity of the geodesic there times `share`."""
        first, second = departure.first, departure.second
        assert second is not None
        problem = departure.setting.problem(first.latents, second.latents, first.condition, second.condition)
        solution = self.solver.solve(problem)
        v = solution.path.velocity(torch.ones(1, dtype=torch.float64))[:, 0]
        tangent = tangent_part(
            v,
            problem.x1,
            problem.manifold,
            ids=departure.ids,
            cause="that of the geodesic between two images",
            remedy="give two images that differ",
        )
        return Launch(
            x0=problem.x1,
            v0=self.share * tangent,
            radius=(first.norms + second.norms) / 2,
            norms=second.norms,
            condition0=second.condition,
            lead=Lead(solution=solution, first=first, second=second, problem=problem),
        )


class ChangeOfPrompt(InitialVelocity):
    """The difference of the scores of two prompts at the image, `s(x | c') - s(x | c)`.

    It is the gradient of `log p(c' | x) - log p(c | x)`: the way in which the image comes to fit the new prompt sooner
    than its own. The density along the path is the run's between the two prompts (`methods.conditions`); in the code
    published with Yu et al. 2025 (arXiv 2504.06675), whose initial velocities are random or from a file, it moves from
    the one to the other. Frames are decoded under a condition that does.

    Args:
        prompt: The new prompt; None takes what the second image of a pair shows.
        angle: The length of the path as an angle, in radians.
        moving: Whether the path leads to the new prompt; else density and decoding stay the image's own.

    Raises:
        UserError: if `angle` is not positive.
    """

    words = "the difference of the scores of two prompts"

    def __init__(self, *, prompt: str | None = None, angle: float = 0.7, moving: bool = True) -> None:
        check_angle(angle)
        self.prompt, self.angle, self.moving = prompt, angle, moving

    def check(self, prompts: dict[str, tuple[str, str]]) -> None:
        """Every image needs a prompt that differs from its own."""
        for name, (own, other) in prompts.items():
            if self._target(other) == own:
                raise UserError(
                    f"The initial velocity of '{name}' from a change of prompt is zero: the new prompt is its own, "
                    f"'{own}'. Give another by velocities.prompt.prompt='...', or leave this velocity out."
                )

    def launch(self, departure: Departure) -> Launch:
        """The first image, and the difference of the scores there."""
        setting, first = departure.setting, departure.first
        others = [start.second_prompt for start in departure.starts]
        target = setting.model.condition([self._target(other) for other in others])
        at_start = torch.zeros(len(first.latents), device=first.latents.device)
        new, own = (setting.field(c).score(first.latents, at_start) for c in (target, first.condition))
        launch = aimed(
            new - own,
            departure,
            angle=self.angle,
            cause="from the change of its prompt",
            remedy="give a prompt that says something else",
        )
        return replace(launch, condition1=target) if self.moving else launch

    def _target(self, other: str) -> str:
        return other if self.prompt is None else self.prompt


class FromFile(InitialVelocity):
    """Velocities that a file holds: one for all images, one for each, or one under the name of each.

    Args:
        file: A `.pt`, `.npy` or `.safetensors` file; what a run of this project saves under `velocities/` is one.
        angle: The length of the path as an angle, in radians; None keeps the length of each velocity.

    Raises:
        UserError: if `angle` is not positive, or the file cannot be read.
    """

    words = "a velocity from a file"

    def __init__(self, *, file: str | Path, angle: float | None = None) -> None:
        check_angle(angle)
        self.file, self.angle = Path(file), angle
        self._found = read_velocities(self.file)

    def launch(self, departure: Departure) -> Launch:
        """The first image, and the velocity that the file has for it."""
        return aimed(
            self._for(departure, departure.first.latents.shape[1]),
            departure,
            angle=self.angle,
            cause=f"from '{self.file}'",
            remedy="give a file of velocities that have a part along the sphere",
        )

    def _for(self, departure: Departure, size: int) -> Float[Tensor, "p d"]:
        ids = departure.ids
        if isinstance(self._found, Tensor):
            rows = self._rows(self._found, size, most=departure.total)
            return rows.expand(len(ids), -1) if len(rows) == 1 else rows[list(departure.places)]
        missing = [name for name in ids if name not in self._found]
        if missing:
            raise UserError(
                f"The file '{self.file}' holds velocities named {', '.join(self._found)}, none for '{missing[0]}': "
                "name each as its image, or give a single array."
            )
        return torch.cat([self._rows(self._found[name], size, most=1) for name in ids])

    def _rows(self, values: Tensor, size: int, *, most: int) -> Float[Tensor, "r d"]:
        """Flat velocities, one or `most`; each may also stand as a latent, [c h w]."""
        if values.numel() == size:
            return values.reshape(1, size).float()
        if values.ndim > 1 and len(values) == most and values.numel() == most * size:
            return values.reshape(most, size).float()
        wanted = f"[{size}]" if most == 1 else f"[{size}] for all images, or [{most}, {size}]"
        raise UserError(
            f"The file '{self.file}' holds a velocity of the shape {list(values.shape)}, but the model's latents have "
            f"{size} values: give one of the shape {wanted}."
        )


def read_velocities(file: Path) -> Tensor | dict[str, Tensor]:
    """The array of a file, or its arrays by name where it holds several.

    Raises:
        UserError: when the file is missing, of another kind, or cannot be read.
    """
    if not file.is_file():
        raise UserError(f"The file of velocities '{file}' does not exist: give a .pt, .npy or .safetensors file.")
    try:
        found = _read(file)
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = why_unreadable(error)
        raise UserError(f"The file of velocities '{file}' cannot be read ({said}): save it again.") from error
    if isinstance(found, dict) and len(found) == 1 and set(found) <= {"velocity", "v0"}:
        found = next(iter(found.values()))
    arrays = found.values() if isinstance(found, dict) else [found]
    if not arrays or not all(isinstance(value, Tensor) and value.is_floating_point() for value in arrays):
        raise UserError(f"The file of velocities '{file}' holds something other than arrays of real numbers.")
    checked: Tensor | dict[str, Tensor] = found
    return checked


def _read(file: Path) -> Any:
    if file.suffix == ".npy":
        return torch.from_numpy(np.load(file, allow_pickle=False))
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    if file.suffix in (".pt", ".pth"):
        return torch.load(file, map_location="cpu", weights_only=True)
    raise UserError(
        f"The file of velocities '{file}' is of no kind that can be read: give a .pt, .npy or .safetensors file."
    )


class RandomDirection(InitialVelocity):
    """A standard Gaussian vector, made tangent, as in the code published with Yu et al. 2025 (arXiv 2504.06675).

    The draw of an image depends on the seed and the image's name alone.

    Args:
        seed: Where the random numbers start.
        angle: The length of the path as an angle, in radians; None keeps the vector's own length, as published, which
            is about one radian, since both it and the latent have norms of about sqrt(d).

    Raises:
        UserError: if `angle` is not positive.
    """

    words = "a random direction"

    def __init__(self, *, seed: int = 0, angle: float | None = 0.7) -> None:
        check_angle(angle)
        self.seed, self.angle = seed, angle

    def launch(self, departure: Departure) -> Launch:
        """The first image, and a direction drawn for it."""
        size = departure.first.latents.shape[1]
        draws = [torch.randn(size, generator=self._generator(name), dtype=torch.float64) for name in departure.ids]
        return aimed(
            torch.stack(draws), departure, angle=self.angle, cause="drawn at random", remedy="choose another seed"
        )

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class TowardImage(InitialVelocity):
    """The logarithm of the second image at the first: the velocity of the great circle that joins them.

    The geodesic that leaves the first image this way does not meet the second, unless the density is uniform: it shows
    where the density turns it. The condition stays that of the first image.

    Args:
        share: The length of the path as a share of the distance to the second image.

    Raises:
        UserError: if `share` is not a positive number.
    """

    needs_second = True
    words = "the direction from one image to another (the logarithm map)"

    def __init__(self, *, share: float = 1.0) -> None:
        if not (math.isfinite(share) and share > 0):
            raise UserError(f"share must be a positive number (1 goes as far as the second image is); got {share}.")
        self.share = share

    def launch(self, departure: Departure) -> Launch:
        """The first image of each pair, and the great-circle velocity to the second times `share`."""
        assert departure.second is not None
        sphere = Sphere(radius=departure.first.norms)
        toward = sphere.log(departure.first.latents, sphere.project(departure.second.latents))
        return aimed(
            self.share * toward,
            departure,
            angle=None,
            cause="the direction to the second image",
            remedy="give two images that differ, and that are not opposite each other",
        )
