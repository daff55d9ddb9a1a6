"""What a run of distances has finished, on disk: latents and solved pairs, so that a killed run goes on where it was.

Everything is keyed by the content of the images and kept below a name made of the settings that it depends on: results
of other settings lie beside each other and are never mixed. Files are written whole and sealed (see `files`), a batch
at a time; what a damaged one held is done again.
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from latent_geodesics.run.files import DamagedFileError, read_sealed, seal, write_bytes, write_json

__all__ = ["Leg", "LegKey", "Store", "settings_key"]

log = logging.getLogger(__name__)

LegKey = tuple[str, str, str]
"""Content of the start, content of the end, kind of path."""


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A path between two images with the density along it; see `geometry.DensityProfile` for the arrays.

    Attributes:
        status: How it was found.
        seconds: Its share of its batch's time.
        evaluations: Score evaluations to find it, without those along it.
        residual: Mean norm of the geodesic gradient; 0 for a path in closed form.
        arc: Its Euclidean length.
    """

    status: str
    seconds: float
    evaluations: int
    residual: float
    arc: float
    u: Float[np.ndarray, " m"]
    widths: Float[np.ndarray, " k"]
    log_density: Float[np.ndarray, " m"]
    error: Float[np.ndarray, " m"]
    speed: Float[np.ndarray, " m"]

    @property
    def change(self) -> float:
        """`log p` at the end less that at the start, in nats."""
        return float(self.log_density[-1])


NUMBERS = ("status", "seconds", "evaluations", "residual", "arc")
CURVES = ("u", "widths", "log_density", "error", "speed")
SHARED = ("u", "widths")
"""What all paths of a batch have in common."""


def settings_key(settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that name some settings."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True, default=str).encode()).hexdigest()[:16]


class Store:
    """Reads and writes the finished work of one kind and one choice of settings.

    Args:
        folder: Where this run writes, made when there is something to write.
        settings: All that the work depends on besides the images.
        others: Folders of earlier runs' stores, read as well.
    """

    def __init__(self, *, folder: Path, settings: Mapping[str, Any], others: Iterable[Path] = ()) -> None:
        self.settings = dict(settings)
        name = settings_key(settings)
        self.folder = folder / name
        self._sources = [self.folder, *(other / name for other in others)]

    def read_legs(self) -> dict[LegKey, Leg]:
        """Every path that was finished."""
        found: dict[LegKey, Leg] = {}
        for arrays in self._batches(("key", *NUMBERS, *CURVES)):
            for row, key in enumerate(arrays["key"].tolist()):
                values: dict[str, Any] = {name: arrays[name][row].item() for name in NUMBERS}
                values |= {name: arrays[name] if name in SHARED else arrays[name][row] for name in CURVES}
                found[(str(key[0]), str(key[1]), str(key[2]))] = Leg(**values)
        return found

    def write_legs(self, keys: Sequence[LegKey], legs: Sequence[Leg]) -> None:
        """Keeps a batch of paths, which all have the same positions."""
        columns = {name: np.array([getattr(leg, name) for leg in legs]) for name in (*NUMBERS, *CURVES)}
        columns |= {name: getattr(legs[0], name) for name in SHARED}
        self._write(np.array(keys), columns)

    def read_latents(self) -> dict[str, Float[np.ndarray, " d"]]:
        """Every image's latent that was found, by its content."""
        return {key: row for arrays in self._batches(("key", "x")) for key, row in zip(*arrays.values(), strict=True)}

    def write_latents(self, keys: Sequence[str], x: Float[np.ndarray, "p d"]) -> None:
        """Keeps a batch of latents."""
        self._write(np.array(keys), {"x": x})

    def _write(self, keys: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
        if not (self.folder / "settings.json").exists():
            write_json(self.folder / "settings.json", self.settings)
        name = hashlib.sha256(repr(keys.tolist()).encode()).hexdigest()[:16]
        written = io.BytesIO()
        np.savez(written, **({"key": keys} | dict(columns)))  # type: ignore[arg-type]
        write_bytes(self.folder / f"{name}.npz", seal(written.getvalue()))

    def _batches(self, names: Sequence[str]) -> Iterable[Mapping[str, np.ndarray]]:
        """The named arrays of every batch that is whole."""
        for source in self._sources:
            for file in sorted(source.glob("[!.]*.npz")):
                try:
                    with np.load(io.BytesIO(read_sealed(file)), allow_pickle=False) as arrays:
                        batch = {name: arrays[name] for name in names}
                except (OSError, DamagedFileError, KeyError) as error:
                    log.warning("'%s' is damaged (%s): what it held is done again.", file, error)
                else:
                    yield batch
