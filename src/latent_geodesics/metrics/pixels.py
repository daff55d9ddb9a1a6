r"""What the pixels alone say of each sequence: does it fade, morph, or jump, is it sharp, and how far do things move?

For the verdict: with the frames x_0 .. x_m, the step k changes the mean square of the pixels by
c_k = |x_{k+1} - x_k|^2, of all steps C.

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

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from latent_geodesics.data.images import as_uint8
from latent_geodesics.metrics.base import Column, SequenceMetric
from latent_geodesics.metrics.measured import MeasuredMorph

VERDICTS: Mapping[str, str] = {"fades": "fade", "morphs": "morph", "jumps": "jump"}
"""Column -> the word for a sequence that has a one there."""
MOST_GHOSTING = 0.5
MEANING = (
    "Fade: a blend of the two images explains more than half of what sets the inner frames apart from them (ghosting "
    "above 0.5). Jump: one of the m steps makes up more than (1 + 1/m) / 2 of their squared change. Morph: neither."
)
"""The rule for who reads a table."""
_LUMINANCE = (0.299, 0.587, 0.114)
_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


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

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
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

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
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


class OpticalFlow(SequenceMetric):
    """`flow` = mean over steps and pixels of |v|, in pixels a step: tells a morph that moves from one that fades.

    v is the optical flow between consecutive frames by Farnebäck's polynomial expansion (2003), as OpenCV has it, on
    grey images in eight bits: 3 levels, each half the size, window 15 pixels, 3 iterations, neighbourhood 5, deviation
    1.2. Sequences of one pair and one number of frames compare; published numbers of the kind depend on their own
    estimator.
    """

    columns: ClassVar = {"flow": Column(title="optical flow, pixels a step")}

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
        return {"flow": torch.tensor([_mean_flow(sequence) for sequence in as_uint8(measured.morph.frames)])}


def _mean_flow(frames: np.ndarray) -> float:
    """Of one sequence, [n h w 3] in eight bits."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    found = []
    for before, after in zip(grey[:-1], grey[1:], strict=True):
        start = np.zeros((*before.shape, 2), dtype=np.float32)
        flow = cv2.calcOpticalFlowFarneback(before, after, start, 0.5, 3, 15, 3, 5, 1.2, 0)
        found.append(float(np.linalg.norm(flow, axis=-1).mean()))
    return float(np.mean(found))


class Sharpness(SequenceMetric):
    """Whether frames are as sharp as the images they lead between: a blend of two sharp images is not.

    With V(x) the variance over pixels of the discrete Laplacian of x's luminance (Pertuz et al. 2013),

        sharpness = mean over the inner frames of V(x_k) / ((1 - u_k) V(A) + u_k V(B)).

    1: as sharp as the two images; below: blurred; above: sharper, or noisier, which this cannot tell apart. NaN where
    both images are of one colour.
    """

    columns: ClassVar = {"sharpness": Column(title="sharpness, ends = 1")}

    def measure(self, measured: MeasuredMorph) -> Mapping[str, Float[Tensor, " p"]]:  # noqa: D102
        batch, frames = measured.pairs.batch, measured.morph.frames
        inner = frames[:, 1:-1]
        found = laplacian_variance(inner.flatten(0, 1)).view(inner.shape[:2])
        first, second = laplacian_variance(batch.images_a.to(frames)), laplacian_variance(batch.images_b.to(frames))
        expected = torch.lerp(first[:, None], second[:, None], measured.u[1:-1].to(first))
        return {"sharpness": torch.where(expected > 0, found / expected, torch.nan).mean(-1)}


def laplacian_variance(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """The variance of the Laplacian of the luminance of images in [0, 1], over the pixels that have four neighbours."""
    images = images.double()
    luminance = (images * torch.tensor(_LUMINANCE).to(images)[:, None, None]).sum(1, keepdim=True)
    kernel = torch.tensor(_LAPLACIAN).to(images)[None, None]
    return functional.conv2d(luminance, kernel).flatten(1).var(-1, correction=0)
