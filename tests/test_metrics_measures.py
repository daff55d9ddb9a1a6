"""Metrics against what is known in closed form: steps of each protocol, cross-fades, sharpness, motion, typicality."""

import math
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measured import NETWORK, fade, measured, motion, sequences
from test_metrics_contract import CONF

from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics import (
    AllFrames,
    Average,
    ClevrFeatures,
    ClevrPerception,
    Evenness,
    FeatureDistances,
    Ghosting,
    ImageNetRange,
    InnerFrames,
    OpticalFlow,
    Protocol,
    ProtocolSteps,
    RandomFrames,
    Reconstruction,
    RunFacts,
    Sharpness,
    SignedRange,
    StandardDeviation,
    Total,
    Typicality,
    Variance,
)
from latent_geodesics.metrics.feature_distances import frechet_distance
from latent_geodesics.metrics.pixels import laplacian_variance
from latent_geodesics.metrics.protocol import PROTOCOLS
from latent_geodesics.metrics.typicality import bounded_log_density

STEPS = torch.tensor([[1.0, 2.0, 3.0, 6.0], [2.0, 2.0, 2.0, 2.0]])
FACTS = RunFacts(pairs=3, with_truth=3, frames=5, image_size=(32, 32))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(CONF.parent)


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        (Total(), [12, 8]),
        (Total(scale=25), [300, 200]),
        (Average(), [3, 2]),
        (Variance(), [3.5, 0]),
        (Variance(correction=1), [14 / 3, 0]),
        (StandardDeviation(), [math.sqrt(3.5), 0]),
        (StandardDeviation(correction=1), [math.sqrt(14 / 3), 0]),
        # sum |d_i - d_j| = 2 (1 + 2 + 5 + 1 + 4 + 3) = 32, Gini = 32 / (2 * 16 * 3)
        (Evenness(), [1 - 1 / 3, 1]),
    ],
    ids=repr,
)
def test_what_sources_make_of_steps(statistic, expected):
    torch.testing.assert_close(statistic(STEPS), torch.tensor(expected).double())


def test_a_sequence_that_stands_still_has_no_evenness():
    assert Evenness()(torch.zeros(1, 4)).isnan().all()


def protocols():
    found = {}
    for name in PROTOCOLS:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            found[name] = instantiate(compose("config", overrides=[f"+protocol={name}"]).protocol, _convert_="all")
    return found


def test_every_protocol_has_its_file_and_its_source():
    assert {file.stem for file in (CONF / "protocol").glob("*.yaml")} == set(PROTOCOLS)
    for name, protocol in protocols().items():
        assert protocol.name == name
        assert (protocol.source is None) == (name == "raw")


def test_all_protocols_are_made_of_the_same_distances():
    known, frames = protocols(), sequences(3, frames=7)
    metric = ProtocolSteps(protocols=known, network=NETWORK)
    seen = measured(frames)
    steps = seen.distances(ClevrPerception(folder=NETWORK)).steps.double()
    metric.update(seen)
    found = metric.compute()
    length, spread = steps.sum(-1), steps.var(-1, correction=0)
    expected = {
        "ppl_clevr@raw": length.mean(),
        "pdv_clevr@raw": spread.mean(),
        "ppl_clevr@diffmorpher": length.mean(),
        "pdv_clevr@diffmorpher": spread.mean(),
        "ppl_clevr@freemorph": 25 * length.sum(),
        "ppl_clevr@tangential": length.mean(),
        "pdv_std_clevr@tangential": spread.sqrt().mean(),
        "ppl_mean_clevr@aid": length.mean() / 6,
        "evenness_clevr@aid": Evenness()(steps).mean(),
        "ppl_clevr@paper": length.mean(),
        "pdv_clevr@paper": spread.mean(),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-6), name


def test_one_pass_over_the_frames_serves_all_metrics():
    class Counting(ClevrPerception):
        seen = 0

        def embed(self, images):
            Counting.seen += len(images)
            return super().embed(images)

    network, frames = Counting(folder=NETWORK), sequences(2, frames=9)
    view = measured(frames, truth=False)
    for _ in range(2):
        ProtocolSteps(protocols=protocols(), network=network).update(view)
    assert Counting.seen == 2 * 9


def test_a_number_says_in_what_it_departs_from_its_source():
    metric = ProtocolSteps(protocols=protocols(), network=NETWORK)
    metric.update(measured(sequences(1)))
    notes = metric.provenance("ppl_clevr@diffmorpher", FACTS).notes
    assert "5 frames, the source has 17" in notes
    assert "the source re-times its frames" in notes
    assert "by clevr, the source has lpips_alex on [-1, 1]" in notes
    exact = RunFacts(pairs=3, with_truth=0, frames=17, image_size=(32, 32), retimed=True)
    kept = metric.provenance("ppl_clevr@diffmorpher", exact).notes
    assert not [note for note in kept if "17" in note or "re-times" in note]
    assert metric.provenance("ppl_clevr@raw", FACTS).notes == []
    assert "sum over the pairs" in metric.provenance("ppl_clevr@freemorph", FACTS).notes


def test_a_protocol_takes_its_own_network_unless_told_otherwise():
    metric = ProtocolSteps(protocols={"aid": protocols()["aid"], "paper": protocols()["paper"]})
    assert set(metric.names) == {
        "ppl_mean_lpips_alex@aid", "evenness_lpips_alex@aid", "ppl_lpips_vgg@paper", "pdv_lpips_vgg@paper"
    }  # fmt: skip
    assert {item.id for item in metric.requirements} == {"alexnet", "vgg16"}
    with pytest.raises(UserError, match="raw names no LPIPS"):
        ProtocolSteps(protocols={"raw": protocols()["raw"]})


def test_input_ranges():
    black, white = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    assert SignedRange()(black).unique().tolist() == [-1]
    assert SignedRange()(white).unique().tolist() == [1]
    torch.testing.assert_close(
        ImageNetRange()(white)[0, :, 0, 0],
        torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]),
    )


def test_frames_are_chosen_as_named_and_by_the_pair_alone():
    assert AllFrames().choose(5, seed=0, pair=1) == [[0, 1, 2, 3, 4]]
    assert InnerFrames().choose(5, seed=0, pair=1) == [[1, 2, 3]]
    draws = RandomFrames(count=2, draws=10).choose(17, seed=0, pair=1)
    assert len(draws) == 10
    assert all(len(set(draw)) == 2 and min(draw) >= 0 and max(draw) < 17 for draw in draws)
    assert draws == RandomFrames(count=2, draws=10).choose(17, seed=0, pair=1)
    assert draws != RandomFrames(count=2, draws=10).choose(17, seed=0, pair=2)
    assert draws != RandomFrames(count=2, draws=10).choose(17, seed=1, pair=1)


def test_set_distances_compare_the_frames_that_a_protocol_names():
    network, frames = ClevrFeatures(folder=NETWORK), sequences(3)
    chosen = {
        "raw": Protocol(name="raw", source=None, generated=AllFrames(), kernel=True),
        "diffmorpher": Protocol(name="diffmorpher", source="x", generated=RandomFrames(count=2, draws=3)),
    }
    metric = FeatureDistances(network=network, protocols=chosen, seed=4, least=2)
    metric.update(measured(frames))
    found = metric.compute()
    ends = network.features(frames[:, [0, -1]].flatten(0, 1))
    every = frechet_distance(network.features(frames.flatten(0, 1)), ends)
    assert float(found["fd_clevr@raw"]) == pytest.approx(every, rel=1e-4)
    assert set(found) == {"fd_clevr@raw", "kd_clevr@raw", "fd_clevr@diffmorpher"}
    origin = metric.provenance("fd_clevr@diffmorpher", FACTS)
    assert origin.counts == {"generated": 6, "reference": 6, "dimensions": 64}
    assert "biased upwards: 6 images in 64 dimensions" in origin.notes


def test_the_standard_error_of_a_set_distance_is_the_jackknifes():
    network, frames = ClevrFeatures(folder=NETWORK), sequences(5)
    protocol = Protocol(name="raw", source=None, generated=AllFrames(), kernel=True)

    def gathered(rows):
        metric = FeatureDistances(network=network, protocols={"raw": protocol}, least=2)
        for row in rows:
            metric.update(measured(frames[row : row + 1], start=row))
        return metric

    errors = gathered(range(5)).standard_errors()
    without = [gathered([row for row in range(5) if row != left_out]).compute() for left_out in range(5)]
    for name in ("fd_clevr@raw", "kd_clevr@raw"):
        values = torch.stack([one[name] for one in without])
        expected = (4 / 5 * (values - values.mean()).square().sum()).sqrt()
        assert errors[name] == pytest.approx(float(expected), rel=1e-6)
        assert errors[name] > 0
    assert gathered(range(2)).standard_errors() == {}


def test_a_cross_fade_is_found_out_and_a_motion_is_not():
    faded, moved = (Ghosting().measure(measured(frames[None])) for frames in (fade(7), motion(7, start=0.15, end=0.85)))
    assert float(faded["ghosting"]) == pytest.approx(1, abs=1e-6)
    assert float(faded["blend_rmse"]) < 1e-6
    assert float(moved["ghosting"]) < 0.6
    assert float(moved["blend_rmse"]) > 0.05
    assert float(OpticalFlow().measure(measured(motion(7)[None]))["flow"]) > 3 * float(
        OpticalFlow().measure(measured(fade(7)[None]))["flow"]
    )


def test_an_object_where_neither_end_has_one_is_a_quarter_ghost():
    """Three pixels of which each image shows one: e^2 = 2, r^2 = 3/2 with the weight 1/2."""
    frames = torch.zeros(1, 3, 3, 16, 16)
    for frame, column in enumerate((2, 7, 12)):
        frames[0, frame, :, 8, column] = 1
    assert float(Ghosting().measure(measured(frames))["ghosting"]) == pytest.approx(0.25)


def test_the_blend_is_the_best_one():
    frames = sequences(1, frames=4)
    a, b = frames[0, 0].double(), frames[0, -1].double()
    tried = [
        min(float((x.double() - torch.lerp(a, b, w)).square().mean()) for w in torch.linspace(0, 1, 2001).double())
        for x in frames[0, 1:-1]
    ]
    found = Ghosting().measure(measured(frames))
    assert float(found["blend_rmse"]) == pytest.approx(math.sqrt(sum(tried) / 2), rel=1e-5)


def test_frames_that_are_an_end_are_no_ghosts():
    a, b = motion(2)
    still = torch.stack([a, a, b, b])[None]
    assert Ghosting().measure(measured(still))["ghosting"].isnan().all()


def test_motion_is_measured_in_pixels():
    """A pattern that shifts by two pixels a frame, all of it."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.nn.functional.interpolate(
        torch.rand(1, 3, 16, 24, generator=generator), size=(64, 96), mode="bicubic"
    ).clamp(0, 1)[0]
    frames = torch.stack([wide[:, :, 10 + 2 * k : 74 + 2 * k] for k in range(4)])[None]
    assert float(OpticalFlow().measure(measured(frames, truth=False))["flow"]) == pytest.approx(2, abs=0.4)


def test_sharpness_is_relative_to_the_ends():
    frames = motion(5, start=0.5, end=0.5)[None]
    assert float(Sharpness().measure(measured(frames))["sharpness"]) == pytest.approx(1, abs=1e-6)
    blurred = frames.clone()
    blurred[:, 1:-1] = torch.nn.functional.avg_pool2d(frames[0, 1:-1], 3, stride=1, padding=1, count_include_pad=False)
    assert float(Sharpness().measure(measured(blurred))["sharpness"]) < 0.7
    assert float(laplacian_variance(torch.full((1, 3, 8, 8), 0.3))) < 1e-12


def test_the_laplacian_of_a_checkerboard():
    """Every pixel differs from its four neighbours by 1: the Laplacian is +-4, its variance 16."""
    board = ((torch.arange(9)[:, None] + torch.arange(8)) % 2).float().expand(1, 3, 9, 8)
    assert float(laplacian_variance(board)) == pytest.approx(16, rel=0.01)


def test_reconstruction_is_of_the_ends_alone():
    frames = sequences(2)
    images = frames[:, [0, -1]] + 0.1
    found = Reconstruction().measure(measured(frames, images=images))
    assert found["reconstruction_mse"].tolist() == pytest.approx([0.01, 0.01], rel=1e-4)
    assert found["reconstruction_psnr"].tolist() == pytest.approx([20, 20], rel=1e-4)


class GaussianModel:
    """Latents are images, distributed as N(0, I): the best prediction of the noise is sigma x."""

    image_size = (16, 16)
    dimension = 3 * 16 * 16
    fingerprint = "gaussian"

    def __init__(self):
        self.network = SimpleNamespace(noise=lambda x, t, condition: self.sigma(t[0] / 1000) * x)

    def encode(self, images, *, tau):
        return 12 * (images.flatten(1) - 0.5)

    def decode(self, x, *, tau):
        return (x / 12 + 0.5).clamp(0, 1).view(len(x), 3, 16, 16)

    def condition(self, prompts):
        return torch.zeros(len(prompts), 1, 1)

    def time(self, tau):
        return round(1000 * tau)

    def abar(self, tau):
        return 1 - self.sigma(tau) ** 2

    def sigma(self, tau):
        return float(tau)


def test_the_bound_follows_the_true_log_density():
    """For a Gaussian, E |eps - eps_theta|^2 differs between latents by sigma^2 abar |z|^2, in closed form."""
    model, levels = GaussianModel(), (0.2, 0.5, 0.8)
    generator = torch.Generator().manual_seed(0)
    shapes = torch.rand(1, 3, 16, 16, generator=generator) - 0.5
    images = torch.cat([0.5 + scale * shapes for scale in (0.0, 0.5, 1.0)])
    found = bounded_log_density(model, images, levels=levels, draws=64, seed=0)
    norms = model.encode(images, tau=0.0).square().sum(-1)
    gamma = [2 * math.log(level) - math.log(1 - level**2) for level in levels]
    weights = [level**2 * (1 - level**2) for level in levels]
    rate = sum((weights[k] + weights[k + 1]) / 2 * (gamma[k + 1] - gamma[k]) for k in range(2)) / 2
    # The noise is common to all images, so that only the cross terms are left to chance.
    assert (found[1:] - found[0]).tolist() == pytest.approx((-rate * norms[1:].double()).tolist(), rel=0.1)


def test_typical_frames_are_told_from_too_probable_and_improbable_ones(tmp_path):
    from PIL import Image

    from latent_geodesics.data.images import as_uint8

    generator = torch.Generator().manual_seed(0)

    def samples(count, scale):
        return (torch.randn(count, 3, 16, 16, generator=generator) * scale / 12 + 0.5).clamp(0, 1)

    for number, image in enumerate(samples(60, 1.0)):
        Image.fromarray(as_uint8(image)).save(tmp_path / f"{number}.png")
    metric = Typicality(reference=str(tmp_path))
    frames = torch.stack([samples(20, scale) for scale in (1.0, 0.3, 1.6)])
    found = metric.measure(measured(frames, truth=False, model=GaussianModel()))
    share, rank = found["typical_share"].tolist(), found["density_rank"].tolist()
    assert share[0] > 0.75
    assert 0.3 < rank[0] < 0.7
    assert share[1] == 0 and rank[1] == 1
    assert share[2] == 0 and rank[2] == 0


def test_too_few_real_images_are_refused(tmp_path):
    from PIL import Image

    for number in range(5):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match=r"'typical frames, real = 0.95' needs at least 20 real images.*holds 5"):
        Typicality(reference=str(tmp_path))
    with pytest.raises(UserError, match="levels"):
        Typicality(reference=str(tmp_path), levels=[0.6, 0.2])
