"""Time by stages, on devices too that are still at work when a call has returned."""

import time

import torch

__all__ = ["DECODING", "ENCODING", "INVERSION", "METRICS", "SOLVING", "STAGES", "Stopwatch", "synchronize"]

ENCODING, INVERSION, SOLVING, DECODING, METRICS = STAGES = ("encoding", "inversion", "solving", "decoding", "metrics")
"""What interpolating a pair consists of."""


def synchronize(device: torch.device) -> None:
    """Waits until a device has done all that it was given; a CPU always has."""
    if device.type == "cpu" or not torch.accelerator.is_available():
        return
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type == device.type:
        torch.accelerator.synchronize(device)


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
        synchronize(device)
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends a stage: the time since the last one ended was its, beside what it had."""
        synchronize(self._device)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
