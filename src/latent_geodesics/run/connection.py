"""Whether Weights & Biases is still there to be told."""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class Connection:
    """Whether wandb still takes what it is told; from its first error on it is told nothing more."""

    def __init__(self) -> None:
        self.lost = False

    def tell(self, action: Callable[[], object]) -> None:
        """Performs an action of wandb's unless it is lost; an error of it is said, and is no error of the run."""
        if self.lost:
            return
        try:
            action()
        except Exception as error:  # whatever a sink raises, the run goes on
            self.lost = True
            said = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("Weights & Biases is lost (%s): the run goes on, and its folder holds everything.", said)
            log.debug("Weights & Biases", exc_info=error)
