"""What Hydra calls when a sweep ends: the jobs' runs are compared in the sweep's folder."""

import logging
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from latent_geodesics.command import exit_code
from latent_geodesics.errors import UserError

__all__ = ["CompareSweep"]

log = logging.getLogger(__name__)


class CompareSweep(Callback):
    """Compares the runs of a finished sweep, and holds the comparison against the sweep's expectations.

    Args:
        baseline: The method that differences refer to.
    """

    def __init__(self, *, baseline: str | None = None) -> None:
        self.baseline = baseline

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes the comparison beside the jobs."""
        # Hydra turns an exception of a callback into a warning; an exit it lets pass.
        folder = Path(config.hydra.sweep.dir)
        try:
            code = exit_code(lambda: self._compare(folder, config.expected))
        except Exception as error:  # noqa: BLE001 - whatever it is, Hydra would let the sweep end well
            traceback.print_exc()
            words = " ".join(f"{type(error).__name__}: {error}".split())
            sys.stderr.write(f"\nerror: The runs in '{folder}' are done, but comparing them failed ({words}).\n")
            code = 1
        if code:
            sys.exit(code)

    def _compare(self, folder: Path, expected: str | None) -> None:
        # Hydra makes its callbacks before every run, and most runs have no use for these.
        from latent_geodesics.comparison.report import write_comparison
        from latent_geodesics.comparison.run_files import CONFIG, RESULTS
        from latent_geodesics.comparison.runs import find_runs
        from latent_geodesics.comparison.shards import join_shards
        from latent_geodesics.expectations import hold

        if not any((file.parent / CONFIG).is_file() for file in folder.rglob(RESULTS)):
            if expected is not None:
                raise UserError(
                    f"The sweep in '{folder}' gave no table of results to hold against '{expected}': leave "
                    "`expected` out, or choose a task that has one."
                )
            log.warning("The sweep in '%s' gave nothing to compare: its task leaves no %s.", folder, RESULTS)
            return
        summary = write_comparison(folder, join_shards(find_runs([folder])), baseline=self.baseline)
        log.info("The comparison is in %s", folder / "report.html")
        if expected is not None:
            hold(Path(expected), summary)
