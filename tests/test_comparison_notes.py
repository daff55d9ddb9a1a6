"""What a comparison refuses, and what it says of runs that do not compare as they stand."""

import csv
import html
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from latent_geodesics.core.errors import UserError, counted
from latent_geodesics.run.compare.figures import sweep_axes
from latent_geodesics.run.compare.report import write_comparison
from latent_geodesics.run.compare.runs import RunRecord, bound_settings, find_runs, varied_settings
from latent_geodesics.run.compare.settings import value_words
from latent_geodesics.run.compare.shards import join_shards
from latent_geodesics.run.compare.tables import compare_runs
from latent_geodesics.run.compare.task import CompareRuns
from latent_geodesics.run.run_folder import complete

METHODS = ("geodesic", "slerp")


def write_run(folder, *, pairs=5, first=0, finished=True, seed=0, environment=None, choices=None, **settings):
    """A run whose lengths are 10 plus the pair's number, a tenth less for the geodesic."""
    folder.mkdir(parents=True)
    config = {"seed": seed, "output_dir": str(folder), "choices": choices or {}} | settings
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {"pair": f"p{k}", "group": "g", "method": method, "status": "converged", "length": 10 + k - (not m) / 10}
        for k in range(first, first + pairs)
        for m, method in enumerate(METHODS)
    ]
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    (folder / "metrics.json").write_text('{"records": []}')
    if environment is not None:
        (folder / "environment.json").write_text(json.dumps(environment))
    if finished:
        (folder / "summary.json").write_text(json.dumps({"pairs": float(pairs)}))
    return folder


def table_of(*folders, **options):
    return compare_runs(find_runs(folders), **({"baseline": "slerp"} | options))


def edit(folder, change):
    """Rewrites a run's table as rows of cells."""
    with (folder / "results.csv").open(newline="") as lines:
        rows = list(csv.reader(lines))
    change(rows)
    with (folder / "results.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows(rows)


def test_the_options_of_a_method_that_one_run_has_are_no_difference_of_the_others(tmp_path):
    for name, alpha, more in (("a", 0.1, {}), ("b", 0.2, {"geodesic": {"solver": {"trust": 1}}})):
        write_run(tmp_path / name, alpha=alpha, task={"morphs": {"methods": {"slerp": {"even": True}} | more}})
    assert table_of(tmp_path).notes == []
    write_run(tmp_path / "c", alpha=0.3, task={"morphs": {"methods": {"slerp": {"even": False}}}})
    assert any("task.morphs.methods.slerp.even" in note for note in table_of(tmp_path / "a", tmp_path / "c").notes)


def test_two_images_of_ones_own_are_not_called_after_the_data_set_that_they_replace(tmp_path):
    write_run(tmp_path / "own", choices={"data": "clevr_pairs"}, data={"image_a": "a.png", "image_b": "b.png"})
    write_run(tmp_path / "all", choices={"data": "folder"}, data={"root": "cats"})
    table = table_of(tmp_path)
    assert {row.words["data"] for row in table.rows} == {"two images", "folder"}


def test_runs_that_are_whole_and_alike_need_no_note(tmp_path):
    for alpha in (0.1, 0.2):
        write_run(tmp_path / f"{alpha}", alpha=alpha)
    table = table_of(tmp_path)
    assert table.notes == []
    assert sorted(table.rank("length").values()) == ["best", "best", "second", "second"]  # one of each alpha


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ({"root": "/home/a/cats"}, {"root": "/data/dogs"}, True),
        ({"keys": ["a.png", "b.png"]}, {"keys": ["c.png", "b.png"]}, True),
        ({"manifest": "m.csv", "limit": 2}, {"manifest": "m.csv", "limit": None}, False),
        ({"manifest": "m.csv", "image_a": None}, {"manifest": "m.csv", "image_a": "a.png"}, True),
    ],
)
def test_pairs_of_one_name_in_two_data_sets_are_told_apart(tmp_path, one, other, apart):
    folders = [write_run(tmp_path / name, data=data) for name, data in (("one", one), ("other", other))]
    write_comparison(tmp_path / "out", find_runs(folders), baseline="slerp")
    page = (tmp_path / "out" / "report.html").read_text()
    assert ("not all over the same pairs" in page) is apart


def test_an_unfinished_run_is_named_and_not_ranked_with_whole_ones_in_every_format(tmp_path, caplog):
    write_run(tmp_path / "runs" / "full", alpha=0.1)
    write_run(tmp_path / "runs" / "cut", alpha=0.2, pairs=2, finished=False)
    runs = find_runs([tmp_path / "runs"])
    write_comparison(tmp_path / "out", runs, baseline="slerp")
    files = [tmp_path / "out" / f"comparison.{kind}" for kind in ("md", "csv", "tex")]
    for text in (caplog.text, *(file.read_text() for file in files)):
        assert "is not finished" in text
        assert "2 of 5 pairs" in text
        assert "not all over the same pairs" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("2 of 5 pairs") < page.index("Means over the pairs")
    table = compare_runs(runs, baseline="slerp")
    ranks = {(table.rows[k].settings["alpha"], table.rows[k].method): rank for k, rank in table.rank("length").items()}
    # The means over the two first pairs are less by the pairs alone: each is ranked against those over its own pairs.
    assert ranks == {(alpha, method): {"geodesic": "best", "slerp": "second"}[method] for alpha, method in ranks}
    assert len(ranks) == 4


def test_rows_that_a_finished_run_lost_are_missed(tmp_path):
    folder = write_run(tmp_path / "run", alpha=0.1)
    edit(folder, lambda rows: rows.__delitem__(slice(-4, None)))
    assert any("its table holds 3 of 5 pairs" in note for note in table_of(folder).notes)


def test_data_sets_are_not_ranked_against_one_another(tmp_path):
    for data in ("one", "two"):
        write_run(tmp_path / data, data={"manifest": data})
    table = table_of(tmp_path)
    assert table.varied == ["data.manifest"]
    assert sorted(table.rank("length").values()) == ["best", "best", "second", "second"]
    assert any("not all over the same pairs" in note for note in table.notes)


@pytest.mark.parametrize("name", ["tau", "alpha", "frames", "guidance", "data.manifest"])
def test_a_setting_that_changes_with_the_seed_is_not_averaged_away(tmp_path, name):
    group, _, key = name.rpartition(".")
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed, **({group: {key: seed}} if group else {key: seed}))
    assert set(varied_settings(find_runs([tmp_path]))) == {"seed", name}
    table = table_of(tmp_path)
    assert table.varied == [name]
    assert len(table.rows) == 4


def test_copies_of_the_seed_and_places_of_files_do_not_stand_for_settings(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        write_run(folder, seed=seed, task={"seed": seed, "work": f"{folder}/work"}, model={"cache_dir": f"c{seed}"})
    table = table_of(tmp_path)
    assert (table.varied, len(table.rows), table.notes) == ([], 2, [])


def test_settings_that_change_together_are_said(tmp_path):
    write_run(tmp_path / "a", alpha=0.1, frames=17, task={"alpha": 0.1})
    write_run(tmp_path / "b", alpha=0.2, frames=9, task={"alpha": 0.2})
    assert bound_settings(find_runs([tmp_path])) == {"alpha": ["frames"]}
    assert any("Where alpha differs, frames differs as well" in note for note in table_of(tmp_path).notes)


def test_the_options_of_a_choice_are_not_called_settings_of_their_own(tmp_path):
    for name, memory in (("ours", 6), ("theirs", 2)):
        choice = {"solver": name}
        write_run(tmp_path / name, choices=choice, solver={"memory": memory}, task={"solver": {"memory": memory}})
    assert bound_settings(find_runs([tmp_path])) == {}
    assert table_of(tmp_path).notes == []


def test_equal_numbers_are_equal_settings(tmp_path):
    write_run(tmp_path / "a", alpha=1, seed=0)
    write_run(tmp_path / "b", alpha=1.0, seed=1)
    assert table_of(tmp_path).varied == []


def test_other_weights_and_commits_under_the_same_settings_are_told_apart(tmp_path):
    for name in "ab":
        write_run(tmp_path / name, alpha=1, environment={"weights": {"model": name * 64}, "commit": name * 40})
    table = table_of(tmp_path)
    assert table.varied == ["sha256 of model"]
    assert any("different commits" in note for note in table.notes)


def test_a_run_counts_once_however_it_is_named_and_repeats_are_said(tmp_path, monkeypatch):
    write_run(tmp_path / "a", alpha=1)
    monkeypatch.chdir(tmp_path)
    assert len(find_runs(["a", tmp_path / "a", "./a/../a", tmp_path])) == 1
    write_run(tmp_path / "b", alpha=1)
    assert any("same settings and the same seed" in note for note in table_of(tmp_path).notes)


def test_seeds_with_different_pairs_are_said(tmp_path):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1, first=1)
    assert any("fewer seeds" in note for note in table_of(tmp_path).notes)


def test_several_rows_for_a_pair_and_method_are_said(tmp_path):
    folder = write_run(tmp_path / "a")
    table = pd.read_csv(folder / "results.csv")
    both = pd.concat([table.assign(velocity=name) for name in ("random", "boundary")])
    both.to_csv(folder / "results.csv", index=False)
    assert any("several rows for a pair and method, which differ in velocity" in one for one in table_of(folder).notes)


def test_numbers_of_other_weights_or_other_numbers_of_images_are_said(tmp_path):
    for name, images in (("a", 16), ("b", 64)):
        record = {"method": "slerp", "column": "fid@raw", "value": 1.0, "standard_error": None, "weights": {"i": "0"}}
        write_run(tmp_path / name, alpha=images)
        record["counts"] = {"generated": images, "reference": 8, "dimensions": 4}
        (tmp_path / name / "metrics.json").write_text(json.dumps({"records": [record]}))
    assert any("numbers of FID (raw) are by different weights or" in note for note in table_of(tmp_path).notes)


def test_a_cell_that_is_no_number_is_refused_with_its_place(tmp_path):
    folder = write_run(tmp_path / "run")
    edit(folder, lambda rows: rows[3].__setitem__(4, "2.26e"))
    with pytest.raises(UserError, match=r"results.csv', line 4, has '2.26e' in the column length"):
        find_runs([folder])


def test_a_column_of_words_stays_one_and_may_not_meet_numbers(tmp_path):
    for name, cell in (("a", "x"), ("b", "1.5")):
        folder = write_run(tmp_path / name)
        edit(folder, lambda rows, cell=cell: [row.append("mine" if k == 0 else cell) for k, row in enumerate(rows)])
    assert "mine" not in table_of(tmp_path / "a").columns
    assert "mine" in table_of(tmp_path / "b").columns
    with pytest.raises(UserError, match=r"column mine has numbers in '.*b' and words in '.*a'"):
        table_of(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "twice", "quote"])
def test_a_table_that_is_cut_or_damaged_is_refused(tmp_path, damage):
    file = write_run(tmp_path / "run") / "results.csv"
    text = file.read_text()
    bad = {"cut": text[:-12], "twice": text.replace("length", "status"),
           "quote": text + '"p9'}  # fmt: skip
    file.write_text(bad[damage])
    with pytest.raises(UserError, match="results.csv"):
        find_runs([tmp_path])


def test_pairs_called_na_and_empty_cells_are_kept_apart(tmp_path):
    folder = write_run(tmp_path / "run")
    edit(folder, lambda rows: (rows[1].__setitem__(0, "NA"), rows[2].__setitem__(0, "NA"), rows[1].__setitem__(4, "")))
    table = table_of(folder)
    assert {row.method: row.cells["length"].n for row in table.rows} == {"geodesic": 4, "slerp": 5}
    assert set(find_runs([folder])[0].table["pair"]) == {"NA", "p1", "p2", "p3", "p4"}


@pytest.mark.parametrize("columns", [["nope"], ["lenght"], ["length", "lenght"], ["status"], "lenght"])
def test_a_column_that_no_run_has_is_refused_with_a_guess(tmp_path, columns):
    task = CompareRuns(runs=str(write_run(tmp_path / "run")), columns=columns)
    with pytest.raises(UserError, match="No run has a column of numbers") as refused:
        write_comparison(tmp_path / "out", task.runs, baseline="slerp", columns=task.columns)
    assert ("did you mean 'length'?" in str(refused.value)) == ("lenght" in columns)


def test_a_baseline_that_no_run_has_is_said(tmp_path):
    notes = table_of(write_run(tmp_path / "run"), baseline="slrp").notes
    assert notes == ["No run has the method 'slrp' (did you mean 'slerp'?), so that no differences from it are given."]


def test_a_number_of_fewer_pairs_says_so_in_its_cell(tmp_path):
    folder = write_run(tmp_path / "run")
    edit(folder, lambda rows: [row.append("extra" if k == 0 else "" if k < 5 else "1") for k, row in enumerate(rows)])
    assert "1 (n = 3)" in table_of(folder).markdown()


def test_shards_that_are_missing_are_said_in_the_table(tmp_path):
    for number in (1, 3):
        write_run(tmp_path / str(number), data={"shard": f"{number}/3"}, first=number, pairs=1)
    runs = join_shards(find_runs([tmp_path]))
    assert len(runs) == 1
    notes = compare_runs(runs, baseline=None).notes
    assert any("Of the 3 shards" in note and "1 is missing" in note for note in notes)


def test_swept_words_are_text_in_every_table_and_figure(tmp_path):
    words = ("=1+1 | b & c # \\input{/etc/passwd}", "y\nz <script> $\\foo$ _x_ [a]*", "w" * 200 + "1", "w" * 200 + "2")
    for number, value in enumerate(words):
        write_run(tmp_path / "runs" / str(number), prompt_a=value)
    write_comparison(tmp_path / "out", find_runs([tmp_path / "runs"]), baseline="slerp")
    markdown, latex, text, page = ((tmp_path / "out" / name).read_text() for name in (
        "comparison.md", "comparison.tex", "comparison.csv", "report.html"))  # fmt: skip
    assert len({line.count("|") for line in markdown.splitlines()}) == 1
    assert len(markdown.splitlines()) == 2 + 2 * len(words)
    assert "<script" not in markdown
    assert page.count("<script") == 1, "the page's own"
    assert "\\input{" not in latex
    assert " & c #" not in latex
    assert ",=1+1" not in text
    assert (tmp_path / "out" / "figures" / "sweep.png").exists()


def test_failing_methods_are_not_ranked_with_whole_ones():
    rows = [{"pair": f"p{k}", "method": m, "status": "failed" if (m, k) == ("a", 9) else "converged",
             "length": np.nan if (m, k) == ("a", 9) else 1.0 * k} for m in "abc" for k in range(10)]  # fmt: skip
    run = RunRecord(folder=None, settings={}, table=pd.DataFrame(rows), measured=pd.DataFrame(
        columns=["method", "column", "value", "standard_error"]))  # fmt: skip
    table = compare_runs([run], baseline=None)
    assert {table.rows[k].method for k in table.rank("length")} == {"b", "c"}


def test_the_images_of_shards_are_counted_together(tmp_path):
    record = {"method": "slerp", "column": "length", "value": 1.0, "standard_error": None, "weights": {"i": "0"}}
    for name, images, shard in (("a", 8, "1/2"), ("b", 24, "2/2"), ("whole", 32, None)):
        write_run(tmp_path / name, data={"shard": shard}, first=len(name), pairs=1)
        record["counts"] = {"generated": images, "reference": images, "dimensions": 4}
        (tmp_path / name / "metrics.json").write_text(json.dumps({"records": [record]}))
    runs = join_shards(find_runs([tmp_path]))
    assert len(runs) == 2
    assert runs[0].origins == runs[1].origins
    assert not any("by different weights" in note for note in compare_runs(runs, baseline=None).notes)


def ended(folder, **options):
    """A run that ended as runs do, which leave checksums of their files."""
    complete(write_run(folder, **options), {"pairs": 5.0})
    return folder


@pytest.mark.parametrize("name", ["results.csv", "config.yaml", "metrics.json", "summary.json", "environment.json"])
def test_a_finished_run_with_a_changed_or_lost_file_is_refused(tmp_path, name):
    ended(tmp_path / "0", alpha=0.1, environment={"commit": "abc1"})
    ended(tmp_path / "1", alpha=0.2, environment={"commit": "abc1"})
    assert len(find_runs([tmp_path])) == 2
    file = tmp_path / "0" / name
    content = file.read_bytes()
    # Each change leaves a file that can be read: another length, alpha, name, count or commit.
    changes = {"results.csv": (b"10.0", b"18.0"), "config.yaml": (b"0.1", b"0.3"), "metrics.json": (b"rec", b"rek")}
    before, after = changes.get(name, (b"5.0", b"4.0") if name == "summary.json" else (b"abc1", b"abc2"))
    assert before in content
    file.write_bytes(content.replace(before, after, 1))
    with pytest.raises(UserError, match=f"{name}' is not as its run left it"):
        find_runs([tmp_path])
    file.unlink()
    if name == "summary.json":  # an unfinished run, as the page says
        assert any("not finished" in note for note in table_of(tmp_path).notes)
    else:
        with pytest.raises(UserError, match=f"{name}' is lost from a finished run"):
            find_runs([tmp_path])
    file.write_bytes(content)
    assert len(find_runs([tmp_path])) == 2


def test_an_empty_configuration_is_refused(tmp_path):
    (write_run(tmp_path / "0") / "config.yaml").write_text("")
    with pytest.raises(UserError, match="no configuration of a run"):
        find_runs([tmp_path])


def test_a_run_that_left_no_table_is_named(tmp_path):
    for number in range(3):
        write_run(tmp_path / f"{number}", alpha=number, choices={"task": "interpolation"})
    write_run(tmp_path / "training", choices={"task": "train_clevr_ldm"})
    for name in ("1", "training"):
        (tmp_path / name / "results.csv").unlink()
    table = table_of(tmp_path)
    assert [note for note in table.notes if "left no results.csv" in note] == [
        f"The run '{tmp_path / '1'}' left no results.csv and is not in the tables."
    ]


def page_of(tmp_path, *folders):
    """What a page of these runs says, and whether it has curves."""
    write_comparison(tmp_path / "out", find_runs(folders), baseline="slerp")
    page = re.sub(r"<(style|script)>.*?</\1>", "", (tmp_path / "out" / "report.html").read_text(), flags=re.S)
    said = html.unescape(re.sub(r"<[^>]+>", " ", page.replace("<wbr>", "")))
    return said, (tmp_path / "out" / "figures" / "sweep.png").exists()


def scored(folder, place, *, true=None):
    data = {"frames": str(place), "true": true}
    return write_run(folder, choices={"task": "score"}, task={"data": data}, **data)


def test_scored_frames_are_told_apart_by_the_ends_of_their_paths_and_are_no_axis(tmp_path):
    places = [tmp_path / "some" / "where" / name / "frames" for name in ("ours", "theirs")]
    folders = [scored(tmp_path / f"run{k}", place) for k, place in enumerate(places)]
    said, curves = page_of(tmp_path, *folders)
    assert not curves
    assert "2 runs side by side; what varies between them: sequences." in said
    assert "ours/frames" in said and "theirs/frames" in said
    assert "some/where" not in said
    assert "Before comparing" not in said  # that the frames of others lie in other folders is no news
    long = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert set(long["sequences"]) == set(map(str, places))  # where a machine reads, the whole path
    assert table_of(*folders).comparable("length") == [[0, 1, 2, 3]]


def test_scored_frames_beside_other_true_frames_are_not_ranked_together(tmp_path):
    for name in ("a", "b"):
        scored(tmp_path / name, f"/made/{name}", true=f"/true/{name}")
    scored(tmp_path / "c", "/made/c")
    table = table_of(tmp_path)
    assert table.varied == ["sequences"]
    assert table.comparable("length") == [[0, 1], [2, 3], [4, 5]]
    assert any("not all over the same pairs" in note for note in table.notes)


def test_pairs_of_other_images_are_told_apart_by_a_name_and_need_no_list_of_keys(tmp_path):
    for k, pair in enumerate("xy"):
        images = {"image_a": f"/pictures/of/{pair}-a.png", "image_b": f"/pictures/of/{pair}-b.png", "prompt_a": pair}
        write_run(tmp_path / pair, pairs=1, first=k, data=images, **images)
    said, curves = page_of(tmp_path, tmp_path / "x", tmp_path / "y")
    assert not curves
    assert "what varies between them: first image." in said
    assert "x-a.png" in said and "y-a.png" in said
    assert not any(words in said for words in ("image_a", "image_b", "prompt_a", "/pictures"))
    assert "The rows are not all over the same pairs" in said


def test_a_setting_is_an_axis_beside_images_that_vary(tmp_path):
    for tau in (0.4, 0.6):
        for pair in "xy":
            write_run(tmp_path / f"{pair}{tau}", tau=tau, image_a=f"/pictures/{pair}.png")
    table = table_of(tmp_path)
    assert sweep_axes(table) == ["tau", "image_a"]
    assert page_of(tmp_path, tmp_path)[1]


def test_runs_of_different_tasks_have_one_sentence_on_their_settings(tmp_path):
    write_run(tmp_path / "made", choices={"task": "interpolation", "model": "m"}, tau=0.6, frames=17)
    scored(tmp_path / "given", tmp_path / "f")
    scored(tmp_path / "others", tmp_path / "g")
    table = table_of(tmp_path)
    assert table.varied == ["sequences"]
    assert [row.words["sequences"] for row in table.rows] == ["f", "f", "own", "own", "g", "g"]
    assert table.notes == [
        "The runs are of different tasks (score, interpolation), which have other settings: no difference between "
        "their rows can be put down to one setting."
    ]
    assert sweep_axes(table) == []


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("image_a", ["/x/a.png", "/x/b.png"], ["a.png", "b.png"]),
        ("data.keys", [["/x/a.png", "/x/b.png"], ["/y/a.png", "/y/b.png"]], ["x/a.png, x/b.png", "y/a.png, y/b.png"]),
        ("image_a", ["a.png", "./a.png", None], ["a.png", "a.png", "none"]),
        ("sequences", [None, "/x/f"], ["own", "f"]),
        ("prompt_a", ["red / blue", "blue"], ["red / blue", "blue"]),
        ("model.path_or_name", ["/m/one", "/m/two"], ["one", "two"]),
        ("smooth", [True, None], ["true", "none"]),
        ("tau", [0.4, 1e-5], ["0.4", "1e-05"]),
    ],
)
def test_values_are_printed_as_short_as_tells_them_apart(name, values, words):
    assert list(value_words(name, {repr(value): value for value in values}).values()) == words


def test_one_run_is_said_to_be_one(tmp_path, caplog):
    caplog.set_level("INFO")
    said, _ = page_of(tmp_path, write_run(tmp_path / "run", pairs=1, finished=False))
    assert "1 run compared" in caplog.text
    assert "The means of one run." in said
    assert "its rows are over 1 pair." in said
    assert (counted(1, "pair"), counted(0, "pair"), counted(2, "pair")) == ("1 pair", "0 pairs", "2 pairs")


def test_notes_and_tables_have_printed_names(tmp_path):
    write_run(tmp_path / "runs" / "full", alpha=0.1)
    write_run(tmp_path / "runs" / "cut", alpha=0.2, pairs=2)
    for folder in (tmp_path / "runs").iterdir():
        table = pd.read_csv(folder / "results.csv").assign(truth_rmse=1.0, **{"ppl_clevr@raw": 2.0})
        table.loc[0, "ppl_clevr@raw"] = 3.0
        table.to_csv(folder / "results.csv", index=False)
    said, _ = page_of(tmp_path, tmp_path / "runs")
    assert "relative length" in said and "pixel error to truth" in said and "PPL, sum (clevr, raw)" in said
    assert not any(key in said for key in ("truth_rmse", "ppl_clevr", "@raw", "after the @"))
