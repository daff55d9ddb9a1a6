"""Metrics against the implementations that define them, on the same images and weights."""

import os
import warnings
from pathlib import Path

import pytest
import torch
from measured import NETWORK, measured, sequences

from latent_geodesics.core.errors import UserError
from latent_geodesics.experiments.calibration.references import EightBit, shipped_extractor
from latent_geodesics.metrics import (
    ClevrFeatures,
    ClevrPerception,
    FeatureDistances,
    Inception,
    InnerFrames,
    Lpips,
    PerceptualSmoothness,
    Protocol,
    SignedRange,
    TopiqNoReference,
    TopiqTruth,
    TruthError,
    UnitRange,
)
from latent_geodesics.metrics.feature_distances import frechet_distance, kernel_distance
from latent_geodesics.metrics.networks import build_lpips
from latent_geodesics.metrics.topiq import build_topiq
from latent_geodesics.models.weights import FOLDER_VARIABLE, WeightsRegistry

ROOT = Path(__file__).parents[1]
FOLDERS = [os.environ.get(FOLDER_VARIABLE, ""), ROOT / "weights", ROOT.parent / "shared" / "weights"]
TORCHVISION = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)


def images(count, *, side=40, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def backbone(variant):
    """Random weights of torchvision's network, without the classifier that LPIPS does not use."""
    from torchvision import models

    network = getattr(models, TORCHVISION[variant])(weights=None)
    return {name: value for name, value in network.state_dict().items() if name.startswith("features.")}


def reference_lpips(variant, state):
    """The package's own network, given the backbone's weights slice by slice."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net=variant, pnet_rand=True, verbose=False)
    own = dict(network.net.named_parameters())
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state["features." + name.split(".", 1)[1]])
    return network


@pytest.mark.parametrize(
    ("variant", "inputs"),
    [("alex", SignedRange()), ("vgg", SignedRange()), ("squeeze", SignedRange()), ("squeeze", UnitRange())],
)
def test_lpips_is_the_packages(variant, inputs):
    state = backbone(variant)
    network = Lpips(variant=variant, inputs=inputs)
    network.network = build_lpips(variant, state)
    a, b = images(3), images(3, seed=1)
    expected = reference_lpips(variant, state)(inputs(a), inputs(b)).flatten()
    torch.testing.assert_close(network.distance(a, b), expected.detach(), rtol=1e-5, atol=0)


def test_weights_of_another_network_are_refused():
    with pytest.raises(UserError, match="LPIPS-alex lack"):
        build_lpips("alex", backbone("squeeze"))


@pytest.fixture
def squeeze():
    for folder in FOLDERS:
        if folder and (Path(folder) / "squeezenet1_1_fp16.pth").is_file():
            return Lpips(variant="squeeze_fp16", weights=WeightsRegistry(folder=str(folder)))
    pytest.skip("squeezenet1_1_fp16.pth is neither in weights/ nor where LATENT_GEODESICS_WEIGHTS points")


def test_lpips_squeeze_has_the_values_that_torchmetrics_documents(squeeze):
    generator = torch.Generator().manual_seed(42)
    a, b = (torch.rand(2, 3, 100, 100, generator=generator) for _ in range(2))
    torch.testing.assert_close(squeeze.distance(a, b), torch.tensor([0.1024, 0.0938]), rtol=0, atol=2e-4)


def test_sequences_by_real_lpips_are_the_packages(squeeze):
    state = torch.load(squeeze.requirements[0].registry.take("squeezenet1_1_fp16"), weights_only=True)
    reference = reference_lpips("squeeze", {name: value.float() for name, value in state.items()})
    frames = sequences(2, frames=6)
    seen = measured(frames)
    steps = [reference(frames[:, k], frames[:, k + 1], normalize=True).flatten() for k in range(5)]
    steps = torch.stack(steps, dim=-1).detach().double()
    found = PerceptualSmoothness(network=squeeze).measure(seen)
    torch.testing.assert_close(found["ppl_seq_lpips_squeeze_fp16"], steps.sum(-1), rtol=1e-4, atol=0)
    torch.testing.assert_close(found["pdv_lpips_squeeze_fp16"], steps.var(-1, correction=0), rtol=1e-4, atol=0)
    truth = torch.stack([seen.truth(row) for row in range(2)])
    errors = reference(frames.flatten(0, 1), truth.flatten(0, 1), normalize=True).view(2, 6).detach()
    error = TruthError(network=squeeze).measure(seen)["truth_lpips_squeeze_fp16"]
    torch.testing.assert_close(error, errors.mean(-1), rtol=1e-4, atol=0)


def test_the_shipped_distance_is_the_attribute_networks():
    from latent_geodesics.models.attributes import AttributeNetwork

    a, b = images(3), images(3, seed=1)
    expected = AttributeNetwork.from_folder(NETWORK).perceptual_distance(a, b)
    torch.testing.assert_close(ClevrPerception(folder=NETWORK).distance(a, b), expected.detach())


def fidelity(generated, reference, **options):
    from torch_fidelity import calculate_metrics

    count = min(len(generated), len(reference))
    return calculate_metrics(
        input1=EightBit(generated), input2=EightBit(reference), fid=True, kid=True, kid_subset_size=count,
        kid_subsets=1, cuda=False, cache=False, verbose=False, batch_size=16, save_cpu_ram=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize(("generated", "reference"), [(100, 90), (30, 30)], ids=["more than dimensions", "fewer"])
def test_set_distances_are_torch_fidelitys(generated, reference):
    a = sequences(generated // 10, frames=10).flatten(0, 1)
    b = images(reference, side=32) * 0.5 + 0.25
    a, b = (values.mul(255).round() / 255 for values in (a, b))
    features = ClevrFeatures(folder=NETWORK).features
    expected = fidelity(a, b, feature_extractor=shipped_extractor(str(ROOT / NETWORK)))
    assert frechet_distance(features(a), features(b)) == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    if generated == reference:
        found = kernel_distance(features(a), features(b))
        assert found == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)


def test_fewer_images_on_one_side_are_the_kernel_estimate_of_their_definition():
    """Gretton et al. 2012, equation 3, with sets of different size."""
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64) + 1
    kernel = lambda a, b: float((a @ b / 3 + 1) ** 3)  # noqa: E731
    within = [sum(kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j) for s in (x, y)]
    between = sum(kernel(a, b) for a in x for b in y)
    expected = within[0] / 20 + within[1] / 12 - 2 * between / 20
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_equal_sets_are_at_no_frechet_distance():
    x = torch.randn(50, 8, dtype=torch.float64)
    assert abs(frechet_distance(x, x.flip(0))) < 1e-9
    assert kernel_distance(x, x.flip(0)) < 0  # unbiased, and the set is its own nearest


def test_frechet_distance_of_known_gaussians():
    """Whitened to mean 0 and covariance I: |m|^2 + tr(I + C - 2 C^(1/2)) holds exactly for the sample."""
    x = torch.randn(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)
    scale, shift = torch.tensor([2.0, 0.5, 1.0]).double(), torch.tensor([1.0, 0.0, -2.0]).double()
    assert frechet_distance(x, x * scale + shift) == pytest.approx(5 + 1 + 0.25, rel=1e-9)


@pytest.mark.slow
def test_fid_and_kid_are_torch_fidelitys_by_inception(tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Empty(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, **options):
            return None

    nothing = tmp_path / "nothing.pth"
    torch.save({}, nothing)
    network = Empty("empty", ["2048"], feature_extractor_weights_path=str(nothing))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    file = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(network.state_dict(), file)
    inception = Inception(weights=WeightsRegistry(files={"inception": str(file)}))
    protocol = Protocol(name="raw", source=None, generated=InnerFrames(), kernel=True)
    metric = FeatureDistances(network=inception, protocols={"raw": protocol}, least=2)
    frames = sequences(4, frames=4)
    # Sets far apart: torch-fidelity's kernel is in float32, in which the difference of near ones is lost.
    real = (frames[:, [0, -1]] * 0.3).mul(255).round() / 255
    metric.update(measured(frames, images=real))
    found = metric.compute()
    inner, ends = frames[:, 1:-1].flatten(0, 1), real.flatten(0, 1)
    expected = fidelity(inner, ends, feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(file))
    assert float(found["fid@raw"]) == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert float(found["kid@raw"]) == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert len(inception.weights["inception"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize("name", ["topiq_nr", "topiq_fr"])
def test_topiq_is_pyiqas(name, tmp_path):
    import pyiqa

    made = pyiqa.create_metric(name, device=torch.device("cpu"), pretrained=False, backbone_pretrain=False)
    file = tmp_path / f"{name}.pth"
    torch.save({"params": made.net.state_dict()}, file)
    reference = pyiqa.create_metric(
        name, device=torch.device("cpu"), backbone_pretrain=False, pretrained_model_path=str(file)
    )
    frames = sequences(1, frames=4)
    seen = measured(frames)
    kind = TopiqNoReference if name == "topiq_nr" else TopiqTruth
    found = kind(weights=WeightsRegistry(files={name: str(file)})).per_frame(seen)[name]
    if name == "topiq_nr":
        expected = reference(frames[0, 1:-1]).flatten().detach()
        torch.testing.assert_close(found[0, 1:-1], expected, rtol=1e-4, atol=1e-6)
        assert found[0, [0, -1]].isnan().all()
    else:
        expected = reference(frames[0], seen.truth(0)).flatten().detach()
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-6)
    torch.save({"params": {"another.network": torch.zeros(1)}}, file)
    with pytest.raises(UserError, match="does not hold the weights"):
        build_topiq(name, file)
