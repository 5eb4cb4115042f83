"""What ``evaluate --volumes`` measures; the features and the audit have tests of their own."""

import numpy as np
import pytest

from CTSynthesisLib.cli import main
from CTSynthesisLib.evaluation import diversity, volume_evaluation
from CTSynthesisLib.evaluation.diversity import ms_ssim, pairwise, prepared
from CTSynthesisLib.volume import Geometry, Volume
from Testing.phantom import hounsfield, thorax


def a_group(name, volumes, features=()):
    return volume_evaluation._Group(name, volumes, volumes, list(features), [f"{name}-{n}" for n in range(len(volumes))])


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
    row = {"n": 8, "inception_score": None, "frechet": [10.0, 2.0], "pooled": {"frechet": 9.0, "low": 7.0, "high": 12.0},
           "slice_change": 1.04, "ms_ssim": [0.6, 0.05]}  # fmt: skip
    drawn = {"copies": 0.125, "seconds": 7.2, "peak_mb": 2100}
    real, made = volume_evaluation.as_table({"real": row, "anatomy": row | drawn}).splitlines()[2:]
    assert real == "| real | 8 | - | 10.0 ± 2.0 | 9.0 [7.0, 12.0] | 1.04 | 0.600 ± 0.050 | - | - | - |"
    assert made.endswith("| 12% | 7.2 | 2100 |")


def test_too_few_chests_are_refused(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    assert main(["evaluate", "--volumes", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out")]) == 2
    assert "whole chests" in capsys.readouterr().err
