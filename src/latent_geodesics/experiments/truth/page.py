"""The report page of a run against the truth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from latent_geodesics.experiments.truth.errors import ERRORS, OF_PATHS
from latent_geodesics.run.names import file_stem
from latent_geodesics.run.pages import Picture, Section, settings_of, write_page
from latent_geodesics.run.runner import Run

__all__ = ["gain_sentences", "write_truth_page"]


def write_truth_page(
    run: Run, *, table: pd.DataFrame, means: pd.DataFrame, gains: pd.DataFrame, references: Sequence[str], expected: int
) -> None:
    """Writes `report.html` into the run's folder, around the figures that are there; it has `expected` pairs in all."""
    config = run.config
    pairs = list(dict.fromkeys(table["pair"]))
    sections = [
        Section(
            title="Verdicts",
            text=gain_sentences(gains) or ["The run has no geodesic to compare with."],
        ),
        Section(
            title="Errors of every method",
            text=[
                "Means over the inner frames and then over the pairs, with 95 % intervals that resample pairs. Below "
                "the methods stand the references: the true frames after inversion to the noise level and decoding, "
                "which is what a path that met their latents would show; after the autoencoder alone; and as they are, "
                "which leaves the error of the measurement itself.",
            ],
            table=_wide(means, references, table),
        ),
        Section(
            title="Along the sequence",
            pictures=[Picture(file="figures/along.png", caption="Mean over the pairs; references in grey.")],
        ),
        Section(
            title="By kind of motion",
            pictures=[
                Picture(file="figures/groups.png", caption="Mean over the pairs of a kind; references as ticks.")
            ],
        ),
    ]
    if (run.folder / "figures" / "tracks.png").exists():
        sections.append(
            Section(
                title="Tracks over the floor",
                text=[
                    "Where each frame shows its objects, found in the image and carried to the floor by the camera "
                    "that is known to have taken the true frame.",
                ],
                pictures=[Picture(file="figures/tracks.png", caption="Broad grey line: the true course.")],
            )
        )
    sections += [
        Section(title=pair, pictures=[Picture(file=f"images/{file_stem(pair)}.png", caption="")]) for pair in pairs
    ]
    write_page(
        run.folder,
        title="How far sequences are from the true ones",
        lead="Between the two images of these pairs lies a motion whose frames are known. Every method sees the two "
        "images alone; its frames are held against the true ones at the same positions.",
        facts={"pairs": len(pairs) if len(pairs) == expected else f"{len(pairs)} of {expected}: not finished"}
        | settings_of(config, "condition", "tau", "alpha", "frames", "seed"),
        sections=sections,
    )


def gain_sentences(gains: pd.DataFrame) -> list[str]:
    """A sentence for each rival: on which errors the geodesic is nearer to the truth, further, or neither."""
    sentences: list[str] = []
    if gains.empty:
        return sentences
    for other, rows in gains.groupby("other", sort=False):
        parts = []
        for words in ("nearer", "further", "not told apart"):
            named = [
                f"{ERRORS[row['error']]} ({row['wins']} of {row['pairs']} pairs)"
                for _, row in rows[rows["verdict"] == words].iterrows()
            ]
            if named:
                parts.append(f"{words}: {'; '.join(named)}")
        said = ". ".join(part[0].upper() + part[1:] for part in parts)
        sentences.append(f"Geodesic against {str(other).replace('_', ' ')}. {said}.")
    return sentences


def _wide(means: pd.DataFrame, references: Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    """A row a method, a column an error: mean and interval; the methods first; then what is known of their paths."""
    known = [name for name in OF_PATHS if name in table]
    of_paths = table.groupby("method")[known].mean()
    methods = list(dict.fromkeys(means["method"]))
    ordered = [name for name in methods if name not in references] + [name for name in methods if name in references]
    rows = []
    for method in ordered:
        of_method = means[means["method"] == method].set_index("error")
        cells = {"method": method.replace("_", " ")}
        for error in ERRORS:
            if error in of_method.index:
                row = of_method.loc[error]
                cells[ERRORS[error]] = f"{row['mean']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        paths = {OF_PATHS[name]: of_paths.loc[method, name] for name in known}
        rows.append(cells | {title: f"{value:.3g}" for title, value in paths.items() if np.isfinite(value)})
    return pd.DataFrame(rows).fillna("-")
