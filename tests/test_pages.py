"""Report pages and their figures hold what is given to them whole, whatever its length."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from latent_geodesics.experiments.interpolation.figures import Curve, draw_overview, draw_pair
from latent_geodesics.experiments.interpolation.report import _statuses
from latent_geodesics.run import pages
from latent_geodesics.run.canvas import legend_below
from latent_geodesics.run.pages import Page
from latent_geodesics.run.sections import Timeline, brief


@pytest.mark.parametrize(("width", "names"), [(4, 6), (15, 3), (6, 30)])
def test_a_legend_lies_below_the_panels_and_within_the_figure(width, names):
    figure = Figure(figsize=(width, 3), layout="constrained")
    axes = figure.subplots()
    for number in range(names):
        axes.plot([0, 1], [0, number], label=f"perturbed ({number} steps)")
    legend_below(figure, axes)
    figure.draw_without_rendering()
    box, (across, _) = figure.legends[0].get_window_extent(), figure.canvas.get_width_height()
    assert 0 <= box.x0 < box.x1 <= across
    assert 0 <= box.y0 < box.y1 <= axes.xaxis.get_tightbbox().y0 + 1
    assert axes.get_window_extent().height > 0.4 * 3 * figure.dpi
    assert len(figure.legends[0].get_texts()) == names


def test_an_overview_of_one_column_and_many_methods_is_drawn(tmp_path):
    rows = [{"pair": "a", "method": name, "length": 1.0} for name in ("slerp", *(f"method_{k}" for k in range(12)))]
    draw_overview(tmp_path / "overview.png", pd.DataFrame(rows))
    assert (tmp_path / "overview.png").stat().st_size > 10_000


def test_small_differences_have_numbers_that_do_not_overprint(tmp_path, monkeypatch):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: (drawn.append(figure), save(figure, file)))
    rows = [{"pair": "a", "method": name, **dict.fromkeys(("log_density_mean", "log_density_min", "length"), value)}
            for name, value in (("slerp", 2.776), ("geodesic", 2.77561))]  # fmt: skip
    draw_overview(tmp_path / "overview.png", pd.DataFrame(rows))
    for axes in drawn[0].axes:
        assert axes.get_xlabel() == "difference from Slerp"
        boxes = [tick.get_window_extent() for tick in axes.get_xticklabels() if tick.get_text()]
        assert len(boxes) > 2
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_headings_may_go_on_after_an_underscore_and_stay_text(tmp_path):
    table = pd.DataFrame({"log_density_mean": [1e-05], "<b>_x": ["a-b"]})
    report = Page("t", "l", {})
    report.section("s", table=table)
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<th>log_<wbr>density_<wbr>mean</th><th>&lt;b&gt;_<wbr>x</th>" in page
    assert '<td class="whole">1e-05</td><td>a-b</td>' in page


def test_sentences_of_a_table_begin_below_their_heading(tmp_path):
    report = Page("t", "l", {})
    report.section("s", table=pd.DataFrame({"a": ["short"], "b": ["a sentence of more letters than stand on a line"]}))
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert '<th>a</th><th class="words">b</th>' in page
    assert '<td>short</td><td class="words">a sentence' in page


@pytest.mark.parametrize(("iterations", "panels"), [(0, 2), (3, 4)])
def test_a_pair_for_which_nothing_was_solved_has_no_panels_of_a_solver(tmp_path, monkeypatch, iterations, panels):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: (drawn.extend(figure.axes), save(figure, file)))
    history = {"evaluations": np.arange(iterations), "lengths": np.ones(iterations), "residuals": np.ones(iterations)}
    u = np.linspace(0, 1, 5)
    closed = {"evaluations": np.zeros(0), "lengths": np.zeros(0), "residuals": np.zeros(0)}
    curves = [
        Curve(method=name, u=u, log_density=u, speed=np.ones(5), **found)
        for name, found in (("geodesic", history), ("slerp", closed))
    ]
    draw_pair(tmp_path / "pair.png", curves, density="p(x)")
    assert len(drawn) == panels
    assert all(axes.lines for axes in drawn)


def test_statuses_are_told_where_something_was_to_be_solved():
    closed, solved = (pd.DataFrame({"status": ["closed_form", other]}) for other in ("sampled", "stalled"))
    assert _statuses(closed) == {}
    assert {name: count for name, (_, count) in _statuses(solved).items()} == {"closed_form": 1, "stalled": 1}


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([0, 0.375, 1], ["time 0.00", "time 0.38", "time 1.00"]),
        ([-1, 0, 2], ["time -1.0", "time 0.0", "time 2.0"]),
        ([1990, 2000, 2040], ["time 1990", "time 2000", "time 2040"]),
        ([0, 1e-3, 2e-3], ["time 0.0000", "time 0.0010", "time 0.0020"]),
        ([4.5], ["time 4.5"]),
    ],
)
def test_a_slider_tells_the_time_in_digits_that_tell_frames_apart(times, words):
    assert Timeline(times=times, keys=[0]).words == words


def test_a_time_has_no_digits_that_say_nothing():
    assert [brief(time, to=0.5) for time in (3, 3.5, 14 / 3)] == ["3", "3.5", "4.67"]
    assert [brief(time, to=10) for time in (0, 1990, 2000)] == ["0", "1990", "2000"]


def test_numbers_have_three_digits_and_thousands_a_comma():
    shown = {
        0.12345: "0.123",
        -0.0: "0",
        3: "3",
        999.4: "999",
        999.6: "1,000",
        1066: "1,066",
        1066.4: "1,066",
        2e6: "2,000,000",
    }
    assert {value: pages.number(value) for value in shown} == shown


def test_a_strip_scrolls_before_its_names_are_too_small_to_be_read(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "figures").mkdir()
    for name in ("images/strip.png", "figures/figure.png"):
        Image.new("RGB", (2000, 10)).save(tmp_path / name)
    page = Page("Title", "Lead", {})
    page.section("Section", pictures={"images/strip.png": "", "figures/figure.png": ""})
    page.write(tmp_path)
    assert (tmp_path / "report.html").read_text().count('<img style="min-width: 1300px" src=') == 1


def test_keys_are_marked_where_the_slider_shows_them():
    assert Timeline(times=[0, 1, 2, 3, 7], keys=[0, 3, 4]).marks == [0, 0.75, 1]
