"""Extrapolation: paths that leave an image, by every kind of velocity and every way to carry it on."""

from collections.abc import Mapping, Sequence
from functools import partial

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.solvers import InitialSolver
from latent_geodesics.data import PairData
from latent_geodesics.data.starts import pick_pairs, starts_of_pairs, starts_on_disk
from latent_geodesics.experiments.extrapolation import findings
from latent_geodesics.experiments.extrapolation.figures import draw_overview
from latent_geodesics.experiments.extrapolation.following import Follower, Leaving, departures
from latent_geodesics.experiments.extrapolation.reference import ReferenceImages
from latent_geodesics.experiments.extrapolation.rows import (
    curve_rows,
    keep_velocities,
    log_curves,
    path_row,
    show_departure,
)
from latent_geodesics.methods.departure import Continuation, GeodesicOn, GreatCircleOn, StraightOn
from latent_geodesics.methods.encoding import Setting
from latent_geodesics.methods.velocities import InitialVelocity
from latent_geodesics.run.each import Rows
from latent_geodesics.run.runner import Run

OVERVIEW = "figures/overview.png"


class Extrapolation:
    """Creates the experiment of leaving images along geodesics.

    Args:
        setting: What all paths have in common.
        data: Pairs of images: the first of each is left, the second gives a direction.
        velocities: Name -> initial velocity.
        integrators: Name -> integrator; the first is the one that others are compared with.
        reference: Real images to hold the paths against: a folder, or a manifest of images or of pairs.
        frames: Images of a sequence, the start included; at least 2.
        reference_images: How many of the real images to take, evenly spread over the list; at least 4.
        baselines: Whether to carry velocities on along great circles and straight lines too.
        pairs: Ids of the pairs to take; all of them if empty. A user's own two images need none.
        images: A folder of images or an image file to leave, in place of the pairs.
        prompt: What those images show.
        batch_size: How many images are followed together.
    """

    shares_work = True

    def __init__(
        self,
        *,
        setting: Setting,
        data: PairData,
        velocities: Mapping[str, InitialVelocity],
        integrators: Mapping[str, InitialSolver],
        reference: str,
        frames: int,
        reference_images: int = 32,
        baselines: bool = True,
        pairs: Sequence[str] = (),
        images: str | None = None,
        prompt: str = "",
        batch_size: int = 8,
    ) -> None:
        if frames < 2:
            raise UserError(f"frames must be at least 2 (the start and the end of a path), got {frames}.")
        if batch_size < 1:
            raise UserError(f"task.batch_size must be at least 1, got {batch_size}.")
        if not velocities:
            raise UserError("No initial velocity was chosen: name some, as in velocity=[boundary,random].")
        if not integrators:
            raise UserError("No integrator was chosen: name one, as in integrator=[parallel].")
        if images is None:
            self.starts = starts_of_pairs(pick_pairs(data.pairs, pairs))
        else:
            self.starts = starts_on_disk(images, prompt=prompt)
        self.batches = departures(self.starts, velocities, batch_size=batch_size)
        self.methods: dict[str, Continuation] = {name: GeodesicOn(solver=one) for name, one in integrators.items()}
        if baselines:
            self.methods |= {"slerp": GreatCircleOn(), "lerp": StraightOn()}
        self.setting, self.velocities, self.frames = setting, velocities, frames
        self.reference = ReferenceImages(images=reference, count=reference_images)
        self.batch_size = batch_size

    def run(self, run: Run) -> Mapping[str, float]:
        """Follows every path; returns the means `<velocity>/<method>/<column>` and what the integrators agree on."""
        weights = {"model": self.setting.model.fingerprint}
        run.record_environment(weights=weights, machinery=self.setting.model.machinery)
        real = self.reference.latents(self.setting, batch_size=self.batch_size, quiet=not run.leads)
        follower = Follower(
            setting=self.setting, velocities=self.velocities, methods=self.methods, real=real,
            images=len(self.starts), frames=self.frames,
        )  # fmt: skip
        tables = run.each(self.batches, partial(self.work, run, follower), read=tuple, made_with=weights)
        if not run.leads:
            return {}
        results, density = tables["results"], self.setting.score.density
        keep_velocities(run.folder, tables)
        log_curves(run.logger, tables["curves"])
        draw_overview(run.folder / OVERVIEW, results)
        page = run.page(
            "Extrapolation along probability-density geodesics",
            findings.LEAD,
            *("condition", "tau", "alpha", "guidance", "frames", "seed"),
            departures=tables.counted, images=results["pair"].nunique(), paths=len(results), density=density,
            **{"reference images": len(real.levels)},
        )  # fmt: skip
        kinds = [f"{name}: {velocity.words}." for name, velocity in self.velocities.items()]
        page.section("Means over the images", *kinds, table=findings.means_table(results))
        page.section("What counts as plausible", *findings.plausible_words(real))
        overview = {OVERVIEW: "A dot a path; higher log-density is better."}
        page.section("How far each path stays plausible", findings.DIVING, pictures=overview)
        page.section("How the paths ended", *findings.status_words(results), table=findings.endings_table(results))
        for section in (section for shown in tables.kept("shown") for section in shown):
            page.section(section["title"], *section["text"], players=section["players"], pictures=section["pictures"])
        return run.finish(
            page, tables, summary=findings.summarise(results), broken=findings.refusal(results, run.folder)
        )

    def work(self, run: Run, follower: Follower, leaving: Sequence[Leaving]) -> Rows:
        """One velocity from some images, by every method, with its pictures written."""
        followed, rows = follower.follow(leaving), run.rows()
        images = range(len(leaving))
        rows.add("results", *(path_row(followed, paths, index) for paths in followed.paths for index in images))
        curves = [curve_rows(followed, index) for index in images]
        rows.add("curves", *(row for of_image in curves for row in of_image))
        v0 = followed.launch.v0.detach().float().cpu()
        rows.kept = {
            "velocity": followed.velocity,
            "v0": {one.start.id: v0[index].clone() for index, one in enumerate(leaving)},
            "shown": [show_departure(rows, followed, index, curves[index], follower.real) for index in images],
        }
        return rows
