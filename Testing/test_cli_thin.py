"""Every command that filters takes one to four slices, thin or thick."""

import numpy as np
import pytest

from CTSynthesisLib.cli import main
from CTSynthesisLib.files import write_segmentation, write_volume
from CTSynthesisLib.volume import Geometry, LabelMap, Segment, Volume
from Testing.phantom import hounsfield, thorax

WHOLE = thorax((20, 110, 130), (2.6, 2.6, 6.0))
COMMANDS = {
    "segment": ["segment", "ct.nrrd", "-o", "out.seg.nrrd"],
    "generate": ["generate", "organs.seg.nrrd", "-o", "out.nrrd"],
    "an outline that is derived": ["generate", "organs.seg.nrrd", "-o", "out.nrrd", "--inside", "plain"],
    "match": ["generate", "organs.seg.nrrd", "-o", "out.nrrd", "--match", "ct.nrrd"],
    "match with another patient": ["generate", "elsewhere.seg.nrrd", "-o", "out.nrrd", "--match", "ct.nrrd"],
    "style of it": ["style", "--style", "ct.nrrd", "--content", "whole.nrrd", "-o", "out.nrrd"],
    "style on it": ["style", "--style", "whole.nrrd", "--content", "ct.nrrd", "-o", "out.nrrd"],
    "inject": ["nodule", "inject", "ct.nrrd", "-o", "out.nrrd", "--random", "1", "--diameter", "12"],
    "erase": ["nodule", "erase", "ct.nrrd", "-o", "out.nrrd", "--mask", "nodule.seg.nrrd"],
}


@pytest.fixture(scope="module", params=[(1, 5.0), (2, 0.4), (3, 1.0), (3, 6.0), (4, 0.3)], ids="{0[0]} slices of {0[1]} mm".format)
def folder(request, tmp_path_factory):
    slices, apart = request.param
    folder = tmp_path_factory.mktemp("thin")
    array = WHOLE.array[[9] * slices]
    geometry = Geometry.from_spacing(array.shape, (2.6, 2.6, apart))
    thin = LabelMap(array, geometry, WHOLE.segments)
    hu = hounsfield(thin, noise=12)
    nodule = np.zeros(array.shape, np.uint16)
    nodule[:, 50:55, 36:41] = 1
    hu[nodule > 0] = 20
    write_volume(Volume(hu, geometry), folder / "ct.nrrd")
    write_volume(Volume(hounsfield(WHOLE, noise=12), WHOLE.geometry), folder / "whole.nrrd")
    write_segmentation(LabelMap(nodule, geometry, (Segment(1, "nodule"),)), folder / "nodule.seg.nrrd")
    without_body = np.where(array == 1, 0, array)
    away = np.eye(4)
    away[0, 3] = 2000
    for name, there in (("organs", geometry), ("elsewhere", geometry.transformed(away))):
        write_segmentation(LabelMap(without_body, there, WHOLE.segments), folder / f"{name}.seg.nrrd")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_few_slices(folder, command, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    code, said = main(COMMANDS[command]), capfd.readouterr().err
    assert code == 0, said
    assert all(line.startswith("note: ") for line in said.splitlines()), said
