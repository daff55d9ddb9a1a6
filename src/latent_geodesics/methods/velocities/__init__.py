"""Initial velocities: how a path leaves an image, behind one seam."""

from latent_geodesics.methods.velocities.base import InitialVelocity
from latent_geodesics.methods.velocities.boundary import BeyondSecond
from latent_geodesics.methods.velocities.change_of_prompt import ChangeOfPrompt
from latent_geodesics.methods.velocities.from_file import FromFile
from latent_geodesics.methods.velocities.random_direction import RandomDirection
from latent_geodesics.methods.velocities.toward_image import TowardImage

__all__ = ["BeyondSecond", "ChangeOfPrompt", "FromFile", "InitialVelocity", "RandomDirection", "TowardImage"]
