"""What a sweep ends with: Hydra turns errors of its callbacks into warnings, which must not let a sweep end well."""

import json

import pytest
from omegaconf import OmegaConf
from test_comparison_notes import write_run

from latent_geodesics.run.compare.callback import CompareSweep


def end(folder, expected=None):
    """Ends a sweep in a folder; the exit code."""
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}, "expected": expected and str(expected)})
    try:
        CompareSweep(baseline="slerp").on_multirun_end(config)
    except SystemExit as left:
        return left.code
    return 0


@pytest.fixture
def sweep(tmp_path):
    for alpha in (0.1, 0.2):
        write_run(tmp_path / "sweep" / f"{alpha}", alpha=alpha)
    return tmp_path / "sweep"


def test_a_sweep_that_can_be_compared_is(sweep, tmp_path):
    (tmp_path / "bounds.json").write_text(json.dumps({"slerp[alpha=0.1]/length": {"at_least": 11, "at_most": 13}}))
    assert end(sweep, tmp_path / "bounds.json") == 0
    assert (sweep / "report.html").exists()


def test_intervals_over_words_stand_beside_one_another(tmp_path, monkeypatch):
    for score in ("conditional", "guided"):
        write_run(tmp_path / "sweep" / score, score=score)
    drawn = {}

    def record(panel, places, means, **look):
        drawn.setdefault(id(panel), []).extend(places)

    monkeypatch.setattr("matplotlib.axes.Axes.errorbar", record)
    assert end(tmp_path / "sweep") == 0
    assert drawn
    for places in drawn.values():
        assert len(set(places)) == len(places) > 2
        assert {round(place) for place in places} == {0, 1}


@pytest.mark.parametrize("error", [ValueError("two\nlines"), KeyError("x"), RuntimeError()])
def test_a_comparison_that_breaks_is_said_and_has_a_code(sweep, monkeypatch, capfd, error):
    def broken(*given, **named):
        raise error

    monkeypatch.setattr("latent_geodesics.run.compare.report.draw_sweep", broken)
    assert end(sweep) == 1
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"comparing them failed ({type(error).__name__}" in said
    assert str(sweep) in said


def test_a_damaged_run_is_an_error_of_the_sweep(sweep, capfd):
    (sweep / "0.1" / "results.csv").write_text("pair,method,status\np,slerp\n")
    assert end(sweep) == 2
    assert "results.csv', line 2, has 2 cells" in capfd.readouterr().err


def test_a_share_that_is_there_twice_is_an_error_of_the_sweep(tmp_path, capfd):
    for name in "ab":
        write_run(tmp_path / "sweep" / name, data={"shard": "1/2"})
    assert end(tmp_path / "sweep") == 2
    assert "is there twice" in capfd.readouterr().err


def test_expectations_are_not_passed_over_where_there_is_nothing_to_hold(tmp_path, capfd):
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    assert end(tmp_path / "sweep") == 0
    assert end(tmp_path / "sweep", "expected.json") == 2
    assert "no table of results to hold against 'expected.json'" in capfd.readouterr().err
