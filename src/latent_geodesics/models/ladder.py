"""A denoising network in the precision that was chosen, and in float32 for what that precision does not resolve.

The second is loaded when it is first needed: to measure, once, how far the first is off; to finish a path for which
more is asked than the first resolves; to take over where it overflows; and to invert images.
"""

import logging
from collections.abc import Callable
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.fields import Resolution
from latent_geodesics.models.latent_field import LatentField
from latent_geodesics.models.layout import Layout
from latent_geodesics.models.network import Denoiser
from latent_geodesics.models.precision import machine_name
from latent_geodesics.models.store import content_key, measured_once

log = logging.getLogger(__name__)

_MOST_POINTS = 8


class Ladder:
    """The network, and the same in float32.

    Args:
        network: the network in the precision chosen.
        reload: gives its U-Net in float32, on its device; None takes the weights at hand, as they were rounded.
        layout: the memory layout of both.
        fingerprint: gives what identifies the network's weights.
        folder: where resolutions are remembered; None for this object's life alone.
    """

    def __init__(
        self,
        network: Denoiser,
        *,
        reload: Callable[[], Any] | None,
        layout: Layout,
        fingerprint: Callable[[], str],
        folder: Path | None,
    ) -> None:
        self._network, self._reload, self._layout = network, reload, layout
        self._fingerprint, self._folder = fingerprint, folder
        self._known: dict[str, Resolution] = {}

    @property
    def networks(self) -> tuple[Callable[[], Denoiser], ...]:
        """What gives each network, the one chosen first; it alone where that is float32 already."""
        return (lambda: self._network, *([lambda: self.finer] if self._network.rounding else []))

    @cached_property
    def finer(self) -> Denoiser:
        """The network in float32.

        Raises:
            UserError: when the device's memory does not hold it beside the other.
        """
        coarse = self._network
        if coarse.precision == "tf32":
            return coarse.beside(coarse.module, "float32")
        log.info("Loading the network in float32 as well, for what %s does not resolve.", coarse.precision)
        try:
            unet = deepcopy(coarse.module).float() if self._reload is None else self._reload()
        except torch.OutOfMemoryError:
            raise UserError(
                f"the device has no room for the network in float32 beside {coarse.precision}, which the tolerance "
                "asked for needs: leave the solver's tolerance at null, or load the model with dtype=float32"
            ) from None
        self._layout.apply(unet)
        return coarse.beside(unet.requires_grad_(False).eval(), "float32")

    def resolve(self, field: LatentField, x: Float[Tensor, "p n d"], u: Float[Tensor, "p n"]) -> Resolution:
        """How well a field of the network resolves its score at a few of the points; measured once, then remembered."""
        name = repr((field.setting, self._network.precision))
        if name not in self._known:
            self._known[name] = self._remembered(name, field, x, u)
        return self._known[name]

    def _remembered(self, name: str, field: LatentField, x: Tensor, u: Tensor) -> Resolution:
        if self._folder is None:
            return self._measured(field, x, u)
        key = content_key(self._fingerprint(), machine_name(x.device), torch.__version__, name)
        file = self._folder / f"resolution-{key[:24]}.json"
        return measured_once(file, Resolution, lambda: self._measured(field, x, u))

    def _measured(self, field: LatentField, x: Tensor, u: Tensor) -> Resolution:
        """The mean of `|s~ - s| / |s|` over the points of the first pairs, as they occur."""
        precision = self._network.precision
        pairs = torch.arange(max(1, min(len(x), _MOST_POINTS // x.shape[1])))
        spent = self._network.spent
        try:
            some = field.restrict(pairs)
            finer = some.finer()
            assert finer is not None
            found, true = (one.score(x[: len(pairs)], u[: len(pairs)]) for one in (some, finer))
        except (UserError, torch.OutOfMemoryError):
            log.warning("The precision of %s cannot be measured on this device: the usual one is taken.", precision)
            return Resolution(error=self._network.rounding, precision=precision)
        finally:
            self._network.spent = spent  # not part of any run's cost
        errors = (found - true).norm(dim=-1) / true.norm(dim=-1)
        error = float(errors.nanmean())
        if not error < float("inf"):
            return Resolution(error=self._network.rounding, precision=precision)
        return Resolution(error=error, precision=precision)
