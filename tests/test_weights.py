"""The registry of weight files: where it looks, what it refuses, what it fetches."""

import hashlib

import pytest
import torch

from latent_geodesics.core.errors import UserError
from latent_geodesics.models import weights as weights_module
from latent_geodesics.models.weights import (
    FOLDER_VARIABLE,
    Requirement,
    WeightsFile,
    WeightsRegistry,
    load_tensors,
    require,
)

CONTENT = b"some weights"
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def known(monkeypatch, tmp_path):
    """Three files that exist nowhere but in this test, and no folder of this machine."""
    source = tmp_path / "source" / "whole.pth"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    files = [
        WeightsFile(id="whole", name="whole.pth", what="A", url=source.as_uri(), megabytes=1.5, sha256=HASH),
        WeightsFile(id="begun", name="begun.pth", what="B", url="https://no.where/b.pth", megabytes=2, prefix=HASH[:8]),
        WeightsFile(id="unknown", name="unknown.pth", what="C", url=None, megabytes=3, cache="pyiqa"),
    ]  # fmt: skip
    monkeypatch.setattr(weights_module, "KNOWN", {file.id: file for file in files})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    return tmp_path


@pytest.fixture
def registry(known):
    return lambda **options: WeightsRegistry(folder=str(known / "weights"), **options)


def test_places_are_searched_in_order(known, registry, monkeypatch):
    places = [known / "torch" / "hub" / "checkpoints", known / "shared", known / "weights"]
    monkeypatch.setenv(FOLDER_VARIABLE, str(known / "shared"))
    for folder in places:
        folder.mkdir(parents=True)
        (folder / "whole.pth").write_bytes(CONTENT)
        assert registry().take("whole") == folder / "whole.pth"
    other = known / "other.bin"
    other.write_bytes(CONTENT)
    assert registry(files={"whole": str(other)}).take("whole") == other


def test_an_explicit_path_is_the_only_place(known, registry):
    (known / "weights").mkdir()
    (known / "weights" / "whole.pth").write_bytes(CONTENT)
    with pytest.raises(UserError, match=r"weights\.files\.whole names no file"):
        registry(files={"whole": str(known / "gone.pth")}).take("whole")


def test_each_library_has_its_own_cache(known, registry):
    folder = known / "torch" / "hub" / "pyiqa"
    folder.mkdir(parents=True)
    (folder / "unknown.pth").write_bytes(b"anything")
    assert registry().take("unknown") == folder / "unknown.pth"


@pytest.mark.parametrize("id", ["whole", "begun"])
def test_another_file_under_that_name_is_refused_and_not_replaced(known, registry, id):
    (known / "weights").mkdir()
    (known / "weights" / f"{id}.pth").write_bytes(b"other weights")
    cache = known / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / f"{id}.pth").write_bytes(CONTENT)
    with pytest.raises(UserError, match="is another file") as refused:
        registry().take(id)
    assert hashlib.sha256(b"other weights").hexdigest()[:16] in str(refused.value)
    (known / "weights" / f"{id}.pth").write_bytes(CONTENT)
    assert registry().take(id) == known / "weights" / f"{id}.pth"


def test_a_file_of_unknown_hash_can_be_held_to_one(known, registry):
    (known / "weights").mkdir()
    (known / "weights" / "unknown.pth").write_bytes(b"anything")
    right = hashlib.sha256(b"anything").hexdigest()
    assert registry(sha256={"unknown": right}).take("unknown")
    with pytest.raises(UserError, match="is another file"):
        registry(sha256={"unknown": HASH}).take("unknown")


def test_one_error_names_every_missing_file(known, registry):
    with pytest.raises(UserError) as refused:
        require([Requirement(registry=registry(), id=id) for id in ("whole", "begun", "unknown", "whole")])
    lines = str(refused.value).splitlines()
    assert lines[0].startswith("3 weight files are needed")
    assert len(lines) == 4
    for line, words in zip(
        lines[1:],
        (("whole.pth", "1.5 MB", "source"), ("begun.pth", "2.0 MB", "https://no.where"), ("unknown.pth", "no public")),
        strict=True,
    ):
        assert all(word in line for word in words)
        assert str(known / "weights") in line


def test_a_missing_file_is_fetched_only_where_that_is_allowed(known, registry):
    needed = [Requirement(registry=registry(), id="whole")]
    with pytest.raises(UserError):
        require(needed)
    require([Requirement(registry=registry(download=True), id="whole")])
    assert (known / "weights" / "whole.pth").read_bytes() == CONTENT
    require(needed)
    assert [file.name for file in (known / "weights").iterdir()] == ["whole.pth"]


def test_a_download_that_fails_leaves_nothing(known, registry):
    (known / "source" / "whole.pth").unlink()
    with pytest.raises(UserError, match="could not be downloaded"):
        require([Requirement(registry=registry(download=True), id="whole")])
    assert not list((known / "weights").iterdir())


def test_a_download_of_something_else_is_refused(known, registry):
    (known / "source" / "whole.pth").write_bytes(b"an error page")
    with pytest.raises(UserError, match="is another file"):
        require([Requirement(registry=registry(download=True), id="whole")])


def test_ids_that_no_metric_uses_are_refused(registry):
    with pytest.raises(UserError, match="alexnte"):
        registry(files={"alexnte": "x.pth"})


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize("content", [Harmful(), torch.zeros(3)], ids=["code", "no mapping"])
def test_only_named_tensors_are_read(tmp_path, capsys, content):
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    with pytest.raises(UserError, match=r"weights\.pth") as refused:
        load_tensors(file)
    assert "weights_only" not in str(refused.value) and "trust" not in str(refused.value)
    assert "must not run" not in capsys.readouterr().out


def test_the_half_precision_file_does_not_pass_for_the_whole_one(tmp_path):
    """Both are SqueezeNet, and both are known by their hash."""
    half, whole = (weights_module.KNOWN[id] for id in ("squeezenet1_1_fp16", "squeezenet1_1"))
    assert not half.sha256.startswith(whole.prefix)
