"""The command: reads its arguments as they were meant, composes the configuration and hands it to the runner.

latent-geodesics                                    interpolate the shipped pairs
latent-geodesics experiment=<id>                    another experiment; --help lists them
latent-geodesics image_a=<file> image_b=<file> prompt_a='...' prompt_b='...'

File names and prompts are texts, whatever they look like. Hydra reads the value after `=` by a grammar in which `2024`
is a number, a comma makes a sweep, and accents, quotes or parentheses are errors. The shell has taken a person's own
quotes away by then.

An error is one sentence and an exit code instead of a page of traceback: 0 all of it worked, 1 the program failed (with
its traceback), 2 what was asked for cannot be done, 130 interrupted.
"""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import AnyNode, DictConfig, ListConfig, StringNode

from latent_geodesics.core.errors import UserError
from latent_geodesics.run.inputs import is_path, is_text, may_be_path
from latent_geodesics.run.sentences import sentence_of

OPEN = frozenset({"task.counts", "textual_inversion", "weights.files", "weights.sha256"})
"""Keys of mappings whose own keys are the user's to choose."""

LISTS = frozenset({"keys", "path_or_name", "runs"})
"""Options that take several paths."""

# As Hydra's own parser has them; it takes a beginning of each as well.
FLAGS = tuple(
    option for action in get_args_parser()._actions for option in action.option_strings if option.startswith("--")
)

TEXTS = frozenset({"prompts"})
"""Options that may take several texts."""

NAMES = frozenset({"name", "group", "project"})
"""Options that are texts besides prompts: what a run is called where it is logged."""

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parents[1]
"""What ships beside the code: `conf/` and `data/`, in an installed package or in a checkout."""
CONF = ROOT / "conf"


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


def as_meant(arguments: Sequence[str], *, conf: Path) -> list[str]:
    """The arguments with quotes where Hydra needs them; those that it reads as they were meant stay as they are.

    Args:
        arguments: As the shell gave them.
        conf: The folder of the configuration, whose groups take an empty list in place of null.

    Raises:
        UserError: for an option with dashes that there is not, for Hydra's own settings as a whole, and for what is no
            text at all.
    """
    arguments = ["task=preflight" if each == "--preflight" else each for each in arguments]
    sweep = any(each in ("-m", "--multirun") for each in arguments)
    reader = _Reader(sweep=sweep, groups=frozenset(folder.name for folder in conf.iterdir() if folder.is_dir()))
    return [reader.meant(each) for each in arguments]


class _Reader:
    """Reads one argument after another.

    Args:
        sweep: Whether a comma makes a sweep.
        groups: The groups of the configuration.
    """

    def __init__(self, *, sweep: bool, groups: frozenset[str]) -> None:
        self._sweep, self._groups, self._parser = sweep, groups, OverridesParser.create()

    def meant(self, argument: str) -> str:
        """The argument as it was meant."""
        _check(argument)
        key, equals, value = argument.partition("=")
        if argument.startswith(("-", "~")) or not equals or not key:
            return argument
        if key in self._groups:
            return f"{key}=[]" if value.casefold() in ("null", "") else argument
        if key.startswith("+") and not key.startswith("++") and "." in key and "@" not in key:
            # Whether an option is listed by the configuration or by its class alone is no matter of a person's.
            key, argument = f"+{key}", f"+{argument}"
        if key in OPEN or key.rpartition(".")[0] in OPEN or self._is_mapping(key, value):
            return f"++{argument}"  # a mapping may have keys that the configuration has not
        option = key.lstrip("+").rpartition(".")[2]
        if may_be_path(option) and value.startswith("~/"):
            # A shell leaves a tilde alone where it is not the first letter.
            value = str(Path(value).expanduser())
        return f"{key}={self._value(option, value)}"

    def _value(self, option: str, value: str) -> str:
        text, path = is_text(option) or option in NAMES, is_path(option)
        found = self._read(value)
        if option in LISTS | TEXTS and value.startswith("[") and value.endswith("]"):
            value = self._list(value, found)
            found = self._read(value)
        if found is None:
            is_structure = value[:1] in ("[", "{", "'", '"') and not Path(value).exists()
            if text or (may_be_path(option) and not is_structure):
                return ",".join(part if self._read(part) else _quote(part) for part in self._parts(value))
            return value  # Hydra says what is wrong
        if found.is_sweep_override():
            if not self._sweep and option in LISTS:
                return f"[{value}]"
            return _quote(value) if (text or path) and not self._sweep else value
        plain = found.value()
        kinds = (str,) if text else (str, list, dict)
        return value if plain is None or isinstance(plain, kinds) or not (text or path) else _quote(value)

    def _is_mapping(self, key: str, value: str) -> bool:
        found = self._read(value) if value.startswith("{") and not key.startswith("+") else None
        return found is not None and not found.is_sweep_override() and isinstance(found.value(), dict)

    def _list(self, value: str, found: Override | None) -> str:
        """A list of paths or texts with quotes where Hydra needs them; a file may have a comma."""
        parts, whole, start = value[1:-1].split(","), [], 0
        while start < len(parts):
            ends = (end for end in range(len(parts), start + 1, -1) if Path(",".join(parts[start:end])).exists())
            end = next(ends, start + 1)
            part = ",".join(parts[start:end]).strip()
            whole.append(str(Path(part).expanduser()) if part.startswith("~/") else part)
            start = end
        plain = None if found is None or found.is_sweep_override() else found.value()
        if isinstance(plain, list) and len(whole) == len(parts) and all(isinstance(each, str) for each in plain):
            return value if "~/" not in value else f"[{','.join(whole)}]"
        return f"[{','.join(map(_quote, filter(None, whole)))}]"

    def _parts(self, value: str) -> list[str]:
        return value.split(",") if self._sweep else [value]

    def _read(self, value: str) -> Override | None:
        try:
            return self._parser.parse_override(f"key={value}")
        except HydraException:
            return None


def _check(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise UserError(f"The argument {argument!a} is not in UTF-8: rename the file that it names.") from None
    name = argument.partition("=")[0]
    if name == "hydra":
        raise UserError(f"'{argument}' cannot be chosen: Hydra's own settings are below it, as in hydra.verbose=true.")
    if argument.startswith("--") and not any(flag.startswith(name) for flag in FLAGS):
        raise UserError(
            f"There is no option '{argument}': keys stand without dashes, as in {name.lstrip('-')}=<value>."
        )


def _quote(value: str) -> str:
    return QuotedString(text=value, quote=Quote.single).with_quotes()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _main(config: DictConfig) -> None:
    from latent_geodesics.run.runner import execute

    find_shipped(config)
    try:
        with exits(conf=CONF):  # Hydra would print the overrides above any error that left its job
            execute(config)
    except SystemExit:
        with suppress(OSError):  # where nothing ran nothing is left; a folder that holds something stays
            Path(HydraConfig.get().runtime.output_dir).rmdir()
        raise


def find_shipped(node: Any) -> None:
    """Lets paths of `data/` mean what ships where the folder that one stands in has none."""
    keys = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        value = node._get_node(key)
        if isinstance(value, DictConfig | ListConfig):
            if not value._is_none() and not value._is_interpolation() and not value._is_missing():
                find_shipped(value)
        elif isinstance(value, AnyNode | StringNode) and isinstance(value._value(), str):
            path = value._value()
            if path.startswith("data/") and not Path(path).exists() and (ROOT / path).exists():
                value._set_value(str(ROOT / path))


def run() -> None:
    """Reads the arguments of the command line as they were meant, runs, and exits by how it went."""
    # What numpy and scipy are given is small, and the network has the cores: threads that wait for more of it by
    # spinning make a solve several times slower where processes share a machine. Read when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What asks a run to end, such as a scheduler of a cluster, interrupts it: what is finished is kept.
    if current_thread() is main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # in a checkout: `recipes`, which makes what ships
    with exits(conf=CONF):
        sys.argv[1:] = as_meant(sys.argv[1:], conf=CONF)
        _main()
    sys.exit(0)
