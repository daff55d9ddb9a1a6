"""What Hydra calls when a sweep ends: the jobs' runs are compared in the sweep's folder.

The folder may hold jobs of an earlier sweep as well: each job of this one says so in the folder, wherever it runs.
"""

import logging
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.files import is_partial
from latent_geodesics.run.main import exit_code

log = logging.getLogger(__name__)

JOBS = ".jobs"
"""In a sweep's folder: a file for each of its jobs, by its number."""


class CompareSweep(Callback):
    """Compares the runs of a finished sweep, and holds the comparison against the sweep's expectations.

    Args:
        baseline: The method that differences refer to.
    """

    def __init__(self, *, baseline: str | None = None) -> None:
        self.baseline = baseline

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begins the list of the sweep's jobs."""
        # The folder's name refers to Hydra's own settings, which Hydra makes known for jobs only.
        HydraConfig.instance().set_config(config)
        code = exit_code(lambda: _begin(Path(config.hydra.sweep.dir)))
        if code:
            sys.exit(code)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Puts a job on the list; called where it runs."""
        if config.hydra.mode == RunMode.MULTIRUN:
            (Path(config.hydra.sweep.dir) / JOBS / str(config.hydra.job.num)).touch()

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
        from latent_geodesics.run.compare.report import write_comparison
        from latent_geodesics.run.compare.run_files import CONFIG, RESULTS
        from latent_geodesics.run.compare.runs import find_runs
        from latent_geodesics.run.compare.shards import join_shards
        from latent_geodesics.run.expectations import hold

        jobs = _jobs(folder)
        if not any((file.parent / CONFIG).is_file() for job in jobs for file in job.rglob(RESULTS)):
            if expected is not None:
                raise UserError(
                    f"The sweep in '{folder}' gave no table of results to hold against '{expected}': leave "
                    "`expected` out, or choose a task that has one."
                )
            log.warning("The sweep in '%s' gave nothing to compare: its task leaves no %s.", folder, RESULTS)
            return
        summary = write_comparison(folder, join_shards(find_runs(jobs)), baseline=self.baseline)
        log.info("The comparison is in %s", folder / "report.html")
        if expected is not None:
            hold(Path(expected), summary)


def _begin(folder: Path) -> None:
    """Makes an empty list of jobs in a sweep's folder.

    Raises:
        UserError: when the folder holds files that are no sweep's.
    """
    if not str(folder).strip() or folder == Path():
        raise UserError("output_dir is empty, which would be the folder you stand in: name a folder of its own.")
    known = folder.is_dir() and ((folder / JOBS).exists() or (folder / "0" / "config.yaml").exists())
    foreign = (
        [] if known or not folder.is_dir() else [entry.name for entry in folder.iterdir() if not is_partial(entry)]
    )
    if foreign:
        raise UserError(
            f"The output folder '{folder}' holds files that are no sweep's ({', '.join(sorted(foreign)[:3])}), which "
            "the comparison would overwrite: choose another output_dir."
        )
    shutil.rmtree(folder / JOBS, ignore_errors=True)
    (folder / JOBS).mkdir(parents=True)


def _jobs(folder: Path) -> list[Path]:
    """The folders of the jobs of the sweep that just ended, in order, as far as they hold a table."""
    if not (folder / JOBS).is_dir():
        return [folder]
    numbers = sorted(int(entry.name) for entry in (folder / JOBS).iterdir())
    jobs = [folder / str(number) for number in numbers]
    found = [job for job in jobs if any(job.rglob("results.csv"))]
    if found and len(found) < len(jobs):
        lost = ", ".join(job.name for job in jobs if job not in found)
        log.warning("The jobs %s of the sweep left no table and are not compared.", lost)
    return found or [folder]
