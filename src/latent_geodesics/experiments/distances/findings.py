"""What a run of distances found, as tables: the matrix, a row a pair, the known changes, and how far to trust them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from latent_geodesics.experiments.distances.assembly import Measured
from latent_geodesics.experiments.distances.gallery import Gallery
from latent_geodesics.experiments.distances.levels import loop_sums
from latent_geodesics.experiments.distances.plan import Layout
from latent_geodesics.experiments.distances.ranking import Ranked, kin_triplets, rank_families, rank_grades
from latent_geodesics.experiments.distances.rivals import RIVALS
from latent_geodesics.experiments.distances.survey import Ends, Survey

__all__ = ["DISTANCES", "DUPLICATE", "Findings"]

DISTANCES = ("geodesic", *RIVALS)
DUPLICATE = "duplicate"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that a run measured.

    Attributes:
        gallery: The images; the first `collected` are the collection.
        layout: Which paths were found, and what for.
        difficulty: The grade of each known pair, by its id.
        pairs: The pairs of pictures that a geodesic was found for, in one direction.
        rivals: Name -> the other distances of `pairs`.
        finer: The distance of the checked pairs by a finer solver.
        line_integrals: See `exactness`.
        draws: Bootstrap resamples.
    """

    gallery: Gallery
    layout: Layout
    collected: int
    difficulty: Mapping[str, int]
    survey: Survey
    measured: Measured
    pairs: Sequence[Ends]
    rivals: Mapping[str, Float[np.ndarray, " k"]]
    finer: Mapping[Ends, float]
    line_integrals: pd.DataFrame
    draws: int
    seed: int

    @cached_property
    def names(self) -> list[str]:
        """The ids of the collection."""
        return [item.id for item in self.gallery.items[: self.collected]]

    @cached_property
    def families(self) -> list[str]:
        """The family of each image of the collection, or nothing."""
        return [item.family for item in self.gallery.items[: self.collected]]

    @cached_property
    def level(self) -> Float[np.ndarray, " n"]:
        """The log-density of each image of the collection above the reference, in nats."""
        return self.measured.levels.level[list(self.gallery.picture[: self.collected])]

    def matrix(self, distance: str = "geodesic") -> Float[np.ndarray, "n n"]:
        """The distances between the images of the collection; equal images are at distance 0."""
        found = np.zeros((self.collected, self.collected))
        for a, b in combinations(range(self.collected), 2):
            found[a, b] = found[b, a] = self._distance(a, b, distance)
        return found

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row for each two images of the collection: what `results.csv` holds."""
        return pd.DataFrame([self._row(a, b) for a, b in combinations(range(self.collected), 2)])

    @cached_property
    def known_rows(self) -> pd.DataFrame:
        """A row for each two frames of a motion, and for the two ends of each graded pair."""
        rows = []
        for family, members in self.layout.kin.items():
            grade = self.difficulty.get(family)
            for a, b in combinations(members, 2):
                ends = (members[0], members[-1]) == (a, b)
                if self.gallery.picture[a] != self.gallery.picture[b]:
                    rows.append(self._row(a, b) | {"family": family, "difficulty": grade if ends else None})
        return pd.DataFrame(rows)

    @cached_property
    def motions(self) -> pd.DataFrame:
        """The known rows of frames whose place on a motion is known."""
        if self.known_rows.empty:
            return self.known_rows
        return self.known_rows.dropna(subset=["position_a", "position_b", "geodesic"])

    @cached_property
    def ranks(self) -> list[Ranked]:
        """How every distance ranks the known changes."""
        if self.known_rows.empty:
            return []
        generator = np.random.default_rng([self.seed, 1])
        graded = self.known_rows.dropna(subset=["difficulty", "geodesic"])
        return [
            *rank_families(self.motions, DISTANCES, draws=self.draws, generator=generator),
            *rank_grades(graded, DISTANCES, draws=self.draws, generator=generator),
        ]

    @cached_property
    def kin(self) -> dict[str, float]:
        """For every distance, how often an image is nearer to its own family than to another; see `kin_triplets`."""
        return {name: kin_triplets(self.matrix(name), self.families) for name in DISTANCES}

    @cached_property
    def loops(self) -> Float[np.ndarray, " t"]:
        """The change of log-density around every three pictures of the collection, in nats."""
        shown = self.layout.shown
        change = np.full((len(shown), len(shown)), np.nan)
        for a, b in combinations(range(len(shown)), 2):
            change[a, b] = self.survey.geodesics[shown[a], shown[b]].change
            change[b, a] = -change[a, b]
        sums = loop_sums(change)
        known: Float[np.ndarray, " t"] = sums[np.isfinite(sums)]
        return known

    @cached_property
    def asymmetry(self) -> Float[np.ndarray, " r"]:
        """`|d(a, b) - d(b, a)| / d(a, b)` of the pairs that were solved in both directions."""
        d = self.measured.distance
        return np.array([abs(d[a, b] - d[b, a]) / d[a, b] for a, b in self.layout.checks])

    @cached_property
    def coarseness(self) -> Float[np.ndarray, " r"]:
        """`|d - d_fine| / d_fine` of the pairs that a finer solver solved again."""
        d = self.measured.distance
        return np.array([abs(d[ends] - fine) / fine for ends, fine in self.finer.items()])

    @cached_property
    def triangle_violations(self) -> int:
        """How often a detour over a third image is shorter than the distance, by more than a millionth."""
        d = self.matrix()
        detour = (d[:, :, None] + d[None]).min(axis=1)
        return int((d > detour * (1 + 1e-6)).sum()) // 2

    def _distance(self, a: int, b: int, distance: str) -> float:
        ends = self._ends(a, b)
        if ends is None:
            return 0.0
        return self.measured.distance[ends] if distance == "geodesic" else float(self._rival[ends][distance])

    def _ends(self, a: int, b: int) -> Ends | None:
        """The pair of pictures of two items; None when both show one picture."""
        first, second = self.gallery.picture[a], self.gallery.picture[b]
        if first == second:
            return None
        return (first, second) if (first, second) in self._rival else (second, first)

    @cached_property
    def _rival(self) -> dict[Ends, dict[str, float]]:
        return {
            ends: {name: float(values[row]) for name, values in self.rivals.items()}
            for row, ends in enumerate(self.pairs)
        }

    def _row(self, a: int, b: int) -> dict[str, object]:
        first, second = self.gallery.items[a], self.gallery.items[b]
        row: dict[str, object] = {"pair": f"{first.id}--{second.id}", "method": "geodesic"}
        ends = self._ends(a, b)
        if ends is None:
            found = dict.fromkeys((*DISTANCES, "distance_error", "log_density_change", "closure_misfit", "arc"), 0.0)
            row |= {"status": DUPLICATE, "seconds": 0.0, "evaluations": 0, "residual": 0.0} | found
        else:
            leg = self.survey.geodesics[ends]
            sign = 1.0 if ends[0] == self.gallery.picture[a] else -1.0
            row |= {
                "status": leg.status,
                "seconds": leg.seconds,
                "evaluations": leg.evaluations,
                "residual": leg.residual,
                "geodesic": self.measured.distance[ends],
                **self._rival[ends],
                "distance_error": self.measured.error[ends],
                "log_density_change": sign * leg.change,
                "closure_misfit": sign * self.measured.misfit[ends],
                "arc": leg.arc,
            }
        return row | {
            "image_a": str(first.file),
            "image_b": str(second.file),
            "position_a": first.position,
            "position_b": second.position,
        }
