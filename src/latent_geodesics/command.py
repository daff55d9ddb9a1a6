"""What the command line does with an error: one sentence and an exit code instead of a page of traceback.

Exit codes: 0 all of it worked, 1 the program failed (with its traceback), 2 what was asked for cannot be done,
130 interrupted.
"""

import difflib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator

from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from latent_geodesics.errors import UserError

__all__ = ["exit_code"]

DISK_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space or choose another output_dir",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another output_dir",
    errno.EACCES: "permission is denied: choose an output_dir that you may write to",
    errno.EPERM: "permission is denied: choose an output_dir that you may write to",
    errno.EROFS: "the file system is read-only: choose another output_dir",
    errno.ENOTDIR: "a part of that path is a file, not a folder: choose another output_dir",
    errno.EEXIST: "a file stands where a folder is needed: choose another output_dir",
}


def exit_code(action: Callable[[], object]) -> int:
    """Performs an action and turns its errors into a sentence on standard error and an exit code."""
    # Without this Hydra prints a digest of its own and leaves by sys.exit(1), whatever the cause.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        action()
    except KeyboardInterrupt:
        return _say("Interrupted: what was finished is in the output folder.", 130)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        return _say(sentence, 2)
    return 0


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"\nerror: {sentence}\n")
    return code


def _sentence(error: BaseException) -> str | None:
    """What the person should read, or None where the error is a defect of the program."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in DISK_ADVICE:
            where = f"'{cause.filename}'" if cause.filename else "A file of the run"
            return f"{where} cannot be written: {DISK_ADVICE[cause.errno]}."
        if isinstance(cause, OSError) and cause.filename:
            return f"'{cause.filename}': {cause.strerror}."
        # Libraries that write in Rust or C++ keep the errno only in their text.
        if "No space left on device" in str(cause):
            return f"A file of the run cannot be written: {DISK_ADVICE[errno.ENOSPC]}."
    for error in chain:
        if isinstance(error, InstantiationException):
            return _refusal(error, chain[-1])
    for cause in chain:
        if isinstance(cause, OverrideParseException):
            return f"The argument '{cause.override}' cannot be read ({cause}): write it as key=value."
    for cause in reversed(chain):
        if isinstance(cause, HydraException | OmegaConfBaseException):
            return _config_sentence(str(cause))
    return None


def _refusal(error: InstantiationException, cause: BaseException) -> str | None:
    """What a constructor said of the values that the configuration gave it."""
    if not isinstance(cause, ValueError | TypeError):
        return None
    key = re.search(r"full_key: (\S+)", str(error))
    where = f" (at `{key.group(1)}` in the configuration)" if key else ""
    return f"{cause}{where}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _config_sentence(text: str) -> str:
    """Hydra's and OmegaConf's messages on one line, with the nearest known name where one is near."""
    found = re.search(
        r"Could not find '([^']+)/([^'/]+)'.*?Available options in '[^']+':(.*?)(?:Config search path|$)", text, re.S
    )
    if found:
        group, name, listed = found.groups()
        options = listed.split()
        near = difflib.get_close_matches(name, options, n=1)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        return f"There is no {group} '{name}'; there are: {', '.join(options)}.{guess}"
    unknown = re.search(r"Key '([^']+)' is not in struct", text) or re.search(r"Could not override '([^']+)'", text)
    if unknown:
        whole = re.search(r"Could not override '([^']+)'", text) or unknown
        return f"There is no key '{whole.group(1)}' in the configuration: `python run.py --cfg job` shows every key."
    return " ".join(text.split())
