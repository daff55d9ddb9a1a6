"""The report page of a run of distances: its figures with what they show, in words."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from latent_geodesics.core.records import Status
from latent_geodesics.data.images import as_uint8
from latent_geodesics.experiments.distances import figures
from latent_geodesics.experiments.distances.embedding import Embedding
from latent_geodesics.experiments.distances.figures import NAMES
from latent_geodesics.experiments.distances.findings import DUPLICATE, Findings
from latent_geodesics.experiments.distances.sheet import save_neighbours
from latent_geodesics.run.pages import Picture, Section
from latent_geodesics.run.runner import Run

__all__ = ["draw_sections", "verdicts"]

FEWEST = 5

MEASURES = {
    "family_spearman": "the frames of a motion by how far apart they are (Spearman)",
    "family_triplets": "the frames of a motion, triplet by triplet",
    "grade_kendall": "pairs by their difficulty (Kendall's tau-b)",
}


def draw_sections(
    run: Run, findings: Findings, matrix: np.ndarray, embedding: Embedding | None, neighbours: int
) -> list[Section]:
    """Draws every figure into the run's folder; returns the sections of the page around them."""
    folder = run.folder / "figures"
    pictures = list(as_uint8(findings.gallery.pictures[list(findings.gallery.picture[: findings.collected])]))
    sections = []
    if embedding is not None:
        figures.draw_embedding(folder / "embedding.png", embedding, pictures, findings.families)
        figures.draw_heat_map(folder / "heat_map.png", matrix, pictures)
        sections += [_embedding_section(embedding), _matrix_section()]
    save_neighbours(folder / "neighbours.png", matrix, pictures, findings.names, count=neighbours)
    sections.append(_neighbour_section())
    if np.isfinite(findings.level).all():
        figures.draw_levels(folder / "levels.png", findings.level, pictures)
        sections.append(_level_section(findings))
    if findings.ranks:
        table = pd.DataFrame([asdict(ranked) for ranked in findings.ranks])
        figures.draw_ranks(folder / "ranks.png", table, findings.motions)
        sections.append(_rank_section(findings, table))
    solved = findings.rows[findings.rows["status"] != DUPLICATE]
    figures.draw_reliability(
        folder / "reliability.png",
        loops=findings.loops,
        asymmetry=findings.asymmetry,
        matrix=solved["geodesic"].to_numpy(float),
        arcs=solved["spherical"].to_numpy(float),
    )
    figures.draw_line_integrals(folder / "line_integrals.png", findings.line_integrals)
    return [*sections, _trust_section(findings), _exactness_section(findings), _status_section(findings)]


def _embedding_section(embedding: Embedding) -> Section:
    return Section(
        title="The images in a plane",
        text=[
            f"Classical multidimensional scaling of the matrix. The two axes hold {embedding.shares.sum():.0%} of it "
            f"(stress {embedding.stress:.2f}); negative eigenvalues, which no points in flat space have, hold "
            f"{embedding.negative:.0%}. Lines join images of one family in their order.",
        ],
        pictures=[Picture(file="figures/embedding.png", caption="Every image at its place in the embedding.")],
    )


def _matrix_section() -> Section:
    return Section(
        title="The matrix",
        text=["All numbers are in distances.csv, what is behind each of them in results.csv."],
        pictures=[Picture(file="figures/heat_map.png", caption="Geodesic distance between every two images.")],
    )


def _neighbour_section() -> Section:
    return Section(
        title="Nearest neighbours",
        text=["Each image (framed), then those nearest to it with their geodesic distances; see neighbours.csv."],
        pictures=[Picture(file="figures/neighbours.png", caption="Nearest on the left.")],
    )


def _level_section(findings: Findings) -> Section:
    loops = findings.loops
    closure = ""
    if len(loops):
        root_mean_square = np.sqrt(np.square(loops).mean())
        closure = f" Around a loop of three images it sums to {root_mean_square:.1f} nats (root mean square), "
        closure += "where a gradient gives 0."
    return Section(
        title="How probable each image is",
        text=[
            "Paths give differences of log-density; the levels are their least-squares fit, which explains "
            f"{findings.measured.levels.explained:.0%} of the differences' sum of squares.{closure} "
            "What a path misses of the difference of its ends is spread evenly along it.",
        ],
        pictures=[Picture(file="figures/levels.png", caption="The images by their log-density.")],
    )


def _rank_section(findings: Findings, table: pd.DataFrame) -> Section:
    shown = table[table["measure"].isin(MEASURES)]
    cells = []
    for name in dict.fromkeys(shown["distance"]):
        cell: dict[str, str | float] = {"distance": NAMES[name], "nearer to kin": findings.kin[name]}
        for row in shown[shown["distance"] == name].to_dict("records"):
            cell[MEASURES[row["measure"]]] = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        cells.append(cell)
    return Section(
        title="Does it rank changes by their true size?",
        text=[
            *verdicts(table),
            "Values with 95 % intervals; 'nearer to kin': how often an image of the collection is "
            "nearer to one of its own family than to one of another.",
        ],
        pictures=[
            Picture(
                file="figures/ranks.png",
                caption="Right: how each distance grows along a motion; the dashed line grows evenly.",
            )
        ],
        table=pd.DataFrame(cells),
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
        for _, row in rows.iterrows():
            sign = (
                "better than"
                if row["gain_low"] > 0
                else "worse than"
                if row["gain_high"] < 0
                else "not told apart from"
            )
            groups[sign].append(f"{NAMES[row['distance']]} ({row['gain']:+.3f})")
        said = "; ".join(f"{sign} {', '.join(names)}" for sign, names in groups.items() if names)
        sentences.append(f"Ranking {words}, on {count} {unit}, the geodesic distance is {said}.")
    return sentences


def _trust_section(findings: Findings) -> Section:
    solved = findings.rows[findings.rows["status"] != DUPLICATE]
    said = []
    if len(findings.asymmetry):
        said.append(
            f"{len(findings.asymmetry)} pairs solved in both directions differ by at most "
            f"{findings.asymmetry.max():.1e} of the distance, and by at most {findings.coarseness.max():.1e} from a "
            "finer solver."
        )
    if len(solved):
        share = float((solved["distance_error"] / solved["geodesic"]).max())
        said.append(f"The quadrature states an error of at most {share:.1e} of the distance.")
    said.append(
        f"{findings.triangle_violations} pairs are further apart than a detour over a third image."
        if findings.triangle_violations
        else "No detour over a third image is shorter than a distance."
    )
    return Section(
        title="How far to trust the numbers",
        text=[" ".join(said)],
        pictures=[Picture(file="figures/reliability.png", caption="Closure, symmetry, and what the density changes.")],
    )


def _exactness_section(findings: Findings) -> Section:
    checks = findings.line_integrals
    return Section(
        title="The line integral against exact log-densities",
        text=[
            "The same quadrature on densities whose logarithm is known, along wavy paths, in nats. Its stated error "
            f"holds at {checks['covered'].min():.1%} of the positions or more.",
        ],
        pictures=[
            Picture(file="figures/line_integrals.png", caption="Below the dashed line the true error is smaller.")
        ],
        table=checks,
    )


def _status_section(findings: Findings) -> Section:
    counts = findings.rows["status"].value_counts()
    words = {status.value: status.sentence for status in Status} | {
        DUPLICATE: "Both images show the same picture; their distance is 0 by definition."
    }
    rows = [{"status": name, "pairs": int(counts[name]), "what it means": words[str(name)]} for name in counts.index]
    return Section(title="How the paths ended", table=pd.DataFrame(rows))
