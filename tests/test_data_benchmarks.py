import pytest

from latent_geodesics.core.errors import UserError
from latent_geodesics.data import Afhq, CelebAHq, MorphBench


def touch(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


@pytest.fixture
def morphbench(tmp_path):
    for part, names in (("Metamorphosis", ("lion", "apple")), ("Animation", ("dance",))):
        for name in names:
            for side in (0, 1):
                touch(tmp_path / part / f"{name}_{side}.png")
    return tmp_path


def test_morphbench_pairs_are_those_of_its_file_names(morphbench):
    pairs = MorphBench(root=morphbench).pairs
    assert [(pair.id, pair.group) for pair in pairs] == [
        ("Metamorphosis-apple", "metamorphosis"), ("Metamorphosis-lion", "metamorphosis"),
        ("Animation-dance", "animation"),
    ]  # fmt: skip
    assert (pairs[1].image_a.name, pairs[1].image_b.name) == ("lion_0.png", "lion_1.png")
    assert len(MorphBench(root=morphbench, parts=["Animation"])) == 1


def test_morphbench_takes_prompts_from_a_file(morphbench):
    (morphbench / "prompts.csv").write_text("id,prompt_a,prompt_b\nMetamorphosis/lion,a lion,a cub\n")
    pairs = MorphBench(root=morphbench, prompts=morphbench / "prompts.csv").pairs
    assert [(pair.prompt_a, pair.prompt_b) for pair in pairs] == [("", ""), ("a lion", "a cub"), ("", "")]


@pytest.fixture
def afhq(tmp_path):
    for domain in ("cat", "dog"):
        for number in range(7):
            touch(tmp_path / "val" / domain / f"{domain}_{number}.jpg")
    return tmp_path


def test_drawn_pairs_stay_in_their_domain_and_use_no_image_twice(afhq):
    data = Afhq(root=afhq, domains=["cat", "dog"], pairs=3, seed=4)
    files = [file for pair in data.pairs for file in (pair.image_a, pair.image_b)]
    assert len(set(files)) == len(files) == 12
    assert all(pair.image_a.parent == pair.image_b.parent for pair in data.pairs)
    assert {pair.prompt_a for pair in data.pairs} == {"a photo of a cat", "a photo of a dog"}
    assert Afhq(root=afhq, domains=["cat", "dog"], pairs=3, seed=4).pairs == data.pairs
    assert Afhq(root=afhq, domains=["cat", "dog"], pairs=3, seed=5).pairs != data.pairs


def test_celeba_pairs_are_of_one_sex(tmp_path):
    lines = ["8", "Bald Male Young"]
    for number in range(8):
        touch(tmp_path / "CelebA-HQ-img" / f"{number}.jpg")
        lines.append(f"{number}.jpg -1 {1 if number % 2 else -1} 1")
    (tmp_path / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines))
    pairs = CelebAHq(root=tmp_path, pairs=2).pairs
    odd = {pair.prompt_a: {int(file.stem) % 2 for file in (pair.image_a, pair.image_b)} for pair in pairs}
    assert odd == {"a photo of a man": {1}, "a photo of a woman": {0}}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: MorphBench(root=root / "none"), "data/README.md"),
        (lambda root: Afhq(root=root, domains=["cat"], pairs=4), "need 8 images and there are 7"),
        (lambda root: CelebAHq(root=root), "attribute table"),
    ],
    ids=["no_folder", "too_few", "no_table"],
)
def test_what_cannot_be_had_is_one_sentence(afhq, make, words):
    with pytest.raises(UserError, match=words) as refused:
        make(afhq)
    assert "\n" not in str(refused.value)
