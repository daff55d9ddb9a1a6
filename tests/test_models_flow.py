"""Flow models: scores that follow from a velocity, steps that are the scheduler's, inversions that come back."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import latent_geodesics as lg
from latent_geodesics.core.errors import UserError
from latent_geodesics.models import Conditional, load_model
from latent_geodesics.models.families.stable_diffusion import StableDiffusion
from latent_geodesics.models.latent_field import LatentField
from latent_geodesics.models.network import Denoiser
from latent_geodesics.models.noise_schedule import NoiseSchedule

SHIFTS = ({}, {"shift": 3.0}, {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15})


def schedule(steps=10, **options):
    mu = 0.8 if options.get("use_dynamic_shifting") else None
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    return NoiseSchedule.from_flow(scheduler, steps, evenly=mu is not None, shift=mu)


class Gaussian:
    """Data of a Gaussian, whose velocity and score under a flow are known at every amount of noise."""

    def __init__(self, dimension=6):
        rng = torch.Generator().manual_seed(0)
        root = torch.randn(dimension, dimension, generator=rng, dtype=torch.float64)
        self.covariance = root @ root.mT / dimension + 0.1 * torch.eye(dimension, dtype=torch.float64)
        self.mean = torch.randn(dimension, generator=rng, dtype=torch.float64)

    def whitened(self, x, sigma):
        a = 1 - sigma
        noisy = a**2 * self.covariance + sigma**2 * torch.eye(len(self.mean), dtype=torch.float64)
        return torch.linalg.solve(noisy, (x - a * self.mean).mT).mT

    def score(self, x, sigma):
        return -self.whitened(x, sigma)

    def velocity(self, x, sigma):
        pull = self.whitened(x, sigma)
        return sigma * pull - (self.mean + (1 - sigma) * pull @ self.covariance)


@pytest.mark.parametrize("options", SHIFTS, ids=str)
def test_the_score_of_a_gaussian_follows_from_its_velocity(options):
    levels, data = schedule(**options), Gaussian()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for level in range(1, levels.steps + 1):
        sigma = levels.amounts(level)[1]
        t = torch.full((4,), levels.time(level))
        noise = levels.noise(x, data.velocity(x, sigma), t)
        torch.testing.assert_close(-noise / sigma, data.score(x, sigma), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", SHIFTS, ids=str)
def test_steps_are_those_of_the_scheduler(options):
    levels, data = schedule(**options), Gaussian()
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    if options.get("use_dynamic_shifting"):
        scheduler.set_timesteps(sigmas=torch.linspace(1, 0.1, 10).tolist(), mu=0.8)
    else:
        scheduler.set_timesteps(10)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mine = other = x
    for level, t in zip(range(10, 0, -1), scheduler.timesteps, strict=True):
        index = torch.full((3,), levels.time(level))
        torch.testing.assert_close(levels.told(index), t.expand(3), rtol=1e-6, atol=1e-4)
        sigma = levels.amounts(level)[1]
        mine = levels.step_down(mine, data.velocity(mine, sigma), index, level - 1)
        other = scheduler.step(data.velocity(other, sigma), t, other, return_dict=False)[0]
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_pure_noise_is_reached_and_left_again():
    levels = schedule()
    assert levels.amounts(levels.steps) == (0.0, 1.0)
    assert levels.amounts(0) == (1.0, 0.0)
    assert levels.step_up(levels.steps) == (1.0, pytest.approx(1.0 - levels.amounts(levels.steps - 1)[1]))


def test_a_perfect_network_gives_back_noise_and_clean_latent():
    levels = schedule()
    x0, noise = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0, 300, 999, levels.time(1), levels.time(10)])
    x, velocity = levels.diffuse(x0, noise, t), levels.target(x0, noise, t)
    torch.testing.assert_close(levels.noise(x, velocity, t), noise, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(levels.clean(x, velocity, t), x0, rtol=1e-4, atol=1e-5)


def test_a_level_has_the_training_time_of_the_nearest_noise():
    levels = schedule(steps=50, shift=3.0)
    t = torch.tensor([levels.time(level) for level in range(1, 51)])
    found = levels.training_time(t)
    assert (found < levels.training_times).all()
    assert ((levels.sigma(found) - levels.sigma(t)).abs() < 2e-3).all()
    assert levels.training_time(torch.tensor([0, 5, 999])).tolist() == [0, 5, 999]


@pytest.fixture
def flow_folder(tiny_model_folder, tmp_path):
    """A small U-Net that is told to be a flow model's."""
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "flow_prediction"}))
    return folder


def test_a_flow_model_inverts_decodes_and_scores(flow_folder):
    model = load_model(flow_folder, device="cpu", dtype="float32", steps=10)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    condition = model.condition(["a red cube", "a blue sphere"])
    clean = model.encode(images)
    for tau in (0.5, 0.99):
        z = model.encode(images, condition=condition, tau=tau)
        back = model.decode(z, condition=condition, tau=tau)
        torch.testing.assert_close(back, model.decode(clean), rtol=0, atol=1e-3)
    tau, u = 0.5, torch.zeros(2, 1)
    t = torch.full((2,), model.time(tau))
    sigma, x = model.sigma(tau), model.encode(images, condition=condition, tau=tau)
    velocity = model.network.output(x, t, condition)
    field = model.field(condition0=condition, tau=tau, score=Conditional())
    expected = -(x + (1 - sigma) * velocity) / sigma
    torch.testing.assert_close(field.score(x[:, None], u)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_flow_s_scheduler_beside_a_network_of_noise_is_refused(flow_folder):
    file = flow_folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(file.read_text())
    del settings["prediction_type"]
    file.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="whose noise is not that of a flow"):
        load_model(flow_folder, device="cpu")


class ExactFlow(torch.nn.Module):
    """The velocity of a mixture's flow, in float64: it stands where a network stands."""

    def __init__(self, means, scales):
        super().__init__()
        self.means, self.scales = means, scales
        self.level = torch.nn.Parameter(torch.zeros(()))
        self.dtype, self.device, self.config = torch.float32, torch.device("cpu"), None

    def noisy(self, sigma):
        """The density of noisy points."""
        return lg.fields.GaussianMixture(
            means=(1 - sigma) * self.means, scales=((1 - sigma) ** 2 * self.scales**2 + sigma**2).sqrt()
        )

    def velocity(self, x, sigma):
        noise = -sigma * self.noisy(sigma).score(x, torch.zeros(len(x)))
        return noise - (x - sigma * noise) / (1 - sigma)


class AsNetwork(StableDiffusion):
    """Asks it as a network is asked."""

    def predict(self, network, images, told, condition, pixels):
        sigma = float(told[0]) / 1000
        return network.velocity(images.flatten(1).double(), sigma).float().reshape(images.shape)


@pytest.mark.parametrize("tau", [0.3, 0.6])
def test_geodesics_seen_through_a_flow_are_those_of_the_exact_score(tau):
    rng = torch.Generator().manual_seed(4)
    exact = ExactFlow(2 * torch.randn(3, 8, generator=rng, dtype=torch.float64), torch.tensor([0.6, 0.8, 1.0]).double())
    levels = schedule(steps=10, shift=3.0)
    network = Denoiser(module=exact, family=AsNetwork(), pixels=8, schedule=levels, shape=(8, 1, 1), batch_size=64)
    time = levels.time(levels.level(tau))
    sigma = levels.amounts(levels.level(tau))[1]
    field = LatentField(
        networks=[lambda: network], embed=None, score=Conditional(), time=time, condition0=torch.zeros(2, 1, 1),
        condition1=None, negative=None, pair=torch.arange(2),
    )  # fmt: skip
    ends = torch.randn(2, 2, 8, generator=rng, dtype=torch.float64)
    lengths = []
    for each in (field, exact.noisy(sigma)):
        problem = lg.BoundaryProblem(field=each, manifold=lg.Euclidean(), x0=ends[0], x1=ends[1], alpha=0.1)
        solution = lg.solvers.PicardAnderson(tolerance=1e-5).solve(problem)
        assert all(status.ok for status in solution.status)
        lengths.append(lg.geometry.length(solution.path, exact.noisy(sigma), 0.1))
    torch.testing.assert_close(lengths[0], lengths[1], rtol=1e-5, atol=0)
