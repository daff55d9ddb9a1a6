"""What a bench leaves in its run's folder: a table of all numbers, and a page."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from latent_geodesics.experiments.bench.record import BenchRecord
from latent_geodesics.run.files import write_text
from latent_geodesics.run.markup import csv_text
from latent_geodesics.run.pages import Page


def write_bench_table(folder: Path, record: BenchRecord) -> pd.DataFrame:
    """Writes `results.csv`: a row a number, as it is now and as it was before."""
    table = pd.DataFrame(
        [
            {"number": name, "now": value, "before": before, "change": value / before - 1 if before else None}
            for name, value in record.numbers.items()
            for before in [record.before.get(name)]
        ]
    )
    write_text(folder / "results.csv", csv_text(table))
    return table


def write_bench_page(folder: Path, record: BenchRecord, *, ratios: Mapping[str, str]) -> None:
    """Writes `results.csv` and `report.html`.

    Args:
        folder: The run's folder.
        record: What was measured.
        ratios: Number -> words, of those that stand first.
    """
    table = write_bench_table(folder, record)
    first = pd.DataFrame(
        [
            {"ratio": words, "value": record.numbers.get(name), "before": record.before.get(name)}
            for name, words in ratios.items()
        ]
    )
    spent = pd.DataFrame([{"stage": name, "seconds": seconds} for name, seconds in record.stages.items()])
    page = Page(
        "Speed",
        "What the machinery around the network costs on this machine, and against the runs before on such a one.",
        {"best raw rate, latents a second": round(record.numbers["raw/best"], 1)},
    )
    page.section("Ratios", table=first)
    page.section("All numbers", table=table)
    page.section("What measuring took", table=spent)
    page.write(folder)
