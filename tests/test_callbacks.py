"""The thread in which a run's folder is written: only those who must wait for it, and its errors are not lost."""

from threading import Event, Thread
from time import sleep
from types import SimpleNamespace

import pytest

from latent_geodesics.experiments.interpolation.report import PairPage
from latent_geodesics.experiments.interpolation.writer import RunFolder, Turns


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
        patch.setattr("latent_geodesics.experiments.interpolation.writer.wait", interrupted)
        folder.settle()
    folder.let.set()
    folder.settle()
    assert folder.written == ["first"]


def test_who_asks_first_comes_first():
    """One who lets go of the place and asks for it at once again would else keep another waiting for good."""
    turns, order, asking = Turns(), [], Event()

    def patient():
        asking.set()
        with turns:
            order.append("patient")

    with turns:
        thread = Thread(target=patient)
        thread.start()
        assert asking.wait(timeout=60)
        while not turns._queue.locked():
            sleep(0.001)
    for _ in range(3):
        with turns:
            order.append("greedy")
    thread.join(timeout=60)
    assert order == ["patient", "greedy", "greedy", "greedy"]


def test_nothing_is_written_while_a_method_is_timed(monkeypatch):
    batch = SimpleNamespace(pairs=SimpleNamespace(batch=["a", "b"]), number=0, methods=(), states={})
    kept, written = Event(), []
    store = SimpleNamespace(write=lambda number, content, files: kept.set())
    folder = RunFolder(run=SimpleNamespace(leads=False), store=store, pairs=2)
    page = PairPage(
        id="a", group="", prompt_a="", prompt_b="", strip="", animations={}, figure=None, rows=[], courses={}
    )
    monkeypatch.setattr(folder, "_write_pair", lambda result, place: written.append(place) or page)
    with folder.desk:
        folder.write(batch)
        assert not kept.wait(timeout=0.3)
        assert written == []
    folder.settle()
    assert kept.is_set()
    assert written == [0, 1]
