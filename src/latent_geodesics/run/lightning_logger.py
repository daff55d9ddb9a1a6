"""Lightning's logger of a Weights & Biases run that may be lost while training goes on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import WandbLogger

from latent_geodesics.run.connection import Connection

if TYPE_CHECKING:
    import wandb


class LossyWandbLogger(WandbLogger):
    """Lightning's logger of a wandb run that may be lost."""

    def __init__(self, *, run: "wandb.Run", connection: Connection) -> None:
        super().__init__(experiment=run)
        self._connection = connection

    def log_hyperparams(self, params: Any) -> None:
        """Tells hyper-parameters."""
        self._connection.tell(lambda: WandbLogger.log_hyperparams(self, params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Tells numbers of a training step."""
        self._connection.tell(lambda: WandbLogger.log_metrics(self, metrics, step))

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Tells pictures of a training step."""
        self._connection.tell(lambda: WandbLogger.log_image(self, key, images, step, **kwargs))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Hears of a checkpoint."""
        self._connection.tell(lambda: WandbLogger.after_save_checkpoint(self, checkpoint_callback))

    def finalize(self, status: str) -> None:
        """Hears that a training has ended."""
        self._connection.tell(lambda: WandbLogger.finalize(self, status))
