"""What the command line does with an error: one sentence and an exit code instead of a page of traceback.

Exit codes: 0 all of it worked, 1 the program failed (with its traceback), 2 what was asked for cannot be done,
130 interrupted.
"""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from latent_geodesics.run.sentences import sentence_of


def exit_code(action: Callable[[], object], *, conf: Path | None = None) -> int:
    """Performs an action and turns its errors into a sentence on standard error and an exit code.

    Args:
        action: What is done.
        conf: The folder of the configuration's groups, to name those that are near a mistyped one.
    """
    _settle_surroundings()
    try:
        action()
    except KeyboardInterrupt:
        return _say("Interrupted: what was finished is in the output folder.", 130)
    except Exception as error:
        sentence = sentence_of(error, conf=conf)
        if sentence is None:
            raise
        return _say(sentence, 2)
    return 0


def _settle_surroundings() -> None:
    """What a person's shell may hand on that would end a run."""
    # Without this Hydra prints a digest of its own and leaves by sys.exit(1), whatever the cause.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # Nothing is shown in a window, and a notebook hands on a backend that need not be installed here.
    os.environ["MPLBACKEND"] = "agg"
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal has not, such as a progress bar's, is no reason to stop.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"\nerror: {sentence}\n")
    return code
