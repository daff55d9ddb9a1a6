r"""What the pixels alone say of each sequence: does it fade, morph, or jump?

With the frames x_0 .. x_m, the step k changes the mean square of the pixels by c_k = |x_{k+1} - x_k|^2, of all steps C.

- `largest_step` = max_k c_k / C: 1/m where every step changes as much, 1 for a cut between two frames;
- `change_at`: the u by which half of C is passed, steps counted evenly inside; `change_width`: from there to where the
  first quarter is passed, to where the last begins: 1/2 for an even change, 1/(2m) for a cut;
- **jump**: largest_step > (1 + 1/m) / 2, half way from an even change to a cut. At 17 frames a step must change as much
  as all others together, which is about four times what each of them changes in root mean square. Frames that are each
  one of the two images, and no others, jump as well, however often;
- **fade**: no jump, and ghosting > 1/2 (see `Ghosting`): a blend of the two images explains more than half of
  what sets the inner frames apart from the nearer of them. A cross-fade has 1, an object that moves 1/4;
- **morph**: neither.

Each verdict is a column of ones and zeros (`fades`, `morphs`, `jumps`), whose mean is the share of the sequences. A
sequence in which nothing changes has none. Noise counts as change: a cut in a long film must be larger than all of its
noise together. A fade of one colour into another is a fade, even where it was meant.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.base import Column, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph

VERDICTS: Mapping[str, str] = {"fades": "fade", "morphs": "morph", "jumps": "jump"}
"""Column -> the word for a sequence that has a one there."""
MOST_GHOSTING = 0.5
MEANING = (
    "Fade: a blend of the two images explains more than half of what sets the inner frames apart from them (ghosting "
    "above 0.5). Jump: one step changes more than half way from an even change to a cut. Morph: neither."
)
"""The rule for who reads a table."""


class Ghosting(SequenceMetric):
    """Whether frames are mere blends of the two ends: what low perceptual lengths reward, and no morph should be.

    The best blend of the two images A, B for a frame x has the weight that least squares gives, kept between 0 and 1:

        w = clip(<x - A, B - A> / |B - A|^2, 0, 1),        r^2 = |x - (1 - w) A - w B|^2.

    Over the inner frames,

    - `ghosting` = 1 - sum r^2 / sum e^2 with e = min(|x - A|, |x - B|): the share of what sets the frames apart from
      the nearer end that a blend explains; NaN where every inner frame is one of the ends. A cross-fade has 1. An
      object that has moved to where neither end shows one, on the same floor, has 1/4 (with o^2 the squared difference
      that one object makes, e^2 = 2 o^2 and r^2 = 3/2 o^2).
    - `blend_rmse`: the root mean square of r over pixels and channels, of images in [0, 1]: the distance to the nearest
      cross-fade.
    """

    columns: ClassVar = {
        "ghosting": Column(title="ghosting, cross-fade = 1", better="lower"),
        "blend_rmse": Column(title="distance to a cross-fade", shown=False),
    }

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """Both columns."""
        batch = measured.pairs.batch
        ghosting, rest = blends(measured.morph.frames, batch.images_a, batch.images_b)
        return {"ghosting": ghosting, "blend_rmse": rest.mean(-1).sqrt()}


def blends(
    frames: Float[Tensor, "p n 3 h w"], images_a: Float[Tensor, "p 3 h w"], images_b: Float[Tensor, "p 3 h w"]
) -> tuple[Float[Tensor, " p"], Float[Tensor, "p m"]]:
    """The ghosting of sequences between two images each, and r^2 a pixel of each inner frame."""
    a, b = (image.to(frames).flatten(1).double() for image in (images_a, images_b))
    way = b - a
    least = torch.finfo(way.dtype).tiny
    rests, nearer = [], []
    for frame in frames[:, 1:-1].unbind(1):  # one at a time: in double precision a long film takes much memory
        from_a = frame.flatten(1).double() - a
        weight = ((from_a * way).sum(-1) / way.square().sum(-1).clamp_min(least)).clamp(0, 1)[:, None]
        rests.append((from_a - weight * way).square().mean(-1))
        nearer.append(torch.minimum(from_a.square().mean(-1), (from_a - way).square().mean(-1)))
    rest, apart = torch.stack(rests, dim=1), torch.stack(nearer, dim=1).sum(-1)
    return torch.where(apart > 0, 1 - rest.sum(-1) / apart, torch.nan), rest


class Verdict(SequenceMetric):
    """The columns of the module's text; NaN where nothing changes."""

    columns: ClassVar = {
        "fades": Column(title="share that fades", better="lower"),
        "morphs": Column(title="share that morphs", better="higher"),
        "jumps": Column(title="share that jumps", better="lower"),
        "largest_step": Column(title="largest step, share of the change", better="lower"),
        "change_at": Column(title="half changed at u"),
        "change_width": Column(title="middle half of the change, in u", shown=False),
    }

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:
        """All columns."""
        batch, frames = measured.pairs.batch, measured.morph.frames
        one_by_one = zip(frames[:, :-1].unbind(1), frames[:, 1:].unbind(1), strict=True)
        steps = torch.stack([(later - sooner).double().square().mean((1, 2, 3)) for sooner, later in one_by_one], dim=1)
        total = steps.sum(-1)
        shares = steps / torch.where(total > 0, total, torch.nan)[:, None]
        largest = shares.max(-1).values
        ghosting = blends(frames, batch.images_a, batch.images_b)[0]
        known = largest.isfinite()
        jumps = (largest > (1 + 1 / shares.shape[1]) / 2) | ghosting.isnan()
        fades = ~jumps & (ghosting > MOST_GHOSTING)
        early, half, late = (_passed(shares, share, measured.u) for share in (0.25, 0.5, 0.75))
        marks = {"fades": fades, "morphs": ~jumps & ~fades, "jumps": jumps}
        return {name: torch.where(known, mark.double(), torch.nan) for name, mark in marks.items()} | {
            "largest_step": largest,
            "change_at": half,
            "change_width": late - early,
        }


def verdict_word(numbers: Mapping[str, float]) -> str | None:
    """`fade`, `morph` or `jump` for the columns of one sequence; None where they hold no verdict."""
    return next((word for column, word in VERDICTS.items() if numbers.get(column) == 1), None)


def _passed(shares: Float[Tensor, "p m"], share: float, u: Float[Tensor, " n"]) -> Float[Tensor, " p"]:
    done = shares.cumsum(-1)
    step = (done < share).sum(-1, keepdim=True).clamp_max(shares.shape[1] - 1)
    here = shares.gather(-1, step)
    inside = (share - (done.gather(-1, step) - here)) / here
    u = u.to(shares)
    return torch.lerp(u[step], u[step + 1], inside.clamp(0, 1))[:, 0]
