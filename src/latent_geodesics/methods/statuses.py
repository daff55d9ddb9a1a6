"""How a sequence came to be, as tables say it: a solver's `Status`, or one of these words."""

from latent_geodesics.core.records import Status

CLOSED_FORM = "closed_form"
OPTIMISED = "optimised"
SAMPLED = "sampled"
TRAINED = "trained"
FAILED = "failed"
UNINVERTED = "inversion_failed"
LOST = (FAILED, UNINVERTED, Status.NON_FINITE_SCORE.value)
"""Of sequences that are none."""
GIVEN = "given"

_SENTENCES = {
    CLOSED_FORM: "The path is known in closed form: nothing was solved, and it is no geodesic of the density.",
    OPTIMISED: "The path was found by its method's own measure, without the network; it is no geodesic of the density.",
    SAMPLED: "The frames were sampled by the network, steered on the way; there is no path to measure.",
    TRAINED: "The network was trained on the two images, then the frames were sampled; there is no path to measure.",
    GIVEN: "The frames were given, and measured as they are; how they were made is not known here.",
    FAILED: "The method raised an error on this pair, which results.csv has in its column failure; the other pairs "
    "went on.",
    UNINVERTED: "The noisy latents of the two images were not found, in a step that results.csv has in its column "
    "failure, and nothing was made of them: raise model.refinements or model.steps, or lower tau or guidance.",
}


def status_sentence(status: str) -> str:
    """What a status of a table means and what to do, for a person."""
    return _SENTENCES.get(status) or Status(status).sentence
