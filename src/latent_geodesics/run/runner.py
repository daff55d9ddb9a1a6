"""The life of a run: check the configuration, claim the folder, build the task, run it, write what came of it.

A run's folder holds `config.yaml` (resolved), `environment.json`, `summary.json` and whatever its task writes.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.config import Settings, is_part_of_a_sweep, settle
from latent_geodesics.run.expectations import hold
from latent_geodesics.run.files import write_json, write_text
from latent_geodesics.run.inputs import check_inputs, check_kinds
from latent_geodesics.run.launch import ALONE, RunProcess, cluster, dismiss, join, lead, refuse
from latent_geodesics.run.run_folder import (
    CONFIG,
    IN_FORCE,
    InputFiles,
    claimed,
    complete,
    describe_environment,
    finished,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    import pytorch_lightning as pl
    import torch

    from latent_geodesics.run.each import Content, Item, Rows, Tables
    from latent_geodesics.run.pages import Page, PageLike
    from latent_geodesics.run.sequences import Films
    from latent_geodesics.run.tracking import RunLogger

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a task is given: where it writes, what its random numbers follow from, who listens, who trains.

    `leads` is false in all processes of a run but the first: they work on their share and write no more than that;
    `place` says which this is. `inputs` gathers the files that the run reads.
    """

    folder: Path
    seed: int
    logger: "RunLogger"
    trainer_options: Mapping[str, Any]
    config: Mapping[str, Any]
    films: "Films"
    leads: bool = True
    place: RunProcess = ALONE
    shown: set[str] = field(default_factory=set, repr=False)
    inputs: InputFiles = field(default_factory=InputFiles, repr=False)

    def show(self, file: str) -> None:
        """Tells the logger of a picture in `figures/` or `images/` of the run's folder, once."""
        place, _, name = file.rpartition("/")
        prefix = {"images": "strips/", "figures": ""}.get(place)
        if prefix is not None and name.endswith(".png") and file not in self.shown:
            self.shown.add(file)
            self.logger.picture(f"{prefix}{name.removesuffix('.png')}", self.folder / file)

    def trainer(self, **options: Any) -> "pl.Trainer":
        """Lightning's Trainer by the configuration's trainer group; `options` win over it."""
        import pytorch_lightning as pl
        from lightning_fabric.utilities.exceptions import MisconfigurationException

        chosen = {"default_root_dir": str(self.folder), "logger": self.logger.lightning} | dict(self.trainer_options)
        plugins = [cluster(self.place), *options.pop("plugins", ())]
        try:
            return pl.Trainer(**(chosen | options), plugins=plugins)
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise UserError(
                f"Lightning refuses the options of `trainer`: {' '.join(str(error).split()).rstrip('.')}."
            ) from error

    def each(
        self,
        batches: "Sequence[Sequence[Item]]",
        work: "Callable[[Content], Rows]",
        *,
        read: "Callable[[Sequence[Item]], Content]",
        made_with: Mapping[str, str],
        name: str = "batches",
        last: bool = True,
    ) -> "Tables":
        """Does the batches that the run's folder does not have yet, in all of the run's processes.

        Args:
            batches: All of the run's items, in batches. What makes a batch must not depend on what is done.
            work: What is done with a batch; with the same numbers in however many processes.
            read: What makes of a batch's items what is worked on.
            made_with: What the numbers depend on besides the configuration, such as the hashes of the weights.
            name: Of the list, where a run has several: what is finished is kept in a folder of that name.
            last: Whether no other list follows, so that the processes part when this one is done.

        Returns:
            What all finished batches gave; in all processes but the first, what there is.

        Raises:
            KeyboardInterrupt: when the run was interrupted before its first batch was done. One that is interrupted
                later returns, and `Run.finish` ends it when all that was found is on the page.
            UserError: when the folder holds a batch that was made with something else or of other items.
        """
        import torch

        from latent_geodesics.data import Batches
        from latent_geodesics.run.each import BatchStore, Loop, Tables

        queue = Batches(batches=batches, read=read)
        sources = [{name: self.inputs.told(of) for name, of in batch.items()} for batch in queue.sources]
        store = BatchStore(folder=self.folder, name=name, made_with=made_with, expected=queue.ids, sources=sources)
        queue.done = store.finished()
        if queue.left:
            if queue.done:
                log.info("Going on with '%s': %d of %d batches are done.", self.folder, len(queue.done), len(batches))
            module = Loop(run=self, work=work, store=store, names=queue.titles)
            trainer = self.trainer(
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=False,  # it counts batches, and says nothing while one is at work
                use_distributed_sampler=False,  # the batches are shared out already, none of them twice
            )
            try:
                trainer.test(module, datamodule=queue, verbose=False)
            except SystemExit:  # Lightning's answer to an interrupt: what was finished is still to be put together
                log.info("Interrupted: what is finished is put together.")
        tables = Tables(store.read(), batches=queue.ids)
        if torch.distributed.is_initialized() and (last or not tables.whole):
            # All is on disk. The first process puts it together alone, which metrics would take for a sum over them.
            torch.distributed.destroy_process_group()
        if self.leads:
            if not tables.whole and not tables.items[0]:
                raise KeyboardInterrupt
            tables.write(self.folder)
        return tables

    def rows(self) -> "Rows":
        """What the work on a batch gives, empty yet."""
        from latent_geodesics.run.each import Rows

        return Rows(folder=self.folder, films=self.films)

    def page(self, title: str, lead: str, *settings: str, **facts: Any) -> "Page":
        """The run's report, empty yet, with facts and, of the configuration, some settings at its head."""
        from latent_geodesics.run.pages import Page, settings_of

        return Page(title, lead, facts | settings_of(self.config, *settings))

    def finish(
        self,
        page: "PageLike",
        tables: "Tables | None" = None,
        *,
        summary: Mapping[str, float],
        broken: str | None = None,
        **extra: "pd.DataFrame",
    ) -> Mapping[str, float]:
        """Writes page and tables, tells the logger of all tables and pictures, and ends the run.

        Args:
            page: The report.
            tables: What `each` gave.
            summary: Name -> number, handed back.
            broken: What did not work, so that the run fails although the rest was written.
            extra: Further tables, written as `<name>.csv` where they have rows.

        Raises:
            KeyboardInterrupt: when the run was interrupted before its last item.
            UserError: of `broken`.
        """
        from latent_geodesics.run.files import csv_text

        for name, table in extra.items():
            if len(table):
                write_text(self.folder / f"{name}.csv", csv_text(table))
        page.write(self.folder)
        results = tables["results"] if tables is not None else extra.get("results")
        if results is not None:
            self.logger.table("results", list(results.columns), results.to_numpy().tolist())
        for place in ("figures", "images"):
            for file in sorted((self.folder / place).glob("*.png")):
                self.show(f"{place}/{file.name}")
        if tables is not None and not tables.whole:
            raise KeyboardInterrupt
        if broken:
            raise UserError(broken)
        return summary

    def one_cuda_device(self) -> "torch.device | None":
        """The CUDA device on which the trainer's options put the whole of the work, if it is one."""
        trainer = self.trainer(logger=False, enable_checkpointing=False)
        device: torch.device = trainer.strategy.root_device
        return device if device.type == "cuda" and trainer.world_size == 1 else None

    def record_environment(self, *, weights: Mapping[str, str], machinery: Mapping[str, Any] | None = None) -> None:
        """Writes `environment.json`: versions, commit, seed, hashes of the weights, what the network runs on.

        What of the latter was chosen by a rule, where the configuration left it to one, is put into `config.yaml`.
        """
        if not self.leads:
            return
        if machinery:
            in_force = {name: machinery[name] for name in ("device", "dtype", "layout")}
            write_text(self.folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create({**self.config, IN_FORCE: in_force})))
        write_json(
            self.folder / "environment.json",
            describe_environment(seed=self.seed, weights=weights, machinery=machinery or {}),
        )


class Task(Protocol):
    """One kind of run. `run` writes into the run's folder and returns its summary, a flat name -> number.

    A class with `shares_work = True` hands its work to `Run.trainer`, whose processes share it; others use one process.
    """

    def run(self, run: Run) -> Mapping[str, float]:
        """Does the work."""
        ...


def execute(config: DictConfig) -> Mapping[str, float]:
    """Runs a composed configuration from beginning to end and returns its summary.

    A run that is finished already is not done again: the same command may be given until all of it is done, and a sweep
    goes on where it was killed.

    Raises:
        UserError: when the configuration is wrong, or the output folder already holds another run.
    """
    check_inputs(config)
    settings = settle(config)
    if settings.place.leads and (known := finished(settings)) is not None:
        log.info("The run in '%s' is finished already: nothing is done again.", settings.output_dir)
        dismiss(settings.place)
        _hold(settings, known)
        return known
    with _shared(settings) as folder:
        if folder is None:
            return {}
        data = _data(settings)
        with _logger(settings, folder) as logger:
            run = _begin(settings, folder, logger)
            task = _task(settings, data)
            _check_sharing(settings, task)
            summary = task.run(run)
            if run.leads:
                run.inputs.add_named(settings.task.get("data"))
                complete(folder, summary, inputs=run.inputs.hashes)
                logger.summary(summary)
                _hold(settings, summary)
                log.info("The results are in %s", folder)
    return summary


@contextmanager
def _shared(settings: Settings) -> Iterator[Path | None]:
    """The run's folder, which the first process claims and the others hear of from it, or why there is none.

    None in a process to which nothing is left to do.
    """
    if not settings.place.leads:
        yield join(settings.place)
        return
    with ExitStack() as held:
        try:
            folder = held.enter_context(claimed(settings))
        except UserError as error:
            refuse(settings.place, str(error))
            raise
        held.enter_context(lead(settings.place, folder))
        yield folder


@contextmanager
def _logger(settings: Settings, folder: Path) -> Iterator["RunLogger"]:
    """Who hears of the run, closed when it ends; nobody in all processes but the first."""
    from latent_geodesics.run.tracking import RunLogger

    logger = RunLogger()
    if settings.place.leads:
        logger = instantiate(settings.logger, _partial_=True)(folder=folder, record=settings.resolved)
    succeeded = False
    try:
        yield logger
        succeeded = True
    finally:
        logger.close(succeeded=succeeded)


def _data(settings: Settings) -> dict[str, Any]:
    """The task's data, made before all else: what they name is found missing before heavy libraries are imported."""
    described = settings.task.get("data")
    if not isinstance(described, Mapping) or "_target_" not in described:
        return {}
    check_kinds("data", described)
    made: dict[str, Any] = instantiate({"data": dict(described)}, _convert_="all")
    return made


def _task(settings: Settings, data: Mapping[str, Any]) -> Task:
    described = {name: value for name, value in settings.task.items() if name not in data}
    check_kinds("task", described, settings.resolved)
    make = instantiate(described, _partial_=True, _convert_="all")
    try:
        task: Task = make(**data)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise InstantiationException(f"{error}\nfull_key: task") from error  # as Hydra does for all that it makes
    return task


def _begin(settings: Settings, folder: Path, logger: "RunLogger") -> Run:
    """What the task is given, when Lightning is ready for it."""
    import pytorch_lightning as pl

    from latent_geodesics.run.sequences import Films

    _quiet_lightning()
    _check_accelerator(settings.trainer.get("accelerator", "auto"))
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    run = Run(
        folder=folder,
        seed=settings.seed,
        logger=logger,
        trainer_options=settings.trainer,
        config=settings.resolved,
        films=Films(fps=settings.resolved.get("fps", 12), format=settings.resolved.get("format", "mp4")),
        leads=settings.place.leads,
        place=settings.place,
    )
    run.record_environment(weights={})
    return run


def _check_sharing(settings: Settings, task: Task) -> None:
    """Refuses several processes for a task that works in one, or says that they have no effect."""
    if getattr(task, "shares_work", False):
        return
    if settings.place.world > 1:
        raise UserError(
            f"This task works in one process, and {settings.place.starter} started {settings.place.world}: start it by "
            "itself, without a launcher."
        )
    devices = settings.trainer.get("devices", 1)
    if isinstance(devices, int) and devices > 1:
        log.warning("trainer.devices=%d has no effect: this task works in one process.", devices)


def _hold(settings: Settings, summary: Mapping[str, float]) -> None:
    """Holds the summary against what is expected of this run; a sweep is held against it as a whole."""
    if settings.expected is not None and not is_part_of_a_sweep():
        hold(settings.expected, summary)


def _check_accelerator(name: Any) -> None:
    """Refuses an accelerator that Lightning does not know or this machine does not have, before anything is loaded."""
    from pytorch_lightning.accelerators import AcceleratorRegistry

    known = {
        str(kind): AcceleratorRegistry[kind]["accelerator"] for kind in AcceleratorRegistry.available_accelerators()
    }
    groups = {"auto": list(known), "gpu": ["cuda", "mps"]} | {kind: [kind] for kind in known}
    if not isinstance(name, str) or name not in groups:
        raise UserError(f"trainer.accelerator must be one of {', '.join(sorted(groups))}; got {name!r}.")
    if not any(known[kind].is_available() for kind in groups[name]):
        raise UserError(
            f"trainer.accelerator={name} was asked for and this machine has none: use trainer.accelerator=auto or cpu."
        )


def _quiet_lightning() -> None:
    """Keeps what Lightning says of devices, processes and products, and a deprecation of its own, out of the way."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
