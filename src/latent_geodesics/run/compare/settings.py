"""What people read of the settings in which runs differ, and which of them a curve can be drawn against."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

TASK = "task"
SEQUENCES = "sequences"
"""Where the frames of a scored run lie: task=score calls it `frames`, which elsewhere is how many a sequence has."""
OWN = "own"
"""What people read in its place of a run that made its sequences itself."""
LABELS = (TASK, SEQUENCES, "called", "metrics")
"""What tells runs apart and is no quantity that a number follows."""
IMAGES = frozenset({"data", "image_a", "image_b", "images"})
OF_SCORE = ("pairs", "true")
"""The lists of images that task=score may be given beside its sequences."""
AMOUNTS = ("batch_size", "every", "limit")
PROMPTS = ("prompt_a", "prompt_b", "prompts")

TITLES = {
    "image_a": "first image",
    "image_b": "second image",
    "prompt_a": "first prompt",
    "prompt_b": "second prompt",
    "true": "true frames",
    "called": "name",
    "data.keys": "key images",
    "data.manifest": "pairs",
}


def says_images(name: str) -> bool:
    """Whether a setting says which images there are, and not how many of them are done together."""
    parts = name.split(".")
    return name in OF_SCORE or (not IMAGES.isdisjoint(parts) and parts[-1] not in AMOUNTS)


def is_swept(name: str) -> bool:
    """Whether numbers can be drawn against a setting: one that neither names runs nor says which images there are."""
    return name not in LABELS and not says_images(name)


def goes_with_images(name: str) -> bool:
    """Whether a setting differs by itself where the images do: which they are, and what is said of them."""
    return says_images(name) or name == SEQUENCES or name.rpartition(".")[2] in PROMPTS


def setting_title(name: str) -> str:
    """What people read of a setting: its key as one types it, or words for a key of images."""
    if name in TITLES or not says_images(name):
        return TITLES.get(name, name)
    return name.removeprefix("data.").replace("_", " ")


def listed_titles(names: Sequence[str]) -> str:
    """Settings in a sentence: `tau`, `tau and alpha`, `tau, alpha and frames`."""
    titles = list(map(setting_title, names))
    return " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)


def value_words(name: str, values: Mapping[str, Any]) -> dict[str, str]:
    """What people read of the values of a setting that varies.

    Of places on disk it is the last parts of their paths, as many as tell them apart.

    Args:
        name: The setting.
        values: What a value is compared by -> the value.
    """
    places = name == SEQUENCES or says_images(name)
    longest = max((len(PurePath(part).parts) for value in values.values() for part in _texts(value)), default=1)
    for parts in range(1, longest + 1):
        words = {shown: _words(value, parts, places) for shown, value in values.items()}
        words |= {shown: OWN for shown, value in values.items() if name == SEQUENCES and value is None}
        if len(set(words.values())) == len(words):
            break
    return words


def _texts(value: Any) -> list[str]:
    each = value if isinstance(value, list) else [value]
    return [text for text in each if isinstance(text, str)]


def _words(value: Any, parts: int, places: bool) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(_words(each, parts, places) for each in value)
    if isinstance(value, str) and (places or PurePath(value).is_absolute()):
        return "/".join(PurePath(value).parts[-parts:]) or value
    return str(value)
