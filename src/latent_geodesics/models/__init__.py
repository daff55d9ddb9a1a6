"""Latent diffusion models: encoding, decoding, text conditioning and score fields."""

from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.models.loading import load_model
from latent_geodesics.models.random_model import random_model
from latent_geodesics.models.renoising import Renoised
from latent_geodesics.models.scores import Conditional, Contrastive, Guided, Score, Unconditional

__all__ = [
    "Conditional",
    "Contrastive",
    "Guided",
    "LatentModel",
    "Renoised",
    "Score",
    "Unconditional",
    "load_model",
    "random_model",
]
