"""The task that trains what ships, stage by stage; a finished stage is not run again and a killed one goes on."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latent_geodesics.errors import UserError
from latent_geodesics.training.attributes import AttributeSettings, AttributeTraining, measure_network
from latent_geodesics.training.autoencoder import (
    AutoencoderSettings,
    AutoencoderTraining,
    DecoderTraining,
    build_autoencoder,
)
from latent_geodesics.training.diffusion import (
    DiffusionSettings,
    DiffusionTraining,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from latent_geodesics.training.evaluation import EvaluationSettings
from latent_geodesics.training.export import assemble, export_pipeline
from latent_geodesics.training.fit import fit
from latent_geodesics.training.frames import Frames
from latent_geodesics.training.report import evaluate, write_model_card
from latent_geodesics.training.tokenizer import build_tokenizer
from latent_geodesics.training.whitening import encode_means, latent_moments, whiten

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from latent_geodesics.runner import Run

__all__ = ["STAGES", "TrainClevrLdm"]

log = logging.getLogger(__name__)

STAGES: tuple[str, ...] = (
    "autoencoder",
    "whiten",
    "decoder",
    "diffusion",
    "attributes",
    "export",
    "evaluation",
)


@dataclass(frozen=True)
class _Stage:
    """What a stage does, and the file whose existence says that it is done."""

    work: Callable[["Run"], None]
    result: Path


class TrainClevrLdm:
    """Trains the small latent diffusion model and the attribute network that judges it, and writes both.

    Args:
        frames: folder of shards for autoencoder and diffusion model.
        attribute_frames: folder of shards, of another seed, for the attribute network.
        work_dir: checkpoints, latents, grids; what makes the task resumable.
        model_dir: where the diffusers folder goes.
        attributes_dir: where the attribute network goes.
        held_out: frames at the end of each folder that are never trained on, >= 2.
        autoencoder: first stage.
        decoder: the decoder alone, after whitening; its shape is that of `autoencoder`.
        diffusion: the U-Net and the text encoder.
        attributes: the attribute network.
        evaluation: how the result is measured.
        stages: which stages to run, of `STAGES`, always in that order.
    """

    shares_work = True

    def __init__(
        self,
        *,
        frames: str | Path,
        attribute_frames: str | Path,
        work_dir: str | Path,
        model_dir: str | Path,
        attributes_dir: str | Path,
        autoencoder: AutoencoderSettings,
        decoder: AutoencoderSettings,
        diffusion: DiffusionSettings,
        attributes: AttributeSettings,
        evaluation: EvaluationSettings,
        held_out: int = 500,
        stages: Sequence[str] = STAGES,
    ) -> None:
        unknown = [name for name in stages if name not in STAGES]
        if unknown:
            raise ValueError(f"stages must be of {', '.join(STAGES)}, got {', '.join(unknown)}")
        if held_out < 2:
            raise ValueError(f"held_out must be >= 2, got {held_out}")
        self.frames_dir, self.attribute_frames_dir = Path(frames), Path(attribute_frames)
        self.work_dir, self.model_dir, self.attributes_dir = Path(work_dir), Path(model_dir), Path(attributes_dir)
        self.autoencoder, self.decoder = autoencoder, decoder
        self.diffusion, self.attributes = diffusion, attributes
        self.evaluation, self.held_out, self.stages = evaluation, held_out, tuple(stages)

    def run(self, run: "Run") -> dict[str, float]:
        """Run the stages that are not finished.

        Args:
            run: seed, logger, trainer.

        Returns:
            Minutes of each stage, and the figures of `metrics.json` where the evaluation is among the stages.

        Raises:
            UserError: when frames are missing or an earlier stage has not been run.
        """
        work = {
            "autoencoder": _Stage(self._train_autoencoder, self._file("autoencoder", "raw.pt")),
            "whiten": _Stage(self._whiten, self._file("whiten", "latents.pt")),
            "decoder": _Stage(self._train_decoder, self._file("decoder", "autoencoder.pt")),
            "diffusion": _Stage(self._train_diffusion, self._file("diffusion", "averaged.pt")),
            "attributes": _Stage(self._train_attributes, self._file("attributes", "metrics.json")),
            "export": _Stage(self._export, self._file("export", "metrics.json")),
            "evaluation": _Stage(self._evaluate, self._file("evaluation", "metrics.json")),
        }
        for name in STAGES:
            if name in self.stages:
                self._perform(name, work[name], run)
        return self._summary()

    def _perform(self, name: str, stage: _Stage, run: "Run") -> None:
        if stage.result.exists():
            log.info("stage %s: done before, skipped", name)
            return
        log.info("stage %s: started", name)
        start = time.monotonic()
        stage.result.parent.mkdir(parents=True, exist_ok=True)
        stage.work(run)
        log.info("stage %s: done in %.1f min", name, (time.monotonic() - start) / 60)

    def _train_autoencoder(self, run: "Run") -> None:
        frames, held_out = Frames.from_folder(self.frames_dir).split(self.held_out)
        folder = self.work_dir / "autoencoder"
        module = AutoencoderTraining(
            settings=self.autoencoder, frames=frames, held_out=held_out, seed=run.seed, folder=folder
        )
        settings = self.autoencoder
        minutes = fit(module, run=run, folder=folder, precision=settings.precision, save_every=settings.save_every)
        _save({"weights": module.autoencoder.state_dict(), "minutes": minutes}, folder / "raw.pt")

    def _whiten(self, run: "Run") -> None:
        frames = Frames.from_folder(self.frames_dir)
        autoencoder = build_autoencoder(self.autoencoder)
        autoencoder.load_state_dict(_load(self._file("autoencoder", "raw.pt"))["weights"])
        autoencoder.eval()
        whiten(autoencoder, latent_moments(autoencoder, frames.split(self.held_out)[0].images[:2000]))
        _save(autoencoder.state_dict(), self._file("whiten", "autoencoder.pt"))
        _save(encode_means(autoencoder, frames.images), self._file("whiten", "latents.pt"))

    def _train_decoder(self, run: "Run") -> None:
        frames, held_out = Frames.from_folder(self.frames_dir).split(self.held_out)
        latents = _load(self._file("whiten", "latents.pt"))[: len(frames)]
        folder, settings = self.work_dir / "decoder", self.decoder
        module = DecoderTraining(
            autoencoder=self.whitened(),
            latents=latents,
            settings=settings,
            frames=frames,
            held_out=held_out,
            seed=run.seed,
            folder=folder,
        )
        minutes = fit(module, run=run, folder=folder, precision=settings.precision, save_every=settings.save_every)
        _save({"weights": module.autoencoder.state_dict(), "minutes": minutes}, folder / "autoencoder.pt")

    def _train_diffusion(self, run: "Run") -> None:
        module = self._diffusion_module(run.seed)
        settings = self.diffusion
        folder = self.work_dir / "diffusion"
        minutes = fit(module, run=run, folder=folder, precision=settings.precision, save_every=settings.save_every)
        _save({"weights": module.averaged.state_dict(), "minutes": minutes}, folder / "averaged.pt")

    def _diffusion_module(self, seed: int) -> DiffusionTraining:
        latents = _load(self._file("whiten", "latents.pt"))
        records = list(Frames.from_folder(self.frames_dir).records)
        count = min(len(latents), len(records)) - self.held_out
        prompts = [record["caption"] for record in records[-16:]]
        return DiffusionTraining(
            settings=self.diffusion,
            latents=latents[:count],
            records=records[:count],
            autoencoder=self.whitened(),
            tokenizer=build_tokenizer(self.work_dir / "tokenizer"),
            prompts=prompts,
            seed=seed,
            folder=self.work_dir / "diffusion",
        )

    def _train_attributes(self, run: "Run") -> None:
        frames, held_out = Frames.from_folder(self.attribute_frames_dir).split(self.held_out)
        folder, settings = self.work_dir / "attributes", self.attributes
        # the classifier must not share its seed with what it judges
        module = AttributeTraining(
            settings=settings, frames=frames, held_out=held_out, seed=run.seed + 1, folder=folder
        )
        minutes = fit(module, run=run, folder=folder, precision=settings.precision, save_every=settings.save_every)
        network = module.network.eval()
        network.save(self.attributes_dir)
        figures = measure_network(network, held_out) | {
            "attributes/minutes": minutes,
            "attributes/held_out": float(len(held_out)),
        }
        self._file("attributes", "metrics.json").write_text(json.dumps(figures, indent=2) + "\n")

    def _export(self, run: "Run") -> None:
        size = export_pipeline(self.pipeline(_load(self._file("diffusion", "averaged.pt"))["weights"]), self.model_dir)
        self._file("export", "metrics.json").write_text(json.dumps({"weights_bytes": size}) + "\n")

    def _evaluate(self, run: "Run") -> None:
        figures = evaluate(
            model_dir=self.model_dir,
            attributes_dir=self.attributes_dir,
            held_out=Frames.from_folder(self.frames_dir).split(self.held_out)[1],
            settings=self.evaluation,
        )
        for name, file in (
            ("autoencoder", "raw.pt"),
            ("decoder", "autoencoder.pt"),
            ("diffusion", "averaged.pt"),
        ):
            figures[f"minutes_{name}"] = float(_load(self._file(name, file))["minutes"])
        network = json.loads(self._file("attributes", "metrics.json").read_text())
        write_model_card(self.model_dir, figures | network, seed=run.seed)
        self._file("evaluation", "metrics.json").write_text(json.dumps(figures | network, indent=2) + "\n")

    def whitened(self) -> "AutoencoderKL":
        """The autoencoder whose encoder is finished; its decoder too, once that stage is done."""
        autoencoder = build_autoencoder(self.autoencoder)
        finished = self._file("decoder", "autoencoder.pt")
        weights = _load(finished)["weights"] if finished.exists() else _load(self._file("whiten", "autoencoder.pt"))
        autoencoder.load_state_dict(weights)
        return autoencoder.eval().requires_grad_(False)

    def pipeline(self, averaged: dict[str, torch.Tensor]) -> Any:
        """A `StableDiffusionPipeline` of the finished autoencoder and the given averaged weights."""
        tokenizer = build_tokenizer(self.work_dir / "tokenizer")
        autoencoder = self.whitened()
        parts = torch.nn.ModuleDict(
            {
                "unet": build_unet(self.diffusion, autoencoder),
                "text_encoder": build_text_encoder(self.diffusion, tokenizer),
            }
        )
        parts.load_state_dict(averaged)
        parts.eval().requires_grad_(False)
        return assemble(autoencoder, parts["unet"], parts["text_encoder"], tokenizer, build_scheduler())

    def _file(self, stage: str, name: str) -> Path:
        return self.work_dir / stage / name

    def _summary(self) -> dict[str, float]:
        file = self._file("evaluation", "metrics.json")
        if not file.exists():
            return {}
        figures: dict[str, float] = json.loads(file.read_text())
        return figures


def _load(file: Path) -> Any:
    if not file.exists():
        raise UserError(f"{file} is missing: run stage '{file.parent.name}' first (task.stages)")
    return torch.load(file, map_location="cpu", weights_only=True)


def _save(values: Any, file: Path) -> None:
    partial = file.with_suffix(".partial")
    torch.save(values, partial)
    partial.rename(file)
