"""The commands `style`, `perturb` and `evaluate --style` on real files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from CTSynthesisLib.cli import main
from CTSynthesisLib.cli.style import strengths
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.evaluation import style_evaluation
from CTSynthesisLib.files import read_segmentation, read_volume, write_segmentation, write_volume
from CTSynthesisLib.volume import Volume
from Testing.phantom import hounsfield, thorax

LOOK = {"body": 20, "lung_left": -780, "lung_right": -780, "heart": 180, "aorta": 220, "vertebrae": 350}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A style scan with its segmentation, and a content with its own."""
    folder = tmp_path_factory.mktemp("style")
    for name, values, noise, shape in (("style", LOOK, 30, (10, 80, 90)), ("content", None, 10, (8, 72, 84))):
        labelmap = thorax(shape, (3.0, 3.0, 4.0))
        write_volume(Volume(hounsfield(labelmap, values, noise), labelmap.geometry), folder / f"{name}.nrrd")
        write_segmentation(labelmap, folder / f"{name}.seg.nrrd")
    return folder


def run(capfd, *argv):
    code = main([str(a) for a in argv])
    printed = capfd.readouterr()
    return code, printed.out, printed.err


def test_style_restyles_a_ct_and_draws_the_picture(files, tmp_path, capfd):
    out, picture = tmp_path / "out.nrrd", tmp_path / "picture.png"
    code, said, _ = run(capfd, "style", "--style", files / "style.nrrd", "--style-segmentation", files / "style.seg.nrrd", "--content",
                        files / "content.nrrd", "--segmentation", files / "content.seg.nrrd", "--structures", "heart,lungs", "--strength",
                        "heart=0.5", "--seed", 3, "-o", out, "--preview", picture)  # fmt: skip
    assert code == 0 and "4.24 mm" in said and "heart" in said and picture.stat().st_size > 10_000
    before, after, labelmap = read_volume(files / "content.nrrd"), read_volume(out), read_segmentation(files / "content.seg.nrrd")
    names = {s.name: s.value for s in labelmap.segments}
    assert np.median(after.array[labelmap.array == names["heart"]]) == pytest.approx((45 + 180) / 2, abs=12)
    assert np.median(after.array[labelmap.array == names["lung_right"]]) == pytest.approx(-780, abs=12)
    assert (after.array == before.array)[labelmap.array == 0].mean() > 0.95
    assert json.loads(after.metadata["CTSynthesis.Style"])["strength"] == {"lung_left": 1.0, "lung_right": 1.0, "heart": 0.5}


def test_style_of_a_segmentation_alone_draws_a_ct(files, tmp_path, capfd):
    out = tmp_path / "out.nii.gz"
    argv = ("--style", files / "style.nrrd", "--style-segmentation", files / "style.seg.nrrd", "--segmentation", files / "content.seg.nrrd")
    code, _, error = run(capfd, "style", *argv, "-o", out, "--device", "cpu")
    assert code == 0, error
    assert read_volume(out).array.shape == (8, 72, 84)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("--style", "style.nrrd"), "--segmentation SEG, or --content CT"),
        (("--style", "style.nrrd", "--content", "content.nrrd", "--strength", "1.5"), "outside 0-1"),
        (("--style", "style.nrrd", "--content", "content.nrrd", "--strength", "much"), "is not a strength"),
        (("--style", "style.nrrd", "--style-segmentation", "style.seg.nrrd", "--content", "content.nrrd", "--segmentation",
          "content.seg.nrrd", "--structures", "spleen"), "no structure 'spleen'; it has body, lung_left"),
        (("--style", "nowhere.nrrd", "--content", "content.nrrd"), "nowhere.nrrd"),
    ],
)  # fmt: skip
def test_style_refuses_in_one_sentence_and_writes_nothing(files, tmp_path, capfd, monkeypatch, argv, sentence):
    monkeypatch.chdir(files)
    code, _, error = run(capfd, "style", *argv, "-o", tmp_path / "out.nrrd")
    assert code == 2 and sentence in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_strengths_are_read_for_all_and_for_single_structures():
    assert strengths("0.5") == (0.5, None)
    assert strengths("0.3,lungs=0.5,bone=1") == (0.3, {"lungs": 0.5, "bone": 1.0})
    with pytest.raises(UnusableInput):
        strengths("lungs=")


def test_perturb_writes_an_anatomy_of_the_same_segments(files, tmp_path, capfd):
    out = tmp_path / "other.seg.nrrd"
    code, said, _ = run(capfd, "perturb", files / "content.seg.nrrd", "-o", out, "--by", 6, "--seed", 2)
    before, after = read_segmentation(files / "content.seg.nrrd"), read_segmentation(out)
    assert code == 0 and "heart" in said
    assert [s.name for s in after.segments] == [s.name for s in before.segments] and (after.array != before.array).any()
    code, _, error = run(capfd, "perturb", files / "content.seg.nrrd", "-o", tmp_path / "no.seg.nrrd", "--by", 99)
    assert code == 2 and "0 to 30 mm" in error and not (tmp_path / "no.seg.nrrd").exists()


def test_evaluate_style_prints_and_keeps_its_figures(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(style_evaluation, "SEEDS", 1)
    labelmap = thorax((8, 80, 90), (4.0, 4.0, 5.0))
    (tmp_path / "data" / "one").mkdir(parents=True)
    write_volume(Volume(hounsfield(labelmap, LOOK, 30), labelmap.geometry), tmp_path / "data" / "one" / "ct.nrrd")
    code, said, error = run(capfd, "evaluate", "--style", "--data", tmp_path / "data", "--slices", 6, "-o", tmp_path / "out")
    assert code == 0, error
    kept = json.loads((tmp_path / "out" / "style.json").read_text())
    assert [(p["content"], p["reference"]) for p in kept["pairs"]] == [("one", "one")]
    lungs = next(row for row in kept["pairs"][0]["structures"] if row["structure"] == "lungs")
    assert lungs["fall"] > 0.6 and abs(lungs["hu_off"]) < 40 and "lungs" in said
    assert kept["contents"][0]["most_change_beyond_margin"] == 0
    assert run(capfd, "evaluate", "--style", "--data", tmp_path / "data", "-o", tmp_path / "o", "--cases", "three")[0] == 2


def test_the_references_regions_are_found_once_and_kept(files, tmp_path, capfd):
    kept, out = tmp_path / "regions.seg.nrrd", tmp_path / "out.nrrd"
    argv = ("--style", files / "style.nrrd", "--style-regions", kept, "--content", files / "content.nrrd", "--segmentation",
            files / "content.seg.nrrd", "--structures", "aorta", "-o", out)  # fmt: skip
    code, _, error = run(capfd, "style", *argv)
    assert code == 0 and "found by `segment`" in error, error
    regions = read_segmentation(kept)
    blood = next(s for s in regions.segments if s.name == "blood")
    write_segmentation(replace(regions, segments=(blood,), array=np.where(regions.array == blood.value, regions.array, 0)), kept)
    code, _, error = run(capfd, "style", *argv[:-1], tmp_path / "again.nrrd")
    assert code == 0 and (read_volume(tmp_path / "again.nrrd").array == read_volume(out).array).all(), error
    code, _, error = run(capfd, "style", *argv[:-4], "--structures", "vertebrae", "-o", tmp_path / "no.nrrd")
    assert code == 2 and "it has blood." in error  # what is kept is what counts
