"""What a batch's sequences differ from the truth by, as rows of tables, and what is shown of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import Tensor

from latent_geodesics.experiments.truth.errors import ERRORS, OF_PATHS, inner_means
from latent_geodesics.metrics import FrameMetric, MeasuredMorph, NoiseNorm, PathQuality
from latent_geodesics.models.accelerator import METRICS, Stopwatch
from latent_geodesics.run.each import Rows
from latent_geodesics.run.results import BatchResult, MethodResult

Row = Mapping[str, Any]


def method_rows(
    result: BatchResult, method: MethodResult, metrics: Mapping[str, FrameMetric]
) -> tuple[list[Row], list[Row]]:
    """A row for each pair, and one for each of its frames."""
    watch = Stopwatch(method.pairs.model.device)
    measured = MeasuredMorph(pairs=method.pairs, morph=method.morph, u=result.u, curves=method.curves)
    errors: dict[str, Tensor] = {}
    for metric in metrics.values():
        errors |= metric.per_frame(measured)
    of_path = {**PathQuality().measure(measured), **NoiseNorm().measure(measured)}
    watch.lap(METRICS)
    spent = method.seconds_metrics + watch.seconds[METRICS] / len(method.pairs.batch)
    method = replace(method, seconds_metrics=spent)
    results: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    for row, pair in enumerate(method.pairs.batch.pairs):
        named = {"pair": pair.id, "group": pair.group, "method": method.method}
        paths = {name: float(of_path[name][row]) for name in OF_PATHS if name in of_path}
        failure = {} if method.failure is None else {"failure": method.failure}
        results.append(
            named
            | {"status": method.morph.statuses[row], "seconds": method.morph.seconds}
            | method.stages
            | failure
            | paths
            | {"cluster": pair.cluster or pair.id, "evaluations": int(method.morph.evaluations[row])}
        )
        frames += [
            named
            | {"frame": number, "u": position}
            | {name: float(errors[name][row, number]) for name in ERRORS if name in errors}
            for number, position in enumerate(result.u.tolist())
        ]
    table = pd.DataFrame(results).merge(inner_means(pd.DataFrame(frames)), on=["pair", "group", "method"])
    return table.to_dict("records"), frames  # type: ignore[return-value]


def show_frames(rows: Rows, result: BatchResult, place: int) -> list[dict[str, Any]]:
    """Writes the true frames of the pair at a place of a batch, and every method's, as strip, films and players."""
    batch = result.pairs.batch
    pair, truth = batch.pairs[place], batch.true_frames(place, len(result.u))
    assert truth is not None  # other pairs are left out
    shown = {"true_frames": truth} | {one.method: one.frames for one in result.made(place)}
    rows.strip(shown, pair.id)
    return [rows.sequence(sequence, pair.id, name, truth=sequence is truth) for name, sequence in shown.items()]
