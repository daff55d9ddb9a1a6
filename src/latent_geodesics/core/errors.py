"""Errors that are meant for the person who runs the program.

A `UserError` carries one sentence: what was wrong, the value received and the remedy. The command line prints that
sentence alone and exits with a non-zero code; every other exception is a defect of the program and keeps its traceback.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path

LIKE, MISTYPED = 0.55, 0.8
"""How like two names are, from 0 to 1, where one is suggested for the other, and where it must have been meant."""


class UserError(ValueError):
    """What the user asked for cannot be done as asked; the message says why and what to do instead."""


def nearest(name: str, known: Iterable[str], *, least: float = LIKE) -> str | None:
    """The known name that is most like another one, whatever the case of their letters; None where none is like it."""
    by_folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=least)
    return by_folded[near[0]] if near else None


def near_name(name: str, known: Iterable[str]) -> str:
    """` Did you mean '...'?` with the nearest known name, or nothing."""
    near = nearest(name, known)
    return f" Did you mean '{near}'?" if near else ""


def near_file(path: Path) -> str:
    """The same for a path that does not exist, by what lies beside it; the first part that does not exist counts."""
    for part in (*reversed(path.parents), path):
        if part.exists():
            continue
        try:
            beside = [other.name for other in part.parent.iterdir()]
        except OSError:
            return ""
        near = nearest(part.name, beside)
        return f" Did you mean '{part.with_name(near)}'?" if near else ""
    return ""


def counted(count: int, noun: str) -> str:
    """How many there are of something whose plural ends in `s`: `1 pair`, `3 pairs`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the machine's or an accelerator's: torch has no class for the former."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "not enough memory" in str(error))
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
