"""Who works tells how far it is, and whoever shows it listens; with nobody listening, nothing is said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], object] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Callable[[str], object]) -> Iterator[None]:
    """Hands what is told in this thread to a listener."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


@contextmanager
def telling(prefix: str) -> Iterator[None]:
    """Puts a prefix, such as the name of who works, before all that is told."""
    outer = _listener.get()
    if outer is None:
        yield
        return
    outer(prefix.rstrip(": "))
    with listening(lambda words: outer(prefix + words)):
        yield


def tell(words: str) -> None:
    """Says how far the work is, in a few words."""
    listener = _listener.get()
    if listener is not None:
        listener(words)
