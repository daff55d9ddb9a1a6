"""The worked examples of CONTRIBUTING.md do what it says."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

import latent_geodesics as lg
from latent_geodesics.core.errors import UserError

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`((?:src|conf)/[\w/]+\.(?:py|yaml))`:\n\n```(?:python|yaml)\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture(scope="module")
def examples():
    """Every class of the examples, by name."""
    names = {}
    for file, content in FILES.items():
        if file.endswith(".py"):
            exec(compile(content, file, "exec"), names)
    return names


def test_every_yaml_names_the_class_of_the_file_beside_it():
    assert len(FILES) == 6
    for file, content in FILES.items():
        if file.endswith(".yaml"):
            targets = re.findall(r"_target_: ([\w.]+)\.(\w+)", content)
            assert yaml.safe_load(content)
            for module, name in targets:
                assert f"class {name}(" in FILES[f"src/{module.replace('.', '/')}.py"]


def test_the_method_joins_both_ends(examples):
    sphere = lg.Sphere(2.0)
    x0, x1 = sphere.project(torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))).unbind()
    problem = lg.BoundaryProblem(field=lg.PoincareBall(), manifold=sphere, x0=x0, x1=x1, alpha=0.1)
    path = examples["OverTheMean"](share=0.3).solve(problem).path
    points = path.point(torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(points[:, 0], x0)
    torch.testing.assert_close(points[:, 2], x1)
    assert bool(sphere.contains(points, 1e-5).all())


def test_the_metric_is_the_mean_of_the_frames(examples):
    frames = torch.rand(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = examples["Brightness"]().measure(SimpleNamespace(morph=SimpleNamespace(frames=frames)))
    torch.testing.assert_close(found["brightness"], frames.flatten(1).mean(1))


def test_the_data_set_reads_its_folders(examples, tmp_path):
    for name, count in (("one", 3), ("two", 1), ("three", 2)):
        (tmp_path / name).mkdir()
        for k in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{k}.png")
    data = examples["Stills"](root=str(tmp_path), batch_size=2)
    assert [pair.id for pair in data.pairs] == ["one", "three"]
    assert [len(pair.frames) for pair in data.pairs] == [3, 2]
    with pytest.raises(UserError, match=r"set data\.root"):
        examples["Stills"](root=str(tmp_path / "one"))
