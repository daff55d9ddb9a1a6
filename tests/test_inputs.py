"""What a run reads is declared, and looked for under the name that a person would use."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import LatentModel
from latent_geodesics.run.inputs import READS, WRITES, check_inputs

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
OUTPUTS = WRITES | {"folder"}


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def strings(node, kind="", name=""):
    """Every text of a configuration with the class and the option that it belongs to."""
    if isinstance(node, dict):
        kind = str(node.get("_target_", kind))
        for key, value in node.items():
            yield from strings(value, kind, str(key))
    elif isinstance(node, list):
        for value in node:
            yield from strings(value, kind, name)
    elif isinstance(node, str):
        yield kind.rpartition(".")[2], name, node


@pytest.mark.parametrize("option", sorted(CONF.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_path_of_the_configuration_is_declared(option):
    """What is in the repository, or looks like a path, is looked for before a run starts, or written by it."""
    for kind, name, value in strings(OmegaConf.to_container(OmegaConf.load(option), resolve=False)):
        if "/" in value and "${" not in value and " " not in value and not value.startswith("/"):
            assert name in OUTPUTS or f"{kind}.{name}" in READS or name in READS, f"{kind}.{name}={value}"


def test_what_the_configuration_reads_ships_with_it():
    """A wheel holds `conf/` and `data/` alone; suites are made by who has none."""
    for option in CONF.glob("*/*.yaml"):
        for _, name, value in strings(OmegaConf.to_container(OmegaConf.load(option), resolve=False)):
            if "/" in value and (CONF.parent / value).exists():
                assert value.startswith("data/") or name in OUTPUTS | {"suite"}, f"{option}: {name}={value}"


def test_the_shipped_configuration_has_all_that_it_reads():
    for experiment in ("interpolation", "extrapolation", "distances", "video_analysis", "truth", "benchmark", "toy"):
        check_inputs(composed(f"experiment={experiment}"))
    check_inputs(composed("experiment=keys"))
    check_inputs(composed("metrics=[typicality,protocol_diffmorpher,fid]", "method=[diffmorpher,impus,slerp_retimed]"))


def test_a_class_that_is_named_as_others_are_needs_no_declaration():
    config = OmegaConf.create(
        {"expected": None, "task": {"_target_": "mine.Task", "data": {"_target_": "mine.Data", "root": "no/where"}}}
    )
    with pytest.raises(UserError, match=r"'no/where' \(task\.data\.root\) does not exist"):
        check_inputs(config)


def test_what_is_not_read_is_not_looked_for(pictures):
    own = (f"image_a={pictures / 'a.png'}", f"image_b={pictures / 'b.png'}")
    check_inputs(composed(*own, "data.manifest=nope.csv"))
    check_inputs(composed("experiment=toy", "data.manifest=nope.csv", "model.path_or_name=no/such/folder"))


def test_a_number_where_a_text_is_needed_is_told():
    config = composed()
    config.prompt_a = 2024
    with pytest.raises(UserError, match="prompt_a must be a text, got 2024: put it in quotes"):
        check_inputs(config)


def test_a_training_that_has_begun_does_not_ask_for_its_frames(tmp_path):
    with pytest.raises(UserError, match=r"task\.frames"):
        check_inputs(composed("experiment=train_clevr_ldm", "task.frames=nope", f"task.work_dir={tmp_path / 'new'}"))
    check_inputs(composed("experiment=train_clevr_ldm", "task.frames=nope", f"task.work_dir={tmp_path}"))


@pytest.mark.parametrize("option", ["task.given_autoencoder", "task.diffusion.start_from"])
def test_a_model_that_training_starts_from_is_looked_for(tmp_path, option):
    with pytest.raises(UserError, match=rf"'no/model' \({option}\) does not exist"):
        check_inputs(composed("experiment=train_clevr_ldm", f"{option}=no/model", f"task.work_dir={tmp_path}"))


def test_the_options_of_textual_inversion_are_those_that_there_are():
    parameters = set(inspect.signature(LatentModel.invert_text).parameters)
    assert set(READS["textual_inversion"].names) == parameters - {"self", "images", "prompts", "seed"}
