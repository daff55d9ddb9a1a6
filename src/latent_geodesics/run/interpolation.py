"""One pair of images from Python: `lg.interpolate(a, b)` does what the command does, by the same configuration."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from jaxtyping import Float
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.records import Solution
from latent_geodesics.data import ImagePair, PairBatch
from latent_geodesics.data.images import from_pil, read_image, to_pil
from latent_geodesics.methods import Method, status_sentence
from latent_geodesics.methods.base import LOST
from latent_geodesics.metrics import PathCurves
from latent_geodesics.models import LatentModel
from latent_geodesics.models.accelerator import one_thread
from latent_geodesics.run.canvas import STYLE, label
from latent_geodesics.run.inputs import check_inputs, check_kinds
from latent_geodesics.run.main import CONF, as_meant, find_shipped
from latent_geodesics.run.results import PairResult, unknown_images
from latent_geodesics.run.sentences import sentence_of
from latent_geodesics.run.sequences import FILM_FORMATS, Films, frame_name, save_frames

if TYPE_CHECKING:
    from latent_geodesics.run.morphs import Morphs

FORMATS = tuple(name for name in FILM_FORMATS if name != "none")


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """A sequence of images between two, and how it was found.

    Attributes:
        images: The sequence in [0, 1], both ends included.
        u: The position of each image on the path, from 0 to 1.
        method: The method's name.
        status: How it ended, in a word; `sentence` says what that means.
        density: The density that the geometry is made of, in words.
        solution: The path in the latent space, of one pair; None for a method that has none.
        curves: Density, speed and residual along that path, of one pair; None likewise.
        evaluations: How often the score was evaluated to find the sequence.
        seconds: What it took to find the sequence and to decode it.
        inversion: What is wrong with the images' inversion, so that the sequence does not begin and end in quite the
            images given; None for nothing.
        ends_db: PSNR in dB of the end that the model gives back worse.
        verdict: `fade`, `morph` or `jump`, as `latent_geodesics.metrics.pixels` has it; None where nothing changes.
    """

    images: Float[Tensor, "n 3 h w"] = field(repr=False)
    u: Float[Tensor, " n"] = field(repr=False)
    method: str
    status: str
    density: str
    solution: Solution | None = field(repr=False)
    curves: PathCurves | None = field(repr=False)
    evaluations: int
    seconds: float
    inversion: str | None
    ends_db: float
    verdict: str | None

    @property
    def frames(self) -> list[Image.Image]:
        """The sequence as Pillow images."""
        return [to_pil(image) for image in self.images]

    @property
    def sentence(self) -> str:
        """How it ended and what to do, for a person."""
        told = self.solution is not None and self.solution.status_names[0] == self.status
        how = self.solution.sentence(0) if self.solution is not None and told else status_sentence(self.status)
        return " ".join(filter(None, (how, unknown_images("this pair", self.ends_db))))

    def save(self, file: str | Path, *, fps: float = 12) -> Path:
        """Writes the sequence, by the ending of the name: a film (mp4, webp, gif), or, without one, a folder of PNG.

        Args:
            file: Where to.
            fps: Frames a second of a film, above 0, at most 240.

        Raises:
            UserError: for another ending, a folder that holds other files, or a place where nothing can be written.
        """
        if not str(file):
            raise UserError("Nowhere to write to was given: give a film such as morph.mp4, or a folder.")
        file = Path(file).expanduser()
        ending = file.suffix.removeprefix(".")
        if ending and ending not in FORMATS:
            raise UserError(
                f"A film is written as {', '.join(FORMATS)}, got '{file}': give it such an ending, or none for a "
                "folder of PNG files."
            )
        try:
            if ending:
                Films(fps=fps, format=ending).save(file.parent, file.stem, self.images)  # type: ignore[arg-type]
            else:
                _refuse_mixture(file, count=len(self.images))
                save_frames(file, self.images)
        except OSError as error:
            raise UserError(f"'{file}' cannot be written ({error.strerror}): choose another place.") from error
        return file

    def plot(self) -> Figure:
        """The log-density along the path, in nats relative to its start.

        Raises:
            UserError: for a method that has no path.
        """
        return density_figure([self])


def interpolate(
    a: str | Path | Image.Image,
    b: str | Path | Image.Image,
    *,
    model: str | Path | LatentModel = "clevr_ldm",
    method: str | Method = "geodesic",
    prompt_a: str | None = None,
    prompt_b: str | None = None,
    frames: int = 17,
    tau: float | None = None,
    alpha_d: float | None = None,
    alpha: float | None = None,
    seed: int = 0,
    settings: Sequence[str] = (),
) -> Interpolation:
    """Interpolates between two images, with the numbers that the command gives for the same settings.

    The images' inversions are kept in `.cache/latents` of the current folder, so that another method or power on the
    same images begins at once; `settings=["model.cache_dir=null"]` keeps none.

    Args:
        a: The first image, or its file.
        b: The second one.
        model: A model of `conf/model/`, a folder in diffusers' format, or one that is loaded.
        method: A method of `conf/method/`, or one that is made.
        prompt_a: What the first image shows; the second prompt if not given.
        prompt_b: What the second image shows; the first prompt if not given.
        frames: Images of the sequence, both ends included; at least 3.
        tau: Noise level of the path, in (0, 1); the configuration's if not given.
        alpha_d: Power on the density times the dimension of a latent, at least 0; the configuration's if not given.
        alpha: The power itself, in its place.
        seed: Every random number follows from it.
        settings: Any others as the command line takes them, such as `["geometry=graph", "solver.intervals=32"]`.

    Raises:
        UserError: for an image that cannot be read, a name or a value that is none, or a pair that the method fails on.
    """
    given = {"tau": tau, "alpha_d": alpha_d, "alpha": alpha, "frames": frames, "seed": seed}
    arguments = [f"{name}={value}" for name, value in given.items() if value is not None]
    if not isinstance(method, Method | str):
        raise UserError(f"method must be one name or one Method, got {method!r}: call it once for each.")
    if isinstance(settings, str | Mapping):
        raise UserError(f'settings must be a list of texts, such as ["model.steps=10"], got {settings!r}.')
    if not isinstance(method, Method):
        arguments.append(f"method=[{method}]")
    if not isinstance(model, LatentModel):
        arguments += _chosen(model)
    try:
        morphs = made_morphs([*arguments, *settings], model=model, method=method)
        batch = _batch(a, b, prompt_a, prompt_b, size=morphs.model.image_size)
        with one_thread():
            found = morphs(batch, seed=seed).of_pair(0)[0]
    except Exception as error:
        raise for_a_person(error) from error
    return _interpolation(found, morphs.u)


def named_model(name: str | Path, settings: Sequence[str] = ()) -> LatentModel:
    """The model of that name in `conf/model/`, or of a folder, with settings as the command line takes them.

    Raises:
        UserError: where there is none.
    """
    try:
        config = _composed([*_chosen(name), *settings])
        model: LatentModel = instantiate(config.model, _convert_="all")
    except Exception as error:
        raise for_a_person(error) from error
    return model


def density_figure(legs: Sequence[Interpolation]) -> Figure:
    """The log-density along paths one after another, each relative to its own start: their prompts may differ.

    Raises:
        UserError: where one of them has no path.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for place, leg in enumerate(legs):
            if leg.curves is None:
                raise UserError(f"The method {leg.method} has no path, along which a density could be drawn.")
            axes.plot(leg.curves.u + place, leg.curves.log_density[0], color="#0072B2")
            if place:
                axes.axvline(place, color="#8C8C8C", linewidth=0.8)
        label(axes, f"Density along the path: {legs[0].density}", "u", "log p - log p at the start, nats")
    return figure


def _composed(arguments: Sequence[str]) -> DictConfig:
    """The configuration that the command composes of these arguments."""
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        config = compose("config", overrides=as_meant(["metrics=[verdict]", *arguments], conf=CONF))
    with tempfile.TemporaryDirectory() as nowhere:  # nothing is written: a run's folder is the command's affair
        config.output_dir = nowhere
        find_shipped(config)
        check_inputs(config)
    return config


def _refuse_mixture(folder: Path, *, count: int) -> None:
    """Refuses a folder in which frames would stand among files that are not replaced by them."""
    own = {frame_name(number) for number in range(count)}
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in own) if folder.is_dir() else []
    if others:
        raise UserError(f"The folder '{folder}' holds other files, such as '{others[0]}': choose another one.")


def _chosen(model: str | Path) -> list[str]:
    """The arguments that choose a model: a name of the configuration goes before a folder of the same name."""
    if (CONF / "model" / f"{model}.yaml").is_file():
        return [f"model={model}"]
    return [f"model.path_or_name={model}"]


def made_morphs(arguments: Sequence[str], *, model: Any, method: Any) -> "Morphs":
    """What makes sequences by the configuration that the command composes of these arguments."""
    config = _composed(arguments)
    node = OmegaConf.to_container(config.task.morphs, resolve=True, throw_on_missing=True)
    assert isinstance(node, dict)
    made: dict[str, Any] = {}
    if isinstance(model, LatentModel):
        made["model"] = model
    if isinstance(method, Method):
        made["methods"] = {type(method).__name__: method}
    described = {name: value for name, value in node.items() if name not in made}
    check_kinds("task", described, OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
    make: partial[Morphs] = instantiate(described, _partial_=True, _convert_="all")
    return make(**made)


def _batch(a: Any, b: Any, prompt_a: str | None, prompt_b: str | None, *, size: tuple[int, int]) -> PairBatch:
    names = [_name(image, default) for image, default in ((a, "a"), (b, "b"))]
    prompts = [prompt_a, prompt_b]
    for which, prompt in zip("ab", prompts, strict=True):
        if not isinstance(prompt, str | None):
            raise UserError(f"prompt_{which} must be a text, got {prompt!r}.")
    first, second = (one if one is not None else (other or "") for one, other in (prompts, prompts[::-1]))
    images = [_read(image, name, size).unsqueeze(0) for image, name in zip((a, b), names, strict=True)]
    pair = ImagePair(
        id=f"{names[0].stem}--{names[1].stem}",
        group="own",
        image_a=names[0],
        image_b=names[1],
        prompt_a=first,
        prompt_b=second,
    )
    return PairBatch(pairs=(pair,), images_a=images[0], images_b=images[1], truth=(None,))


def _name(image: Any, default: str) -> Path:
    if isinstance(image, str | Path):
        return Path(image).expanduser()
    if isinstance(image, Image.Image):
        return Path(str(getattr(image, "filename", "") or default))
    raise UserError(f"An image must be a Pillow image or the path of a file, got {type(image).__name__}.")


def _read(image: Any, name: Path, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    return from_pil(image, name, size=size) if isinstance(image, Image.Image) else read_image(name, size=size)


def _interpolation(found: PairResult, u: Float[Tensor, " n"]) -> Interpolation:
    result, row = found.result, found.row
    if result.failure is not None or row["status"] in LOST or not bool(torch.isfinite(found.frames).all()):
        why = result.failure or status_sentence(row["status"])
        raise UserError(f"{found.method} made no sequence of these images: {why}")
    return Interpolation(
        images=found.frames.cpu(),
        ends_db=float(result.pairs.given_back.min()),
        u=u,
        method=found.method,
        status=row["status"],
        density=(result.morph.posed or result.pairs).density,
        solution=result.morph.solution,
        curves=result.curves,
        evaluations=row["evaluations"],
        seconds=row["seconds"],
        inversion=row.get("inversion"),
        verdict=row.get("verdict"),
    )


def for_a_person(error: Exception) -> Exception:
    """The error as one sentence, where it is the person's to mend."""
    sentence = sentence_of(error, conf=CONF)
    return error if sentence is None else UserError(sentence)
