"""Low-rank adapters (LoRA) on the attention of a U-Net, there for a while, and how they are fitted to images.

An adapter adds `w (alpha/r) B A x` to a linear layer's output `W x`, with A and B of rank r and w a weight that may
differ from row to row of a batch, so that every frame of a sequence has a blend of its own. Several adapters add up:
with weights 1-w and w the change of the layer moves linearly from the one to the other.

peft does the work; on leaving the context the layers are the model's own again, the very same objects. The factors are
float32 on a network of any precision, so that they can be fitted; the sum is rounded to the precision of `W x`.

A fit minimises over an adapter's factors, for images with clean latents z and embeddings c, with AdamW (`fitting`),

    E_{image, t ~ U{0..T-1}, eps ~ N(0, I)}  mean (out(x_t, t, c) - target)^2,      x_t = sqrt(abar_t) z + sigma_t eps.

References:
    Hu et al. 2021, arXiv 2106.09685.
"""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.families.base import Embeddings
from latent_geodesics.models.fitting import NoisyDraws, fit
from latent_geodesics.models.network import Denoiser
from latent_geodesics.models.noise_schedule import Latents

log = logging.getLogger(__name__)

_PROJECTIONS = ("to_q", "to_k", "to_v")
_COMPONENTS = ("unet.", "text_encoder.", "text_encoder_2.", "transformer.")
"""How names begin that say which component of a pipeline they are for."""


class _RowWeights:
    """A weight of every row, for outputs of however many axes: of attention, of convolutions, of the time's embedding.

    peft multiplies a scale by alpha, divides it by r, and multiplies a layer's output by what comes of it.
    """

    def __init__(self, weights: Float[Tensor, " n"]) -> None:
        self._weights = weights

    def __mul__(self, number: float) -> "_RowWeights":
        return _RowWeights(self._weights * number)

    def __truediv__(self, number: float) -> "_RowWeights":
        return _RowWeights(self._weights / number)

    def __rmul__(self, output: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        return output * self._weights.to(output).view(-1, *[1] * (output.ndim - 1))


class Loras:
    """A context in which a conditional U-Net of diffusers may have adapters, each under a name; at first none."""

    def __init__(self, unet: Any) -> None:
        self._unet = unet

    def __enter__(self) -> "Loras":
        if self._layers():
            raise UserError("the model has adapters already; load it again without them")
        return self

    def __exit__(self, *error: object) -> None:
        for name, layer in self._layers().items():
            parent, _, child = name.rpartition(".")
            setattr(self._unet.get_submodule(parent), child, layer.get_base_layer())
        if "peft_config" in vars(self._unet):
            del self._unet.peft_config
        self._unet._hf_peft_config_loaded = False

    def add(self, name: str, *, rank: int, seed: int) -> None:
        """Adds an adapter on the query, key and value projections of every attention layer; it changes nothing yet.

        Its rank r is at least 1 and the scale alpha/r is 1; the seed is of the random factor A (B is zero).
        """
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=self._targets())
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            inject_adapter_in_model(config, self._unet, adapter_name=name)
            torch.manual_seed(seed)
            for layer in self._having(name):  # drawn anew in float32: peft rounds them to the network's precision
                down = torch.nn.Linear(layer.in_features, rank, bias=False)
                up = torch.nn.Linear(rank, layer.out_features, bias=False)  # draws too
                torch.nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
                torch.nn.init.zeros_(up.weight)
                layer.lora_A[name], layer.lora_B[name] = down.to(layer.weight.device), up.to(layer.weight.device)

    def load(self, name: str, source: str | Path) -> None:
        """Adds the adapter of a file, or of a folder that holds one, in any of the formats that diffusers reads.

        A `UserError` when there is no such file, or it does not belong to this model.
        """
        from diffusers import StableDiffusionPipeline

        weights = _read(Path(source))
        try:
            state, alphas = StableDiffusionPipeline.lora_state_dict(weights, unet_config=self._unet.config)
            if not any(key.startswith(_COMPONENTS) for key in state):
                state = {f"unet.{key}": value for key, value in state.items()}
            others = sorted({key.partition(".")[0] for key in state} - {"unet"})
            if not any(key.startswith("unet.") for key in state):
                raise UserError(f"the adapter {source} has no weights for the U-Net; take another file")
            StableDiffusionPipeline.load_lora_into_unet(state, alphas, self._unet, adapter_name=name)
            strange = self._fill(name, state)
        except UserError:
            raise
        except (ValueError, RuntimeError, KeyError, IndexError) as error:
            raise UserError(
                f"the adapter {source} does not fit the model (its layers or sizes are others); take one made for it"
            ) from error
        if strange:
            raise UserError(
                f"the adapter {source} does not fit the model (of {len(strange)} tensors, such as {strange[0]}, either "
                "has what the other lacks); take one made for it"
            )
        if others:
            log.warning(
                "Of the adapter %s only what is for the U-Net is used, not that for %s.", source, " and ".join(others)
            )

    def weigh(self, weights: Mapping[str, float | Float[Tensor, " n"]], *, train: bool = False) -> None:
        """Sets the weight of each adapter, one for all rows or one for each row; adapters not named are left out.

        With `train` the adapters' factors collect gradients.
        """
        for layer in self._layers().values():
            present = [name for name in weights if name in layer.lora_A]
            layer.set_adapter(present, inference_mode=not train)
            for name in present:
                weight = weights[name]
                layer.set_scale(name, _RowWeights(weight) if isinstance(weight, Tensor) else weight)

    def parameters(self, name: str) -> Sequence[torch.nn.Parameter]:
        """The factors of an adapter, in the order of the layers."""
        factors = ((layer.lora_A[name], layer.lora_B[name]) for layer in self._layers().values())
        return [parameter for pair in factors for factor in pair for parameter in factor.parameters()]

    def _fill(self, name: str, state: Mapping[str, Tensor]) -> list[str]:
        """Gives an adapter the numbers of its file in float32; loading rounded them to the network's precision.

        Returns what of the file belongs to no layer, and what of the layers the file lacks.
        """
        from diffusers.utils import convert_unet_state_dict_to_peft
        from peft import set_peft_model_state_dict

        for layer in self._having(name):
            layer.lora_A[name].float()
            layer.lora_B[name].float()
        own = {key.removeprefix("unet."): value for key, value in state.items() if key.startswith("unet.")}
        if not any("lora_A" in key for key in own):
            own = convert_unet_state_dict_to_peft(own)
        read: Any = set_peft_model_state_dict(self._unet, own, name)
        paths = [path for path, layer in self._layers().items() if name in layer.lora_A]
        wanted = {f"{path}.lora_{factor}.weight" for path in paths for factor in "AB"}
        return sorted({*read.unexpected_keys, *(wanted - own.keys())})

    def _having(self, name: str) -> list[Any]:
        """The layers that have an adapter of that name."""
        return [layer for layer in self._layers().values() if name in layer.lora_A]

    def _layers(self) -> dict[str, Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return {name: module for name, module in self._unet.named_modules() if isinstance(module, BaseTunerLayer)}

    def _targets(self) -> list[str]:
        """The names of the projections, of the model as it was before it had adapters."""
        names = dict(self._unet.named_modules())
        layers = [processor.removesuffix(".processor") for processor in self._unet.attn_processors]
        return [f"{layer}.{part}" for layer in layers for part in _PROJECTIONS if f"{layer}.{part}" in names]


def _read(source: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        kind = "holds no .safetensors file" if source.is_dir() else "does not exist"
        raise UserError(f"the adapter {source} {kind}; give the file, or the folder that it lies in")
    try:
        tensors: dict[str, Tensor] = load_file(files[0])
    except (SafetensorError, OSError) as error:
        raise UserError(f"the adapter {files[0]} is not a readable .safetensors file ({error})") from error
    return tensors


@dataclass(frozen=True, kw_only=True)
class LoraTraining:
    """How an adapter is made."""

    rank: int = 16  # its rank, at least 1
    steps: int = 200  # optimisation steps, at least 1
    learning_rate: float = 2e-4  # step size of AdamW, above 0
    batch_size: int = 1  # draws of (image, t, eps) a step, at least 1

    def __post_init__(self) -> None:
        whole = min(self.rank, self.steps, self.batch_size) >= 1
        if not whole or not 0.0 < self.learning_rate < float("inf"):
            raise UserError(
                "a LoRA needs rank >= 1, steps >= 1, batch_size >= 1 and a finite learning_rate > 0; received "
                f"{self.rank}, {self.steps}, {self.batch_size} and {self.learning_rate}"
            )

    def run(
        self, network: Denoiser, loras: Loras, name: str, *, latents: Latents, conditions: Embeddings, seed: int
    ) -> None:
        """Adds an adapter of that name and fits it to images; it is left as the only one in force.

        Every draw takes one of the clean latents at random, and its embedding; the seed is of the factors and of the
        draws.

        Raises:
            UserError: when the fit does not stay finite; the sentence tells a learning rate from a precision.
        """
        loras.add(name, rank=self.rank, seed=seed)
        loras.weigh({name: 1.0}, train=True)
        rng = torch.Generator().manual_seed(seed)
        with torch.inference_mode(False), torch.enable_grad():
            latents, conditions = latents.clone(), conditions.clone()

            def draw() -> NoisyDraws:
                return NoisyDraws.sample(latents, self.batch_size, times=network.schedule.training_times, rng=rng)

            def losses(draws: NoisyDraws) -> Float[Tensor, " 1"]:
                return draws.errors(network, conditions[draws.which]).sum()[None]

            def without(draws: NoisyDraws) -> Float[Tensor, " 1"]:
                loras.weigh({})
                return losses(draws)

            fit(
                f"fitting the LoRA '{name}'",
                [loras.parameters(name)],
                network=network,
                steps=self.steps,
                learning_rate=self.learning_rate,
                draw=draw,
                losses=losses,
                without=without,
            )
        loras.weigh({name: 1.0})
