"""The precision in which a U-Net runs on a CPU: float32, or bfloat16 where that is faster and near enough.

Newer processors multiply bfloat16 in hardware. Its eight bits of mantissa leave an error in the predicted noise, and
the geodesic equation cannot be solved to less than that share of the score. Both are measured once, then remembered.
"""

import time
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from latent_geodesics.models.fingerprints import weights_hash
from latent_geodesics.models.machine import machine_cores, measured_once, processor
from latent_geodesics.models.tensor_cache import content_key

__all__ = ["TOLERANCE", "Precision", "fitting_precision"]

TOLERANCE = 3e-4
"""The largest relative error of the noise in bfloat16: the relative residual to which the default solver solves."""

_ROWS, _ROUNDS, _TIME = 2, 3, 500


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A precision, and what it was chosen by.

    Attributes:
        dtype: `float32` or `bfloat16`; another where it was asked for.
        rates: Precision -> evaluations a second; empty where nothing was measured.
        error: Relative error of the noise in bfloat16; None where it was not measured.
    """

    dtype: str = "float32"
    rates: dict[str, float] = field(default_factory=dict)
    error: float | None = None


def fitting_precision(unet: Any, *, folder: Path | None) -> Precision:
    """The precision for a U-Net in float32 on the CPU: from the folder, or measured and put there.

    Args:
        unet: The network, which stays as it is.
        folder: Where choices are remembered; None is float32, unmeasured, and so is a processor without bfloat16.
    """
    if folder is None or not _multiplies_bfloat16():
        return Precision()
    weights = weights_hash({"unet": unet}, folder=folder)
    key = content_key(processor(), machine_cores(), torch.__version__, weights)
    return measured_once(folder / f"precision-{key[:24]}.json", Precision, lambda: _measured(unet))


def _multiplies_bfloat16() -> bool:
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(tells is not None and tells() for tells in known)


def _in_half(unet: Any) -> Any:
    """A copy, by torch's own `to`: that of diffusers warns of a loss that is what is measured here."""
    return torch.nn.Module.to(deepcopy(unet), torch.bfloat16)


@torch.no_grad()
def _measured(unet: Any) -> Precision:
    config = unet.config
    sides = [config.sample_size] * 2 if isinstance(config.sample_size, int) else list(config.sample_size)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_ROWS, config.in_channels, *sides, generator=generator)
    states = torch.randn(_ROWS, 1, config.cross_attention_dim, generator=generator)
    t = torch.full((_ROWS,), _TIME)
    outputs, rates = {}, {}
    for name, network in (("float32", unet), ("bfloat16", _in_half(unet))):
        dtype = network.dtype
        outputs[name] = network(x.to(dtype), t, encoder_hidden_states=states.to(dtype)).sample.float()
        fastest = float("inf")
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            network(x.to(dtype), t, encoder_hidden_states=states.to(dtype))
            fastest = min(fastest, time.perf_counter() - started)
        rates[name] = _ROWS / fastest
    error = float((outputs["bfloat16"] - outputs["float32"]).norm() / outputs["float32"].norm())
    taken = error <= TOLERANCE and rates["bfloat16"] > rates["float32"]
    return Precision(dtype="bfloat16" if taken else "float32", rates=rates, error=error)
