"""What ``evaluate --volumes`` measures; the features and the audit have tests of their own."""

import numpy as np
import pytest

from CTSynthesisLib.cli import main
from CTSynthesisLib.evaluation import distribution, diversity, volume_evaluation
from CTSynthesisLib.evaluation.diversity import ms_ssim, pairwise, prepared
from CTSynthesisLib.evaluation.inception import score_of
from CTSynthesisLib.volume import Geometry, Volume
from Testing.phantom import hounsfield, thorax


def a_group(name, volumes, features=()):
    changes = [volume_evaluation.slice_change(volume) for volume in volumes]
    return volume_evaluation._Group(name, volumes, changes, list(features), [], [f"{name}-{n}" for n in range(len(volumes))])


def a_chest(noise, shape=(30, 40, 44), spacing=(8.0, 8.0, 2.5)):
    labelmap = thorax(shape, spacing)
    return Volume(hounsfield(labelmap, noise=noise), labelmap.geometry)


def test_the_most_alike_pair_is_a_volume_with_itself(monkeypatch):
    monkeypatch.setattr(diversity, "SIDE", 64)
    labelmap = thorax(shape=(30, 30, 30), spacing=(5.0, 5.0, 5.0))
    hu, other = hounsfield(labelmap, noise=20), hounsfield(thorax(shape=(30, 30, 30)), {**dict.fromkeys(
        ("body", "lung_left", "lung_right", "heart", "aorta", "vertebrae"), 40)}, noise=20)  # fmt: skip
    assert ms_ssim(prepared(hu), prepared(hu)) == pytest.approx(1)
    assert ms_ssim(prepared(hu), prepared(other)) < 0.9 and len(pairwise([hu, other, hu])) == 3


def test_slices_that_change_more_are_told_by_how_much():
    quiet, grainy = a_group("real", [a_chest(10)]), a_group("drawn", [a_chest(30)])
    assert 1.4 < volume_evaluation._change(grainy) / volume_evaluation._change(quiet) < 3
    assert np.isnan(volume_evaluation._change(a_group("thick", [a_chest(10, spacing=(8.0, 8.0, 5.0))])))


def test_a_generated_chest_is_cropped_to_the_square_about_its_body():
    hu = np.full((4, 60, 60), -1000, np.int16)
    hu[:, 10:40, 5:25] = 0
    cube = volume_evaluation._cube(Volume(hu, Geometry.from_spacing(hu.shape, (1.0, 1.0, 3.0))))
    assert cube.array.shape == (4, 40, 40) and (cube.array == 0).sum() == 4 * 30 * 20


def test_the_table_has_a_line_for_each_source_and_no_figure_that_was_not_measured():
    row = {"n": 8, "inception_score": None, "tissue_score": 1.2345, "frechet": [10.0, 2.0],
           "pooled": {"frechet": 9.0, "low": 7.0, "high": 12.0},
           "slice_change": 1.04, "ms_ssim": [0.6, 0.05]}  # fmt: skip
    drawn = {"copies": 0.125, "ratio_copies": 0.0, "seconds": 7.2, "peak_mb": 2100}
    real, made = volume_evaluation.as_table({"real": row, "anatomy": row | drawn}).splitlines()[2:]
    assert real == "| real | 8 | - | 1.234 | 10.0 ± 2.0 | 9.0 [7.0, 12.0] | 1.04 | 0.600 ± 0.050 | - | - | - | - |"
    assert made.endswith("| 12% | 0% | 7.2 | 2100 |")


def test_the_tissue_score_by_hand(monkeypatch):
    """A slice of lungs and a slice of soft tissue are two kinds: exp(ln 2); slices alike, whatever they hold, are one."""
    assert score_of(np.array([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(2) and score_of(np.full((5, 2), 0.5)) == pytest.approx(1)
    shares = np.zeros((3, 20, 4, 4), np.float32)  # outside the body, and two tissues
    shares[0, :, :2], shares[1, :, 2:], shares[2, :, 2:] = 1, 0.7, 0.3
    shares[1, 10:, 2:], shares[2, 10:, 2:] = 0.1, 0.9
    monkeypatch.setattr(distribution, "load_segmenter", lambda model: None)
    monkeypatch.setattr(distribution, "class_shares", lambda network, hu: shares)
    volume = Volume(np.zeros((20, 4, 4), np.int16), Geometry.from_spacing((20, 4, 4), (2.0, 2.0, 2.0)))
    found = distribution.tissue_shares(volume)
    assert found == pytest.approx(np.array([[0.7, 0.3], [0.7, 0.3], [0.1, 0.9], [0.1, 0.9]]))
    divergence = (0.7 * np.log(0.7 / 0.4) + 0.3 * np.log(0.3 / 0.6) + 0.1 * np.log(0.1 / 0.4) + 0.9 * np.log(0.9 / 0.6)) / 2
    assert score_of(found) == pytest.approx(np.exp(divergence))


def test_too_few_chests_are_refused(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    assert main(["evaluate", "--volumes", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out")]) == 2
    assert "whole chests" in capsys.readouterr().err
