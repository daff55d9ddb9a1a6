"""The parts of a run of distances that need no model: levels, embedding, ranks, lengths, the images, the plan."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from latent_geodesics.core.errors import UserError
from latent_geodesics.data.collection import CollectedImage, read_collection
from latent_geodesics.experiments.distances.embedding import classical_mds
from latent_geodesics.experiments.distances.gallery import Gallery, GalleryPicture, read_gallery
from latent_geodesics.experiments.distances.levels import fit_levels, loop_sums
from latent_geodesics.experiments.distances.paths import Leg
from latent_geodesics.experiments.distances.plan import FINER, lay_out
from latent_geodesics.experiments.distances.ranking import kin_triplets, rank_families, rank_grades
from latent_geodesics.experiments.distances.report import verdicts

GENERATOR = np.random.default_rng(0)


def complete(n):
    return [(a, b) for a in range(n) for b in range(a + 1, n)]


def test_levels_of_a_gradient_are_found_exactly_and_its_loops_close():
    level = np.array([3.0, -1.0, 0.5, 7.0])
    changes = {(a, b): level[b] - level[a] for a, b in complete(4)}
    found = fit_levels(changes, count=4, reference=np.array([1]))
    np.testing.assert_allclose(found.level, level + 1.0)
    assert list(found.misfit) == complete(4)
    np.testing.assert_allclose(list(found.misfit.values()), 0, atol=1e-12)
    assert found.explained == pytest.approx(1)
    matrix = level[None] - level[:, None]
    np.testing.assert_allclose(loop_sums(matrix), 0, atol=1e-12)
    assert len(loop_sums(matrix)) == 4


def test_a_rotation_has_no_levels_and_shows_in_the_loops():
    turn = {(0, 1): 2.0, (1, 2): 2.0, (2, 0): 2.0}
    found = fit_levels(turn, count=3, reference=np.arange(3))
    assert found.misfit == pytest.approx(turn)
    np.testing.assert_allclose(found.level, 0, atol=1e-12)
    assert found.explained == pytest.approx(0)
    matrix = np.array([[0.0, 2, -2], [-2, 0, 2], [2, -2, 0]])
    np.testing.assert_allclose(loop_sums(matrix), [6.0])


def test_levels_need_paths_between_all_images():
    with pytest.raises(ValueError, match="connect"):
        fit_levels({(0, 1): 1.0, (2, 3): 1.0}, count=4, reference=np.array([0]))


def test_scaling_recovers_points_up_to_a_motion():
    points = GENERATOR.normal(size=(9, 2)) * [3.0, 1.0]
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    found = classical_mds(distances)
    between = np.linalg.norm(found.points[:, None] - found.points[None], axis=-1)
    np.testing.assert_allclose(between, distances, atol=1e-9)
    assert found.stress < 1e-9
    assert found.negative < 1e-9
    assert found.shares.sum() == pytest.approx(1)
    assert found.shares[0] > found.shares[1]


def test_scaling_says_when_the_distances_are_not_flat():
    star = np.array([[0.0, 1, 1, 1], [1, 0, 2, 2], [1, 2, 0, 2], [1, 2, 2, 0]])
    assert classical_mds(star).negative > 0.01
    for wrong in (np.ones((2, 3)), np.array([[0, np.nan], [np.nan, 0]]), np.array([[0.0, 1], [2, 0]]), np.eye(2)):
        with pytest.raises(ValueError, match="distances must"):
            classical_mds(wrong)
    assert np.array_equal(classical_mds(np.zeros((3, 3))).points, np.zeros((3, 2)))


def motion(name, *, noise, positions=(0.0, 0.25, 0.5, 0.75, 1.0)):
    rows = []
    for place, a in enumerate(positions):
        for b in positions[place + 1 :]:
            rows.append({"family": name, "position_a": a, "position_b": b, "good": (b - a) ** 2})
            rows[-1]["bad"] = float(GENERATOR.uniform()) if noise else -(b - a)
            rows[-1]["flat"] = 1.0
    return rows


def test_ranks_of_a_monotone_an_inverse_and_a_blind_distance():
    table = pd.DataFrame([row for name in "abc" for row in motion(name, noise=False)])
    found = {
        (rank.distance, rank.measure): rank
        for rank in rank_families(table, ["good", "bad", "flat"], draws=50, generator=np.random.default_rng(1))
    }
    assert found["good", "family_spearman"].value == pytest.approx(1)
    assert found["bad", "family_kendall"].value == pytest.approx(-1)
    assert found["good", "family_triplets"].value == 1
    assert found["bad", "family_triplets"].value == 0
    assert found["flat", "family_spearman"].value == 0
    assert found["flat", "family_triplets"].value == 0
    gain = found["bad", "family_triplets"]
    assert (gain.gain, gain.gain_low, gain.gain_high, gain.count) == (1, 1, 1, 3)


def test_intervals_hold_the_value_and_widen_with_the_noise():
    table = pd.DataFrame([row for name in "abcdefgh" for row in motion(name, noise=True)])
    found = rank_families(table, ["good", "bad"], draws=400, generator=np.random.default_rng(1))
    bad = next(rank for rank in found if rank.distance == "bad" and rank.measure == "family_spearman")
    assert bad.low < bad.value < bad.high
    assert bad.high - bad.low > 0.05
    assert bad.gain_low > 0


def test_grades():
    table = pd.DataFrame({"difficulty": [1, 1, 2, 2, 3, 4], "up": [1.0, 2, 3, 4, 5, 6], "down": [6.0, 5, 4, 3, 2, 1]})
    ranks = rank_grades(table, ["up", "down"], draws=100, generator=np.random.default_rng(1))
    found = {(rank.distance, rank.measure): rank for rank in ranks}
    assert found["up", "grade_spearman"].value > 0.95
    assert found["up", "grade_kendall"].value == pytest.approx(-found["down", "grade_kendall"].value)
    assert found["down", "grade_kendall"].gain_low > 1
    assert rank_grades(table.assign(difficulty=1), ["up"], draws=9, generator=np.random.default_rng(1)) == []
    said = verdicts(
        pd.DataFrame([vars(rank) | {"distance": n} for rank, n in zip(ranks, ["geodesic", "pixels"] * 2, strict=True)])
    )
    assert len(said) == 1
    assert "better than pixels" in said[0]
    few = pd.DataFrame([vars(rank) | {"distance": "pixels", "count": 2} for rank in ranks])
    assert "too few" in verdicts(few)[0]


def test_kin():
    distances = np.array([[0.0, 1, 5, 4], [1, 0, 5, 0.5], [5, 5, 0, 2], [4, 0.5, 2, 0]])
    assert kin_triplets(distances, ["a", "a", "b", "b"]) == pytest.approx(6 / 8)
    assert np.isnan(kin_triplets(distances, ["a", "", "", ""]))


def leg(**changed):
    u = torch.linspace(0, 1, 7, dtype=torch.float64)
    curves = {"log_density": 3 * u + u.sin(), "error": torch.full((7,), 1e-3).double(), "speed": 2 + 0 * u}
    known = {"status": "converged", "seconds": 1.5, "evaluations": 40, "residual": 1e-3, "arc": 2.0}
    return Leg(**known, **(curves | {"u": u, "widths": u[-1:]} | changed))


def test_a_path_is_as_long_as_the_density_at_its_ends_says():
    flat, error = leg().length(0.4, 0.4, 0.0)
    assert flat == pytest.approx(2.0)
    assert error < 1e-12
    one, two = leg().length(0.0, 3.0, 0.5)[0], leg().length(1.0, 4.0, 0.5)[0]
    assert two == pytest.approx(np.exp(-0.5) * one)
    assert leg().change == pytest.approx(3 + np.sin(1))


def test_a_path_whose_score_was_not_finite_on_the_way_has_no_length():
    broken = torch.tensor([0, 1, float("nan"), 1, 1, 1, 1], dtype=torch.float64)
    assert np.isnan(leg(log_density=broken).change)
    assert np.isnan(leg(log_density=broken).length(0.0, 1.0, 0.5)).all()


@pytest.fixture
def folder(tmp_path):
    for name, color in (("b", "red"), ("a", "blue"), ("c", "red")):
        Image.new("RGB", (16, 16), color).save(tmp_path / f"{name}.png")
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "a.webp", lossless=True)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_is_read_in_order_and_duplicates_are_one_picture(folder):
    items = read_collection(folder)
    assert [item.id for item in items] == ["a.png", "a.webp", "b", "c"]
    gallery = read_gallery(items, size=(16, 16))
    assert gallery.picture == (0, 0, 1, 1)
    assert len(gallery.pictures) == len({picture.id for picture in gallery.pictures}) == 2
    assert gallery.images.shape == (2, 3, 16, 16)
    assert (gallery.reference("mean"), gallery.reference("b")) == ((0, 1), (1,))


def test_a_manifest_of_images(folder):
    manifest = folder / "images.csv"
    manifest.write_text("id,image,family,position\none,a.png,m,0\ntwo,b.png,m,1\nthree,c.png,,\n")
    first, second, third = read_collection(manifest)
    assert (first.family, first.position, second.position) == ("m", 0, 1)
    assert third.position is None


def test_a_manifest_of_pairs_gives_frames_or_ends():
    items = read_collection("data/pairs/manifest.csv", pairs=["00-translate_x", "03-different_scene"], frames=5)
    assert [item.position for item in items] == [0, 0.25, 0.5, 0.75, 1, None, None]
    assert items[1].id == "00-translate_x-04"
    assert items[-1].family == "03-different_scene"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("id,picture\none,a.png\n", "lacks .*image"),
        ("id,image\none,a.png\none,b.png\n", "'one' twice"),
        ("id,image\none,a.png\ntwo,nowhere.png\n", "nowhere.png"),
        ("id,image\none,a.png\n", "1 image"),
        ("id,image,position\none,a.png,2\ntwo,b.png,0\n", "'2'"),
        ("id,image,sha256\none,a.png,00\ntwo,b.png,\n", "checksum"),
        ("id,image\none\ntwo,b.png\n", r"Line 2 .* 1 cell"),
    ],
)
def test_what_a_manifest_of_images_must_not_be(folder, lines, words):
    (folder / "images.csv").write_text(lines)
    with pytest.raises(UserError, match=words):
        read_collection(folder / "images.csv")


def test_what_a_folder_must_not_be(tmp_path):
    with pytest.raises(UserError, match="do not exist"):
        read_collection(tmp_path / "nowhere")
    with pytest.raises(UserError, match="0 image"):
        read_collection(tmp_path)
    with pytest.raises(UserError, match="has no pair nonsense"):
        read_collection("data/pairs/manifest.csv", pairs=["nonsense"])
    with pytest.raises(UserError, match="frames must be at least 2"):
        read_collection("data/pairs/manifest.csv", frames=1)
    (tmp_path / "bytes.csv").write_bytes(b"id,image\n\xff\xfe\n")
    with pytest.raises(UserError, match="no CSV"):
        read_collection(tmp_path / "bytes.csv")


def gallery_of(families, picture, *, collected):
    items = tuple(CollectedImage(id=str(n), file=None, family=family) for n, family in enumerate(families))  # type: ignore[arg-type]
    pictures = tuple(
        GalleryPicture(id="abcdefgh"[n], title=str(n), image=torch.zeros(3, 8, 8)) for n in range(max(picture) + 1)
    )
    return Gallery(items=items, collected=collected, picture=picture, pictures=pictures)


def test_the_plan_solves_each_pair_once_and_ties_everything_together():
    gallery = gallery_of(["m", "m", "", "k", "k", "k"], (0, 1, 0, 2, 3, 4), collected=3)
    plan = lay_out(gallery, spokes=2, checks=1)
    assert gallery.shown == (0, 1)
    assert plan.geodesics == ((0, 1), (2, 3), (2, 4), (3, 4))
    assert plan.great_circles == ((0, 2), (1, 2))
    assert plan.checks == ((0, 1),)
    assert set(gallery.families) == {"m", "k"}
    changes = dict.fromkeys([*plan.geodesics, *plan.great_circles], 0.0)
    fit_levels(changes, count=5, reference=np.array([0]))
    batches = plan.batches(gallery, 4)
    assert [[path.ends for path in batch] for batch in batches] == [
        [(0, 1), (2, 3), (2, 4), (3, 4)], [(1, 0)], [(0, 2), (1, 2)], [(0, 1)],
    ]  # fmt: skip
    assert {batch[0].kind for batch in batches} == {"geodesic", "great_circle", FINER}
    ids = [path.id for batch in batches for path in batch]
    assert len(set(ids)) == len(ids)


def test_known_changes_that_the_collection_holds_are_not_read_twice(folder):
    def frames(family, *names):
        return [CollectedImage(id=f"{family}{name}", file=folder / f"{name}.png", family=family) for name in names]

    gallery = read_gallery(frames("m", "a", "b"), [*frames("m", "c"), *frames("k", "b", "c")], size=(16, 16))
    assert [item.id for item in gallery.items] == ["ma", "mb", "kb", "kc"]
    assert [item.id for item in gallery.collection] == ["ma", "mb"]


def test_a_collection_of_one_picture_needs_no_path():
    gallery = gallery_of(["", ""], (0, 0), collected=2)
    assert lay_out(gallery, spokes=1, checks=4).batches(gallery, 2) == []
    assert fit_levels({}, count=1, reference=np.array([0])).level.tolist() == [0]
