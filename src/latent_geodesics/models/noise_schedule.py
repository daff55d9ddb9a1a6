"""The noise schedule: how much signal and how much noise a latent carries at a diffusion time.

A noisy latent is `x_t = sqrt(abar_t) x_0 + sigma_t eps` with `sigma_t = sqrt(1 - abar_t)` and `eps ~ N(0, I)`.
Deterministic DDIM visits `steps` of the training times only; they are numbered here by *level*, from 0 (clean) to
`steps` (noisiest).

Symbols: `t` diffusion time, an integer in `[0, T)`; `tau` noise level in `[0, 1)`; `k = round(tau * steps)` DDIM
level; `abar_t` signal variance in `(0, 1]`; `sigma_t` noise standard deviation in `[0, 1)`; `v = sqrt(abar_t) eps -
sigma_t x_0`.

Deviation: the published code truncates `int(50 tau)`, which turns tau = 0.58 into level 28; here the level is rounded.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.errors import UserError

__all__ = ["NoiseSchedule"]

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def _column(values: Float[Tensor, " n"]) -> Float[Tensor, "n 1"]:
    return values.unsqueeze(-1)


@dataclass(frozen=True)
class NoiseSchedule:
    """The DDIM levels of a discrete diffusion model and the conversions between its predictions.

    Args:
        signal: `abar_t` for every training time, decreasing, in `[0, 1)`, float64.
        clean_signal: `abar` of level 0; Stable Diffusion uses `abar` of the first training time, not 1.
        times: diffusion time of the levels 1 to `steps`, increasing.
        prediction: what the network returns: `epsilon`, `v_prediction` or `sample`.

    References:
        Song, Meng, Ermon 2020, arXiv 2010.02502 (DDIM); Salimans, Ho 2022, arXiv 2202.00512 (v-prediction).
    """

    signal: Float[Tensor, " T"]
    clean_signal: float
    times: tuple[int, ...]
    prediction: str = "epsilon"
    _tables: dict[torch.device, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise UserError(
                f"the model's scheduler predicts {self.prediction!r}, which is not supported; "
                f"use a model that predicts one of {', '.join(PREDICTIONS)}"
            )

    @classmethod
    def from_scheduler(cls, scheduler: Any, steps: int) -> "NoiseSchedule":
        """Read the schedule of any discrete diffusers scheduler, visited in `steps` DDIM steps."""
        from diffusers import DDIMScheduler

        ddim = DDIMScheduler.from_config(scheduler.config)
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= ddim.config.num_train_timesteps:
            raise UserError(
                f"steps must be a whole number from 1 to {ddim.config.num_train_timesteps}, the number of training "
                f"times; received {steps}"
            )
        ddim.set_timesteps(steps)
        # The library's spacing from the end has one time too many, -1, where its division does not come out even.
        times = sorted(int(t) for t in ddim.timesteps if int(t) >= 0)
        # An offset (Stable Diffusion's is 1) moves the last of many steps past the last training time.
        excess = max(0, times[-1] - (ddim.config.num_train_timesteps - 1))
        return cls(
            signal=ddim.alphas_cumprod.double(),
            clean_signal=float(ddim.final_alpha_cumprod),
            times=tuple(time - excess for time in times),
            prediction=str(ddim.config.prediction_type),
        )

    @property
    def steps(self) -> int:
        """The number of DDIM steps from pure noise to a clean latent."""
        return len(self.times)

    @property
    def training_times(self) -> int:
        """T, the number of diffusion times that the network was trained on."""
        return len(self.signal)

    def level(self, tau: float) -> int:
        """The DDIM level `round(tau * steps)` of a noise level `tau` in `[0, 1)`."""
        if not 0.0 <= tau < 1.0:
            raise UserError(f"the noise level tau must lie in [0, 1); received {tau}")
        level = round(tau * self.steps)
        if self.signal_at_level(level) == 0 and self.prediction == "epsilon":
            raise UserError(
                f"at the noise level tau = {tau} this model's schedule leaves no signal, and from the noise that it "
                f"predicts there no image follows; lower tau to at most {(level - 1) / self.steps:g}"
            )
        return level

    def time(self, level: int) -> int:
        """The diffusion time of a level; level 0 has no step of its own and reads the network at time 0."""
        return 0 if level == 0 else self.times[level - 1]

    def signal_at_level(self, level: int) -> float:
        """`abar` of a DDIM level."""
        return self.clean_signal if level == 0 else float(self.signal[self.times[level - 1]])

    def abar(self, t: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`abar_t` of diffusion times, float32."""
        return self._table(t.device)[0][t]

    def sigma(self, t: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`sigma_t = sqrt(1 - abar_t)`, float32; taken in float64, where the difference keeps its digits."""
        return self._table(t.device)[1][t]

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both for all times, brought to each device once: a copy there would be waited for at every call."""
        if device not in self._tables:
            columns = (self.signal, (1.0 - self.signal).sqrt())
            self._tables[device] = tuple(column.float().to(device) for column in columns)  # type: ignore[assignment]
        return self._tables[device]

    def noise(
        self, x: Float[Tensor, "n d"], output: Float[Tensor, "n d"], t: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d"]:
        """The noise `eps` that a raw network output stands for."""
        a, sigma = _column(self.abar(t).sqrt()), _column(self.sigma(t))
        if self.prediction == "v_prediction":
            return a * output + sigma * x
        if self.prediction == "sample":
            return (x - a * output) / sigma
        return output

    def clean(
        self, x: Float[Tensor, "n d"], output: Float[Tensor, "n d"], t: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d"]:
        """The clean latent `x_0` that a raw network output stands for."""
        a, sigma = _column(self.abar(t).sqrt()), _column(self.sigma(t))
        if self.prediction == "v_prediction":
            return a * x - sigma * output
        if self.prediction == "sample":
            return output
        return (x - sigma * output) / a

    def target(
        self, x0: Float[Tensor, "n d"], noise: Float[Tensor, "n d"], t: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d"]:
        """What the network was trained to return for `x_t = sqrt(abar_t) x_0 + sigma_t eps`."""
        if self.prediction == "v_prediction":
            return _column(self.abar(t).sqrt()) * noise - _column(self.sigma(t)) * x0
        return x0 if self.prediction == "sample" else noise

    def diffuse(
        self, x0: Float[Tensor, "n d"], noise: Float[Tensor, "n d"], t: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d"]:
        """The noisy latent `x_t = sqrt(abar_t) x_0 + sigma_t eps`."""
        return _column(self.abar(t).sqrt()) * x0 + _column(self.sigma(t)) * noise
