"""Memorisation audit: copies are caught, other persons are not."""

from pathlib import Path

import numpy as np
import pytest

from CTSynthesisLib.cli import main
from CTSynthesisLib.errors import SynthesisFailed, UnusableInput
from CTSynthesisLib.evaluation import audit as module
from CTSynthesisLib.evaluation.audit import (
    auc,
    audit,
    distance_ratio,
    noisy,
    refuse_similar,
    similarity_to_training,
    warped,
    write_fingerprints,
)
from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.volume import Volume
from Testing.evaluation.segmenters import a_person, save_random_segmenter
from Testing.synthesis.models import save_random_model


@pytest.fixture(scope="module")
def a_segmenter(tmp_path_factory):
    return save_random_segmenter(tmp_path_factory.mktemp("models"))


def a_copy(person, seed=7):
    """The scan with noise of its own, shifted by some voxels and cut short."""
    noise = np.random.default_rng(seed).normal(0, 25, person.array.shape)
    array = np.roll(np.rint(person.array + noise).astype(np.int16), (2, -3), axis=(1, 2))[3:]
    return Volume(array, person.geometry.crop((3, 0, 0), array.shape))


def test_a_copy_is_caught_and_another_person_is_not(a_segmenter):
    training, held_out = [a_person(n) for n in range(4)], [a_person(n) for n in (10, 11)]
    copied = [noisy(training[1], 3), warped(training[1], 3)]
    found = audit([a_copy(training[2]), a_person(20)], training, held_out, copied=copied, model=a_segmenter)
    for name in ("correlation", "features"):
        similar = found[name]
        assert similar["nearest"][0] == 2
        assert similar["generated"][0] > similar["threshold"], name
        assert similar["generated"][1] < similar["threshold"], name
        assert similar["copies"] == 0.5
    correlation = found["correlation"]
    assert correlation["copied"][0] > 0.9 > correlation["copied"][1] > correlation["threshold"]
    ratio = correlation["ratio"]
    assert ratio["generated"][0] < ratio["threshold"] < ratio["generated"][1] and ratio["copies"] == 0.5
    assert max(ratio["copied"]) < ratio["threshold"] < min(ratio["real"])


def test_what_is_like_all_scans_is_a_copy_of_none():
    assert distance_ratio([0.5, 0.49, 0.48]) == pytest.approx(0.5 / 0.51)  # an average: more similar than persons are, but to all of them
    assert distance_ratio([0.3, 0.99, 0.2]) == pytest.approx(0.01 / 0.7)


def test_a_mirrored_copy_is_caught_by_correlation(a_segmenter):
    training = [a_person(n) for n in range(3)]
    mirrored = Volume(np.ascontiguousarray(training[1].array[:, :, ::-1]), training[1].geometry)
    found = audit([mirrored], training, [a_person(10)], model=a_segmenter)["correlation"]
    assert found["nearest"] == [1] and found["copies"] == 1


def test_the_attack_by_hand():
    assert auc([0.9, 0.8], [0.1, 0.2]) == 1
    assert auc([0.5], [0.5]) == 0.5
    assert auc([0.9, 0.1], [0.5, 0.1]) == (1 + 1 + 0 + 0.5) / 4


def test_an_audit_without_persons_is_refused(a_segmenter):
    with pytest.raises(UnusableInput, match="held out"):
        audit([a_person(0)], [a_person(1), a_person(2)], [], model=a_segmenter)


@pytest.fixture(scope="module")
def a_model_with_fingerprints(tmp_path_factory, a_segmenter):
    """A generator trained, let us say, on four persons; and the limit suggested for it."""
    folder = tmp_path_factory.mktemp("data")
    for n in range(4):
        (folder / f"case{n}").mkdir()
        write_volume(a_person(n), folder / f"case{n}" / "ct.nrrd")
    card = save_random_model(folder)
    return card.path, write_fingerprints(folder, Path(card.path).with_suffix(".fingerprints.npz"), segmenter=a_segmenter)


def test_fingerprints_recognise_a_scan_they_were_made_from(a_model_with_fingerprints, a_segmenter):
    model, limit = a_model_with_fingerprints
    similarity, suggested = similarity_to_training(a_copy(a_person(1)), model, segmenter=a_segmenter)
    assert suggested == pytest.approx(limit)
    assert similarity > limit > similarity_to_training(a_person(12), model, segmenter=a_segmenter)[0]


def test_fingerprints_are_few_numbers(a_model_with_fingerprints):
    with np.load(Path(a_model_with_fingerprints[0]).with_suffix(".fingerprints.npz")) as kept:
        slabs = int(kept["lengths"].sum())
        assert kept["rows"].shape[0] == slabs and kept["rows"].shape[1] <= 32
        assert slabs <= 4 * (168 / 16 + 1)  # four persons of 168 mm, one row for 16 mm


def test_what_resembles_a_training_scan_is_refused(a_model_with_fingerprints, a_segmenter, monkeypatch):
    monkeypatch.setattr(module, "SEGMENTER", a_segmenter)
    model, limit = a_model_with_fingerprints
    with pytest.raises(SynthesisFailed, match="resembles a training scan.*--seed"):
        refuse_similar(a_copy(a_person(1)), model, limit)
    refuse_similar(a_person(12), model, limit)


def test_a_model_without_fingerprints_is_told(tmp_path):
    with pytest.raises(UnusableInput, match="No fingerprints"):
        module.check_limit(0.8, save_random_model(tmp_path).path)
    with pytest.raises(UnusableInput, match="'--reject-similar 3'"):
        module.check_limit(3.0, "default")


def test_the_command_writes_nothing_that_resembles_a_training_scan(tmp_path, a_segmenter, a_labelmap, monkeypatch, capsys):
    """The model is said to have been trained on what it generates."""
    monkeypatch.setattr(module, "SEGMENTER", a_segmenter)
    model = save_random_model(tmp_path).path
    write_segmentation(a_labelmap, tmp_path / "map.seg.nrrd")
    command = ["generate", str(tmp_path / "map.seg.nrrd"), "--model", model, "--seed", "3", "-o"]
    (tmp_path / "data" / "own").mkdir(parents=True)
    assert main([*command, str(tmp_path / "data" / "own" / "ct.nrrd")]) == 0
    for n in range(3):
        (tmp_path / "data" / f"case{n}").mkdir()
        write_volume(a_person(n), tmp_path / "data" / f"case{n}" / "ct.nrrd")
    write_fingerprints(tmp_path / "data", Path(model).with_suffix(".fingerprints.npz"), segmenter=a_segmenter)
    capsys.readouterr()
    refused = tmp_path / "refused.nrrd"
    assert main([*command, str(refused), "--reject-similar", "0.9"]) == 1
    assert "resembles a training scan" in capsys.readouterr().err
    assert not refused.exists()
    monkeypatch.setattr(module, "fingerprint_similarity", lambda a, b: 0.5)
    assert main([*command, str(refused), "--reject-similar", "0.9"]) == 0
    assert refused.exists()
