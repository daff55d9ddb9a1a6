"""Published metrics by this project's code and by the implementation that defines each, on the same images.

Where the published weights are at hand, both take them. Where they are not, both take the same random weights in the
published structure: the numbers then mean nothing, but they must agree all the same.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.data.images import psnr
from latent_geodesics.metrics import (
    ClevrFeatures,
    ColorVideoVdp,
    FeatureNetwork,
    Flip,
    Inception,
    Lpips,
    TopiqNoReference,
    TopiqTruth,
)
from latent_geodesics.metrics.feature_distances import frechet_distance, kernel_distance
from latent_geodesics.metrics.networks import Package, build_lpips
from latent_geodesics.models.store import content_key
from latent_geodesics.models.weights import KNOWN, WeightsRegistry

PUBLISHED, RANDOM, NONE = "published weights", "random weights of the same structure", "needs no weights"
DARKENED = 0.3
TORCHVISION = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


@dataclass(frozen=True, kw_only=True)
class Frames:
    """What both implementations are given, in [0, 1] and in eight bits.

    Attributes:
        made: Sequences to be measured.
        true: The sequences that they are measured against.
    """

    made: Float[Tensor, "p n 3 h w"]
    true: Float[Tensor, "p n 3 h w"]

    @property
    def steps(self) -> tuple[Float[Tensor, "k 3 h w"], Float[Tensor, "k 3 h w"]]:
        """Each frame of the first sequence but the last, and the one after it."""
        return self.made[0, :-1], self.made[0, 1:]


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A number by both.

    Attributes:
        metric: The column of this project.
        of: What the number is of.
        ours: By this project's code.
        reference: By the implementation that defines it.
        package: That implementation.
        weights: Whose weights both took.
    """

    metric: str
    of: str
    ours: float
    reference: float
    package: Package
    weights: str

    @property
    def difference(self) -> float:
        """Relative to the reference; absolute where that is nothing."""
        scale = abs(self.reference) if abs(self.reference) > 1e-12 else 1.0
        return abs(self.ours - self.reference) / scale


def _lpips(variant: str, frames: Frames, registry: WeightsRegistry) -> Iterator[Calibrated]:
    """LPIPS by the `lpips` package, its own forward pass around the same backbone."""
    import lpips

    metric, file = Lpips(variant=variant, weights=registry), KNOWN[TORCHVISION[variant]]
    known = registry.find(file) is not None
    if not known:
        from torchvision import models

        metric.network = build_lpips(variant, getattr(models, TORCHVISION[variant])(weights=None).state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net=variant, pnet_rand=True, verbose=False)
    theirs.net.load_state_dict(metric.network.net.state_dict())
    a, b = frames.steps
    with torch.no_grad():
        ours, expected = metric.distance(a, b).double(), theirs(a, b, normalize=True).flatten().double()
    package = Package(name="lpips", module="lpips", extra="")
    of_both = partial(Calibrated, package=package, weights=PUBLISHED if known else f"{RANDOM}, published heads")
    name = f"lpips_{variant}"
    yield of_both(metric=f"ppl_seq_{name}", of="a sequence's steps, summed", ours=float(ours.sum()),
                     reference=float(expected.sum()))  # fmt: skip
    yield of_both(metric=f"pdv_{name}", of="their variance", ours=float(ours.var(correction=0)),
                     reference=float(expected.var(correction=0)))  # fmt: skip


def _distances(frames: Frames, registry: WeightsRegistry) -> Iterator[Calibrated]:
    """FID and KID by torch-fidelity, from the files of images to the number."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    known = registry.find(KNOWN["inception"])
    with TemporaryDirectory() as folder:
        file = known or Path(folder) / KNOWN["inception"].name
        if not known:

            class Unread(FeatureExtractorInceptionV3):  # type: ignore[misc]
                """Built without the file of weights that it asks for."""

                def load_state_dict(self, state: Any, **options: Any) -> None:
                    pass

            torch.save({}, file)
            network = Unread("made", ["2048"], feature_extractor_weights_path=str(file))
            for module in network.modules():
                if isinstance(module, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            torch.save(network.state_dict(), file)
        inception = Inception(weights=WeightsRegistry(files={"inception": str(file)}))
        options = {"feature_extractor": "inception-v3-compat", "feature_extractor_weights_path": str(file)}
        yield from _sets(inception, frames, options, PUBLISHED if known else RANDOM)


def _shipped_distances(network: str, frames: Frames, registry: WeightsRegistry) -> Iterator[Calibrated]:
    """The distances of the shipped features, by torch-fidelity with these as its extractor."""
    features = ClevrFeatures(folder=network)
    yield from _sets(features, frames, {"feature_extractor": shipped_extractor(network)}, "the shipped features")


@cache
def shipped_extractor(network: str) -> str:
    """Makes the features of an attribute network an extractor of torch-fidelity, once in a process; returns its name.

    Args:
        network: The folder of the attribute network.
    """
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import register_feature_extractor

    features = ClevrFeatures(folder=network)

    class Shipped(FeatureExtractorBase):  # type: ignore[misc]
        """The shipped features as torch-fidelity takes them."""

        def __init__(self, name: str, features_list: Any, **options: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("pooled",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "pooled"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, values: Tensor) -> tuple[Tensor]:
            return (features.features(values.float() / 255),)

    name = f"shipped-{content_key(network)[:8]}"
    register_feature_extractor(name, Shipped)
    return name


def _sets(network: FeatureNetwork, frames: Frames, options: Mapping[str, Any], weights: str) -> Iterator[Calibrated]:
    from torch_fidelity import calculate_metrics

    # Far apart: torch-fidelity's kernel is in float32, in which the difference of near sets is lost.
    made, true = frames.made.flatten(0, 1), DARKENED * frames.true.flatten(0, 1)
    true = true.mul(255).round().div(255)
    found = calculate_metrics(
        input1=EightBit(made), input2=EightBit(true), fid=True, kid=True, kid_subset_size=len(made), kid_subsets=1,
        cuda=False, cache=False, verbose=False, batch_size=16, save_cpu_ram=True, **options,
    )  # fmt: skip
    x, y = network.features(made), network.features(true)
    package = Package(name="torch-fidelity", module="torch_fidelity", extra="")
    of = f"{len(made)} frames against {len(true)}, darkened"
    of_both = partial(Calibrated, of=of, weights=weights, package=package)
    yield of_both(metric=network.frechet, ours=frechet_distance(x, y),
                     reference=float(found["frechet_inception_distance"]))  # fmt: skip
    yield of_both(metric=network.kernel, ours=kernel_distance(x, y),
                     reference=float(found["kernel_inception_distance_mean"]))  # fmt: skip


class EightBit(torch.utils.data.Dataset[Tensor]):
    """Images as torch-fidelity reads them."""

    def __init__(self, images: Float[Tensor, "n 3 h w"]) -> None:
        self._images = images.clamp(0, 1).mul(255).round().to(torch.uint8)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index]


def _topiq(name: str, frames: Frames, registry: WeightsRegistry) -> Iterator[Calibrated]:
    """TOPIQ by pyiqa's own factory."""
    import pyiqa

    kind = {"topiq_nr": TopiqNoReference, "topiq_fr": TopiqTruth}[name]
    make = partial(pyiqa.create_metric, name, device=torch.device("cpu"), backbone_pretrain=False)
    known = registry.find(KNOWN[name])
    with TemporaryDirectory() as folder:
        file = known or Path(folder) / f"{name}.pth"
        if not known:
            torch.save({"params": make(pretrained=False).net.state_dict()}, file)
        theirs = make(pretrained_model_path=str(file))
        images = (frames.made[0],) if name == "topiq_nr" else (frames.made[0], frames.true[0])
        ours = kind(weights=WeightsRegistry(files={name: str(file)})).score(*images)
        with torch.no_grad():
            expected = theirs(*images).flatten()
    yield Calibrated(metric=name, of="the mean over a sequence", ours=float(ours.mean()),
                     reference=float(expected.mean()), weights=PUBLISHED if known else RANDOM,
                     package=Package(name="pyiqa", module="pyiqa", extra="pyiqa"))  # fmt: skip


def _flip(frames: Frames, registry: WeightsRegistry) -> Iterator[Calibrated]:
    import flip_evaluator

    pictures = [[one.movedim(0, -1).contiguous().numpy() for one in part] for part in (frames.made[0], frames.true[0])]
    expected = [flip_evaluator.evaluate(true, made, "LDR", applyMagma=False)[1] for made, true in zip(*pictures,
                strict=True)]  # fmt: skip
    ours = Flip().differences(frames.made[0], frames.true[0])
    yield Calibrated(metric="truth_flip", of="the mean over a sequence", ours=float(ours.mean()),
                     reference=sum(expected) / len(expected), weights=NONE, package=Flip.package)  # fmt: skip


def _cvvdp(frames: Frames, registry: WeightsRegistry) -> Iterator[Calibrated]:
    import pycvvdp

    vision = pycvvdp.cvvdp(display_name="standard_fhd", device=torch.device("cpu"), quiet=True)
    pairs = zip(frames.made[0], frames.true[0], strict=True)
    with torch.no_grad():
        expected = [10 - float(vision.predict(made, true, dim_order="CHW")[0]) for made, true in pairs]
    ours = ColorVideoVdp().differences(frames.made[0], frames.true[0])
    yield Calibrated(metric="truth_cvvdp", of="the mean over a sequence, JOD", ours=float(ours.mean()),
                     reference=sum(expected) / len(expected), weights=NONE, package=ColorVideoVdp.package)  # fmt: skip


def _pixels(frames: Frames, registry: WeightsRegistry) -> Iterator[Calibrated]:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    made, true = frames.made[0], frames.true[0]
    expected = peak_signal_noise_ratio(made, true, data_range=1.0, reduction="none", dim=(1, 2, 3))
    worst = int(psnr(made, true).argmin())
    yield Calibrated(metric="reconstruction_psnr", of="the worst frame, dB", ours=float(psnr(made, true)[worst]),
                     reference=float(expected[worst]), weights=NONE,
                     package=Package(name="torchmetrics", module="torchmetrics", extra=""))  # fmt: skip


Comparison = Callable[[Frames, WeightsRegistry], Iterator[Calibrated]]


def comparisons(network: str) -> Mapping[str, tuple[str, Comparison]]:
    """What is compared -> the module that must be importable for it, and what does it."""
    return {
        **{f"lpips_{variant}": ("lpips", partial(_lpips, variant)) for variant in TORCHVISION},
        "inception": ("torch_fidelity", _distances),
        "clevr": ("torch_fidelity", partial(_shipped_distances, network)),
        "topiq_nr": ("pyiqa", partial(_topiq, "topiq_nr")),
        "topiq_fr": ("pyiqa", partial(_topiq, "topiq_fr")),
        "flip": ("flip_evaluator", _flip),
        "cvvdp": ("pycvvdp", _cvvdp),
        "pixels": ("torchmetrics", _pixels),
    }
