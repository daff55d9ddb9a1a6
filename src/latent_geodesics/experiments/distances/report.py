"""The page of a run of distances, its summary and its tables."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from latent_geodesics.core.errors import counted
from latent_geodesics.core.records import Status
from latent_geodesics.data.images import as_uint8
from latent_geodesics.experiments.distances import figures
from latent_geodesics.experiments.distances.embedding import Embedding
from latent_geodesics.experiments.distances.figures import NAMES, nearest
from latent_geodesics.experiments.distances.measured import DUPLICATE, MeasuredDistances
from latent_geodesics.experiments.distances.plan import GEODESIC
from latent_geodesics.run.pages import Page
from latent_geodesics.run.results import GENTLER, non_finite
from latent_geodesics.run.runner import Run

FEWEST = 5
MEASURES = {
    "family_spearman": "the frames of a motion by how far apart they are (Spearman)",
    "family_triplets": "the frames of a motion, triplet by triplet",
    "grade_kendall": "pairs by their difficulty (Kendall's tau-b)",
}
RANKS_NOTE = (
    "Values with 95 % intervals; 'nearer to kin': how often an image of the collection is nearer to one of its own "
    "family than to one of another."
)
INTEGRALS_NOTE = "The same quadrature on densities whose logarithm is known, along wavy paths, in nats."

CHECKED = {
    "range": "range, nats", "true_error": "true error, nats", "stated_error": "stated error, nats",
    "covered": "share of positions at which it holds",
}  # fmt: skip


def add_sections(run: Run, page: Page, found: MeasuredDistances, checks: pd.DataFrame, *, neighbours: int) -> None:
    """Draws every figure into the run's folder, and writes the page around them.

    Args:
        run: The run.
        page: The page.
        found: What was measured.
        checks: The line integral against exact log-densities; see `exactness`.
        neighbours: How many nearest neighbours are shown.
    """
    folder, matrix, gallery, solved = run.folder / "figures", found.matrix(), found.gallery, found.solved
    pictures = list(as_uint8(gallery.images[list(gallery.picture[: gallery.collected])]))
    if found.embedding is not None:
        families = [item.family for item in gallery.collection]
        figures.draw_embedding(folder / "embedding.png", found.embedding, pictures, families)
        figures.draw_heat_map(folder / "heat_map.png", matrix, pictures)
        shown = {
            "figures/embedding.png": "Every image at its place in the embedding.",
            "figures/heat_map.png": "Geodesic distance between every two images; its numbers are in distances.csv.",
        }
        page.section("The images in a plane, and the matrix", _said_of_embedding(found.embedding), pictures=shown)
    names = [item.id for item in gallery.collection]
    figures.draw_neighbours(folder / "neighbours.png", matrix, pictures, names, count=neighbours)
    shown = {"figures/neighbours.png": "Each image (framed), then those nearest to it, with their distances."}
    page.section("Nearest neighbours", pictures=shown)
    if np.isfinite(found.level).all():
        figures.draw_levels(folder / "levels.png", found.level, pictures)
        shown = {"figures/levels.png": "The images by their log-density."}
        page.section("How probable each image is", _said_of_levels(found), pictures=shown)
    if found.ranks:
        ranks = pd.DataFrame([asdict(ranked) for ranked in found.ranks])
        figures.draw_ranks(folder / "ranks.png", ranks, found.motions)
        shown = {"figures/ranks.png": "Right: how each distance grows along a motion; the dashed line grows evenly."}
        title, table = "Does it rank changes by their true size?", _ranks_table(ranks, found)
        page.section(title, *verdicts(ranks), RANKS_NOTE, pictures=shown, table=table)
    figures.draw_reliability(
        folder / "reliability.png",
        loops=found.loops,
        asymmetry=found.asymmetry,
        matrix=solved["geodesic"].to_numpy(float),
        arcs=solved["spherical"].to_numpy(float),
    )
    shown = {"figures/reliability.png": "Closure, symmetry, and what the density changes."}
    page.section("How far to trust the numbers", _said_of_trust(found), pictures=shown)
    figures.draw_line_integrals(folder / "line_integrals.png", checks)
    said = f"{INTEGRALS_NOTE} Its stated error holds at {checks['covered'].min():.1%} of the positions or more."
    shown = {"figures/line_integrals.png": "Below the dashed line the true error is smaller."}
    page.section(
        "The line integral against exact log-densities", said, pictures=shown, table=checks.rename(columns=CHECKED)
    )
    page.section("How the paths ended", table=_statuses(found.results))


def _ranks_table(ranks: pd.DataFrame, found: MeasuredDistances) -> pd.DataFrame:
    cells = []
    for name, rows in ranks[ranks["measure"].isin(MEASURES)].groupby("distance", sort=False):
        intervals = {
            MEASURES[row["measure"]]: f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            for row in rows.to_dict("records")
        }
        cells.append({"distance": NAMES[str(name)], "nearer to kin": found.kin[str(name)]} | intervals)
    return pd.DataFrame(cells)


def _statuses(results: pd.DataFrame) -> pd.DataFrame:
    words = {status.value: status.sentence for status in Status}
    words[DUPLICATE] = "Both images show the same picture; their distance is 0 by definition."
    counts = results["status"].value_counts()
    return pd.DataFrame(
        [{"status": name, "pairs": int(counts[name]), "what it means": words[str(name)]} for name in counts.index]
    )


def verdicts(table: pd.DataFrame) -> list[str]:
    """A sentence for each measure: which distances the geodesic one beats, equals or loses to, beyond chance.

    Resampling fewer than five motions or pairs says nothing of chance, and then no distance is preferred.
    """
    sentences = []
    for measure, words in MEASURES.items():
        rows = table[(table["measure"] == measure) & (table["distance"] != "geodesic")]
        if rows.empty:
            continue
        count = int(rows["count"].iloc[0])
        unit = "motions" if measure.startswith("family") else "pairs"
        if count < FEWEST:
            sentences.append(f"Ranking {words}: {count} of the {unit} are too few to prefer a distance by.")
            continue
        groups: dict[str, list[str]] = {"better than": [], "worse than": [], "not told apart from": []}
        for row in rows.to_dict("records"):
            told = "better than" if row["gain_low"] > 0 else "worse than"
            sign = told if row["gain_low"] > 0 or row["gain_high"] < 0 else "not told apart from"
            groups[sign].append(f"{NAMES[row['distance']]} ({row['gain']:+.3f})")
        said = "; ".join(f"{sign} {', '.join(names)}" for sign, names in groups.items() if names)
        sentences.append(f"Ranking {words}, on {count} {unit}, the geodesic distance is {said}.")
    return sentences


def _said_of_embedding(embedding: Embedding) -> str:
    return (
        f"Classical multidimensional scaling of the matrix. The two axes hold {embedding.shares.sum():.0%} of it "
        f"(stress {embedding.stress:.2f}); negative eigenvalues, which no points in flat space have, hold "
        f"{embedding.negative:.0%}. Lines join images of one family in their order."
    )


def _said_of_levels(found: MeasuredDistances) -> str:
    closure = ""
    if len(found.loops):
        root_mean_square = np.sqrt(np.square(found.loops).mean())
        closure = f"Around a loop of three images it sums to {root_mean_square:.1f} nats (root mean square), where a "
        closure += "gradient gives 0. "
    return (
        "Paths give differences of log-density; the levels are their least-squares fit, which explains "
        f"{found.levels.explained:.0%} of the differences' sum of squares. {closure}What a path misses of the "
        "difference of its ends is spread evenly along it."
    )


def _said_of_trust(found: MeasuredDistances) -> str:
    said, solved = [], found.solved
    if len(found.asymmetry):
        said.append(
            f"Solved in both directions, {counted(len(found.asymmetry), 'pair')} differ by at most "
            f"{found.asymmetry.max():.1e} of the distance, and by at most {found.coarseness.max():.1e} from a finer "
            "solver."
        )
    if len(solved):
        share = float((solved["distance_error"] / solved["geodesic"]).max())
        said.append(f"The quadrature states an error of at most {share:.1e} of the distance.")
    detours = found.triangle_violations
    said.append(
        f"Further apart than a detour over a third image: {counted(detours, 'pair')}."
        if detours
        else "No detour over a third image is shorter than a distance."
    )
    return " ".join(said)


def summary_of(found: MeasuredDistances, checks: pd.DataFrame) -> dict[str, float]:
    """The numbers that stand for the run; those of which there are none are left out."""
    results, solved = found.results, found.solved
    ratio, error = solved["geodesic"] / solved["spherical"], solved["distance_error"] / solved["geodesic"]
    loops, asymmetry, coarseness = map(pd.Series, (found.loops, found.asymmetry, found.coarseness))
    summary = {
        "images": found.gallery.collected,
        "pictures": len(found.gallery.shown),
        "pairs": len(results),
        "duplicate_pairs": len(results) - len(solved),
        "paths": len(found.plan.geodesics) + len(found.plan.checks),
        "converged": solved["status"].isin(Status.solved()).mean(),
        "evaluations_mean": solved["evaluations"].mean(),
        "levels_explain": found.levels.explained,
        "triangle_violations": found.triangle_violations,
        "line_integral/covered": checks["covered"].min(),
        "line_integral/true_error": checks[checks["pieces"] == checks["pieces"].max()]["true_error"].max(),
        "quadrature_error_max": error.max(),
        "over_arc_min": ratio.min(),
        "over_arc_max": ratio.max(),
        "loop_rms_nats": np.sqrt(loops.pow(2).mean()),
        "asymmetry_max": asymmetry.max(),
        "coarseness_max": coarseness.max(),
    }
    if found.embedding is not None:
        embedding = vars(found.embedding) | {"two_axes": found.embedding.shares.sum()}
        summary |= {f"embedding/{name}": embedding[name] for name in ("two_axes", "negative", "stress")}
    summary |= {f"{ranked.distance}/{ranked.measure}": ranked.value for ranked in found.ranks}
    summary |= {f"{name}/kin_triplets": value for name, value in found.kin.items()}
    return {name: float(value) for name, value in summary.items() if np.isfinite(value)}


def tables_of(found: MeasuredDistances, *, neighbours: int) -> dict[str, Any]:
    """Name -> table, as the run writes them."""
    gallery, matrix = found.gallery, found.matrix()
    names, pictures = [item.id for item in gallery.collection], gallery.picture[: gallery.collected]
    first = {picture: names[pictures.index(picture)] for picture in gallery.shown}
    images = {
        "image": names,
        "file": [str(item.file) for item in gallery.collection],
        "duplicate_of": [
            "" if first[picture] == name else first[picture] for name, picture in zip(names, pictures, strict=True)
        ],
        "log_density": found.level,
        "sha256_of_pixels": [gallery.pictures[picture].id for picture in pictures],
    }
    near = [
        {"image": name, "rank": rank, "neighbour": names[other], "distance": matrix[row, other]}
        for row, name in enumerate(names)
        for rank, other in enumerate(nearest(matrix[row], row, neighbours), start=1)
    ]
    return {
        "distances": pd.DataFrame(matrix, index=pd.Index(names, name="image"), columns=names).reset_index(),
        "images": pd.DataFrame(images),
        "neighbours": pd.DataFrame(near),
        "known_changes": found.known,
        "ranks": pd.DataFrame([asdict(ranked) for ranked in found.ranks]),
        "results": found.results,
    }


def broken_paths(found: MeasuredDistances, folder: Path) -> str | None:
    """A sentence about the geodesics whose score was not finite, if there are any."""
    named = {picture: found.gallery.items[found.gallery.picture.index(picture)].id for picture in found.gallery.picture}
    broken = [
        f"{named[a]}--{named[b]}"
        for (a, b), leg in found.legs[GEODESIC].items()
        if leg.status == Status.NON_FINITE_SCORE.value
    ]
    return non_finite([f"{len(broken)} paths ({', '.join(broken[:5])})"] if broken else [], folder, GENTLER)
