"""What a run of distances found: the distance of every pair of images, ranks of known changes, and how far to trust it.

The distance is `d(a, b) = int (p / p_ref)^-alpha |g'| du` along the geodesic. Along each path the score gives `log p`
up to a constant; the levels of its two ends (`levels`) fix it. The reference is one number for all pairs: another one
multiplies every distance by the same factor and changes neither ranks nor neighbours nor the shape of the embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from latent_geodesics.data import ImagePair
from latent_geodesics.experiments.distances.embedding import Embedding, classical_mds
from latent_geodesics.experiments.distances.gallery import Gallery
from latent_geodesics.experiments.distances.levels import Levels, fit_levels, loop_sums
from latent_geodesics.experiments.distances.paths import Leg
from latent_geodesics.experiments.distances.plan import FINER, GEODESIC, GREAT_CIRCLE, Ends, PathPlan
from latent_geodesics.experiments.distances.ranking import Ranked, kin_triplets, rank_families, rank_grades
from latent_geodesics.experiments.distances.rivals import RIVALS

DISTANCES = ("geodesic", *RIVALS)
DUPLICATE = "duplicate"


@dataclass(frozen=True, kw_only=True)
class MeasuredDistances:
    """The measurements of a run.

    Attributes:
        gallery: The images.
        plan: Which paths were found.
        legs: Kind -> ends -> the path.
        rivals: Name -> the other distances of the geodesics of the plan.
        reference: The pictures whose mean log-density is the reference.
        alpha: Power of the density.
        known_pairs: The pairs whose change is known, with their difficulty.
        draws: Bootstrap resamples.
        seed: Of the resampling.
    """

    gallery: Gallery
    plan: PathPlan
    legs: Mapping[str, Mapping[Ends, Leg]]
    rivals: Mapping[str, Float[np.ndarray, " k"]]
    reference: Sequence[int]
    alpha: float
    known_pairs: Sequence[ImagePair]
    draws: int
    seed: int

    @cached_property
    def levels(self) -> Levels:
        """The log-density of every picture; NaN where paths with a finite score do not reach all pictures."""
        paths = {**self.legs[GEODESIC], **self.legs[GREAT_CIRCLE]}
        known = {ends: leg.change for ends, leg in paths.items() if np.isfinite(leg.change)}
        count = len(self.gallery.pictures)
        try:
            return fit_levels(known, count=count, reference=np.array(self.reference))
        except ValueError:
            return Levels(level=np.full(count, np.nan), misfit={}, explained=float("nan"))

    @cached_property
    def level(self) -> Float[np.ndarray, " n"]:
        """The log-density of each image of the collection above the reference, in nats."""
        return self.levels.level[list(self.gallery.picture[: self.gallery.collected])]

    def length(self, ends: Ends, kind: str = GEODESIC) -> tuple[float, float]:
        """The distance along a path, and what its quadrature may be off; NaN where the score was not finite."""
        start, end = (float(self.levels.level[picture]) for picture in ends)
        return self.legs[kind][ends].length(start, end, self.alpha)

    @cached_property
    def pairs(self) -> dict[Ends, dict[str, Any]]:
        """What is known of each two different pictures with a geodesic, the first number the smaller one."""
        found = {}
        for row, ends in enumerate(self.plan.geodesics):
            leg, (value, error) = self.legs[GEODESIC][ends], self.length(ends)
            found[ends] = {
                "status": leg.status,
                "seconds": leg.seconds,
                "evaluations": leg.evaluations,
                "residual": leg.residual,
                "geodesic": value,
                **{name: float(values[row]) for name, values in self.rivals.items()},
                "distance_error": error,
                "log_density_change": float(leg.log_density[-1]),
                "closure_misfit": self.levels.misfit.get(ends, float("nan")),
                "arc": leg.arc,
            }
        return found

    @cached_property
    def results(self) -> pd.DataFrame:
        """A row for each two images of the collection."""
        return pd.DataFrame([self._row(a, b) for a, b in combinations(range(self.gallery.collected), 2)])

    @cached_property
    def solved(self) -> pd.DataFrame:
        """The rows of two different pictures."""
        return self.results[self.results["status"] != DUPLICATE]

    @cached_property
    def known(self) -> pd.DataFrame:
        """A row for each two frames of a motion, and for the two ends of each graded pair."""
        rows, grades = [], {pair.id: pair.difficulty for pair in self.known_pairs}
        for family, members in self.gallery.families.items():
            for a, b in combinations(members, 2):
                ends = (members[0], members[-1]) == (a, b)
                grade = {"family": family, "difficulty": grades.get(family) if ends else None}
                if self.gallery.picture[a] != self.gallery.picture[b]:
                    rows.append(self._row(a, b) | grade)
        return pd.DataFrame(rows)

    @cached_property
    def motions(self) -> pd.DataFrame:
        """The known rows of frames whose place on a motion is known."""
        known = self.known
        return known if known.empty else known.dropna(subset=["position_a", "position_b", "geodesic"])

    @cached_property
    def ranks(self) -> list[Ranked]:
        """How every distance ranks the known changes."""
        if self.known.empty:
            return []
        generator = np.random.default_rng([self.seed, 1])
        graded = self.known.dropna(subset=["difficulty", "geodesic"])
        return [
            *rank_families(self.motions, DISTANCES, draws=self.draws, generator=generator),
            *rank_grades(graded, DISTANCES, draws=self.draws, generator=generator),
        ]

    @cached_property
    def kin(self) -> dict[str, float]:
        """For every distance, how often an image is nearer to its own family than to another; see `kin_triplets`."""
        families = [item.family for item in self.gallery.collection]
        return {name: kin_triplets(self.matrix(name), families) for name in DISTANCES}

    def matrix(self, distance: str = "geodesic") -> Float[np.ndarray, "n n"]:
        """The distances between the images of the collection; equal images are at distance 0."""
        count = self.gallery.collected
        found = np.zeros((count, count))
        found[np.triu_indices(count, 1)] = self.results[distance]
        whole: Float[np.ndarray, "n n"] = found + found.T
        return whole

    @cached_property
    def embedding(self) -> Embedding | None:
        """The collection in a plane; None where a distance is not known."""
        matrix = self.matrix()
        return classical_mds(matrix) if np.isfinite(matrix).all() else None

    @cached_property
    def loops(self) -> Float[np.ndarray, " t"]:
        """The change of log-density around every three pictures of the collection, in nats."""
        shown = self.gallery.shown
        change = np.full((len(shown), len(shown)), np.nan)
        for a, b in combinations(range(len(shown)), 2):
            change[a, b] = float(self.legs[GEODESIC][shown[a], shown[b]].log_density[-1])
            change[b, a] = -change[a, b]
        sums = loop_sums(change)
        known: Float[np.ndarray, " t"] = sums[np.isfinite(sums)]
        return known

    @cached_property
    def asymmetry(self) -> Float[np.ndarray, " r"]:
        """`|d(a, b) - d(b, a)| / d(a, b)` of the pairs that were solved in both directions."""
        both = [(self.length((a, b))[0], self.length((b, a))[0]) for a, b in self.plan.checks]
        return np.array([abs(there - back) / there for there, back in both])

    @cached_property
    def coarseness(self) -> Float[np.ndarray, " r"]:
        """`|d - d_fine| / d_fine` of the pairs that a finer solver solved again."""
        both = [(self.length(ends)[0], self.length(ends, FINER)[0]) for ends in self.plan.checks]
        return np.array([abs(one - fine) / fine for one, fine in both])

    @cached_property
    def triangle_violations(self) -> int:
        """How often a detour over a third image is shorter than the distance, by more than a millionth."""
        d = self.matrix()
        detour = (d[:, :, None] + d[None]).min(axis=1)
        return int((d > detour * (1 + 1e-6)).sum()) // 2

    def _row(self, a: int, b: int) -> dict[str, Any]:
        first, second = self.gallery.items[a], self.gallery.items[b]
        start, end = self.gallery.picture[a], self.gallery.picture[b]
        if start == end:
            none = ("seconds", "residual", *DISTANCES, "distance_error", "log_density_change", "closure_misfit", "arc")
            found: dict[str, Any] = {"status": DUPLICATE, "evaluations": 0} | dict.fromkeys(none, 0.0)
        else:
            found = dict(self.pairs[min(start, end), max(start, end)])
        if start > end:  # the path was found from the second image to the first
            found |= {name: -found[name] for name in ("log_density_change", "closure_misfit")}
        return {
            "pair": f"{first.id}--{second.id}",
            "method": "geodesic",
            **found,
            "image_a": str(first.file),
            "image_b": str(second.file),
            "position_a": first.position,
            "position_b": second.position,
        }
