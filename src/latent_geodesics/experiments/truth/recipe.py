"""Truth: every method on the pairs with known in-between frames, held against them frame by frame.

The methods run as they do in interpolation, by the same module; only what is made of their frames differs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import PairData
from latent_geodesics.experiments.interpolation.recipe import Interpolation
from latent_geodesics.experiments.truth.folder import TruthFolder
from latent_geodesics.methods import Method
from latent_geodesics.metrics import FrameMetric
from latent_geodesics.models import LatentModel
from latent_geodesics.run.batch_loop import run_batches
from latent_geodesics.run.batch_store import BatchStore
from latent_geodesics.run.runner import Run

__all__ = ["Truth"]


class Truth(Interpolation):
    """Creates the task of holding methods against true in-between frames.

    Args:
        model: The diffusion model.
        data: The pairs; those without true frames at the positions of the sequence are left out.
        score: The score that makes the geometry.
        methods: Name -> method.
        metrics: Name -> metric of a frame.
        references: Which of the methods are references; names that are no method are passed over.
        draws: Bootstrap resamples.
        options: `tau`, `alpha`, `frames` and the rest, as of `Interpolation`.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        data: PairData,
        score: Any,
        methods: Mapping[str, Method],
        metrics: Mapping[str, FrameMetric],
        references: Sequence[str],
        draws: int,
        **options: Any,
    ) -> None:
        super().__init__(model=model, data=data, score=score, methods=methods, metrics=metrics, **options)
        if draws < 1:
            raise UserError(f"task.draws must be at least 1, got {draws}.")
        wrong = [name for name, metric in metrics.items() if not isinstance(metric, FrameMetric)]
        if wrong or not metrics:
            named = f"These metrics measure no single frames: {', '.join(wrong)}" if wrong else "No metric was chosen"
            raise UserError(f"{named}; take metrics=truth.")
        self.pairs = [pair for pair in data.pairs if pair.frames and not (len(pair.frames) - 1) % (self.frames - 1)]
        if not self.pairs:
            raise UserError(
                f"None of the {len(data)} pairs has true in-between frames at the positions of {self.frames} frames: "
                "give a manifest whose column frames names them, or another number of frames."
            )
        self.frame_metrics = metrics
        self.references = [name for name in references if name in methods]
        self.draws = draws

    def run(self, run: Run) -> Mapping[str, float]:
        """Runs and measures every pair; returns the summary, `<method>/<error>` -> mean over the pairs."""
        weights = {"model": self.model.fingerprint}
        for metric in self.frame_metrics.values():
            weights |= metric.weights
        run.record_environment(weights=weights, machinery=self.model.machinery)
        batches = self._batches(self.pairs)
        store = BatchStore(folder=run.folder, made_with=weights, expected=batches.ids)
        folder = TruthFolder(
            run=run,
            store=store,
            pairs=len(self.pairs),
            metrics=self.frame_metrics,
            references=self.references,
            draws=self.draws,
        )
        run_batches(run, self._module(run, {}), batches, store, folder)
        return folder.finish() if run.leads else {}
