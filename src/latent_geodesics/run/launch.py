"""Which process of a run this is: the only one, one that Lightning started beside the first, or one of a launcher's.

A rank in the environment is trusted only where it is one of a world that this run asks for: `torchrun` and `srun` may
start the processes that share a run, and then all of them must write into one folder, whose name (there is a clock in
it) the first tells the others. Variables that a shell, a notebook or a cluster's batch job left behind say nothing.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.hydra_config import HydraConfig

from latent_geodesics.core.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from torch.distributed import Store  # type: ignore[attr-defined]

log = logging.getLogger(__name__)

FIRST = "LATENT_GEODESICS_FIRST_PROCESS"
"""Set for the processes that Lightning starts: the number of the process that starts them, and the run's folder."""
RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
PATIENCE = 180.0  # seconds that processes of a launcher wait for one another
PORTS = range(20_000, 30_000)


@dataclass(frozen=True, kw_only=True)
class RunProcess:
    """A process among those of its run.

    Attributes:
        rank: Its number, from 0; the first claims the folder, logs and sums up.
        world: How many processes a launcher started for this run; 1 where Lightning starts the others, if any.
        starter: Who started it.
        folder: The run's folder, as far as it is known already.
    """

    rank: int = 0
    world: int = 1
    starter: Literal["user", "lightning", "torchrun", "srun"] = "user"
    folder: Path | None = None

    @property
    def leads(self) -> bool:
        """Whether it is the first, or the only one."""
        return self.rank == 0


ALONE = RunProcess()


def find_place(trainer: Mapping[str, Any]) -> RunProcess:
    """The place of this process, by the environment and by how many processes the trainer's options ask for.

    What the environment says besides is taken out of it, since libraries would believe it.

    Raises:
        UserError: when a launcher started another number of processes than are asked for.
    """
    place = _lightning_child() or _of_torchrun(trainer) or _of_srun(trainer)
    if place is None:
        if int(trainer.get("num_nodes", 1)) > 1:
            raise UserError(
                f"trainer.num_nodes={trainer['num_nodes']}: start one process for each device by torchrun or srun, "
                "with as many as trainer.devices x trainer.num_nodes."
            )
        stray = [name for name in RANKS if os.environ.pop(name, None) is not None]
        if "LOCAL_RANK" in stray and FIRST not in os.environ:
            log.warning("LOCAL_RANK is set, but no launcher started this process: it is the only one of its run.")
        place = ALONE
    return place


def cluster(place: RunProcess) -> "ClusterEnvironment":
    """What tells Lightning's trainer the place, whatever else stands in the environment."""
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from pytorch_lightning.utilities import rank_zero_only

    rank_zero_only.rank = place.rank  # type: ignore[attr-defined]
    return TorchElasticEnvironment() if place.world > 1 else LightningEnvironment()


@contextmanager
def lead(place: RunProcess, folder: Path) -> Iterator[None]:
    """While it lasts, this process is the first of its run in `folder`, and the others know."""
    os.environ[FIRST] = f"{os.getpid()}:{folder.absolute()}"
    try:
        if place.world > 1:
            _tell(place, "folder", str(folder.absolute()))
        yield
    finally:
        os.environ.pop(FIRST, None)
        if place.world == 1:
            for name in RANKS:  # Lightning's, which the next run of a sweep must not take for its own
                os.environ.pop(name, None)


def refuse(place: RunProcess, sentence: str) -> None:
    """Tells the other processes of a launcher why there is no run."""
    if place.world > 1:
        _tell(place, "refusal", sentence)


def dismiss(place: RunProcess) -> None:
    """Tells the other processes of a launcher that there is nothing left to do."""
    if place.world > 1:
        _tell(place, "nothing", "")


def join(place: RunProcess) -> Path | None:
    """The folder of the run in which this process is not the first; waits until the first has claimed it.

    None if there is nothing left to do.

    Raises:
        UserError: when the first says why there is no run, or says nothing.
    """
    if place.folder is not None:
        return place.folder
    store = _meet(place)
    try:
        store.wait(["said"], timedelta(seconds=PATIENCE))
        kind, _, text = store.get("said").decode().partition(":")
        port = store.get("port").decode()
        store.add("heard", 1)
    except RuntimeError as error:
        raise UserError(_alone(place)) from error
    _leave_own_folder(Path(text) if kind == "folder" else None, place.rank)
    if kind == "refusal":
        raise UserError(text)
    os.environ["MASTER_PORT"] = port
    return Path(text) if kind == "folder" else None


def _lightning_child() -> RunProcess | None:
    parent, _, folder = os.environ.get(FIRST, "").partition(":")
    if not folder or "LOCAL_RANK" not in os.environ or parent != str(os.getppid()):
        return None
    return RunProcess(rank=int(os.environ["LOCAL_RANK"]), starter="lightning", folder=Path(folder))


def _of_torchrun(trainer: Mapping[str, Any]) -> RunProcess | None:
    """The place that torchrun, or whoever sets the same variables, gave this process."""
    rank, world, local = (_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if rank is None or world is None or local is None or world == 1:
        return None
    if not 0 <= local <= rank < world:
        raise UserError(
            f"RANK={rank}, LOCAL_RANK={local} and WORLD_SIZE={world} in the environment contradict each other: unset "
            "them, or let torchrun set them."
        )
    if world != _wanted(trainer):
        raise UserError(
            f"The launcher started {world} processes, but the run asks for {_wanted(trainer)}: give "
            f"trainer.devices={world}, or start it by itself, without a launcher."
        )
    _check_strategy(trainer, "torchrun")
    return RunProcess(rank=rank, world=world, starter="torchrun")


def _of_srun(trainer: Mapping[str, Any]) -> RunProcess | None:
    """The place that srun gave this process, if its tasks are as many as this run asks for.

    Tasks that are not are runs of their own, such as the shards of a large one.
    """
    rank, local = _number("SLURM_PROCID"), _number("SLURM_LOCALID")
    world = _number("SLURM_STEP_NUM_TASKS") or _number("SLURM_NTASKS")
    if rank is None or local is None or world is None or world == 1 or world != _wanted(trainer):
        return None
    _check_strategy(trainer, "srun")
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or "127.0.0.1"
    job, step = (_number(name) or 0 for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(world),
        "GROUP_RANK": os.environ.get("SLURM_NODEID", "0"),
        "MASTER_ADDR": SLURMEnvironment.resolve_root_node_address(nodes),
        "MASTER_PORT": str(PORTS[(31 * job + step) % len(PORTS)]),
    }
    return RunProcess(rank=rank, world=world, starter="srun")


def _wanted(trainer: Mapping[str, Any]) -> int:
    """How many processes the trainer's options ask for."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, list | tuple):
        each = len(devices)
    elif str(devices).lstrip("-").isdigit() and int(devices) > 0:
        each = int(devices)
    else:  # as many as there are
        import torch

        each = max(1, torch.cuda.device_count())
    return each * int(trainer.get("num_nodes", 1))


def _check_strategy(trainer: Mapping[str, Any], launcher: str) -> None:
    strategy = str(trainer.get("strategy", "auto"))
    if strategy.endswith(("_spawn", "_fork", "_notebook")):
        raise UserError(
            f"trainer.strategy={strategy} starts processes of its own: give trainer.strategy=ddp where {launcher} "
            "starts them."
        )


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else None


def _tell(place: RunProcess, kind: str, text: str) -> None:
    """Tells all others one thing and waits until they have heard it."""
    store = _meet(place)
    try:
        # A launcher that keeps a store of its own keeps the port; else the one that was met at is about to close.
        port = os.environ["MASTER_PORT"] if _agent_keeps_store() else str(_free_port())
        store.set("port", port)
        store.set("said", f"{kind}:{text}")
        until = time.monotonic() + PATIENCE
        while store.add("heard", 0) < place.world - 1:
            if time.monotonic() > until:
                raise UserError(_alone(place))
            time.sleep(0.05)
    except RuntimeError as error:
        raise UserError(_alone(place)) from error
    os.environ["MASTER_PORT"] = port


def _meet(place: RunProcess) -> "Store":
    """A store that all processes of a launcher see."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), _number("MASTER_PORT")
    keeps = place.leads and not _agent_keeps_store()
    try:
        store = TCPStore(
            host, port or PORTS[0], place.world, keeps, timedelta(seconds=PATIENCE), wait_for_workers=False
        )
    except RuntimeError as error:
        raise UserError(_alone(place)) from error
    # A launcher that starts failed processes again has the words of the failed ones in its store.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"latent-geodesics/{attempt}", store)


def _agent_keeps_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
        return port


def _alone(place: RunProcess) -> str:
    return (
        f"{place.starter} says that this is process {place.rank} of {place.world} of one run, but the others could not "
        f"be reached at {os.environ.get('MASTER_ADDR', '127.0.0.1')}: start all of them at once, or the run by itself "
        "with trainer.devices=1."
    )


def _leave_own_folder(folder: Path | None, rank: int) -> None:
    """Takes back what Hydra made for this process, which works in the folder of the first, if in any."""
    if not HydraConfig.initialized():
        return
    own = Path(HydraConfig.get().runtime.output_dir)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream is None:
            handler.baseFilename = str(folder / f"run_{rank}.log") if folder is not None else os.devnull
    if own.is_dir() and not (folder is not None and own.samefile(folder)) and not any(own.iterdir()):
        own.rmdir()
