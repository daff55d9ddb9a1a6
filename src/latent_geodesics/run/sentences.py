"""What a person should read of an error: one sentence, and nothing for a defect of the program.

Only what an error names as its cause counts as one. An error that was being dealt with when another one was raised (the
file of a cache that is not there yet) says nothing about that one, with the exception of a full disk.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from latent_geodesics.core.errors import UserError, is_out_of_memory, near_name

FULL = {
    errno.ENOSPC: "the disk is full: free some space or choose another output_dir",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another output_dir",
}
UNWRITABLE = FULL | {
    errno.EACCES: "permission is denied: choose an output_dir that you may write to",
    errno.EPERM: "permission is denied: choose an output_dir that you may write to",
    errno.EROFS: "the file system is read-only: choose another output_dir",
    errno.ENOTDIR: "a part of that path is a file, not a folder: choose another output_dir",
    errno.EEXIST: "a file stands where a folder is needed: choose another output_dir",
    errno.ENAMETOOLONG: "its name is too long for the file system: choose a shorter output_dir",
}
INSTEAD = "name another file or folder, or another output_dir if the run was to write there"
SHOWN = 3


def sentence_of(error: BaseException, *, conf: Path | None = None) -> str | None:
    """What the person should read, or None where the error is a defect of the program.

    Args:
        error: What was raised.
        conf: The folder of the configuration's groups, where there is one.
    """
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
    for cause in chain:
        sentence = _of_the_machine(cause)
        if sentence is not None:
            return sentence
    for cause in chain:
        if isinstance(cause, InstantiationException):
            return _refusal(cause, chain[-1], conf)
    for cause in chain:
        if isinstance(cause, OverrideParseException):
            return f"The argument '{cause.override}' cannot be read ({_grammar(cause)}): write it as key=value."
    for cause in reversed(chain):
        if isinstance(cause, ConfigKeyError | ConfigAttributeError):
            return _unknown_key(cause, str(chain[0]), conf)
        if isinstance(cause, HydraException | OmegaConfBaseException):
            return _of_the_configuration(cause, conf)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it names as its cause; a full disk is the cause of whatever failed while it was dealt with."""
    link: BaseException | None = error
    while link is not None:
        yield link
        behind = None if link.__suppress_context__ else link.__context__
        full = behind if isinstance(behind, OSError) and behind.errno in FULL else None
        link = link.__cause__ or full


def _of_the_machine(error: BaseException) -> str | None:
    """What memory, disk or file system have to say."""
    if is_out_of_memory(error):
        return (
            f"The memory is full ({_first_line(error)}): lower model.batch_size or data.batch_size, take smaller "
            "images, or end what else uses it."
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = f"'{os.fsdecode(error.filename)}'" if isinstance(error.filename, str | bytes) else ""
        if error.errno in (errno.EACCES, errno.EPERM) and where and _exists_unreadable(error.filename):
            return f"{where} cannot be read: permission is denied; change its permissions or name another."
        if error.errno in UNWRITABLE:
            return f"{where or 'A file of the run'} cannot be written: {UNWRITABLE[error.errno]}."
        if where:
            return f"{where} cannot be used ({error.strerror}): {INSTEAD}."
        if error.errno == errno.EPIPE:
            return "What read the output has ended (a pipe such as `| head`): send the output to a file instead."
    # Libraries that write in Rust or C++ keep the errno only in their text.
    if "No space left on device" in str(error):
        return f"A file of the run cannot be written: {FULL[errno.ENOSPC]}."
    return None


def _exists_unreadable(file: str | bytes) -> bool:
    path = Path(os.fsdecode(file))
    try:
        return path.exists() and not os.access(path, os.R_OK)
    except OSError:
        return False


def _refusal(error: InstantiationException, cause: BaseException, conf: Path | None) -> str | None:
    """What a constructor said of the values that the configuration gave it, or why there is no such constructor."""
    key = re.search(r"full_key: (\S+)", str(error))
    where = f" (at `{key.group(1)}` in the configuration)" if key else ""
    target = re.search(r"Error locating target '([^']+)'", str(error))
    if target and isinstance(cause, ImportError | AttributeError | ValueError):
        return f"'{target.group(1)}'{where} cannot be imported ({_first_line(cause)}): correct its name."
    if not isinstance(cause, ValueError | TypeError):
        return None
    unknown = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", str(cause))
    if unknown and key:
        called = re.search(r"Error in call to target '([^']+)'", str(error))
        taken = _options_of(called.group(1) if called else "", unknown.group(1))
        meant = _choices_with(key.group(1), unknown.group(2), conf) or near_name(unknown.group(2), taken)
        return f"There is no option '{unknown.group(2)}' at `{key.group(1)}`.{meant}"
    if isinstance(cause, TypeError) and " not supported between instances of " in str(cause):
        return f"A value is of the wrong kind{where}, such as a text in place of a number: {_one_line(cause)}."
    return f"{_one_line(cause)}{where}"


def _options_of(target: str, called: str) -> set[str]:
    """The options of a class, and of the one by the name `called` beside it or its bases, which takes some of them."""
    module, _, name = target.rpartition(".")
    made: Any = getattr(sys.modules.get(module), name, None)
    beside = [sys.modules.get(each.__module__) for each in getattr(made, "__mro__", ())]
    found = set()
    for each in [made, *(getattr(one, called, None) for one in beside)]:
        try:
            found |= {name for name, one in signature(each).parameters.items() if one.kind is not one.VAR_KEYWORD}
        except (TypeError, ValueError):  # nothing that is called
            continue
    return found


def _unknown_key(error: OmegaConfBaseException, whole: str, conf: Path | None) -> str:
    """A key that the configuration has not, and the one that was meant."""
    found = re.search(r"Could not override '([^']+)'", whole)
    key = found.group(1) if found else str(error.full_key)
    return (
        f"There is no key '{key}' in the configuration.{_meant_key(error, key, conf)} `python run.py --cfg job` shows "
        "every key."
    )


def _meant_key(error: OmegaConfBaseException, key: str, conf: Path | None) -> str:
    """The nearest key beside a mistyped one, or those of the same name elsewhere."""
    parent, missing = error.parent_node, str(error.full_key)
    if not isinstance(parent, DictConfig):
        return ""
    prefix, _, name = missing.rpartition(".")
    groups = {folder.name for folder in conf.iterdir() if folder.is_dir()} if conf and not prefix else set()
    if name in groups and f"{name}s" in parent:
        return f" What the group '{name}' offers stands below '{name}s'."
    if name in groups:
        return f" Its group is empty: choose one of conf/{name}/ by {name}=<name>."
    near = near_name(name, {str(each) for each in parent} | groups)
    if near:
        meant = near.replace("'", f"'{prefix}.", 1) if prefix else near
        return meant.replace("'?", f"{key.removeprefix(missing)}'?") if key.startswith(f"{missing}.") else meant
    elsewhere = [other for other in _keys(OmegaConf.to_container(parent._get_root(), resolve=False)) if
                 other.rpartition(".")[2] == name and other.partition(".")[0] not in ("hydra", "task")]  # fmt: skip
    if elsewhere:
        return f" Did you mean {' or '.join(repr(other) for other in elsewhere[:SHOWN])}?"
    chosen = _choices_with(prefix or "experiment", name, conf)
    if chosen:
        return chosen
    if prefix and key == missing:
        return f" An option that it does not list is added by +{key}=<value>, if its class takes one."
    return ""


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        yield key
        yield from _keys(value, key)


def _of_the_configuration(error: BaseException, conf: Path | None) -> str:
    """Hydra's and OmegaConf's messages on one line, with the nearest known name where one is near."""
    text = str(error)
    found = re.search(r"Could not (?:find|load) '(.+)/([^'/]+)'", text)
    if found:
        group, name = found.groups()
        listed = re.search(r"Available options in '[^']+':(.*?)(?:Config search path|$)", text, re.S)
        options = listed.group(1).split() if listed else _options(conf, group)
        if options:
            one = "choice of metrics" if group == "metrics" else group
            return f"There is no {one} '{name}'; there are: {', '.join(options)}.{near_name(name, options)}"
    if isinstance(error, MissingMandatoryValue):
        key = error.full_key or text.rpartition(" ")[2]
        return f"{key} has no value: give it one, {key}=<value>."
    if isinstance(error, InterpolationKeyError):
        missing = re.search(r"Interpolation key '([^']+)' not found", text)
        if missing:
            name = missing.group(1)
            return f"`{name}` has no value, and {error.full_key} takes it from there: give it one, {name}=<value>."
    several = re.match(r"Ambiguous value for argument '([^']+)'", text)
    if several:
        key = several.group(1).partition("=")[0]
        return (
            f"The argument '{several.group(1)}' gives several values: add -m to make a run of each, or write "
            f"{key}=[...] where one run takes a list."
        )
    return _one_line(error)


def _options(conf: Path | None, group: str) -> list[str]:
    return sorted(file.stem for file in (conf / group).glob("*.yaml")) if conf else []


def _choices_with(group: str, name: str, conf: Path | None) -> str:
    """Which options of a group have such a key, in words; nothing where none has."""
    files = sorted((conf / group).glob("*.yaml")) if conf else []
    choices = [f"{group}={file.stem}" for file in files if name in (OmegaConf.load(file) or ())]
    return f" It belongs to {' or '.join(choices[:SHOWN])}." if choices else ""


def _grammar(error: OverrideParseException) -> str:
    """What Hydra's grammar misses, without the argument and the address of its manual."""
    lines = [line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See http"))]
    return " ".join(lines).strip() or type(error).__name__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
