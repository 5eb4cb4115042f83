"""Which anatomical structure a segment is, and how that structure looks in CT.

The tables lie in ``Resources/Anatomy`` (its README.md says how to read and correct them, and where the numbers come from). A segment
is understood by its terminology code, else by its name, else by a synonym; what is not understood is drawn as soft tissue, and said so.
"""

from __future__ import annotations

import csv
import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from . import RESOURCES
from .errors import UnusableInput

if TYPE_CHECKING:  # at run time this module stays light: it is loaded when Slicer starts
    from .volume import Segment

PHASES = ("plain", "arterial", "portal")
ASSUMED = "soft_tissue"  # what a segment is drawn as when it is not understood

SIDES = {"left": ("SCT", "7771000", "Left"), "right": ("SCT", "24028007", "Right")}
SIDE_OF_MODIFIER = {"7771000": "left", "24028007": "right"}
SIDE_WORDS = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
EMPTY_WORDS = {"the", "of", "a", "segment", "segmentation", "mask", "structure", "organ", "roi", "label", "value", "both", "bilateral"}
# where a name is not in the table, one of these words in it still tells what it is made of; the first that is found decides
KINDS = ("effusion", "hematoma", "cyst", "tumor", "nodule", "node", "artery", "vein", "vessel", "muscle", "vertebra", "rib", "tooth")
KINDS += ("incisor", "canine", "premolar", "molar", "cartilage", "bone", "fat")
PLANNING = {"ptv", "ctv", "itv", "prv"}  # radiotherapy's target volumes with margins are no anatomy
LEVELS = {"vertebrae_cervical": "C", "vertebrae_thoracic": "T", "vertebrae_lumbar": "L"}
VAGUE = {"soft_tissue"}  # a code for one of these gives way to any name that is understood


class Tissue(enum.Enum):
    """What a structure is made of, as far as the generator tells tissues apart."""

    AIR = "air"  # outside the body
    GAS = "gas"  # airways, gas in the bowel
    LUNG = "lung"
    FAT = "fat"
    ORGAN = "organ"  # parenchyma and other solid soft tissue
    MUSCLE = "muscle"
    BLOOD = "blood"
    BONE = "bone"
    FLUID = "fluid"  # bile, urine, cerebrospinal fluid, effusions
    HOLLOW = "hollow"  # stomach, bowel: wall and contents
    BODY = "body"  # a part of the body whose tissues are not told apart


@dataclass(frozen=True, eq=False)
class Structure:
    """One row of the table.

    Attributes
    ----------
    name : str
        Canonical name; TotalSegmentator's where it has one.
    title : str
        The name as a person would write it.
    tissue : Tissue
    parent : str or None
        The coarser structure around it; None for the body and for the air outside it.
    code, modifier : (scheme, value, meaning) or None
        SNOMED CT concept, and its laterality.
    codes : tuple of (value, side or None)
        All SNOMED CT codes that a file may give for it, and the side that their modifier must have.
    synonyms : tuple of str
    hu : dict
        Contrast phase -> (mean, standard deviation of the voxels inside one structure) in HU.
    layer : int
        1 for what lies inside other structures and is drawn over them: lesions, vessels and airways of an organ, gas, implants.
    """

    name: str
    title: str
    tissue: Tissue
    parent: str | None
    code: tuple[str, str, str] | None = None
    modifier: tuple[str, str, str] | None = None
    codes: tuple[tuple[str, str | None], ...] = ()
    synonyms: tuple[str, ...] = ()
    hu: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    layer: int = 0

    def mean(self, phase: str = "plain") -> float:
        """Expected HU in a contrast ``phase``; the plain value where the phase makes no difference."""
        return self.hu.get(phase, self.hu["plain"])[0]

    def sd(self, phase: str = "plain") -> float:
        """Standard deviation of the voxels in HU, see :meth:`mean`."""
        return self.hu.get(phase, self.hu["plain"])[1]


@dataclass(frozen=True)
class Understood:
    """What a segment was taken for: ``how`` is code, name, synonym, user or not understood; ``note`` says what was assumed, if anything."""

    segment: Segment
    structure: Structure
    how: str
    mean_hu: float
    sd_hu: float
    note: str = ""


# ---------------------------------------------------------------------------------------------------------------------- the tables


@cache
def _rows(table: str) -> list[dict[str, str]]:
    with open(RESOURCES / "Anatomy" / f"{table}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def label_table(name: str) -> dict[int, str]:
    """Label value -> structure name of a published labelling: ``mmwhs``, ``totalsegmentator`` or ``krishna2019``."""
    return {int(row["value"]): row["name"] for row in _rows(name)}


@cache
def structures() -> dict[str, Structure]:
    """All structures by canonical name, coarser ones before those within them."""
    hounsfield = {row["structure"]: _by_phase(row) for row in _rows("hounsfield")}
    found: dict[str, Structure] = {}
    for row in _rows("structures"):
        for side in ("left", "right") if "*" in row["name"] else (None,):
            name, parent, title = (row[key].replace("*", side or "*") for key in ("name", "parent", "title"))
            code, *_ = codes = _codes_for(row["code"], side) or [("", None)]
            meaning = _for_side(row["meaning"], side)
            found[name] = Structure(
                name=name,
                title=title[0].upper() + title[1:],
                tissue=Tissue(row["tissue"]),
                parent=parent or None,
                code=("SCT", code[0], meaning[0][1]) if meaning else None,
                modifier=SIDES.get(code[1]),
                codes=tuple(c for c in (*codes, *_codes_for(row["other_codes"], side)) if c[0]),
                synonyms=tuple(_synonym(s.strip(), side) for s in row["synonyms"].split(";") if s.strip()),
                hu=hounsfield[name] if name in hounsfield else found[parent].hu,  # a row of its own, or its parent's values
                layer=max(int(row["layer"] or 0), found[parent].layer if parent else 0),
            )
    return found


def _by_phase(row):
    return {phase: (float(row[phase]), float(row[f"{phase}_sd"])) for phase in PHASES if row[phase]}


def _for_side(text, side):
    """The parts of ``text`` that hold for ``side``, each with its letter: ``1 L:2 R:3`` gives ("", "1") and ("L", "2") for the left."""
    parts = re.findall(r"(?:([LR]):)?((?:(?! [LR]:).)+) ?", text)
    return [(letter, part) for letter, part in parts if not letter or letter == (side or " ")[0].upper()]


def _codes_for(text, side):
    """(value, side) for each code; one that is given for a single side (``L:``) needs no modifier."""
    return [(value, None if letter else side) for letter, part in _for_side(text, side) for value in part.split()]


def _synonym(text, side):
    return text if side is None else text.replace("*", side[0].upper()) if "*" in text else f"{side} {text}"


# ------------------------------------------------------------------------------------------------------------------------ names


def _parse(name: str) -> tuple[list[str], str | None]:
    """Words of a name in one spelling, and its side: ``Lung-Right``, ``R lung`` and ``lung_right`` give (["lung"], "right")."""
    words = re.findall(r"(?<![A-Za-z])[Tt]h\d+|(?<![A-Za-z])[A-Za-z]\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    words = [str(int(w)) if w.isdigit() else w.lower() for w in words]
    sides = {SIDE_WORDS[w] for w in words if w in SIDE_WORDS}
    words = [_singular(w) for w in words if w not in SIDE_WORDS and w not in EMPTY_WORDS]
    return words, sides.pop() if len(sides) == 1 else None


def _singular(word):
    for ending, singular in (("ies", "y"), ("ae", "a"), ("s", "")):
        if len(word) > 3 and word.endswith(ending) and not word.endswith("ss"):
            return word[: -len(ending)] + singular
    return word


def _keys(words):
    """In order without spaces (brain stem = brainstem), and in any order (artery pulmonary = pulmonary artery)."""
    return {"".join(words), " ".join(sorted(words))} if words else set()


@cache
def _names() -> dict[tuple[str, str | None], tuple[Structure, str]]:
    """(key, side) -> structure, and whether the key is its name or a synonym."""
    index: dict[tuple[str, str | None], tuple[Structure, str]] = {}
    for one in structures().values():
        for text, how in ((one.name, "name"), (one.title, "name"), *((s, "synonym") for s in one.synonyms)):
            words, side = _parse(text)
            for key in _keys(words):
                if index.setdefault((key, side), (one, how))[0] is not one:
                    raise ValueError(f"'{text}' leads to both {index[key, side][0].name} and {one.name} in the anatomy tables")
    return index


def _look_up(name: str) -> tuple[Structure, str, str] | None:
    """Structure, how (name or synonym) and note for a name, or None."""
    if hit := _in_table(name):
        return hit
    words, _ = _parse(name)
    kind = next((kind for kind in KINDS if kind in words), None)
    if kind and not PLANNING.intersection(words):
        one, _ = _names()[kind, None]
        return one, "synonym", f"'{name}' is not in the anatomy table; it was taken as '{one.title}' because of the word {kind}."
    return None


def _in_table(name: str) -> tuple[Structure, str, str] | None:
    """The same for a name that the table holds, less a side or a number."""
    words, side = _parse(name)
    if PLANNING.intersection(words):
        return None
    while words:
        for key in sorted(_keys(words)):
            if hit := _names().get((key, side)):
                return *hit, ""
            if side and (hit := _names().get((key, None))):
                return *hit, f"The table has no side for '{hit[0].title}', so its side was left out."
            if not side and (hit := _names().get((key, "left"))):
                return *hit, f"The name gives no side, so the values of '{hit[0].title}' were taken."
        if not side and (glued := re.fullmatch(r"(left|right)(.+)|(.+?)(left|right)", "".join(words))):  # leftlung, lungright
            return _in_table(" ".join(part for part in glued.groups() if part))
        if not re.fullmatch(r"[a-z]?\d+", words.pop()):  # GTV-1 is a GTV, Tumor_c40 a tumor
            break
    return None


def structure(name: str) -> Structure:
    """The structure called ``name``: canonical name, title or synonym, whatever its case, spaces, plural and place of the side.

    Raises
    ------
    UnusableInput
        If there is none; the message names the nearest.
    """
    if name in structures():
        return structures()[name]
    if hit := _look_up(name):
        return hit[0]
    raise UnusableInput(
        f"'{name}' is not a structure in the anatomy table; {_nearest(name) or 'Resources/Anatomy/structures.csv lists them all'}."
    )


@cache
def named(name: str) -> tuple[Structure, ...]:
    """The structures that a person means by ``name``, finer ones within them apart; none where the table knows no such name.

    Two where the name gives no side and the table only sides (``ureter``); all of its side where the table's is of none (``left ribs``);
    all of a kind (``tumors``) and of a level (``thoracic vertebrae``); and all that have its words in their own names where it is only a
    part of those (``lung lobes``).
    """
    words, side = _parse(name)
    known = [(one, *_parse(one.name)) for one in structures().values()]
    hit = (structures()[name], "name", "") if name in structures() else _in_table(name)
    if hit is None:
        telling = any(len(word) > 2 and word.isalpha() for word in words) and not PLANNING.intersection(words)
        return tuple(one for one, its, of in known if telling and set(words) <= set(its) and side in (None, of))
    one, _, note = hit
    own = _parse(one.name)[1]
    if note and side is None and own == "left":
        return one, structures()[one.name.replace("left", "right")]
    if side and own is None and (members := [other for other, _, of in known if of == side and one in ancestors(other)]):
        return tuple(members)
    level = LEVELS.get(one.name, "none")
    more = [other for other, its, _ in known if one not in (other, *ancestors(other)) and other.tissue is one.tissue
            and ((one.name in KINDS and one.name in its) or re.fullmatch(rf"vertebrae_{level}\d+", other.name))]  # fmt: skip
    return one, *more


def closeness(name: str, segment: Segment, one: Structure, *, alike: bool = False) -> float | None:
    """How closely ``name`` tells a segment, understood as ``one``, from others, or None where it does not mean the segment.

    100 for its own name or label value, else the number of ancestors of the structure that is named (itself, or a coarser one around it),
    less a half where it is one of several.
    ``alike`` leaves out what does not look like the structure that is named: whatever lies in the body, vessels and nodules in the lungs.
    """
    if name.casefold() in (segment.name.casefold(), str(segment.label)):
        return 100
    several, around = named(name), ancestors(one)
    meant = [m for m in several if m is one or m in around]
    if alike:
        meant = [m for m in meant if m is one or (m.parent and (m.tissue is not Tissue.LUNG or one.tissue is Tissue.LUNG))]
    return min(len(ancestors(m)) for m in several) - (len(several) > 1) / 2 if meant else None


def _nearest(name):
    from difflib import get_close_matches

    words, _ = _parse(name)
    near = get_close_matches("".join(words), sorted({key for key, _ in _names()}), n=4, cutoff=0.8)
    titles = dict.fromkeys(one.name for key in near for (k, _), (one, _) in _names().items() if k == key)
    return f"the nearest are {', '.join(list(titles)[:3])}" if titles else ""


def ancestors(structure: Structure) -> tuple[Structure, ...]:
    """The coarser structures around one, nearest first."""
    found: list[Structure] = []
    while structure.parent:
        structure = structures()[structure.parent]
        found.append(structure)
    return tuple(found)


def depth(structure_or_segment: Structure | Segment) -> int:
    """How fine a structure is: where segments overlap, the one with the larger depth is drawn.

    The number of ancestors, and 10 more for what lies inside other structures (lesions, vessels and airways of an organ, gas,
    implants); 0 for a segment that is not understood.
    """
    one = structure_or_segment
    if not isinstance(one, Structure):
        (understood,) = understand((one,))
        if understood.how == "not understood":
            return 0
        one = understood.structure
    return len(ancestors(one)) + 10 * one.layer


# ------------------------------------------------------------------------------------------------------------------------ codes


@cache
def _codes() -> dict[tuple[str, str | None], list[Structure]]:
    """(SNOMED CT value, side) -> the structures that it may mean: first the one whose own code it is."""
    index: dict[tuple[str, str | None], list[Structure]] = {}
    for own in (True, False):
        for one in structures().values():
            for code in one.codes:
                if own == bool(one.code and one.code[1] == code[0]):
                    index.setdefault(code, []).append(one)
    return index


def _coded(segment: Segment) -> tuple[list[Structure], str]:
    """The structures that a segment's code may mean, best first, and a note."""
    if not segment.code or segment.code[0] != "SCT":
        return [], ""
    value = segment.code[1]
    side = SIDE_OF_MODIFIER.get(segment.modifier[1]) if segment.modifier else _parse(segment.name)[1]
    if found := _codes().get((value, side)) or _codes().get((value, None)):
        return found, ""
    if found := _codes().get((value, "left")):
        return found, f"The code gives no side, so the values of '{found[0].title}' were taken."
    return [], ""


# --------------------------------------------------------------------------------------------------------------- understanding


def understand(
    segments: Iterable[Segment],
    *,
    phase: str = "plain",
    names: Mapping[str, str] | None = None,
    hu: Mapping[str, float] | None = None,
    elsewhere: Iterable[str] = (),
) -> tuple[Understood, ...]:
    """What each segment is and the HU to draw it with.

    Parameters
    ----------
    phase : str
        Contrast phase of the expected HU: plain, arterial or portal.
    names : dict, optional
        The user's corrections: name of a segment (or its label value, as text) -> structure.
    hu : dict, optional
        HU by name (or label value) of a segment, or by structure (:func:`named`): then also for the finer structures within it (``bones``
        for all ribs; ``lung`` for the lobes, but not for vessels and nodules in them).
    elsewhere : iterable of str
        Structures that a key of ``hu`` may name without meaning a segment, because it is of use elsewhere.

    Raises
    ------
    UnusableInput
        If the phase is unknown, a correction names no structure, a key matches no segment, or a HU value is not one.
    """
    if phase not in PHASES:
        raise UnusableInput(f"'{phase}' is not a contrast phase; choose one of {', '.join(PHASES)}.")
    segments = tuple(segments)
    hu = {key: _checked_hu(key, value) for key, value in (hu or {}).items()}
    names = names or {}
    unused = set(names) | {key for key in hu if not {one.name for one in named(key)}.intersection(elsewhere)}
    mmwhs = _read_as_mmwhs(segments)
    results = []
    for segment in segments:
        labels = {segment.name.casefold(), str(segment.label)}
        chosen = next((key for key in names if key.casefold() in labels), None)
        if chosen is not None:
            unused.discard(chosen)
            one, how, note = structure(names[chosen]), "user", ""
        elif segment.value in mmwhs:
            one, how = structures()[mmwhs[segment.value]], "synonym"
            note = f"The segments have no names, and their label values are those of MM-WHS: {segment.value} is '{one.title}'."
        else:
            one, how, note = _resolve(segment)
        given = sorted((rank, key) for key in hu if (rank := closeness(key, segment, one, alike=True)) is not None)
        unused.difference_update(key for _, key in given)
        mean = hu[given[-1][1]] if given else segment.hu if segment.hu is not None else one.mean(phase)
        if how == "not understood":
            note = _assumption(segment, mean)
        results.append(Understood(segment, one, how, float(mean), one.sd(phase), note))
    if unused:
        key = sorted(unused)[0]
        known = ", ".join(segment.name for segment in segments[:8]) or "none"
        raise UnusableInput(f"'{key}' is neither the name nor the structure of a segment here; the segments are: {known}.")
    return tuple(results)


def _resolve(segment):
    """Structure, how and note from a segment's code and name."""
    named = _look_up(segment.name)
    coded, code_note = _coded(segment)
    if coded and named:
        one, _, name_note = named
        if one in coded:
            return one, "code", ""
        if coded[0].name in VAGUE or any(c in ancestors(one) for c in coded):
            return one, named[1], name_note  # the name is finer than the code
        if one not in ancestors(coded[0]):
            code_note = f"Its code says '{coded[0].title}' and its name '{one.title}'; the code was followed."
        return coded[0], "code", code_note
    if coded:
        return coded[0], "code", code_note
    if not named and segment.code and (meant := _look_up(segment.code[2])):  # a code that the table lacks, whose meaning it knows
        return meant[0], "code", meant[2]
    return named or (structures()[ASSUMED], "not understood", "")


def _assumption(segment, mean):
    near = f" ({near})" if (near := _nearest(segment.name)) else ""
    return (
        f"'{segment.name}' is not in the anatomy table{near} and is drawn as soft tissue of {mean:.0f} HU within the body; "
        f"say what it is with a label table (--labels), or give its value with --hu '{segment.name}=VALUE'."
    )


def _read_as_mmwhs(segments):
    """MM-WHS's table if no segment has a name and every label value is one of MM-WHS's, else an empty one."""
    if any(segment.code or not all(word.isdigit() for word in _parse(segment.name)[0]) for segment in segments):
        return {}
    table = label_table("mmwhs")
    return table if all(segment.value in table for segment in segments) else {}


def _checked_hu(key, value):
    try:
        value = float(value)
    except (TypeError, ValueError):
        value = float("nan")
    if not -1024 <= value <= 3071:
        raise UnusableInput(f"The HU value given for '{key}' is not a number from -1024 to 3071.")
    return value
