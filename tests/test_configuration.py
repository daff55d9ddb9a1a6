"""Every file of conf/ composes and names what exists; every experiment has its claim and its bounds beside it."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from latent_geodesics.run.expectations import BOUNDS

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
OPTIONS = sorted(file.relative_to(CONF) for file in CONF.glob("*/*.yaml"))
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
# They make what ships; their claims are the model cards.
WITHOUT_FOLDER = {"train_clevr_ldm", "train_clevr_flow"}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def targets(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [name for value in node.values() for name in targets(value)]
    if isinstance(node, list):
        return [name for value in node for name in targets(value)]
    return []


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_of_every_group_composes_and_names_what_exists(option):
    group, name = option.parent.name, option.stem
    choice = f"[{name}]" if group == "method" else name
    config = composed(f"{group}={choice}" if group in composed_groups() else f"+{group}={choice}")
    own = [
        name for name in targets(OmegaConf.to_container(config, resolve=False)) if name.startswith("latent_geodesics.")
    ]
    assert own
    for target in own:
        assert callable(get_object(target))


def composed_groups() -> set[str]:
    defaults = OmegaConf.load(CONF / "config.yaml").defaults
    return {str(key) for entry in defaults if isinstance(entry, DictConfig) for key in entry}


@pytest.mark.parametrize("experiment", sorted(set(EXPERIMENTS) - WITHOUT_FOLDER))
def test_every_experiment_states_its_claim_and_its_bounds(experiment):
    folder = ROOT / "experiments" / experiment
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# ")
    assert f"make reproduce ID={experiment}" in readme or f"make {experiment.replace('_', '-')}" in readme
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    assert expected
    assert all(set(claim) & set(BOUNDS) for claim in expected.values())


def test_no_experiments_folder_lacks_its_configuration():
    assert {folder.name for folder in (ROOT / "experiments").iterdir() if folder.is_dir()} <= set(EXPERIMENTS)
