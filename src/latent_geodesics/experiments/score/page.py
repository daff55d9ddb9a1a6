"""The page of a score: verdicts, means, published protocols, what was checked, and a strip of every pair."""

from collections.abc import Mapping, Sequence

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from latent_geodesics.experiments.score.sequences import GivenFrames, SequenceData
from latent_geodesics.metrics import MetricRecord
from latent_geodesics.metrics.pixels import MEANING
from latent_geodesics.run.compare.report import IN_BRACKETS, write_own
from latent_geodesics.run.each import Tables
from latent_geodesics.run.files import file_stem, title_of
from latent_geodesics.run.pages import Page
from latent_geodesics.run.results import COLUMNS, protocol_notes
from latent_geodesics.run.runner import Run

TRUTH = "true_frames"
LEAD = (
    "Sequences of images that were made elsewhere, measured as they are: no model was asked how they came to be. The "
    "columns are those of this project's own runs, so that task=report puts both side by side."
)
VERDICTS = f"{MEANING} Half of the change has happened at the u given, and its middle half takes so much of u."
MEANS = (
    "Intervals: percentile bootstrap over pairs, those of one kind together, 95 %. Best in blue, second best "
    "underlined, by what is printed. The same table: comparison.md, comparison.csv; shorter, for a paper: "
    "comparison.tex; every sequence: results.csv."
)
PROTOCOLS = f"{IN_BRACKETS} What a number depends on is in metrics.json."
OF_VERDICT = {
    "ghosting": "ghosting",
    "largest_step": "largest step",
    "change_at": "half changed at u",
    "change_width": "middle half, in u",
}
WORDS = {"fades": "fade", "morphs": "morph", "jumps": "jump"}


def shown(given: Sequence[GivenFrames]) -> Mapping[str, Float[Tensor, "n 3 h w"]]:
    """The sequences of a pair as its strip has them, the true frames first."""
    truth = next((one.batch.truth[0] for one in given if one.batch.truth[0] is not None), None)
    rows = {} if truth is None else {TRUTH: truth}
    return rows | {one.method: one.frames[0] for one in given}


def score_page(
    run: Run, data: SequenceData, tables: Tables, records: Sequence[MetricRecord], *, notes: Sequence[str]
) -> Page:
    """Writes the tables of means into the run's folder and composes its page."""
    results = tables["results"]
    known = [name for name in COLUMNS if name in results.columns and results[name].notna().any()]
    own = write_own(run.folder, finished=tables.whole, pairs=len(data), columns=known)
    said = [*notes, *own.remarks]
    page = run.page(
        "Frames scored", LEAD, pairs=tables.counted, methods=len(data.methods), frames=data.place, seed=run.seed
    )
    if said:
        page.section("Before comparing", *said)
    if "fades" in results.columns:
        page.section("A morph, a fade or a jump", VERDICTS, table=_verdicts(results))
    page.section("Means over the pairs", MEANS, table=own.means.html_frame())
    if own.protocols is not None:
        page.section("By the definitions of published sources", PROTOCOLS, table=own.protocols.html_frame())
        page.section("Before comparing with a source's own figures", table=_departures(records))
    page.section("What was given", table=_given(data))
    for pair in dict.fromkeys(results["pair"]):
        table = _of_pair(results[results["pair"] == pair])
        page.section(str(pair), table=table, pictures={f"images/{file_stem(str(pair))}.png": ""})
    return page


def _verdicts(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each method: how many of its sequences have which verdict, and the means of what it is made of."""
    rows = []
    for method, own in results.groupby("method", sort=False):
        counts = {f"{word}s": int(own[column].sum()) for column, word in WORDS.items()}
        means = {title: own[name].mean() for name, title in OF_VERDICT.items() if name in own.columns}
        rows.append({"method": title_of(str(method)), "sequences": len(own)} | counts | means)
    return pd.DataFrame(rows)


def _of_pair(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each method: its verdict, and the numbers that are shown."""
    named = {"method": "method", "verdict": "verdict"} | OF_VERDICT | COLUMNS
    columns = [name for name in named if name in results.columns and results[name].notna().any()]
    columns = [name for name in columns if name not in WORDS]  # which the verdict says in a word
    shown = results[columns].assign(method=results["method"].map(title_of))
    return shown.rename(columns=named).replace({float("nan"): None})


def _departures(records: Sequence[MetricRecord]) -> pd.DataFrame:
    """In what numbers depart from their source's, each thing once."""
    return pd.DataFrame(
        {"source": title_of(source), "numbers": numbers, "what differs here": words}
        for source, about in protocol_notes(records).items()
        for words, numbers in about.items()
    )


def _given(data: SequenceData) -> pd.DataFrame:
    """A row for each method: how many sequences of how many frames of which size, and how well their ends are met."""
    rows = []
    given = [one for pair in data.pairs for one in pair.sequences]
    for method in data.methods:
        facts = data.facts(method)
        ends = [min(one.ends_db) for one in given if one.method == method and one.ends_db]
        height, width = facts.image_size
        rows.append(
            {
                "method": title_of(method),
                "sequences": facts.pairs,
                "frames": facts.frames,
                "pixels": f"{width} x {height}",
                "with true frames": facts.with_truth,
                "ends, dB at worst": min(ends) if ends else None,
            }
        )
    return pd.DataFrame(rows)
