"""Bench: how close the machinery comes to the speed of its network, on the machine at hand.

The numbers are kept in a file for each kind of machine, a line a run, and compared with the run before.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import BoundaryProblem
from latent_geodesics.core.solvers.base import BoundarySolver
from latent_geodesics.data import PairSelection
from latent_geodesics.experiments.bench.measures import (
    Solve,
    batching,
    growth,
    overhead,
    peak_memory,
    raw_rates,
    solver_cost,
    stack_rate,
    timed_solve,
)
from latent_geodesics.experiments.bench.page import write_bench_page, write_bench_table
from latent_geodesics.experiments.bench.pair import pair_cost
from latent_geodesics.experiments.bench.problems import image_problem, one_pair, random_problem
from latent_geodesics.experiments.bench.record import BenchRecord
from latent_geodesics.methods.base import CurveMethod
from latent_geodesics.methods.power import power_of_density
from latent_geodesics.models import LatentModel
from latent_geodesics.run.environment import describe_environment
from latent_geodesics.run.files import write_text
from latent_geodesics.run.run_folder import CONFIG
from latent_geodesics.run.runner import Run, Task

log = logging.getLogger(__name__)

Stage = tuple[str, str, Callable[[], Mapping[str, float]]]
"""A name, what is measured in words, and what measures it."""

RATIOS = {
    "stack_over_raw": "score evaluations a second through the whole stack, over the raw U-Net's at its best batch size",
    "batch/together_over_alone": "seconds of all pairs in one batch, over those of each pair alone",
    "run/outside_networks": "share of an interpolation run's time in which no network is at work",
    "descent_over_ours": "evaluations of the published descent, over those in which ours reaches its last residual",
    "pair/seconds": "seconds of a pair from its images to its frames",
    "pair/score_evaluations": "score evaluations for it",
    "pair/unet_calls": "latents through the U-Net to solve and to decode it",
}


class Bench:
    """Creates the task of measuring speed.

    Args:
        model: The diffusion model.
        data: The pairs that are solved; None takes random points, whose speed is the same.
        pairs: How many random pairs, where there are no data.
        score: The score that makes the geometry.
        tau: Noise level.
        alpha_d: Power of the density times the dimension of a latent, at least 0; see `methods.power`.
        alpha: The power itself, in its place; None for none.
        solvers: Name -> solver; the first is ours, which the ratios are about.
        knots: Intervals -> our solver with so many.
        growth: With how many pairs the first of those is timed.
        pair: The method by which one pair is taken from its images to its frames.
        frames: How many frames that is, both ends included.
        guidance: Classifier-free guidance at decoding them.
        batches: Batch sizes at which the raw U-Net is measured.
        seconds: For how long each of them is.
        interpolation: A whole run, of which the share outside the networks is measured; None for none.
        folder: Where the numbers are kept, from the first stage on.
        limit: Seconds after which no further stage is begun; None for no limit.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        data: PairSelection | None,
        pairs: int,
        score: Any,
        tau: float,
        alpha_d: float,
        solvers: Mapping[str, BoundarySolver],
        knots: Mapping[str, BoundarySolver],
        growth: Sequence[int],
        pair: CurveMethod,
        frames: int,
        guidance: float,
        batches: Sequence[int],
        seconds: float,
        interpolation: Task | None,
        folder: str,
        limit: float | None,
        alpha: float | None = None,
    ) -> None:
        if limit is not None and not limit > 0:
            raise UserError(f"task.limit must be above 0 seconds, or null for no limit; got {limit}.")
        self.model, self.data, self.pairs = model, data, pairs
        power = power_of_density(alpha_d=alpha_d, alpha=alpha, dimension=model.dimension)
        self.setting: dict[str, Any] = {"score": score, "tau": tau, "alpha": power}
        self.solvers, self.knots, self.batches, self.seconds = dict(solvers), dict(knots), list(batches), seconds
        self.growth, self.pair, self.frames, self.guidance = list(growth), pair, frames, guidance
        self.interpolation, self.folder, self.limit = interpolation, Path(folder), limit

    def run(self, run: Run) -> Mapping[str, float]:
        """Measures, keeps after each stage what there is, and compares with the runs before."""
        run.record_environment(weights={"model": self.model.fingerprint}, machinery=self.model.machinery)
        record = self._record(run)
        stages, started = self._stages(run), time.perf_counter()
        for number, (name, words, measure) in enumerate(stages, start=1):
            begun = time.perf_counter()
            if record.stages and self.limit is not None and begun - started > self.limit:
                left = ", ".join(name for name, _, _ in stages[number - 1 :])
                log.warning("Not measured, since %g s are over: %s. task.limit=null measures all.", self.limit, left)
                break
            log.info("%d of %d: %s", number, len(stages), words)
            found = {**measure(), **peak_memory(self.model)}
            found |= _ratios({**record.numbers, **found}, list(self.solvers))
            record.add(name, found, seconds=time.perf_counter() - begun)
            write_bench_table(run.folder, record)
            log.info("%d of %d took %.1f s", number, len(stages), record.stages[name])
        write_bench_page(run.folder, record, ratios=RATIOS)
        return {name: value for name, value in record.numbers.items() if value == value}

    def _stages(self, run: Run) -> list[Stage]:
        """What is measured, in order: first what the others, and the bars, refer to."""
        ours = next(iter(self.solvers.values()))
        problem = self._problem(run.seed)
        solved: list[Solve] = []

        def stack() -> Mapping[str, float]:
            ours.solve(problem)  # what is slow the first time
            solved.append(timed_solve(self.model, problem, ours))
            return stack_rate(solved[0])

        batch = one_pair(self.model, self.data, seed=run.seed)
        counts = [count for count in self.growth if count <= len(problem.x0)]
        model, knots = self.model, self.knots
        pair = partial(pair_cost, model, batch, self.pair, frames=self.frames, guidance=self.guidance, **self.setting)
        stages: list[Stage] = [
            ("raw", "the raw network", lambda: raw_rates(model, batches=self.batches, seconds=self.seconds)),
            ("stack", "the whole stack", stack),
            ("alone", "each pair alone", lambda: batching(model, problem, ours, together=solved[0])),
            ("pair", "a pair from its images to its frames", pair),
            (
                "growth",
                "growth with pairs and knots",
                partial(growth, model, problem, solvers=knots, pairs=counts),
            ),
            ("solvers", "solvers", lambda: solver_cost(model, problem, self.solvers, first=solved[0])),
        ]
        if self.interpolation is not None:
            stages.append(("run", "a whole run", partial(self._whole_run, self.interpolation, run)))
        return stages

    def _problem(self, seed: int) -> BoundaryProblem:
        if self.data is None:
            return random_problem(self.model, pairs=self.pairs, seed=seed, **self.setting)
        return image_problem(self.model, self.data, **self.setting)

    @staticmethod
    def _whole_run(interpolation: Task, run: Run) -> Mapping[str, float]:
        inner = replace(run, folder=run.folder / "interpolation")
        write_text(inner.folder / CONFIG, OmegaConf.to_yaml(dict(run.config)))  # what makes it a run
        return overhead(partial(interpolation.run, inner))

    def _record(self, run: Run) -> BenchRecord:
        """A line in this machine's file."""
        environment = describe_environment(seed=run.seed, weights={}, machinery=self.model.machinery)
        machine = {name: value for name, value in environment.items() if name not in ("seed", "weights", "command")}
        machine["parameters"] = _parameters(self.model)
        file = f"{_slug(machine['accelerator'] or machine['processor'])}_{machine['cores']}_cores.jsonl"
        return BenchRecord(self.folder / file, machine=machine, settings=_settings(self))


def _ratios(found: Mapping[str, float], solvers: Sequence[str]) -> dict[str, float]:
    """The ratios of what has been measured so far."""
    best = max(value for name, value in found.items() if name.startswith("raw/batch_"))
    ratios = {"raw/best": best}
    if "stack/evaluations_per_second" in found:
        ratios["stack_over_raw"] = found["stack/evaluations_per_second"] / best
    ours, *others = solvers
    if others and f"solver/{ours}/evaluations_to_{others[0]}" in found:
        theirs = others[0]
        ratios["descent_over_ours"] = (
            found[f"solver/{theirs}/evaluations"] / found[f"solver/{ours}/evaluations_to_{theirs}"]
        )
    return ratios


def _settings(bench: Bench) -> dict[str, Any]:
    pairs = bench.pairs if bench.data is None else len(bench.data)
    plain = {name: value for name, value in bench.setting.items() if name != "score"}
    return plain | {"score": type(bench.setting["score"]).__name__, "pairs": pairs, "d": bench.model.dimension}


def _parameters(model: LatentModel) -> int:
    return sum(parameter.numel() for parameter in model.network.module.parameters())


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text.lower()).strip("_")
