"""Which process of a run this is: what launchers say, what is left over in the environment, and one folder for all."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from latent_geodesics.core.errors import UserError
from latent_geodesics.run import launch
from latent_geodesics.run.launch import ALONE, FIRST, RunProcess, dismiss, find_place, join, lead, refuse

ROOT = Path(__file__).parents[1]
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "job",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment in which no launcher is, and which is as it was afterwards."""
    known = os.environ.copy()
    for name in list(os.environ):
        if name in (*launch.RANKS, "MASTER_ADDR", "MASTER_PORT", FIRST) or name.startswith(("SLURM_", "TORCHELASTIC_")):
            del os.environ[name]
    monkeypatch.setattr(launch, "PATIENCE", 20.0)
    yield os.environ
    os.environ.clear()
    os.environ.update(known)


@pytest.mark.parametrize(
    "left_over",
    [
        {},
        {"LOCAL_RANK": "1"},
        {"RANK": "1"},
        {"WORLD_SIZE": "4", "LOCAL_RANK": "3"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {"RANK": "one", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        {FIRST: "1:/somewhere", "LOCAL_RANK": "1"},
        SRUN,
        SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    ],
)
def test_what_no_launcher_of_this_run_set_says_nothing(environment, left_over):
    environment.update(left_over)
    assert find_place({"devices": 1}) == ALONE
    assert not set(environment) & {"RANK", "LOCAL_RANK", "WORLD_SIZE"}, "libraries would believe it"
    from pytorch_lightning.utilities import rank_zero_only

    assert not launch.cluster(ALONE).creates_processes_externally
    assert rank_zero_only.rank == 0


def test_a_rank_of_a_world_that_the_run_asks_for_is_believed(environment):
    environment.update(TORCHRUN)
    assert find_place({"devices": 2}) == RunProcess(rank=1, world=2, starter="torchrun")
    assert launch.cluster(find_place({"devices": 2})).world_size() == 2


def test_tasks_of_srun_are_one_run_where_the_run_asks_for_as_many(environment):
    environment.update(SRUN)
    assert find_place({"devices": 2, "num_nodes": 2}) == RunProcess(rank=1, world=4, starter="srun")
    assert (environment["RANK"], environment["WORLD_SIZE"], environment["MASTER_ADDR"]) == ("1", "4", "localhost")


def test_a_step_of_one_task_in_a_job_of_four_is_alone(environment):
    environment.update(SRUN | {"SLURM_STEP_NUM_TASKS": "1"})
    assert find_place({"devices": 4}) == ALONE


def test_a_child_of_the_first_process_knows_its_folder(environment):
    environment.update({FIRST: f"{os.getppid()}:/runs/a:b", "LOCAL_RANK": "2"})
    assert find_place({"devices": 3}) == RunProcess(rank=2, starter="lightning", folder=Path("/runs/a:b"))


@pytest.mark.parametrize(
    ("said", "options", "words"),
    [
        (TORCHRUN, {"devices": 1}, "started 2 processes, but the run asks for 1"),
        (TORCHRUN, {"devices": "auto"}, "started 2 processes"),
        (TORCHRUN | {"RANK": "5"}, {"devices": 2}, "contradict"),
        (TORCHRUN, {"devices": 2, "strategy": "ddp_spawn"}, "starts processes of its own"),
        ({}, {"devices": 2, "num_nodes": 2}, "by torchrun or srun"),
    ],
)
def test_a_launcher_that_does_not_agree_is_refused(environment, said, options, words):
    environment.update(said)
    with pytest.raises(UserError, match=words):
        find_place(options)


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def test_all_processes_hear_of_the_folder_of_the_first(environment, tmp_path):
    environment.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()})
    others = [RunProcess(rank=rank, world=3, starter="torchrun") for rank in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        heard = [pool.submit(join, other) for other in others]
        with lead(RunProcess(world=3, starter="torchrun"), tmp_path):
            assert environment[FIRST] == f"{os.getpid()}:{tmp_path}"
        assert [folder.result() for folder in heard] == [tmp_path, tmp_path]
    assert FIRST not in environment


def test_all_processes_hear_that_nothing_is_left_to_do(environment):
    environment.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()})
    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(join, RunProcess(rank=1, world=2, starter="torchrun"))
        dismiss(RunProcess(world=2, starter="torchrun"))
        assert heard.result() is None


def test_all_processes_hear_why_there_is_no_run(environment):
    environment.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()})
    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(join, RunProcess(rank=1, world=2, starter="srun"))
        refuse(RunProcess(world=2, starter="srun"), "The folder is taken: choose another.")
        with pytest.raises(UserError, match=r"^The folder is taken: choose another\.$"):
            heard.result()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_others_never_come_says_so(environment, monkeypatch, tmp_path, rank):
    monkeypatch.setattr(launch, "PATIENCE", 0.5)
    environment.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()})
    place = RunProcess(rank=rank, world=2, starter="srun")
    with pytest.raises(UserError, match=f"process {rank} of 2"):
        if rank:
            join(place)
        else:
            with lead(place, tmp_path):
                pass


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_processes_of_a_launcher_share_one_run(launcher, pictures, tiny_model_folder, environment):
    manifest = pictures / "manifest.csv"
    lines = [f"{name},own,a.png,b.png,red,blue" for name in ("one", "two", "three")]
    manifest.write_text("\n".join(["id,group,image_a,image_b,prompt_a,prompt_b", *lines]))
    arguments = [
        *(str(ROOT / "run.py"), "trainer.devices=2", f"data.manifest={manifest}", "data.batch_size=1"),
        *("method=[slerp]", f"model.path_or_name={tiny_model_folder}", "model.steps=5", "model.cache_dir=null"),
        *("frames=3", "logger.mode=disabled", f"output_dir={pictures}/runs/${{now:%H-%M-%S-%f}}"),
    ]
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    if launcher == "torchrun":
        commands = [([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *arguments], offline)]
    else:
        tasks = [SRUN | {"SLURM_NTASKS": "2", "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"]
        commands = [([sys.executable, *arguments], offline | task) for task in tasks]
    started = [subprocess.Popen(command, cwd=ROOT, env=variables) for command, variables in commands]
    assert [process.wait(timeout=400) for process in started] == [0] * len(started)
    (run,) = (pictures / "runs").iterdir()
    assert list(pd.read_csv(run / "results.csv")["pair"]) == ["one", "two", "three"]
    assert (run / "summary.json").exists()
