"""FLUX.2 [klein]: a transformer over two by two whitened latents that predicts the velocity of a flow."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.models.families.base import PATCH, Components, FlowTransformer, Maps
from latent_geodesics.models.noise_schedule import FLOW_SCHEDULER, NoiseSchedule

LAYERS = (9, 18, 27)
"""The layers of the text encoder that the pipeline reads side by side."""


class Flux2Klein(FlowTransformer):
    """FLUX.2 [klein], of which the base models are not distilled and take classifier-free guidance.

    A latent here is what the network sees: two by two latents of the autoencoder as the channels of one, each channel
    with the mean and the variance of its training taken out.
    """

    pipelines = ("Flux2KleinPipeline",)
    parts = {
        "transformer": ("Flux2Transformer2DModel",),
        "vae": ("AutoencoderKLFlux2",),
        "text_encoder": ("Qwen3ForCausalLM",),
        "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
        "scheduler": (FLOW_SCHEDULER,),
    }

    def embed(self, components: Components, pipeline: Any, text: str) -> Float[Tensor, "l c"]:  # noqa: D102
        tokens, _ = pipeline.encode_prompt(text, device=components.texts["text_encoder"].device)
        return torch.as_tensor(tokens[0]).float()

    def predict(self, network: Any, images: Maps, told: Tensor, condition: Tensor, pixels: int) -> Maps:  # noqa: D102
        (output,) = network(
            hidden_states=images.flatten(2).mT,
            timestep=told.to(images.dtype) / 1000,
            guidance=None,
            encoder_hidden_states=condition,
            txt_ids=_positions(1, 1, condition.shape[1]).to(images.device).expand(len(images), -1, -1),
            img_ids=_positions(images.shape[-2], images.shape[-1], 1).to(images.device).expand(len(images), -1, -1),
            return_dict=False,
        )
        return torch.as_tensor(output).mT.reshape(images.shape)

    def problems(self, components: Components) -> list[str]:  # noqa: D102
        found = super().problems(components)
        layers = components.texts["text_encoder"].config.num_hidden_layers
        if layers < LAYERS[-1]:
            found.append(f"its text encoder has {layers} layers, and those up to {LAYERS[-1]} are read")
        if components.network.config.guidance_embeds:
            found.append("its transformer is told a weight of guidance")
        if not getattr(components.texts["tokenizer"], "chat_template", None):
            found.append("its tokenizer has no chat template (chat_template.jinja), in which texts are put")
        return found

    def notes(self, components: Components) -> list[str]:  # noqa: D102
        few = "it was distilled to few steps: what it predicts is no density's score, and its pipeline has no guidance"
        return super().notes(components) + ([few] if components.options.get("is_distilled") else [])

    def widths(self, components: Components) -> list[tuple[str, Any, int]]:  # noqa: D102
        given = len(LAYERS) * components.texts["text_encoder"].config.hidden_size
        return [("texts", components.network.config.joint_attention_dim, given)]

    def schedule(self, components: Components, steps: int, latent_shape: tuple[int, int, int]) -> NoiseSchedule:  # noqa: D102
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        shift = compute_empirical_mu(image_seq_len=latent_shape[1] * latent_shape[2], num_steps=steps)
        return NoiseSchedule.from_flow(components.scheduler, steps, evenly=True, shift=shift)

    def latent_shape(self, vae: Any, image_size: tuple[int, int]) -> tuple[int, int, int]:  # noqa: D102
        channels, height, width = super().latent_shape(vae, image_size)
        return PATCH**2 * channels, height // PATCH, width // PATCH

    def encode(self, vae: Any, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h w"]:  # noqa: D102
        latents = torch.nn.functional.pixel_unshuffle(vae.encode(images).latent_dist.mode(), PATCH)
        mean, deviation = _moments(vae)
        return (latents - mean) / deviation

    def decode(self, vae: Any, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:  # noqa: D102
        mean, deviation = _moments(vae)
        coloured = torch.nn.functional.pixel_shuffle(latents * deviation + mean, PATCH)
        images: Tensor = vae.decode(coloured.to(vae.dtype)).sample
        return images


def _moments(vae: Any) -> tuple[Float[Tensor, "1 c 1 1"], Float[Tensor, "1 c 1 1"]]:
    """The mean and the deviation of each channel of two by two latents, which the autoencoder remembers."""
    mean, variance = (part.float().view(1, -1, 1, 1) for part in (vae.bn.running_mean, vae.bn.running_var))
    return mean, (variance + vae.config.batch_norm_eps).sqrt()


def _positions(rows: int, columns: int, words: int) -> Tensor:
    """Where each token lies: a zero, its row, its column, and its place in a text."""
    return torch.cartesian_prod(*(torch.arange(count) for count in (1, rows, columns, words)))
