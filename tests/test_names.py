"""Names that others chose as files, as text in figures, and as cells of tables."""

import csv
import io
import itertools
import re
import shutil
import subprocess

import pandas as pd
import pytest
from matplotlib.text import Text
from wicked import WICKED

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.canvas import LONGEST, literal, wrapped
from latent_geodesics.run.files import (
    csv_text,
    file_stem,
    guarded,
    inside,
    latex_text,
    markdown_text,
    one_line,
    unguarded,
)
from latent_geodesics.run.pages import render_template


@pytest.mark.parametrize("name", WICKED, ids=ascii)
def test_a_file_of_any_name_stays_in_its_folder(name, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    file = folder / f"{file_stem(name)}.webp"
    file.write_text("x")
    assert [found.name for found in folder.iterdir()] == [file.name]
    assert inside(folder, file.name) == file
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+~-]{0,119}", file_stem(name))
    assert file_stem(name) == file_stem(name)


def test_different_names_give_different_files_where_capitals_are_small_letters_too():
    stems = [file_stem(name).lower() for name in WICKED]
    assert len(set(stems)) == len(WICKED)
    assert not {"overview", "con", "nul.txt"} & set(stems)


def test_ordinary_names_are_readable():
    assert file_stem("00-translate_x") == "00-translate_x"
    assert file_stem("a--b", "geodesic_paper") == "a--b_geodesic_paper"
    assert file_stem("a", "boundary", "parallel") == "a_boundary_parallel"
    assert file_stem("Metamorphosis-cat").startswith("Metamorphosis-cat~")


def test_names_that_are_joined_can_be_told_apart():
    parts = ("a", "b", "a_b", "b_a", "a_b_a", "geodesic_paper", "a_geodesic", "paper", "A", "a+b", "x~y", "")
    for count in (2, 3):
        stems = [file_stem(*some) for some in itertools.product(parts, repeat=count)]
        assert len({stem.lower() for stem in stems}) == len(parts) ** count
    assert len(file_stem(*("x" * 100,) * 3)) < 100


@pytest.mark.parametrize("name", WICKED, ids=ascii)
def test_figures_draw_a_name_letter_by_letter(name):
    drawn, math = Text(text=literal(name))._preprocess_math(literal(name))
    assert math is False
    assert drawn.lstrip() == one_line(name, most=LONGEST)
    assert len(drawn) <= LONGEST + 1
    assert not literal(name).startswith("_")  # which a legend would leave out
    for line in wrapped(f"{name} {name}", width=7).splitlines():
        assert Text()._preprocess_math(line)[1] is False


def test_long_text_is_cut_in_its_middle_and_control_characters_are_shown():
    assert one_line("a\nb\t c\x00\u202e") == "a b c\ufffd\ufffd"
    assert one_line("0123456789", most=7) == "0123\u202689"
    assert len(one_line("x" * 300, most=48)) == 48


@pytest.mark.parametrize("name", WICKED, ids=ascii)
def test_a_csv_file_gives_every_cell_back_and_holds_no_formula(name):
    table = pd.DataFrame([{"pair": name, "value": -1.5}, {"pair": "b", "value": 2.0}])
    rows = list(csv.reader(io.StringIO(csv_text(table), newline=""), strict=True))
    assert [unguarded(row[0]) for row in rows] == ["pair", name, "b"]
    assert [row[1] for row in rows] == ["value", "-1.5", "2.0"]
    assert rows[1][0][:1] not in tuple("=+-@\t\r\n")
    heading = next(csv.reader(io.StringIO(csv_text(pd.DataFrame({name: [1]})), newline="")))
    assert [unguarded(cell) for cell in heading] == ([name] if name else [""])
    assert guarded(table)["value"].tolist() == [-1.5, 2.0]


@pytest.mark.parametrize("name", WICKED, ids=ascii)
def test_markdown_and_html_hold_text_alone(name, tmp_path):
    cell = markdown_text(name)
    assert not re.search(r"[|`*<>\[\]\\$\n\r\x00]|(?<!\w)_|_(?!\w)|&(?!#\d+;|amp;|lt;|gt;)", cell)
    section = {"title": name, "text": [name], "pictures": [], "table": pd.DataFrame({name: [name]})}
    page = render_template("page.html", folder=tmp_path, title=name, lead=name, facts={name: name}, sections=[section])
    assert page.count("<script") == 1, "the page's own"
    assert 'quote"' not in page.replace('lang="en"', "")


def test_latex_escapes_all_that_means_something():
    assert latex_text("a & b % c # d_e $ {f}") == r"a \& b \% c \# d\_e \$ \{f\}"
    assert latex_text("\\input{x} ~ ^") == r"\textbackslash{}input\{x\} \textasciitilde{} \textasciicircum{}"
    assert latex_text("[1] *\n") == "{[}1{]} {*}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not here")
def test_latex_takes_every_name(tmp_path):
    cells = " \\\\\n".join(latex_text(name.encode("ascii", "ignore").decode()) for name in WICKED)
    text = "\\documentclass{article}\\begin{document}\\begin{tabular}{l}\n" + cells + "\n\\end{tabular}\\end{document}"
    (tmp_path / "t.tex").write_text(text)
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "link.png"])
def test_a_page_embeds_no_file_from_outside_its_folder(name, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    picture = {"file": name, "caption": ""}
    section = {"title": "", "text": [], "pictures": [picture], "table": None}
    with pytest.raises(UserError, match="leads out of the folder"):
        render_template("page.html", folder=folder, title="", lead="", facts={}, sections=[section])
