"""The measurements: each a function that gives named numbers.

Throughput is counted in latents sent through the U-Net (`Denoiser.evaluations`), so that a score of two predictions
counts as two on both sides of a ratio.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from latent_geodesics.core.geometry import residual
from latent_geodesics.core.path import GreatCircle
from latent_geodesics.core.records import BoundaryProblem, Solution
from latent_geodesics.core.solvers.base import BoundarySolver
from latent_geodesics.experiments.bench.clock import NetworkClock
from latent_geodesics.models.accelerator import peak_memory_mb, wait
from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.run.files import write_text
from latent_geodesics.run.run_folder import CONFIG
from latent_geodesics.run.runner import Run, Task

SHARES = (1e-1, 1e-2, 1e-3)
POSITIONS = torch.linspace(0, 1, 17, dtype=torch.float64)[1:-1]


@dataclass(frozen=True, kw_only=True)
class Solve:
    """A solve, the seconds that it took, and the latents that went through the U-Net."""

    seconds: float
    evaluations: int
    solution: Solution


def timed_solve(model: LatentModel, problem: BoundaryProblem, solver: BoundarySolver) -> Solve:
    """A solve from its first step to its last."""
    before = model.network_evaluations
    wait(model.device)
    started = time.perf_counter()
    solution = solver.solve(problem)
    wait(model.device)
    seconds = time.perf_counter() - started
    return Solve(seconds=seconds, evaluations=model.network_evaluations - before, solution=solution)


def raw_rates(model: LatentModel, *, batches: Sequence[int], seconds: float) -> dict[str, float]:
    """Latents a second of the bare network, called by a loop of nothing else, at each batch size."""
    network = model.network
    bare = network.module
    condition = model.condition(["a red cube"]).to(bare.dtype)
    rates = {}
    for batch in batches:
        x = torch.randn(batch, *network.shape, generator=torch.Generator().manual_seed(0)).to(bare.device, bare.dtype)
        told = network.schedule.told(torch.full((batch,), model.time(0.6), device=bare.device))
        states = condition.expand(batch, -1, -1)

        def call(x: Tensor = x, told: Tensor = told, states: Tensor = states) -> None:
            with torch.no_grad():
                network.family.predict(bare, x, told, states, network.pixels)
            wait(model.device)

        call()
        started, calls = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            call()
            calls += 1
        rates[f"raw/batch_{batch}"] = calls * batch / (time.perf_counter() - started)
    return rates


def stack_rate(together: Solve) -> dict[str, float]:
    """Latents a second through the whole stack, of a solve of all pairs."""
    return {
        "stack/seconds": together.seconds,
        "stack/evaluations_per_second": together.evaluations / together.seconds,
    }


def solver_cost(
    model: LatentModel, problem: BoundaryProblem, solvers: Mapping[str, BoundarySolver], *, first: Solve
) -> dict[str, float]:
    """Evaluations and seconds of each solver until its residual falls to shares of slerp's, and where it ends.

    The mean over the pairs; NaN unless all pairs got there. Seconds are the share of the solve's by evaluations. Of the
    first solver, whose solve is known, also the evaluations until its residual is where each of the others ends.
    """
    slerp = _residual(GreatCircle(x0=problem.x0, x1=problem.x1, sphere=problem.manifold), problem)  # type: ignore[arg-type]
    found: dict[str, float] = {}
    ours, *others = solvers
    solves = {ours: first} | {name: timed_solve(model, problem, solvers[name]) for name in others}
    for name, solve in solves.items():
        solution = solve.solution
        spent = float(solution.stats["evaluations"].sum())
        found[f"solver/{name}/evaluations"] = spent / len(slerp)
        found[f"solver/{name}/seconds"] = solve.seconds / len(slerp)
        end = _residual(solution.path, problem)
        found[f"solver/{name}/residual_over_slerp"] = float((end / slerp).mean())
        if name != ours:
            found[f"solver/{ours}/evaluations_to_{name}"] = float(evaluations_to(first.solution, end).mean())
        for share in SHARES:
            to_reach = float(evaluations_to(solution, share * slerp).mean())
            found[f"solver/{name}/evaluations_to_{share:g}"] = to_reach
            found[f"solver/{name}/seconds_to_{share:g}"] = solve.seconds * to_reach / spent
    return found


def batching(
    model: LatentModel, problem: BoundaryProblem, solver: BoundarySolver, *, together: Solve
) -> dict[str, float]:
    """Time of all pairs in one batch over that of each alone."""
    singles = [problem.restrict(row) for row in torch.arange(len(problem.x0), device=problem.x0.device)[:, None]]
    alone = sum(timed_solve(model, single, solver).seconds for single in singles)
    return {
        "batch/together_seconds": together.seconds,
        "batch/alone_seconds": alone,
        "batch/together_over_alone": together.seconds / alone,
    }


def growth(
    model: LatentModel, problem: BoundaryProblem, *, solvers: Mapping[str, BoundarySolver], pairs: Sequence[int]
) -> dict[str, float]:
    """Seconds of a solve as the pairs and the knots grow."""
    found = {}
    numbers = torch.arange(len(problem.x0), device=problem.x0.device)
    for count in pairs:
        some = problem.restrict(numbers[:count])
        found[f"growth/pairs_{count}_seconds"] = timed_solve(model, some, next(iter(solvers.values()))).seconds
    first = problem.restrict(numbers[:2])
    for name, solver in solvers.items():
        found[f"growth/{name}_seconds"] = timed_solve(model, first, solver).seconds
    return found


def overhead(interpolation: Task, run: Run) -> dict[str, float]:
    """Seconds of a whole run in a folder of its own, and the share of them in which no network is at work."""
    inner = replace(run, folder=run.folder / "interpolation")
    write_text(inner.folder / CONFIG, OmegaConf.to_yaml(dict(run.config)))  # what makes it a run
    started = time.perf_counter()
    with NetworkClock() as clock:
        interpolation.run(inner)
    seconds = time.perf_counter() - started
    return {"run/seconds": seconds, "run/outside_networks": 1 - clock.seconds / seconds}


def peak_memory(model: LatentModel) -> dict[str, float]:
    """The most memory that this process held so far, in MB (10^6 bytes)."""
    if model.device.type != "cpu":
        return {"memory/peak_mb": peak_memory_mb(model.device)}
    import resource

    return {"memory/peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def ratios(found: Mapping[str, float], solvers: Sequence[str]) -> dict[str, float]:
    """What follows from the numbers measured so far; the first of the solvers is ours."""
    best = max(value for name, value in found.items() if name.startswith("raw/batch_"))
    known = {"raw/best": best}
    if "stack/evaluations_per_second" in found:
        known["stack_over_raw"] = found["stack/evaluations_per_second"] / best
    ours, *others = solvers
    if others and f"solver/{ours}/evaluations_to_{others[0]}" in found:
        theirs = found[f"solver/{others[0]}/evaluations"]
        known["descent_over_ours"] = theirs / found[f"solver/{ours}/evaluations_to_{others[0]}"]
    return known


def evaluations_to(solution: Solution, target: Tensor) -> Tensor:
    """Evaluations after which a solver's own residual lay at the target for good; NaN for pairs that never got there.

    For good, since a residual on a coarse grid is of that grid alone and rises again on the next.
    """
    trace = solution.trace
    below = trace.residual <= target.to(trace.residual)
    at_the_end = below.flip(0).long().cumprod(0).sum(0)  # how many of the last rows
    last = (len(below) - at_the_end.clamp(min=1))[None]
    spent = trace.evaluations.gather(0, last.to(trace.evaluations.device))[0]
    return torch.where(at_the_end > 0, spent.to(at_the_end.device).double(), torch.nan)


def _residual(path: Any, problem: BoundaryProblem) -> Tensor:
    positions = POSITIONS.to(problem.x0.device)
    return residual(path, problem.field, problem.manifold, problem.geometry, positions).mean(-1)
