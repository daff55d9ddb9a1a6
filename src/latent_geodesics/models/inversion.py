"""Deterministic DDIM: from a clean latent up to a noise level, and back down.

One step down from level k to k-1 (eta = 0) is

    x_{k-1} = sqrt(abar_{k-1}) x_0(x_k) + sigma_{k-1} eps(x_k),     x_0(x) = (x - sigma_k eps(x)) / sqrt(abar_k).

Going up asks for the `x_k` that this step sends to the given `x_{k-1}`, an implicit equation

    x_k = sqrt(abar_k / abar_{k-1}) (x_{k-1} - sigma_{k-1} eps(x_k)) + sigma_k eps(x_k),

solved as a fixed point. Where no signal is left (`abar_k = 0`) this says nothing, and near it little. A network that
predicts `v = sqrt(abar) eps - sigma x_0` turns by an angle instead, `cos phi = sqrt(abar_k abar_{k-1}) + sigma_k
sigma_{k-1}`, and a flow model, `v = eps - x_0`, goes straight; both hold up to pure noise:

    x_k = (x_{k-1} + sin phi v(x_k)) / cos phi,        x_k = x_{k-1} + (sigma_k - sigma_{k-1}) v(x_k).

The usual (and the published) inversion evaluates `eps` once, at `x_{k-1}`. Here every refinement evaluates it once more
at the latest `x_k`, until the step is solved and the round trip closes; and the first iterate is not `x_{k-1}` but the
`x_k` that follows from the noise (or `v`) extrapolated from the two steps before, which costs nothing and saves a third
of the evaluations. Near the clean end the noise grows several-fold in one step, which converges slowly; other steps
need two or three evaluations.

References:
    Song, Meng, Ermon 2020, arXiv 2010.02502; Pan et al. 2023, arXiv 2309.04907 (fixed-point refinement).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.network import Denoiser, Guidance
from latent_geodesics.models.noise_schedule import Latents, NoiseSchedule, Times

UNSETTLED = 1e-3
"""The relative error of a step from which on a person should know."""
LOST, AWAY = 0.1, 0.2
"""The relative error of a step, and of the way back, from which on what is decoded is no longer the image."""
DOUBTFUL, LITTLE_SIGNAL = 1e-4, 0.1
"""The relative error of a step, and the signal, from which on the way back is walked as well."""
MISSED = 1e-2
"""The relative error of the way back from which on a person should know."""

Predict = Callable[[Tensor, int], Tensor]
"""The raw network output [n d] at latents [n d] of a DDIM level."""

_MEMORY = 4
# Keeps the small normal equations solvable when the last iterates are all but equal.
_RIDGE = 1e-10


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A step of an inversion that was left far from solved, or a way back that misses the latent of the image."""

    step: int  # which, from 1
    level: int  # how many there are
    error: float  # its relative error; infinite where numbers were not finite from this step on
    # By how much of its norm the way back misses the latent of the image; 0 where it is little, or was not walked
    missed: float = 0.0

    @property
    def size(self) -> float:
        """How bad it is, of a step or of all of them together."""
        return max(self.error, self.missed)

    @property
    def lost(self) -> bool:
        """Whether the latent is not that of the image at all."""
        return not (self.error < LOST and self.missed < AWAY)

    @property
    def words(self) -> str:
        """What happened, without a remedy."""
        if self.error == float("inf"):
            return f"its numbers were not finite from step {self.step} of {self.level} on"
        step = f"step {self.step} of {self.level} was left with a relative error of {self.error:.1g}"
        return f"{step}, and the way back misses the latent by {self.missed:.1g} of its norm" if self.missed else step

    @property
    def sentence(self) -> str:
        """What happened and what to do, for a person."""
        return (
            f"the inversion did not settle: {self.words}: what is decoded will differ from the image. Raise "
            "model.refinements or model.steps, or lower tau"
        )


class Inverted(NamedTuple):
    """Latents at a noise level, and of each the step that was left farthest from solved."""

    x: Latents  # the latents
    error: Float[Tensor, " n"]  # the largest relative error of a step; infinite where numbers were not finite
    step: Float[Tensor, " n"]  # which step that was; 0 for no step at all
    missed: Float[Tensor, " n"]  # see `Fault`
    level: int  # how many steps there were

    @property
    def faults(self) -> tuple[Fault | None, ...]:
        """What is wrong with each of the latents; None where every step was solved."""
        rows = torch.stack([self.error, self.step, self.missed], -1).tolist()
        return tuple(
            Fault(step=int(step), level=self.level, error=error, missed=missed) if error > UNSETTLED or missed else None
            for error, step, missed in rows
        )

    @property
    def sound(self) -> Latents:
        """The latents; a `UserError` where one is not that of its image."""
        lost = [fault for fault in self.faults if fault is not None and fault.lost]
        if lost:
            raise UserError(self._of_the_worst("of", lost))
        return self.x

    def packed(self) -> Float[Tensor, "n d+3"]:
        """All of it but the level in one tensor."""
        return torch.cat([self.x, torch.stack([self.error, self.step, self.missed], -1)], -1)

    @classmethod
    def unpacked(cls, packed: Float[Tensor, "n d+3"], level: int) -> "Inverted":
        """What was packed."""
        error, step, missed = packed[:, -3:].unbind(-1)
        return cls(packed[:, :-3], error, step, missed, level)

    def told(self) -> str | None:
        """One sentence on the latents that are not solved, by the worst of them; None where all are."""
        found = [fault for fault in self.faults if fault is not None]
        return f"{self._of_the_worst('Of', found)}." if found else None

    def _of_the_worst(self, of: str, found: Sequence[Fault]) -> str:
        return f"{of} {len(found)} of {len(self.x)} images {max(found, key=lambda fault: fault.size).sentence}"


def denoise(network: Denoiser, x: Latents, *, level: int, guidance: Guidance) -> Latents:
    """Take latents at a DDIM level down to level 0."""

    def predict(x: Latents, k: int) -> Latents:
        return network.guided_output(x, times(network.schedule, x, k), guidance)

    return descend(network.schedule, x, sampling_levels(level), predict)


def invert(
    network: Denoiser, x: Latents, *, level: int, guidance: Guidance, refinements: int, tolerance: float
) -> Inverted:
    """Take clean latents up to a DDIM level, such that `denoise` leads back.

    Args:
        network: the denoising network.
        x: clean latents.
        level: DDIM level to reach.
        guidance: conditioning, the same as at decoding.
        refinements: the most refinements of a step, at least 0 (0 is the published inversion, whose steps are not
            meant to be solved, so that none counts as unsolved).
        tolerance: relative change below which a latent's step is solved.
    """
    before: list[Latents] = []
    clean, schedule = x, network.schedule
    worst, where = x.new_zeros(len(x)), x.new_zeros(len(x))

    def raised(upper: Float[Tensor, "m d"], rows: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """The implicit equation's right-hand side: `x` of level k-1 raised to level k by what is said at `upper`."""
        t = times(schedule, upper, k)
        output = network.guided_output(upper, t, guidance.rows(rows))
        return signal * x[rows] + factor * schedule.driver(upper, output, t)

    for k in range(1, level + 1):
        signal, factor = schedule.step_up(k)
        if factor == 0:  # both levels are of one time
            continue
        first = x
        if refinements and before:  # the noise (or v) on a straight line through those of the last two steps
            first = signal * x + factor * (2 * before[-1] - before[0])
        upper = solve_fixed_point(raised, first, evaluations=refinements + 1, tolerance=tolerance)
        before = [*before[-1:], (upper.x - signal * x) / factor]
        finite = torch.isfinite(upper.x).all(-1)
        error = torch.where(finite, upper.error if refinements else 0.0, torch.inf)
        where = torch.where(error > worst, k, where)
        worst, x = torch.maximum(worst, error), upper.x
    worst = torch.where(torch.isfinite(x).all(-1), worst, torch.inf)
    missed = torch.zeros_like(worst)
    weak = schedule.signal_at_level(level) < LITTLE_SIGNAL**2
    doubtful = torch.isfinite(worst) & (weak | (worst > max(DOUBTFUL, tolerance)))
    if refinements and len(rows := doubtful.nonzero().flatten()):
        missed[rows] = _missed(network, clean[rows], x[rows], level=level, guidance=guidance.rows(rows))
    return Inverted(x, worst, where, missed, level)


def _missed(network: Denoiser, clean: Latents, x: Latents, *, level: int, guidance: Guidance) -> Float[Tensor, " n"]:
    """By how much of its norm the way back misses each latent; zero where that is little.

    What a step leaves grows on the way: by the noise over the signal where a network predicts the noise, and with how
    fast its output changes.
    """
    back = denoise(network, x, level=level, guidance=guidance)
    off = (back - clean).norm(dim=-1) / clean.norm(dim=-1)
    return torch.where(off < MISSED, 0.0, off.nan_to_num(torch.inf, torch.inf))


def times(schedule: NoiseSchedule, x: Latents, level: int) -> Times:
    """The diffusion time of a level, for every row."""
    return torch.full((len(x),), schedule.time(level), dtype=torch.long, device=x.device)


def sampling_levels(level: int, steps: int | None = None) -> list[int]:
    """The levels visited from `level` down to 0, all of them or evenly `steps` steps apart."""
    if steps is None or steps >= level:
        return list(range(level, -1, -1))
    if steps < 1:
        raise UserError(f"a method needs at least one sampling step; received {steps}")
    return [round(level * (steps - step) / steps) for step in range(steps + 1)]


@torch.no_grad()
def descend(schedule: NoiseSchedule, x: Latents, levels: Sequence[int], predict: Predict) -> Latents:
    """Takes latents from the first of the levels to the last."""
    for here, below in pairwise(levels):
        x = schedule.step_down(x, predict(x, here), times(schedule, x, here), below)
    return x


@torch.no_grad()
def ascend(schedule: NoiseSchedule, x: Latents, level: int, predict: Predict, *, refinements: int) -> Latents:
    """Takes clean latents up to a level, all rows in every evaluation, with a fixed number of refinements a step.

    `inversion.invert` refines row by row until each is solved; rows that attend to one another must stay together.
    """
    for k in range(1, level + 1):
        signal, factor = schedule.step_up(k)
        upper, t = x, times(schedule, x, k)
        for _ in range(refinements + 1):
            upper = signal * x + factor * schedule.driver(upper, predict(upper, k), t)
        x = upper
    return x


class Found(NamedTuple):
    """Where each row got to, and how far from a fixed point: `|g(x) - x| / |g(x)|` of the iterate before it."""

    x: Latents
    error: Float[Tensor, " n"]


def solve_fixed_point(
    function: Callable[[Tensor, Tensor], Tensor], start: Latents, *, evaluations: int, tolerance: float
) -> Found:
    """The fixed point `x = g(x)` of each row by Anderson mixing, or its latest iterate after too many evaluations.

    With the residual `f = g(x) - x` and the differences `dF`, `dG` of the last iterates' `f` and `g` to the newest
    ones, the next iterate is `g - dG c` with the `c` that makes `|f - dF c|` least. One iterate alone gives the plain
    step `x <- g(x)`. Mixing matters where the plain step contracts slowly: it needs a third of the evaluations there.

    Args:
        function: `g` at the given points [m d], which belong to the rows of the given numbers [m].
        start: first iterate of each row.
        evaluations: the most evaluations of a row, at least 1; with 1 the result is `g(start)`.
        tolerance: a row is solved once `|g(x) - x| < tolerance |g(x)|`.

    References:
        Walker, Ni 2011, Anderson acceleration for fixed-point iterations.
    """
    result, errors = start.clone(), start.new_full((len(start),), torch.inf)
    rows = torch.arange(len(start), device=start.device)
    x, history = start, start.new_empty(0, 2, *start.shape)
    for _ in range(evaluations):
        g = function(x, rows)
        history = torch.cat([history[-_MEMORY:], torch.stack([g, g - x])[None]])
        # NaN counts as unsolved and is left for the caller to see.
        change, size = (g - x).norm(dim=-1), g.norm(dim=-1)
        unsolved = ~(change < tolerance * size)
        x = torch.where(unsolved[:, None], _mix(history), g)
        result = x if len(rows) == len(result) else result.index_copy(0, rows, x)
        errors = errors.index_copy(0, rows, change / size)
        # Solved rows leave, so that no row depends on how long another takes; nothing else is read from the device.
        left = [row for row, open_still in enumerate(unsolved.tolist()) if open_still]
        if not left:
            break
        if len(left) < len(rows):
            kept = torch.tensor(left, device=rows.device)
            rows, x, history = rows[kept], x[kept], history[:, :, kept]
    return Found(result, errors)


def _mix(history: Float[Tensor, "m 2 n d"]) -> Float[Tensor, "n d"]:
    """The next iterate of each row from its last values `g` and residuals `f`, newest last."""
    g, f = history[-1].unbind(0)
    if len(history) == 1:
        return g
    dg, df = (history[-1:] - history[:-1]).double().movedim(2, 0).unbind(2)
    gram = df @ df.mT
    ridge = _RIDGE * gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    # Not `solve`: it would raise for the whole batch when one row is not finite.
    c: Tensor = torch.linalg.solve_ex(gram, df @ f.double()[..., None]).result
    return g - (c.mT @ dg)[:, 0].to(g)
