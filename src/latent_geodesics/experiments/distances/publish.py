"""Writes a run of distances: tables, figures, summary and report page."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import Status
from latent_geodesics.experiments.distances.embedding import Embedding, classical_mds
from latent_geodesics.experiments.distances.findings import DUPLICATE, Findings
from latent_geodesics.experiments.distances.page import draw_sections
from latent_geodesics.experiments.distances.sheet import nearest
from latent_geodesics.run.files import write_text
from latent_geodesics.run.markup import csv_text
from latent_geodesics.run.pages import write_page
from latent_geodesics.run.runner import Run

__all__ = ["publish"]


def publish(run: Run, findings: Findings, *, facts: Mapping[str, Any], neighbours: int) -> Mapping[str, float]:
    """Writes what was found into the run's folder; returns the summary.

    Raises:
        UserError: when the score of some path was not finite; everything that was found is written first.
    """
    matrix = findings.matrix()
    embedding = classical_mds(matrix) if np.isfinite(matrix).all() else None
    summary = _summary(findings, embedding)
    _tables(run, findings, matrix, neighbours)
    sections = draw_sections(run, findings, matrix, embedding, neighbours)
    write_page(
        run.folder,
        title="Geodesic distances between images",
        lead="How far apart images are when improbable regions are slow to cross: the length of the shortest path in "
        "the metric of the density of noisy latents, d(a, b) = min over paths of the integral of (p / p_ref)^-alpha "
        "along it. One condition, one sphere and one reference density serve all images.",
        facts={"images": findings.collected, "pairs": len(findings.rows)} | dict(facts),
        sections=sections,
    )
    run.logger.table("results", list(findings.rows.columns), findings.rows.to_numpy().tolist())
    for file in sorted((run.folder / "figures").glob("*.png")):
        run.logger.picture(file.stem, file)
    broken = [
        findings.gallery.items[findings.gallery.picture.index(a)].id
        + "--"
        + findings.gallery.items[findings.gallery.picture.index(b)].id
        for (a, b), leg in findings.survey.geodesics.items()
        if leg.status == Status.NON_FINITE_SCORE.value
    ]
    if broken:
        raise UserError(
            f"The score of {len(broken)} paths was not finite ({', '.join(broken[:5])}): the other results are in "
            f"'{run.folder}'; try a larger tau, a smaller alpha, or float32 weights."
        )
    return summary


def _summary(findings: Findings, embedding: Embedding | None) -> dict[str, float]:
    rows, loops = findings.rows, findings.loops
    solved = rows[rows["status"] != DUPLICATE]
    checks = findings.line_integrals
    finest = checks[checks["pieces"] == checks["pieces"].max()]
    summary = {
        "images": float(findings.collected),
        "pictures": float(len(findings.layout.shown)),
        "pairs": float(len(rows)),
        "duplicate_pairs": float((rows["status"] == DUPLICATE).sum()),
        "paths": float(len(findings.survey.geodesics)),
        "read_back": float(findings.survey.read_back),
        "converged": float(solved["status"].isin(Status.solved()).mean()) if len(solved) else 1.0,
        "evaluations_mean": float(solved["evaluations"].mean()) if len(solved) else 0.0,
        "levels_explain": findings.measured.levels.explained,
        "triangle_violations": float(findings.triangle_violations),
        "line_integral/covered": float(checks["covered"].min()),
        "line_integral/true_error": float(finest["true_error"].max()),
    }
    if len(solved):
        relative = solved["distance_error"] / solved["geodesic"]
        summary["quadrature_error_max"] = float(relative.max())
        ratio = solved["geodesic"] / solved["spherical"]
        summary |= {"over_arc_min": float(ratio.min()), "over_arc_max": float(ratio.max())}
    if len(loops):
        summary["loop_rms_nats"] = float(np.sqrt(np.square(loops).mean()))
    if len(findings.asymmetry):
        summary["asymmetry_max"] = float(findings.asymmetry.max())
        summary["coarseness_max"] = float(findings.coarseness.max())
    if embedding is not None:
        summary |= {
            "embedding/two_axes": float(embedding.shares.sum()),
            "embedding/negative": embedding.negative,
            "embedding/stress": embedding.stress,
        }
    for ranked in findings.ranks:
        summary[f"{ranked.distance}/{ranked.measure}"] = ranked.value
    return summary | {f"{name}/kin_triplets": value for name, value in findings.kin.items() if np.isfinite(value)}


def _tables(run: Run, findings: Findings, matrix: np.ndarray, neighbours: int) -> None:
    folder = run.folder
    names = findings.names
    tables = {
        "distances.csv": pd.DataFrame(matrix, index=pd.Index(names, name="image"), columns=names).reset_index(),
        "images.csv": _images(findings),
        "neighbours.csv": _neighbours(names, matrix, neighbours),
        "known_changes.csv": findings.known_rows,
        "ranks.csv": pd.DataFrame([asdict(ranked) for ranked in findings.ranks]),
        "line_integrals.csv": findings.line_integrals,
        "results.csv": findings.rows,
    }
    for name, table in tables.items():
        if len(table):
            write_text(folder / name, csv_text(table))


def _images(findings: Findings) -> pd.DataFrame:
    first: dict[int, str] = {}
    for number, picture in enumerate(findings.gallery.picture[: findings.collected]):
        first.setdefault(picture, findings.names[number])
    return pd.DataFrame(
        {
            "image": findings.names,
            "file": [str(item.file) for item in findings.gallery.items[: findings.collected]],
            "duplicate_of": [
                "" if first[picture] == name else first[picture]
                for name, picture in zip(findings.names, findings.gallery.picture, strict=False)
            ],
            "log_density": findings.level,
            "sha256_of_pixels": [findings.gallery.contents[picture] for picture in findings.gallery.picture][
                : findings.collected
            ],
        }
    )


def _neighbours(names: list[str], matrix: np.ndarray, count: int) -> pd.DataFrame:
    rows = []
    for row, name in enumerate(names):
        rows += [
            {"image": name, "rank": rank, "neighbour": names[other], "distance": matrix[row, other]}
            for rank, other in enumerate(nearest(matrix[row], row, count), start=1)
        ]
    return pd.DataFrame(rows)
