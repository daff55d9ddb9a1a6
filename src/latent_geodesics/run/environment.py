"""What a run's numbers depend on besides its configuration: versions, commit, machine, weights."""

import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "latent-geodesics",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "hydra-core",
    "diffusers",
    "transformers",
    "wandb",
    "torchmetrics",
    "torch-fidelity",
    "pyiqa",
    "cvvdp",
    "flip-evaluator",
    "lpips",
    "numpy",
)


def describe_environment(*, seed: int, weights: Mapping[str, str], machinery: Mapping[str, Any]) -> dict[str, Any]:
    """Versions of the libraries, commit and whether it was changed, machine, network, seed, hashes of the weights."""
    from latent_geodesics.models.accelerator import choose_device, device_name, machine_cores, processor

    device = choose_device("auto")
    return {
        "seed": seed,
        "weights": dict(weights),
        "network": dict(machinery),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": _git("status", "--porcelain", "--untracked-files=no") not in ("", None),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": machine_cores(),
        "accelerator": None if device.type == "cpu" else device_name(device),
        "versions": {library: _version(library) for library in LIBRARIES},
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of the checkout that this file lies in, or None outside one."""
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
