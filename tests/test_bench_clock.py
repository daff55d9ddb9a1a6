"""The clock of networks: nested calls and calls side by side count once, failures do not stop it."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from pretended_device import counting, pretended_device

from latent_geodesics.experiments.bench.clock import NetworkClock


class Sleeper(torch.nn.Module):
    """Takes its time, and that of another module within."""

    def __init__(self, seconds, inner=None, *, fails=False):
        super().__init__()
        self.seconds, self.inner, self.fails = seconds, inner, fails

    def forward(self, x):
        time.sleep(self.seconds)
        if self.fails:
            raise ValueError("broken")
        return x if self.inner is None else self.inner(x)


@pytest.fixture
def elapsed():
    """Seconds since the test began."""
    started = time.perf_counter()
    return lambda: time.perf_counter() - started


def test_nested_networks_count_once_and_what_lies_between_calls_does_not(elapsed):
    network = Sleeper(0.05, Sleeper(0.05))
    with NetworkClock() as clock:
        network(1)
        time.sleep(0.1)
        network(1)
    assert 0.2 <= clock.seconds <= elapsed() - 0.1
    counted = clock.seconds
    network(1)
    assert clock.seconds == counted


def test_networks_side_by_side_count_once(elapsed):
    with NetworkClock() as clock, ThreadPoolExecutor(4) as pool:
        list(pool.map(Sleeper(0.2), range(4)))
    assert 0.2 <= clock.seconds <= elapsed()


def test_a_call_that_fails_ends_as_well(elapsed):
    with NetworkClock() as clock:
        with pytest.raises(ValueError, match="broken"):
            Sleeper(0.05, fails=True)(1)
        time.sleep(0.1)
        Sleeper(0.05)(1)
    assert 0.1 <= clock.seconds <= elapsed() - 0.1


def test_an_accelerator_is_waited_for_once_a_pass():
    with pretended_device() as device:
        network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).to(device)
        x = torch.zeros(1, 2, device=device)
        with counting() as counts, NetworkClock():
            network(x)
            network(x)
    assert counts.reads == 2, counts.table()
