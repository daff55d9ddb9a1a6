"""Hashes of weights: of what is loaded, and computed once for a file that stays."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from latent_geodesics.models import load_model
from latent_geodesics.models import store as fingerprints
from latent_geodesics.models.store import content_key, remembered
from latent_geodesics.models.weights import weights_file_hash


@pytest.fixture
def old_files(monkeypatch):
    """Files count as old enough at once, and this process remembers nothing."""
    monkeypatch.setattr(fingerprints, "FRESH", -1.0)
    monkeypatch.setattr(fingerprints, "_known", {})
    return fingerprints._known


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def of_all_weights(model) -> str:
    """The definition: every value of every network, the schedule, and the precision of products."""
    components = model._components
    parts = {"vae": components.vae, "unet": components.network, "text_encoder": components.texts["text_encoder"]}
    weights = [
        item
        for name, part in parts.items()
        for key, value in sorted(part.state_dict().items())
        for item in (f"{name}.{key}", str(value.dtype), value)
    ]
    schedule = model.schedule.signal, model.schedule.clean_signal, model.schedule.prediction
    return content_key(*weights, *schedule, model.network.precision)


def test_a_model_is_hashed_once(folder, tmp_path, old_files, monkeypatch):
    options = {"device": "cpu", "dtype": "float32", "cache_dir": tmp_path / "cache"}
    first = load_model(folder, **options).fingerprint
    assert first == of_all_weights(load_model(folder, **options))
    old_files.clear()
    whole = fingerprints.content_key
    monkeypatch.setattr(fingerprints, "content_key", lambda *parts: whole(*parts) if len(parts) < 9 else pytest.fail())
    assert load_model(folder, **options).fingerprint == first


def test_the_fingerprint_follows_what_is_loaded(folder, tmp_path, old_files):
    options = {"device": "cpu", "cache_dir": tmp_path / "cache"}
    first = load_model(folder, dtype="float32", **options).fingerprint
    half = load_model(folder, dtype="bfloat16", **options)
    assert half.fingerprint == of_all_weights(half) != first
    changed = load_model(folder, dtype="float32", **options)
    with torch.no_grad():
        changed.network.module.conv_out.bias += 1e-3  # in memory, after loading: the files are the same
    assert changed.fingerprint == of_all_weights(changed) != first
    other_steps = load_model(folder, dtype="float32", steps=7, **options)
    assert other_steps.fingerprint == of_all_weights(other_steps) == first  # the schedule of all training times


def test_a_changed_file_is_hashed_again_even_if_size_and_time_are_kept(tmp_path, old_files):
    file, hashes = tmp_path / "weights.bin", tmp_path / "hashes"

    def found() -> str:
        return remembered(hashes, [file], (), lambda: hashlib.sha256(file.read_bytes()).hexdigest())

    file.write_bytes(b"one")
    first, times = found(), file.stat()
    time.sleep(0.02)  # beyond the resolution of a file system's times
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    old_files.clear()
    assert found() == hashlib.sha256(b"two").hexdigest() != first


def test_a_file_that_was_just_written_is_not_trusted(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    assert remembered(tmp_path / "hashes", [file], (), lambda: "first") == "first"
    assert remembered(tmp_path / "hashes", [file], (), lambda: "second") == "second"
    assert not (tmp_path / "hashes").exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"key": "other", "hash": "x"}', "\0"])
def test_a_damaged_memory_is_none(tmp_path, old_files, content):
    file, hashes = tmp_path / "weights.bin", tmp_path / "hashes"
    file.write_bytes(b"one")
    remembered(hashes, [file], (), lambda: "right")
    (memory,) = hashes.iterdir()
    memory.write_text(content)
    old_files.clear()
    assert remembered(hashes, [file], (), lambda: "right") == "right"
    assert json.loads(memory.read_text())["hash"] == "right"


def test_a_memory_that_cannot_be_written_stops_nothing(tmp_path, old_files, caplog):
    file, hashes = tmp_path / "weights.bin", tmp_path / "hashes"
    file.write_bytes(b"one")
    hashes.write_text("a file where a folder is needed")
    assert remembered(hashes, [file], (), lambda: "right") == "right"
    assert "could not be written" in caplog.text


def test_published_files_are_hashed_once(tmp_path, monkeypatch, old_files):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "x.pth"
    file.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    assert weights_file_hash(file) == right
    old_files.clear()
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert weights_file_hash(file) == right
