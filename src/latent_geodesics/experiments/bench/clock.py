"""How long networks are at work while something runs, whatever thread calls them."""

import time
from threading import Lock, local
from types import TracebackType
from typing import Any

from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from latent_geodesics.models.accelerator import wait


class NetworkClock:
    """Creates a context that adds up the time in which at least one network is in a forward pass.

    Networks within networks, and networks that work side by side, are counted once. Backward passes are not seen. An
    accelerator is waited for at the end of each outermost pass, since it goes on working when the call has returned.

    Attributes:
        seconds: The time so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock, self._local = Lock(), local()
        self._working, self._since = 0, 0.0
        self._hooks: list[Any] = []

    def __enter__(self) -> "NetworkClock":
        self._hooks = [
            register_module_forward_pre_hook(self._begin),
            register_module_forward_hook(self._end, always_call=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module: Any, arguments: Any) -> None:
        depth = getattr(self._local, "depth", 0)
        self._local.depth = depth + 1
        if depth:
            return
        with self._lock:
            if not self._working:
                self._since = time.perf_counter()
            self._working += 1

    def _end(self, module: Any, arguments: Any, output: Any) -> None:
        self._local.depth -= 1
        if self._local.depth:
            return
        device = next((parameter.device for parameter in module.parameters()), None)
        if device is not None and device.type != "cpu":
            wait(device)
        with self._lock:
            self._working -= 1
            if not self._working:
                self.seconds += time.perf_counter() - self._since
