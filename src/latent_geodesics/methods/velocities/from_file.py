"""Leave images with velocities from a file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError, is_out_of_memory
from latent_geodesics.methods.departure import Departure, Launch
from latent_geodesics.methods.velocities.base import InitialVelocity, aimed, check_angle

__all__ = ["FromFile", "read_velocities"]


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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"The file of velocities '{file}' cannot be read ({reason}): save it again.") from error
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
