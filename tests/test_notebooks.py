"""The notebooks run from the first cell to the last."""

import json
from pathlib import Path

import av
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def run(notebook, *, parameters):
    """Runs the cells in order, the one that is tagged `parameters` replaced; returns what they defined."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    names = {"__name__": "__main__"}
    replaced = 0
    for cell in content["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []  # results go stale, and the page that shows them is one's own
        source = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", ()):
            source, replaced = parameters, replaced + 1
        exec(compile(source, f"{notebook.name}, {cell['id']}", "exec"), names)
    assert replaced == 1
    return names


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(notebook, tmp_path, tiny_model_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = (
        f'model, frames, settings = "{tiny_model_folder}", 3, ["model.steps=5", "model.cache_dir=null", "alpha_d=1"]'
    )
    found = run(notebook, parameters=quick)
    geodesic, slerp = found["geodesic"], found["slerp"]
    assert geodesic.solution.status[0].ok
    assert float(geodesic.curves.length) < float(slerp.curves.length)
    assert len(found["axes"].lines) == 2
    with av.open(str(tmp_path / "morph.mp4")) as film:
        assert len(list(film.decode(video=0))) == 3
    assert len(list((tmp_path / "frames").glob("*.png"))) == 3


def test_there_is_one():
    assert NOTEBOOKS
