"""The precision in which a network runs, and its memory layout: the fastest, measured once, then remembered.

Half the bits are twice the speed, and leave an error in the predicted noise: about 5e-4 of it in float16 and in TF32
(ten bits of mantissa), ten times that in bfloat16 (seven). The geodesic equation cannot be solved to less than that
share of the score, so that what is chosen here is what `LatentField.resolution` measures of the score itself.

Convolutions are faster in one order of the axes or the other (channels first, as tensors are by default, or last)
depending on processor, library, precision and sizes. Both give the same numbers up to rounding, so that a choice is
kept in a file: a run that is gone on with, and every process of a run, has the same one.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.models.accelerator import device_name, is_compiled, machine_cores, processor, wait
from latent_geodesics.models.families import Family
from latent_geodesics.models.store import content_key, measured_once, weights_hash

if TYPE_CHECKING:
    from latent_geodesics.models.network import Denoiser

PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What each precision keeps its weights in; TF32 rounds the factors of products alone, on NVIDIA's tensor cores."""

NOMINAL_ERROR = {"float32": 0.0, "tf32": 6e-4, "float16": 6e-4, "bfloat16": 5e-3}
"""The relative error of the noise that is usual of a precision, where nothing was measured."""

LARGEST_ERROR = 1e-3
"""The largest relative error of the noise in a precision that is chosen, not asked for."""

PIXELS = 8
"""Pixels along one side of a latent, which some networks are told; here it only has to be usual."""
USUAL_SIDE = 64
"""Latents along one side, where a network does not say what it was trained on."""
_ROWS, _ROUNDS, _TIMES = 2, 3, (200, 500, 800)
_SECONDS = 0.3


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A precision, and what it was chosen by."""

    dtype: str = "float32"  # one of `PRECISIONS`
    # Precision -> evaluations a second; empty where nothing was measured
    rates: dict[str, float] = field(default_factory=dict)
    # Precision -> relative error of the noise; infinite where it overflowed
    errors: dict[str, float] = field(default_factory=dict)


@contextmanager
def products_in(precision: str, device: torch.device) -> Iterator[None]:
    """Lets products of float32 numbers on a CUDA device be rounded to TF32, or not; by default torch rounds some."""
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def machine_name(device: torch.device) -> str:
    """What a measurement on a device is kept under: the accelerator's name, or the processor's and its cores."""
    return f"{processor()}, {machine_cores()} cores" if device.type == "cpu" else device_name(device)


def fitting_precision(
    unet: Any, family: Family, *, condition: Float[Tensor, "1 l c"], folder: Path | None
) -> Precision:
    """The precision for a U-Net that is loaded in float32: from the folder, or measured and put there.

    The network stays as it is. Without a folder nothing is measured: float16 on an accelerator, float32 on a CPU.
    """
    device = torch.device(unet.device)
    candidates = _candidates(device)
    if folder is None or len(candidates) == 1:
        return Precision(dtype=family.usual_precision(device))
    key = content_key(machine_name(device), torch.__version__, candidates, weights_hash({"unet": unet}, folder=folder))
    file = folder / f"precision-{key[:24]}.json"
    return measured_once(file, Precision, lambda: _measured(unet, family, condition, candidates))


def _candidates(device: torch.device) -> list[str]:
    """The precisions that a device multiplies in hardware, float32 first."""
    if device.type == "cpu":
        known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return ["float32", *(["bfloat16"] if any(tells is not None and tells() for tells in known) else [])]
    if device.type != "cuda":
        return ["float32", "float16"]
    newer = torch.cuda.get_device_capability(device) >= (8, 0)
    return ["float32", "float16", *(["tf32", "bfloat16"] if newer else [])]


@torch.no_grad()
def _measured(unet: Any, family: Family, condition: Tensor, candidates: list[str]) -> Precision:
    """The fastest candidate whose noise is near enough to float32's."""
    config, device = unet.config, torch.device(unet.device)
    size = config.sample_size or USUAL_SIDE
    sides = [size] * 2 if isinstance(size, int) else list(size)
    generator = torch.Generator().manual_seed(0)
    # Noisy latents have unit variance at every time.
    x = torch.randn(_ROWS * len(_TIMES), config.in_channels, *sides, generator=generator).to(device)
    t = torch.tensor(_TIMES, device=device).repeat(_ROWS)
    states = condition.to(device).expand(len(x), -1, -1)
    outputs, rates, errors = {}, {}, {}
    for name in candidates:
        # Torch's own `to`: that of diffusers warns of a loss that is what is measured here.
        dtype = PRECISIONS[name]
        network = unet if dtype is torch.float32 else torch.nn.Module.to(deepcopy(unet), dtype)
        with products_in(name, device):
            asked = partial(family.predict, network, x.to(dtype), t, states.to(dtype), PIXELS)
            outputs[name] = asked().float()
            rates[name] = len(x) / min(_seconds(asked, device) for _ in range(_ROUNDS))
        error = float((outputs[name] - outputs["float32"]).norm() / outputs["float32"].norm())
        errors[name] = error if error < float("inf") else float("inf")  # NaN is an overflow too
    sound = [name for name in candidates if errors[name] <= LARGEST_ERROR]
    return Precision(dtype=max(sound, key=rates.__getitem__), rates=rates, errors=errors)


def _seconds(asked: Callable[[], Tensor], device: torch.device) -> float:
    started = time.perf_counter()
    asked()
    wait(device)
    return time.perf_counter() - started


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A memory layout, and the U-Net's evaluations a second that it was chosen by."""

    channels_last: bool = False  # whether the weights lie channels last
    # Layout -> evaluations a second; empty where nothing was measured
    rates: dict[str, float] = field(default_factory=dict)

    def apply(self, unet: Any) -> None:
        """Brings a U-Net's weights into this layout."""
        unet.to(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)


def fastest_layout(
    network: "Denoiser", *, condition: Callable[[], Float[Tensor, "1 l c"]], folder: Path | None
) -> Layout:
    """The layout for a network, which it has from then on: from the folder, or measured and put there.

    Without a folder it keeps the layout that the weights were loaded in, unmeasured, and so do a network that is
    compiled and one that has no convolutions to speak of. `condition` gives the embedding of a text.
    """
    # A compiled network would compile each of them.
    if folder is None or is_compiled(network.module) or not network.family.controlled:
        return Layout()
    module = network.module
    sizes = sorted((name, tuple(value.shape)) for name, value in module.state_dict().items())
    key = content_key(machine_name(module.device), torch.__version__, str(module.dtype), network.shape, sizes)
    layout = measured_once(folder / f"layout-{key[:24]}.json", Layout, lambda: _measured_layout(network, condition()))
    layout.apply(module)
    return layout


def _measured_layout(network: "Denoiser", condition: Tensor) -> Layout:
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


def _rate(network: "Denoiser", condition: Tensor, rows: int) -> float:
    device = network.module.device
    x = torch.zeros(rows, network.dimension, device=device)
    t = torch.full((rows,), int(network.schedule.times[-1]), dtype=torch.long, device=device)
    asked = partial(network.noise, x, t, condition.to(device).expand(rows, -1, -1))
    _seconds(asked, device)  # the first call of a kind is slow
    return rows / _seconds(asked, device)
