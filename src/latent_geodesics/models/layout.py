"""The memory layout in which a U-Net is fastest on the device at hand: measured once, then remembered.

Convolutions are faster in one order of the axes or the other (channels first, as tensors are by default, or last)
depending on processor, library, precision and sizes. Both give the same numbers up to rounding, so that a choice is
kept in a file: a run that is gone on with, and every process of a run, has the same one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.models.accelerator import is_compiled, wait
from latent_geodesics.models.network import Denoiser
from latent_geodesics.models.precision import machine_name
from latent_geodesics.models.store import content_key, measured_once

_SECONDS = 0.3
_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A memory layout, and the U-Net's evaluations a second that it was chosen by.

    Attributes:
        channels_last: Whether the weights lie channels last.
        rates: Layout -> evaluations a second; empty where nothing was measured.
    """

    channels_last: bool = False
    rates: dict[str, float] = field(default_factory=dict)

    def apply(self, unet: Any) -> None:
        """Brings a U-Net's weights into this layout."""
        unet.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)


def fastest_layout(
    network: Denoiser, *, condition: Callable[[], Float[Tensor, "1 l c"]], folder: Path | None
) -> Layout:
    """The layout for a network: from the folder, or measured and put there.

    Args:
        network: The network, whose layout is left as the one that is returned.
        condition: Gives the embedding of a text.
        folder: Where choices are remembered; None keeps the layout that the weights were loaded in, unmeasured, and so
            do a network that is compiled and one that has no convolutions to speak of.
    """
    # A compiled network would compile each of them.
    if folder is None or is_compiled(network.module) or not network.family.controlled:
        return Layout()
    file = folder / f"layout-{_key(network)[:24]}.json"
    layout = measured_once(file, Layout, lambda: _measured(network, condition()))
    layout.apply(network.module)
    return layout


def _key(network: Denoiser) -> str:
    module = network.module
    device = machine_name(module.device)
    sizes = sorted((name, tuple(value.shape)) for name, value in module.state_dict().items())
    return content_key(device, torch.__version__, str(module.dtype), network.shape, sizes)


def _measured(network: Denoiser, condition: Tensor) -> Layout:
    """Both layouts in turn, several times, the best of each: what else the machine does only ever slows a call."""
    spent = network.spent
    rows = max(1, min(network.batch_size, int(_SECONDS * _rate(network, condition, 1))))
    best = {"channels_first": 0.0, "channels_last": 0.0}
    for _ in range(_ROUNDS):
        for name in best:
            Layout(channels_last=name == "channels_last").apply(network.module)
            best[name] = max(best[name], _rate(network, condition, rows))
    network.spent = spent  # not part of any run's cost
    return Layout(channels_last=best["channels_last"] > best["channels_first"], rates=best)


def _rate(network: Denoiser, condition: Tensor, rows: int) -> float:
    device = network.module.device
    x = torch.zeros(rows, network.dimension, device=device)
    t = torch.full((rows,), int(network.schedule.times[-1]), dtype=torch.long, device=device)
    condition = condition.to(device).expand(rows, -1, -1)
    network.noise(x, t, condition)  # the first call of a kind is slow
    wait(device)
    started = time.perf_counter()
    network.noise(x, t, condition)
    wait(device)
    return rows / (time.perf_counter() - started)
