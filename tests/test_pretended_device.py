"""The pretended device itself: it refuses, allows and counts what CUDA does."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from pretended_device import OnDevice, counting, pretended_device

from latent_geodesics.core.manifold import Sphere

MASK = torch.tensor([[True, False, True, False]]).expand(3, 4)
ROWS = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def device():
    with pretended_device() as device:
        yield device


@pytest.fixture
def values():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def x(values, device):
    return values.to(device)


REFUSED = {
    "sum": lambda x, cpu: x + cpu,
    "product of matrices": lambda x, cpu: x @ cpu.mT,
    "where": lambda x, cpu: torch.where(x > 0, x, cpu),
    "mask of where": lambda x, cpu: torch.where(MASK, x, x),
    "lerp": lambda x, cpu: torch.lerp(x, x, cpu),
    "masked fill": lambda x, cpu: x.masked_fill(MASK, 0.0),
    "masked select": lambda x, cpu: x.masked_select(MASK),
    "gather": lambda x, cpu: x.gather(0, ROWS[:, None]),
    "take along dim": lambda x, cpu: torch.take_along_dim(x, ROWS[:, None], 0),
    "index select": lambda x, cpu: x.index_select(0, ROWS),
    "index add": lambda x, cpu: x.index_add(0, ROWS, x[:2]),
    "scatter": lambda x, cpu: x.scatter(0, ROWS[:, None], 0.0),
    "searchsorted": lambda x, cpu: torch.searchsorted(x, cpu),
    "searchsorted of a scalar": lambda x, cpu: torch.searchsorted(x[0], torch.tensor(0.0)),
    "bucketize": lambda x, cpu: torch.bucketize(x, cpu[0]),
    "cat": lambda x, cpu: torch.cat([x, cpu]),
    "stack of scalars": lambda x, cpu: torch.stack([x[0, 0], torch.tensor(0.0)]),
    "clamp by a scalar of the CPU": lambda x, cpu: x.clamp(min=torch.tensor(0.0)),
    "a CPU tensor changed": lambda x, cpu: cpu.add_(x),
    "a CPU scalar changed": lambda x, cpu: torch.tensor(0.0).add_(x[0, 0]),
    "a vector of the CPU with a scalar": lambda x, cpu: cpu * x[0, 0],
    "an index of the device on the CPU": lambda x, cpu: cpu[ROWS.to(x.device)],
    "a mask of the device on the CPU": lambda x, cpu: cpu[x > 0],
    "values of the CPU set": lambda x, cpu: x.index_put((ROWS,), cpu[:2]),
    "a generator of the CPU": lambda x, cpu: torch.randn(3, device=x.device, generator=torch.Generator()),
    "a generator of the CPU in place": lambda x, cpu: x.normal_(generator=torch.Generator()),
}
ALLOWED = {
    "scalars of the CPU": lambda x: x * torch.tensor(2.0) + torch.maximum(x, torch.tensor(0.1)),
    "where with scalars": lambda x: torch.where(x > 0, torch.tensor(1.0), x),
    "lerp by a scalar": lambda x: torch.lerp(x, 2 * x, torch.tensor(0.3)),
    "fill with a scalar": lambda x: x.masked_fill(x > 0, torch.tensor(5.0)),
    "indices of the CPU": lambda x: x[ROWS] + x[ROWS, 1:2],
    "a mask of the CPU": lambda x: x[MASK],
    "arithmetic": lambda x: torch.linalg.solve(x @ x.mT, x).softmax(-1).cumsum(0),
    "attention": lambda x: torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None]),
    "views changed in place": lambda x: x.clone()[:, 1:].mul_(2).t_(),
    "resized": lambda x: torch.arange(12, device=x.device).resize_(3, 4) * x,
    "set by a mask": lambda x: _set(x.clone()),
    "forward differentiation": lambda x: torch.func.jvp(lambda v: (1 - v) * v, (x,), (torch.ones_like(x),))[1],
    "vmap": lambda x: torch.func.vmap(lambda row: row * row.sum())(x),
}  # fmt: skip


def _set(x):
    x[x > 0] = 0.0
    x[:, 1] += 1
    x[ROWS] = torch.tensor(3.0)
    return x


@pytest.mark.parametrize("name", REFUSED)
def test_devices_do_not_mix(x, values, name):
    with pytest.raises(RuntimeError, match=r"same device|simgpu:0 Device|indices should be|device type for generator"):
        REFUSED[name](x, values.clone())


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows_gives_the_numbers_of_the_cpu(x, values, name):
    found = ALLOWED[name](x)
    assert isinstance(found, OnDevice)
    assert found.shape == found.held.shape
    torch.testing.assert_close(found.cpu(), ALLOWED[name](values))


def test_numpy_has_to_ask_for_the_cpu(x, values):
    for convert in (lambda: x.numpy(), lambda: np.asarray(x)):
        with pytest.raises(TypeError, match="Use Tensor.cpu"):
            convert()
    assert np.array_equal(x.cpu().numpy(), values.numpy())


def test_modules_move_train_and_are_copied(device, values):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.SiLU(), torch.nn.Linear(3, 1))
    there = deepcopy(module).to(device)
    found = []
    for network, x in ((module, values), (there, values.to(device))):
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()
        found.append(network(x).detach().cpu())
    torch.testing.assert_close(*found)
    again = deepcopy(there).double()
    assert isinstance(again[0].weight, torch.nn.Parameter)
    assert again[0].weight.dtype == again[0].weight.held.dtype == torch.float64
    torch.testing.assert_close(
        pickle.loads(pickle.dumps(there.state_dict()))["0.weight"], there[0].weight.cpu().detach()
    )
    assert there.cpu()[0].weight.device.type == "cpu"


READS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "list": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "copied into a tensor of the CPU": lambda x: torch.empty(3, 4).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "values set by a mask": lambda x: x.index_put((x > 9,), x.flatten()[:0]),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "index": lambda x: x[x.argmax(0)[0]],
}  # fmt: skip
UPLOADS = {
    "to": lambda x: torch.ones(3).to(x.device),
    "as": lambda x: torch.ones(3).to(x),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "copied": lambda x: x.copy_(torch.ones(4)),
    "index": lambda x: x[ROWS],
    "list as an index": lambda x: x[[0, 2]],
}
SILENT = {
    "made there": lambda x: torch.arange(5, device=x.device) + torch.zeros(5, device=x.device),
    "arithmetic": lambda x: torch.linalg.solve_ex(x @ x.mT, x)[0] * 2.0,
    "filled by a mask": lambda x: x.clone().masked_fill_(x > 0, 0.0),
    "slices": lambda x: x[1:, None, :2],
    "gather": lambda x: x.gather(0, x.argmax(0, keepdim=True)),
    "scalars of the CPU": lambda x: x * torch.tensor(2.0),
}


@pytest.mark.parametrize("name", READS)
def test_a_wait_for_the_device_is_counted(x, name):
    with counting() as counts:
        READS[name](x)
    assert (counts.reads, counts.uploads, counts.factorisations) == (1, 0, 0), counts.table()


@pytest.mark.parametrize("name", UPLOADS)
def test_a_copy_to_the_device_is_counted(x, name):
    with counting() as counts:
        UPLOADS[name](x)
    assert (counts.reads, counts.uploads, counts.factorisations) == (0, 1, 0), counts.table()


@pytest.mark.parametrize("name", SILENT)
def test_what_stays_on_the_device_is_not_counted(x, name):
    with counting() as counts:
        SILENT[name](x)
    assert not counts.where


@pytest.mark.parametrize("function", [torch.linalg.inv, torch.linalg.cholesky, torch.linalg.eigh, torch.linalg.svd])
def test_a_factorisation_that_reads_its_success_is_counted_apart(x, function):
    matrix = x @ x.mT
    with counting() as counts:
        function(matrix)
    assert (counts.reads, counts.uploads, counts.factorisations) == (0, 0, 1), counts.table()


def test_a_count_names_the_line_of_the_package_and_holds_for_all_threads(x):
    radius = x[:, 0].abs() + 1
    with counting() as counts, ThreadPoolExecutor(1) as pool:
        pool.submit(Sphere, radius=radius).result()
    assert counts.reads == len(counts.where) > 0
    assert all(line.startswith("read core/manifold.py:") for line in counts.where)


def test_outside_of_the_context_it_is_not_available(values):
    with pretended_device() as device:
        x = values.to(device)
        assert torch.get_device_module(device).is_available()
    if not torch.get_device_module(device).is_available():  # unless the whole module runs within it
        with pytest.raises(RuntimeError, match="outside"):
            x + 1
