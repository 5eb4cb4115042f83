"""`ctsynthesis nodule inject|erase` on real files, with the networks that ship."""

import json

import numpy as np
import pytest

from CTSynthesisLib.cli import main
from CTSynthesisLib.files import read_segmentation, read_volume, write_segmentation, write_volume
from CTSynthesisLib.synthesis import nodule_places
from CTSynthesisLib.volume import LabelMap, Segment
from Testing.nodule_chest import chest_and_lungs, in_the_lung


@pytest.fixture(scope="module")
def a_case(tmp_path_factory):
    """A chest on disk; its lungs, and the voxel "I,J,K" of a place amid them."""
    path = tmp_path_factory.mktemp("chest") / "ct.nrrd"
    volume, labels = chest_and_lungs()
    write_volume(volume, path)
    return path, labels, ",".join(f"{a:g}" for a in in_the_lung(labels)[::-1])


def run(capfd, *argv):
    code = main([str(a) for a in argv])
    printed = capfd.readouterr()
    return code, printed.out, printed.err


def test_inject_writes_an_annotated_case_and_erase_takes_it_away(a_case, tmp_path, capfd):
    ct, labels, place = a_case
    out, picture = tmp_path / "with.nrrd", tmp_path / "picture.png"
    code, said, error = run(capfd, "nodule", "inject", ct, "-o", out, "--at", place, "--diameter", 12, "--edge", "lobulated", "--seed", 2,
                            "--preview", picture)  # fmt: skip
    assert code == 0, error
    assert "12 mm, solid, lobulated" in said and picture.stat().st_size > 5000
    before, after, drawn = read_volume(ct), read_volume(out), read_segmentation(tmp_path / "with.nodules.seg.nrrd")
    mask = drawn.array == 1
    assert drawn.segments[0].name == "nodule 1"
    assert (6000 * mask.sum() * before.geometry.voxel_ml / np.pi) ** (1 / 3) == pytest.approx(12, abs=1.2)
    assert after.array[mask].mean() > -350 and before.array[mask].mean() < -800
    assert json.loads(after.metadata["CTSynthesis.Nodules"])[0]["model"] == "nodule_injector" and after.metadata["CTSynthesis.Synthetic"]

    code, said, error = run(capfd, "nodule", "erase", out, "-o", tmp_path / "without.nii.gz", "--at", place)
    assert code == 0, error
    cleared = read_volume(tmp_path / "without.nii.gz").array
    assert cleared[mask].mean() < -780 and "ml" in said
    assert (cleared != before.array).mean() < 0.02 and not list(tmp_path.glob("without.nodules*"))


def test_a_segmentation_says_where_and_how_large(a_case, tmp_path, capfd):
    ct, labels, _ = a_case
    volume, at = read_volume(ct), in_the_lung(labels)
    mask = np.zeros(labels.shape, np.uint8)
    z, y, x = (((np.arange(n) - a) * s) ** 2 for n, a, s in zip(labels.shape, at, volume.geometry.spacing[::-1], strict=True))
    mask[z[:, None, None] + y[:, None] + x < 5**2] = 1
    write_segmentation(LabelMap(mask, volume.geometry, (Segment(1, "nodule"),)), tmp_path / "mask.seg.nrrd")
    code, said, error = run(capfd, "nodule", "inject", ct, "-o", tmp_path / "with.nrrd", "--mask", tmp_path / "mask.seg.nrrd")
    assert code == 0 and ("10 mm, solid" in said or " 9." in said or " 10." in said), error
    assert (read_segmentation(tmp_path / "with.nodules.seg.nrrd").array[mask > 0] == 1).mean() > 0.8


def test_random_places_and_progress_for_other_programs(a_case, tmp_path, capfd):
    ct, labels, _ = a_case
    code, said, error = run(capfd, "nodule", "inject", ct, "-o", tmp_path / "with.nrrd", "--random", 3, "--tell-progress")
    assert code == 0 and len([line for line in said.splitlines() if "I,J,K" in line]) == 3
    told = [json.loads(line) for line in error.splitlines() if line.startswith("{")]
    assert told[-1]["fraction"] == 1.0 and any("nodule 3 of 3" in line["stage"] for line in told)
    drawn = read_segmentation(tmp_path / "with.nodules.seg.nrrd").array
    assert set(np.unique(drawn)) == {0, 1, 2, 3} and nodule_places.is_lung(labels)[drawn > 0].mean() > 0.9


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("inject",), "in one way: --at I,J,K"),
        (("inject", "--at", "1,2"), "is not a voxel"),
        (("inject", "--at", "48,42,12"), "mm outside the lung"),
        (("inject", "--at", "5,5,99"), "outside the volume"),
        (("inject", "--random", "0"), "from 1 to 100"),
        (("inject", "--random", "2", "--diameter", "40"), "3 to 30 mm"),
        (("inject", "--random", "2", "--type", "cystic"), "solid, part-solid, ground-glass"),
        (("erase", "--random", "2"), "--mask SEG"),
        (("erase", "--at", "PLACE"), "stands out from the lung"),
        (("remove", "--at", "1,2,3"), "`nodule inject` or `nodule erase`"),
    ],
)
def test_refuses_in_one_sentence_and_writes_nothing(a_case, tmp_path, capfd, argv, sentence):
    ct, _, place = a_case
    what, *rest = (place if a == "PLACE" else a for a in argv)
    code, _, error = run(capfd, "nodule", what, ct, "-o", tmp_path / "out.nrrd", *rest)
    assert code == 2 and sentence in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
