"""Attention interpolation: frames that attend to both images at once, while they are denoised."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.methods.base import PairMethod
from latent_geodesics.methods.encoding import EncodedPairs
from latent_geodesics.methods.lines import slerp
from latent_geodesics.methods.sampling import check_share, check_tau, frame_groups, guided, noise_level, noisy_ends
from latent_geodesics.methods.timing import Draw
from latent_geodesics.models.attention import AttentionMixture, Inner, Outer
from latent_geodesics.models.inversion import descend, sampling_levels


def beta_quantiles(u: Float[Tensor, " n"], alpha: float, beta: float) -> Float[Tensor, " n"]:
    """The quantiles of the Beta distribution at u; with alpha = beta > 1 they crowd in the middle, 0 and 1 stay."""
    from scipy.special import betaincinv

    return torch.as_tensor(betaincinv(alpha, beta, u.detach().cpu().double().numpy())).to(u)


@dataclass(frozen=True, kw_only=True, eq=False)
class _AttentionInterpolation(PairMethod):
    """The common part of both kinds.

    Args:
        fused: Whether frames attend to themselves as well.
        warmup: Share of the steps, from the noisiest, in which attention is interpolated, in [0, 1].
        alpha: First parameter of the Beta distribution whose quantiles are the frames' weights, above 0.
        beta: Second parameter; alpha = beta = 1 is evenly spaced.
        tau: Noise level of the latents; None is the run's.
        guidance: Classifier-free guidance, whose negative branch is left alone; None is the run's.
    """

    fused: bool = True
    warmup: float = 0.5
    alpha: float = 3.0
    beta: float = 3.0
    tau: float | None = 1.0
    guidance: float | None = 7.5

    def __post_init__(self) -> None:
        if not (0 < self.alpha < float("inf") and 0 < self.beta < float("inf")):
            raise UserError(f"the Beta distribution needs alpha > 0 and beta > 0, got {self.alpha} and {self.beta}.")
        check_share("warmup", self.warmup)
        check_tau(self.tau)

    @abstractmethod
    def mixture(self, weights: Float[Tensor, " n"]) -> AttentionMixture:
        """How rows of these weights attend to the first and the last."""

    @contextmanager
    def sequence(self, pair: EncodedPairs) -> Iterator[Draw]:
        """Takes both images' latents."""
        ends = noisy_ends(pair, self.tau)

        def draw(u: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
            weights = beta_quantiles(u, self.alpha, self.beta)
            groups = frame_groups(pair.model, len(u))
            return torch.cat([self._frames(pair, ends, weights[group]) for group in groups])

        yield draw

    def _frames(
        self, pair: EncodedPairs, ends: Float[Tensor, "2 d"], weights: Float[Tensor, " n"]
    ) -> Float[Tensor, "n 3 h w"]:
        model, schedule = pair.model, pair.model.schedule
        level = schedule.level(noise_level(pair, self.tau))
        rows = torch.cat([weights.new_zeros(1), weights, weights.new_ones(1)])
        x = slerp(ends[:1], ends[1:], rows)[0]
        condition, mixture = pair.condition(rows)[0], self.mixture(rows.to(ends))
        weight = pair.guidance if self.guidance is None else self.guidance

        def predict(x: Float[Tensor, "m d"], k: int) -> Float[Tensor, "m d"]:
            early = level - k < self.warmup * level
            return guided(model, x, k, condition=condition, weight=weight, mixture=mixture if early else None)

        clean = descend(schedule, x, sampling_levels(level), predict)
        return model.decode(clean[1:-1])


class OuterAttentionInterpolation(_AttentionInterpolation):
    """Creates AID with the results of attention interpolated, `(1-w) Attn(Q, K_A, V_A) + w Attn(Q, K_B, V_B)`.

    In self- and in cross-attention, over the first `warmup` of the steps; with `fused`, each frame's own keys and
    values stand beside either image's. The weights w are the quantiles of Beta(alpha, beta).

    References:
        He et al. 2024, AID: attention interpolation of text-to-image diffusion, arXiv 2403.17924.

    Deviation: the paper interpolates between prompts from one noise; here both images have a latent of their own, and
    the frames' latents lie on the great circle between them at the same weights. The Beta prior is not refined by
    exploration; `Retimed` spaces the frames by what is seen of them.
    """

    def mixture(self, weights: Float[Tensor, " n"]) -> AttentionMixture:
        """Interpolation after attention."""
        return Outer(weights=weights, fused=self.fused)


class InnerAttentionInterpolation(_AttentionInterpolation):
    """Creates AID with keys and values interpolated, `Attn(Q, (1-w) K_A + w K_B, (1-w) V_A + w V_B)`.

    Otherwise as `OuterAttentionInterpolation`.
    """

    def mixture(self, weights: Float[Tensor, " n"]) -> AttentionMixture:
        """Interpolation before attention."""
        return Inner(weights=weights, fused=self.fused)
