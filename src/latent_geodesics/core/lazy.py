"""Packages whose names are imported when they are first asked for (PEP 562), so that importing a package is quick."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def names_on_demand(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package.

    Args:
        package: Its name, as `__name__` gives it.
        homes: Module below the package, as `part.module` -> the names that it has for the package, besides its own.
    """
    home = {name: module for module, names in homes.items() for name in (module.rpartition(".")[2], *names)}

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{home[name]}")
        return module if name == home[name].rpartition(".")[2] else getattr(module, name)

    def names() -> list[str]:
        return sorted({*home, *vars(import_module(package))})

    return find, names
