"""The command: composes the configuration and hands it to the runner.

latent-geodesics                                    interpolate the shipped pairs
latent-geodesics experiment=<id>                    another experiment; --help lists them
latent-geodesics image_a=<file> image_b=<file> prompt_a='...' prompt_b='...'
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import AnyNode, DictConfig, ListConfig, StringNode

from latent_geodesics.run.arguments import as_meant
from latent_geodesics.run.command import exits

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parents[1]
"""What ships beside the code: `conf/` and `data/`, in an installed package or in a checkout."""
CONF = ROOT / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _main(config: DictConfig) -> None:
    from latent_geodesics.run.runner import execute

    find_shipped(config)
    try:
        with exits(conf=CONF):  # Hydra would print the overrides above any error that left its job
            execute(config)
    except SystemExit:
        with suppress(OSError):  # where nothing ran nothing is left; a folder that holds something stays
            Path(HydraConfig.get().runtime.output_dir).rmdir()
        raise


def find_shipped(node: Any) -> None:
    """Lets paths of `data/` mean what ships where the folder that one stands in has none."""
    keys = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        value = node._get_node(key)
        if isinstance(value, DictConfig | ListConfig):
            if not value._is_none() and not value._is_interpolation() and not value._is_missing():
                find_shipped(value)
        elif isinstance(value, AnyNode | StringNode) and isinstance(value._value(), str):
            path = value._value()
            if path.startswith("data/") and not Path(path).exists() and (ROOT / path).exists():
                value._set_value(str(ROOT / path))


def run() -> None:
    """Reads the arguments of the command line as they were meant, runs, and exits by how it went."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # in a checkout: `recipes`, which makes what ships
    with exits(conf=CONF):
        sys.argv[1:] = as_meant(sys.argv[1:], conf=CONF)
        _main()
    sys.exit(0)
