"""Published sets of pairs, read from the folders that their authors hand out; none of them ships with this project.

`data/README.md` says where each is had and under which licence. Prompts that a source does not give are the user's: a
CSV file with the columns `id, prompt_a, prompt_b`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.file_order import image_files
from latent_geodesics.data.manifests import read_rows
from latent_geodesics.data.pairs import ImagePair, PairSelection

ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"
WORDS = {True: "a photo of a man", False: "a photo of a woman"}


class MorphBench(PairSelection):
    """MorphBench (Zhang et al. 2023, arXiv 2312.07409): 66 pairs of different objects, 24 of one object that changes.

    Its layout is `<part>/<name>_0.png` and `<part>/<name>_1.png` with the parts `Metamorphosis` and `Animation`, which
    become the pairs' groups. It has no prompts of its own.

    Args:
        root: The unpacked folder.
        parts: Which parts.
        prompts: A CSV file of prompts (`id, prompt_a, prompt_b`; an id is `<part>/<name>`), or None for empty prompts.
        selection: `split`, `every`, `limit`, `batch_size` and `shard`; see `PairSelection`.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        parts: Sequence[str] = ("Metamorphosis", "Animation"),
        prompts: str | Path | None = None,
        **selection: Any,
    ) -> None:
        known = {} if prompts is None else _read_prompts(Path(prompts))
        pairs = []
        for part in parts:
            for first in image_files(_folder(Path(root) / part, "MorphBench")):
                second = first.with_name(f"{first.stem.removesuffix('_0')}_1{first.suffix}")
                if not first.stem.endswith("_0"):
                    continue
                if not second.is_file():
                    raise UserError(f"MorphBench's pair '{first}' lacks its second image '{second.name}': restore it.")
                name = f"{part}/{first.stem.removesuffix('_0')}"
                prompt_a, prompt_b = known.pop(name, ("", ""))
                pairs.append(
                    ImagePair(
                        id=name.replace("/", "-"), group=part.lower(), image_a=first, image_b=second,
                        prompt_a=prompt_a, prompt_b=prompt_b,
                    )
                )  # fmt: skip
        unused = [name for name in known if name.split("/")[0] in parts or "/" not in name]
        if unused:
            raise UserError(
                f"The prompts '{prompts}' name the pair '{unused[0]}', which '{root}' does not hold: an id is "
                "<part>/<name>, such as Metamorphosis/lion."
            )
        super().__init__(pairs=_some(pairs, root, "MorphBench"), **selection)


class Afhq(PairSelection):
    """Pairs within each domain of AFHQ (Choi et al. 2020, arXiv 1912.01865), drawn by a seed.

    Its layout is `<subset>/<domain>/*.{png,jpg}` with the domains cat, dog and wild.

    Args:
        root: The unpacked folder.
        subset: `train`, `val` or `test`.
        domains: Which domains.
        pairs: How many pairs of each; no image is in two pairs.
        seed: Decides the draw.
        selection: `split`, `every`, `limit`, `batch_size` and `shard`; see `PairSelection`.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        subset: str = "val",
        domains: Sequence[str] = ("cat", "dog", "wild"),
        pairs: int = 50,
        seed: int = 0,
        **selection: Any,
    ) -> None:
        drawn = []
        for domain in domains:
            files = _images(_folder(Path(root) / subset / domain, "AFHQ"))
            word = "wild animal" if domain == "wild" else domain
            drawn.extend(_draw(files, pairs=pairs, seed=seed, group=domain, prompt=f"a photo of a {word}"))
        super().__init__(pairs=drawn, **selection)


class CelebAHq(PairSelection):
    """Pairs of one sex of CelebA-HQ, as Saito and Matsubara (2025, arXiv 2510.05509) take them: 50 of men, 50 of women.

    Its layout is that of CelebAMask-HQ: `CelebA-HQ-img/<number>.jpg` and the attribute table beside it.

    Deviation: the source keeps pairs whose LPIPS is below 0.6; here all that are drawn are kept, since the pairs must
    be known before any network is loaded. To keep fewer, write a manifest.

    Args:
        root: The unpacked folder.
        pairs: How many pairs of each sex; no image is in two pairs.
        seed: Decides the draw.
        selection: `split`, `every`, `limit`, `batch_size` and `shard`; see `PairSelection`.
    """

    def __init__(self, *, root: str | Path, pairs: int = 50, seed: int = 0, **selection: Any) -> None:
        root = _folder(Path(root), "CelebA-HQ")
        male = _male(root / ATTRIBUTES)
        files = [file for file in _images(_folder(root / "CelebA-HQ-img", "CelebA-HQ")) if file.name in male]
        drawn = []
        for sex, prompt in WORDS.items():
            of_sex = [file for file in files if male[file.name] is sex]
            drawn.extend(_draw(of_sex, pairs=pairs, seed=seed, group="man" if sex else "woman", prompt=prompt))
        super().__init__(pairs=drawn, **selection)


def _draw(files: Sequence[Path], *, pairs: int, seed: int, group: str, prompt: str) -> list[ImagePair]:
    """Pairs of different images, no image twice."""
    if pairs < 1:
        raise UserError(f"data.pairs must be at least 1, got {pairs}.")
    if len(files) < 2 * pairs:
        raise UserError(
            f"{pairs} pairs of '{group}' need {2 * pairs} images and there are {len(files)}: lower data.pairs."
        )
    order = np.random.default_rng(seed).permutation(len(files))
    return [
        ImagePair(
            id=f"{group}-{files[a].stem}-{files[b].stem}", group=group, image_a=files[a], image_b=files[b],
            prompt_a=prompt, prompt_b=prompt,
        )
        for a, b in order[: 2 * pairs].reshape(-1, 2)
    ]  # fmt: skip


def _folder(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise UserError(f"{name} has no folder '{folder}': set data.root; data/README.md says where {name} is had.")
    return folder


def _images(folder: Path) -> list[Path]:
    """The images of a folder as they are drawn from: in the order of their text, so that a seed's draw stays."""
    return sorted(image_files(folder))


def _some(pairs: list[ImagePair], root: str | Path, name: str) -> list[ImagePair]:
    if not pairs:
        raise UserError(f"'{root}' holds no pair of {name}: its files are named <name>_0.png and <name>_1.png.")
    return pairs


def _read_prompts(file: Path) -> dict[str, tuple[str, str]]:
    rows = read_rows(file, required=("id", "prompt_a", "prompt_b"), thing="prompt", option="data.prompts")
    return {row["id"]: (row["prompt_a"], row["prompt_b"]) for row in rows}


def _male(table: Path) -> Mapping[str, bool]:
    """File name -> whether the attribute `Male` is 1: the second line names the attributes, a line an image follows."""
    if not table.is_file():
        raise UserError(f"CelebA-HQ's attribute table '{table}' is missing: it comes with CelebAMask-HQ.")
    _, names, *lines = [*table.read_text(encoding="utf-8").splitlines(), "", ""]
    if "Male" not in names.split():
        raise UserError(f"The second line of '{table}' does not name the attribute Male: restore the file.")
    column, male = names.split().index("Male"), {}
    for number, line in enumerate(lines, start=3):
        if not line.strip():
            continue
        name, *values = line.split()
        if len(values) != len(names.split()) or values[column] not in ("1", "-1"):
            raise UserError(
                f"Line {number} of '{table}' must give 1 or -1 for each of the {len(names.split())} attributes that "
                "its second line names: restore the file."
            )
        male[name] = values[column] == "1"
    return male
