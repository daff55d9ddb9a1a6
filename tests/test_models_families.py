"""Every family against its own pipeline of diffusers: embeddings, autoencoder, whole chains; and inversion, scores."""

import inspect
from copy import deepcopy

import diffusers
import pytest
import tiny_families
import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import Conditional, Contrastive, load_model
from latent_geodesics.models.inversion import denoise, times
from latent_geodesics.models.latent_model import _HALF_TOLERANCE
from latent_geodesics.models.network import ImageCodec

PROMPTS = ("a red cube", "a blue sphere")
STEPS = 5
ROUNDINGS, OF_DECODERS = 4.0, 16.0
"""By how many roundings of one number all of a network's outputs are off: a hundred in a row add up as their root."""


@pytest.fixture(scope="module", params=tiny_families.FAMILIES)
def folder(request, tmp_path_factory):
    return tiny_families.build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def pipeline(folder):
    absent = {} if (folder / "text_encoder_3").exists() else {"text_encoder_3": None, "tokenizer_3": None}
    options = absent if "stable_diffusion_3" in str(folder) else {}
    found = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, **options)
    found.set_progress_bar_config(disable=True)
    if isinstance(found.scheduler, diffusers.PNDMScheduler):  # the noise is the same, and the steps are to be
        found.scheduler = diffusers.DDIMScheduler.from_config(found.scheduler.config, clip_sample=False)
    return found


@pytest.fixture(scope="module", params=["square", "tall"])
def model(request, folder):
    side, multiple = tiny_families.sides(folder)
    size = (side, side) if request.param == "square" else (side + multiple, side)
    return load_model(folder, device="cpu", dtype="float32", steps=STEPS, image_size=size)


def noise(model, count=2):
    return torch.randn(count, model.dimension, generator=torch.Generator().manual_seed(1))


def packed(model, pipeline, x):
    """Latents as the pipeline takes them from its caller."""
    images = x.reshape(len(x), *model.latent_shape)
    if isinstance(pipeline, diffusers.FluxPipeline):
        return pipeline._pack_latents(images, *images.shape)
    return images


def unpacked(model, pipeline, latents):
    """Latents as the pipeline has them while it denoises."""
    if isinstance(pipeline, diffusers.FluxPipeline):
        latents = pipeline._unpack_latents(latents, *model.image_size, pipeline.vae_scale_factor)
    return (latents.mT if isinstance(pipeline, diffusers.Flux2KleinPipeline) else latents).flatten(1)


def chain(model, pipeline, x, weight):
    """The latents of a pipeline at every level, from pure noise down."""
    met = [x]

    def keep(pipeline, step, time, kept):
        met.append(unpacked(model, pipeline, kept["latents"]))
        return kept

    distilled = isinstance(pipeline, diffusers.FluxPipeline)  # guidance is one of its inputs
    given = {"guidance_scale": 3.5} if distilled else {"guidance_scale": weight, "negative_prompt": ["grey"] * 2}
    calls = inspect.signature(pipeline.__call__).parameters  # FLUX.2 has no negative text but the empty one
    pipeline(
        prompt=list(PROMPTS), latents=packed(model, pipeline, x), num_inference_steps=STEPS, output_type="latent",
        height=model.image_size[0], width=model.image_size[1], callback_on_step_end=keep,
        **{key: value for key, value in given.items() if key in calls},
    )  # fmt: skip
    return met, "grey" if "negative_prompt" in calls and not distilled else ""


@pytest.fixture(scope="module")
def unguided(model, pipeline):
    """The latents of the pipeline's chain without guidance, and the negative text of one with it."""
    return chain(model, pipeline, noise(model), 1.0)


def near(found, expected, bar=1e-4):
    assert (found - expected).norm() < bar * expected.norm()


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_chain_is_the_pipelines_at_every_step(model, pipeline, unguided, weight):
    if isinstance(pipeline, diffusers.FluxPipeline) and weight != 1.0:
        pytest.skip("its pipeline has no classifier-free guidance")
    x = noise(model)
    met, negative = unguided if weight == 1.0 else chain(model, pipeline, x, weight)
    guidance = model._guidance(2, model.condition(PROMPTS), weight, model.condition([negative]).expand(2, -1, -1))
    for step, expected in enumerate(met[1:], 1):
        t = times(model.schedule, x, STEPS + 1 - step)
        x = model.schedule.step_down(x, model.network.guided_output(x, t, guidance), t, STEPS - step)
        near(x, expected)
    torch.testing.assert_close(denoise(model.network, met[0], level=STEPS, guidance=guidance), x)


def test_the_score_is_that_of_the_noise_in_the_pipelines_steps(model, unguided):
    """Of two neighbouring latents x = a x_0 + s e of a chain, x_0 and the noise e are told by a, s of both levels."""
    met, _ = unguided
    for level, upper, lower in zip(range(STEPS, 0, -1), met, met[1:], strict=False):
        (a, s), (a1, s1) = model.schedule.amounts(level), model.schedule.amounts(level - 1)
        e = (a1 * upper.double() - a * lower.double()) / (a1 * s - a * s1)
        tau = min(level / STEPS, 0.99)
        field = model.field(condition0=model.condition(PROMPTS), tau=tau, score=Conditional())
        # The lowest two levels of diffusion models are so near that rounding of the latents shows in their difference.
        near(field.score(upper[:, None], torch.zeros(2, 1))[:, 0].double(), -e / s, bar=1e-4 if level > 1 else 2e-3)


def test_images_are_encoded_and_decoded_as_by_the_pipeline(model, pipeline):
    images = torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(2))
    latents = model.encode(images)
    mean = pipeline.vae.encode(2 * images - 1).latent_dist.mode()
    if isinstance(pipeline, diffusers.Flux2KleinPipeline):  # two by two latents without their mean and variance
        center, variance = (
            part.view(1, -1, 1, 1) for part in (pipeline.vae.bn.running_mean, pipeline.vae.bn.running_var)
        )
        deviation = (variance + pipeline.vae.config.batch_norm_eps).sqrt()
        expected = ((pipeline._patchify_latents(mean) - center) / deviation).flatten(1)
    else:
        scale, shift = pipeline.vae.config.scaling_factor, pipeline.vae.config.shift_factor or 0.0
        expected = ((mean - shift) * scale).flatten(1)
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        decoded = (pipeline.vae.decode(mean).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(model.decode(latents), decoded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tau", [0.5, 0.99])
def test_inversion_comes_back(model, tau):
    images = torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(3))
    condition = model.condition(PROMPTS)
    x = model.encode(images, condition=condition, tau=tau)
    back = model.decode(x, condition=condition, tau=tau)
    torch.testing.assert_close(back, model.decode(model.encode(images)), rtol=0, atol=1e-2)


def test_the_contrastive_score_is_that_of_two_texts(model):
    x, tau = noise(model), 0.6
    condition, negative = model.condition(PROMPTS), model.condition(["grey"] * 2)
    t = torch.full((2,), model.time(tau))
    field = model.field(condition0=condition, tau=tau, score=Contrastive(), negative=negative)
    without, conditional = (model.network.noise(x, t, each) for each in (negative, condition))
    near(field.score(x[:, None], torch.zeros(2, 1))[:, 0], 0.5 * (without - conditional))


def test_embeddings_move_linearly_with_what_is_told_of_the_text_as_a_whole(model):
    first, second = model.condition(PROMPTS)
    assert first.shape == second.shape
    assert not torch.equal(first, second)


@pytest.fixture(scope="module")
def exact(folder):
    return load_model(folder, device="cpu", dtype="float32", steps=STEPS, image_size=tiny_families.sides(folder)[0])


def some_images(model):
    return torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def there_and_back(exact):
    """Latents at 0.6 of images, and what is decoded of them, in float32."""
    options = {"condition": exact.condition(PROMPTS), "tau": 0.6}
    x = exact.encode(some_images(exact), **options)
    return x, exact.decode(x, **options)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_whole_chain_in_half_precision_is_as_near_as_its_roundings(folder, exact, there_and_back, dtype):
    half = load_model(folder, device="cpu", dtype=dtype, steps=STEPS, image_size=exact.image_size)
    error = ROUNDINGS * torch.finfo(getattr(torch, dtype)).eps / 2
    images, tau = some_images(exact), 0.6
    condition, level = exact.condition(PROMPTS), exact.schedule.level(tau)
    assert torch.equal(half.condition(PROMPTS), condition)
    x, expected = there_and_back
    near(half.encode(images, condition=condition, tau=tau), x, bar=2 * level * _HALF_TOLERANCE)
    guidance = exact._guidance(2, condition, 1.0, None)
    late, clean, bound = told_as_rounded(exact, getattr(torch, dtype)), x, torch.zeros(())
    for k in range(level, 0, -1):
        # x_k = signal x_{k-1} + factor f(x_k), so that what is wrong of f is by factor / signal wrong of x_{k-1}.
        (signal, factor), t = exact.schedule.step_up(k), times(exact.schedule, x, k)
        output, other = (network.guided_output(clean, t, guidance) for network in (exact.network, late))
        below = exact.schedule.step_down(clean, output, t, k - 1)
        wrong = error * (clean - signal * below).norm() + abs(factor) * (other - output).norm()
        clean, bound = below, (bound + wrong) / signal
    found = denoise(half.network, x, level=level, guidance=guidance)
    assert half.network.precision == dtype
    assert 0 < (found - clean).norm() < bound
    shift = torch.randn(found.shape, generator=torch.Generator().manual_seed(4))
    shift *= bound / shift.norm()
    moved = exact._codec.decode(clean + shift) - exact._codec.decode(clean)
    back = half.decode(x, condition=condition, tau=tau)
    assert (back - expected).norm() < 2 * moved.norm()


class ToldAsRounded:
    """A transformer of FLUX in float32, told what one in half precision is: it counts a time and a guidance in that."""

    def __init__(self, module, dtype):
        self.module, self.rounding, self.config, self.dtype = module, dtype, module.config, torch.float32

    def rounded(self, told):
        return None if told is None else ((1000 * told).to(self.rounding) / 1000 * 1000).float() / 1000

    def __call__(self, *, timestep, guidance=None, **named):
        return self.module(timestep=self.rounded(timestep), guidance=self.rounded(guidance), **named)


def told_as_rounded(model, dtype):
    """The network in float32, but for what it is told."""
    flux = type(model.network.module).__name__.startswith("Flux")
    return model.network.beside(ToldAsRounded(model.network.module, dtype), "float32") if flux else model.network


def test_the_decoder_in_half_precision_is_near_and_float32_takes_over_where_it_overflows(exact, caplog):
    parts, latents = exact._components, exact.encode(some_images(exact))

    def codec(vae, decoding):
        return ImageCodec(vae=vae, family=parts.family, image_size=exact.image_size, batch_size=2, decoding=decoding)

    expected, found = (codec(parts.vae, dtype).decode(latents) for dtype in (torch.float32, torch.float16))
    assert 0 < (found - expected).norm() < OF_DECODERS * 2**-11 * (expected - 0.5).norm()
    assert "overflowed" not in caplog.text
    large = deepcopy(parts.vae)
    large.decoder.conv_in.weight.data *= 1e7
    expected, found = (codec(large, dtype).decode(latents) for dtype in (torch.float32, torch.float16))
    assert torch.equal(found, expected)
    assert "The decoder overflowed in half precision: images are decoded in float32 from here on." in caplog.text


def test_what_steers_attention_says_where_it_has_no_meaning(model):
    if model.network.family.controlled:
        assert model.network.steerable is model.network.module
        return
    with pytest.raises(UserError, match=r"known for U-Nets.*Transformer2DModel: choose another method"):
        _ = model.network.steerable
