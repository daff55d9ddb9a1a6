"""A pretended accelerator, `simgpu`: shows, without a GPU, the faults that only a GPU would show, and counts the waits.

    with pretended_device() as device, counting() as counts:
        model = load_model(folder, device=device, dtype="float32")
        solution = solver.solve(problem)
    assert counts.reads <= 12, counts.table()

A tensor moved there holds its values in ordinary memory and behaves as CUDA's do where devices meet. An operation on
tensors of both devices fails, but for copies, for scalars of the CPU in pointwise operations and for indices of the
CPU; a generator of the CPU cannot fill it; `.numpy()` is refused; `.cpu()` and `.item()` work. So do autograd and
modules, in every thread. Speed, memory and rounding are the CPU's. (A scalar is a tensor without axes.)

`counting()` counts what crosses between the devices, from all threads:

- `reads`: waits for the device: `.item()`, `bool()`, `.tolist()`, `.cpu()`, `nonzero`, `unique`, a mask as an index;
- `factorisations`: the waits in `torch.linalg` (`inv`, `solve`, `cholesky`, `eigh`), which look whether they succeeded;
- `uploads`: copies of the CPU's tensors to the device, with those of indices and of `torch.tensor(..., device=...)`.

`counts.where` has a line for each, with the innermost one of the package: "read solvers/mixing.py:71 (equal)".
"""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
except ImportError:
    pytest.skip("this torch cannot have a backend written in Python; the pinned one can", allow_module_level=True)

__all__ = ["Counts", "OnDevice", "counting", "pretended_device"]

NAME = "simgpu"
PACKAGE = "latent_geodesics"
_INDEXED = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
# They take a value from the CPU into a tensor of the device.
_VALUED = {"masked_fill", "masked_fill_", "fill", "fill_", "index_fill", "index_fill_", *_INDEXED}
_COPIES = {"copy_", "copy", "_to_copy", "_copy_from"}
# Their results' sizes, or Python's next step, depend on values.
_READING = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive",
    "unique_dim_consecutive", "equal", "bincount", "histc", "repeat_interleave",
}  # fmt: skip
_FACTORISATIONS = {
    "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "_linalg_eigvals", "linalg_eig", "linalg_lstsq",
    "linalg_matrix_exp", "cholesky",
}  # fmt: skip


class _Backend:
    """What torch asks of a backend; available only within `pretended_device()`, so that no other test takes it."""

    available = False

    def is_available(self) -> bool:
        return self.available

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return int(self.available)

    def current_device(self) -> int:
        return 0

    def synchronize(self, device: Any = None) -> None:
        _note("read", "synchronize")

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False


BACKEND = _Backend()
_setup_privateuseone_for_python_backend(NAME, backend_module=BACKEND)
DEVICE = torch.device(NAME, 0)


class OnDevice(torch.Tensor):
    """A tensor that says it is on `simgpu:0`; its values are in `held`, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnDevice":
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _perform(func, args, kwargs or {})

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            copy = OnDevice(self.held.detach().clone()).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copy._is_param = True
            memo[id(self)] = copy
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.detach().__reduce_ex__(protocol)  # read back on the CPU, as with map_location="cpu"

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.held!r})"


@dataclass
class Counts:
    """What crossed between the devices while `counting()` was open."""

    where: list[str] = field(default_factory=list)

    @property
    def reads(self) -> int:
        return self._number("read")

    @property
    def factorisations(self) -> int:
        return self._number("factorisation")

    @property
    def uploads(self) -> int:
        return self._number("upload")

    def table(self, kind: str = "") -> str:
        """How often each line crossed, the most frequent first; of one kind (read, factorisation, upload) or all."""
        lines = Counter(line for line in self.where if line.startswith(kind))
        return "\n".join(f"{number:5d} {line}" for line, number in lines.most_common())

    def _number(self, kind: str) -> int:
        return sum(line.startswith(f"{kind} ") for line in self.where)


_OPEN: list[Counts] = []
_LOCK = threading.Lock()


@contextmanager
def counting() -> Iterator[Counts]:
    """Counts what crosses between the devices, in all threads, until it is left; may be nested."""
    counts = Counts()
    with _LOCK:
        _OPEN.append(counts)
    try:
        yield counts
    finally:
        with _LOCK:
            _OPEN[:] = [item for item in _OPEN if item is not counts]


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """Makes the device available, gives it, and takes it away again."""
    before, BACKEND.available = BACKEND.available, True
    try:
        yield DEVICE
    finally:
        BACKEND.available = before


def _note(kind: str, name: str) -> None:
    if not _OPEN:
        return
    frame, place = sys._getframe(1), ""
    while frame is not None and not place:
        file = Path(frame.f_code.co_filename)
        if PACKAGE in file.parts:
            inner = "/".join(file.parts[len(file.parts) - file.parts[::-1].index(PACKAGE) :])
            place = f"{inner}:{frame.f_lineno}"
        frame = frame.f_back
    with _LOCK:
        for counts in _OPEN:
            counts.where.append(f"{kind} {place or 'elsewhere'} ({name})")


def _perform(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Any operation that has to do with the device: checked, counted, and done on the values."""
    if not BACKEND.available:
        raise RuntimeError("the pretended device is used outside of pretended_device()")
    name = func.overloadpacket.__name__
    tensors: list[torch.Tensor] = []
    values, named = _values(args, tensors), _values(kwargs, tensors)
    ours = {id(item.held): item for item in tensors if isinstance(item, OnDevice)}
    theirs = [item for item in tensors if not isinstance(item, OnDevice)]
    asked = kwargs.get("device")
    to_device = torch.device(asked).type == NAME if asked is not None else bool(ours)
    if ours and theirs:
        _refuse_mixtures(func, name, args, theirs)
    generator = kwargs.get("generator")
    if to_device and generator is not None and generator.device.type != NAME:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{generator.device.type}'")
    if name == "_fused_sdp_choice":
        return 0  # the composition of plain operations
    if name == "_pin_memory":
        raise RuntimeError(f"cannot pin '{NAME}' memory")
    _count(name, args, ours, theirs, to_device)
    if asked is not None:
        named["device"] = torch.device("cpu")
    if name == "_efficientzerotensor":  # a tensor without memory, which forward differentiation makes
        func = torch.ops.aten.zeros.default
    result = func(*values, **named)
    if name == "_local_scalar_dense" or not to_device:
        return result
    return _wrapped(result, ours, {id(item) for item in theirs})


def _values(item: Any, tensors: list[torch.Tensor]) -> Any:
    """Arguments with the values in place of the wrappers; the tensors among them are added to the list."""
    if isinstance(item, torch.Tensor):
        tensors.append(item)
        return item.held if isinstance(item, OnDevice) else item
    if isinstance(item, dict):
        return {name: _values(value, tensors) for name, value in item.items()}
    return [_values(value, tensors) for value in item] if isinstance(item, list | tuple) else item


def _wrapped(item: Any, ours: dict[int, OnDevice], untouched: set[int]) -> Any:
    """A result with wrappers in place of the values; an operation in place gives the wrapper that it was given."""
    if isinstance(item, list | tuple):
        return type(item)(_wrapped(value, ours, untouched) for value in item)
    if not isinstance(item, torch.Tensor) or isinstance(item, OnDevice) or id(item) in untouched:
        return item
    if id(item) not in ours:
        return OnDevice(item)
    known = ours[id(item)]
    if (known.size(), known.stride()) != (item.size(), item.stride()):
        known.data = OnDevice(item)  # the operation gave its tensor another shape
    return known


def _refuse_mixtures(func: Any, name: str, args: Any, theirs: list[torch.Tensor]) -> None:
    """CUDA's rules for operations on tensors of both devices."""
    if name in _COPIES:
        return
    changed = [args[number] for number in _changed(func) if number < len(args)]
    scalars_may = name in _VALUED or (torch.Tag.pointwise in func.tags and func not in _WITHOUT_SCALARS)
    indices = args[1] if name in _INDEXED else ()
    if indices and not isinstance(args[0], OnDevice):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    for item in theirs:
        if any(item is index for index in indices):
            continue
        if item.ndim or not scalars_may or any(item is one for one in changed):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two, {DEVICE} and cpu! ({func})"
            )


_WITHOUT_SCALARS = {torch.ops.aten.clamp.Tensor, torch.ops.aten.clamp_.Tensor}


@cache
def _changed(func: Any) -> tuple[int, ...]:
    """The numbers of the arguments that an operation writes to."""
    written = (argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments)
    return tuple(number for number, writes in enumerate(written) if writes)


def _count(name: str, args: Any, ours: dict[int, OnDevice], theirs: list[torch.Tensor], to_device: bool) -> None:
    if name in _COPIES:
        if ours and (not to_device or not isinstance(args[0], OnDevice)):
            _note("read", name)
        elif theirs:
            _note("upload", name)
    elif name in _READING or (name in _INDEXED and _selects_by_mask(name, args)):
        _note("read", name)
    elif name in _FACTORISATIONS:
        _note("factorisation", name)
    elif theirs and (name in _INDEXED or name == "where"):
        _note("upload", name)


def _selects_by_mask(name: str, args: Any) -> bool:
    masks = [item for item in args[1] if item is not None and item.dtype in (torch.bool, torch.uint8)]
    filled = (
        name != "index" and len(args) > 2 and args[2].numel() == 1 and len(masks) == 1
    )  # torch fills the mask instead
    return any(isinstance(mask, OnDevice) for mask in masks) and not filled


def _beneath(func: Any) -> Any:
    return lambda *args, **kwargs: _perform(func, args, kwargs)


# For factories, and for what `torch.tensor` calls beneath the subclass; in force for the life of the process.
_FALLBACK = torch.library.Library("_", "IMPL")
_FALLBACK.fallback(lambda func, *args, **kwargs: _perform(func, args, kwargs), "PrivateUse1")
_KERNELS = torch.library.Library("aten", "IMPL")
for _name in ("copy_", "lift_fresh", "_to_copy", "detach", "alias"):
    _KERNELS.impl(_name, _beneath(getattr(torch.ops.aten, _name).default), "PrivateUse1")
