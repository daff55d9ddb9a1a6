"""Time by stages, on devices too that are still at work when a call has returned."""

import time

import torch

from latent_geodesics.models.accelerator import wait

__all__ = ["DECODING", "ENCODING", "INVERSION", "METRICS", "SOLVING", "STAGES", "Stopwatch"]

ENCODING, INVERSION, SOLVING, DECODING, METRICS = STAGES = ("encoding", "inversion", "solving", "decoding", "metrics")
"""What interpolating a pair consists of."""


class Stopwatch:
    """Starts when it is made. The device is waited for where a stage ends and nowhere else.

    Args:
        device: Where the work is done.

    Attributes:
        seconds: Stage -> seconds so far.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        wait(device)
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends a stage: the time since the last one ended was its, beside what it had."""
        wait(self._device)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
