"""The line that a bench leaves in its machine's file: there from the first stage on, and written again after each."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from latent_geodesics.models.latent_model import LatentModel
from latent_geodesics.run.files import write_text
from latent_geodesics.run.run_folder import describe_environment


class BenchRecord:
    """Creates a line that holds nothing yet and is not written yet.

    Args:
        file: The machine's file, a line a run, the latest last.
        machine: What the numbers were measured on.
        settings: What of the bench they depend on; lines are compared with those of the same settings.

    Attributes:
        numbers: What was measured so far.
        stages: Stage -> the seconds that it took, of the stages whose numbers are in.
        before: The same numbers of earlier lines, each of the last that has it.
    """

    def __init__(self, file: Path, *, machine: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self._file = file
        self._head = {"date": time.strftime("%Y-%m-%d"), "machine": dict(machine), "settings": dict(settings)}
        self._written: str | None = None
        self.numbers: dict[str, float] = {}
        self.stages: dict[str, float] = {}
        self.before: dict[str, float] = {}
        for old in map(json.loads, self._lines()):
            if old["settings"] == self._head["settings"]:
                self.before |= {name: value for name, value in old["numbers"].items() if value is not None}

    def add(self, stage: str, numbers: Mapping[str, float], *, seconds: float) -> None:
        """Adds what a stage gave, and writes the line in place of what was written of it."""
        self.numbers |= numbers
        self.stages[stage] = seconds
        line = json.dumps(
            self._head
            | {"stages": {name: round(value, 3) for name, value in self.stages.items()}}
            | {"numbers": {name: value if value == value else None for name, value in self.numbers.items()}}
        )
        lines = self._lines()  # read again, since another run may have added its own
        if self._written in lines:
            lines[lines.index(self._written)] = line
        else:
            lines.append(line)
        write_text(self._file, "\n".join(lines) + "\n")
        self._written = line

    def table(self) -> pd.DataFrame:
        """A row a number, as it is now and as it was before."""
        rows = []
        for name, value in self.numbers.items():
            before = self.before.get(name)
            change = value / before - 1 if before else None
            rows.append({"number": name, "now": value, "before": before, "change": change})
        return pd.DataFrame(rows)

    def ratios(self, words: Mapping[str, str]) -> pd.DataFrame:
        """A row for each of some numbers, in words, whether it is known yet or not."""
        return pd.DataFrame(
            [
                {"ratio": said, "value": self.numbers.get(name), "before": self.before.get(name)}
                for name, said in words.items()
            ]
        )

    def spent(self) -> pd.DataFrame:
        """What measuring took, a row a stage."""
        return pd.DataFrame(list(self.stages.items()), columns=["stage", "seconds"])

    def _lines(self) -> list[str]:
        return self._file.read_text(encoding="utf-8").splitlines() if self._file.is_file() else []


def machine_record(folder: Path, model: LatentModel, *, seed: int, settings: Mapping[str, Any]) -> BenchRecord:
    """A line in the file of the machine at hand and of what the model's network runs on there."""
    environment = describe_environment(seed=seed, weights={}, machinery=model.machinery)
    machine = {name: value for name, value in environment.items() if name not in ("seed", "weights", "command")}
    machine["parameters"] = sum(parameter.numel() for parameter in model.network.module.parameters())
    name = str(machine["accelerator"] or machine["processor"]).lower()
    slug = "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")
    return BenchRecord(folder / f"{slug}_{machine['cores']}_cores.jsonl", machine=machine, settings=settings)
