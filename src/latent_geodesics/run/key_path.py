"""A smooth path through several images from Python, as the experiment `keys` makes it with `smooth=true`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.keys import KeyData, read_keys
from latent_geodesics.methods.base import status_sentence
from latent_geodesics.methods.chains import draw_chain, has_path, meeting
from latent_geodesics.models import LatentModel
from latent_geodesics.models.accelerator import one_thread
from latent_geodesics.run.interpolation import for_a_person, made_morphs
from latent_geodesics.run.results import unknown_images


@dataclass(frozen=True, kw_only=True)
class KeyPath:
    """A path through key images.

    Attributes:
        images: The sequence in [0, 1]; every key is one of them.
        statuses: How each leg ended, in a word.
        evaluations: How often the score was evaluated.
        seconds: What it took to find the sequence and to decode it.
        keys_db: PSNR in dB of the key that the model gives back worst.
    """

    images: Float[Tensor, "n 3 h w"]
    statuses: tuple[str, ...]
    evaluations: int
    seconds: float
    keys_db: float

    @property
    def sentence(self) -> str:
        """How it ended and what to do, for a person."""
        ended = [status_sentence(status) for status in dict.fromkeys(self.statuses)]
        return " ".join(filter(None, [*ended, unknown_images("this sequence", self.keys_db)]))


def path_through(
    files: Sequence[str | Path],
    *,
    model: LatentModel,
    method: str,
    prompts: Sequence[str],
    frames: int,
    tau: float,
    alpha_d: float,
    seed: int = 0,
    settings: Sequence[str] = (),
) -> KeyPath:
    """One path through images in their order, evenly in time, with one velocity at each inner one.

    Args:
        files: The key images, two or more.
        model: The model.
        method: A method of `conf/method/` that has a path of latents.
        prompts: What each image shows.
        frames: Images between two neighbours, both included; at least 3.
        tau: As of `interpolate`.
        alpha_d: As of `interpolate`.
        seed: As of `interpolate`.
        settings: As of `interpolate`.

    Raises:
        UserError: for a method without a path, and as `interpolate` does.
    """
    given = {"tau": tau, "alpha_d": alpha_d, "frames": frames, "seed": seed}
    arguments = [f"method=[{method}]", *(f"{name}={value}" for name, value in given.items())]
    try:
        sequence = KeyData(keys=list(map(str, files)), prompts=list(prompts)).sequences[0]
        morphs = made_morphs([*arguments, *settings], model=model, method=method)
        (chosen,) = morphs.methods.values()
        if not has_path(chosen):
            raise UserError(
                f"{method} makes the frames of one pair at a time and has no path that could be smooth: choose another "
                "method, or no spline."
            )
        with one_thread():
            keys = read_keys([sequence], size=morphs.model.image_size)
            encoded = morphs.encode(keys.legs, seed=seed)
            legs = meeting(encoded, loop=False)
            chain, images, cost = draw_chain(chosen, legs, sequence, [frames - 1] * len(keys.legs), smooth=True)
    except Exception as error:
        raise for_a_person(error) from error
    if not bool(torch.isfinite(images).all()):
        raise UserError(f"{method} made no sequence of these images: try a larger tau or a smaller alpha.")
    return KeyPath(
        images=images,
        statuses=chain.statuses,
        evaluations=cost["evaluations"],
        seconds=cost["seconds"],
        keys_db=float(encoded.given_back.min()),
    )
