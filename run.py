"""The one entry point: composes the configuration and hands it to the runner.

python run.py                                       interpolate the shipped pairs
python run.py experiment=<id>                       another experiment; conf/experiment/ lists them
python run.py image_a=<file> image_b=<file> prompt_a='...' prompt_b='...'
python run.py --help                                groups, keys and examples
"""

import sys
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from latent_geodesics.run.arguments import as_meant
from latent_geodesics.run.command import exit_code

CONF = Path(__file__).resolve().with_name("conf")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Runs what the composed configuration describes."""
    from latent_geodesics.run.runner import execute

    # Hydra would print the overrides above any error that left its job; an exit it lets pass.
    code = exit_code(lambda: execute(config), conf=CONF)
    if code:
        with suppress(OSError):  # where nothing ran nothing is left; a folder that holds something stays
            Path(HydraConfig.get().runtime.output_dir).rmdir()
        sys.exit(code)


def start() -> None:
    """Reads the arguments as they were meant, and runs."""
    sys.argv[1:] = as_meant(sys.argv[1:], conf=CONF)
    main()


if __name__ == "__main__":
    sys.exit(exit_code(start, conf=CONF))
