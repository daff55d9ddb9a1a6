import json
import math

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.compare.published import published_figures
from latent_geodesics.run.compare.report import write_comparison
from latent_geodesics.run.compare.runs import find_runs, varied_settings
from latent_geodesics.run.compare.tables import compare_runs
from latent_geodesics.run.results import summarise
from latent_geodesics.run.statistics import holm, interval, paired_difference

PAIRS = [f"pair_{k}" for k in range(6)]


def write_run(folder, *, alpha, seed=0, lift=0.0, broken=()):
    """A run whose geodesic is shorter than slerp by `alpha` plus `lift`, the more so for later pairs."""
    folder.mkdir(parents=True)
    config = {
        "alpha": alpha, "seed": seed, "output_dir": str(folder), "task": {"alpha": alpha, "frames": 17},
        "logger": {"folder": str(folder)},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = []
    for k, pair in enumerate(PAIRS):
        for method, length in (("geodesic", 10.0 - alpha - lift - 0.1 * k), ("slerp", 10.0)):
            failed = method == "geodesic" and pair in broken
            rows.append({
                "pair": pair, "group": "moved", "method": method, "status": "failed" if failed else "converged",
                "seconds": 1.0, "evaluations": 15, "length": math.nan if failed else length,
                "log_density_mean": alpha * (k + 1) if method == "geodesic" else 0.0,
            })  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    return folder


def row_of(table, method, **settings):
    found = [row for row in table.rows if row.method == method and dict(row.settings) == settings]
    assert len(found) == 1
    return found[0]


def test_what_varies_is_named_once_and_folders_do_not_count(tmp_path):
    for alpha in (0.1, 0.2):
        write_run(tmp_path / f"{alpha}", alpha=alpha)
    assert varied_settings(find_runs([tmp_path])) == ["alpha"]


def test_the_tenth_run_of_a_sweep_stands_behind_the_second(tmp_path):
    for number in (10, 2, 1):
        write_run(tmp_path / "sweep" / str(number), alpha=0.1 * number)
    assert [run.folder.name for run in find_runs([tmp_path])] == ["1", "2", "10"]


def test_what_follows_from_a_choice_is_not_named_beside_it(tmp_path):
    solvers = {"ours": {"memory": 6}, "theirs": {"skip": True}, "theirs_no_skip": {"skip": False}}
    for number, (solver, alpha) in enumerate((s, a) for s in solvers for a in (0.1, 0.2)):
        folder = write_run(tmp_path / str(number), alpha=alpha)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config |= {"solver": solvers[solver], "choices": {"solver": solver}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert sorted(varied_settings(find_runs([tmp_path]))) == ["alpha", "solver"]


def test_means_differences_and_ranks_are_those_of_the_numbers(tmp_path):
    for alpha in (1.0, 2.0):
        write_run(tmp_path / f"{alpha}", alpha=alpha)
    table = compare_runs(find_runs([tmp_path]), baseline="slerp", columns=["length", "log_density_mean"])
    row = row_of(table, "geodesic", alpha=2.0)
    assert row.cells["length"].mean == pytest.approx(7.75)
    assert row.cells["length"].n == 6
    assert row.against["length"].interval.mean == pytest.approx(-2.25)
    best = table.rank("log_density_mean")
    assert table.rows[next(k for k, place in best.items() if place == "best")] is row
    assert table.rows[next(k for k, place in best.items() if place == "second")].settings == {"alpha": 1.0}


def test_lengths_of_different_metrics_are_not_ranked_against_one_another(tmp_path):
    for alpha in (1.0, 2.0):
        write_run(tmp_path / f"{alpha}", alpha=alpha)
    table = compare_runs(find_runs([tmp_path]), baseline="slerp", columns=["length", "log_density_mean"])
    found = {
        (table.rows[k].settings["alpha"], table.rows[k].method): place for k, place in table.rank("length").items()
    }
    assert found == {
        (1.0, "geodesic"): "best", (1.0, "slerp"): "second", (2.0, "geodesic"): "best", (2.0, "slerp"): "second"
    }  # fmt: skip


def with_misfit(folder, *, closure, misfit):
    """The geodesic of a run of `write_run` with a score that closes that well."""
    table = pd.read_csv(folder / "results.csv")
    own = table["method"] == "geodesic"
    table = table.assign(
        closure=own * closure, log_density_reference=0.0, length_misfit=own * misfit, length_reference=10.0
    )
    table.to_csv(folder / "results.csv", index=False)


@pytest.mark.parametrize(("misfit", "known"), [(0.0, True), (0.6, True), (0.65, False), (3.0, False)])
def test_a_length_that_the_score_leaves_open_is_marked_and_not_ranked(tmp_path, misfit, known):
    """The geodesic gains 1 + 0.25 on slerp's 10 in the mean, of which it may be wrong by half."""
    with_misfit(write_run(tmp_path / "run", alpha=1.0), closure=0.1, misfit=misfit)
    table = compare_runs(find_runs([tmp_path]), baseline="slerp", columns=["length", "log_density_mean"])
    geodesic = row_of(table, "geodesic")
    assert ("length" in geodesic.against) == known
    assert table.rank("length") == ({0: "best", 1: "second"} if known else {})
    assert table.rank("log_density_mean") == {0: "best", 1: "second"}
    assert ("8.75 [8.62, 8.88] †" in table.markdown()) == (not known)
    assert (r"8.75 $^\dagger$" in table.latex()) == (not known)
    assert list(table.frame()["open"]) == [not known, False, False, False]
    assert (
        any("line integral does not close" in note and "relative length of Geodesic" in note for note in table.notes)
        != known
    )
    wins = summarise(pd.read_csv(tmp_path / "run" / "results.csv"))
    assert wins.get("geodesic/length_better_than_slerp") == (1.0 if known else None)
    assert wins["geodesic/log_density_mean_better_than_slerp"] == 1.0


def test_seeds_are_averaged_pair_by_pair_and_do_not_count_as_pairs(tmp_path):
    for seed, lift in ((0, 0.0), (1, 1.0)):
        write_run(tmp_path / f"{seed}", alpha=1.0, seed=seed, lift=lift)
    table = compare_runs(find_runs([tmp_path]), baseline="slerp", columns=["length"])
    assert table.varied == []
    row = row_of(table, "geodesic")
    assert row.cells["length"].n == 6
    assert row.cells["length"].mean == pytest.approx(10 - 1.0 - 0.5 - 0.25)


def test_a_failed_path_lowers_n_and_is_counted(tmp_path):
    write_run(tmp_path / "run", alpha=1.0, broken=["pair_2"])
    row = row_of(compare_runs(find_runs([tmp_path]), baseline="slerp", columns=["length"]), "geodesic")
    assert (row.failed, row.cells["length"].n, row.against["length"].interval.n) == (1, 5, 5)


def test_p_values_are_wilcoxons_and_corrected_for_all_rows(tmp_path):
    for alpha in (0.0, 1.0):
        write_run(tmp_path / f"{alpha}", alpha=alpha)
    runs = find_runs([tmp_path])
    table = compare_runs(runs, baseline="slerp", columns=["length"])
    raw = [stats.wilcoxon([-alpha - 0.1 * k for k in range(6)]).pvalue for alpha in (0.0, 1.0)]
    found = [row_of(table, "geodesic", alpha=alpha).against["length"].p_value for alpha in (0.0, 1.0)]
    assert found == pytest.approx(holm(raw))


def test_holms_correction_of_a_textbook_case():
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)


def test_the_interval_of_a_mean_is_near_the_normal_one():
    numbers = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    found = interval(numbers)
    half = 1.96 * numbers.std(ddof=1) / 20
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((half, half), rel=0.15)
    assert interval([5.0]).n == 1
    assert math.isnan(interval([5.0]).low)
    assert interval([]).n == 0


def test_equal_methods_have_no_p_value():
    same = pd.Series([1.0, 2.0, 3.0], index=PAIRS[:3])
    assert math.isnan(paired_difference(same, same).p_value)


def test_everything_is_written_in_four_formats_with_a_picture(tmp_path):
    for alpha in (0.0, 0.5, 1.0):
        write_run(tmp_path / "runs" / f"{alpha}", alpha=alpha)
    summary = write_comparison(tmp_path / "out", find_runs([tmp_path / "runs"]), baseline="slerp")
    assert summary["geodesic[alpha=1.0]/length"] == pytest.approx(8.75)
    assert summary["geodesic[alpha=0.5]/length_minus_slerp"] == pytest.approx(-0.75)
    assert (tmp_path / "out" / "figures" / "sweep.png").stat().st_size > 10_000
    markdown = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    assert len(markdown) == 2 + 6
    assert len({line.count("|") for line in markdown}) == 1
    assert "**8.75 [" in (tmp_path / "out" / "comparison.md").read_text()
    latex = (tmp_path / "out" / "comparison.tex").read_text()
    assert latex.count(r"\\") == 3 + 6  # the headings need three lines
    assert r"\textbf{8.75" in latex
    long = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert set(long["n"]) == {6}
    assert "data:image/png;base64" in (tmp_path / "out" / "report.html").read_text()


def add_measured(folder, value, standard_error):
    """What a run measured as a whole."""
    record = {"method": "geodesic", "column": "fd_clevr@raw", "value": value, "standard_error": standard_error}
    (folder / "metrics.json").write_text(json.dumps({"records": [record]}))


def test_numbers_of_a_whole_run_have_a_table_with_their_own_error(tmp_path):
    for seed, value in ((0, 10.0), (1, 12.0)):
        add_measured(write_run(tmp_path / "runs" / str(seed), alpha=1.0, seed=seed), value, 2.0)
    summary = write_comparison(tmp_path / "out", find_runs([tmp_path / "runs"]), baseline="slerp")
    assert summary["geodesic/fd_clevr@raw"] == 11.0
    assert "slerp/fd_clevr@raw" not in summary
    long = pd.read_csv(tmp_path / "out" / "protocols.csv").set_index("method")
    cell = long.loc["geodesic"]
    assert (cell["mean"], cell["n"]) == (11.0, 6)
    assert (cell["low"], cell["high"]) == pytest.approx((11 - 3.92, 11 + 3.92), abs=1e-3)
    assert "11 [7.08, 14.9]" in (tmp_path / "out" / "protocols.md").read_text()
    assert "fd_clevr" not in (tmp_path / "out" / "comparison.md").read_text()


def test_what_a_source_sums_over_the_pairs_is_summed(tmp_path):
    folder = write_run(tmp_path / "run", alpha=1.0)
    record = {"column": "length", "standard_error": None, "over_pairs": "sum"}
    records = [record | {"method": "geodesic", "value": 52.5}, record | {"method": "slerp", "value": 60.0}]
    (folder / "metrics.json").write_text(json.dumps({"records": records}))
    table = compare_runs(find_runs([folder]), baseline="slerp")
    cell, against = row_of(table, "geodesic").cells["length"], row_of(table, "geodesic").against["length"]
    assert cell.mean == pytest.approx(52.5)
    assert cell.low < cell.mean < cell.high
    assert against.interval.mean == pytest.approx(-7.5)
    assert row_of(table, "geodesic").cells["log_density_mean"].mean == pytest.approx(3.5)


def test_each_setting_has_its_own_measured_numbers(tmp_path):
    for alpha in (0.5, 1.0):
        add_measured(write_run(tmp_path / str(alpha), alpha=alpha), 20 * alpha, None)
    table = compare_runs(find_runs([tmp_path]), baseline="slerp", columns=["length", "fd_clevr@raw"])
    assert row_of(table, "geodesic", alpha=0.5).cells["fd_clevr@raw"].mean == 10
    assert row_of(table, "geodesic", alpha=1.0).cells["fd_clevr@raw"].mean == 20
    assert math.isnan(row_of(table, "slerp", alpha=1.0).cells["fd_clevr@raw"].mean)


def test_a_broken_metrics_file_is_refused_in_a_sentence(tmp_path):
    (write_run(tmp_path / "run", alpha=1.0) / "metrics.json").write_text('{"records": [{}]}')
    with pytest.raises(UserError, match="metrics.json"):
        find_runs([tmp_path])


@pytest.mark.parametrize("make", ["nothing", "empty", "no_columns", "broken"])
def test_folders_without_runs_are_refused_in_a_sentence(tmp_path, make):
    folder = tmp_path / "run"
    if make != "nothing":
        folder.mkdir()
    if make in ("no_columns", "broken"):
        (folder / "config.yaml").write_text("alpha: 1" if make == "no_columns" else "alpha: [")
        (folder / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="run") as refused:
        find_runs([folder])
    assert "\n" not in str(refused.value).split("(")[0]


def test_a_published_mean_that_its_parts_contradict_is_flagged():
    figures = published_figures("morphbench").set_index(["method", "metric", "split"])
    assert figures["source"].str.contains("arXiv").all()
    assert figures.loc[("diffmorpher", "ppl", "overall"), "flag"] == "does not add up: its parts give 14.71"
    assert figures.loc[("slerp", "pdv", "overall"), "flag"] == ""
    assert published_figures("clevr_pairs").empty


def test_a_model_that_does_not_know_the_images_is_not_ranked(tmp_path):
    for name, ends in (("known", 30.0), ("unknown", 16.0)):
        run = write_run(tmp_path / name / "run", alpha=1.0)
        table = pd.read_csv(run / "results.csv").assign(reconstruction_psnr=ends)
        table.to_csv(run / "results.csv", index=False)
        found = compare_runs(find_runs([tmp_path / name]), baseline="slerp")
        assert bool(found.rank("length")) == bool(found.rank("reconstruction_psnr")) == (ends > 25)
        assert any("Not ranked, since the ends" in note for note in found.notes) == (ends < 25)


@pytest.mark.parametrize(("pairs", "ranked"), [(3, True), (4, False)])
def test_a_model_that_does_not_know_one_image_of_most_pairs_is_not_ranked(tmp_path, pairs, ranked):
    run = write_run(tmp_path / "run", alpha=1.0)
    table = pd.read_csv(run / "results.csv")
    few = table["pair"].isin(table["pair"].unique()[:pairs])
    table.assign(unknown=np.where(few, "given back with 23.9 dB", "")).to_csv(run / "results.csv", index=False)
    found = compare_runs(find_runs([run]), baseline="slerp")
    assert bool(found.rank("length")) == ranked
    assert any("Not ranked, since the ends" in note for note in found.notes) != ranked
    assert "unknown" not in found.columns


def test_a_latex_table_leaves_out_what_no_row_has(tmp_path):
    run = write_run(tmp_path / "run", alpha=1.0)
    pd.read_csv(run / "results.csv").assign(ppl_seq_clevr=math.nan).to_csv(run / "results.csv", index=False)
    table = compare_runs(find_runs([run]), baseline=None)
    latex = table.latex(["length", "ppl_seq_clevr"])
    assert r"\begin{tabular}{@{}lr@{}}" in latex
    assert "--" not in latex.partition(r"\midrule")[2]
