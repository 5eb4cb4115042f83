"""Model files: weights as safetensors beside a card in JSON. Weights are data, never code; each file is checked against its card."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from . import RESOURCES
from .errors import UnusableInput

MODELS = RESOURCES / "Models"
IMPORTED = Path(os.environ.get("CTSYNTHESIS_HOME") or Path.home() / ".ctsynthesis") / "models"  # never inside the extension
# kinds of models that draw no CT by themselves
HELPERS = ("segmenter", "completion", "style_encoder", "nodule_injector", "nodule_eraser", "nodule_classifier")
COUNTER = "num_batches_tracked"  # as batch norm's counters are named
FROM_NOTHING = ("anatomy", "ctsgan2021", "gan3d")  # kinds that draw whole volumes and take no segmentation


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model; ``NAME.json`` beside ``NAME.safetensors``.

    ``kind`` says which engine runs it (``slab_gan``, ``habijan2022`` or ``krishna2019``, or one of FROM_NOTHING; the HELPERS draw nothing),
    ``network`` holds the network's configuration, ``hu_map`` the parameters of its HU map, and ``receptive_field`` the pixels and slices to
    either side that a voxel depends on. ``drawn_above_told`` are HU by tissue: by how much the median of what the network draws lies above
    the median that it was told, measured on training scans; the engine tells it that much less.
    """

    name: str
    title: str
    kind: str
    version: str
    description: str
    sha256: str
    bytes: int
    network: dict
    hu_map: dict
    receptive_field: dict = field(default_factory=dict)
    drawn_above_told: dict = field(default_factory=dict)
    licence: str = ""
    training_data: list = field(default_factory=list)
    command: str = ""
    quality: dict = field(default_factory=dict)
    speed: dict = field(default_factory=dict)
    limits: list = field(default_factory=list)
    path: str = field(default="", compare=False)  # of the weights; not part of the file

    @property
    def settings(self) -> dict:
        """``network`` as its configuration class takes it: with tuples, which JSON does not know."""
        return {name: tuple(value) if isinstance(value, list) else value for name, value in self.network.items()}

    @property
    def imported(self) -> bool:
        return Path(self.path).parent == IMPORTED

    @property
    def generates(self) -> bool:
        """Whether the model draws CT of a segmentation; the others measure it, fill in a label map, or draw from nothing."""
        return self.kind not in (*HELPERS, *FROM_NOTHING)

    def check(self) -> bytes:
        """The weights file's content, if it is whole.

        Raises
        ------
        UnusableInput
            If the file is missing or differs from the card's checksum.
        """
        try:
            content = Path(self.path).read_bytes()
        except OSError as error:
            raise UnusableInput(f"The weights of model '{self.name}' are missing ({self.path}); reinstall or import the model.") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise UnusableInput(
                f"The weights file {self.path} of model '{self.name}' is damaged: its checksum is not the card's; import it again."
            )
        return content


def models() -> list[ModelCard]:
    """The cards of the models that ship, the default first, and then of those that the user has imported."""
    cards = [read_card(path) for folder in (MODELS, IMPORTED) for path in sorted(folder.glob("*.json"))]
    return sorted(cards, key=lambda card: card.name != "default")


def import_model(path) -> ModelCard:
    """Copy a model (card, weights, and fingerprints if there are any) into the user's folder, once its checksum has been verified.

    Raises
    ------
    UnusableInput
        If the file is no model, damaged, or a model of this name is there already.
    """
    card = load_card(str(Path(path).resolve()))
    card.check()
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", card.name):
        raise UnusableInput(f"'{card.name}' is no name for a model; use letters, digits, '-', '_' and '.' in its card.")
    if any(card.name == other.name for other in models()):
        raise UnusableInput(f"A model named '{card.name}' is installed already; remove it first, or give the new one another name.")
    IMPORTED.mkdir(parents=True, exist_ok=True)
    for suffix in (".fingerprints.npz", ".safetensors", ".json"):  # the card last: with it the model is there
        source, target = Path(card.path).with_suffix(suffix), IMPORTED / f"{card.name}{suffix}"
        if source.exists():
            part = target.with_name(target.name + ".part")
            shutil.copyfile(source, part)
            part.replace(target)
    return read_card(IMPORTED / f"{card.name}.json")


def remove_model(name: str) -> None:
    """Delete an imported model; those that ship stay."""
    card = load_card(name)
    if Path(card.path).parent != IMPORTED:
        raise UnusableInput(f"'{name}' belongs to the extension and cannot be removed; only imported models can.")
    for suffix in (".json", ".safetensors", ".fingerprints.npz"):
        Path(card.path).with_suffix(suffix).unlink(missing_ok=True)


def load_card(name_or_path: str) -> ModelCard:
    """The card of a model by its name, or by the path of its card or weights.

    Raises
    ------
    UnusableInput
        If there is no such model.
    """
    path = Path(name_or_path)
    if path.suffix in (".json", ".safetensors"):
        return read_card(path.with_suffix(".json"))
    for folder in (MODELS, IMPORTED):
        if (folder / f"{name_or_path}.json").is_file():
            return read_card(folder / f"{name_or_path}.json")
    names = ", ".join(card.name for card in models()) or "none"
    raise UnusableInput(f"There is no model '{name_or_path}'; the installed models are: {names}.")


def read_card(path: Path) -> ModelCard:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(ModelCard)}
        return ModelCard(**{name: value for name, value in values.items() if name in known}, path=str(path.with_suffix(".safetensors")))
    except OSError as error:
        raise UnusableInput(f"The model card {path} cannot be read; a model is a .safetensors file with a .json card beside.") from error
    except (TypeError, ValueError) as error:
        raise UnusableInput(f"{path} is not a model card ({error}); a model is a .safetensors file with a .json card beside.") from error


def load_weights(card: ModelCard) -> dict:
    """Weights as float32 tensors by name, checked against the card.

    Read here rather than by the safetensors library, which 3D Slicer's Python does not have: eight bytes of length, a JSON header,
    and the numbers.

    Raises
    ------
    UnusableInput
        If the file is missing, damaged, or not safetensors.
    """
    import torch

    content = card.check()
    kinds = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I64": torch.int64}
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        data = bytearray(content[start:])
        return {
            name: torch.frombuffer(data[slice(*entry["data_offsets"])], dtype=kinds[entry["dtype"]]).reshape(entry["shape"]).float()
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UnusableInput(f"{card.path} is not a safetensors file of a model ({error}); import the model again.") from error


def load_into(network, card: ModelCard) -> None:
    """Load the weights of ``card`` into ``network``, all of them; only batch norm's counters, which are not saved, keep their values.

    Raises
    ------
    UnusableInput
        If the file is missing, damaged, not safetensors, or of another network.
    """
    kept = {name: value for name, value in network.state_dict().items() if name.endswith(COUNTER)}
    try:
        network.load_state_dict(kept | load_weights(card))
    except RuntimeError as error:
        raise UnusableInput(f"The weights {card.path} do not fit the network that their card describes; import the model again.") from error


def save_model(folder: Path, weights: dict, **card) -> ModelCard:
    """Write ``weights`` in float16 and their card into ``folder``; both files appear whole or not at all.

    Batch norm's counters are left out: they say nothing that inference needs, and float16 cannot hold them.
    """
    import torch
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = save({name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in weights.items()
                    if not name.endswith(COUNTER)})  # fmt: skip
    result = ModelCard(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), path="", **card)
    values = {name: value for name, value in asdict(result).items() if name != "path"}
    for path, data in (
        (folder / f"{result.name}.safetensors", content),
        (folder / f"{result.name}.json", (json.dumps(values, indent=1) + "\n").encode()),
    ):
        part = path.with_name(path.name + ".part")
        part.write_bytes(data)
        part.replace(path)
    return read_card(folder / f"{result.name}.json")
