"""What the page of a sequence says and shows."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.data import KeySequence
from latent_geodesics.data.images import psnr
from latent_geodesics.methods import Method
from latent_geodesics.methods.base import status_sentence
from latent_geodesics.methods.chains import has_path
from latent_geodesics.run.files import file_stem, title_of
from latent_geodesics.run.runner import Run

LEAD = (
    "One path leads through all keys, each of them an image at a time of its own: between neighbours it is the "
    "method's path of two images."
)
SMOOTH = (
    "Each leg is bent by as much as it takes to give the path one velocity at each inner key, that of the parabola "
    "through three keys; the keys stay where they are."
)
SHARP = "The path turns at each key as the two legs there meet; smooth=true gives it one velocity."
WIDEST_STRIP = 24


def left_out(methods: Mapping[str, Method]) -> dict[str, str]:
    """Method -> why it can have no continuous velocity, of those that cannot."""
    return {
        name: f"'{name}' makes the frames of one pair at a time and has no path of latents whose velocity could be "
        "continuous: it is left out; smooth=false joins its frames."
        for name, method in methods.items()
        if not has_path(method)
    }


def strip_of(
    keys: Float[Tensor, "k1 3 h w"], steps: Sequence[int], shown: Mapping[str, Float[Tensor, "n 3 h w"]]
) -> dict[str, Float[Tensor, "m 3 h w"]]:
    """The keys where they belong, and below them every sequence; of long ones some frames, the keys among them."""
    at = np.cumsum([0, *steps]).tolist()
    count = at[-1] + 1
    chosen = sorted({*at, *np.linspace(0, count - 1, min(count, WIDEST_STRIP)).round().astype(int).tolist()})
    first = torch.ones(count, *keys.shape[1:])
    first[at] = keys.cpu().float()
    return {"keys": first[chosen]} | {name: frames[chosen] for name, frames in shown.items()}


def worst_key(keys: Float[Tensor, "k1 3 h w"], steps: Sequence[int], frames: Float[Tensor, "n 3 h w"] | None) -> float:
    """PSNR in dB of the key that a sequence shows worst; NaN without frames."""
    if frames is None:
        return math.nan
    at = np.cumsum([0, *steps]).tolist()
    return float(psnr(frames[at].cpu().float(), keys.cpu().float()).min())


def described(sequence: KeySequence) -> str:
    """The keys of a sequence with their times and prompts."""
    keys = zip(sequence.times, sequence.images, sequence.prompts, strict=True)
    said = "; ".join(f"{time:g}: {file.name}" + (f" ({prompt})" if prompt else "") for time, file, prompt in keys)
    return f"Keys by their times: {said}." + (" It ends where it begins." if sequence.loop else "")


def pictures_of(run: Run, sequence: KeySequence) -> dict[str, str]:
    """File -> caption, of what the run drew of a sequence."""
    stem = file_stem(sequence.id)
    pictures = {f"images/{stem}.png": "The keys, and every method below them."}
    if (run.folder / f"figures/{stem}.png").is_file():
        pictures[f"figures/{stem}.png"] = "Grey lines: the keys."
    return pictures


def notes_on(results: pd.DataFrame) -> list[str]:
    """What the columns of the table and its statuses mean."""
    said = {
        "miss": "largest distance of the path from a key, over the key's norm",
        "keys_db": "PSNR of the key that is shown worst, dB",
        "turn": "largest jump of the velocity at an inner key, over the speed there",
    }
    columns = ["; ".join(f"{name}: {words}" for name, words in said.items() if name in results)]
    ended = [f"{title_of(status)}: {status_sentence(status)}" for status in dict.fromkeys(results["status"])]
    return [f"{line[0].upper()}{line[1:]}." for line in columns if line] + ended
