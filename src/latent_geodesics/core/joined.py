r"""One path through several keys: paths between neighbours, one after the other.

The keys stand at `0 = s_0 < s_1 < ... < s_k = 1`, the leg `c_j(w)`, `w` in [0, 1], joins the keys j and j + 1, and the
width of its share is `h_j = s_(j+1) - s_j`. As they are, the joined legs are

    g(u) = c_j(w),    w = (u - s_j) / h_j,    g'(u) = c_j'(w) / h_j,

a path that turns sharply where a leg arrives by another velocity than the next one leaves by. A smooth path gives
both of them one velocity `m_j`: that of the parabola through three keys (Bessel's; de Boor 1978, chapter IV), with the
velocities `v_-` of arriving and `v_+` of leaving in place of the two slopes,

    m_j = (h_j v_- + h_(j-1) v_+) / (h_(j-1) + h_j),

and bends each leg by the two cubics of Hermite that change a velocity at one end and nothing else of either end,

    g(u) = project(c_j(w) + h_j (w (1-w)^2 a_j - w^2 (1-w) b_j)),
    a_j = m_j - c_j'(0) / h_j,    b_j = m_(j+1) - c_j'(1) / h_j.

At the keys the cubics vanish, so that the path goes through them; there `c_j'`, `a_j` and `b_j` are tangents, which the
projection leaves as they are, so that the velocity is `m_j` on both sides. Legs that agree already (all keys on one
geodesic, at equal speed) are not bent at all. Between straight legs this is the cubic Hermite spline (of Catmull and
Rom where keys are evenly spaced); between others each leg stays within 8/27 of what its velocities were changed by.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latent_geodesics.core.manifold import Manifold
from latent_geodesics.core.path import Path


class JoinedPath(Path):
    """The path through several keys whose legs are the pairs of another path; a batch of one.

    Args:
        legs: The paths between neighbours, k of them, each from where the one before ends.
        manifold: What the joined path lies on, once the legs are scaled.
        positions: Where the keys stand: k + 1 positions that increase from 0 to 1.
        scales: What each leg is multiplied by; 1 if not given.
        smooth: Whether the velocity is continuous at the inner keys.
        loop: Whether the last key is the first, so that it is an inner one too.

    Raises:
        ValueError: if positions and legs do not fit, or the positions do not increase from 0 to 1.
    """

    def __init__(
        self,
        *,
        legs: Path,
        manifold: Manifold,
        positions: Float[Tensor, " k1"],
        scales: Float[Tensor, " k"] | None = None,
        smooth: bool = False,
        loop: bool = False,
    ) -> None:
        positions = positions.detach().to("cpu", torch.float64)
        if positions.shape != (legs.pairs + 1,):
            raise ValueError(f"there must be {legs.pairs + 1} positions for {legs.pairs} legs; received {positions}.")
        if positions[0] != 0 or positions[-1] != 1 or not bool((positions.diff() > 0).all()):
            raise ValueError(f"positions must increase from 0 to 1; received {positions.tolist()}.")
        self.legs, self.manifold, self.positions, self.scales = legs, manifold, positions, scales
        self.smooth, self.loop = smooth, loop
        self._widths = positions.diff()
        self._bends = self._changes() if smooth else None

    @property
    def pairs(self) -> int:
        """One."""
        return 1

    @property
    def breaks(self) -> Float[Tensor, " m"]:
        """Where a leg or a piece of one begins or ends."""
        inner = self.legs.breaks
        found: Tensor = torch.unique(self.positions[:-1, None] + self._widths[:, None] * inner)
        return found

    def point(self, u: Float[Tensor, " n"]) -> Float[Tensor, "1 n d"]:
        """`g(u)`."""
        found = self._sum(u, 0)
        return self.manifold.project(found) if self.smooth else found

    def velocity(self, u: Float[Tensor, " n"]) -> Float[Tensor, "1 n d"]:
        """`g'(u)`; at an inner key that of the leg that leaves it."""
        return self._curve(u)[1] if self.smooth else self._sum(u, 1)

    def acceleration(self, u: Float[Tensor, " n"]) -> Float[Tensor, "1 n d"]:
        """`g''(u)`; at an inner key that of the leg that leaves it."""
        return self._curve(u)[2] if self.smooth else self._sum(u, 2)

    def restrict(self, pairs: Int[Tensor, " m"]) -> "JoinedPath":
        """Itself: there is one."""
        del pairs
        return self

    def reversed(self) -> "JoinedPath":
        """From the last key to the first."""
        back = torch.arange(self.legs.pairs).flip(0)
        return JoinedPath(
            legs=self.legs.restrict(back).reversed(),
            manifold=self.manifold,
            positions=1 - self.positions.flip(0),
            scales=None if self.scales is None else self.scales.flip(0),
            smooth=self.smooth,
            loop=self.loop,
        )

    def arrivals(self) -> Float[Tensor, "k d"]:
        """The velocities by which the legs arrive at the keys 1 to k."""
        return self._bent(1, 1)

    def departures(self) -> Float[Tensor, "k d"]:
        """The velocities by which the legs leave the keys 0 to k - 1."""
        return self._bent(0, 0)

    def _changes(self) -> tuple[Float[Tensor, "k d"], Float[Tensor, "k d"]]:
        """`a_j` and `b_j`: by what the velocities of each leg change at its beginning and its end."""
        leaving, arriving = self._ends(0), self._ends(1)
        h = self._widths.to(leaving)[:, None]
        before, after = (h[:-1], h[1:]) if not self.loop else (h, h.roll(-1, 0))
        old, new = (arriving[:-1], leaving[1:]) if not self.loop else (arriving, leaving.roll(-1, 0))
        shared = (after * old + before * new) / (before + after)
        a, b = torch.zeros_like(leaving), torch.zeros_like(leaving)
        if self.loop:
            return shared.roll(1, 0) - leaving, shared - arriving
        a[1:], b[:-1] = shared - leaving[1:], shared - arriving[:-1]
        return a, b

    def _ends(self, w: int) -> Float[Tensor, "k d"]:
        """The velocities of all legs at their beginnings or ends, as they are."""
        at = torch.tensor([float(w)], dtype=torch.float64)
        found = self.legs.velocity(at)[:, 0]
        return found * (self._scales(found) / self._widths.to(found))[:, None]

    def _bent(self, w: int, place: int) -> Float[Tensor, "k d"]:
        found = self._ends(w)
        return found if self._bends is None else found + self._bends[place]

    def _scales(self, like: Tensor) -> Float[Tensor, " k"]:
        return torch.ones(self.legs.pairs).to(like) if self.scales is None else self.scales.to(like)

    def _curve(self, u: Float[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
        return self.manifold.project_curve(self._sum(u, 0), self._sum(u, 1), self._sum(u, 2))

    def _sum(self, u: Float[Tensor, " n"], order: int) -> Float[Tensor, "1 n d"]:
        """The derivative of that order, before the projection."""
        at = u.detach().to("cpu", torch.float64)
        index = (torch.searchsorted(self.positions, at, right=True) - 1).clamp(0, self.legs.pairs - 1)
        pieces = []
        for leg in sorted(set(index.tolist())):
            here = (index == leg).nonzero().flatten()
            pieces.append((here, self._leg(leg, (at[here] - self.positions[leg]) / self._widths[leg], order)))
        found = torch.empty(len(at), pieces[0][1].shape[-1]).to(pieces[0][1])
        for here, values in pieces:
            found[here.to(found.device)] = values
        return found[None]

    def _leg(self, leg: int, w: Float[Tensor, " n"], order: int) -> Float[Tensor, "n d"]:
        path = self.legs.restrict(torch.tensor([leg]))
        take: Callable[[Tensor], Tensor] = (path.point, path.velocity, path.acceleration)[order]
        values = take(w)[0]
        values = values * self._scales(values)[leg]
        if self._bends is not None:
            width = self._widths[leg]
            for weights, bend in zip(_cubics(w, order), self._bends, strict=True):
                values = values + (width * weights).to(values)[:, None] * bend[leg]
        return values / float(self._widths[leg]) ** order


def _cubics(w: Float[Tensor, " n"], order: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """`w (1-w)^2` and `-w^2 (1-w)`, or their derivatives."""
    if order == 0:
        return w * (1 - w) ** 2, -(w**2) * (1 - w)
    if order == 1:
        return (1 - w) * (1 - 3 * w), w * (3 * w - 2)
    return 6 * w - 4, 6 * w - 2
