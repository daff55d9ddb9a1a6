"""Names that others chose, such as a pair's id, as names of files and as words on one line.

An id may be anything: a path, a name that a system reserves, hundreds of letters, or the name of a file that a run
writes itself. `file_stem` makes a name of it that stays in its folder and that no other id has.
"""

import hashlib
import json
import re
import unicodedata

METHOD_TITLES = {
    "adain_slerp": "AdaIN and slerp",
    "aid": "AID",
    "aid_inner": "AID, inner",
    "crossfade": "Cross-fade",
    "diffmorpher": "DiffMorpher",
    "freemorph": "FreeMorph",
    "geodesic_flat": "Geodesic in flat space",
    "geodesic_graph": "Geodesic of the graph",
    "geodesic_paper": "Geodesic, published descent",
    "geodesic_typical": "Geodesic of the typical set",
    "impus": "IMPUS",
    "lerp": "Lerp",
    "lol": "LOL",
    "nao": "NAO",
    "noise_diffusion": "NoiseDiffusion",
    "slerp": "Slerp",
    "slerp_retimed": "Slerp, re-timed",
    "smooth_diffusion": "Smooth Diffusion",
    "string_method": "String method",
    "the_two_images": "The two images",
    "true_frames": "True frames",
    "wang_golland": "Wang and Golland",
}
"""What people read of methods whose names do not say it."""

SOLVER_TITLES = {
    "PicardAnderson": "Picard-Anderson",
    "ControlPointDescent": "the paper's descent",
    "RungeKutta4": "Runge-Kutta",
}
"""What figures call the solvers, by their classes."""

PLAIN = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
LONGEST = 120
KEPT = 60
DIGITS = 12
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
OWN = frozenset({"grid", "overview", "pipelines", "sweep", "toy"})
"""What the project calls its own figures, which lie beside those that are named after an id."""
DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})
"""Names that stand for devices on Windows, whatever suffix follows them."""


def file_stem(*parts: str) -> str:
    """A file name without its suffix for an id, or for an id and what else tells files apart, such as a method.

    Plain names stay as they are and are joined by `_`: `pair-1`, `pair-1_slerp`; by `+` where one before the last has a
    `_` of its own, which could not be told from the joint. All others (with capitals, which some systems do not tell
    from small letters; with other signs, too long, reserved, empty) keep what is readable of them and end in `~` and
    twelve digits of a hash. The same parts always give the same name; different ones give different names, on systems
    that take capitals for small letters too.
    """
    joint = "+" if any("_" in part for part in parts[:-1]) else "_"
    joined = joint.join(parts)
    if all(map(_is_plain, parts)) and len(joined) <= LONGEST:
        return joined
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:DIGITS]
    letters = unicodedata.normalize("NFKD", joined).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9_+-]+", "-", letters).strip("-+")[:KEPT]
    return f"{readable or 'name'}~{digest}"


def one_line(text: object, *, most: int | None = None) -> str:
    """A text for one line of at most `most` letters, the middle left out where it is longer; no control characters."""
    words = " ".join("".join(_shown(letter) for letter in str(text)).split())
    if most is None or len(words) <= most:
        return words
    tail = max(1, most // 3)
    return f"{words[: most - tail - 1]}\N{HORIZONTAL ELLIPSIS}{words[-tail:]}"


def _is_plain(part: str) -> bool:
    reserved = part in OWN or part.partition(".")[0] in DEVICES
    return PLAIN.fullmatch(part) is not None and not part.endswith(".") and ".partial" not in part and not reserved


def _shown(letter: str) -> str:
    """The letter itself, or what stands for one that is not drawn or that turns the line."""
    if letter.isspace():
        return " "
    return UNKNOWN if unicodedata.category(letter)[0] == "C" else letter


def title_of(name: str) -> str:
    """What people read of a method: `geodesic_paper` is "Geodesic, published descent"."""
    if name in METHOD_TITLES:
        return METHOD_TITLES[name]
    stem, mark, rest = name.partition("_published")
    if mark and stem in METHOD_TITLES:
        return f"{METHOD_TITLES[stem]}, as published{rest.replace('_', ' ')}"
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]
