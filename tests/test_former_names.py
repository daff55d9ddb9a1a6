"""Modules that moved are found by their former names, with a warning."""

import sys
from importlib import import_module

import pytest

from latent_geodesics.core.former import FORMER


@pytest.mark.parametrize("name", sorted(FORMER))
def test_a_former_name_is_the_module_of_today(name):
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match="since version 0.2"):
        module = import_module(name)
    today = import_module(FORMER[name])
    assert module is today
    assert today.__name__ == today.__spec__.name == FORMER[name]


def test_what_lies_below_moves_along():
    sys.modules.pop("latent_geodesics.comparison.tables", None)
    with pytest.warns(DeprecationWarning):
        former = import_module("latent_geodesics.comparison.tables")
    assert former is import_module("latent_geodesics.run.compare.tables")


def test_what_was_joined_is_found_by_each_of_its_names():
    sys.modules.pop("latent_geodesics.comparison.notes", None)
    with pytest.warns(DeprecationWarning):
        former = import_module("latent_geodesics.comparison.notes")
    assert former is import_module("latent_geodesics.run.compare.runs")


def test_other_names_are_still_missing():
    with pytest.raises(ModuleNotFoundError):
        import_module("latent_geodesics.nonsense")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_former_task_hides_no_experiment():
    import_module("latent_geodesics.tasks.truth")
    experiments = import_module("latent_geodesics.experiments")
    assert experiments.truth is import_module("latent_geodesics.experiments.truth")
    assert import_module("latent_geodesics.tasks").truth is import_module("latent_geodesics.experiments.truth.recipe")
