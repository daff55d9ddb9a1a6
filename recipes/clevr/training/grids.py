"""Grids of images: to a PNG file always, to the run's logger where there is one.

Loggers get bytes, not floats: some of them show float tensors in [0, 1] as black.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger

__all__ = ["image_grid", "publish_grid"]

_GAP = 2  # pixels between images


def image_grid(images: Float[Tensor, "n 3 h w"], *, columns: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """Images in [0, 1] row by row on white, `columns` a row."""
    if columns < 1 or not len(images):
        raise ValueError(f"a grid needs an image and a column, got {len(images)} and {columns}")
    count, _, height, width = images.shape
    rows = -(-count // columns)
    grid = torch.ones(3, rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP)
    for index, image in enumerate(images.float().clamp(0, 1).cpu()):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        grid[:, top : top + height, left : left + width] = image
    return (grid * 255).round().byte().permute(1, 2, 0).numpy()


def publish_grid(
    grid: UInt8[np.ndarray, "h w 3"], *, file: Path, logger: "Logger | None", name: str, step: int
) -> None:
    """Write the grid to `file` and show it in the logger, if that shows images.

    Args:
        grid: the picture.
        file: a PNG path; folders are made.
        logger: Lightning's, or None.
        name: key in the logger.
        step: training step.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid).save(file)
    show: Any = getattr(logger, "log_image", None)
    if callable(show):
        show(key=name, images=[grid], step=step)
