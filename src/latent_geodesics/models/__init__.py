"""Latent diffusion models: encoding, decoding, text conditioning and score fields."""

from typing import TYPE_CHECKING

from latent_geodesics.core.lazy import names_on_demand

if TYPE_CHECKING:
    from latent_geodesics.models.latent_model import LatentModel
    from latent_geodesics.models.loading import load_model, random_model
    from latent_geodesics.models.scores import Conditional, Contrastive, Guided, Renoised, Score, Unconditional
    from latent_geodesics.models.typical_range import TypicalRange, measure_typical_range

__all__ = [
    "Conditional", "Contrastive", "Guided", "LatentModel", "Renoised", "Score", "TypicalRange", "Unconditional",
    "load_model", "measure_typical_range", "random_model",
]  # fmt: skip

__getattr__, __dir__ = names_on_demand(__name__)
