"""References that are no paths: what every method is to be held against.

`CrossFade` mixes the two images pixel by pixel. The others show the pair's true frames, as they are or after what every
path goes through: what is left of the truth then is the least error that a method can have.
"""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import Status
from latent_geodesics.methods.base import Method, Morph
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.models.accelerator import DECODING, SOLVING, Stopwatch


class _Reference(Method):
    @abstractmethod
    def frames(self, pairs: EncodedPairs, u: Float[Tensor, " n"], watch: Stopwatch) -> Float[Tensor, "p n 3 h w"]:
        """The frames at the positions u; the watch is told when there is no more to do than to draw them."""

    def morph(self, pairs: EncodedPairs, u: Float[Tensor, " n"]) -> Morph:
        """The frames, with what they took."""
        watch = Stopwatch(pairs.model.device)
        frames = self.frames(pairs, u, watch)
        watch.lap(DECODING)
        return Morph(
            frames=frames,
            statuses=(Status.CLOSED_FORM.value,) * len(frames),
            evaluations=torch.zeros(len(frames)),
            seconds=sum(watch.seconds.values()) / len(frames),
            seconds_solving=watch.seconds.get(SOLVING, 0.0) / len(frames),
        )


class CrossFade(_Reference):
    """`(1 - u) A + u B` in pixels: both ends fade into one another and nothing moves."""

    def frames(self, pairs: EncodedPairs, u: Float[Tensor, " n"], watch: Stopwatch) -> Float[Tensor, "p n 3 h w"]:
        """The mixed images."""
        images = (pairs.batch.images_a, pairs.batch.images_b)
        first, second = (image[:, None].to(pairs.model.device) for image in images)
        return torch.lerp(first, second, u.to(first)[:, None, None, None])


class TrueFrames(_Reference):
    """The true frames themselves: what is left is the error of the measurement."""

    def frames(self, pairs: EncodedPairs, u: Float[Tensor, " n"], watch: Stopwatch) -> Float[Tensor, "p n 3 h w"]:
        """The true frames at the positions u."""
        return torch.stack([_truth(pairs, row, len(u)) for row in range(len(pairs.batch))])


class AutoencodedTruth(TrueFrames):
    """The true frames through the model's autoencoder and back."""

    def frames(self, pairs: EncodedPairs, u: Float[Tensor, " n"], watch: Stopwatch) -> Float[Tensor, "p n 3 h w"]:
        """The true frames as the autoencoder makes them again."""
        truth = super().frames(pairs, u, watch)
        clean = pairs.model.encode(truth.flatten(0, 1), tau=0.0)
        watch.lap(SOLVING)
        return pairs.model.decode(clean, tau=0.0).view(truth.shape)


class InvertedTruth(TrueFrames):
    """The true frames, inverted to the noise level of the paths and decoded from there under the same condition."""

    def frames(self, pairs: EncodedPairs, u: Float[Tensor, " n"], watch: Stopwatch) -> Float[Tensor, "p n 3 h w"]:
        """The true frames as inversion and decoding make them again."""
        truth = super().frames(pairs, u, watch)
        condition = pairs.condition(u).flatten(0, 1)
        x = pairs.model.invert(truth.flatten(0, 1), condition=condition, tau=pairs.tau).sound
        watch.lap(SOLVING)
        images = pairs.model.decode(x, condition=condition, tau=pairs.tau, guidance=pairs.guidance)
        return images.view(truth.shape)


def _truth(pairs: EncodedPairs, row: int, count: int) -> Float[Tensor, "n 3 h w"]:
    frames, truth = pairs.batch.true_frames(row, count), pairs.batch.truth[row]
    if frames is None:
        held = "none" if truth is None else f"{len(truth)}"
        raise UserError(
            f"The pair '{pairs.batch.ids[row]}' has {held} of the true frames that this method shows at {count} "
            "positions: leave the method out, or set frames to one more than a divisor of their number less one."
        )
    return frames.to(pairs.model.device)
