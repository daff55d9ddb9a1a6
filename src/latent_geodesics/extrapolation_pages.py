"""What an extrapolation run leaves in its folder, launch by launch: rows, curves, velocities and pictures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.errors import UserError
from latent_geodesics.extrapolation_figures import Band, PathCurve, draw_departure, draw_overview
from latent_geodesics.extrapolation_report import BASELINES, summarise_extrapolation, write_extrapolation_report
from latent_geodesics.files import replacing, write_text
from latent_geodesics.methods.departure import Departure, Launch, Setting
from latent_geodesics.methods.statuses import CLOSED_FORM
from latent_geodesics.methods.velocities import InitialVelocity
from latent_geodesics.metrics import PathCurves
from latent_geodesics.metrics.plausibility import LEFT_PLAUSIBLE, PlausibilityCurves, RealLatents
from latent_geodesics.pages import Picture, Section
from latent_geodesics.records import Solution, Status
from latent_geodesics.runner import Run
from latent_geodesics.strips import save_animation, save_strip

__all__ = ["ExtrapolationFolder", "FollowedPaths"]

MARK = (0.84, 0.37, 0.0)
ROW_NAMES = {"slerp": "great circle", "lerp": "straight line"}


@dataclass(frozen=True, kw_only=True)
class FollowedPaths:
    """What one method made of one launch; seconds are per path, with and without decoding."""

    method: str
    statuses: tuple[str, ...]
    solution: Solution
    frames: Float[Tensor, "p n 3 h w"]
    seconds: float
    seconds_solving: float
    curves: PathCurves


@dataclass
class _Open:
    """The launch that is being followed."""

    name: str
    departure: Departure
    launch: Launch
    returned: Float[Tensor, " p"] | None
    lead_frames: Float[Tensor, "p n 3 h w"] | None
    paths: list[FollowedPaths] = field(default_factory=list)
    plausibility: list[PlausibilityCurves] = field(default_factory=list)


class ExtrapolationFolder:
    """Writes the folder of a run, launch by launch.

    Args:
        run: The run.
        setting: What all its paths have in common.
        real: The reference images.
        velocities: Name -> initial velocity.
        u: The positions of the frames.
    """

    def __init__(
        self,
        *,
        run: Run,
        setting: Setting,
        real: RealLatents,
        velocities: Mapping[str, InitialVelocity],
        u: Float[Tensor, " n"],
    ) -> None:
        self.run, self.setting, self.real, self.velocities, self.u = run, setting, real, velocities, u
        self.rows: list[dict[str, Any]] = []
        self._curve_rows: list[pd.DataFrame] = []
        self._pages: list[Section] = []
        self._saved: dict[str, dict[str, Tensor]] = {}

    def begin(self, name: str, departure: Departure, launch: Launch, *, returned: Float[Tensor, " p"] | None) -> None:
        """Open the books of a launch.

        Args:
            name: The velocity's name.
            departure: The images.
            launch: Where and how fast the paths start.
            returned: For a velocity that carries on a path between two images, how far from the second image the
                path ends that leaves the first with that path's own velocity, as a share of their distance.
        """
        lead = None if launch.lead is None else launch.lead.decode(self.setting, self.u)
        self._open = _Open(name=name, departure=departure, launch=launch, returned=returned, lead_frames=lead)
        self._save_velocities(name, launch.v0)

    def add(self, paths: FollowedPaths) -> None:
        """Book what one method made of the launch: the numbers at once."""
        self._open.paths.append(paths)
        self._open.plausibility.append(self.real.follow(paths.solution.path))
        self.rows += [self._row(index) for index in range(len(self._open.departure.starts))]
        write_text(self.run.folder / "results.csv", self.table.to_csv(index=False))

    def end(self) -> None:
        """Write the pictures of the launch."""
        for index in range(len(self._open.departure.starts)):
            self._write_departure(index)
        curves = pd.concat(self._curve_rows, ignore_index=True)
        write_text(self.run.folder / "curves.csv", curves.to_csv(index=False, float_format="%.6g"))

    @property
    def table(self) -> pd.DataFrame:
        """A row for each image, velocity and method so far."""
        return pd.DataFrame(self.rows)

    def finish(self) -> Mapping[str, float]:
        """Write the overview and the report; returns the summary.

        Raises:
            UserError: when the score of some path was not finite.
        """
        table = self.table
        titles = {name: name.replace("_", " ") for name in self.velocities}
        draw_overview(self.run.folder / "figures" / "overview.png", table, titles)
        summary = summarise_extrapolation(table)
        write_extrapolation_report(
            self.run, table, setting=self.setting, real=self.real, velocities=self.velocities, pages=self._pages
        )
        logger = self.run.logger
        logger.table("results", list(table.columns), table.to_numpy().tolist())
        logger.picture("overview", self.run.folder / "figures" / "overview.png")
        broken = table[table["status"] == Status.NON_FINITE_SCORE.value]
        if len(broken):
            raise UserError(
                f"The score of {len(broken)} of {len(table)} paths was not finite: the other results are in "
                f"'{self.run.folder}'; try a larger tau, a smaller alpha, or a shorter path."
            )
        return summary

    def _row(self, index: int) -> dict[str, Any]:
        """The line of `results.csv` for one image and the latest method."""
        opened = self._open
        paths, plausible, launch = opened.paths[-1], opened.plausibility[-1], opened.launch
        curves, stats = paths.curves, paths.solution.stats
        status = paths.statuses[index]
        if status in (Status.INTEGRATED.value, CLOSED_FORM) and not bool(plausible.plausible[index].all()):
            status = LEFT_PLAUSIBLE
        length = launch.v0[index].norm()
        ends = [other.solution.path.point(torch.ones(1, dtype=torch.float64))[index, 0] for other in opened.paths]
        great_circle = launch.problem(self.setting).manifold.restrict(torch.tensor([index]))
        arrival = great_circle.exp(launch.x0[index : index + 1], launch.v0[index : index + 1])[0]
        return {
            "pair": opened.departure.starts[index].id,
            "velocity": opened.name,
            "method": paths.method,
            "status": status,
            "seconds": paths.seconds,
            "seconds_solving": paths.seconds_solving,
            "evaluations": int(stats["evaluations"][index]),
            "sequential": int(stats["sequential"][index]),
            "reached": float(stats["reached"][index]),
            "angle": float(length / launch.radius[index]),
            "plausible_until": float(plausible.until[index].nan_to_num(0.0)),
            "log_density_end": float(curves.log_density[index, -1]),
            "log_density_min": float(curves.log_density[index].min()),
            "level_end": float(plausible.level[index, -1]),
            "norm_end": float(plausible.norm[index, -1]),
            "noise_end": float(plausible.noise[index, -1]),
            "length": float(curves.length[index]),
            "residual_mean": float(curves.residual[index, 1:-1].mean()),
            "strayed": float((ends[-1] - arrival).norm() / length),
            "apart": float((ends[-1] - ends[0]).norm() / length) if paths.method not in BASELINES else float("nan"),
            "returned": float("nan") if opened.returned is None else float(opened.returned[index]),
            "origin": "" if launch.lead is None else launch.lead.solution.status[index].value,
        }

    def _save_velocities(self, name: str, v0: Float[Tensor, "p d"]) -> None:
        from safetensors.torch import save_file

        known = self._saved.setdefault(name, {})
        for identity, v in zip(self._open.departure.ids, v0, strict=True):
            known[identity] = v.detach().float().cpu().contiguous().clone()
        with replacing(self.run.folder / "velocities" / f"{name}.safetensors") as partial:
            save_file(known, partial)

    def _write_departure(self, index: int) -> None:
        """Strip, animations, figure and curves of one image."""
        opened, folder = self._open, self.run.folder
        start = opened.departure.starts[index]
        stem = f"{start.id}_{opened.name}"
        rows = {} if opened.lead_frames is None else {"the way there": opened.lead_frames[index]}
        for paths, plausible in zip(opened.paths, opened.plausibility, strict=True):
            frames = paths.frames[index]
            rows[self._row_name(paths.method)] = _marked(frames, float(plausible.until[index]))
            whole = frames if opened.lead_frames is None else torch.cat([opened.lead_frames[index], frames[1:]])
            save_animation(folder / "images" / f"{stem}_{paths.method}.webp", whole)
        save_strip(folder / "images" / f"{stem}.png", rows)
        curves = self._curves(index)
        angle = float(opened.launch.v0[index].norm() / opened.launch.radius[index])
        draw_departure(
            folder / "figures" / f"{stem}.png",
            curves,
            band=self._band,
            density=self.setting.score.density,
            angle=angle,
        )
        logger = self.run.logger
        logger.picture(f"strips/{stem}", folder / "images" / f"{stem}.png")
        logger.picture(f"figures/{stem}", folder / "figures" / f"{stem}.png")
        for curve in curves:
            name = f"{stem}/{curve.method}"
            logger.curve(f"log_density/{name}", curve.log_density.tolist(), against=curve.u.tolist(), axis="u")
            numbers = {"u": curve.u, "log_density": curve.log_density, "level": curve.level, "norm": curve.norm}
            named = {"pair": start.id, "velocity": opened.name, "method": curve.method}
            self._curve_rows.append(pd.DataFrame(named | numbers | {"speed": curve.speed}))
        self._pages.append(self._page(index, stem))

    def _row_name(self, method: str) -> str:
        """What stands beside a row of frames; the first integrator is the one that the others are compared with."""
        return "geodesic" if method == self._open.paths[0].method else ROW_NAMES.get(method, method)

    def _page(self, index: int, stem: str) -> Section:
        """The part of the report on one image."""
        opened = self._open
        start, method = opened.departure.starts[index], opened.paths[0].method
        sentences = [_start_sentence(start.prompt, opened, index)]
        until = float(opened.plausibility[0].until[index])
        if math.isnan(until):
            sentences.append("Its start is already outside what the reference images allow.")
        elif until < 1:
            sentences.append(f"The geodesic is plausible up to u = {until:.2f}; later frames have an orange frame.")
        else:
            sentences.append("The geodesic is plausible all along.")
        return Section(
            title=f"{start.id}, {opened.name}",
            text=sentences,
            pictures=[
                Picture(file=f"images/{stem}.png", caption=f"Frames at even steps of u; the geodesic by '{method}'."),
                Picture(file=f"figures/{stem}.png", caption="Density, plausibility, norm and speed along the paths."),
            ],
        )

    def _curves(self, index: int) -> list[PathCurve]:
        """What the figure draws of one image."""
        found = []
        for paths, plausible in zip(self._open.paths, self._open.plausibility, strict=True):
            speed = paths.curves.speed[index]
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


def _start_sentence(prompt: str, opened: _Open, index: int) -> str:
    """Where a path starts."""
    lead = opened.launch.lead
    if lead is None:
        return f"From the image “{prompt}”." if prompt else "From the image."
    first, second = lead.first.prompts[index], lead.second.prompts[index]
    status = lead.solution.status[index].value
    return f"On from the second image, “{first}” → “{second}”; the geodesic between them ended {status}."


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
