"""Video analysis: is the path of a video's frames through the latent space a geodesic, as in Figure 3 of the paper?

Every video is encoded, its four paths are made and measured (`latent_geodesics.frame_paths`), and what was found is
written before the next batch begins, so that an interrupted run keeps what was finished.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from latent_geodesics.data import VideoBatch, VideoData
from latent_geodesics.errors import UserError
from latent_geodesics.frame_paths import (
    Again,
    Analyser,
    BatchMeasures,
    Derivatives,
    EncodedVideos,
    Optimiser,
    VideoEncoder,
)
from latent_geodesics.frame_paths.folder import AnalysisFolder
from latent_geodesics.models import LatentModel
from latent_geodesics.runner import Run

__all__ = ["VideoAnalysis"]


class VideoAnalysis:
    """Creates the task of holding videos against the geodesic equation.

    Args:
        model: The diffusion model.
        data: The videos.
        score: The score that makes the geometry.
        tau: Noise level of the latents, in (0, 1).
        alpha: Power of the density, above 0.
        textual_inversion: See `VideoEncoder`.
        derivatives: How a path of frames is differentiated.
        optimiser: What deforms a video into a geodesic.
        amplitudes: Of the perturbations, in steps of the video; the one in the middle stands in the figure.
        perturbations: How many times each is drawn.
        widths: Of the smoothing kernels, in frames; the one in the middle stands in the figure.
        draws: How often a score that draws random numbers is sampled.
        strides: Also look at every second, fourth... frame alone.
        alphas: Powers at which the norm is given as well.
        rounding_frames: So many frames in the middle of every video are encoded a second time, to know the noise that
            the rounding of pixels makes: at least 3, or 0 for none.
        shown_videos: Of each kind so many are shown in pictures, with their other paths decoded.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        data: VideoData,
        score: Any,
        tau: float,
        alpha: float,
        textual_inversion: Mapping[str, Any],
        derivatives: Derivatives,
        optimiser: Optimiser,
        amplitudes: Sequence[float],
        perturbations: int,
        widths: Sequence[float],
        draws: int,
        strides: Sequence[int],
        alphas: Sequence[float],
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
            alpha=alpha,
            derivatives=derivatives,
            optimiser=optimiser,
            amplitudes=tuple(amplitudes),
            perturbations=perturbations,
            widths=tuple(widths),
            draws=draws,
            strides=tuple(strides),
            alphas=tuple(alphas),
        )

    def run(self, run: Run) -> Mapping[str, float]:
        """Analyses every video; returns means, on which share of the videos each prediction held, and separations."""
        self.data.check(size=self.model.image_size)
        run.record_environment(weights={"model": self.model.fingerprint}, machinery=self.model.machinery)
        encoder, analyser = self._encoder.seeded(run.seed), self._analyser.seeded(run.seed)
        folder = AnalysisFolder(run=run, videos=len(self.data), density=analyser.score.density, analyser=analyser)
        seen: dict[str, int] = {}
        try:
            with tqdm(total=len(self.data), desc="videos", unit="video") as progress:
                for batch in self.data.batches(size=self.model.image_size):
                    started = time.perf_counter()
                    encoded = encoder.encode(batch)
                    seconds = (time.perf_counter() - started) / len(batch)
                    measures = analyser.analyse(encoded, again=self._again(encoder, encoded))
                    pictures = self._pictures(encoded, measures, self._shown(batch, seen))
                    folder.add(measures, encoding_seconds=seconds, pictures=pictures)
                    progress.update(len(batch))
        except KeyboardInterrupt:
            folder.finish()
            raise
        return folder.finish()

    def _again(self, encoder: VideoEncoder, encoded: EncodedVideos) -> Again | None:
        """The frames in the middle once more."""
        if not self.rounding_frames:
            return None
        count = min(self.rounding_frames, encoded.points.shape[1])
        start = (encoded.points.shape[1] - count) // 2
        frames = range(start, start + count)
        return Again(frames=frames, points=encoder.encode_again(encoded, frames))

    def _shown(self, batch: VideoBatch, seen: dict[str, int]) -> list[int]:
        """Which videos of the batch are shown: the first of each kind."""
        shown = []
        for index, video in enumerate(batch.videos):
            number = seen[video.kind] = seen.get(video.kind, 0) + 1
            shown += [index] * (number <= self.shown_videos)
        return shown

    def _pictures(
        self, encoded: EncodedVideos, measures: BatchMeasures, shown: Sequence[int]
    ) -> dict[int, dict[str, torch.Tensor]]:
        """Number of a video in the batch -> the frames of its paths as images, every second one."""
        if not shown:
            return {}
        count = encoded.points.shape[1]
        frames = sorted(
            {round(step) for step in torch.linspace(0, count - 1, -(-count // 2)).tolist()} | {0, count - 1}
        )
        part = encoded.restrict(shown)
        names = [name for name in self._analyser.shown if name != "video"]
        decoded = {name: part.decode(measures.path(name).points[list(shown)][:, frames], frames) for name in names}
        return {
            index: {"video": encoded.batch.frames[index][frames]}
            | {name: images[row] for name, images in decoded.items()}
            for row, index in enumerate(shown)
        }
