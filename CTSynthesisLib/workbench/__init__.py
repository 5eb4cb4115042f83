"""The same in a browser: the real MRML scene, segment editor and views of trame-slicer, with a Generate panel on the same worker.

``python -m CTSynthesisLib.workbench [SEGMENTATION] [--ct CT]``, for people without 3D Slicer or with a GPU server. Its packages are an
optional dependency: ``pip install 'ctsynthesis[workbench]'``.
"""
