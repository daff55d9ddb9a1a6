"""Values of the wrong kind are refused by the key that a person writes, before a class does something with them."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import latent_geodesics.run.config  # noqa: F401  (registers the resolvers)
from latent_geodesics.core.errors import UserError
from latent_geodesics.run.inputs import check_kinds

CONF = Path(__file__).parents[1] / "conf"


class Taker:
    """Takes one value of each kind."""

    def __init__(self, *, count: int = 1, share: float | None = None, name: str = "", flag: bool = True, other=None):
        pass


def check(**options):
    node = {"part": {"_target_": f"{__name__}.Taker", **options}}
    check_kinds("task", node, {"part": node["part"]})


@pytest.mark.parametrize("options", [{"count": 2}, {"share": 2}, {"share": None}, {"name": "a"}, {"other": object()}])
def test_right_kinds_pass(options):
    check(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"count": 1.5}, r"part.count must be a whole number, got 1.5."),
        ({"count": 100.0}, r"part.count must be a whole number, got 100.0."),
        ({"count": True}, r"part.count must be a whole number, got True."),
        ({"share": "much"}, r"part.share must be a number or null, got 'much'."),
        ({"name": 3}, r"part.name must be a text, got 3."),
        ({"flag": "maybe"}, r"part.flag must be true or false, got 'maybe'."),
    ],
)
def test_others_are_refused_by_name(options, sentence):
    with pytest.raises(UserError, match=f"^{sentence}$"):
        check(**options)


def test_a_limit_that_is_no_whole_number():
    from latent_geodesics.data.pairs import Selection

    with pytest.raises(UserError, match="data.limit must be a whole number, got 1.5"):
        Selection(limit=1.5)


@pytest.mark.parametrize("file", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_has_the_right_kinds(file):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={file.stem}", "output_dir=x"])
    check_kinds("task", OmegaConf.to_container(config.task, resolve=True))
