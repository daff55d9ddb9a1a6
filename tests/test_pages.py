"""Report pages and their figures hold what is given to them whole, whatever its length."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

from latent_geodesics.experiments.interpolation.figures import draw_overview
from latent_geodesics.run.canvas import legend_below
from latent_geodesics.run.pages import Page


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


def test_headings_may_go_on_after_an_underscore_and_stay_text(tmp_path):
    table = pd.DataFrame({"log_density_mean": [1e-05], "<b>_x": ["a-b"]})
    report = Page("t", "l", {})
    report.section("s", table=table)
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<th>log_<wbr>density_<wbr>mean</th><th>&lt;b&gt;_<wbr>x</th>" in page
    assert '<td class="whole">1e-05</td><td>a-b</td>' in page
