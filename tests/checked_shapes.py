"""Checks the core against its annotations, shapes and types among them, whenever a test of the core calls it."""

from functools import wraps
from itertools import count
from typing import Any, Self, get_origin

import numpy as np
from beartype import BeartypeConf, beartype
from jaxtyping import config, install_import_hook

CORE_TESTS = (
    *("test_fields", "test_geometries", "test_geometry", "test_geometry_closure", "test_hermite", "test_joined"),
    *("test_manifold", "test_path", "test_recorded_field", "test_records", "test_shooting", "test_solvers_antipodal"),
    *("test_solvers_descent", "test_solvers_dormand_prince", "test_solvers_initial", "test_solvers_lengths"),
    *("test_solvers_parallel", "test_solvers_picard", "test_solvers_runge_kutta", "test_solvers_strong"),
)
# Without `former` and `lazy`, by which modules are imported, and what holds no tensors.
PARTS = ("fields", "geometries", "geometry", "hermite", "joined", "manifold", "path", "records", "solvers")
# What refuses wrong arguments in words of its own, to which tests hold it.
OF_CLASSES = (
    *("AdaptiveRungeKutta", "BoundaryProblem", "Conformal", "GaussianMixture", "Graph", "HermitePath"),
    *("InitialProblem", "Sphere", "Typical"),
)
ENOUGH = 1000
"""How many calls a test has checked; solvers make a hundred thousand, of the same functions."""
REFUSING = ("_check_nodes", *(f"{name}.__init__" for name in OF_CLASSES))

calls = count()


def checked(function):
    """A function that refuses arguments and results that are not as annotated, as far as beartype can tell."""
    if function.__qualname__ in REFUSING:
        return function
    kinds = function.__annotations__
    kinds |= {name: Any for name, kind in kinds.items() if kind is Self or get_origin(kind) is np.ndarray}
    check = beartype(conf=BeartypeConf(is_pep484_tower=True))(function)

    @wraps(function)
    def counting(*args, **kwargs):
        if next(calls) >= ENOUGH:
            config.update("jaxtyping_disable", True)
        return check(*args, **kwargs)

    return counting


def install():
    """Lets what is imported of the core from now on be checked."""
    install_import_hook([f"latent_geodesics.core.{part}" for part in PARTS], "checked_shapes.checked")


def switch(module):
    """Checks while a test of a module runs, if that is of the core."""
    global calls
    calls = count()
    config.update("jaxtyping_disable", module not in CORE_TESTS)
