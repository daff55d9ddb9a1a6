"""Arguments of the command line: file names and prompts arrive as they were typed, whatever they look like."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.main import FLAGS, as_meant

CONF = Path(__file__).parents[1] / "conf"


def value_of(argument: str, *others: str):
    """What Hydra reads of an argument that was put right."""
    (meant, *_) = as_meant([argument, *others], conf=CONF)
    assert as_meant([meant, *others], conf=CONF)[0] == meant  # processes that share a run read it again
    found = OverridesParser.create().parse_override(meant)
    return list(found.sweep_string_iterator()) if found.is_sweep_override() else found.value()


TEXTS = (
    "a.png", "a b.png", "été (1).png", "日本.png", "it's.png", 'the "best".png', "a,b.png", "a=b.png", "a#1;2.png",
    "2024", "007", "1.50", "true", "1e5", "[x].png", "{x}.png", "choice(a,b)", "back\\slash.png", "ends in \\",
    "a & b!",
    "'", "C:\\x",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["prompt_a", "task.prompt", "logger.name"])
def test_a_text_arrives_as_it_was_typed(key, text):
    assert value_of(f"{key}={text}") == text


@pytest.mark.parametrize("text", [text for text in TEXTS if text[0] not in "[{'"])
@pytest.mark.parametrize("key", ["image_a", "data.manifest", "output_dir"])
def test_a_path_arrives_as_it_was_typed(key, text):
    assert value_of(f"{key}={text}") == text


def test_a_file_in_brackets_is_a_file_where_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("[1] x.png").touch()
    assert value_of("image_a=[1] x.png") == "[1] x.png"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("prompt_a=null", None),
        ("image_a=null", None),
        ("prompt_a='quoted, already'", "quoted, already"),
        ("task.runs=[runs/a,runs/b]", ["runs/a", "runs/b"]),
        ("task.runs=runs/a,runs/b", ["runs/a", "runs/b"]),
        ("task.frames=5", 5),  # a folder in one class, a number in another
        ("frames=17", 17),
        ("alpha=0.003", 0.003),
        ("method=[geodesic,slerp]", ["geodesic", "slerp"]),
        ("method=null", []),
        ("metrics=null", []),
        ("data.limit=null", None),
        ("output_dir=runs/${now:%H-%M}", "runs/${now:%H-%M}"),
        ("image_a=~/x.png", str(Path.home() / "x.png")),
        ("task.folder=~/x", str(Path.home() / "x")),
    ],
)
def test_other_values_are_read_as_before(argument, value):
    assert value_of(argument) == value


def test_a_sweep_stays_one_where_it_was_asked_for():
    assert value_of("prompt_a=red,blue", "-m") == ["red", "blue"]
    assert value_of("image_a=é.png,b.png", "--multirun") == ["'é.png'", "b.png"]
    assert value_of("alpha=0.1,0.2", "-m") == ["0.1", "0.2"]


@pytest.mark.parametrize("key", ["data.keys", "task.runs", "data.prompts"])
def test_lists_of_files_and_texts_arrive_as_they_were_typed(key, tmp_path):
    names = [str(tmp_path / name) for name in ("é (1), x=y.png", "c d.png", "it's [2].png", "2024")]
    (tmp_path / "é (1), x=y.png").touch()
    assert value_of(f"{key}=[{','.join(names)}]") == names
    assert value_of(f"{key}=['a, b','c']") == ["a, b", "c"]
    assert value_of(f"{key}=[a.png,b.png]") == ["a.png", "b.png"]


def test_any_mapping_may_be_given_further_keys():
    (meant,) = as_meant(["data.some={a: 1}"], conf=CONF)
    assert meant == "++data.some={a: 1}"


@pytest.mark.parametrize("argument", ["task.counts={1: 0.5, 3: 0.5}", "textual_inversion.steps=9", "weights.files.x=y"])
def test_mappings_with_keys_of_the_users_own_may_grow(argument):
    assert as_meant([argument], conf=CONF) == [f"++{argument}"]


def test_what_hydra_cannot_read_elsewhere_is_left_to_it():
    given = ["alpha=1e-3;", "method=[slerp", "model", "~logger", "--cfg", "job", "-m", "--multi", "--config-dir=x"]
    assert as_meant(given, conf=CONF) == given
    assert "--multirun" in FLAGS


def test_dashes_before_a_key_are_told():
    with pytest.raises(UserError, match="alpha=<value>"):
        as_meant(["--alpha=1"], conf=CONF)


def test_a_name_that_is_no_text_is_told():
    with pytest.raises(UserError, match="UTF-8"):
        as_meant(["image_a=caf\udce9.png"], conf=CONF)


def test_hydras_own_settings_are_no_choice():
    with pytest.raises(UserError, match="are below it"):
        as_meant(["hydra=null"], conf=CONF)


def test_an_option_may_be_added_that_is_listed_already():
    assert as_meant(["+task.frames=3"], conf=CONF) == ["++task.frames=3"]
    assert as_meant(["++task.frames=3", "+experiment=toy"], conf=CONF) == ["++task.frames=3", "+experiment=toy"]


def test_a_group_that_is_added_at_a_place_stays_a_group():
    added = "+solver@task.solvers.no_skip=control_point_descent_no_skip"
    assert as_meant([added], conf=CONF) == [added]
