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
