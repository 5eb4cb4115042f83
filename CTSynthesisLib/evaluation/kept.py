"""What an evaluation has already drawn and measured, each with the key of all it came from: so it can be broken off and resumed."""

from __future__ import annotations

import hashlib
import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np

from .. import __version__
from ..files import read_volume, write_volume
from ..files.beside import written_beside
from ..volume import Volume

LIBRARY = Path(__file__).resolve().parents[1]
KEY = "CTSynthesis.EvaluationKey"


class Kept:
    """Volumes under ``folder/volumes`` and figures under ``folder/figures``; a thing whose key has changed counts as missing."""

    def __init__(self, folder: Path):
        self.folder = folder

    def volume(self, name: str, key: str) -> Volume | None:
        path = self.folder / "volumes" / f"{name}.nrrd"
        volume = read_volume(path) if path.is_file() else None
        return volume if volume is not None and volume.metadata.get(KEY) == key else None

    def keep_volume(self, name: str, key: str, volume: Volume, **facts) -> None:
        path = self.folder / "volumes" / f"{name}.nrrd"
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {f"CTSynthesis.{fact}": json.dumps(value) for fact, value in facts.items()}
        write_volume(Volume(volume.array, volume.geometry, {"CTSynthesis.Synthetic": "1", KEY: key, **facts}), path)

    def figures(self, name: str, key: str) -> dict | None:
        try:
            record = json.loads((self.folder / "figures" / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return {k: np.nan if v is None else v for k, v in record["figures"].items()} if record["key"] == key else None

    def keep_figures(self, name: str, key: str, figures: dict) -> None:
        write_json(self.folder / "figures" / f"{name}.json", {"key": key, "figures": figures})

    def features(self, name: str, key: str) -> dict[str, np.ndarray] | None:
        try:
            with np.load(self.folder / "features" / f"{name}.npz") as data:
                return {k: data[k] for k in data.files if k != "key"} if str(data["key"]) == key else None
        except (OSError, ValueError, KeyError):
            return None

    def keep_features(self, name: str, key: str, features: dict[str, np.ndarray]) -> None:
        path = self.folder / "features" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as part, open(part, "wb") as file:
            np.savez_compressed(file, key=np.array(key), **features)


def write_json(path: Path, value) -> None:
    """``value`` as JSON; what is not finite becomes null, and numbers are cut to five digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as part:
        part.write_text(json.dumps(plain(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plain(value):
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def key_of(*parts) -> str:
    """A short digest of ``parts``; arrays count by their content."""
    digest = hashlib.sha256()
    for part in parts:
        is_array = isinstance(part, np.ndarray)
        digest.update((f"{part.shape}{part.dtype}{zlib.crc32(np.ascontiguousarray(part))}" if is_array else repr(part)).encode() + b"\0")
    return digest.hexdigest()[:24]


@cache
def source_of(*parts: str) -> str:
    """Digest of the library's files or folders ``parts`` (and its version): what was made by other code is made anew."""
    digest = hashlib.sha256(__version__.encode())
    for part in parts:
        path = LIBRARY / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()[:16]
