"""The metrics that put the states of shards together, made from a run's configuration without running any of it.

Only what is a class of this list is made, and only of plain values: a run's folder may come from someone else. Networks
are not made at all, since states hold their features already; what is needed of one is its name.
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from jaxtyping import Float
from torch import Tensor

from latent_geodesics import metrics
from latent_geodesics.core.errors import UserError
from latent_geodesics.metrics import FeatureDistances, FeatureNetwork

TARGET = "_target_"
NETWORKS = {one.__name__: one for one in (metrics.ClevrFeatures, metrics.Inception)}
PARTS = {
    one.__name__: one
    for one in (
        metrics.Protocol, metrics.AllFrames, metrics.InnerFrames, metrics.RandomFrames, metrics.Total,
        metrics.Average, metrics.Variance, metrics.StandardDeviation, metrics.Evenness, metrics.SignedRange,
        metrics.UnitRange, metrics.ImageNetRange,
    )
}  # fmt: skip
PACKAGE = "latent_geodesics.metrics."


class _Named(FeatureNetwork):
    """A network of which only the names of its distances are wanted."""

    def __init__(self, kind: type[FeatureNetwork]) -> None:
        self.name, self.frechet, self.kernel = kind.name, kind.frechet, kind.kernel

    @property
    def weights(self) -> Mapping[str, str]:
        """None: it has none."""
        return {}

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Never asked for."""
        raise NotImplementedError("the features of shards are in their states")


def set_metrics(described: Any) -> dict[str, FeatureDistances]:
    """The metrics of sets of images that a configuration's `metrics` describes; all others are left out.

    Raises:
        UserError: for a part of one that is no part of this project's metrics, or a value that does not fit.
    """
    if not isinstance(described, Mapping):
        return {}
    found = {}
    for name, one in described.items():
        if not isinstance(one, Mapping) or _class_name(one) != FeatureDistances.__name__:
            continue
        try:
            found[str(name)] = _metric(one)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"The metric {name} of the shards cannot be made again ({error}): leave it out.") from error
    return found


def _class_name(described: Mapping[str, Any]) -> str:
    """Which class of this project's metrics a description names; empty where it names something else."""
    target = str(described.get(TARGET))
    return target.rpartition(".")[2] if target.startswith(PACKAGE) else ""


def _metric(described: Mapping[str, Any]) -> FeatureDistances:
    network, protocols = described.get("network"), described.get("protocols")
    if not isinstance(network, Mapping) or _class_name(network) not in NETWORKS or not isinstance(protocols, Mapping):
        raise ValueError("its network or its protocols are not of this project")
    plain = {name: int(described[name]) for name in ("seed", "least") if name in described}
    made = {str(name): _part(protocol) for name, protocol in protocols.items()}
    if not all(isinstance(one, metrics.Protocol) for one in made.values()):
        raise ValueError("its protocols are none of this project's")
    return FeatureDistances(network=_Named(NETWORKS[_class_name(network)]), protocols=made, **plain)


def _part(described: Any) -> Any:
    """A part of a metric: an object of the list, with what its constructor knows of; a plain value; a list."""
    if isinstance(described, Mapping):
        kind = PARTS.get(_class_name(described))
        if kind is None:
            raise ValueError(f"{described.get(TARGET)!r} is no part of a metric")
        known = signature(kind).parameters
        return kind(**{str(name): _part(value) for name, value in described.items() if name in known})
    if isinstance(described, list):
        return [_part(value) for value in described]
    if described is None or isinstance(described, str | int | float):
        return described
    raise ValueError(f"{described!r} is no plain value")
