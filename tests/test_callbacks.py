"""The thread in which a run's folder is written: only those who must wait for it, and its errors are not lost."""

from threading import Event
from types import SimpleNamespace

import pytest

from latent_geodesics.callbacks import RunFolder


class Watched(RunFolder):
    """Writes nothing, and only when it is let."""

    def __init__(self):
        super().__init__(run=SimpleNamespace(leads=True), store=SimpleNamespace(), pairs=2)
        self.let, self.written = Event(), []

    def _write(self, result):
        assert self.let.wait(timeout=60)
        if isinstance(result, Exception):
            raise result
        self.written.append(result)

    def end(self, result):
        self.on_test_batch_end(None, None, {"result": result}, None, 0)


def test_the_run_goes_on_while_a_batch_is_written():
    folder = Watched()
    folder.end("first")
    assert folder.written == []
    folder.let.set()
    folder.settle()
    assert folder.written == ["first"]
    folder.settle()
    assert folder.written == ["first"]


def test_batches_are_written_one_after_another():
    folder = Watched()
    folder.let.set()
    for name in ("first", "second", "third"):
        folder.end(name)
    folder.on_test_end(None, None)
    assert folder.written == ["first", "second", "third"]


def test_what_goes_wrong_in_writing_is_raised_once():
    folder = Watched()
    folder.let.set()
    folder.end(OSError("the disk is full"))
    with pytest.raises(OSError, match="disk is full"):
        folder.settle()
    folder.end("next")
    folder.settle()
    assert folder.written == ["next"]


def test_an_interrupt_while_waiting_leaves_the_writing_to_be_waited_for(monkeypatch):
    folder = Watched()
    folder.end("first")

    def interrupted(futures):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("latent_geodesics.callbacks.wait", interrupted)
        folder.settle()
    folder.let.set()
    folder.settle()
    assert folder.written == ["first"]
