"""A page in the browser: two or more images in, the frames under a slider, the density curve and the film out.

`make app`, or `python -m latent_geodesics.run.app`. Gradio is the extra `app`. The page is served to this machine alone
and one request is worked on at a time; Gradio reads another address from GRADIO_SERVER_NAME and GRADIO_SERVER_PORT.
"""

import base64
import io
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from markupsafe import Markup, escape
from PIL import Image
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.progress import listening, telling
from latent_geodesics.data.images import readable, to_pil
from latent_geodesics.run.files import title_of
from latent_geodesics.run.interpolation import Interpolation, density_figure, interpolate, named_model
from latent_geodesics.run.key_path import path_through
from latent_geodesics.run.main import CONF, ROOT
from latent_geodesics.run.sequences import save_film

if TYPE_CHECKING:
    import gradio as gr
    from matplotlib.figure import Figure

    from latent_geodesics.models import LatentModel

MOST_IMAGES = 8
MOST_FRAMES = 65
MOST_MEGAPIXELS = 50
FPS = 12
NEED_TRUTH = ("autoencoded_truth", "inverted_truth", "true_frames")
"""Methods that ask for the true frames, which nobody has of images of their own."""
STYLE = "#frames img { width: 100%; max-width: 512px; image-rendering: auto; border-radius: 6px; }"
SHOW = "(k) => document.querySelectorAll('#frames img').forEach((one, n) => { one.hidden = n != k; })"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the page is asked for.

    Attributes:
        files: The images, in order.
        prompts: A line for each; the last one serves what has none.
        frames: Of each two neighbours, both included.
        spline: Whether the path through more than two images has one velocity at each inner one.
    """

    files: Sequence[str | Path]
    prompts: str = ""
    model: str = "clevr_ldm"
    method: str = "geodesic"
    alpha_d: float = 3.0
    tau: float = 0.6
    frames: int = 17
    spline: bool = False
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the page shows: the frames, the film's file, the density curve (None for a method without a path), words."""

    frames: Sequence[Image.Image]
    film: Path
    curve: "Figure | None"
    words: str


def answer(wish: Wish, *, folder: Path, tell: Callable[[str], object] = lambda words: None) -> Answer:
    """Goes from each image to the next.

    Args:
        wish: What is asked for.
        folder: Where the film is written.
        tell: Hears how far it is.

    Raises:
        UserError: for anything that cannot be had; it calls an uploaded file by its name alone.
    """
    try:
        prompts = _prompts(wish)
        for file in wish.files:
            _check_upload(Path(file))
        with listening(tell):
            tell("loading the model")
            model = _model(wish.model, wish.settings)
            if wish.spline and len(wish.files) > 2:
                return _smooth(wish, prompts, model, folder)
            legs = [_leg(wish, place, prompts, model) for place in range(len(wish.files) - 1)]
    except UserError as error:
        sentence = str(error)
        for file in wish.files:
            sentence = sentence.replace(str(file), Path(file).name)
        raise UserError(sentence) from error
    images = torch.cat([legs[0].images, *(leg.images[1:] for leg in legs[1:])])
    curve = density_figure(legs) if all(leg.curves is not None for leg in legs) else None
    return _filmed(images, folder, curve, " ".join(_said(leg, place, len(legs)) for place, leg in enumerate(legs)))


def _filmed(images: Float[Tensor, "n 3 h w"], folder: Path, curve: "Figure | None", words: str) -> Answer:
    film = folder / "morph.mp4"
    save_film(film, images, fps=FPS)
    return Answer(frames=[to_pil(image) for image in images], film=film, curve=curve, words=words)


def _smooth(wish: Wish, prompts: Sequence[str], model: "LatentModel", folder: Path) -> Answer:
    """One path through all images; its legs are bent, so that no curve of their densities is its own."""
    found = path_through(
        wish.files,
        model=model,
        method=wish.method,
        prompts=prompts,
        frames=wish.frames,
        tau=wish.tau,
        alpha_d=wish.alpha_d,
        settings=wish.settings,
    )
    words = f"A spline through {len(wish.files)} images: {found.evaluations} score evaluations, {found.seconds:.1f} s."
    return _filmed(found.images, folder, None, f"{words} {found.sentence}")


@lru_cache(maxsize=1)
def _model(name: str, settings: tuple[str, ...]) -> "LatentModel":
    """The model of the last request stays in memory."""
    return named_model(name, settings)


def _leg(wish: Wish, place: int, prompts: Sequence[str], model: "LatentModel") -> Interpolation:
    (a, b), legs = list(pairwise(wish.files))[place], len(wish.files) - 1
    with telling(f"{place + 1} of {legs}: ") if legs > 1 else nullcontext():
        return interpolate(
            a,
            b,
            model=model,
            method=wish.method,
            prompt_a=prompts[place],
            prompt_b=prompts[place + 1],
            frames=wish.frames,
            tau=wish.tau,
            alpha_d=wish.alpha_d,
            settings=wish.settings,
        )


def _prompts(wish: Wish) -> list[str]:
    images = len(wish.files)
    if not 2 <= images <= MOST_IMAGES:
        raise UserError(f"A morph leads through 2 to {MOST_IMAGES} images, got {images}: choose that many files.")
    lines = [line.strip() for line in wish.prompts.strip().splitlines()] or [""]
    if len(lines) > images:
        raise UserError(f"There are {len(lines)} prompts for {images} images: write one line an image, in their order.")
    return lines + [lines[-1]] * (images - len(lines))


def _check_upload(file: Path) -> None:
    """Refuses a picture whose header promises more than a page should unpack; what is none is told when it is read."""
    if not file.is_file() or not file.stat().st_size:
        return
    with readable(file), Image.open(file) as opened:
        megapixels = opened.width * opened.height / 1e6
    if megapixels > MOST_MEGAPIXELS:
        raise UserError(
            f"The image '{file}' has {megapixels:.0f} megapixels and the page takes {MOST_MEGAPIXELS}: scale it down."
        )


def _said(leg: Interpolation, place: int, legs: int) -> str:
    name = f"From image {place + 1} to {place + 2}: " if legs > 1 else ""
    warning = f" The images are not quite met at the ends: {leg.inversion}." if leg.inversion else ""
    verdict = f"{'a' if name else 'A'} {leg.verdict}; " if leg.verdict else ""
    return f"{name}{verdict}{leg.evaluations} score evaluations, {leg.seconds:.1f} s. {leg.sentence}{warning}"


def _pictures(frames: Sequence[Image.Image]) -> Markup:
    """All frames as one piece of HTML, of which the slider shows one."""
    shown = Markup()
    for number, frame in enumerate(frames):
        packed = io.BytesIO()
        frame.save(packed, format="WEBP", quality=92, method=2)
        data = base64.b64encode(packed.getvalue()).decode()
        hidden = Markup(" hidden") if number else ""
        shown += Markup('<img alt="frame {}" src="data:image/webp;base64,{}"{}>').format(number, data, hidden)
    return shown


def _shipped_example() -> tuple[list[str], str]:
    """Two shipped images with their prompts."""
    from latent_geodesics.data.pairs import read_manifest

    pair = read_manifest(ROOT / "data" / "pairs" / "manifest.csv", verify=False)[0]
    return [str(pair.image_a), str(pair.image_b)], f"{pair.prompt_a}\n{pair.prompt_b}"


def build(defaults: Wish | None = None) -> "gr.Blocks":
    """The page.

    Args:
        defaults: What its fields hold at first; its files are not shown.
    """
    import gradio as gr

    first = defaults or Wish(files=())
    folder = tempfile.TemporaryDirectory(prefix="latent-geodesics-")  # of the films, which go when the page does

    def work(
        files: list[str] | None,
        prompts: str,
        model: str,
        method: str,
        alpha_d: float,
        tau: float,
        frames: float,
        spline: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default
    ) -> tuple[Any, ...]:
        wish = Wish(
            files=files or (),
            prompts=prompts or "",
            model=(model or "").strip(),
            method=method,
            alpha_d=alpha_d,
            tau=tau,
            frames=int(frames),
            spline=bool(spline),
            settings=first.settings,
        )
        return _shown(wish, Path(tempfile.mkdtemp(dir=folder.name)), progress)

    with gr.Blocks(title="latent-geodesics", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown("# latent-geodesics\nThe shortest path between images that stays among probable images.")
        with gr.Row():
            with gr.Column():
                fields, example, go = _fields(first)
            with gr.Column():
                said = gr.HTML(elem_id="said", min_height=72)  # room for the progress
                shown = gr.HTML(elem_id="frames")
                slider = gr.Slider(0, first.frames - 1, 0, step=1, label="Frame", elem_id="slider", interactive=True)
                curve = gr.Plot(label="Density along the path", show_label=False, elem_id="curve")  # it has its title
                film = gr.File(label="The film (mp4)", elem_id="film", interactive=False)
        go.click(work, fields, [said, shown, slider, curve, film], show_progress_on=said)
        slider.change(None, [slider], None, js=SHOW)
        example.click(_shipped_example, None, fields[:2])
    return page


def _fields(first: Wish) -> tuple[list[Any], Any, Any]:
    """The fields in the order in which they are asked for, the button for an example, and the one that starts."""
    import gradio as gr

    files = gr.File(label="Two or more images, in order", file_count="multiple", elem_id="files", allow_reordering=True)
    example = gr.Button("Take two shipped images", size="sm", elem_id="example")
    prompts = gr.Textbox(label="Prompts, one line an image", lines=2, value=first.prompts)
    models = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
    model = gr.Dropdown(models, value=first.model, label="Model: a name, or a folder", allow_custom_value=True)
    method = gr.Dropdown(_methods(), value=first.method, label="Method")
    with gr.Row():
        alpha_d = gr.Number(first.alpha_d, minimum=0, label="Power on the density, alpha d")
        tau = gr.Slider(0.05, 0.95, first.tau, step=0.05, label="Noise level, tau")
    frames = gr.Slider(3, MOST_FRAMES, first.frames, step=1, label="Frames")
    spline = gr.Checkbox(first.spline, label="Smooth through the inner of several images (spline)", elem_id="spline")
    go = gr.Button("Interpolate", variant="primary", elem_id="go")
    return [files, prompts, model, method, alpha_d, tau, frames, spline], example, go


def _shown(wish: Wish, folder: Path, progress: Any) -> tuple[Any, ...]:
    """What the page shows for a wish: words, frames, the slider, the curve, the film."""
    import gradio as gr

    steps = count(1)

    def tell(words: str) -> None:
        progress((next(steps), None), unit=f"· {words}")  # a description wants a total

    try:
        found = answer(wish, folder=folder, tell=tell)
    except UserError as error:
        return f"<p class='error'>{escape(str(error))}</p>", "", gr.skip(), None, None
    slider = gr.update(maximum=len(found.frames) - 1, value=0, interactive=True)
    return f"<p>{escape(found.words)}</p>", str(_pictures(found.frames)), slider, found.curve, str(found.film)


def _methods() -> list[tuple[str, str]]:
    names = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))
    return [(title_of(name), name) for name in names if name not in NEED_TRUTH]


def main() -> int:
    """Serves the page until it is interrupted."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        page = build()
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        sys.stderr.write("error: Gradio is not installed: start the page by `make app`, which installs it.\n")
        return 2
    page.launch(css=STYLE, max_file_size="64mb", allowed_paths=[str(ROOT / "data" / "pairs")], footer_links=[])
    return 0


if __name__ == "__main__":
    sys.exit(main())
