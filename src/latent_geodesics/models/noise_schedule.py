"""The noise schedule: how much signal and how much noise a latent carries at a diffusion time.

A noisy latent is `x_t = a_t x_0 + sigma_t eps` with `eps ~ N(0, I)`. For a diffusion model `a_t = sqrt(abar_t)` and
`sigma_t = sqrt(1 - abar_t)` at discrete training times; for a flow model (rectified flow) `a = 1 - sigma` at any
`sigma` in `[0, 1]`. Sampling visits `steps` of the times only; they are numbered here by *level*, from 0 (clean) to
`steps` (noisiest), and one deterministic step (DDIM; of a flow model, Euler's) keeps the predicted clean latent and
noise:

    x_{k-1} = a_{k-1} x_0(x_k) + sigma_{k-1} eps(x_k).

What a network may predict, and what follows of it: `epsilon`, the noise; `sample`, `x_0`; `v_prediction`, `v = a eps -
sigma x_0`, of which `x_0 = a x - sigma v` and `eps = a v + sigma x`; `flow`, `v = eps - x_0`, of which `x_0 = x - sigma
v` and `eps = x + (1 - sigma) v`. The score is `-eps / sigma` whichever it is.

Symbols: `t` the index of a time in the schedule's tables, for a diffusion model the training time itself; `tau` noise
level in `[0, 1)`; `k = round(tau * steps)` the level; `abar_t = a_t^2` the signal's variance; `sigma_t` the noise's
standard deviation in `[0, 1]`.

Deviation: the published code truncates `int(50 tau)`, which turns tau = 0.58 into level 28; here the level is rounded.

References:
    Song, Meng, Ermon 2020, arXiv 2010.02502 (DDIM); Salimans, Ho 2022, arXiv 2202.00512 (v-prediction); Liu, Gong, Liu
    2022, arXiv 2209.03003, and Lipman et al. 2022, arXiv 2210.02747 (rectified flow, flow matching).
"""

import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.sources import first_line

FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")

Latents = Float[Tensor, "n d"]
Times = Int[Tensor, " n"]


def _column(values: Float[Tensor, " n"]) -> Float[Tensor, "n 1"]:
    return values.unsqueeze(-1)


@dataclass(frozen=True)
class NoiseSchedule:
    """The levels of a model and the conversions between its predictions."""

    # `abar` at every index, in `[0, 1]`, float64; first those of the training times, in increasing noise
    signal: Float[Tensor, " T"]
    clean_signal: float  # `abar` of level 0; Stable Diffusion uses `abar` of the first training time, a flow model 1
    times: tuple[int, ...]  # index of the levels 1 to `steps`, in increasing noise
    prediction: str = "epsilon"  # what the network returns: `epsilon`, `v_prediction`, `sample` or `flow`
    # What the network is told at every index; None tells it the index, as diffusion models are
    network_times: Float[Tensor, " T"] | None = None
    training_times: int = 0  # T, how many of the indices are training times; 0 for all
    _tables: dict[torch.device, tuple[Tensor, Tensor, Tensor | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise UserError(
                f"the model's scheduler predicts {self.prediction!r}, which is not supported; "
                f"use a model that predicts one of {', '.join(PREDICTIONS)}"
            )
        if not self.training_times:
            object.__setattr__(self, "training_times", len(self.signal))

    @classmethod
    def from_scheduler(cls, scheduler: Any, steps: int, **settings: Any) -> "NoiseSchedule":
        """Read the schedule of any discrete diffusers scheduler, visited in `steps` DDIM steps, at least 1.

        The settings take the place of its own.
        """
        from diffusers import DDIMScheduler

        if "set_alpha_to_one" not in inspect.signature(type(scheduler).__init__).parameters:
            # A folder may name it all the same (SDXL's does); its sampler ends without noise, if not told otherwise.
            settings = {"set_alpha_to_one": scheduler.config.get("final_sigmas_type") != "sigma_min"} | settings
        # Some know ways to space their betas that this one does not.
        betas = {"trained_betas": scheduler.betas.tolist(), "rescale_betas_zero_snr": False}
        ddim = DDIMScheduler.from_config(scheduler.config, **betas, **settings)
        trained = ddim.config.num_train_timesteps
        _check_steps(steps, trained)
        if len(ddim.alphas_cumprod) != trained:
            raise UserError(
                f"the model's scheduler has {len(ddim.alphas_cumprod)} betas for {trained} training times: correct "
                "trained_betas or num_train_timesteps in its settings"
            )
        try:
            ddim.set_timesteps(steps)
        except (ValueError, NotImplementedError) as error:
            raise UserError(
                f"the model's scheduler cannot space {steps} steps ({first_line(error)}): correct timestep_spacing in "
                "its settings, or lower model.steps"
            ) from error
        if not bool(((ddim.alphas_cumprod >= 0) & (ddim.alphas_cumprod <= 1)).all()):
            raise UserError(
                "the model's scheduler has betas outside [0, 1]: correct beta_start, beta_end or trained_betas in its "
                "settings"
            )
        # The library's spacing from the end has one time too many, -1, where its division does not come out even.
        times = sorted(int(t) for t in ddim.timesteps if int(t) >= 0)
        # An offset (Stable Diffusion's is 1) moves the last of many steps past the last training time.
        excess = max(0, times[-1] - (trained - 1))
        return cls(
            signal=ddim.alphas_cumprod.double(),
            clean_signal=float(ddim.final_alpha_cumprod),
            times=tuple(time - excess for time in times),
            prediction=str(ddim.config.prediction_type),
        )

    @classmethod
    def from_flow(
        cls, scheduler: Any, steps: int, *, evenly: bool = False, shift: float | None = None
    ) -> "NoiseSchedule":
        """Read the schedule of diffusers' `FlowMatchEulerDiscreteScheduler`, visited in `steps` Euler steps.

        Args:
            scheduler: The scheduler.
            steps: How many steps, at least 1.
            evenly: Whether the pipeline gives the scheduler `sigma = 1, 1 - 1/steps, ..., 1/steps` to shift; otherwise
                the scheduler spaces its own.
            shift: `mu` of a schedule that is shifted by the size of the image; None for one that is not.
        """
        from diffusers import FlowMatchEulerDiscreteScheduler

        trained = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
        count = trained.config.num_train_timesteps
        _check_steps(steps, count)
        if shift is None and trained.config.use_dynamic_shifting:
            raise UserError(
                "the model's scheduler shifts its noise by the size of images (use_dynamic_shifting): how far is not "
                "known for this kind of model; choose a model with a scheduler of one shift"
            )
        training = trained.sigmas.double().flip(0)
        if not trained.config.use_dynamic_shifting and not 0 < trained.config.shift < math.inf:
            raise UserError(f"the model's scheduler has the shift {trained.config.shift}: it must be above 0")
        given = {"sigmas": [1.0 - step / steps for step in range(steps)]} if evenly else {"num_inference_steps": steps}
        trained.set_timesteps(**given, mu=shift)
        levels = trained.sigmas.double()[:-1].flip(0)
        if not bool(torch.isfinite(levels).all()):
            raise UserError(f"the model's scheduler gives no noise levels in {steps} steps: raise model.steps")
        sigmas = torch.cat([training, levels])
        return cls(
            signal=(1.0 - sigmas).square(),
            clean_signal=1.0,
            times=tuple(range(count, count + steps)),
            prediction="flow",
            network_times=sigmas * count,
            training_times=count,
        )

    @property
    def steps(self) -> int:
        """The number of DDIM steps from pure noise to a clean latent."""
        return len(self.times)

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

    def amounts(self, level: int) -> tuple[float, float]:
        """`a` and `sigma` of a level."""
        signal = self.signal_at_level(level)
        return math.sqrt(signal), self.noise_beside(signal)

    def abar(self, t: Times) -> Float[Tensor, " n"]:
        """`abar_t` at indices, float32."""
        return self._table(t.device)[0][t]

    def sigma(self, t: Times) -> Float[Tensor, " n"]:
        """`sigma_t`, float32; taken in float64, where the difference keeps its digits."""
        return self._table(t.device)[1][t]

    def told(self, t: Times) -> Tensor:
        """What the network is told at indices."""
        told = self._table(t.device)[2]
        return t if told is None else told[t]

    def training_time(self, t: Times) -> Times:
        """The training time of the noise that is nearest to that at indices."""
        if self.training_times == len(self.signal):
            return t
        sigma = self._table(t.device)[1]
        return (sigma[: self.training_times] - _column(sigma[t])).abs().argmin(-1)

    def step_up(self, level: int) -> tuple[float, float]:
        """The factors of `x_{k-1}` and of what `driver` tells of `x_k` in `x_k`, `k` the level.

        The driver is what keeps the factors finite: the noise; for v-prediction `v`, since the step is a rotation; for
        a flow `v`, since the step is a straight line.
        """
        (a0, s0), (a1, s1) = self.amounts(level - 1), self.amounts(level)
        if self.prediction == "v_prediction":
            cosine = a0 * a1 + s0 * s1
            return 1 / cosine, (s1 * a0 - a1 * s0) / cosine
        if self.prediction == "flow":
            return 1.0, s1 - s0
        return a1 / a0, s1 - a1 / a0 * s0

    def driver(self, x: Latents, output: Latents, t: Times) -> Latents:
        """What a step is taken by: see `step_up`."""
        return output if self.prediction in ("v_prediction", "flow") else self.noise(x, output, t)

    def step_down(self, x: Latents, output: Latents, t: Times, below: int) -> Latents:
        """The latents of the level `below` that follow from those at `t` by one deterministic step."""
        a, sigma = self.amounts(below)
        return a * self.clean(x, output, t) + sigma * self.noise(x, output, t)

    def noise_beside(self, signal: Any) -> Any:
        """`sigma` beside a variance of the signal."""
        return 1.0 - signal**0.5 if self.prediction == "flow" else (1.0 - signal) ** 0.5

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of all indices, brought to each device once: a copy there would be waited for at every call."""
        if device not in self._tables:
            told = None if self.network_times is None else self.network_times.float().to(device)
            sigma = self.noise_beside(self.signal)
            self._tables[device] = (self.signal.float().to(device), sigma.float().to(device), told)
        return self._tables[device]

    def noise(self, x: Latents, output: Latents, t: Times) -> Latents:
        """The noise `eps` that a raw network output stands for."""
        a, sigma = _column(self.abar(t).sqrt()), _column(self.sigma(t))
        if self.prediction == "v_prediction":
            return a * output + sigma * x
        if self.prediction == "sample":
            return (x - a * output) / sigma
        return x + a * output if self.prediction == "flow" else output

    def clean(self, x: Latents, output: Latents, t: Times) -> Latents:
        """The clean latent `x_0` that a raw network output stands for."""
        a, sigma = _column(self.abar(t).sqrt()), _column(self.sigma(t))
        if self.prediction == "v_prediction":
            return a * x - sigma * output
        if self.prediction == "sample":
            return output
        return x - sigma * output if self.prediction == "flow" else (x - sigma * output) / a

    def target(self, x0: Latents, noise: Latents, t: Times) -> Latents:
        """What the network was trained to return for `x_t = a_t x_0 + sigma_t eps`."""
        if self.prediction == "flow":
            return noise - x0
        if self.prediction == "v_prediction":
            return _column(self.abar(t).sqrt()) * noise - _column(self.sigma(t)) * x0
        return x0 if self.prediction == "sample" else noise

    def diffuse(self, x0: Latents, noise: Latents, t: Times) -> Latents:
        """The noisy latent `x_t = a_t x_0 + sigma_t eps`."""
        return _column(self.abar(t).sqrt()) * x0 + _column(self.sigma(t)) * noise


def _check_steps(steps: Any, most: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
        raise UserError(
            f"steps must be a whole number from 1 to {most}, the number of training times; received {steps}"
        )
