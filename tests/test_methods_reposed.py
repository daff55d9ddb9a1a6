"""A method on a problem of its own, and the published geodesic that is one."""

import pytest
import torch
from baselines import CONF, configured_methods, encoded_pairs, gentle_model, positions, save_adapter
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from latent_geodesics.core.errors import UserError
from latent_geodesics.core.solvers import ControlPointDescent
from latent_geodesics.methods import Geodesic, Reposed, Slerp
from latent_geodesics.metrics import MeasuredMorph, NoiseNorm, PathQuality, path_curves, reference_curves
from latent_geodesics.models import Conditional, Contrastive
from latent_geodesics.models.scores import Renoised


@pytest.fixture(scope="module")
def gentle(tiny_model_folder):
    return gentle_model(tiny_model_folder, refinements=2)


@pytest.fixture(scope="module")
def pairs(gentle):
    return encoded_pairs(gentle)


def test_the_published_geodesic_has_the_published_settings():
    with initialize_config_dir(str(CONF), version_base=None):
        method = instantiate(compose("config", overrides=["method=[geodesic_published]"]).methods.geodesic_published)
    assert isinstance(method.method, Geodesic)
    solver = method.method.solver
    assert isinstance(solver, ControlPointDescent)
    assert (solver.levels, solver.level_iterations, solver.iterations) == (4, 100, 400)
    assert (solver.learning_rate, solver.skip_rule, solver.rate_over_points) == (0.1, True, True)
    score = method.settings["score"]
    assert isinstance(score, Renoised)
    assert (score.window, score.draws, score.common_random_numbers) == (100, 1, False)
    assert score.score == Contrastive()
    assert (method.settings["alpha"], method.settings["alpha_d"]) == (0.002, None)
    assert method.settings["condition"] == "moving"
    assert method.settings["refinements"] == 0
    assert dict(method.settings["textual_inversion"]) == {"steps": 500, "learning_rate": 0.005, "batch_size": 2}
    assert (method.guidance, method.own_norms) == (1.0, False)


def test_with_the_settings_of_the_run_it_is_the_method_itself(pairs):
    again = Reposed(method=Slerp(), score=Conditional(), alpha=0.003)
    own, direct = again.morph(pairs, positions()), Slerp().morph(pairs, positions())
    torch.testing.assert_close(own.frames, direct.frames, rtol=0, atol=1e-5)
    assert own.unet_calls > direct.unet_calls  # it encodes for itself


def test_it_poses_another_problem(gentle, pairs):
    method = Reposed(
        method=Slerp(), score=Contrastive(), alpha_d=2.0, condition="moving", refinements=0, own_norms=False
    )
    posed = method.pose(pairs)
    assert posed.problem.alpha == pytest.approx(2.0 / gentle.dimension)
    assert posed.density == f"{Contrastive().density}, c moving with u: no one density"
    assert posed.moving.all()
    assert not torch.allclose(posed.latents_a, pairs.latents_a, rtol=1e-3)
    # As published, the ends are decoded on the common sphere.
    torch.testing.assert_close(posed.points(Slerp().solve(posed.problem).path, positions())[:, 0], posed.problem.x0)
    published = gentle.encode(
        pairs.batch.images_a, condition=pairs.condition_a, tau=pairs.tau, refinements=0
    )  # fmt: skip
    cosine = torch.nn.functional.cosine_similarity(posed.problem.x0, published)
    torch.testing.assert_close(cosine, torch.ones(2), rtol=0, atol=1e-4)


def test_its_path_stands_beside_no_other_density(pairs):
    method = Reposed(method=Slerp(), score=Contrastive(), alpha_d=2.0)
    morph = method.morph(pairs, positions())
    problem = morph.posed.problem
    curves = path_curves(
        morph.solution.path, problem.field, morph.manifold, problem.alpha, reference=reference_curves(problem)
    )
    measured = MeasuredMorph(pairs=pairs, morph=morph, u=positions(), curves=curves)
    found = PathQuality().measure(measured)
    assert all(found[name].isnan().all() for name in ("length", "log_density_mean", "log_density_min", "residual_mean"))
    assert found["closure"].abs().max() < 1e-6  # of the great circle against itself
    assert (found["strength"] > 0).all()
    assert NoiseNorm().measure(measured)["noise_norm"].isfinite().all()


def test_a_setting_that_is_none_is_refused_before_anything_is_encoded():
    with pytest.raises(UserError, match="alpha"):
        Reposed(method=Slerp(), score=Conditional(), alpha=-1.0)
    with pytest.raises(UserError, match="one of mean, union, empty, moving, got 'mien'. Did you mean"):
        Reposed(method=Slerp(), score=Conditional(), alpha=1.0, condition="mien")


def test_the_published_geodesic_runs(gentle, pairs, tmp_path):
    settings = configured_methods(save_adapter(gentle, tmp_path))["geodesic_published"]
    settings["method"]["solver"] |= {"level_iterations": 2, "iterations": 8}
    morph = instantiate(settings).morph(pairs, positions())
    assert morph.frames.isfinite().all()
    assert (morph.evaluations > 0).all()
    assert isinstance(morph.posed, type(pairs))
