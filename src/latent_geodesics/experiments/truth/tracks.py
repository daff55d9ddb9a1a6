"""The courses of a pair's objects over the floor, for the pairs in which one goes far."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jaxtyping import Float
from torch import Tensor

from latent_geodesics.experiments.truth.floor import FloorError, FloorTrack, track, travelled
from latent_geodesics.metrics import FrameMetric
from latent_geodesics.run.results import PairResult

LEAST_WAY = 0.5
"""World units: a motion whose object goes further over the floor is drawn as a track."""

Courses = Mapping[str, Sequence[Mapping[str, Tensor]]]


def pair_tracks(
    metrics: Mapping[str, FrameMetric], pair: str, made: Sequence[PairResult], u: Float[Tensor, " n"]
) -> Courses:
    """Method -> the courses of a pair's objects, as mappings; empty for a pair in which none goes far."""
    floors = [metric for metric in metrics.values() if isinstance(metric, FloorError)]
    if not floors or pair not in floors[0].scenes or travelled(floors[0].scenes[pair]) <= LEAST_WAY:
        return {}
    network, scenes = floors[0].network, floors[0].scenes[pair]
    return {one.method: [asdict(course) for course in track(network, one.frames, scenes, u)] for one in made}


def drawn_tracks(batches: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, list[FloorTrack]]]:
    """Pair -> method -> the courses of its objects, of what the batches kept."""
    return {
        pair: {method: [FloorTrack(**course) for course in courses] for method, courses in of_pair.items()}
        for batch in batches
        for pair, of_pair in batch.items()
        if of_pair
    }
