"""The page of a sweep: strips of frames by value, links to its runs, a table for a paper, marks by what is printed."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from browser import check_page
from PIL import Image
from test_comparison import PAIRS, write_run

from latent_geodesics.core.errors import UserError
from latent_geodesics.experiments.interpolation.report import _protocol_rows
from latent_geodesics.metrics import MetricRecord
from latent_geodesics.run.canvas import draw_grid, frames_on_disk, shown_positions
from latent_geodesics.run.compare.report import write_comparison
from latent_geodesics.run.compare.runs import find_runs
from latent_geodesics.run.compare.tables import compare_runs
from latent_geodesics.run.sequences import save_strip

ALPHAS = (0.5, 2.0, 10.0)
SIZE = 32, 18


def keep_frames(folder, method, pair, shade):
    place = folder / "frames" / method / pair
    place.mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", SIZE, (shade, 50 * number, 90)).save(place / f"{number:04d}.png")


@pytest.fixture
def sweep(tmp_path):
    """Runs of three powers, whose geodesics change with it and whose slerp does not."""
    for alpha in ALPHAS:
        folder = write_run(tmp_path / "sweep" / f"power {alpha}", alpha=alpha)
        for pair in PAIRS[:4]:
            keep_frames(folder, "geodesic", pair, int(20 * alpha))
            keep_frames(folder, "slerp", pair, 90)
        (folder / "report.html").write_text("<!doctype html><title>run</title>")
    return tmp_path / "sweep"


def test_the_page_of_a_sweep(sweep):
    write_comparison(sweep, find_runs([sweep]), baseline="slerp")
    assert sorted(file.name for file in (sweep / "strips").iterdir()) == [
        f"{pair}.{ending}" for pair in PAIRS[:3] for ending in ("pdf", "png")
    ]
    page = (sweep / "report.html").read_text()
    links = re.findall(r'<a href="([^"]+)">', page)
    assert links == [f"power%20{alpha}/report.html" for alpha in ALPHAS]
    assert "relative length ↓" in page
    assert '<td class="best">' in page
    check_page(sweep / "report.html")
    # Three rows of the geodesic, one of slerp, which no value changes; each frame as wide as it is.
    with Image.open(sweep / "strips" / "pair_0.png") as picture:
        shown = np.asarray(picture.convert("RGB")).astype(int)
    column = shown[:, 300]  # through the first frame, whose green is 0
    shades = [shade for shade, green, blue in column if abs(green) < 9 and abs(blue - 90) < 9]
    assert [k for k, shade in enumerate((10, 40, 200, 90)) if any(abs(shade - s) < 9 for s in shades)] == [0, 1, 2, 3]
    assert sum(abs(np.array(shades) - 90) < 9) == pytest.approx(sum(abs(np.array(shades) - 200) < 9), rel=0.1)


def test_a_swept_run_without_frames_or_page_has_none(tmp_path):
    for alpha in ALPHAS:
        write_run(tmp_path / f"{alpha}", alpha=alpha)
    write_comparison(tmp_path, find_runs([tmp_path]), baseline="slerp")
    assert not (tmp_path / "strips").exists()
    page = (tmp_path / "report.html").read_text()
    assert "<a href" not in page
    assert "<h2>The runs</h2>" in page


def test_frames_that_lead_out_of_a_run_are_refused(sweep, tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "secret.png")
    frame = sweep / "power 2.0" / "frames" / "slerp" / "pair_0" / "0000.png"
    frame.unlink()
    frame.symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="leads out of the folder"):
        write_comparison(sweep, find_runs([sweep]), baseline="slerp")


def test_titles_of_panels_do_not_overprint(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    long = ["truth_lpips_squeeze_fp16_aligned", "truth_lpips_squeeze_aligned", "truth_lpips_vgg_aligned"]
    for alpha in ALPHAS:
        folder = write_run(tmp_path / f"{alpha}", alpha=alpha)
        table = pd.read_csv(folder / "results.csv")
        table.assign(**dict.fromkeys(long, alpha)).to_csv(folder / "results.csv", index=False)
    overlaps, save = [], Figure.savefig

    def look(figure, *args, **options):
        save(figure, *args, **options)
        boxes = [axes._left_title.get_window_extent() for axes in figure.axes if axes._left_title.get_text()]
        overlaps.extend(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
        overlaps.extend(box.x1 > figure.bbox.x1 for box in boxes)

    monkeypatch.setattr(Figure, "savefig", look)
    write_comparison(tmp_path, find_runs([tmp_path]), baseline="slerp", columns=long)
    assert len(overlaps) == 3 + 3
    assert not any(overlaps)


def test_the_legend_of_a_sweep_stands_above_its_panels_and_what_is_the_same_everywhere_has_none(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    for alpha in ALPHAS:
        folder = write_run(tmp_path / f"{alpha}", alpha=alpha)
        table = pd.read_csv(folder / "results.csv").assign(ghosting=0.5)
        table.to_csv(folder / "results.csv", index=False)
    drawn, save = [], Figure.savefig

    def look(figure, *args, **options):
        save(figure, *args, **options)
        panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
        tops = [axes._left_title.get_window_extent().y1 for axes in panels]
        drawn.append(([axes.get_title(loc="left") for axes in panels], figure.legends[0].get_window_extent().y0, tops))

    monkeypatch.setattr(Figure, "savefig", look)
    write_comparison(tmp_path, find_runs([tmp_path]), baseline="slerp")
    ((titles, bottom, tops),) = drawn
    assert titles == ["mean log-density, nats", "relative length"]
    assert bottom >= max(tops) - 1


def rows_of(latex):
    """The cells of the lines of a tabular, and its column specification."""
    inside = re.search(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}\n(.*)\\end\{tabular\}", latex, re.S)
    body = re.sub(r"\\(?:top|mid|bottom)rule\n", "", inside[2])
    lines = [line.removesuffix(r" \\") for line in body.splitlines()]
    return inside[1], [line.split(" & ") for line in lines]


def test_the_latex_table_goes_into_a_paper_as_it_is(sweep):
    table = compare_runs(find_runs([sweep]), baseline="slerp")
    latex = table.latex()
    spec, lines = rows_of(latex)
    assert latex.startswith("% Means over 6 pairs")
    assert spec == "ll" + "r" * 3  # no n and no failed where all are alike
    assert {len(line) for line in lines} == {len(spec)}
    words = [" ".join(filter(None, parts)).replace("log- ", "log-") for parts in zip(*lines[:-6], strict=True)]
    assert words == [
        "Method", r"$\alpha$", r"mean log-density, nats $\uparrow$", r"relative length $\downarrow$",
        r"seconds $\downarrow$",
    ]  # fmt: skip
    assert lines[-6:][0][0] == "Geodesic"
    assert latex.isascii()
    for rule in ("top", "mid", "bottom"):
        assert latex.count(rf"\{rule}rule") == 1
    assert latex.count("{") == latex.count("}")
    assert "$-$0.25" in table_with(sweep, mean=-0.25).latex()


def test_each_number_of_a_page_stands_in_its_part(sweep):
    columns = ["ghosting", "length", "seconds", "seconds_decoding"]
    for folder in sweep.iterdir():
        table = pd.read_csv(folder / "results.csv").assign(ghosting=0.5, seconds_decoding=1.0)
        table.to_csv(folder / "results.csv", index=False)
    parts = compare_runs(find_runs([sweep]), baseline=None, columns=columns).html_parts()
    assert {part: sum(any(word in name for word in ("ghosting", "length", "seconds")) for name in shown) for part, shown
            in parts.items()} == {"The frames": 1, "The path": 1, "The cost": 2}  # fmt: skip


def test_a_paper_table_says_once_of_how_few_pairs_a_column_is(sweep):
    for folder in sweep.iterdir():
        table = pd.read_csv(folder / "results.csv")
        table.loc[table["pair"] == table["pair"][0], "length"] = float("nan")
        table.to_csv(folder / "results.csv", index=False)
    latex = compare_runs(find_runs([sweep]), baseline=None, columns=["length", "seconds"]).latex()
    assert latex.count("(n = 5)") == 1
    assert "(n = 5)" in latex.split(r"\midrule")[0]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not here")
def test_a_paper_table_fits_the_width_of_a_page(sweep, tmp_path):
    for folder in sweep.iterdir():
        table = pd.read_csv(folder / "results.csv")
        names = {"slerp": "geodesic_published", "geodesic": "geodesic_paper"}
        numbers = dict.fromkeys(("log_density_mean", "ppl_seq_clevr", "pdv_clevr", "truth_clevr", "ghosting"), 0.01234)
        table.assign(method=table["method"].replace(names), **numbers).to_csv(folder / "results.csv", index=False)
    latex = compare_runs(find_runs([sweep]), baseline=None).latex()
    assert latex.count("rrrrrrr") == 1
    (tmp_path / "t.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\usepackage[textwidth=6.875in]{geometry}"
        rf"\begin{{document}}\noindent\footnotesize {latex}\end{{document}}"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "Overfull" not in said


def table_with(sweep, *, mean):
    for folder in sweep.iterdir():
        table = pd.read_csv(folder / "results.csv").assign(length=mean)
        table.to_csv(folder / "results.csv", index=False)
    return compare_runs(find_runs([sweep]), baseline=None, columns=["length"])


def test_equal_as_printed_shares_a_mark(tmp_path):
    folder = write_run(tmp_path / "run", alpha=1.0)
    table = pd.read_csv(folder / "results.csv")
    three = pd.concat([table, table[table["method"] == "slerp"].assign(method="lerp")])
    lengths = {"geodesic": 5.0001, "slerp": 5.0002, "lerp": 5.01}
    three = three.assign(length=three["method"].map(lengths))
    three.to_csv(folder / "results.csv", index=False)
    found = compare_runs(find_runs([folder]), baseline=None, columns=["length"])
    assert list(found.rank("length").values()) == ["best", "best", "second"]
    assert found.latex().count(r"\textbf{5.00}") == 2
    assert found.latex().count(r"\underline{5.01}") == 1
    assert found.markdown().count("**5**") == 2
    records = [
        MetricRecord(
            method=method,
            column="fid@raw",
            title="FID",
            value=value,
            better="lower",
            protocol="raw",
            counts={},
            standard_error=None,
            network=None,
            weights={},
            notes=[],
            over_pairs="mean",
            seed=0,
            frames=5,
            image_size=(8, 8),
        )  # fmt: skip
        for method, value in lengths.items()
    ]
    assert [cell.mark == "best" for cell in _protocol_rows(records, list(lengths), None)[0].cells] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("height", "width"), [(18, 32), (32, 18), (8, 64), (20, 20)])
def test_frames_keep_their_proportions(tmp_path, height, width):
    frames = torch.zeros(3, 3, height, width)
    frames[:, 0] = 1
    save_strip(tmp_path / "strip.png", {"slerp": frames, "a name of three lines in all": frames})
    grid = {"pair": {"slerp": [frame.mul(255).byte().permute(1, 2, 0).numpy() for frame in frames]}}
    assert draw_grid(tmp_path / "grid", grid, at=[0, 0.5, 1])
    for name, across, rows in (("strip", 3, 2), ("grid", 3, 1)):
        with Image.open(tmp_path / f"{name}.png") as picture:
            red = (np.asarray(picture.convert("RGB")).astype(int) - (255, 0, 0) == 0).all(-1)
        widths = red.any(0).sum() / across
        heights = red.any(1).sum() / rows
        assert widths / heights == pytest.approx(width / height, rel=0.05), name


@pytest.mark.parametrize("frames", [2, 3, 5, 9, 17])
@pytest.mark.parametrize("columns", [2, 5, 7])
def test_columns_are_named_by_the_positions_of_their_frames(tmp_path, frames, columns):
    at = shown_positions(frames, columns)
    assert (at[0], at[-1], len(at)) == (0, 1, min(frames, columns))
    assert sorted(set(at)) == at, "no frame stands twice"
    assert all(u * (frames - 1) == pytest.approx(round(u * (frames - 1))) for u in at)
    place = tmp_path / "frames" / "slerp" / "a"
    place.mkdir(parents=True)
    for number in range(frames):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(place / f"{number:04d}.png")
    found = frames_on_disk(tmp_path, "a", "slerp", at=at)
    assert [frame[0, 0, 0] for frame in found] == pytest.approx([u * (frames - 1) for u in at])


def test_large_frames_are_read_as_small_as_a_figure_needs(tmp_path):
    place = tmp_path / "frames" / "slerp" / "a"
    place.mkdir(parents=True)
    for number in range(9):
        Image.new("RGB", (800, 400), (number, 0, 0)).save(place / f"{number:04d}.png")
    found = frames_on_disk(tmp_path, "a", "slerp", at=[0, 0.5, 1])
    assert [frame[0, 0, 0] for frame in found] == [0, 4, 8]
    assert {frame.shape for frame in found} == {(170, 340, 3)}
