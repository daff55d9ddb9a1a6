"""Published metrics beside their reference implementations: the page, and that all of them agree."""

import json

import pandas as pd
import pytest
from browser import check_page

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import PairData
from latent_geodesics.experiments.calibration import recipe
from latent_geodesics.experiments.calibration.recipe import Calibration
from latent_geodesics.experiments.calibration.references import comparisons
from latent_geodesics.models.weights import WeightsRegistry

CHEAP = ("pixels", "clevr", "lpips_squeeze", "flip")


def run(command_line, folder, *arguments):
    outcome = command_line("experiment=calibration", "logger.mode=disabled", f"output_dir={folder}", *arguments)
    assert outcome.code == 0, outcome.stderr
    return pd.read_csv(folder / "calibration.csv"), json.loads((folder / "summary.json").read_text())


def test_the_page_says_what_was_compared_and_how_far_it_is_apart(command_line, tmp_path, monkeypatch):
    def chosen(network):
        known = comparisons(network)
        return {name: known[name] for name in CHEAP} | {"gone": ("no_such_package", known["flip"][1])}

    monkeypatch.setattr(recipe, "comparisons", chosen)
    table, summary = run(command_line, tmp_path / "run")
    assert list(table["metric"]) == [
        "reconstruction_psnr", "fd_clevr", "kd_clevr", "ppl_seq_lpips_squeeze", "pdv_lpips_squeeze", "truth_flip"
    ]  # fmt: skip
    assert (table["difference"] < 1e-3).all()
    assert (table["reference"].abs() > 1e-6).all()  # what is nothing would agree with anything
    assert summary["largest_difference"] == table["difference"].max()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "random weights of the same structure" in page or "published weights" in page
    assert "the package no_such_package is not installed" in page
    check_page(tmp_path / "run" / "report.html")


@pytest.mark.slow
def test_every_published_metric_is_the_reference_implementations(command_line, tmp_path):
    table, summary = run(command_line, tmp_path, "expected=experiments/calibration/expected.json")
    assert summary["compared"] == len(table) == 15
    assert (table["difference"] < 1e-3).all(), table


@pytest.mark.parametrize(
    ("size", "words"), [([64, 64], "at least 16 true frames"), ([16, 64], "at least 32 pixels"), ([64], "32 pixels")]
)
def test_what_cannot_be_compared_is_a_sentence(pictures, size, words):
    data = PairData(image_a=pictures / "a.png", image_b=pictures / "b.png")
    with pytest.raises(UserError, match=words):
        Calibration(data=data, weights=WeightsRegistry(), network="data/models/clevr-attributes", size=size)
