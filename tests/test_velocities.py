"""Initial velocities and ways to carry them on, on a small model with random weights."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_model import pictures

import latent_geodesics as lg
from latent_geodesics.core.errors import UserError
from latent_geodesics.data.starts import Start, pairs_named, pick_pairs, starts_on_disk
from latent_geodesics.methods.departure import (
    Departure,
    Encoded,
    GeodesicOn,
    GreatCircleOn,
    StraightOn,
    encode_images,
)
from latent_geodesics.methods.encoding import Setting
from latent_geodesics.methods.velocities import BeyondSecond, ChangeOfPrompt, FromFile, RandomDirection, TowardImage
from latent_geodesics.models.scores import Conditional

U = torch.linspace(0, 1, 5, dtype=torch.float64)
IDS = ("one", "two")


@pytest.fixture(scope="module")
def setting(tiny_model_folder):
    model = lg.load_model(tiny_model_folder, device="cpu", steps=5, cache_dir=None)
    return Setting(model=model, score=Conditional(), tau=0.6, alpha=0.01)


@pytest.fixture(scope="module")
def departure(setting):
    first = encode_images(setting, pictures(2, seed=0), ["red", "red"])
    second = encode_images(setting, pictures(2, seed=1), ["blue", "blue"])
    starts = tuple(Start(id=name, image=name, prompt="red", second=name, second_prompt="blue") for name in IDS)
    return Departure(setting=setting, starts=starts, places=(0, 1), total=2, first=first, second=second)


def tangential(launch):
    return float(((launch.x0 * launch.v0).sum(-1) / launch.x0.norm(dim=-1) / launch.v0.norm(dim=-1)).abs().max())


VELOCITIES = {
    "boundary": lambda: BeyondSecond(solver=lg.solvers.PicardAnderson()),
    "images": lambda: TowardImage(),
    "prompt": lambda: ChangeOfPrompt(angle=0.4),
    "random": lambda: RandomDirection(angle=0.4),
}


@pytest.mark.parametrize("name", VELOCITIES)
def test_every_velocity_is_tangent_and_starts_at_its_image(name, setting, departure):
    launch = VELOCITIES[name]().launch(departure)
    assert tangential(launch) < 1e-5
    assert torch.allclose(launch.x0.norm(dim=-1), launch.radius, rtol=1e-5)
    left = departure.second if name == "boundary" else departure.first
    torch.testing.assert_close(launch.x0 * (launch.norms / launch.radius)[:, None], left.latents, rtol=1e-4, atol=1e-5)
    if name in ("prompt", "random"):
        torch.testing.assert_close(launch.v0.norm(dim=-1), 0.4 * launch.radius, rtol=1e-5, atol=0)
    frames = launch.decode(setting, GreatCircleOn().carry_on(launch.problem(setting)).path, U)
    assert frames.shape == (2, 5, 3, 16, 16)


def test_beyond_a_second_image_goes_on_as_the_geodesic_ends(setting, departure):
    launch = BeyondSecond(solver=lg.solvers.PicardAnderson(intervals=32, tolerance=1e-4), share=0.5).launch(departure)
    before = launch.lead.solution.path
    torch.testing.assert_close(launch.v0, 0.5 * before.velocity(U[-1:])[:, 0], rtol=1e-3, atol=1e-3)
    after = lg.solvers.ParallelCollocation().solve(launch.problem(setting)).path
    step = 1e-2
    left = before.point(torch.tensor([1 - step], dtype=torch.float64))[:, 0]
    right = after.point(torch.tensor([2 * step], dtype=torch.float64))[:, 0]
    bend = (left + right - 2 * launch.x0).norm(dim=-1) / (right - left).norm(dim=-1)
    assert float(bend.max()) < 0.05
    assert launch.lead.decode(setting, U).shape == (2, 5, 3, 16, 16)


def test_toward_another_image_is_the_great_circle_to_it(setting, departure):
    launch = TowardImage(share=1.0).launch(departure)
    end = GreatCircleOn().carry_on(launch.problem(setting)).path.point(U[-1:])[:, 0]
    wanted = lg.Sphere(launch.radius).project(departure.second.latents)
    torch.testing.assert_close(end, wanted, rtol=1e-4, atol=1e-4)


def test_a_change_of_prompt_is_a_difference_of_scores(setting, departure):
    launch = ChangeOfPrompt(prompt="green", angle=0.3).launch(departure)
    x, at = departure.first.latents, torch.zeros(2)
    scores = [setting.field(setting.model.condition([word] * 2)).score(x, at) for word in ("green", "red")]
    wanted = lg.Sphere(launch.radius).tangent(x, scores[0] - scores[1])
    cosine = torch.nn.functional.cosine_similarity(launch.v0, wanted)
    torch.testing.assert_close(cosine, torch.ones(2))
    assert torch.equal(launch.condition1, setting.model.condition(["green"] * 2))
    assert ChangeOfPrompt(prompt="green", moving=False).launch(departure).condition1 is None


def test_a_random_direction_depends_on_seed_and_name_alone(departure):
    both = RandomDirection(seed=3).launch(departure).v0
    alone = Departure(
        setting=departure.setting,
        starts=departure.starts[1:],
        places=(1,),
        total=2,
        first=departure.first.rows([1]),
    )
    torch.testing.assert_close(RandomDirection(seed=3).launch(alone).v0[0], both[1])
    assert not torch.allclose(RandomDirection(seed=4).launch(alone).v0[0], both[1])
    published = RandomDirection(seed=3, angle=None).launch(departure).v0
    assert float((published.norm(dim=-1) / 16).sub(1).abs().max()) < 0.2


@pytest.mark.parametrize("kind", ["npy", "pt", "safetensors"])
@pytest.mark.parametrize("form", ["one", "each", "latent"])
def test_every_kind_of_file_is_read(departure, tmp_path, kind, form):
    values = torch.randn(2, 256, generator=torch.Generator().manual_seed(0))
    held = {"one": values[0], "each": values, "latent": values[0].view(4, 8, 8)}[form]
    file = tmp_path / f"v.{kind}"
    if kind == "npy":
        np.save(file, held.numpy())
    elif kind == "pt":
        torch.save(held, file)
    else:
        save_file({"velocity": held.contiguous()}, file)
    launch = FromFile(file=file, angle=0.2).launch(departure)
    rows = values if form == "each" else values[:1].expand(2, -1)
    wanted = lg.Sphere(launch.radius).tangent(departure.first.latents, rows)
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(launch.v0, wanted), torch.ones(2))
    torch.testing.assert_close(launch.v0.norm(dim=-1), 0.2 * launch.radius)


def test_velocities_are_found_by_the_names_of_images(departure, tmp_path):
    values = torch.randn(2, 256, generator=torch.Generator().manual_seed(0))
    save_file({"two": values[1].clone(), "one": values[0].clone()}, tmp_path / "v.safetensors")
    launch = FromFile(file=tmp_path / "v.safetensors").launch(departure)
    wanted = lg.Sphere(launch.radius).tangent(departure.first.latents, values)
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(launch.v0, wanted), torch.ones(2))
    save_file({"three": values[0].clone(), "one": values[1].clone()}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="none for 'two'"):
        FromFile(file=tmp_path / "w.safetensors").launch(departure)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: torch.zeros(256), "'one'.*is zero"),
        (lambda x: 2 * x[0], "'one'.*is radial"),
        (lambda x: torch.stack([torch.ones(256), 0.3 * x[1]]), "'two'.*is radial"),
        (lambda x: torch.full((256,), torch.nan), "is not finite"),
        (lambda x: torch.ones(7), r"shape \[7\].*\[256\]"),
        (lambda x: torch.ones(3, 256), r"shape \[3, 256\].*\[2, 256\]"),
        (lambda x: torch.ones(256, dtype=torch.long), "real numbers"),
        (lambda x: {}, "real numbers"),
        (lambda x: {"one": "words"}, "real numbers"),
    ],
)
def test_a_velocity_that_leads_nowhere_is_one_sentence(departure, tmp_path, make, words):
    file = tmp_path / "v.pt"
    torch.save(make(departure.first.latents), file)
    with pytest.raises(UserError, match=words) as refused:
        FromFile(file=file).launch(departure)
    assert str(file) in str(refused.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        FromFile(file=tmp_path / "nowhere.pt")
    for name, words in (("v.pt", "cannot be read"), ("v.npy", "cannot be read"), ("v.json", "no kind")):
        (tmp_path / name).write_text("no tensor")
        with pytest.raises(UserError, match=words):
            FromFile(file=tmp_path / name)


def test_the_same_image_twice_gives_no_direction(setting, departure):
    twice = Departure(
        setting=setting,
        starts=departure.starts,
        places=(0, 1),
        total=2,
        first=departure.first,
        second=Encoded(
            prompts=departure.first.prompts,
            latents=departure.first.latents,
            condition=departure.first.condition,
        ),
    )
    for velocity in (TowardImage(), BeyondSecond(solver=lg.solvers.PicardAnderson())):
        with pytest.raises(UserError, match="two images that differ"):
            velocity.launch(twice)
    with pytest.raises(UserError, match="is zero"):
        ChangeOfPrompt(prompt="red").launch(departure)
    with pytest.raises(UserError, match="its own"):
        ChangeOfPrompt().check({"one": ("red", "red")})
    ChangeOfPrompt().check({"one": ("red", "blue")})


@pytest.mark.parametrize(
    ("velocity", "options", "words"),
    [
        (BeyondSecond, {"solver": None, "share": 0}, "share"),
        (TowardImage, {"share": math.inf}, "share"),
        (ChangeOfPrompt, {"angle": -1}, "angle"),
        (RandomDirection, {"angle": math.nan}, "angle"),
    ],
)
def test_options_are_validated(velocity, options, words):
    with pytest.raises(UserError, match=words):
        velocity(**options)


def test_lines_carry_a_velocity_on(setting, departure):
    launch = RandomDirection(angle=4.0).launch(departure)
    problem = launch.problem(setting)
    arc, line = GreatCircleOn().carry_on(problem), StraightOn().carry_on(problem)
    angle = (4 * U[:, None]).float()
    wanted = angle.cos() * launch.x0[:, None] + angle.sin() * launch.v0[:, None] / 4
    torch.testing.assert_close(arc.path.point(U), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(line.path.point(U[-1:])[:, 0], launch.x0 + launch.v0)
    assert arc.stats["evaluations"].tolist() == line.stats["evaluations"].tolist() == [0, 0]
    assert arc.status_names == ("closed_form",) * 2
    assert isinstance(StraightOn().manifold(problem), lg.Euclidean)
    near = RandomDirection(angle=0.2).launch(departure).problem(setting)
    solved = GeodesicOn(solver=lg.solvers.ParallelCollocation()).carry_on(near)
    assert solved.status_names == ("integrated",) * 2


def test_starts_on_disk(tmp_path):
    for name in ("b.png", "a.png", "a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = starts_on_disk(tmp_path, prompt="red")
    assert [start.id for start in found] == ["a_jpg", "a_png", "b"]
    assert [start.second.name if start.second else None for start in found] == ["a.png", "b.png", None]
    single = starts_on_disk(tmp_path / "b.png")
    assert [(start.id, start.second) for start in single] == [("b", None)]
    (tmp_path / "empty").mkdir()
    for place, words in ((tmp_path / "nowhere", "neither a file nor a folder"), (tmp_path / "empty", "holds no image")):
        with pytest.raises(UserError, match=words):
            starts_on_disk(place)


def test_pairs_are_picked_by_id():
    from latent_geodesics.data import ImagePair

    pairs = [ImagePair(id=name, image_a=name, image_b=name) for name in ("x", "y")]
    assert [pair.id for pair in pick_pairs(pairs, ["y"])] == ["y"]
    assert len(pick_pairs(pairs, [])) == 2
    assert [pair.id for pair in pick_pairs(pairs[:1], ["y"])] == ["x"]
    for refused in (lambda: pick_pairs(pairs, ["z"]), lambda: pairs_named(pairs[:1], ["z"])):
        with pytest.raises(UserError, match="no pair 'z'"):
            refused()
