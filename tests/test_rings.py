"""The imports point inward only: core knows nothing of images, the application nothing of the shell."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import latent_geodesics

ROOT = Path(latent_geodesics.__file__).parent
RINGS = {"core": 0, "models": 1, "data": 1, "methods": 1, "metrics": 1, "run": 2, "experiments": 3}
CORE_LIBRARIES = {"jaxtyping", "numpy", "scipy", "torch"}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


def room_of(module: Path) -> str:
    return module.relative_to(ROOT).parts[0]


def imports(module: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name} imports relatively"
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= names if node.module == "latent_geodesics" else {str(node.module)}
    return found


def own_parts(module: Path) -> set[str]:
    own = (name.split(".") for name in imports(module) if name.split(".")[0] == "latent_geodesics")
    return {name[1] for name in own if len(name) > 1}


def test_the_package_has_rooms_alone():
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "__main__.py"]
    assert {room_of(module) for module in MODULES} == set(RINGS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_nothing_of_a_ring_outside_its_own(module):
    assert all(RINGS[part] <= RINGS[room_of(module)] for part in own_parts(module))


@pytest.mark.parametrize("module", sorted((ROOT / "core").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_only_itself_torch_and_scipy(module):
    outside = {name.split(".")[0] for name in imports(module)} - {"latent_geodesics"}
    assert outside - set(sys.stdlib_module_names) <= CORE_LIBRARIES


@pytest.mark.parametrize(
    "module", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_an_experiment_imports_nothing_of_a_sibling(module):
    own = module.relative_to(ROOT / "experiments").parts[0]
    found = {name.split(".")[2] for name in imports(module) if name.startswith("latent_geodesics.experiments.")}
    assert found <= {own}


EXPERIMENTS = sorted(folder for folder in (ROOT / "experiments").iterdir() if (folder / "recipe.py").exists())
MOST_LINES, SHARED = 90, 10


def code_lines(module: Path) -> list[str]:
    """The lines of a module that are code: no docstrings, comments, imports and blank lines."""
    text = module.read_text()
    aside: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        is_text = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            aside |= set(range(node.lineno, node.end_lineno + 1))
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [line for number, line in lines if line and not line.startswith("#") and number not in aside]


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda folder: folder.name)
def test_a_recipe_is_short_enough_to_be_read(folder):
    assert len(code_lines(folder / "recipe.py")) <= MOST_LINES


def test_no_two_experiments_share_ten_lines():
    found: dict[tuple[str, ...], str] = {}
    for folder in EXPERIMENTS:
        runs = set()
        for module in folder.glob("*.py"):
            lines = [line for line in code_lines(module) if any(letter.isalnum() for letter in line)]
            runs |= {tuple(lines[start : start + SHARED]) for start in range(len(lines) - SHARED + 1)}
        shared = [run for run in runs if run in found]
        assert not shared, f"{folder.name} and {found[shared[0]]} share {shared[0]}"
        found |= dict.fromkeys(runs, folder.name)


def test_no_two_public_classes_have_one_name():
    names = [
        node.name
        for module in MODULES
        for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert not [name for name in names if names.count(name) > 1]


def test_importing_the_package_loads_no_heavy_library():
    heavy = ["torch", "diffusers", "transformers", "pytorch_lightning", "wandb", "pyiqa", "matplotlib", "pandas"]
    code = f"import sys, latent_geodesics; sys.exit(' '.join(n for n in {heavy} if n in sys.modules) or 0)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_load_model_is_found_when_asked_for():
    assert "load_model" in latent_geodesics.__all__
    assert callable(latent_geodesics.load_model)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = latent_geodesics.nonsense
