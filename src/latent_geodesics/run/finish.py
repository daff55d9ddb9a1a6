"""The end of a run: its page and tables on disk, and told to its logger."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pandas as pd

from latent_geodesics.run.files import write_text
from latent_geodesics.run.markup import csv_text

if TYPE_CHECKING:
    from latent_geodesics.run.runner import Run

__all__ = ["PageLike", "publish"]

LOGGED = "results"


class PageLike(Protocol):
    """A report that can be written into a run's folder."""

    def write(self, folder: Path) -> None:
        """Writes `report.html`."""
        ...


def publish(run: "Run", page: PageLike, extra: Mapping[str, pd.DataFrame]) -> None:
    """Writes tables and page, and tells the logger of `results.csv` and of every picture in the folder."""
    folder = run.folder
    for name, table in extra.items():
        if len(table):
            write_text(folder / f"{name}.csv", csv_text(table))
    page.write(folder)
    results = folder / f"{LOGGED}.csv"
    if results.is_file():
        table = pd.read_csv(results)
        run.logger.table(LOGGED, list(table.columns), table.to_numpy().tolist())
    for place in ("figures", "images"):
        for file in sorted((folder / place).glob("*.png")):
            run.show(f"{place}/{file.name}")
