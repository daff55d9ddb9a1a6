"""Bench: how close the machinery comes to the speed of its network, on the machine at hand.

The numbers are kept in a file for each kind of machine, a line a run, and compared with the run before. The stages are
no list for `run.each`, which works on one thread beside the network's own: what is measured here is all of the machine.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.solvers.base import BoundarySolver
from latent_geodesics.data import PairSelection
from latent_geodesics.experiments.bench.measures import (
    Solve,
    batching,
    growth,
    overhead,
    peak_memory,
    ratios,
    raw_rates,
    solver_cost,
    stack_rate,
    timed_solve,
)
from latent_geodesics.experiments.bench.pair import pair_cost
from latent_geodesics.experiments.bench.problems import bench_problem, one_pair
from latent_geodesics.experiments.bench.record import machine_record
from latent_geodesics.methods.base import CurveMethod
from latent_geodesics.methods.conditions import power_of_density
from latent_geodesics.models import LatentModel
from latent_geodesics.run.files import csv_text, write_text
from latent_geodesics.run.runner import Run, Task

log = logging.getLogger(__name__)

Stage = tuple[str, str, Callable[[], Mapping[str, float]]]
"""A name, what is measured in words, and what measures it."""

LEAD = "What the machinery around the network costs on this machine, and against the runs before on such a one."
RATIOS = {
    "stack_over_raw": "score evaluations a second through the whole stack, over the raw U-Net's at its best batch size",
    "batch/together_over_alone": "seconds of all pairs in one batch, over those of each pair alone",
    "run/outside_networks": "share of an interpolation run's time in which no network is at work",
    "descent_over_ours": "evaluations of the published descent, over those in which ours reaches its last residual",
    "pair/seconds": "seconds of a pair from its images to its frames",
    "pair/score_evaluations": "score evaluations for it",
    "pair/unet_calls": "latents through the U-Net to solve and to decode it",
}


@dataclass(kw_only=True)
class Bench:
    """The task of measuring speed.

    Attributes:
        model: The diffusion model.
        data: The pairs that are solved; None takes random points, whose speed is the same.
        pairs: How many random pairs, where there are no data.
        score: The score that makes the geometry.
        tau: Noise level.
        alpha_d: Power of the density times the dimension of a latent, at least 0; see `methods.conditions`.
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

    model: LatentModel
    data: PairSelection | None
    pairs: int
    score: Any
    tau: float
    alpha_d: float
    solvers: Mapping[str, BoundarySolver]
    knots: Mapping[str, BoundarySolver]
    growth: Sequence[int]
    pair: CurveMethod
    frames: int
    guidance: float
    batches: Sequence[int]
    seconds: float
    interpolation: Task | None
    folder: str
    limit: float | None
    alpha: float | None = None
    setting: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        if self.limit is not None and not self.limit > 0:
            raise UserError(f"task.limit must be above 0 seconds, or null for no limit; got {self.limit}.")
        power = power_of_density(alpha_d=self.alpha_d, alpha=self.alpha, dimension=self.model.dimension)
        self.setting = {"score": self.score, "tau": self.tau, "alpha": power}

    def run(self, run: Run) -> Mapping[str, float]:
        """Measures, keeps after each stage what there is, and compares with the runs before."""
        run.record_environment(weights={"model": self.model.fingerprint}, machinery=self.model.machinery)
        pairs = self.pairs if self.data is None else len(self.data)
        settings = self.setting | {"score": type(self.score).__name__, "pairs": pairs, "d": self.model.dimension}
        record = machine_record(Path(self.folder), self.model, seed=run.seed, settings=settings)
        stages, started = self.stages(run), time.perf_counter()
        for number, (name, words, measure) in enumerate(stages, start=1):
            begun = time.perf_counter()
            if record.stages and self.limit is not None and begun - started > self.limit:
                left = ", ".join(name for name, _, _ in stages[number - 1 :])
                log.warning("Not measured, since %g s are over: %s. task.limit=null measures all.", self.limit, left)
                break
            log.info("%d of %d: %s", number, len(stages), words)
            found = {**measure(), **peak_memory(self.model)}
            found |= ratios({**record.numbers, **found}, list(self.solvers))
            record.add(name, found, seconds=time.perf_counter() - begun)
            write_text(run.folder / "results.csv", csv_text(record.table()))
            log.info("%d of %d took %.1f s", number, len(stages), record.stages[name])
        best = {"best raw rate, latents a second": round(record.numbers["raw/best"], 1)}
        page = run.page("Speed", LEAD, **best)
        page.section("Ratios", table=record.ratios(RATIOS))
        page.section("All numbers", table=record.table())
        page.section("What measuring took", table=record.spent())
        summary = {name: value for name, value in record.numbers.items() if value == value}
        return run.finish(page, summary=summary, results=record.table())

    def stages(self, run: Run) -> list[Stage]:
        """What is measured, in order: first what the others, and the bars, refer to."""
        model, ours = self.model, next(iter(self.solvers.values()))
        problem = bench_problem(model, self.data, pairs=self.pairs, seed=run.seed, **self.setting)
        batch, solved = one_pair(model, self.data, seed=run.seed), list[Solve]()

        def stack() -> Mapping[str, float]:
            ours.solve(problem)  # what is slow the first time
            solved.append(timed_solve(model, problem, ours))
            return stack_rate(solved[0])

        counts = [count for count in self.growth if count <= len(problem.x0)]
        pair = partial(pair_cost, model, batch, self.pair, frames=self.frames, guidance=self.guidance, **self.setting)
        grown = partial(growth, model, problem, solvers=self.knots, pairs=counts)
        stages: list[Stage] = [
            ("raw", "the raw network", lambda: raw_rates(model, batches=self.batches, seconds=self.seconds)),
            ("stack", "the whole stack", stack),
            ("alone", "each pair alone", lambda: batching(model, problem, ours, together=solved[0])),
            ("pair", "a pair from its images to its frames", pair),
            ("growth", "growth with pairs and knots", grown),
            ("solvers", "solvers", lambda: solver_cost(model, problem, self.solvers, first=solved[0])),
        ]
        whole = [] if self.interpolation is None else [partial(overhead, self.interpolation, run)]
        return stages + [("run", "a whole run", measure) for measure in whole]
