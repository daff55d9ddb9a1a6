"""The task that compares runs which are already there."""

from collections.abc import Mapping, Sequence

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.compare.report import write_comparison
from latent_geodesics.run.compare.runs import find_runs
from latent_geodesics.run.compare.shards import join_shards
from latent_geodesics.run.runner import Run


class CompareRuns:
    """Makes tables, curves and a page of run folders: `run.py task=report task.runs=[runs/a,runs/b]`.

    Args:
        runs: Folders of runs, or folders that hold such folders; or one.
        baseline: The method that differences and tests refer to; null for none.
        columns: Which columns of the results, in order; null for all that are known.

    Raises:
        UserError: where no run is named, one cannot be read, or none has a column.
    """

    def __init__(
        self, *, runs: Sequence[str] | str, baseline: str | None = "slerp", columns: Sequence[str] | str | None = None
    ) -> None:
        runs = [runs] if isinstance(runs, str) else runs
        columns = [columns] if isinstance(columns, str) else columns
        if not runs:
            raise UserError("No runs were named: give folders, as in task.runs=[runs/interpolation].")
        self.runs = join_shards(find_runs(runs))
        self.baseline, self.columns = baseline, columns

    def run(self, run: Run) -> Mapping[str, float]:
        """Writes the comparison into the run's folder; returns its summary."""
        summary = write_comparison(run.folder, self.runs, baseline=self.baseline, columns=self.columns)
        picture = run.folder / "figures" / "sweep.png"
        if picture.exists():
            run.logger.picture("sweep", picture)
        return summary
