"""What a run shows of a pair: its strip, a film a method, the figure of its curves, and their numbers."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.data.images import psnr
from latent_geodesics.experiments.interpolation.figures import Curve, draw_pair
from latent_geodesics.experiments.interpolation.report import LEAST_PSNR, PairPage
from latent_geodesics.models.accelerator import machine_cores
from latent_geodesics.run.each import Rows
from latent_geodesics.run.names import file_stem
from latent_geodesics.run.results import BatchResult, MethodResult, PairResult
from latent_geodesics.run.sequences import save_frame
from latent_geodesics.run.tracking import RunLogger

log = logging.getLogger(__name__)

TRUTH, ENDS = "true_frames", "the_two_images"


def show_pair(rows: Rows, result: BatchResult, place: int) -> PairPage:
    """Writes the pictures of the pair at a place of a batch; returns what the report says of it."""
    batch = result.pairs.batch
    pair, truth = batch.pairs[place], batch.truth[place]
    at_positions = batch.true_frames(place, len(result.u))
    truth = truth if at_positions is None else at_positions
    of_pair, made = result.of_pair(place), result.made(place)
    shown = {one.method: one.frames for one in made}
    if truth is not None:
        shown = {TRUTH: truth} | shown
    if not shown:
        shown = {ENDS: torch.stack([batch.images_a[place], batch.images_b[place]])}
    drawn = [one for one in made if one.result.curves is not None and one.result.morph.posed is None]
    curves = [_curve(one.result, one.index) for one in drawn]  # of one density, that of the run
    ends = [
        rows.file(f"ends/{file_stem(pair.id, end)}.png", partial(save_frame, frame=image))
        for end, image in (("a", batch.images_a[place]), ("b", batch.images_b[place]))
    ]
    # Side by side: what takes time is compression, which needs no interpreter.
    with ThreadPoolExecutor(machine_cores()) as pool:
        strip = pool.submit(rows.strip, shown, pair.id)
        players = [
            pool.submit(rows.sequence, frames, pair.id, name, truth=frames is truth) for name, frames in shown.items()
        ]
        figure = None
        if curves:
            name = f"figures/{file_stem(pair.id)}.png"
            figure = rows.file(name, lambda file: draw_pair(file, curves, density=result.pairs.density))
    numbers = {one.method: one.row for one in of_pair}
    page = PairPage(
        id=pair.id,
        group=pair.group,
        prompt_a=pair.prompt_a,
        prompt_b=pair.prompt_b,
        ends=ends,
        strip=strip.result(),
        players=[
            job.result() | {"verdict": numbers.get(name, {}).get("verdict")}
            for name, job in zip(shown, players, strict=True)
        ],
        reconstruction=_reconstruction(made, batch.images_a[place], batch.images_b[place]),
        figure=figure,
        rows=list(numbers.values()),
        courses={curve.method: _course(curve) for curve in curves},
    )
    if page.unknown:
        log.warning(
            "The model does not know the images of pair '%s': it gives them back with %.1f dB, and below %.0f dB "
            "nothing between them means anything. Take a model that was trained on images of this kind.",
            pair.id, page.reconstruction, LEAST_PSNR,
        )  # fmt: skip
    for one in made:
        if not one.settled:
            log.warning("'%s' on pair '%s' ended %s.", one.method, pair.id, one.status)
    return page


def _reconstruction(
    made: Sequence[PairResult], first: Float[Tensor, "3 h w"], last: Float[Tensor, "3 h w"]
) -> float | None:
    """PSNR in dB of the worse end, by a method whose ends come through the model; None where there is none."""
    through = [one.frames for one in made if one.result.morph.solution is not None]
    if not through:
        return None
    return float(psnr(through[0][[0, -1]].float(), torch.stack([first, last])).min())


def log_courses(logger: RunLogger, pages: Sequence[PairPage]) -> None:
    """Tells the logger how density, residual and length go along the paths of all pairs."""
    for page in pages:
        for method, course in page.courses.items():
            name = file_stem(page.id) + "/" + file_stem(method)
            iterations = range(len(course["residual"]))
            logger.curve(f"log_density/{name}", course["log_density"], against=course["u"], axis="u")
            logger.curve(f"residual/{name}", course["residual"], against=iterations, axis="iteration")
            logger.curve(f"length/{name}", course["length"], against=iterations, axis="iteration")


def _course(curve: Curve) -> dict[str, list[float]]:
    found = {
        "u": curve.u, "log_density": curve.log_density, "residual": curve.residuals, "length": curve.lengths,
    }  # fmt: skip
    return {name: values.tolist() for name, values in found.items()}


def _curve(result: MethodResult, index: int) -> Curve:
    curves, solution = result.curves, result.morph.solution
    assert curves is not None and solution is not None
    trace = solution.trace
    return Curve(
        method=result.method,
        u=_numbers(curves.u),
        log_density=_numbers(curves.log_density[index]),
        speed=_numbers(curves.speed[index] / curves.speed[index].mean().clamp_min(1e-12)),
        evaluations=_numbers(trace.evaluations[:, index]),
        lengths=_numbers(trace.length[:, index]),
        residuals=_numbers(trace.residual[:, index]),
    )


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
