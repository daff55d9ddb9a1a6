"""Video analysis: is the path of a video's frames through the latent space a geodesic, as in Figure 3 of the paper?

Every video is encoded, its four paths are made and measured, and what was found is written before the next batch
begins, so that an interrupted run keeps what was finished.
"""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import Batches, NumberedBatch, Video, VideoBatch, VideoData
from latent_geodesics.experiments.video_analysis import (
    Again,
    Analyser,
    BatchMeasures,
    Derivatives,
    EncodedVideos,
    Optimiser,
    VideoEncoder,
)
from latent_geodesics.experiments.video_analysis.folder import AnalysedBatch, AnalysisFolder
from latent_geodesics.methods.power import power_of_density
from latent_geodesics.models import LatentModel
from latent_geodesics.run.batch_loop import BatchModule, run_batches
from latent_geodesics.run.batch_store import BatchStore
from latent_geodesics.run.runner import Run

__all__ = ["VideoAnalysis", "VideoModule"]


class VideoModule(BatchModule):
    """Encodes a batch of videos, makes their paths and measures them.

    Args:
        encoder: What makes points of frames.
        analyser: What makes paths of them, and measures these.
        rounding_frames: See `VideoAnalysis`.
        shown: The ids of the videos that are shown in pictures.
    """

    def __init__(
        self, *, encoder: VideoEncoder, analyser: Analyser, rounding_frames: int, shown: Collection[str]
    ) -> None:
        super().__init__()
        self.encoder, self.analyser, self.rounding_frames, self.shown = encoder, analyser, rounding_frames, shown

    def work(self, batch: NumberedBatch[VideoBatch]) -> AnalysedBatch:
        """One batch of videos."""
        started = time.perf_counter()
        encoded = self.encoder.encode(batch.content)
        seconds = (time.perf_counter() - started) / len(batch.content)
        measures = self.analyser.analyse(encoded, again=self._again(encoded))
        return AnalysedBatch(
            number=batch.number,
            measures=measures,
            encoding_seconds=seconds,
            pictures=self._pictures(encoded, measures),
        )

    def _again(self, encoded: EncodedVideos) -> Again | None:
        """The frames in the middle once more."""
        if not self.rounding_frames:
            return None
        count = min(self.rounding_frames, encoded.points.shape[1])
        start = (encoded.points.shape[1] - count) // 2
        frames = range(start, start + count)
        return Again(frames=frames, points=self.encoder.encode_again(encoded, frames))

    def _pictures(self, encoded: EncodedVideos, measures: BatchMeasures) -> dict[str, dict[str, torch.Tensor]]:
        """Name of a video that is shown -> the frames of its paths as images, every second one."""
        shown = [index for index, video in enumerate(encoded.batch.videos) if video.id in self.shown]
        if not shown:
            return {}
        count = encoded.points.shape[1]
        frames = sorted(
            {round(step) for step in torch.linspace(0, count - 1, -(-count // 2)).tolist()} | {0, count - 1}
        )
        part = encoded.restrict(shown)
        names = [name for name in self.analyser.shown if name != "video"]
        decoded = {name: part.decode(measures.path(name).points[shown][:, frames], frames) for name in names}
        return {
            encoded.batch.videos[index].id: {"video": encoded.batch.frames[index][frames]}
            | {name: images[row] for name, images in decoded.items()}
            for row, index in enumerate(shown)
        }


class VideoAnalysis:
    """Creates the task of holding videos against the geodesic equation.

    Args:
        model: The diffusion model.
        data: The videos.
        score: The score that makes the geometry.
        tau: Noise level of the latents, in (0, 1).
        alpha_d: Power of the density times the dimension of a latent, above 0; see `methods.power`.
        alpha: The power itself, in its place; None for none.
        textual_inversion: See `VideoEncoder`.
        derivatives: How a path of frames is differentiated.
        optimiser: What deforms a video into a geodesic.
        amplitudes: Of the perturbations, in steps of the video; the one in the middle stands in the figure.
        perturbations: How many times each is drawn.
        widths: Of the smoothing kernels, in frames; the one in the middle stands in the figure.
        draws: How often a score that draws random numbers is sampled.
        strides: Also look at every second, fourth... frame alone.
        alphas_d: Powers at which the norm is given as well, times the dimension too.
        rounding_frames: So many frames in the middle of every video are encoded a second time, to know the noise that
            the rounding of pixels makes: at least 3, or 0 for none.
        shown_videos: Of each kind so many are shown in pictures, with their other paths decoded.
    """

    shares_work = True

    def __init__(
        self,
        *,
        model: LatentModel,
        data: VideoData,
        score: Any,
        tau: float,
        alpha_d: float,
        textual_inversion: Mapping[str, Any],
        derivatives: Derivatives,
        optimiser: Optimiser,
        amplitudes: Sequence[float],
        perturbations: int,
        widths: Sequence[float],
        draws: int,
        strides: Sequence[int],
        alphas_d: Sequence[float],
        alpha: float | None = None,
        rounding_frames: int = 5,
        shown_videos: int = 1,
    ) -> None:
        if rounding_frames in (1, 2) or rounding_frames < 0:
            raise UserError(f"task.rounding_frames must be at least 3, or 0 for none, got {rounding_frames}.")
        if shown_videos < 0:
            raise UserError(f"task.shown_videos must not be negative, got {shown_videos}.")
        self.model, self.data = model, data
        self.rounding_frames, self.shown_videos = rounding_frames, shown_videos
        self._encoder = VideoEncoder(model=model, tau=tau, textual_inversion=textual_inversion)
        self._analyser = Analyser(
            score=score,
            alpha=power_of_density(alpha_d=alpha_d, alpha=alpha, dimension=model.dimension),
            derivatives=derivatives,
            optimiser=optimiser,
            amplitudes=tuple(amplitudes),
            perturbations=perturbations,
            widths=tuple(widths),
            draws=draws,
            strides=tuple(strides),
            alphas=tuple(each / model.dimension for each in alphas_d),
        )

    def run(self, run: Run) -> Mapping[str, float]:
        """Analyses every video; returns means, on which share of the videos each prediction held, and separations."""
        size, weights = self.model.image_size, {"model": self.model.fingerprint}
        groups = self.data.batches(size=size)
        run.record_environment(weights=weights, machinery=self.model.machinery)
        batches: Batches[Video, VideoBatch] = Batches(batches=groups, read=partial(self.data.read, size=size))
        store = BatchStore(folder=run.folder, made_with=weights, expected=batches.ids)
        module = VideoModule(
            encoder=self._encoder.seeded(run.seed),
            analyser=self._analyser.seeded(run.seed),
            rounding_frames=self.rounding_frames,
            shown=self._shown(),
        )
        folder = AnalysisFolder(run=run, store=store, videos=len(self.data), analyser=module.analyser)
        run_batches(run, module, batches, store, folder)
        return folder.finish() if run.leads else {}

    def _shown(self) -> frozenset[str]:
        """Which videos are shown in pictures: the first of each kind."""
        seen: Counter[str] = Counter()
        shown = set()
        for video in self.data.videos:
            seen[video.kind] += 1
            if seen[video.kind] <= self.shown_videos:
                shown.add(video.id)
        return frozenset(shown)
