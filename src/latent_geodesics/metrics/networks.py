r"""Networks by which metrics see images: perceptual distances between two images, and features of one.

Every distance here has the form

    D(a, b) = sum_l mean over places of w_l . (F_l(a) - F_l(b))^2

with F_l the feature maps of a network, each place's channels scaled to unit length (Zhang et al. 2018,
arXiv 1801.03924). An image's features are found once and compared with as many others as need be.
"""

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from latent_geodesics.core.errors import UserError
from latent_geodesics.models.attributes import shared_network
from latent_geodesics.models.weights import Requirement, WeightsRegistry, load_tensors, weights_file_hash

NETWORKS = ("clevr", "lpips_alex", "lpips_vgg", "lpips_squeeze", "lpips_squeeze_fp16")
"""The perceptual networks, by the names that columns carry."""

Images = Float[Tensor, "n 3 h w"]
Features = Sequence[Float[Tensor, "n c i j"]]

_CHUNK = 32


@dataclass(frozen=True, kw_only=True)
class Package:
    """An optional package, which a plain installation does not bring because of its licence or weight."""

    name: str  # what it is called where packages are had
    module: str  # what it is imported as
    extra: str  # the extra of this project that brings it

    @property
    def present(self) -> bool:
        """Whether it is installed."""
        try:
            return find_spec(self.module) is not None
        except ValueError:  # a module without a spec, which no import made
            return False

    @property
    def version(self) -> str:
        """Its version, or `unknown`."""
        try:
            return version(self.name)
        except PackageNotFoundError:
            return "unknown"


def require_packages(needed: Iterable[tuple[str, Package]]) -> None:
    """Refuses metrics whose package is not installed, given the names of metrics and what each needs."""
    for metric, package in needed:
        if not package.present:
            raise UserError(
                f"The metric {metric} needs the package {package.name}, which is not installed: "
                f"pip install 'latent-geodesics[{package.extra}]' (`make setup` brings it), or leave the metric out."
            )


class InputRange(ABC):
    """Turns images in [0, 1] into what a network is given: networks do not check it, and sources differ in it."""

    words: str
    """The range, for a table's note."""

    @abstractmethod
    def __call__(self, images: Images) -> Images:
        """The images in that range."""


@dataclass(frozen=True)
class SignedRange(InputRange):
    """[-1, 1], which LPIPS was made for."""

    words = "[-1, 1]"

    def __call__(self, images: Images) -> Images:  # noqa: D102
        return 2 * images - 1


@dataclass(frozen=True)
class UnitRange(InputRange):
    """[0, 1] as it is, which some published code hands to LPIPS."""

    words = "[0, 1]"

    def __call__(self, images: Images) -> Images:  # noqa: D102
        return images


@dataclass(frozen=True)
class ImageNetRange(InputRange):
    """Standardised by the mean and the standard deviation of ImageNet's pixels, channel by channel."""

    words = "ImageNet mean and deviation"

    def __call__(self, images: Images) -> Images:  # noqa: D102
        mean = torch.tensor([0.485, 0.456, 0.406], device=images.device)[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225], device=images.device)[:, None, None]
        return (images - mean) / deviation


class JudgingNetwork(ABC):
    """A network that metrics see images by. Shared, never copied."""

    name: str
    """Which network, as columns carry it."""

    least_side: int = 1
    """The smallest images that it takes, in pixels."""

    @property
    def requirements(self) -> Sequence[Requirement]:
        """The weight files that it needs."""
        return ()

    @property
    @abstractmethod
    def weights(self) -> Mapping[str, str]:
        """Name -> sha256 of its weights."""

    def __deepcopy__(self, memo: Any) -> Self:
        return self


class PerceptualNetwork(JudgingNetwork):
    """Features of images, and the distance between two images' features."""

    @property
    def key(self) -> Hashable:
        """Two networks of one key give the same distances."""
        return self.name

    @abstractmethod
    def embed(self, images: Images) -> Features:
        """The normalised feature maps of images in [0, 1]."""

    @abstractmethod
    def compare(self, a: Features, b: Features) -> Float[Tensor, " n"]:
        """The distances between images, from their features."""

    def distance(self, a: Images, b: Images) -> Float[Tensor, " n"]:
        """The distances between images in [0, 1]."""
        return self.compare(self.embed(a), self.embed(b))


class FeatureNetwork(JudgingNetwork):
    """One vector of features an image, in which sets of images are compared."""

    frechet: str
    """What a Fréchet distance between these features is called."""

    kernel: str
    """What a kernel distance between them is called."""

    @abstractmethod
    def features(self, images: Images) -> Float[Tensor, "n d"]:
        """The features of images in [0, 1]."""


class _Shipped(JudgingNetwork):
    """The shipped attribute network of a folder, under the name that it has as `use`."""

    name = "clevr"
    use: str

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)
        self._network = shared_network(folder)

    @property
    def weights(self) -> Mapping[str, str]:  # noqa: D102
        return {f"{self.use}_clevr": network_hash(self.folder)}


class Published:
    """What has its weights from one file of a registry, by the file's id: a network, or a metric that is one."""

    file: str

    def __init__(self, *, weights: WeightsRegistry | None = None) -> None:
        super().__init__()
        self._registry = weights or WeightsRegistry()

    @property
    def requirements(self) -> Sequence[Requirement]:
        """The weight file."""
        return (Requirement(registry=self._registry, id=self.file),)

    @property
    def weights(self) -> Mapping[str, str]:
        """Its sha256, by the file's id."""
        return {self.file: weights_file_hash(self._registry.take(self.file))}


class ClevrPerception(_Shipped, PerceptualNetwork):
    """`perceptual_clevr`: features of the attribute network of a folder, with unit weights. Not LPIPS."""

    use, least_side = "perceptual", 4

    @property
    def key(self) -> Hashable:
        """The folder tells networks apart."""
        return (self.name, str(self.folder))

    @torch.no_grad()
    def embed(self, images: Images) -> Features:
        """The maps at full, half and quarter resolution."""
        maps = self._network.features(images.detach().float().cpu())
        return [functional.normalize(values, dim=1) for values in maps]

    def compare(self, a: Features, b: Features) -> Float[Tensor, " n"]:
        """`perceptual_clevr`: 0 for equal images, at most 12."""
        layers = [(one - two).square().sum(1).flatten(1).mean(1) for one, two in zip(a, b, strict=True)]
        return torch.stack(layers).sum(0)


class ClevrFeatures(_Shipped, FeatureNetwork):
    """The attribute network's last feature maps, averaged over the places of the image. Not Inception."""

    use, frechet, kernel = "features", "fd_clevr", "kd_clevr"

    @torch.no_grad()
    def features(self, images: Images) -> Float[Tensor, "n d"]:  # noqa: D102
        chunks = torch.split(images.detach().float().cpu(), _CHUNK)
        return torch.cat([self._network.features(chunk)[-1].mean(dim=(2, 3)) for chunk in chunks])


class Lpips(Published, PerceptualNetwork):
    """LPIPS v0.1 by the `lpips` package: an ImageNet network under the linear heads that the package ships.

    Its random-network mode, whose numbers look like LPIPS and are not, cannot be reached from here.

    Args:
        variant: `alex`, `vgg`, `squeeze`, or `squeeze_fp16` for SqueezeNet rounded to half precision.
        inputs: The range in which images are given to it.
        weights: Where the ImageNet network's weights are taken from; the heads come with the package.
    """

    BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1", "squeeze_fp16": "squeezenet1_1_fp16"}
    LEAST_SIDES = {"alex": 31, "vgg": 16, "squeeze": 20, "squeeze_fp16": 20}

    def __init__(
        self, *, variant: str = "alex", inputs: InputRange | None = None, weights: WeightsRegistry | None = None
    ) -> None:
        super().__init__(weights=weights)
        if variant not in self.BACKBONES:
            raise UserError(f"LPIPS has the variants {', '.join(self.BACKBONES)}; got {variant!r}.")
        self.variant, self.inputs = variant, inputs or SignedRange()
        self.name, self.least_side, self.file = f"lpips_{variant}", self.LEAST_SIDES[variant], self.BACKBONES[variant]

    @property
    def key(self) -> Hashable:
        """The range of the input changes the distance."""
        return (self.name, self.inputs)

    @property
    def weights(self) -> Mapping[str, str]:  # noqa: D102
        return {**super().weights, f"{self.name}_heads": weights_file_hash(_heads(self.variant))}

    @cached_property
    def network(self) -> Any:
        """The package's network, loaded when it is first needed."""
        return build_lpips(self.variant, load_tensors(self._registry.take(self.file)))

    @torch.no_grad()
    def embed(self, images: Images) -> Features:
        """The package's layers, normalised as it does."""
        from lpips import normalize_tensor

        network = self.network.to(images.device)
        given = self.inputs(images.detach().float())
        return [normalize_tensor(layer) for layer in network.net(network.scaling_layer(given))]

    @torch.no_grad()
    def compare(self, a: Features, b: Features) -> Float[Tensor, " n"]:
        """LPIPS: the linear heads' weights on the squared differences."""
        heads = self.network.lins
        layers = [head((one - two).square()).mean(dim=(1, 2, 3)) for head, one, two in zip(heads, a, b, strict=True)]
        return torch.stack(layers).sum(0).cpu()


class Inception(Published, FeatureNetwork):
    """The 2048 pooled features of the Inception network that FID is defined by, as torch-fidelity computes them."""

    name, frechet, kernel = "inception", "fid", "kid"
    file = "inception"

    @cached_property
    def network(self) -> Any:
        """torch-fidelity's extractor, loaded when it is first needed."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Extractor

        file = self._registry.take(self.file)
        load_tensors(file)  # the extractor would run any code that the file may hold
        with torch.random.fork_rng(devices=[]):
            return Extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file))

    @torch.no_grad()
    def features(self, images: Images) -> Float[Tensor, "n d"]:
        """Of the images in eight bits, which is what it takes."""
        network = self.network.to(images.device)
        whole = images.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
        return torch.cat([network(chunk)[0].flatten(1).cpu() for chunk in torch.split(whole, _CHUNK)])


def as_network(network: str | PerceptualNetwork) -> PerceptualNetwork:
    """A network as given, or the shipped kind in a folder."""
    return network if isinstance(network, PerceptualNetwork) else ClevrPerception(folder=network)


def build_lpips(variant: str, state: Mapping[str, Tensor]) -> Any:
    """The `lpips` package's network around torchvision's `state`, of which what is not in `features.*` is passed over.

    A `UserError` when the state is not that of the variant's network.
    """
    import lpips

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of arguments that the package passes
        # The package would download the network by itself; it is built with random weights, all of which are replaced.
        network = lpips.LPIPS(net=variant.removesuffix("_fp16"), pnet_rand=True, verbose=False)
    names = network.net.state_dict()
    wanted = {name: f"features.{name.partition('.')[2]}" for name in names}
    for name, source in wanted.items():
        if source not in state or state[source].shape != names[name].shape:
            raise UserError(
                f"The weights given for LPIPS-{variant} lack {source} in the right shape: restore the file."
            )
    network.net.load_state_dict({name: state[source].float() for name, source in wanted.items()})
    return network.eval().requires_grad_(False)


def network_hash(folder: str | Path) -> str:
    """The sha256 of an attribute network's files."""
    files = sorted(file for file in Path(folder).iterdir() if file.suffix in (".safetensors", ".json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _heads(variant: str) -> Path:
    spec = find_spec("lpips")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "weights" / "v0.1" / f"{variant.removesuffix('_fp16')}.pth"
