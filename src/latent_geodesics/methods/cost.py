"""What a sequence costs, measured alike for every method.

- seconds of wall-clock time;
- U-Net calls: how many latents went through the U-Net, forwards, for whatever purpose; a guided step counts twice, a
  training step once for each row of its batch. `Denoiser.evaluations` is the one counter;
- peak memory in MB: on a GPU the most that tensors held at once, elsewhere the process's largest resident set. NaN
  where the system does not tell.

The encoding that all methods share is not in it, what a method encodes for itself is.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from latent_geodesics.models.accelerator import peak_memory_mb, reset_peak
from latent_geodesics.models.latent_model import LatentModel

__all__ = ["Cost", "Meter"]

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds and U-Net calls of a pair, and the peak memory of its batch in MB (10^6 bytes)."""

    seconds: float
    unet_calls: float
    peak_memory_mb: float


class Meter:
    """Starts measuring when it is made.

    Args:
        model: The model that the method uses.
    """

    def __init__(self, model: LatentModel) -> None:
        self._model = model
        self._calls = model.network_evaluations
        self._resettable = self._reset_peak()
        self._started = time.perf_counter()

    def cost(self, pairs: int) -> Cost:
        """What was spent since, spread evenly over so many pairs."""
        return Cost(
            seconds=(time.perf_counter() - self._started) / pairs,
            unet_calls=(self._model.network_evaluations - self._calls) / pairs,
            peak_memory_mb=self._peak() if self._resettable else float("nan"),
        )

    def _reset_peak(self) -> bool:
        if self._model.device.type != "cpu":
            return reset_peak(self._model.device)
        try:
            _CLEAR.write_text(_RESET_PEAK)
        except OSError:
            return False
        return True

    def _peak(self) -> float:
        if self._model.device.type != "cpu":
            return peak_memory_mb(self._model.device)
        lines = [line.split() for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        return float(lines[0][1]) * 1024 / 1e6 if lines else float("nan")
