"""Packages that some metrics need and that a plain installation does not bring, because of their licence or weight."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from latent_geodesics.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Package:
    """An optional package.

    Attributes:
        name: What it is called where packages are had.
        module: What it is imported as.
        extra: The extra of this project that brings it.
    """

    name: str
    module: str
    extra: str

    @property
    def present(self) -> bool:
        """Whether it is installed."""
        try:
            return find_spec(self.module) is not None
        except ValueError:  # a module without a spec, which no import made
            return False

    @property
    def version(self) -> str:
        """Its version, or `unknown`."""
        try:
            return version(self.name)
        except PackageNotFoundError:
            return "unknown"


def require_packages(needed: Iterable[tuple[str, Package]]) -> None:
    """Refuses metrics whose package is not installed.

    Args:
        needed: The name of a metric, and a package that it needs.

    Raises:
        UserError: names the first metric, its package and how it is installed.
    """
    for metric, package in needed:
        if not package.present:
            raise UserError(
                f"The metric {metric} needs the package {package.name}, which is not installed: "
                f"pip install 'latent-geodesics[{package.extra}]' (`make setup` brings it), or leave the metric out."
            )
