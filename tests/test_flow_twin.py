"""The shipped flow twin: its inversions come back, its geodesics converge, and every method runs on it."""

import json
from pathlib import Path

import pytest
from baselines import NAMES, configured_methods, positions, save_adapter
from hydra.utils import instantiate

import latent_geodesics as lg
from latent_geodesics.data import PairData, read_batch
from latent_geodesics.data.images import psnr
from latent_geodesics.methods import PairEncoder
from latent_geodesics.models import Conditional

DATA = Path(__file__).parents[1] / "data"
FOLDER = DATA / "models" / "clevr-flow"
QUICK = ("geodesic", "slerp", "lerp")


@pytest.fixture(scope="module")
def pairs():
    model = lg.load_model(FOLDER, device="cpu", dtype="float32", steps=10)
    selected = PairData(manifest=DATA / "pairs" / "manifest.csv", split="evaluation", limit=1).pairs
    batch = read_batch(selected, size=model.image_size)
    return PairEncoder(model=model, score=Conditional(), tau=0.6, alpha=0.001).encode(batch)


@pytest.fixture(scope="module")
def methods(pairs, tmp_path_factory):
    return configured_methods(save_adapter(pairs.model, tmp_path_factory.mktemp("adapter")))


def test_it_is_a_flow_of_the_same_autoencoder_and_its_inversion_comes_back(pairs):
    settings = json.loads((FOLDER / "scheduler" / "scheduler_config.json").read_text())
    assert settings["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    problem = pairs.problem
    ends = pairs.decode(lg.GreatCircle(x0=problem.x0, x1=problem.x1, sphere=problem.manifold), positions(2))
    for found, given in ((ends[:, 0], pairs.batch.images_a), (ends[:, 1], pairs.batch.images_b)):
        assert float(psnr(found, given).min()) > 30


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_every_method_runs_on_it(methods, pairs, name):
    result = instantiate(methods[name], _convert_="all").morph(pairs, positions(3))
    assert result.frames.shape[-3:] == (3, *pairs.model.image_size)
    assert result.frames.isfinite().all()
    if name in ("geodesic", "geodesic_flat"):
        assert result.statuses[0] in ("converged", "converged_to_resolution")
