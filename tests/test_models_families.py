"""Every family against its own pipeline of diffusers: embeddings, autoencoder, whole chains; and inversion, scores."""

import inspect

import diffusers
import pytest
import tiny_families
import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import Conditional, Contrastive, load_model
from latent_geodesics.models.inversion import denoise

PROMPTS = ("a red cube", "a blue sphere")
STEPS = 4


@pytest.fixture(scope="module", params=tiny_families.FAMILIES)
def folder(request, tmp_path_factory):
    return tiny_families.build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def pipeline(folder):
    absent = {} if (folder / "text_encoder_3").exists() else {"text_encoder_3": None, "tokenizer_3": None}
    options = absent if "stable_diffusion_3" in str(folder) else {}
    found = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, **options)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module", params=[(32, 32), (48, 32)], ids=str)
def model(request, folder):
    return load_model(folder, device="cpu", dtype="float32", steps=STEPS, image_size=request.param)


def noise(model, count=2):
    return torch.randn(count, model.dimension, generator=torch.Generator().manual_seed(1))


def packed(model, pipeline, x):
    """Latents as the pipeline takes them from its caller."""
    images = x.reshape(len(x), *model.latent_shape)
    if isinstance(pipeline, diffusers.FluxPipeline):
        return pipeline._pack_latents(images, *images.shape)
    return images


def unpacked(model, pipeline, latents):
    """Latents as the pipeline gives them back."""
    if isinstance(pipeline, diffusers.FluxPipeline):
        latents = pipeline._unpack_latents(latents, *model.image_size, pipeline.vae_scale_factor)
    if isinstance(pipeline, diffusers.Flux2KleinPipeline):  # it gives coloured ones, of the autoencoder
        mean, variance = (
            part.view(1, -1, 1, 1) for part in (pipeline.vae.bn.running_mean, pipeline.vae.bn.running_var)
        )
        latents = (pipeline._patchify_latents(latents) - mean) / (variance + pipeline.vae.config.batch_norm_eps).sqrt()
    return latents.flatten(1)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_chain_is_the_pipelines(model, pipeline, weight):
    distilled = isinstance(pipeline, diffusers.FluxPipeline)  # guidance is one of its inputs
    if distilled and weight != 1.0:
        pytest.skip("its pipeline has no classifier-free guidance")
    x = noise(model)
    options = {} if distilled else {"negative_prompt": ["grey"] * 2}
    if isinstance(pipeline, diffusers.Flux2KleinPipeline):  # it has no text for it but the empty one
        options = {}
    negative = model.condition([options.get("negative_prompt", [""])[0]]).expand(2, -1, -1)
    calls = inspect.signature(pipeline.__call__).parameters
    expected = pipeline(
        prompt=list(PROMPTS), latents=packed(model, pipeline, x), num_inference_steps=STEPS, output_type="latent",
        guidance_scale=3.5 if distilled else weight, height=model.image_size[0], width=model.image_size[1],
        **{key: value for key, value in options.items() if key in calls},
    ).images  # fmt: skip
    guidance = model._guidance(2, model.condition(PROMPTS), weight, negative)
    found = denoise(model.network, x, level=STEPS, guidance=guidance)
    torch.testing.assert_close(found, unpacked(model, pipeline, expected), rtol=1e-4, atol=1e-4)


def test_images_are_encoded_and_decoded_as_by_the_pipeline(model, pipeline):
    images = torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(2))
    latents = model.encode(images)
    mean = pipeline.vae.encode(2 * images - 1).latent_dist.mode()
    if isinstance(pipeline, diffusers.Flux2KleinPipeline):
        expected = unpacked(model, pipeline, mean)
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


def test_scores_follow_from_the_noise_that_the_network_predicts(model):
    tau = 0.5
    x, condition = noise(model), model.condition(PROMPTS)
    t = torch.full((2,), model.time(tau))
    u = torch.tensor([[0.0], [0.0]])
    conditional = model.field(condition0=condition, tau=tau, score=Conditional()).score(x[:, None], u)[:, 0]
    torch.testing.assert_close(
        conditional, -model.network.noise(x, t, condition) / model.sigma(tau), rtol=1e-4, atol=1e-5
    )
    contrastive = model.field(condition0=condition, tau=tau, score=Contrastive()).score(x[:, None], u)
    assert contrastive.isfinite().all()


def test_embeddings_move_linearly_with_what_is_told_of_the_text_as_a_whole(model):
    first, second = model.condition(PROMPTS)
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_half_precision_is_near(folder):
    exact, half = (
        load_model(folder, device="cpu", dtype=dtype, steps=STEPS, image_size=32) for dtype in ("float32", "bfloat16")
    )
    x, t = noise(exact), torch.full((2,), exact.time(0.5))
    condition = exact.condition(PROMPTS)
    expected, found = (each.network.noise(x, t, condition) for each in (exact, half))
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_what_steers_attention_says_where_it_has_no_meaning(folder, model):
    if "stable_diffusion_xl" in str(folder):
        assert model.network.steerable is model.network.module
        return
    with pytest.raises(UserError, match=r"known for U-Nets.*Transformer2DModel: choose another method"):
        _ = model.network.steerable
