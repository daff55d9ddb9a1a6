"""A method that fails on one pair costs that pair alone."""

import pandas as pd
import pytest
import torch
from baselines import encoded_pairs, gentle_model, morphs_of, positions

from latent_geodesics.experiments.interpolation.report import PairPage, _page_rows
from latent_geodesics.methods import Method, Morph, Slerp, attempt
from latent_geodesics.methods.base import FAILED, status_sentence
from latent_geodesics.metrics import PathQuality, Reconstruction
from latent_geodesics.run.results import BatchResult, broken_pairs


class FailsOn(Method):
    """The great circle, but for a batch that holds one of some pairs."""

    def __init__(self, *ids: str) -> None:
        self.ids = ids

    def morph(self, pairs, u) -> Morph:
        if set(self.ids) & set(pairs.batch.ids):
            raise RuntimeError("no\nmemory")
        return Slerp().morph(pairs, u)


@pytest.fixture(scope="module")
def pairs(tiny_model_folder):
    return encoded_pairs(gentle_model(tiny_model_folder), 2)


def run(pairs, **methods) -> BatchResult:
    metrics = {"path": PathQuality(), "ends": Reconstruction()}
    return morphs_of(pairs, methods, metrics, frames=len(positions()))


def test_the_other_pair_has_the_sequence_it_would_have_had(pairs):
    parts = attempt("slerp", FailsOn("1"), pairs, positions())
    assert [part.pairs.batch.ids for part in parts] == [["0"], ["1"]]
    whole = Slerp().morph(pairs, positions())
    assert torch.allclose(parts[0].morph.frames[0], whole.frames[0], atol=1e-5)
    assert parts[0].failure is None
    assert parts[1].failure == "RuntimeError: no memory"
    assert parts[1].morph.frames.isnan().all()
    assert parts[1].morph.statuses == (FAILED,)


def test_a_method_that_works_is_run_once_on_the_whole_batch(pairs):
    (part,) = attempt("slerp", Slerp(), pairs, positions())
    assert part.pairs is pairs


def test_rows_keep_the_order_of_pairs_and_methods_and_say_what_failed(pairs):
    result = run(pairs, shaky=FailsOn("0"), slerp=Slerp())
    rows = [one.row for place in range(2) for one in result.of_pair(place)]
    assert [(row["pair"], row["method"]) for row in rows] == [
        ("0", "shaky"), ("0", "slerp"), ("1", "shaky"), ("1", "slerp"),
    ]  # fmt: skip
    table = pd.DataFrame(rows).set_index(["pair", "method"])
    assert table.loc[("0", "shaky"), "status"] == FAILED
    assert table.loc[("0", "shaky"), "failure"] == "RuntimeError: no memory"
    numbers = ["log_density_mean", "length", "reconstruction_mse"]
    assert table.loc[("0", "shaky"), numbers].isna().all()
    for name in numbers:
        assert table.loc[("1", "shaky"), name] == pytest.approx(table.loc[("1", "slerp"), name], rel=1e-3)
    said = broken_pairs(table.reset_index(), "runs/x")
    assert (
        said
        == "1 of 4 sequences failed (shaky on 0): the others are in 'runs/x'. The first said: RuntimeError: no memory"
    )


def test_whole_tables_have_nothing_to_say(pairs):
    rows = [one.row for one in run(pairs, slerp=Slerp()).of_pair(0)]
    assert broken_pairs(pd.DataFrame(rows), "runs/x") is None


@pytest.mark.parametrize("status", ["closed_form", "sampled", "trained", "failed", "converged", "stalled"])
def test_every_status_of_a_table_has_a_sentence(status):
    assert status_sentence(status).endswith(".")


def test_a_pair_on_which_every_method_failed_has_a_row_of_dashes_on_the_page():
    rows = [{"pair": "x", "method": name, "status": "inversion_failed", "seconds": float("nan")} for name in "ab"]
    page = PairPage(
        id="x", group="", prompt_a="", prompt_b="", strip="", ends=(), players=(), reconstruction=None, figure=None,
        rows=rows,
    )  # fmt: skip
    shown = _page_rows(page, {"length": "length", "seconds": "seconds"})
    assert {name: [(cell.text, cell.mark == "best") for cell in cells] for name, cells in shown.items()} == {
        "a": [("-", False)] * 2, "b": [("-", False)] * 2,
    }  # fmt: skip
