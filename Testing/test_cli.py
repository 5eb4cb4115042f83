"""The command line on real files: what each command prints and writes, and that flags and Request cannot drift apart."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from CTSynthesisLib import RESOURCES
from CTSynthesisLib.cli import main
from CTSynthesisLib.cli import request as flags
from CTSynthesisLib.files import read_segmentation, read_volume, write_segmentation, write_volume
from CTSynthesisLib.synthesis.request import Request
from CTSynthesisLib.volume import LabelMap, Segment, Volume
from Testing.phantom import hounsfield, thorax


@pytest.fixture(scope="module")
def a_segmentation(tmp_path_factory):
    path = tmp_path_factory.mktemp("input") / "thorax.seg.nrrd"
    write_segmentation(thorax((10, 40, 48), (7.0, 7.0, 10.0)), path)
    return path


@pytest.fixture
def ctsynthesis(capfd):
    """Runs a command that has to succeed; returns what it printed (out, err)."""

    def run(*argv):
        code = main([str(a) for a in argv])
        printed = capfd.readouterr()
        assert code == 0, printed.err
        return printed

    return run


def in_a_process(*argv, **kwargs):
    environment = {**os.environ, "PYTHONPATH": str(RESOURCES.parent)}
    command = [sys.executable, "-B", "-m", "CTSynthesisLib", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **kwargs)


# -- the command itself --------------------------------------------------------------------------------------------------------------


def test_as_a_process_it_succeeds_fails_and_refuses_with_its_exit_codes(a_segmentation, tmp_path):
    assert in_a_process("structures", a_segmentation, cwd=tmp_path).returncode == 0
    refused = in_a_process("structures", "missing.seg.nrrd", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1 and "missing.seg.nrrd" in refused.stderr
    debugged = in_a_process("structures", "missing.seg.nrrd", "--debug", cwd=tmp_path)
    assert debugged.returncode == 1 and "Traceback" in debugged.stderr


def test_help_lists_all_commands(capfd):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = capfd.readouterr().out
    commands = ("demo", "generate", "structures", "segment", "perturb", "style", "volume", "nodule")
    commands += ("train", "evaluate", "benchmark", "models")
    assert [command for command in commands if f"\n    {command}" not in listed] == []


def test_help_and_usage_errors_load_no_heavy_library():
    code = (
        "import sys\nfrom CTSynthesisLib.cli import main\nmain(['paint'])\n"
        "print(sorted({'torch', 'vtk', 'slicer', 'PIL', 'pydicom'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=RESOURCES.parent)
    assert done.stdout.strip() == "[]"


def test_an_unexpected_error_is_one_sentence_too(monkeypatch, capfd, a_segmentation):
    def broken(args):
        raise ZeroDivisionError("by the\nsecond line")

    monkeypatch.setattr("CTSynthesisLib.cli.structures.run", broken)
    assert main(["structures", str(a_segmentation)]) == 1
    printed = capfd.readouterr().err
    assert printed.count("\n") == 1 and "ZeroDivisionError" in printed and "--debug" in printed


# -- flags ↔ Request -----------------------------------------------------------------------------------------------------------------


def parsed(*argv):
    import argparse

    parser = argparse.ArgumentParser()
    flags.add_request_arguments(parser)
    return flags.request_from(parser.parse_args(argv))


def test_without_flags_the_request_is_the_default_one():
    assert parsed() == Request()


def test_every_field_of_the_request_has_a_flag_that_sets_it():
    """All but the grain's spectrum, which only --match knows."""
    given = {"model": "other", "seed": 7, "hu": {"liver": 110.0, "my=organ": -5.5}, "phase": "portal", "noise": 12.5, "kernel": "sharp",
             "sharpness": 0.65, "thickness": 3.0, "slice_correlation": 0.4, "inside": "plain", "outside": "air",
             "device": "cpu"}  # fmt: skip
    assert {*given, "grain"} == {field.name for field in fields(Request)}
    argv = []
    for name, value in given.items():
        words = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else [str(value)]
        argv += ["--" + name.replace("_", "-"), *words]
    assert parsed(*argv) == Request(**given)


# -- structures ----------------------------------------------------------------------------------------------------------------------


def test_structures_shows_how_each_segment_was_understood(ctsynthesis, tmp_path):
    labelmap = thorax()
    named = {"heart": "Segment_1", "aorta": "Aorta thoracica"}
    segments = tuple(Segment(s.value, named.get(s.name, s.name), code=s.code if s.name == "body" else None) for s in labelmap.segments)
    write_segmentation(LabelMap(labelmap.array, labelmap.geometry, segments), tmp_path / "named.seg.nrrd")
    records = {r["segment"]: r for r in json.loads(ctsynthesis("structures", tmp_path / "named.seg.nrrd", "--json").out)}
    assert records["lung_left"]["structure"] == "lung_left" and records["lung_left"]["understood by"] == "name"
    assert records["Segment_1"]["understood by"] == "not understood"
    corrected = ctsynthesis("structures", tmp_path / "named.seg.nrrd", "--json", "--labels", "Segment_1=heart", "--hu", "Segment_1=160")
    heart = next(r for r in json.loads(corrected.out) if r["segment"] == "Segment_1")
    assert (heart["structure"], heart["understood by"]) == ("heart", "user")
    assert heart["HU"].startswith("160")


def test_structures_shows_and_takes_the_label_values_of_the_user(ctsynthesis, tmp_path):
    labels = np.where(thorax().array == 4, 70_001, 0)
    write_segmentation(LabelMap.from_labels(labels, thorax().geometry, [Segment(70_001, "x")]), tmp_path / "x.nii.gz")
    (record,) = json.loads(ctsynthesis("structures", tmp_path / "x.nii.gz", "--json", "--hu", "70001=160").out)
    assert record["value"] == 70_001 and record["segment"] == "Label 70001" and record["HU"].startswith("160")


def test_structures_as_a_table_has_one_line_a_segment(ctsynthesis, a_segmentation):
    lines = ctsynthesis("structures", a_segmentation).out.splitlines()
    assert len(lines) == 2 + len(thorax().segments)
    assert lines[0].split()[:2] == ["value", "segment"]


# -- segment -------------------------------------------------------------------------------------------------------------------------


def test_segment_finds_lungs_and_bone_in_a_ct(ctsynthesis, tmp_path):
    labelmap = thorax((30, 96, 108), (3.0, 3.0, 4.0))
    array = hounsfield(labelmap, noise=10)
    bone = labelmap.array == 6  # trabeculae: an even 250 HU would be contrast-filled blood
    array[bone] = np.random.default_rng(1).normal(400, 120, bone.sum())
    write_volume(Volume(array, labelmap.geometry), tmp_path / "ct.nrrd")
    ctsynthesis("segment", tmp_path / "ct.nrrd", "-o", tmp_path / "regions.seg.nrrd")
    found = read_segmentation(tmp_path / "regions.seg.nrrd")
    assert found.geometry.agrees_with(labelmap.geometry)
    values = {segment.name: segment.value for segment in found.segments}
    lungs = np.isin(labelmap.array, [2, 3])
    assert (found.array[lungs] == values["lungs"]).mean() > 0.9
    assert (found.array[labelmap.array == 6] == values["bone"]).mean() > 0.8


# -- generate ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated(a_segmentation, tmp_path_factory):
    """One run with every kind of output."""
    folder = tmp_path_factory.mktemp("generated")
    done = in_a_process(
        "generate", a_segmentation, "-o", folder / "ct.nrrd", "--seed", 3, "--dicom", folder / "series", "--dicom-seg",
        "--report", folder / "report.json", "--preview", folder / "preview.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done


def test_generate_keeps_the_geometry(generated, a_segmentation):
    folder, _ = generated
    volume, labelmap = read_volume(folder / "ct.nrrd"), read_segmentation(a_segmentation)
    np.testing.assert_allclose(volume.geometry.ijk_to_ras, labelmap.geometry.ijk_to_ras, atol=1e-6)
    assert volume.array.shape == labelmap.array.shape and volume.array.dtype == np.int16


def test_generate_writes_everything_that_was_asked_for_and_nothing_else(generated):
    folder, done = generated
    assert {path.name for path in folder.iterdir()} == {"ct.nrrd", "series", "report.json", "preview.png"}
    assert "lung_left" in done.stdout and "ct.nrrd" in done.stdout
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())


def test_the_report_tells_request_and_structures(generated):
    report = json.loads((generated[0] / "report.json").read_text())
    assert report["synthetic"] is True and report["request"]["seed"] == 3
    assert {row["structure"] for row in report["structures"]} >= {"lung_left", "heart", "aorta"}
    lung = next(row for row in report["structures"] if row["structure"] == "lung_left")
    assert lung["mean_hu"] < -500


def test_the_provenance_is_in_the_file(generated):
    metadata = read_volume(generated[0] / "ct.nrrd").metadata
    assert metadata["CTSynthesis.Synthetic"] == "1"
    assert metadata["CTSynthesis.Seed"] == "3"


def test_the_dicom_series_and_its_segmentation_belong_together(generated):
    import pydicom

    folder, _ = generated
    files = [pydicom.dcmread(path) for path in (folder / "series").iterdir()]
    images = [file for file in files if file.Modality == "CT"]
    (segmentation,) = (file for file in files if file.Modality == "SEG")
    assert len(images) == read_volume(folder / "ct.nrrd").array.shape[0]
    assert {image.SyntheticData for image in images} == {"YES"}
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == images[0].SeriesInstanceUID


def test_another_grid_by_spacing_and_by_example(ctsynthesis, a_segmentation, tmp_path):
    ctsynthesis("generate", a_segmentation, "-o", tmp_path / "coarse.nii.gz", "--spacing", "9,9,12")
    coarse = read_volume(tmp_path / "coarse.nii.gz")
    np.testing.assert_allclose(coarse.geometry.spacing, (9, 9, 12), rtol=1e-6)
    ctsynthesis("generate", a_segmentation, "-o", tmp_path / "like.nrrd", "--like", tmp_path / "coarse.nii.gz")
    assert read_volume(tmp_path / "like.nrrd").geometry.agrees_with(coarse.geometry)


def test_match_takes_from_a_scan_what_the_flags_leave_open(generated, ctsynthesis, a_segmentation, tmp_path):
    """The scan is a synthetic CT; its DICOM series gives the same."""
    scan = read_volume(generated[0] / "ct.nrrd").array
    labels = read_segmentation(a_segmentation)
    aorta = next(segment for segment in labels.segments if segment.name == "aorta")
    requests = []
    for source in ("ct.nrrd", "series"):
        report = tmp_path / f"{source}.json"
        printed = ctsynthesis(
            "generate", a_segmentation, "-o", tmp_path / "ct.nrrd", "--match", generated[0] / source, "--hu", "heart=77", "--noise", 9,
            "--report", report,
        )  # fmt: skip
        assert "matched to" in printed.out and ("thickness" in printed.err) == (source == "ct.nrrd")  # a series states it
        requests.append(json.loads(report.read_text())["request"])
    one, other = requests
    assert one["hu"]["heart"] == 77 and one["noise"] == 9 and 0 <= one["sharpness"] <= 1.5
    assert one["hu"]["aorta"] == pytest.approx(np.median(scan[labels.mask(aorta)]), abs=10)
    assert one["thickness"] == other["thickness"] == 10.0 and one["hu"] == other["hu"]


def test_a_request_out_of_range_is_refused_in_a_sentence(capfd, a_segmentation, tmp_path):
    for flag, value in (("--sharpness", "1.7"), ("--slice-correlation", "-0.1")):
        assert main(["generate", str(a_segmentation), "-o", str(tmp_path / "ct.nrrd"), f"{flag}={value}"]) == 2
        assert value in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_hounsfield_value_and_a_correction_reach_the_volume(ctsynthesis, a_segmentation, tmp_path):
    out = tmp_path / "ct.nrrd"
    ctsynthesis("generate", a_segmentation, "-o", out, "--hu", "heart=300", "--report", tmp_path / "report.json")
    rows = {row["structure"]: row for row in json.loads((tmp_path / "report.json").read_text())["structures"]}
    assert rows["heart"]["expected_hu"] == 300
    assert rows["heart"]["median_hu"] > 150


def test_an_unknown_name_is_a_warning_that_says_what_was_assumed(ctsynthesis, tmp_path):
    labelmap = thorax((10, 40, 48), (7.0, 7.0, 10.0))
    segments = tuple(Segment(s.value, "Zorgleblob" if s.name == "heart" else s.name) for s in labelmap.segments)
    write_segmentation(LabelMap(labelmap.array, labelmap.geometry, segments), tmp_path / "odd.seg.nrrd")
    printed = ctsynthesis("generate", tmp_path / "odd.seg.nrrd", "-o", tmp_path / "ct.nrrd")
    assert any(line.startswith("note: ") and "Zorgleblob" in line for line in printed.err.splitlines())
    assert (tmp_path / "ct.nrrd").exists()


def test_an_earlier_output_is_replaced_whole(ctsynthesis, a_segmentation, tmp_path):
    out = tmp_path / "ct.nrrd"
    out.write_text("something older")
    ctsynthesis("generate", a_segmentation, "-o", out)
    assert read_volume(out).array.shape == (10, 40, 48)
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nrrd"]


# -- models, benchmark ---------------------------------------------------------------------------------------------------------------


def test_models_are_listed_and_verified(ctsynthesis):
    assert "default" in ctsynthesis("models", "list").out
    assert "default" in ctsynthesis("models", "verify").out


def test_threads_of_a_computing_process_wait_without_spinning():
    """Read by OpenMP when PyTorch is loaded: later would be too late."""
    code = (
        "import os, sys\nfrom CTSynthesisLib.cli import main\nmain(['models', 'list'])\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "PASSIVE False"


def test_the_benchmark_measures_and_writes_its_figures(ctsynthesis, tmp_path):
    printed = ctsynthesis("benchmark", "--slices", "16", "--in-plane", "64", "--runs", "2", "-o", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    (size,) = figures["sizes"]
    assert size["slices"] == 16 and size["seconds"] > 0 and size["peak_mb"] > 100
    assert figures["determinism"] == {"runs": 2, "different": 1}
    assert figures["imports"]["torch"] is False
    assert figures["busy"]["slices"] == 16 and figures["busy"]["seconds"] > 0
    assert figures["seeds"]["structures"]
    assert "ms a slice" in printed.out
