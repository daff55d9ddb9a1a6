"""Families of models, found by the pipeline that wrote a folder."""

from latent_geodesics.models.families.base import Components, Family, reduction_factor
from latent_geodesics.models.families.flux import Flux
from latent_geodesics.models.families.flux2 import Flux2Klein
from latent_geodesics.models.families.stable_diffusion import StableDiffusion, StableDiffusionXL
from latent_geodesics.models.families.stable_diffusion_3 import StableDiffusion3

__all__ = ["FAMILIES", "Components", "Family", "reduction_factor"]

FAMILIES: tuple[Family, ...] = (StableDiffusion(), StableDiffusionXL(), StableDiffusion3(), Flux(), Flux2Klein())
