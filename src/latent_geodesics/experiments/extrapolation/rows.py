"""What a followed launch gives: a row for each path, the points of its curves, and what is shown of each image."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from latent_geodesics.core.records import Status
from latent_geodesics.experiments.extrapolation.figures import draw_departure, path_title
from latent_geodesics.experiments.extrapolation.following import FollowedLaunch, FollowedPaths
from latent_geodesics.metrics.plausibility import LEFT_PLAUSIBLE, RealLatents
from latent_geodesics.run.canvas import literal
from latent_geodesics.run.each import Rows, Tables
from latent_geodesics.run.files import file_stem, replacing
from latent_geodesics.run.tracking import RunLogger

BASELINES = frozenset({"slerp", "lerp"})
MARK = (0.84, 0.37, 0.0)


def path_row(followed: FollowedLaunch, paths: FollowedPaths, index: int) -> dict[str, Any]:
    """The line of `results.csv` for one method and one image."""
    launch, curves, plausible, stats = followed.launch, paths.curves, paths.plausibility, paths.solution.stats
    setting = followed.departure.setting
    status = paths.statuses[index]
    if status in (Status.INTEGRATED.value, Status.CLOSED_FORM.value) and not bool(plausible.plausible[index].all()):
        status = LEFT_PLAUSIBLE
    length = launch.v0[index].norm()
    end, end_of_first = (_end(one, index) for one in (paths, followed.paths[0]))
    great_circle = launch.problem(setting).manifold.restrict(torch.tensor([index]))
    arrival = great_circle.exp(launch.x0[index : index + 1], launch.v0[index : index + 1])[0]
    # Where the density changes along a path, no level of one compares with another's.
    one_density = 1.0 if not bool(launch.moving(setting)[index]) else math.nan
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
        "log_density_end": one_density * float(curves.log_density[index, -1]),
        "log_density_min": one_density * float(curves.log_density[index].min()),
        "closure": one_density * float(curves.closure[index].abs()),
        "level_end": float(plausible.level[index, -1]),
        "norm_end": float(plausible.norm[index, -1]),
        "noise_end": float(plausible.noise[index, -1]),
        "length": one_density * float(curves.length[index]),
        "residual_mean": float(curves.residual[index, 1:-1].mean()),
        "strength": float(curves.strength[index]),
        "strayed": float((end - arrival).norm() / length),
        "apart": math.nan if paths.method in BASELINES else float((end - end_of_first).norm() / length),
        "returned": math.nan if followed.returned is None else float(followed.returned[index]),
        "origin": "" if launch.lead is None else launch.lead.solution.status[index].value,
    }


def curve_rows(followed: FollowedLaunch, index: int) -> list[dict[str, Any]]:
    """The lines of `curves.csv` for one image, to the six digits that single precision has."""
    named = {"pair": followed.departure.starts[index].id, "velocity": followed.velocity}
    rows = []
    for paths in followed.paths:
        speed = paths.curves.speed[index].double()
        columns = {
            "u": paths.plausibility.u,
            "log_density": paths.curves.log_density[index],
            "level": paths.plausibility.level[index],
            "norm": paths.plausibility.norm[index],
            "speed": speed / speed[0].clamp_min(1e-12),
        }
        points = zip(*(values.double().tolist() for values in columns.values()), strict=True)
        rows += [
            named | {"method": paths.method} | {name: float(f"{x:.6g}") for name, x in zip(columns, point, strict=True)}
            for point in points
        ]
    return rows


def show_departure(
    rows: Rows, followed: FollowedLaunch, index: int, curves: list[dict[str, Any]], real: RealLatents
) -> dict[str, Any]:
    """Writes strip, animations and figure of one image; returns its section: title, text, players, pictures."""
    start, launch, first = followed.departure.starts[index], followed.launch, followed.paths[0]
    lead = None if followed.lead_frames is None else followed.lead_frames[index]
    names, until = (start.id, followed.velocity), {}
    players = []
    strip = {} if lead is None else {"the way there": lead}
    for paths in followed.paths:
        frames, until[paths.method] = paths.frames[index], float(paths.plausibility.until[index])
        strip[path_title(paths.method)] = _marked(frames, until[paths.method])
        whole = frames if lead is None else torch.cat([lead, frames[1:]])
        players.append(rows.sequence(whole, *names, paths.method) | {"name": path_title(paths.method)})
    words = (
        f"the path turns by {float(launch.v0[index].norm() / launch.radius[index]):.2f} rad · density: "
        f"{literal(followed.departure.setting.score.density, most=200)} · blue band: the real images; dashed: what "
        "counts as plausible"
    )
    figure = rows.file(
        f"figures/{file_stem(*names)}.png",
        lambda file: draw_departure(file, pd.DataFrame(curves), until, real=real, words=words),
    )
    return {
        "title": f"{start.id}, {followed.velocity}",
        "text": [_origin(followed, index), _plausible(until[first.method])],
        "players": players,
        "pictures": {
            rows.strip(strip, *names): "Frames at even steps of u.",
            figure: "Density, plausibility, norm and speed along the paths.",
        },
    }


def keep_velocities(folder: Path, tables: Tables) -> None:
    """Writes the initial velocities, a file for each kind, which the velocity `file` reads."""
    for name in dict.fromkeys(tables.kept("velocity")):
        of_kind = zip(tables.kept("velocity"), tables.kept("v0"), strict=True)
        known = {image: v for velocity, v0 in of_kind if velocity == name for image, v in v0.items()}
        with replacing(folder / "velocities" / f"{file_stem(name)}.safetensors") as partial:
            save_file(known, partial)


def log_curves(logger: RunLogger, curves: pd.DataFrame) -> None:
    """Tells the logger how the density goes along every path."""
    for (pair, velocity, method), curve in curves.groupby(["pair", "velocity", "method"], sort=False):
        name = f"log_density/{file_stem(str(pair), str(velocity))}/{file_stem(str(method))}"
        logger.curve(name, curve["log_density"].tolist(), against=curve["u"].tolist(), axis="u")


def _origin(followed: FollowedLaunch, index: int) -> str:
    lead, prompt = followed.launch.lead, followed.departure.starts[index].prompt
    if lead is None:
        return f"From the image “{prompt}”." if prompt else "From the image."
    first, second = lead.first.prompts[index], lead.second.prompts[index]
    status = lead.solution.status[index].value
    return f"On from the second image, “{first}” → “{second}”; the geodesic between them ended {status}."


def _plausible(until: float) -> str:
    if math.isnan(until):
        return "Its start is already outside what the reference images allow."
    if until < 1:
        return f"The geodesic is plausible up to u = {until:.2f}; later frames have an orange frame."
    return "The geodesic is plausible all along."


def _end(paths: FollowedPaths, index: int) -> Float[Tensor, " d"]:
    return paths.solution.path.point(torch.ones(1, dtype=torch.float64))[index, 0]


def _marked(frames: Float[Tensor, "n 3 h w"], until: float) -> Float[Tensor, "n 3 h w"]:
    """The frames, those beyond what is plausible with an orange frame."""
    beyond = ~(torch.linspace(0, 1, len(frames)) <= until + 1e-6)  # all of them where it is NaN
    edge = max(1, frames.shape[-1] // 32)
    marked = frames.clone()
    marked[beyond] = torch.tensor(MARK).to(frames)[:, None, None]
    marked[beyond, :, edge:-edge, edge:-edge] = frames[beyond, :, edge:-edge, edge:-edge]
    return marked
