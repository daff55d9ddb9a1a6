"""The task that trains what ships, stage by stage; a finished stage is not run again and a killed one goes on.

What a stage was made with and what it left is on record (`training.stages`): a model that was lost, damaged or changed
is made again, and one of other settings is never taken for this one.
"""

import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latent_geodesics.errors import UserError
from latent_geodesics.files import is_partial, write_json
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
from latent_geodesics.training.schedule import BudgetedModule
from latent_geodesics.training.stages import Stage, StageRecords
from latent_geodesics.training.tokenizer import build_tokenizer
from latent_geodesics.training.whitening import encode_means, latent_moments, whiten
from latent_geodesics.training.work import alone_in, files_below, hash_of_shards, load, save, wait_for_first

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


AnySettings = AutoencoderSettings | DiffusionSettings | AttributeSettings
# Of the trained stages' settings, what changes no result.
INCIDENTAL = ("save_every", "show_every")
# What the evaluation adds to the folder of the exported model.
CARD = ("README.md", "metrics.json", "samples.png")


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
            UserError: when frames are missing, an earlier stage has not been run, a stage was trained with other
                settings, another training is at work in the folder, or a model would be written over something else.
        """
        with alone_in(self.work_dir) if run.leads else nullcontext():
            records = StageRecords(folder=self.work_dir, stages=self._stages(run.seed))
            if run.leads:
                self._check_places(records)
            for name in STAGES:
                if name in self.stages:
                    self._perform(name, records, run)
        file = self._file("evaluation", "metrics.json")
        figures: dict[str, float] = {}
        if "evaluation" in self.stages and run.leads:
            figures = json.loads(file.read_text(encoding="utf-8"))
        return figures

    def _check_places(self, records: StageRecords) -> None:
        """Refuses to write a model over what this work did not make, before anything is trained."""
        for name, key in (("attributes", "attributes_dir"), ("export", "model_dir")):
            place = records.stages[name].place
            assert place is not None
            held = place.is_dir() and any(not is_partial(entry) for entry in place.iterdir())
            if name in self.stages and held and not records.wrote_into_place(name):
                raise UserError(
                    f"'{place}' holds something that was not made from '{self.work_dir}', which stage '{name}' would "
                    f"overwrite: choose another task.{key}, or delete that folder."
                )

    def _perform(self, name: str, records: StageRecords, run: "Run") -> None:
        stage = records.stages[name]
        if records.is_done(name):
            log.info("stage %s: done before, skipped", name)
            return
        for needed in stage.needs:
            if needed not in self.stages and not records.is_done(needed):
                raise UserError(f"stage '{name}' needs '{needed}': run stage '{needed}' first (task.stages)")
        if run.leads:
            log.info("stage %s: started", name)
            records.begin(name)
        start = time.monotonic()
        if run.leads or stage.trained:
            stage.work(run)
        if run.leads:
            records.end(name)
            log.info("stage %s: done in %.1f min", name, (time.monotonic() - start) / 60)
        wait_for_first(leads=run.leads, done=lambda: records.is_done(name))

    def _stages(self, seed: int) -> dict[str, Stage]:
        """What there is to do, in order."""
        made_of = {"seed": seed, "held_out": self.held_out}
        frames = made_of | {"frames": self._frames_hash}
        with_decoder = ("decoder",) if "decoder" in self.stages or self._file("decoder", "stage.json").exists() else ()
        trained = {
            "autoencoder": (self._train_autoencoder, self.autoencoder, frames, (), "raw.pt"),
            "decoder": (self._train_decoder, self.decoder, frames, ("whiten",), "autoencoder.pt"),
            "diffusion": (self._train_diffusion, self.diffusion, frames, ("whiten",), "averaged.pt"),
        }
        stages = {
            name: Stage(
                name=name,
                work=work,
                settings=_lasting(settings) | data,
                needs=needs,
                outputs=partial(self._written, name, file),
                trained=True,
            )
            for name, (work, settings, data, needs, file) in trained.items()
        }
        stages["attributes"] = Stage(
            name="attributes",
            work=self._train_attributes,
            settings=_lasting(self.attributes) | made_of | {"frames": self._attribute_frames_hash},
            needs=(),
            outputs=lambda: [self._file("attributes", "metrics.json"), *files_below(self.attributes_dir)],
            trained=True,
            place=self.attributes_dir,
        )
        stages["whiten"] = Stage(
            name="whiten",
            work=self._whiten,
            settings=frames,
            needs=("autoencoder",),
            outputs=partial(self._written, "whiten", "autoencoder.pt", "latents.pt"),
        )
        stages["export"] = Stage(
            name="export",
            work=self._export,
            settings={},
            place=self.model_dir,
            needs=("whiten", *with_decoder, "diffusion"),
            outputs=lambda: [self._file("export", "metrics.json"), *files_below(self.model_dir, without=CARD)],
        )
        stages["evaluation"] = Stage(
            name="evaluation",
            work=self._evaluate,
            settings=asdict(self.evaluation) | frames,
            needs=("decoder", "attributes", "export"),
            outputs=lambda: [self._file("evaluation", "metrics.json"), *(self.model_dir / name for name in CARD)],
        )
        return stages

    @cached_property
    def _frames_hash(self) -> str:
        return hash_of_shards(self.frames_dir)

    @cached_property
    def _attribute_frames_hash(self) -> str:
        return hash_of_shards(self.attribute_frames_dir)

    def _train_autoencoder(self, run: "Run") -> None:
        frames, held_out = Frames.from_folder(self.frames_dir).split(self.held_out)
        folder = self.work_dir / "autoencoder"
        module = AutoencoderTraining(
            settings=self.autoencoder, frames=frames, held_out=held_out, seed=run.seed, folder=folder
        )
        minutes = self._fit("autoencoder", module, run, self.autoencoder)
        if run.leads:
            save({"weights": module.autoencoder.state_dict(), "minutes": minutes}, folder / "raw.pt")

    def _whiten(self, run: "Run") -> None:
        frames = Frames.from_folder(self.frames_dir)
        autoencoder = build_autoencoder(self.autoencoder)
        autoencoder.load_state_dict(load(self._file("autoencoder", "raw.pt"))["weights"])
        autoencoder.eval()
        whiten(autoencoder, latent_moments(autoencoder, frames.split(self.held_out)[0].images[:2000]))
        save(autoencoder.state_dict(), self._file("whiten", "autoencoder.pt"))
        save(encode_means(autoencoder, frames.images), self._file("whiten", "latents.pt"))

    def _train_decoder(self, run: "Run") -> None:
        frames, held_out = Frames.from_folder(self.frames_dir).split(self.held_out)
        latents = load(self._file("whiten", "latents.pt"))[: len(frames)]
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
        minutes = self._fit("decoder", module, run, settings)
        if run.leads:
            save({"weights": module.autoencoder.state_dict(), "minutes": minutes}, folder / "autoencoder.pt")

    def _train_diffusion(self, run: "Run") -> None:
        module = self._diffusion_module(run.seed)
        folder = self.work_dir / "diffusion"
        minutes = self._fit("diffusion", module, run, self.diffusion)
        if run.leads:
            save({"weights": module.averaged.state_dict(), "minutes": minutes}, folder / "averaged.pt")

    def _diffusion_module(self, seed: int) -> DiffusionTraining:
        latents = load(self._file("whiten", "latents.pt"))
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
        minutes = self._fit("attributes", module, run, settings)
        if not run.leads:
            return
        network = module.network.eval()
        network.save(self.attributes_dir)
        figures = measure_network(network, held_out) | {
            "attributes/minutes": minutes,
            "attributes/held_out": float(len(held_out)),
        }
        write_json(self._file("attributes", "metrics.json"), figures)

    def _export(self, run: "Run") -> None:
        size = export_pipeline(self.pipeline(load(self._file("diffusion", "averaged.pt"))["weights"]), self.model_dir)
        write_json(self._file("export", "metrics.json"), {"weights_bytes": size})

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
            figures[f"minutes_{name}"] = float(load(self._file(name, file))["minutes"])
        network = json.loads(self._file("attributes", "metrics.json").read_text())
        write_model_card(self.model_dir, figures | network, seed=run.seed)
        write_json(self._file("evaluation", "metrics.json"), figures | network)

    def whitened(self) -> "AutoencoderKL":
        """The autoencoder whose encoder is finished; its decoder too, once that stage is done."""
        autoencoder = build_autoencoder(self.autoencoder)
        finished = self._file("decoder", "autoencoder.pt")
        weights = load(finished)["weights"] if finished.exists() else load(self._file("whiten", "autoencoder.pt"))
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

    def _fit(self, name: str, module: BudgetedModule, run: "Run", settings: AnySettings) -> float:
        """Trains the module of a stage; returns its minutes."""
        return fit(
            module,
            run=run,
            folder=self.work_dir / name,
            precision=settings.precision,
            save_every=settings.save_every,
            origin=StageRecords(folder=self.work_dir, stages=self._stages(run.seed)).origin(name),
        )

    def _written(self, stage: str, *names: str) -> list[Path]:
        return [self._file(stage, name) for name in names]

    def _file(self, stage: str, name: str) -> Path:
        return self.work_dir / stage / name


def _lasting(settings: Any) -> dict[str, Any]:
    """What a stage's result depends on of its settings."""
    return {key: value for key, value in asdict(settings).items() if key not in INCIDENTAL}
