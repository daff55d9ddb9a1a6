"""Who works tells how far it is, and whoever shows it listens; with nobody listening, nothing is said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], object] | None] = ContextVar("listener", default=None)
_counter: ContextVar[Callable[[float], object] | None] = ContextVar("counter", default=None)


@contextmanager
def listening(listener: Callable[[str], object], *, counter: Callable[[float], object] | None = None) -> Iterator[None]:
    """Hands what is told in this thread to a listener, and what share of the work is done to a counter, if given."""
    before, counted = _listener.set(listener), None if counter is None else _counter.set(counter)
    try:
        yield
    finally:
        _listener.reset(before)
        if counted is not None:
            _counter.reset(counted)


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


def advance(share: float) -> None:
    """Counts a further share of the work at hand as done."""
    counter = _counter.get()
    if counter is not None:
        counter(share)
