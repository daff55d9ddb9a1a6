"""Scenes: what ships can be drawn and solved, and a wrong description is one sentence."""

from pathlib import Path

import pytest
import torch
import yaml

import latent_geodesics as lg
from latent_geodesics.data.scenes import load_scenes

ROOT = Path(__file__).parents[1]
SHIPPED = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((ROOT / "conf" / "density").glob("*.yaml"))}
GOOD = {"density": {"_target_": "latent_geodesics.HalfSpace"}, "a": [-1, 0.5], "b": [1, 0.5]}
SOLVER = lg.solvers.PicardAnderson(intervals=64, tolerance=1e-6, max_evaluations=20000)


class Flat(lg.Density):
    """Gives one number too few."""

    def log_prob(self, x, u):
        return x.sum()


class Unfinished(lg.Density):
    """Has no log_prob."""


class Fails(lg.Density):
    def log_prob(self, x, u):
        return x @ torch.ones(5, dtype=x.dtype)


class NoDensity:
    pass


def test_something_ships():
    assert {"ring", "moons", "banana", "half_plane", "poincare_disc"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scene_has_a_geodesic_shorter_than_the_straight_line(name):
    (scene,) = load_scenes({name: SHIPPED[name]})
    problem = scene.problem
    solution = SOLVER.solve(problem)
    assert solution.status[0] is lg.Status.CONVERGED
    line = lg.StraightLine(x0=problem.x0, x1=problem.x1)
    lengths = [float(lg.geometry.length(path, scene.density, scene.alpha)) for path in (solution.path, line)]
    assert lengths[0] < 0.97 * lengths[1]
    if scene.exact is not None:
        u = torch.linspace(0, 1, 65, dtype=torch.float64)
        off = (solution.path.point(u)[0] - scene.exact(scene.a, scene.b, u)).norm(dim=-1).max()
        assert float(off) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_geodesic_of_a_shipped_scene_is_the_shortest_path_by_fast_marching(name):
    """Not only a local minimum: what is drawn as the geodesic is the shortest path that there is."""
    skfmm = pytest.importorskip("skfmm")
    (scene,) = load_scenes({name: SHIPPED[name]})
    left, right, bottom, top = scene.window
    grid = torch.stack(
        torch.meshgrid(
            torch.linspace(left, right, 601, dtype=torch.float64),
            torch.linspace(bottom, top, 601, dtype=torch.float64),
            indexing="xy",
        ),
        -1,
    )
    log_p = scene.density.log_prob(grid, grid[..., 0] * 0) - scene.density.log_prob(scene.a, scene.a[0] * 0)
    speed = (scene.alpha * log_p).exp().nan_to_num(1e-6).clamp(1e-6, 1e6)
    start = 0.03
    spread = ((grid - scene.a).norm(dim=-1) - start).numpy()
    times = skfmm.travel_time(spread, speed.numpy(), dx=[(top - bottom) / 600, (right - left) / 600], order=2)
    row, column = (((scene.b - grid[0, 0]) / (grid[-1, -1] - grid[0, 0])).flip(0) * 600).round().long().tolist()
    solution = SOLVER.solve(scene.problem)
    length = lg.geometry.length(solution.path, scene.density, scene.alpha)
    length = float(length * (scene.alpha * scene.density.log_prob(scene.a, scene.a[0] * 0)).exp())
    assert length == pytest.approx(float(times[row, column]) + start, rel=0.02)


def test_a_description_without_a_place_is_taken_under_the_name_of_its_group():
    (scene,) = load_scenes({}, GOOD)
    assert (scene.name, scene.alpha, scene.window) == ("density", 1.0, None)


def test_several_scenes_keep_their_order():
    assert [scene.name for scene in load_scenes({"b": GOOD, "a": GOOD})] == ["b", "a"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"density": {"_target_": "no_such_module.Banana"}}, "PYTHONPATH"),
        ({"density": {"_target_": "latent_geodesics.NoSuchDensity"}}, "NoSuchDensity"),
        ({"density": {"_target_": "latent_geodesics.Banana", "width": -1}}, "width must be positive"),
        ({"density": {"_target_": "latent_geodesics.Banana", "girth": 1}}, "girth"),
        ({"density": {"_target_": f"{__name__}.Unfinished"}}, "log_prob"),
        ({"density": {"_target_": f"{__name__}.NoDensity"}}, "subclass latent_geodesics.Density"),
        ({"density": {"_target_": f"{__name__}.Flat"}}, "must give [1, 2]"),
        ({"density": {"_target_": f"{__name__}.Fails"}}, "[..., 2]"),
        (
            {
                "density": {
                    "_target_": "latent_geodesics.GaussianMixture",
                    "means": {"_target_": "torch.tensor", "data": [[0.0, 0.0, 0.0]]},
                    "scales": {"_target_": "torch.tensor", "data": [1.0]},
                }
            },
            "fails on two points of the plane",
        ),
        ({"density": {"name": "ring"}}, "_target_"),
        ({"density": "ring"}, "_target_"),
        ({"a": [-1, -0.5]}, "not finite at its ends"),
        ({"a": [1, 0.5]}, "same point"),
        ({"a": [-1, 0.5, 0]}, "two finite numbers"),
        ({"a": None}, "two finite numbers"),
        ({"b": [1, float("nan")]}, "two finite numbers"),
        ({"b": "here"}, "two finite numbers"),
        ({"alpha": -1}, "at least 0"),
        ({"alpha": "high"}, "high"),
        ({"window": [1, -1, 0, 1]}, "window"),
        ({"window": [0, 1]}, "window"),
        ({"colour": "red"}, "colour"),
        ({"exact": {"_target_": "nowhere.arc", "_partial_": True}}, "nowhere.arc"),
    ],
)
def test_a_wrong_description_is_one_sentence(change, words):
    with pytest.raises(lg.UserError) as refused:
        load_scenes({"mine": GOOD | change})
    sentence = str(refused.value)
    assert words in sentence
    assert "'mine'" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("description", [{}, None, "latent_geodesics.Banana", {"_target_": "latent_geodesics.Banana"}])
def test_no_description_is_one_sentence(description):
    with pytest.raises(lg.UserError, match="not described by"):
        load_scenes({"mine": description})


def test_no_density_at_all_is_said():
    with pytest.raises(lg.UserError, match="No density was chosen"):
        load_scenes({})


class TestBanana:
    X = torch.tensor([[0.0, 0.0], [1.3, -0.4], [-2.0, 1.0]], dtype=torch.float64)

    def test_the_score_is_the_gradient_of_the_log_density(self):
        banana = lg.Banana(length=1.7, width=0.3, bend=0.4)
        u = self.X[:, 0] * 0
        assert torch.allclose(banana.score(self.X, u), lg.Density.score(banana, self.X, u), atol=1e-12)

    def test_the_ridge_is_the_parabola(self):
        banana = lg.Banana(bend=0.4)
        on = torch.tensor([1.5, 0.4 * 1.5**2], dtype=torch.float64)
        assert float(banana.score(on, on[0])[1]) == pytest.approx(0)
        assert float(banana.log_prob(on, on[0])) == pytest.approx(-0.5 * 1.5**2 / 4)

    @pytest.mark.parametrize("wrong", [{"length": 0}, {"width": -1.0}, {"bend": float("inf")}])
    def test_a_number_out_of_range_is_refused(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            lg.Banana(**wrong)
