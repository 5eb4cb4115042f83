"""The bundled segmentation in Slicer's Sample Data module."""

from __future__ import annotations

import hashlib

from slicer.i18n import tr as _

from .. import RESOURCES


def register_sample_data():
    """Offer the bundled segmentation; nothing is downloaded, it is a file of the extension."""
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
