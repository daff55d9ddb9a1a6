"""Packages whose names are imported when they are first asked for (PEP 562), so that importing a package is quick."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def names_on_demand(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package: its names are those that it imports for type checkers.

    Args:
        package: Its name, as `__name__` gives it. What it imports from other modules below `if TYPE_CHECKING` is found
            when it is asked for, and so are those modules by their own names.
    """
    module: Any = sys.modules[package]
    checked = [node for node in ast.parse(module.__spec__.loader.get_source(package)).body if isinstance(node, ast.If)]
    home = {
        name: str(node.module)
        for block in checked
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in (str(node.module).rpartition(".")[2], *(imported.name for imported in node.names))
    }

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = import_module(home[name])
        if name == home[name].rpartition(".")[2]:
            return found
        return getattr(found, name) if hasattr(found, name) else import_module(f"{home[name]}.{name}")

    def names() -> list[str]:
        return sorted({*home, *vars(module)})

    return find, names
