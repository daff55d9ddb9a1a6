"""Which density a path is judged by, how strongly, and what is left empty where there is none."""

import csv

import pytest
import torch
from baselines import CONF, encoded_pairs, gentle_model, positions
from hydra import compose, initialize_config_dir

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import PairData
from latent_geodesics.data.pairs import ImagePair, PairSelection
from latent_geodesics.methods import PairEncoder, Slerp
from latent_geodesics.methods.conditions import path_conditions, power_of_density
from latent_geodesics.metrics import MeasuredMorph, PathQuality, path_curves, reference_curves
from latent_geodesics.models import Conditional, Contrastive, Guided

FIXED = ["mean", "union", "empty"]


@pytest.fixture(scope="module")
def gentle(tiny_model_folder):
    return gentle_model(tiny_model_folder, refinements=2)


def scores(pairs, places):
    x = pairs.problem.x0[:, None].expand(-1, len(places), -1)
    return pairs.problem.field.score(x, torch.tensor(places).expand(2, -1).to(x))


@pytest.mark.parametrize("condition", FIXED)
def test_a_fixed_condition_is_the_same_density_all_along(gentle, condition):
    pairs = encoded_pairs(gentle, condition=condition)
    found = scores(pairs, [0.0, 0.5, 1.0])
    torch.testing.assert_close(found[:, 0], found[:, 2])
    assert not pairs.moving.any()


def test_the_published_condition_moves_where_the_prompts_differ(gentle):
    pairs = encoded_pairs(gentle, condition="moving")
    found = scores(pairs, [0.0, 0.5, 1.0])
    assert pairs.moving.all()
    assert not torch.allclose(found[:, 0], found[:, 2], rtol=1e-4)
    a, b = (gentle.condition(prompts) for prompts in (["a red cube", "a red"], ["a red cube", "a blue"]))
    from latent_geodesics.methods.conditions import moves

    assert moves("moving", a, b).tolist() == [False, True]
    assert moves("mean", a, b).tolist() == [False, False]


def test_the_conditions_are_what_they_are_called(gentle):
    a, b = gentle.condition(["a red cube"]), gentle.condition(["a blue sphere"])
    mean, union, empty = (path_conditions(name, gentle, a, b)[0] for name in FIXED)
    torch.testing.assert_close(mean, (a + b) / 2)
    assert union.shape == (1, 2 * a.shape[1], a.shape[2])
    torch.testing.assert_close(empty, gentle.condition([""]))


@pytest.mark.parametrize(
    "score", [Conditional(), Contrastive(), Guided(weight=2.0)], ids=lambda score: type(score).__name__
)
def test_the_union_of_a_prompt_with_itself_is_that_prompt(gentle, score):
    """Attention to tokens that stand twice is that to one of each, for the negative text too."""
    a = gentle.condition(["a red cube", "a blue sphere"])
    x = torch.randn(2, 3, gentle.dimension, generator=torch.Generator().manual_seed(0))
    u = torch.zeros(2, 3)
    twice, _ = path_conditions("union", gentle, a, a)
    one, two = (gentle.field(condition0=c, tau=0.6, score=score).score(x, u) for c in (a, twice))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("condition", ["mean", "moving"])
def test_lengths_and_densities_of_a_moving_condition_are_left_empty(gentle, condition):
    pairs = encoded_pairs(gentle, condition=condition)
    problem, morph = pairs.problem, Slerp().morph(pairs, positions())
    curves = path_curves(
        morph.solution.path, problem.field, morph.manifold, problem.alpha, reference=reference_curves(problem)
    )
    found = PathQuality().measure(MeasuredMorph(pairs=pairs, morph=morph, u=positions(), curves=curves))
    known = {name for name, values in found.items() if values.isfinite().all()}
    assert known == (set(found) if condition == "mean" else {"residual_mean", "strength"})


@pytest.mark.parametrize("dimension", [1024, 16384])
def test_one_power_a_dimension_is_one_strength(dimension):
    """Scores and distances of noise both grow as sqrt(d): alpha |s| L = alpha_d."""
    alpha = power_of_density(alpha_d=3.0, alpha=None, dimension=dimension)
    x = torch.randn(64, dimension, generator=torch.Generator().manual_seed(1))
    assert float((alpha * x.norm(dim=-1) * dimension**0.5).mean()) == pytest.approx(3.0, rel=0.01)


def test_the_papers_power_is_what_the_documentation_says():
    assert power_of_density(alpha_d=32.768, alpha=None, dimension=16384) == pytest.approx(0.002)
    assert power_of_density(alpha_d=3.0, alpha=0.002, dimension=1024) == 0.002


@pytest.mark.parametrize(
    ("power", "words"),
    [
        ({"alpha_d": -1.0, "alpha": None}, "alpha_d must be a finite number of at least 0, got -1.0"),
        ({"alpha_d": float("nan"), "alpha": None}, "alpha_d"),
        ({"alpha_d": None, "alpha": None}, "alpha_d"),
        ({"alpha_d": 3.0, "alpha": "high"}, "alpha must be a finite number of at least 0, got 'high'"),
        ({"alpha_d": 3.0, "alpha": True}, "alpha"),
    ],
)
def test_what_is_no_power_is_refused(power, words):
    with pytest.raises(UserError, match=words):
        power_of_density(**power, dimension=4)


def test_the_encoder_takes_either_power(gentle):
    options = {"model": gentle, "score": Conditional(), "tau": 0.6}
    assert PairEncoder(**options, alpha_d=2.0).power == pytest.approx(2.0 / gentle.dimension)
    assert PairEncoder(**options, alpha_d=2.0, alpha=0.5).power == 0.5
    with pytest.raises(UserError, match="alpha_d"):
        PairEncoder(**options)


def pair(name, split):
    return ImagePair(id=name, image_a="a.png", image_b="b.png", split=split)


def ids(pairs, **selection):
    return [one.id for one in PairSelection(pairs=pairs, **selection).pairs]


def test_a_split_is_taken_before_anything_else():
    pairs = [pair(name, split) for name, split in zip("abcdef", ["tuning", "evaluation"] * 3, strict=True)]
    assert ids(pairs, split="evaluation") == ["b", "d", "f"]
    assert ids(pairs, split="tuning", every=2) == ["a", "e"]
    assert ids(pairs, split="evaluation", limit=1) == ["b"]
    assert ids(pairs) == list("abcdef")
    assert ids([pair("a", ""), pair("b", "")], split="tuning") == ["a", "b"]
    with pytest.raises(UserError, match="No pair has the split tuning"):
        ids([pair("a", "evaluation")], split="tuning")
    with pytest.raises(UserError, match="tuning, evaluation, or null for all pairs, got 'test'"):
        ids(pairs, split="test")


def test_the_shipped_pairs_are_halved_kind_by_kind(monkeypatch):
    monkeypatch.chdir(CONF.parent)
    halves = {
        split: PairData(manifest="data/pairs/manifest.csv", split=split, verify=False).pairs
        for split in ("tuning", "evaluation")
    }
    assert {split: len(pairs) for split, pairs in halves.items()} == {"tuning": 19, "evaluation": 21}
    assert not {one.id for one in halves["tuning"]} & {one.id for one in halves["evaluation"]}
    kinds = {split: {one.group for one in pairs} for split, pairs in halves.items()}
    assert kinds["evaluation"] - kinds["tuning"] == {"rise"}  # of which there is one
    assert kinds["tuning"] <= kinds["evaluation"]
    assert all(one.cluster == one.group for pairs in halves.values() for one in pairs)


def test_a_manifest_whose_split_is_none_is_refused(tmp_path, pictures):
    def manifest(*splits):
        with (pictures / "pairs.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "group", "image_a", "image_b", "prompt_a", "prompt_b", "split", "cluster"])
            for number, split in enumerate(splits):
                writer.writerow([f"p{number}", "g", "a.png", "b.png", "", "", split, "twins"])
        return PairData(manifest=pictures / "pairs.csv").pairs

    assert [one.split for one in manifest("tuning", "evaluation")] == ["tuning", "evaluation"]
    assert [one.cluster for one in manifest("", "")] == ["twins", "twins"]
    with pytest.raises(UserError, match="split of 'p1' in line 3 .* must be tuning or evaluation, got ''"):
        manifest("tuning", "")
    with pytest.raises(UserError, match="got 'Tuning'"):
        manifest("Tuning", "evaluation")


def test_sweeps_tune_and_all_else_evaluates():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for file in sorted((CONF / "experiment").glob("*.yaml")):
            config = compose("config", overrides=[f"experiment={file.stem}"], return_hydra_config=True)
            swept = str(config.hydra.mode).endswith("MULTIRUN")
            if swept:
                assert config.data.split == "tuning", file.stem
                assert (config.data.every, config.data.limit) == (1, None), file.stem
            elif file.stem in ("interpolation", "demo", "benchmark", "truth"):
                assert config.data.split == "evaluation", file.stem
