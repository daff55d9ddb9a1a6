"""Lightning callback: what an extrapolation run leaves in its folder, launch by launch."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import Status
from latent_geodesics.experiments.extrapolation.figures import Band, PathCurve, draw_departure, draw_overview
from latent_geodesics.experiments.extrapolation.following import FollowedLaunch, FollowedPaths
from latent_geodesics.experiments.extrapolation.report import (
    BASELINES,
    summarise_extrapolation,
    write_extrapolation_report,
)
from latent_geodesics.methods.departure import Setting
from latent_geodesics.methods.statuses import CLOSED_FORM
from latent_geodesics.methods.velocities import InitialVelocity
from latent_geodesics.metrics.plausibility import LEFT_PLAUSIBLE, RealLatents
from latent_geodesics.run.batch_loop import BatchWriter
from latent_geodesics.run.batch_store import BatchStore
from latent_geodesics.run.files import replacing, write_text
from latent_geodesics.run.markup import csv_text
from latent_geodesics.run.names import file_stem
from latent_geodesics.run.pages import Picture, Section
from latent_geodesics.run.runner import Run
from latent_geodesics.run.strips import save_animation, save_strip

__all__ = ["ExtrapolationFolder"]

MARK = (0.84, 0.37, 0.0)
ROW_NAMES = {"slerp": "great circle", "lerp": "straight line"}


class ExtrapolationFolder(BatchWriter):
    """Writes rows, curves, velocities and pictures of a launch as soon as it is followed, the page at the end.

    Args:
        run: The run.
        store: Where what each launch gave is kept, whichever process did it.
        setting: What all its paths have in common.
        real: The reference images.
        velocities: Name -> initial velocity.
    """

    def __init__(
        self,
        *,
        run: Run,
        store: BatchStore,
        setting: Setting,
        real: RealLatents,
        velocities: Mapping[str, InitialVelocity],
    ) -> None:
        self.run, self.store, self.setting, self.real, self.velocities = run, store, setting, real, velocities

    def write(self, result: FollowedLaunch) -> None:
        """Writes what a launch gave: pictures first, then its record; from then on it counts as done."""
        images = range(len(result.departure.starts))
        curves = [self._curves(result, index) for index in images]
        pages = [self._write_departure(result, index, curves[index]) for index in images]
        self.store.write(
            result.number,
            {
                "rows": [self._row(result, place, index) for place in range(len(result.paths)) for index in images],
                "curves": [row for index in images for row in _curve_rows(result, index, curves[index])],
                "velocity": result.velocity,
                "v0": dict(zip(result.departure.ids, _saved(result.launch.v0), strict=True)),
                "pages": [asdict(page) for page in pages],
                "whole": True,
            },
            files=[*(picture.file for page in pages for picture in page.pictures), *_animations(result)],
        )
        if self.run.leads:
            self._write_tables()

    @property
    def table(self) -> pd.DataFrame:
        """A row for each image, velocity and method so far."""
        return pd.DataFrame(self._gathered("rows"))

    def finish(self, *, launches: int) -> Mapping[str, float]:
        """Write the overview and the report; returns the summary.

        Args:
            launches: How many the run has in all.

        Raises:
            KeyboardInterrupt: when the run was interrupted before the last (what was finished is written first).
            UserError: when the score of some path was not finite.
        """
        contents = self.store.read()
        if not contents:
            raise KeyboardInterrupt
        self._write_tables()
        folder, table = self.run.folder, self.table
        titles = {name: name.replace("_", " ") for name in self.velocities}
        draw_overview(folder / "figures" / "overview.png", table, titles)
        pages = [_section(page) for page in self._gathered("pages")]
        write_extrapolation_report(
            self.run,
            table,
            setting=self.setting,
            real=self.real,
            velocities=self.velocities,
            pages=pages,
            whole=len(contents) == launches,
        )
        self._log(table, pages)
        if len(contents) < launches:
            raise KeyboardInterrupt
        broken = table[table["status"] == Status.NON_FINITE_SCORE.value]
        if len(broken):
            raise UserError(
                f"The score of {len(broken)} of {len(table)} paths was not finite: the other results are in "
                f"'{self.run.folder}'; try a larger tau, a smaller alpha, or a shorter path."
            )
        return summarise_extrapolation(table)

    def _gathered(self, name: str) -> list[Any]:
        """What every finished launch gave under a name, one after another."""
        return [entry for content in self.store.read() for entry in content[name]]

    def _write_tables(self) -> None:
        """The rows, the curves and the velocities so far."""
        folder = self.run.folder
        write_text(folder / "results.csv", csv_text(self.table))
        curves = pd.concat([pd.DataFrame(rows) for rows in self._gathered("curves")], ignore_index=True)
        write_text(folder / "curves.csv", csv_text(curves, float_format="%.6g"))
        launched: dict[str, dict[str, Tensor]] = {}
        for content in self.store.read():
            launched.setdefault(content["velocity"], {}).update(content["v0"])
        for name, known in launched.items():
            with replacing(folder / "velocities" / f"{file_stem(name)}.safetensors") as partial:
                save_file(known, partial)

    def _log(self, table: pd.DataFrame, pages: list[Section]) -> None:
        logger, folder = self.run.logger, self.run.folder
        for page in pages:
            for picture in page.pictures:
                kind, _, file = picture.file.partition("/")
                stem = file.removesuffix(".png")
                logger.picture(f"{'strips' if kind == 'images' else kind}/{stem}", folder / picture.file)
        for rows in self._gathered("curves"):
            name = f"{file_stem(rows['pair'], rows['velocity'])}/{file_stem(rows['method'])}"
            logger.curve(f"log_density/{name}", rows["log_density"], against=rows["u"], axis="u")
        logger.table("results", list(table.columns), table.to_numpy().tolist())
        logger.picture("overview", folder / "figures" / "overview.png")

    def _row(self, followed: FollowedLaunch, place: int, index: int) -> dict[str, Any]:
        """The line of `results.csv` for one method, by its place, and one image."""
        paths, launch = followed.paths[place], followed.launch
        curves, plausible, stats = paths.curves, paths.plausibility, paths.solution.stats
        status = paths.statuses[index]
        if status in (Status.INTEGRATED.value, CLOSED_FORM) and not bool(plausible.plausible[index].all()):
            status = LEFT_PLAUSIBLE
        length = launch.v0[index].norm()
        end, end_of_first = (_end(one, index) for one in (paths, followed.paths[0]))
        great_circle = launch.problem(self.setting).manifold.restrict(torch.tensor([index]))
        arrival = great_circle.exp(launch.x0[index : index + 1], launch.v0[index : index + 1])[0]
        one_density = not bool(launch.moving(self.setting)[index])
        return {
            "pair": followed.departure.starts[index].id,
            "velocity": followed.velocity,
            "method": paths.method,
            "status": status,
            "seconds": paths.seconds,
            "seconds_solving": paths.seconds_solving,
            "evaluations": int(stats["evaluations"][index]),
            "sequential": int(stats["sequential"][index]),
            "reached": float(stats["reached"][index]),
            "angle": float(length / launch.radius[index]),
            "plausible_until": float(plausible.until[index].nan_to_num(0.0)),
            "log_density_end": float(curves.log_density[index, -1]) if one_density else float("nan"),
            "log_density_min": float(curves.log_density[index].min()) if one_density else float("nan"),
            "closure": float(curves.closure[index].abs()) if one_density else float("nan"),
            "level_end": float(plausible.level[index, -1]),
            "norm_end": float(plausible.norm[index, -1]),
            "noise_end": float(plausible.noise[index, -1]),
            "length": float(curves.length[index]) if one_density else float("nan"),
            "residual_mean": float(curves.residual[index, 1:-1].mean()),
            "strength": float(curves.strength[index]),
            "strayed": float((end - arrival).norm() / length),
            "apart": float((end - end_of_first).norm() / length) if paths.method not in BASELINES else float("nan"),
            "returned": float("nan") if followed.returned is None else float(followed.returned[index]),
            "origin": "" if launch.lead is None else launch.lead.solution.status[index].value,
        }

    def _write_departure(self, followed: FollowedLaunch, index: int, curves: list[PathCurve]) -> Section:
        """Strip, animations and figure of one image; returns its part of the report."""
        folder, lead = self.run.folder, followed.lead_frames
        stem = _stem(followed, index)
        rows = {} if lead is None else {"the way there": lead[index]}
        for paths in followed.paths:
            frames = paths.frames[index]
            rows[_row_name(followed, paths.method)] = _marked(frames, float(paths.plausibility.until[index]))
            whole = frames if lead is None else torch.cat([lead[index], frames[1:]])
            save_animation(folder / _animation(followed, index, paths), whole)
        save_strip(folder / "images" / f"{stem}.png", rows)
        draw_departure(
            folder / "figures" / f"{stem}.png",
            curves,
            band=self._band,
            density=self.setting.score.density,
            angle=float(followed.launch.v0[index].norm() / followed.launch.radius[index]),
        )
        return _page(followed, index, stem)

    def _curves(self, followed: FollowedLaunch, index: int) -> list[PathCurve]:
        """What the figure draws of one image."""
        found = []
        for paths in followed.paths:
            plausible, speed = paths.plausibility, paths.curves.speed[index]
            found.append(
                PathCurve(
                    method=paths.method,
                    u=_numbers(plausible.u),
                    log_density=_numbers(paths.curves.log_density[index]),
                    level=_numbers(plausible.level[index]),
                    norm=_numbers(plausible.norm[index]),
                    speed=_numbers(speed / speed[0].clamp_min(1e-12)),
                    until=float(plausible.until[index]),
                )
            )
        return found

    @property
    def _band(self) -> Band:
        real = self.real
        return Band(
            levels=(float(real.levels.min()), float(real.levels.max())),
            least_level=real.least_level,
            norms=(float(real.norms.min()), float(real.norms.max())),
            shell=real.shell,
        )


def _stem(followed: FollowedLaunch, index: int) -> str:
    """What the names of an image's pictures begin with."""
    return file_stem(followed.departure.starts[index].id, followed.velocity)


def _animation(followed: FollowedLaunch, index: int, paths: FollowedPaths) -> str:
    stem = file_stem(followed.departure.starts[index].id, followed.velocity, paths.method)
    return f"images/{stem}.webp"


def _animations(followed: FollowedLaunch) -> list[str]:
    """The names of all animations of a launch in the run's folder."""
    images = range(len(followed.departure.starts))
    return [_animation(followed, index, paths) for index in images for paths in followed.paths]


def _page(followed: FollowedLaunch, index: int, stem: str) -> Section:
    """The part of the report on one image."""
    start, first = followed.departure.starts[index], followed.paths[0]
    sentences = [_start_sentence(start.prompt, followed, index)]
    until = float(first.plausibility.until[index])
    if math.isnan(until):
        sentences.append("Its start is already outside what the reference images allow.")
    elif until < 1:
        sentences.append(f"The geodesic is plausible up to u = {until:.2f}; later frames have an orange frame.")
    else:
        sentences.append("The geodesic is plausible all along.")
    return Section(
        title=f"{start.id}, {followed.velocity}",
        text=sentences,
        pictures=[
            Picture(file=f"images/{stem}.png", caption=f"Frames at even steps of u; the geodesic by '{first.method}'."),
            Picture(file=f"figures/{stem}.png", caption="Density, plausibility, norm and speed along the paths."),
        ],
    )


def _section(page: Mapping[str, Any]) -> Section:
    """A part of the report as it was kept."""
    return Section(**{**page, "pictures": [Picture(**picture) for picture in page["pictures"]]})


def _curve_rows(followed: FollowedLaunch, index: int, curves: list[PathCurve]) -> list[dict[str, Any]]:
    """The lines of `curves.csv` for one image, those of a method together, a column a list."""
    named = {"pair": followed.departure.starts[index].id, "velocity": followed.velocity}
    columns = ("u", "log_density", "level", "norm", "speed")
    return [
        named | {"method": curve.method} | {name: getattr(curve, name).tolist() for name in columns} for curve in curves
    ]


def _row_name(followed: FollowedLaunch, method: str) -> str:
    """What stands beside a row of frames; the first integrator is the one that the others are compared with."""
    return "geodesic" if method == followed.paths[0].method else ROW_NAMES.get(method, method)


def _start_sentence(prompt: str, followed: FollowedLaunch, index: int) -> str:
    """Where a path starts."""
    lead = followed.launch.lead
    if lead is None:
        return f"From the image “{prompt}”." if prompt else "From the image."
    first, second = lead.first.prompts[index], lead.second.prompts[index]
    status = lead.solution.status[index].value
    return f"On from the second image, “{first}” → “{second}”; the geodesic between them ended {status}."


def _end(paths: FollowedPaths, index: int) -> Float[Tensor, " d"]:
    return paths.solution.path.point(torch.ones(1, dtype=torch.float64))[index, 0]


def _saved(v0: Float[Tensor, "p d"]) -> list[Float[Tensor, " d"]]:
    return [v.detach().float().cpu().contiguous().clone() for v in v0]


def _marked(frames: Float[Tensor, "n 3 h w"], until: float) -> Float[Tensor, "n 3 h w"]:
    """The frames, those beyond what is plausible with an orange frame."""
    u = torch.linspace(0, 1, len(frames))
    beyond = u > until + 1e-6 if not math.isnan(until) else torch.ones_like(u, dtype=torch.bool)
    marked = frames.clone()
    edge = max(1, frames.shape[-1] // 32)
    colour = torch.tensor(MARK).to(frames)[:, None, None]
    for index in beyond.nonzero().flatten().tolist():
        inside = frames[index, :, edge:-edge, edge:-edge].clone()
        marked[index] = colour
        marked[index, :, edge:-edge, edge:-edge] = inside
    return marked


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
