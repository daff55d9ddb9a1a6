"""Values of another kind than a class takes, found by its annotations before it is made.

A person writes `data.limit=1.5` or `model.image_size=100.0`; what the class does with that value would be told in the
words of whatever operation fails first.
"""

import inspect
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from hydra.utils import get_object

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.inputs import nodes

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def check_kinds(key: str, node: Any, groups: Mapping[str, Any] | None = None) -> None:
    """Compares the plain values of everything that names a class with that class's annotations.

    Args:
        key: The node's key in the configuration.
        node: The node, resolved.
        groups: Key -> node of what a person writes in place of `task.<key>`, which takes it over.

    Raises:
        UserError: for the first value that is of another kind.
    """

    def written(key: str, value: Any) -> str:
        name = key.removeprefix("task.")
        return name if groups and name in groups and groups[name] == value else key

    for place, options in nodes(key, node, written):
        for name, kinds in _plain_kinds(str(options["_target_"])).items():
            value = options.get(name)
            if (
                name in options
                and not isinstance(value, Mapping | list)
                and not any(_is(value, kind) for kind in kinds)
            ):
                wanted = " or ".join(NAMES[kind] for kind in kinds)
                raise UserError(f"{place}.{name} must be {wanted}, got {value!r}.")


def _plain_kinds(target: str) -> dict[str, tuple[type, ...]]:
    """The parameters of a class that take numbers, texts and truth values alone, and which of them."""
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):  # said when it is made
        return {}
    found = {}
    for name, parameter in parameters.items():
        union = get_origin(parameter.annotation) in (Union, types.UnionType)
        kinds = get_args(parameter.annotation) if union else (parameter.annotation,)
        if all(kind in NAMES for kind in kinds):
            found[name] = kinds
    return found


def _is(value: Any, kind: type) -> bool:
    """Whether a value of the configuration is of a kind: a whole number is a number too, a truth value is neither."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
