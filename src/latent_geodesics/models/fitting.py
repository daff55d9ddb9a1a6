"""Fitting a few parameters through a network that works in any precision.

The parameters are *masters*: they, their gradients and AdamW's state are float32 whatever the network computes in. In
half precision a step would be lost in the rounding of what it moves, and AdamW's epsilon, 1e-8, is zero in float16.

On their way back through a network in float16 gradients may leave its range: above 65,504 they are infinite, below
6e-8 they are zero. A loss is therefore multiplied by a scale before and its gradients are divided by it after. The
scale is halved for as long as they are not finite, and doubled after a hundred steps in which they were. It is
`torch.amp.GradScaler` in two respects different: a step that overflows is taken again at a smaller scale where that
one leaves it out, so that steps and draws are those of float32; and each of several losses has a scale of its own, so
that no result depends on what else is fitted beside it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.network import Denoiser

WEIGHT_DECAY = 0.01
Parameters = Sequence[Sequence[Tensor]]

_FIRST, _LEAST, _MOST = 2.0**10, 2.0**-10, 2.0**24
_CALM = 100
_NARROW = 1e6  # the largest number of a precision whose range has to be minded; float16's is 65,504


@dataclass(frozen=True, kw_only=True)
class NoisyDraws:
    """Draws of (image, t, eps), float32 as everything outside the network."""

    which: Int[Tensor, " n"]  # the number of the image that each is of
    x0: Float[Tensor, "n d"]  # its clean latents
    t: Int[Tensor, " n"]  # diffusion times
    noise: Float[Tensor, "n d"]  # what is added

    @classmethod
    def sample(cls, latents: Float[Tensor, "m d"], count: int, *, times: int, rng: torch.Generator) -> "NoisyDraws":
        """Draws of any of m images at any of so many times; the generator is the CPU's wherever the latents are."""
        which, t = (torch.randint(size, (count,), generator=rng).to(latents.device) for size in (len(latents), times))
        noise = torch.randn(count, latents.shape[-1], generator=rng).to(latents)
        return cls(which=which, x0=latents[which], t=t, noise=noise)

    @classmethod
    def join(cls, parts: Sequence["NoisyDraws"]) -> "NoisyDraws":
        """The draws of several, one after another."""
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})

    def errors(self, network: Denoiser, condition: Float[Tensor, "n l c"]) -> Float[Tensor, " n"]:
        """The squared errors of the network's output under embeddings, summed over each latent in float32.

        Summed, not averaged: AdamW does not mind the scale, and in half precision the mean's gradients would vanish.
        """
        schedule = network.schedule
        output = network.output(schedule.diffuse(self.x0, self.noise, self.t), self.t, condition)
        return (output - schedule.target(self.x0, self.noise, self.t)).float().square().sum(-1)


class Masters:
    """AdamW for groups of float32 parameters, each group with a loss that no other group has a part in.

    The network computes in the precision; the weight decay is AdamW's decoupled one.
    """

    def __init__(
        self, groups: Parameters, *, precision: torch.dtype, learning_rate: float, weight_decay: float = WEIGHT_DECAY
    ) -> None:
        self.groups = [list(group) for group in groups]
        self._all = [parameter for group in self.groups for parameter in group]
        self._optimizer = torch.optim.AdamW(self._all, lr=learning_rate, weight_decay=weight_decay)
        self._narrow = _is_narrow(precision)
        self.scales = [_FIRST if self._narrow else 1.0] * len(self.groups)
        self._calm = [0] * len(self.groups)

    def step(self, losses: Float[Tensor, " g"], *, divisor: float = 1.0) -> bool:
        """Takes a step down the loss of each group; gradients are divided by the divisor.

        False, with nothing changed, when a loss is not finite, or a gradient at whatever scale.
        """
        while True:
            scales = losses.new_tensor(self.scales)
            gradients = torch.autograd.grad(
                losses,
                self._all,
                grad_outputs=scales,
                retain_graph=self._narrow,  # to go back once more without another forward pass
                allow_unused=True,
                materialize_grads=True,
            )
            finite, sound = self._finite(losses, gradients)
            if all(finite):
                break
            if not sound or not self._lower(finite):
                return False
        gone = iter(gradients)
        for group, scale in zip(self.groups, self.scales, strict=True):
            for parameter in group:
                parameter.grad = next(gone) / (scale * divisor)
        self._optimizer.step()
        self._raise()
        return True

    def _finite(self, losses: Float[Tensor, " g"], gradients: Sequence[Tensor]) -> tuple[list[bool], bool]:
        """Whether each group's gradients are finite, and whether all losses are; the device is waited for once."""
        gone, norms = iter(gradients), []
        for group in self.groups:
            norms.append(torch.nn.utils.get_total_norm([next(gone) for _ in group]))
        *finite, sound = torch.stack([*torch.stack(norms).isfinite(), losses.detach().isfinite().all()]).tolist()
        return finite, sound

    def _lower(self, finite: Sequence[bool]) -> bool:
        """Halves the scale of the groups whose gradients are not finite; False where one is the least already."""
        for place, fine in enumerate(finite):
            if not fine:
                self.scales[place], self._calm[place] = self.scales[place] / 2, 0
        return self._narrow and min(self.scales) >= _LEAST

    def _raise(self) -> None:
        """Doubles the scale of the groups that have kept theirs for a while."""
        for place in range(len(self.groups) if self._narrow else 0):
            self._calm[place] += 1
            if self._calm[place] == _CALM:
                self.scales[place], self._calm[place] = min(2 * self.scales[place], _MOST), 0


def fit(
    name: str,  # what the messages call it, as the subject of a sentence
    groups: Parameters,  # the parameters of each loss, float32
    *,
    network: Denoiser,  # what the losses go through
    steps: int,  # optimisation steps
    learning_rate: float,  # step size of AdamW
    draw: Callable[[], NoisyDraws],  # makes the draws of a step
    losses: Callable[[NoisyDraws], Float[Tensor, " g"]],  # the losses on them
    # The same as if nothing had been fitted, which is asked for when a fit fails, to tell why
    without: Callable[[NoisyDraws], Float[Tensor, " g"]],
    divisor: float = 1.0,  # what the losses' gradients are divided by
    progress: bool | None = None,  # whether to show a bar; None shows it on a terminal only
) -> None:
    """Moves parameters, in place; gradients must be enabled.

    Raises:
        UserError: when a loss or its gradients are not finite, or the parameters are not in the end.
    """
    precision = network.module.dtype
    masters = Masters(groups, precision=precision, learning_rate=learning_rate)
    for step in tqdm(range(steps), desc=name, disable=None if progress is None else not progress, leave=False):
        draws = draw()
        found = losses(draws)
        if masters.step(found, divisor=divisor):
            continue
        with torch.no_grad():
            if not _all_finite([*_weights(network, groups), draws.x0]):
                cause = "weights of the model, or latents of the image, are not finite numbers; take others"
            elif not bool(without(draws).isfinite().all()):
                cause = _overflow("values without anything fitted", precision)
            elif bool(found.isfinite().all()) and (step == 0 or _is_narrow(precision)):
                cause = _overflow("gradients, though not its values,", precision)
            else:
                cause = _divergence(step, learning_rate, precision)
        raise UserError(f"{name} failed at step {step + 1}: {cause}")
    if not _all_finite(parameter for group in groups for parameter in group):
        raise UserError(f"{name} failed at step {steps}: {_divergence(steps, learning_rate, precision)}")


def _divergence(steps: int, learning_rate: float, precision: torch.dtype) -> str:
    wider = ", or load the model with dtype=bfloat16 or float32" if _is_narrow(precision) else ""
    return (
        f"{steps} steps of {learning_rate:g} have taken what is fitted so far that the network is no longer finite; "
        f"take a smaller learning_rate{wider}"
    )


def _is_narrow(precision: torch.dtype) -> bool:
    """Whether numbers of ordinary size leave the range of a precision."""
    return torch.finfo(precision).max < _NARROW


def _overflow(what: str, precision: torch.dtype) -> str:
    wider = "dtype=bfloat16 or float32" if _is_narrow(precision) else "dtype=float32, or take another model"
    name = str(precision).removeprefix("torch.")
    return f"the network's {what} leave the range of {name}; load the model with {wider}"


def _weights(network: Denoiser, fitted: Parameters) -> Iterator[Tensor]:
    """The network's weights, but for those that are fitted."""
    known = {id(parameter) for group in fitted for parameter in group}
    return (weight for weight in network.module.parameters() if id(weight) not in known)


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
