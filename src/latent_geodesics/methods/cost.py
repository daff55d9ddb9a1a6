"""What a sequence costs, measured alike for every method.

- seconds of wall-clock time, solving and decoding apart: *solving* is all that comes before the frames are drawn (the
  path, a method's own training and encoding, the trial drawings of a timing), *decoding* is drawing them;
- U-Net calls: how many latents went through the U-Net, forwards, for whatever purpose; a guided step counts twice, a
  training step once for each row of its batch. `Denoiser.evaluations` is the one counter;
- peak memory in MB: on a GPU the most that tensors held at once, elsewhere the process's largest resident set. NaN
  where the system does not tell.

The encoding that all methods share is not in it, what a method encodes for itself is.
"""

from dataclasses import dataclass
from pathlib import Path

from latent_geodesics.models.accelerator import peak_memory_mb, reset_peak
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.stopwatch import DECODING, SOLVING, Stopwatch

__all__ = ["Cost", "Meter"]

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds and U-Net calls of a pair, and the peak memory of its batch in MB (10^6 bytes)."""

    seconds_solving: float
    seconds_decoding: float
    unet_calls: float
    peak_memory_mb: float

    @property
    def seconds(self) -> float:
        """Seconds in all."""
        return self.seconds_solving + self.seconds_decoding


class Meter:
    """Starts measuring when it is made, with solving.

    Args:
        model: The model that the method uses.
    """

    def __init__(self, model: LatentModel) -> None:
        self._model = model
        self._calls = model.network_evaluations
        self._resettable = self._reset_peak()
        self._watch = Stopwatch(model.device)

    def solved(self) -> None:
        """What went before was solving."""
        self._watch.lap(SOLVING)

    def decoded(self) -> None:
        """What went before was decoding."""
        self._watch.lap(DECODING)

    def cost(self, pairs: int) -> Cost:
        """What was spent since, spread evenly over so many pairs; it ends with decoding."""
        self.decoded()
        return Cost(
            seconds_solving=self._watch.seconds.get(SOLVING, 0.0) / pairs,
            seconds_decoding=self._watch.seconds[DECODING] / pairs,
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
