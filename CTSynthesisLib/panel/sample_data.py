"""Samples in Slicer's Sample Data module: the bundled segmentation, and Slicer's own chest CT to paint on and to compare with."""

from __future__ import annotations

import hashlib

from slicer.i18n import tr as _

from .. import RESOURCES

# Slicer's own sample "CTChest"; its files are stored under their checksums
CHEST_SHA256 = "4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e"
CHEST_URL = f"https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/{CHEST_SHA256}"


def register_sample_data():
    """Offer the bundled segmentation, which is a file of the extension, and the chest CT, which is downloaded when it is chosen."""
    import SampleData

    file = RESOURCES / "Samples" / "thorax.seg.nrrd"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=_("CT Synthesis"),
        sampleName="CTSynthesisThorax",
        thumbnailFileName=str(RESOURCES / "Icons" / "CTSynthesis_128.png"),
        uris=file.as_uri(),
        fileNames=file.name,
        checksums=f"SHA256:{hashlib.sha256(file.read_bytes()).hexdigest()}",
        nodeNames="Thorax",
        loadFileTypes="SegmentationFile",
    )
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=_("CT Synthesis"),
        sampleName="CTSynthesisChestCT",
        thumbnailFileName=str(RESOURCES / "Icons" / "CTSynthesis_128.png"),
        uris=CHEST_URL,
        fileNames="CT-chest.nrrd",
        checksums=f"SHA256:{CHEST_SHA256}",
        nodeNames="CTChest",
    )
