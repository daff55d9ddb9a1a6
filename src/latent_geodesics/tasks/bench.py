"""Bench: how close the machinery comes to the speed of its network, on the machine at hand.

The numbers are kept in a file for each kind of machine, a line a run, and compared with the run before.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from latent_geodesics.bench.measures import batching, growth, overhead, peak_memory, raw_rates, solver_cost, stack_rate
from latent_geodesics.bench.problems import image_problem, random_problem
from latent_geodesics.data import PairSelection
from latent_geodesics.environment import describe_environment
from latent_geodesics.files import write_text
from latent_geodesics.markup import csv_text
from latent_geodesics.models import LatentModel
from latent_geodesics.pages import Section, write_page
from latent_geodesics.run_folder import CONFIG
from latent_geodesics.runner import Run
from latent_geodesics.solvers.base import BoundarySolver
from latent_geodesics.tasks.interpolation import Interpolation

__all__ = ["Bench"]

log = logging.getLogger(__name__)

RATIOS = {
    "stack_over_raw": "score evaluations a second through the whole stack, over the raw U-Net's at its best batch size",
    "batch/together_over_alone": "seconds of all pairs in one batch, over those of each pair alone",
    "run/outside_networks": "share of an interpolation run's time in which no network is at work",
    "descent_over_ours": "evaluations of the published descent, over those in which ours reaches its last residual",
}


class Bench:
    """Creates the task of measuring speed.

    Args:
        model: The diffusion model.
        data: The pairs that are solved; None takes random points, whose speed is the same.
        pairs: How many random pairs, where there are no data.
        score: The score that makes the geometry.
        tau: Noise level.
        alpha: Power of the density.
        solvers: Name -> solver; the first is ours, which the ratios are about.
        knots: Intervals -> our solver with so many.
        batches: Batch sizes at which the raw U-Net is measured.
        seconds: For how long each of them is.
        interpolation: A whole run, of which the share outside the networks is measured; None for none.
        folder: Where the numbers are kept.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        data: PairSelection | None,
        pairs: int,
        score: Any,
        tau: float,
        alpha: float,
        solvers: Mapping[str, BoundarySolver],
        knots: Mapping[str, BoundarySolver],
        batches: Sequence[int],
        seconds: float,
        interpolation: Interpolation | None,
        folder: str,
    ) -> None:
        self.model, self.data, self.pairs = model, data, pairs
        self.setting: dict[str, Any] = {"score": score, "tau": tau, "alpha": alpha}
        self.solvers, self.knots, self.batches, self.seconds = dict(solvers), dict(knots), list(batches), seconds
        self.interpolation, self.folder = interpolation, Path(folder)

    def run(self, run: Run) -> Mapping[str, float]:
        """Measures, keeps, and compares with the run before."""
        run.record_environment(weights={"model": self.model.fingerprint}, machinery=self.model.machinery)
        ours = next(iter(self.solvers.values()))
        problem = (
            random_problem(self.model, pairs=self.pairs, seed=run.seed, **self.setting)
            if self.data is None
            else image_problem(self.model, self.data, **self.setting)
        )
        log.info("1 of 6: the raw network")
        found = raw_rates(self.model, batches=self.batches, seconds=self.seconds)
        log.info("2 of 6: the whole stack")
        ours.solve(problem)  # what is slow the first time
        found |= stack_rate(self.model, problem, ours)
        log.info("3 of 6: pairs together and alone")
        found |= batching(self.model, problem, ours)
        log.info("4 of 6: growth with pairs and knots")
        counts = [count for count in (1, 2, 4, 8) if count <= len(problem.x0)]
        found |= growth(self.model, problem, solvers=self.knots, pairs=counts)
        log.info("5 of 6: solvers")
        found |= solver_cost(self.model, problem, self.solvers)
        log.info("6 of 6: a whole run")
        if self.interpolation is not None:
            inner = replace(run, folder=run.folder / "interpolation")
            write_text(inner.folder / CONFIG, OmegaConf.to_yaml(dict(run.config)))  # what makes it a run
            found |= overhead(partial(self.interpolation.run, inner))
        found |= peak_memory(self.model)
        found |= _ratios(found, list(self.solvers))
        before = self._keep(found, run)
        _write_page(run, found, before)
        return {name: value for name, value in found.items() if value == value}

    def _keep(self, found: Mapping[str, float], run: Run) -> Mapping[str, float]:
        """Adds a line to this machine's file; returns the numbers of the last one before."""
        environment = describe_environment(seed=run.seed, weights={}, machinery=self.model.machinery)
        machine = {name: value for name, value in environment.items() if name not in ("seed", "weights", "command")}
        machine["parameters"] = _parameters(self.model)
        file = self.folder / f"{_slug(machine['accelerator'] or machine['processor'])}_{machine['cores']}_cores.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        line = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "settings": _settings(self)} | {
            "numbers": {name: value if value == value else None for name, value in found.items()}
        }
        write_text(file, "\n".join([*lines, json.dumps(line)]) + "\n")
        same = [old for old in map(json.loads, lines) if old["settings"] == line["settings"]]
        return {name: value for name, value in same[-1]["numbers"].items() if value is not None} if same else {}


def _ratios(found: Mapping[str, float], solvers: Sequence[str]) -> dict[str, float]:
    best = max(value for name, value in found.items() if name.startswith("raw/"))
    ratios = {"raw/best": best, "stack_over_raw": found["stack/evaluations_per_second"] / best}
    if len(solvers) > 1:
        ours, theirs = solvers[:2]
        ratios["descent_over_ours"] = (
            found[f"solver/{theirs}/evaluations"] / found[f"solver/{ours}/evaluations_to_{theirs}"]
        )
    return ratios


def _settings(bench: Bench) -> dict[str, Any]:
    pairs = bench.pairs if bench.data is None else len(bench.data)
    plain = {name: value for name, value in bench.setting.items() if name != "score"}
    return plain | {"score": type(bench.setting["score"]).__name__, "pairs": pairs, "d": bench.model.dimension}


def _parameters(model: LatentModel) -> int:
    return sum(parameter.numel() for parameter in model.network.unet.parameters())


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text.lower()).strip("_")


def _write_page(run: Run, found: Mapping[str, float], before: Mapping[str, float]) -> None:
    table = pd.DataFrame(
        [
            {"number": name, "now": value, "before": before.get(name), "change": value / before[name] - 1}
            if before.get(name)
            else {"number": name, "now": value, "before": None, "change": None}
            for name, value in found.items()
        ]
    )
    write_text(run.folder / "results.csv", csv_text(table))
    ratios = pd.DataFrame(
        [{"ratio": words, "value": found.get(name), "before": before.get(name)} for name, words in RATIOS.items()]
    )
    write_page(
        run.folder,
        title="Speed",
        lead="What the machinery around the network costs on this machine, and against the run before on such a one.",
        facts={"best raw rate, latents a second": round(found["raw/best"], 1)},
        sections=[Section(title="Ratios", table=ratios), Section(title="All numbers", table=table)],
    )
