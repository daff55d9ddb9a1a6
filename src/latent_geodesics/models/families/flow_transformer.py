"""What the transformers that predict the velocity of a flow have in common."""

from typing import Any, ClassVar

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.families.base import Components, Family, reduction_factor

PATCH = 2
"""The side in latents of the autoencoder of what a transformer takes as one token."""


class FlowTransformer(Family):
    """A family whose network is a transformer.

    Attributes:
        packed: Whether the channels of a token's latents are put side by side before the network sees them.
    """

    network = "transformer"
    packed: ClassVar[bool] = True

    def problems(self, components: Components) -> list[str]:  # noqa: D102
        network, latents = components.network.config, components.vae.config.latent_channels
        wanted, what = (PATCH**2 * latents, "two by two") if self.packed else (latents, "its")
        returned = (network.get("out_channels") or network.in_channels) * (network.patch_size**2 if self.packed else 1)
        sides = (("reads", network.in_channels), ("returns", returned))
        return super().problems(components) + [
            f"its transformer {side} {channels} channels and {what} latents have {wanted}"
            for side, channels in sides
            if channels != wanted
        ]

    def multiple(self, components: Components) -> int:  # noqa: D102
        return reduction_factor(components.vae) * PATCH

    def sample_size(self, components: Components) -> Any:
        """128 latents, the pipelines' default, where the network's settings do not say."""
        return components.network.config.get("sample_size", 128)


def image_shift(config: Any, tokens: int) -> float:
    """`mu`, the shift of a schedule at images of so many tokens: linear between those of two sizes."""
    usual = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
    found = {name: config.get(name, value) for name, value in usual.items()}
    low, high, base, most = found.values()
    if None in found.values() or low == high:
        raise UserError(
            f"the model's scheduler does not say how it shifts its noise: give {', '.join(found)}, the first "
            "two being different"
        )
    return float(base + (most - base) * (tokens - low) / (high - low))
