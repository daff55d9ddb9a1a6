"""A suite with a version: rows made of a run, rows that others add, and the page of all of them."""

import copy
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from browser import check_page
from PIL import Image, ImageDraw

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.leaderboard import leaderboard_page
from latent_geodesics.run.suite import Suite, read_rows

NAME = "tiny-morph-1"
HEADER = "id,group,cluster,image_a,image_b,prompt_a,prompt_b\n"


def draw(file, color, at):
    picture = Image.new("RGB", (16, 16), "gray")
    ImageDraw.Draw(picture).rectangle((at, at, at + 6, at + 6), fill=color)
    picture.save(file)


@pytest.fixture
def run_on(command_line, tmp_path, tiny_model_folder):
    """A run of two methods on three small pairs."""
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for name, color, at in (("p", "red", 2), ("q", "blue", 5), ("r", "green", 8)):
        draw(pairs / f"{name}.png", color, at)
    lines = [f"{a}{b},moved,{c},{a}.png,{b}.png,a red cube,a blue sphere\n" for a, b, c in ("pqx", "qry", "rpy")]
    (pairs / "manifest.csv").write_text(HEADER + "".join(lines))

    def call(name, *arguments):
        outcome = command_line(
            f"data.manifest={pairs / 'manifest.csv'}", f"model.path_or_name={tiny_model_folder}", "model.steps=5",
            "model.cache_dir=null", "frames=4", "tau=0.2", "method=[slerp,lerp]", "logger.mode=disabled", "format=none",
            f"output_dir={tmp_path / name}", *arguments,
        )  # fmt: skip
        assert outcome.code == 0, outcome.stderr
        return tmp_path / name

    return call


def test_from_a_run_to_the_page(run_on, command_line, tmp_path):
    def task(name, *arguments):
        return command_line(f"task={name}", f"output_dir={tmp_path / name}{len(arguments[-1])}", *arguments,
                            "logger.mode=disabled")  # fmt: skip

    folder, suites = run_on("run"), tmp_path / "suites"
    report = (folder / "report.html").read_text()
    assert re.search(r"<td[^>]*>[\d.]+ \[[\d.]+, [\d.]+\]</td>", report), "means have intervals"
    check_page(folder / "report.html")
    own = [f"task.folder={suites}", f"task.suite={NAME}", "task.by=we"]
    submitted = task("submit", *own, f"task.runs=[{folder}]")
    assert submitted.code == 0, submitted.stderr
    suite, rows = read_rows(suites / NAME)
    assert (suite.frames, suite.image_size, dict(suite.pairs)) == (4, [16, 16], {"pq": "x", "qr": "y", "rp": "y"})
    assert [row["method"] for row in rows] == ["lerp", "slerp"]
    table = pd.read_csv(folder / "results.csv").set_index(["method", "pair"])
    for row in rows:
        for pair, cells in row["pairs"].items():
            for column, value in cells.items():
                known = table.loc[(row["method"], pair), column]
                known = None if np.isnan(known) else float(f"{known:.7g}")
                assert value == known, column
    assert "ppl_seq_clevr" in suite.columns
    assert rows[0]["weights"]["model"] == json.loads((folder / "environment.json").read_text())["weights"]["model"]

    foreign = copy.deepcopy(rows[0]) | {
        "method": "theirs",
        "title": "<b>Theirs</b>",
        "by": "others",
        "link": "https://a.b",
    }
    foreign["pairs"] = {pair: {"ppl_seq_clevr": k + 1.0} for k, pair in enumerate(foreign["pairs"])}
    (suites / NAME / "theirs.json").write_text(json.dumps(foreign))
    shown = task("leaderboard", f"task.suite={suites / NAME}")
    assert shown.code == 0, shown.stderr
    made = next(tmp_path.glob("leaderboard*"))
    assert json.loads((made / "summary.json").read_text())["theirs/ppl_seq_clevr"] == 2.0
    page = (made / "report.html").read_text()
    assert "&lt;b&gt;Theirs" in page
    assert "<b>Theirs" not in page
    check_page(made / "report.html")

    other = run_on("other", "frames=5")
    refused = task("submit", *own, f"task.runs=[{other}]")
    assert refused.code == 2
    assert "its frames differ (5 in place of 4)" in refused.sentence
    assert Suite.read(suites / NAME).frames == 4
    again = shutil.copytree(folder, tmp_path / "again")
    twice = task("submit", f"task.folder={suites}", f"task.suite={NAME}", f"task.runs=[{folder},{again}]")
    assert "slerp twice" in twice.sentence


SUITE = Suite(
    name=NAME, manifest_sha256="0" * 64, pairs={"pq": "x", "qr": "y"}, frames=4, image_size=[16, 16],
    columns=["ppl_seq_clevr", "reconstruction_psnr", "fid"],
)  # fmt: skip
ROW = {
    "suite": NAME, "method": "theirs", "title": "Theirs", "by": "others", "model": "none", "settings": {"steps": 3},
    "pairs": {"pq": {"ppl_seq_clevr": 2.0}, "qr": {"ppl_seq_clevr": None}}, "whole": {"fid": {"value": 9.5}},
}  # fmt: skip
WRONG = {
    "suite": ({"suite": "tiny-morph-2"}, "of the suite 'tiny-morph-2'"),
    "method": ({"method": "other"}, "must be the name of the file"),
    "name": ({"method": "../x"}, "does not match"),
    "pair missing": ({"pairs": {"pq": {"ppl_seq_clevr": 2.0}}}, "it lacks the pair 'qr'"),
    "pair too many": ({"pairs": ROW["pairs"] | {"zz": {}}}, "has no pair 'zz'"),
    "column": ({"pairs": ROW["pairs"] | {"qr": {"ppl_sq_clevr": 1.0}}}, "Did you mean 'ppl_seq_clevr'"),
    "whole column": ({"whole": {"fidd": {"value": 1.0}}}, "no column 'fidd'"),
    "text for a number": ({"pairs": ROW["pairs"] | {"qr": {"ppl_seq_clevr": "2"}}}, "'2' is not of type"),
    "truth for a number": ({"pairs": ROW["pairs"] | {"qr": {"ppl_seq_clevr": True}}}, "True is not of type"),
    "nothing": ({"pairs": {"pq": {}, "qr": {}}, "whole": {}}, "holds no number"),
    "unknown key": ({"rank": 1}, "'rank' was unexpected"),
    "link": ({"link": "javascript:alert(1)"}, "does not match"),
    "error": ({"whole": {"fid": {"value": 1.0, "standard_error": -1.0}}}, "minimum"),
}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / NAME
    SUITE.write(place)
    return place


def test_somebody_elses_row_is_a_file(folder):
    (folder / "theirs.json").write_text(json.dumps(ROW))
    suite, rows = read_rows(folder)
    assert rows == [ROW]
    page, table = leaderboard_page(suite, rows)
    assert table.to_dict("records") == [{"method": "theirs", "ppl_seq_clevr": 2.0, "fid": 9.5}]
    assert [section.title for section in page.sections] == ["The frames", "Who and how"]
    assert page.sections[0].table.columns[1].endswith("↓")


def test_a_mean_over_fewer_pairs_says_so_and_leads_nothing(folder):
    for name, values in (("easy", (0.1, None)), ("ours", (1.0, 1.0)), ("theirs", (2.0, 2.0))):
        pairs = {pair: {"ppl_seq_clevr": value} for pair, value in zip(SUITE.pairs, values, strict=True)}
        (folder / f"{name}.json").write_text(json.dumps(ROW | {"method": name, "title": name, "pairs": pairs}))
    table = leaderboard_page(*read_rows(folder))[0].sections[0].table
    assert list(table["method"]) == ["Ours", "Theirs", "Easy"]
    assert table.iloc[2, 1] == "0.1 (1 pair)"
    assert not table.iloc[:2, 1].str.contains("pair").any()


def test_a_number_of_a_whole_run_does_not_stand_for_those_of_pairs(folder):
    (folder / "ours.json").write_text(json.dumps(ROW | {"method": "ours"}))
    whole = {"pairs": {pair: {} for pair in SUITE.pairs}, "whole": {"ppl_seq_clevr": {"value": 0.1}}}
    (folder / "theirs.json").write_text(json.dumps(ROW | whole))
    with pytest.raises(UserError, match=r"theirs\.json' is no row .*'ppl_seq_clevr' stands in its whole"):
        read_rows(folder)


def test_a_time_that_clocks_do_not_tell_has_no_digits(folder):
    suite = replace(SUITE, columns=["seconds"])
    row = ROW | {"pairs": {"pq": {"seconds": 0.002}, "qr": {"seconds": 0.0021}}, "whole": {}}
    page, _ = leaderboard_page(suite, [row])
    assert page.sections[0].table.iloc[0, 1] == "< 0.01"


def test_rows_are_in_the_order_of_the_first_column(folder):
    for name, value in (("theirs", 3.0), ("ours", 1.0), ("none", None)):
        row = ROW | {"method": name, "title": name, "pairs": {pair: {"ppl_seq_clevr": value} for pair in SUITE.pairs}}
        (folder / f"{name}.json").write_text(json.dumps(row))
    page, _ = leaderboard_page(*read_rows(folder))
    assert list(page.sections[0].table["method"]) == ["Ours", "Theirs", "None"]


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_refused_in_one_sentence(folder, case):
    change, words = WRONG[case]
    (folder / "theirs.json").write_text(json.dumps(ROW | change))
    with pytest.raises(UserError) as said:
        read_rows(folder)
    assert words in str(said.value)
    assert "theirs.json" in str(said.value)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": NaN}', "\ufeff{}", "[" * 100_000])
def test_a_file_that_is_no_row_is_refused(folder, text):
    (folder / "theirs.json").write_text(text)
    with pytest.raises(UserError, match=r"theirs\.json") as said:
        read_rows(folder)
    assert "\n" not in str(said.value)


def test_a_missing_part_is_named(folder):
    for part in ("suite", "method", "title", "by", "model", "settings", "pairs", "whole"):
        (folder / "theirs.json").write_text(json.dumps({name: value for name, value in ROW.items() if name != part}))
        with pytest.raises(UserError, match=f"'{part}' is a required property"):
            read_rows(folder)


def test_a_folder_that_is_no_suite_is_refused(tmp_path, folder):
    with pytest.raises(UserError, match="is no suite"):
        read_rows(tmp_path)
    (folder / "suite.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match="defines no suite"):
        read_rows(folder)


def test_what_ships_is_whole():
    """Rows in the repository are rows, whoever added them."""
    from latent_geodesics.run.main import ROOT

    for definition in sorted((ROOT / "benchmarks").glob("*/suite.json")):
        read_rows(definition.parent)


def test_what_draws_no_path_has_no_row_among_the_paths(tmp_path):
    suite = replace(SUITE, columns=["ppl_seq_clevr", "length"])
    rows = [
        ROW | {"method": name, "title": name, "whole": {}, "pairs": dict.fromkeys(SUITE.pairs, numbers)}
        for name, numbers in (("path", {"length": 2.0}), ("film", {"ppl_seq_clevr": 1.0}))
    ]
    page, _ = leaderboard_page(suite, rows)
    tables = {section.title: section.table.to_dict("list") for section in page.sections}
    assert tables["The frames"] == {"method": ["Film", "Path"], "perceptual length ↓": ["1", "-"]}
    assert tables["The path"] == {"method": ["Path"], "relative length ↓": ["2"]}  # an interval of no width is none
