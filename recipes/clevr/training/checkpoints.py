"""Checkpoints of training: written beside their place and sealed, the one before the last kept, read as plain data."""

import io
import logging
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO

from latent_geodesics.run.files import DamagedFileError, read_sealed, replacing, seal

__all__ = ["CHECKPOINT", "Checkpoints"]

log = logging.getLogger(__name__)

CHECKPOINT = "last.ckpt"
PREVIOUS = "previous.ckpt"


class Checkpoints(CheckpointIO):
    """Writes and reads Lightning's checkpoints.

    Args:
        origin: Names what is trained, from what and how; a checkpoint of another origin is not gone on with.
    """

    def __init__(self, *, origin: str) -> None:
        self.origin = origin

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint; the one that was there becomes the one before."""
        written = io.BytesIO()
        torch.save({"origin": self.origin, "checkpoint": checkpoint}, written)
        path = Path(path)
        with replacing(path) as partial:
            partial.write_bytes(seal(written.getvalue()))
            if path.name == CHECKPOINT and path.exists():
                path.replace(path.with_name(PREVIOUS))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint; nothing in it is ever run, whatever `weights_only` says.

        Raises:
            DamagedFileError: when the file is not what was written, or of another origin.
        """
        content = read_sealed(Path(path))
        try:
            record = torch.load(io.BytesIO(content), map_location=map_location or "cpu", weights_only=True)
            origin, checkpoint = record["origin"], record["checkpoint"]
        except Exception as error:  # whatever the library says of content that is no record
            raise DamagedFileError(f"it holds no checkpoint: {error}") from error
        if origin != self.origin:
            raise DamagedFileError("it was made with other settings or from other data")
        found: dict[str, Any] = checkpoint
        return found

    def remove_checkpoint(self, path: str | Path) -> None:
        """Deletes a checkpoint."""
        Path(path).unlink(missing_ok=True)

    def last(self, folder: Path) -> Path | None:
        """The last checkpoint in a folder that can be gone on with, if there is one."""
        for path in (folder / CHECKPOINT, folder / PREVIOUS):
            if not path.exists():
                continue
            try:
                self.load_checkpoint(path)
            except (OSError, DamagedFileError) as error:
                log.warning("The checkpoint '%s' cannot be gone on with: %s.", path, error)
            else:
                return path
        return None
