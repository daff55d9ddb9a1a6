"""Networks that give an image one vector of features, in which sets of images are compared, behind one seam."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.metrics.networks import JudgingNetwork, network_hash
from latent_geodesics.models.attributes import shared_network
from latent_geodesics.models.weights import Requirement, WeightsRegistry, load_tensors, weights_file_hash

_CHUNK = 32


class FeatureNetwork(JudgingNetwork):
    """One vector of features an image."""

    frechet: str
    """What a Fréchet distance between these features is called."""

    kernel: str
    """What a kernel distance between them is called."""

    @abstractmethod
    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """The features of images in [0, 1]."""


class ClevrFeatures(FeatureNetwork):
    """The shipped attribute network's last feature maps, averaged over the places of the image. Not Inception.

    Args:
        folder: The attribute network's folder.
    """

    name, frechet, kernel = "clevr", "fd_clevr", "kd_clevr"

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)
        self._network = shared_network(folder)

    @property
    def weights(self) -> Mapping[str, str]:
        """The hash of the folder's files."""
        return {"features_clevr": network_hash(self.folder)}

    @torch.no_grad()
    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """As many as the network has channels: 64 in the shipped one."""
        chunks = torch.split(images.detach().float().cpu(), _CHUNK)
        return torch.cat([self._network.features(chunk)[-1].mean(dim=(2, 3)) for chunk in chunks])


class Inception(FeatureNetwork):
    """The 2048 pooled features of the Inception network that FID is defined by, as torch-fidelity computes them.

    Args:
        weights: Where its weights are taken from.
    """

    name, frechet, kernel = "inception", "fid", "kid"

    def __init__(self, *, weights: WeightsRegistry | None = None) -> None:
        self._registry = weights or WeightsRegistry()

    @property
    def requirements(self) -> Sequence[Requirement]:
        """Its one file."""
        return (Requirement(registry=self._registry, id="inception"),)

    @property
    def weights(self) -> Mapping[str, str]:
        """The hash of its file."""
        return {"inception": weights_file_hash(self._registry.take("inception"))}

    @cached_property
    def network(self) -> Any:
        """torch-fidelity's extractor, loaded when it is first needed."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        file = self._registry.take("inception")
        load_tensors(file)  # the extractor would run any code that the file may hold
        with torch.random.fork_rng(devices=[]):
            return FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file)
            )

    @torch.no_grad()
    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Of the images in eight bits, which is what it takes."""
        network = self.network.to(images.device)
        whole = images.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
        return torch.cat([network(chunk)[0].flatten(1).cpu() for chunk in torch.split(whole, _CHUNK)])
