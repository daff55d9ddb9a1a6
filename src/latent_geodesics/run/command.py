"""What the command line does with an error: one sentence and an exit code instead of a page of traceback.

Exit codes: 0 all of it worked, 1 the program failed (with its traceback), 2 what was asked for cannot be done,
130 interrupted.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from latent_geodesics.run.sentences import sentence_of


@contextmanager
def exits(*, conf: Path | None = None) -> Iterator[None]:
    """Turns the errors of what is done inside into a sentence on standard error, and leaves with an exit code.

    Args:
        conf: The folder of the configuration's groups, to name those that are near a mistyped one.

    Raises:
        SystemExit: in place of an error that is the user's, or of an interrupt.
    """
    _settle_surroundings()
    try:
        yield
    except KeyboardInterrupt:
        _leave("Interrupted: what was finished is in the output folder.", 130)
    except Exception as error:
        sentence = sentence_of(error, conf=conf)
        if sentence is None:
            raise
        _leave(sentence, 2)


def exit_code(action: Callable[[], object]) -> int:
    """Performs an action as `exits` does; returns the exit code, 0 where all of it worked."""
    try:
        with exits():
            action()
    except SystemExit as left:
        return int(left.code or 0)
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


def _leave(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"\nerror: {sentence}\n")
    raise SystemExit(code)
