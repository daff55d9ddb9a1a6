"""The real images that paths are held against."""

from dataclasses import dataclass

import torch
from tqdm import tqdm

from latent_geodesics.data import in_batches, read_image
from latent_geodesics.data.collection import read_collection
from latent_geodesics.methods.departure import encode_images
from latent_geodesics.methods.encoding import Setting
from latent_geodesics.metrics.plausibility import RealLatents
from latent_geodesics.models.accelerator import one_thread


@dataclass(frozen=True, kw_only=True)
class ReferenceImages:
    """Names real images.

    Args:
        images: A folder, or a manifest of images or of pairs.
        count: How many of them, evenly spread over the list; at least 4.
    """

    images: str
    count: int = 32

    def latents(self, setting: Setting, *, batch_size: int, quiet: bool) -> RealLatents:
        """The images, inverted some at a time.

        Raises:
            UserError: when they cannot be read, or are fewer than 4.
        """
        listed, model = read_collection(self.images, frames=2), setting.model
        count = max(0, min(self.count, len(listed)))
        chosen = [listed[step * len(listed) // count] for step in range(count)]
        found = [] if chosen else [torch.zeros(0, model.dimension)]
        with one_thread():
            for batch in tqdm(in_batches(chosen, batch_size), desc="reference images", mininterval=1, disable=quiet):
                images = torch.stack([read_image(image.file, size=model.image_size) for image in batch])
                found.append(encode_images(setting, images, [image.prompt for image in batch]).latents)
            return RealLatents(model=model, latents=torch.cat(found), tau=setting.tau)
