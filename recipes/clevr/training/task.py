"""The task that trains what ships, stage by stage; a finished stage is not run again and a killed one goes on.

What a stage was made with and what it left is on record (`training.stages`): a model that was lost, damaged or changed
is made again, and one of other settings is never taken for this one.
"""

import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.files import write_json
from recipes.clevr.rendering.dataset import load_records
from recipes.clevr.training.attributes import AttributeSettings, AttributeTraining, measure_network
from recipes.clevr.training.autoencoder import (
    AutoencoderSettings,
    AutoencoderTraining,
    DecoderTraining,
    build_autoencoder,
    encode_means,
    given_autoencoder,
    latent_moments,
    whiten,
)
from recipes.clevr.training.device_loop import fit_on_device
from recipes.clevr.training.diffusion import DiffusionSettings, DiffusionTraining
from recipes.clevr.training.evaluation import EvaluationSettings, evaluate, judge_figures, write_model_card
from recipes.clevr.training.fit import fit
from recipes.clevr.training.frames import CaptionedLatents, Frames, tokenise
from recipes.clevr.training.model import assemble, build_networks, build_scheduler, export_pipeline
from recipes.clevr.training.stages import (
    StageRecords,
    TrainingStage,
    alone_in,
    files_below,
    hash_of_shards,
    hash_of_weights,
    lasting,
    load,
    save,
    wait_for_first,
)
from recipes.clevr.training.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from latent_geodesics.run.runner import Run

log = logging.getLogger(__name__)

STAGES: tuple[str, ...] = ("autoencoder", "whiten", "decoder", "diffusion", "attributes", "export", "evaluation")
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
        given_autoencoder: folder of a model in diffusers' layout whose autoencoder is taken as it is; the stages
            `autoencoder` and `decoder` are then left out, and its latents are not whitened.
        notes: what the model card should say of this training besides, Markdown.
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
        given_autoencoder: str | Path | None = None,
        notes: str = "",
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
        self.evaluation, self.held_out, self.notes = evaluation, held_out, notes
        self.given = None if given_autoencoder is None else Path(given_autoencoder)
        left_out = () if self.given is None else ("autoencoder", "decoder")
        self.stages = tuple(name for name in stages if name not in left_out)

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
                # before anything is trained
                for name, key in (("attributes", "attributes_dir"), ("export", "model_dir")):
                    if name in self.stages:
                        records.check_place(name, option=f"task.{key}")
            for name in STAGES:
                if name in self.stages:
                    self._perform(name, records, run)
        figures: dict[str, float] = {}
        if "evaluation" in self.stages and run.leads:
            figures = json.loads(self._file("evaluation", "metrics.json").read_text(encoding="utf-8"))
        return figures

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
            stage.work(run, records.origin(name))
        if run.leads:
            records.end(name)
            log.info("stage %s: done in %.1f min", name, (time.monotonic() - start) / 60)
        wait_for_first(leads=run.leads, done=lambda: records.is_done(name))

    def _stages(self, seed: int) -> dict[str, TrainingStage]:
        """What there is to do, in order."""
        made_of = {"seed": seed, "held_out": self.held_out}
        frames = made_of | {"frames": hash_of_shards(self.frames_dir)}
        decoded = self.given is None and ("decoder" in self.stages or self._file("decoder", "stage.json").exists())
        with_decoder = ("decoder",) if decoded else ()
        trained = {
            "autoencoder": (self._train_autoencoder, self.autoencoder, frames, (), "raw.pt"),
            "decoder": (self._train_decoder, self.decoder, frames, ("whiten",), "autoencoder.pt"),
            "diffusion": (self._train_diffusion, self.diffusion, frames, ("whiten",), "best.pt"),
        }
        stages = {
            name: TrainingStage(
                name=name,
                work=work,
                settings=lasting(settings) | data,
                needs=needs,
                outputs=partial(self._written, name, file),
                trained=True,
            )
            for name, (work, settings, data, needs, file) in trained.items()
        }
        stages["attributes"] = TrainingStage(
            name="attributes",
            work=self._train_attributes,
            settings=lasting(self.attributes) | made_of | {"frames": hash_of_shards(self.attribute_frames_dir)},
            needs=(),
            outputs=lambda: files_below(self.attributes_dir, without=("README.md",)),
            trained=True,
            place=self.attributes_dir,
        )
        given = None if self.given is None else hash_of_weights(self.given, "vae")
        mirrored = ["mirrored.pt"] if self.diffusion.mirror else []
        stages["whiten"] = TrainingStage(
            name="whiten",
            work=self._whiten,
            settings=frames | {"mirrored": self.diffusion.mirror, "given": given},
            needs=("autoencoder",) if self.given is None else (),
            outputs=partial(self._written, "whiten", "autoencoder.pt", "latents.pt", *mirrored),
        )
        judged = "attributes" in self.stages or self._file("attributes", "stage.json").exists()
        judge = {} if judged else {"judge": hash_of_weights(self.attributes_dir)}
        stages["export"] = TrainingStage(
            name="export",
            work=self._export,
            settings={},
            place=self.model_dir,
            needs=("whiten", *with_decoder, "diffusion"),
            outputs=lambda: [self._file("export", "metrics.json"), *files_below(self.model_dir, without=CARD)],
        )
        stages["evaluation"] = TrainingStage(
            name="evaluation",
            work=self._evaluate,
            settings=asdict(self.evaluation) | frames | {"notes": self.notes} | judge,
            needs=(*with_decoder, *(["attributes"] if judged else []), "export"),
            outputs=lambda: [self._file("evaluation", "metrics.json"), *(self.model_dir / name for name in CARD)],
        )
        return stages

    def _train_autoencoder(self, run: "Run", origin: str) -> None:
        frames, held_out = Frames.from_folder(self.frames_dir).split(self.held_out)
        folder = self.work_dir / "autoencoder"
        module = AutoencoderTraining(
            settings=self.autoencoder, frames=frames, held_out=held_out, seed=run.seed, folder=folder
        )
        minutes = fit(module, run=run, origin=origin)
        if run.leads:
            save({"weights": module.autoencoder.state_dict(), "minutes": minutes}, folder / "raw.pt")

    def _whiten(self, run: "Run", origin: str) -> None:
        frames = Frames.from_folder(self.frames_dir)
        autoencoder = self._autoencoder()
        if self.given is None:
            autoencoder.load_state_dict(load(self._file("autoencoder", "raw.pt"))["weights"])
            whiten(autoencoder, latent_moments(autoencoder, frames.split(self.held_out)[0].images[:2000]))
        save(encode_means(autoencoder, frames.images), self._file("whiten", "latents.pt"))
        if self.diffusion.mirror:
            # an encoder does not commute with mirroring
            save(encode_means(autoencoder, frames.images.flip(-1)), self._file("whiten", "mirrored.pt"))
        save(autoencoder.state_dict(), self._file("whiten", "autoencoder.pt"))

    def _train_decoder(self, run: "Run", origin: str) -> None:
        frames, held_out = Frames.from_folder(self.frames_dir).split(self.held_out)
        folder = self.work_dir / "decoder"
        module = DecoderTraining(
            autoencoder=self.whitened(),
            latents=load(self._file("whiten", "latents.pt"))[: len(frames)],
            settings=self.decoder,
            frames=frames,
            held_out=held_out,
            seed=run.seed,
            folder=folder,
        )
        minutes = fit(module, run=run, origin=origin)
        if run.leads:
            save({"weights": module.autoencoder.state_dict(), "minutes": minutes}, folder / "autoencoder.pt")

    def _train_diffusion(self, run: "Run", origin: str) -> None:
        module, device = self._diffusion_module(run.seed), run.one_cuda_device()
        if device is None:
            minutes = fit(module, run=run, origin=origin)
        else:
            minutes = fit_on_device(module, device=device, origin=origin, logger=run.logger.lightning or None)
        if run.leads:
            save({"weights": module.best.state_dict(), "minutes": minutes, **module.kept()}, module.folder / "best.pt")

    def _diffusion_module(self, seed: int) -> DiffusionTraining:
        records, settings = load_records(self.frames_dir), self.diffusion
        tokenizer = build_tokenizer(self.work_dir / "tokenizer")
        latents = [load(self._file("whiten", "latents.pt"))]
        if settings.mirror:
            latents.append(load(self._file("whiten", "mirrored.pt")))
        tokens, empty = tokenise(records, tokenizer, variants=settings.captions, drop=settings.drop, seed=seed)
        cut = len(records) - self.held_out
        return DiffusionTraining(
            settings=settings,
            data=CaptionedLatents(
                latents=torch.cat([part[:cut] for part in latents]), tokens=tokens[:cut], empty=empty
            ),
            held_out=CaptionedLatents(latents=latents[0][cut:], tokens=tokens[cut:], empty=empty),
            autoencoder=self.whitened(),
            tokenizer=tokenizer,
            prompts=[record["caption"] for record in records[-16:]],
            seed=seed,
            folder=self.work_dir / "diffusion",
        )

    def _train_attributes(self, run: "Run", origin: str) -> None:
        frames, held_out = Frames.from_folder(self.attribute_frames_dir).split(self.held_out)
        folder = self.work_dir / "attributes"
        # the classifier must not share its seed with what it judges
        module = AttributeTraining(
            settings=self.attributes, frames=frames, held_out=held_out, seed=run.seed + 1, folder=folder
        )
        minutes = fit(module, run=run, origin=origin)
        if not run.leads:
            return
        network = module.network.eval()
        network.save(self.attributes_dir)
        figures = {"attributes/minutes": minutes, "attributes/held_out": float(len(held_out))}
        write_json(self.attributes_dir / "metrics.json", measure_network(network, held_out) | figures)

    def _export(self, run: "Run", origin: str) -> None:
        size = export_pipeline(self.pipeline(load(self._file("diffusion", "best.pt"))["weights"]), self.model_dir)
        write_json(self._file("export", "metrics.json"), {"weights_bytes": size})

    def _evaluate(self, run: "Run", origin: str) -> None:
        judge = judge_figures(self.attributes_dir)  # before what takes long
        figures = evaluate(
            model_dir=self.model_dir,
            attributes_dir=self.attributes_dir,
            held_out=Frames.from_folder(self.frames_dir).split(self.held_out)[1],
            settings=self.evaluation,
        )
        stages = (("autoencoder", "raw.pt"), ("decoder", "autoencoder.pt"), ("diffusion", "best.pt"))
        for name, file in stages[2:] if self.given is not None else stages:
            record = load(self._file(name, file))
            figures |= {f"{name}/{key}": float(value) for key, value in record.items() if key != "weights"}
        figures |= judge
        write_model_card(self.model_dir, figures, seed=run.seed, prediction=self.diffusion.prediction, notes=self.notes)
        write_json(self._file("evaluation", "metrics.json"), figures)

    def whitened(self) -> "AutoencoderKL":
        """The autoencoder whose encoder is finished; its decoder too, once that stage is done."""
        autoencoder, finished = self._autoencoder(), self._file("decoder", "autoencoder.pt")
        decoded = self.given is None and finished.exists()
        weights = load(finished)["weights"] if decoded else load(self._file("whiten", "autoencoder.pt"))
        autoencoder.load_state_dict(weights)
        return autoencoder.eval().requires_grad_(False)

    def _autoencoder(self) -> "AutoencoderKL":
        """One of the shape that is trained here, untrained, or the one that is given."""
        return build_autoencoder(self.autoencoder).eval() if self.given is None else given_autoencoder(self.given)

    def pipeline(self, weights: dict[str, torch.Tensor]) -> Any:
        """A `StableDiffusionPipeline` of the finished autoencoder and the given weights of U-Net and text encoder."""
        tokenizer, autoencoder = build_tokenizer(self.work_dir / "tokenizer"), self.whitened()
        parts = build_networks(replace(self.diffusion, start_from=None), autoencoder, tokenizer)
        parts.load_state_dict(weights)
        parts.eval().requires_grad_(False)
        scheduler = build_scheduler(self.diffusion.prediction)
        return assemble(autoencoder, parts["unet"], parts["text_encoder"], tokenizer, scheduler)

    def _written(self, stage: str, *names: str) -> list[Path]:
        return [self._file(stage, name) for name in names]

    def _file(self, stage: str, name: str) -> Path:
        return self.work_dir / stage / name
