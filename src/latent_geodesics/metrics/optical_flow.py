"""How far things move from frame to frame: by this, a morph that moves is told from one that fades.

`flow` = mean over steps and pixels of |v|, in pixels a step, with v the optical flow between consecutive frames by
Farnebäck's polynomial expansion (2003), as OpenCV has it, on grey images in eight bits: 3 levels, each half the size,
window 15 pixels, 3 iterations, neighbourhood 5, deviation 1.2. Sequences of one pair and one number of frames
compare; published numbers of the kind depend on their own estimator.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.data.images import as_uint8
from latent_geodesics.metrics.base import Column, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph


class OpticalFlow(SequenceMetric):
    """`flow`, the mean magnitude of the optical flow between consecutive frames, in pixels."""

    columns: ClassVar = {"flow": Column(title="optical flow, pixels a step")}

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """The column."""
        return {"flow": torch.tensor([_mean_flow(sequence) for sequence in as_uint8(measured.morph.frames)])}


def _mean_flow(frames: np.ndarray) -> float:
    """Of one sequence, [n h w 3] in eight bits."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    found = []
    for before, after in zip(grey[:-1], grey[1:], strict=True):
        start = np.zeros((*before.shape, 2), dtype=np.float32)
        flow = cv2.calcOpticalFlowFarneback(before, after, start, 0.5, 3, 15, 3, 5, 1.2, 0)
        found.append(float(np.linalg.norm(flow, axis=-1).mean()))
    return float(np.mean(found))
