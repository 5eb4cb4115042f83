"""The anatomy tables themselves, and how segments are understood with them."""

import subprocess
import sys

import pytest

from CTSynthesisLib import anatomy
from CTSynthesisLib.anatomy import Tissue
from CTSynthesisLib.errors import UnusableInput
from CTSynthesisLib.volume import Segment

LEFT, RIGHT = ("SCT", "7771000", "Left"), ("SCT", "24028007", "Right")

words = str.split

SIDED = words("""kidney adrenal_gland lung_upper_lobe lung_lower_lobe kidney_cyst subclavian_artery common_carotid_artery iliac_artery
    iliac_vena brachiocephalic_vein humerus scapula clavicula femur hip gluteus_maximus gluteus_medius gluteus_minimus autochthon
    iliopsoas""")
TOTALSEGMENTATOR = {
    *words("""spleen gallbladder liver stomach pancreas lung_middle_lobe_right esophagus trachea thyroid_gland small_bowel duodenum colon
    urinary_bladder prostate sacrum vertebrae_S1 heart aorta pulmonary_vein brachiocephalic_trunk atrial_appendage_left superior_vena_cava
    inferior_vena_cava portal_vein_and_splenic_vein spinal_cord brain skull sternum costal_cartilages"""),
    *(f"{name}_{side}" for name in SIDED for side in ("left", "right")),
    *(f"vertebrae_{level}{n}" for level, count in (("C", 7), ("T", 12), ("L", 5)) for n in range(1, count + 1)),
    *(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)),
}
TOTALSEGMENTATOR_V1 = words("""face heart_myocardium heart_atrium_left heart_atrium_right heart_ventricle_left heart_ventricle_right
    pulmonary_artery""")
PROMISED = words("""body lung_left lung_right lungs heart aorta airway esophagus vertebrae ribs sternum bone muscle fat subcutaneous_fat
    lung_vessels blood bowel_gas skin nodule tumor mediastinum contrast_blood cortical_bone trabecular_bone lymph_node cyst
    pleural_effusion air""")

HU_RANGE = {
    Tissue.AIR: (-1000, -1000), Tissue.GAS: (-1000, -400), Tissue.LUNG: (-960, -300), Tissue.FAT: (-120, -70), Tissue.ORGAN: (-210, 210),
    Tissue.MUSCLE: (20, 130), Tissue.BLOOD: (-60, 400), Tissue.BONE: (100, 3071), Tissue.FLUID: (-5, 410), Tissue.HOLLOW: (-160, 60),
    Tissue.BODY: (-80, 50),
}  # fmt: skip


def understood(name, code=None, modifier=None, **kwargs):
    (result,) = anatomy.understand([Segment(1, name, code=code and ("SCT", code, ""), modifier=modifier)], **kwargs)
    return result


# ------------------------------------------------------------------------------------------------------------------ the table


def test_every_class_of_totalsegmentator_is_a_structure_of_that_name():
    assert len(TOTALSEGMENTATOR) == 117
    assert set(anatomy.label_table("totalsegmentator").values()) == TOTALSEGMENTATOR
    for name in [*TOTALSEGMENTATOR, *TOTALSEGMENTATOR_V1, *PROMISED]:
        assert understood(name).structure.name == name


def test_every_name_title_and_synonym_resolves_to_its_own_structure():
    for one in anatomy.structures().values():
        assert understood(one.name).structure is one and understood(one.name).how == "name"
        for text in (one.title, *one.synonyms):
            assert anatomy.structure(text) is one, text


def test_a_spelling_that_leads_to_two_structures_is_refused(monkeypatch):
    rows = anatomy._rows
    twin = {"name": "hepar", "title": "Twin", "tissue": "organ", "parent": "body"}
    twin |= dict.fromkeys(("layer", "code", "meaning", "other_codes", "synonyms"), "")
    monkeypatch.setattr(anatomy, "_rows", lambda table: rows(table) + ([twin] if table == "structures" else []))
    _forget_tables()
    try:
        with pytest.raises(ValueError, match="'hepar' leads to both liver and hepar"):
            anatomy._names()
    finally:
        _forget_tables()


def test_names_are_given_once():
    names = [row["name"] for row in anatomy._rows("structures")]
    assert len(names) == len(set(names))
    numbers = [row["structure"] for row in anatomy._rows("hounsfield")]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) <= set(anatomy.structures())


def test_parents_lead_to_the_body_without_circles():
    for one in anatomy.structures().values():
        line = [one, *anatomy.ancestors(one)]
        assert len(line) == len({s.name for s in line}) < 8
        assert line[-1].name == ("air" if one.name == "air" else "body")


def test_chains_that_other_parts_rely_on():
    def chain(name):
        return [s.name for s in anatomy.ancestors(anatomy.structure(name))]

    assert chain("vertebrae_T7") == ["vertebrae", "bone", "body"]
    assert chain("lung_upper_lobe_left") == ["lung_left", "lungs", "body"]
    assert chain("heart_ventricle_left") == ["heart", "mediastinum", "body"]
    assert chain("rib_right_5") == ["ribs", "bone", "body"]


def test_a_code_and_its_side_belong_to_one_structure():
    found = {}
    for one in anatomy.structures().values():
        if one.code:
            assert one.code[0] == "SCT" and one.code[1].isdigit() and one.code[2]
            # only cysts of the kidney, one on each side, share the morphology of any cyst (side apart)
            key = (one.code[1], one.modifier)
            assert key not in found, (one.name, found.get(key))
            found[key] = one.name
    assert found["64033007", LEFT] == "kidney_left"
    assert len(found) > 200


def test_codes_mean_in_dicom_what_they_mean_here():
    """pydicom's copy of DICOM's context groups holds most codes; where it does, a word of its meaning is in ours."""
    from pydicom.sr._concepts_dict import concepts

    meanings = {}
    for keyword, values in concepts["SCT"].items():
        for value, (meaning, _) in values.items():
            meanings.setdefault(value, []).append(f"{keyword} {meaning}".lower())
    checked = 0
    for one in anatomy.structures().values():
        if one.code and one.code[1] in meanings:
            words = [word.lower()[:5] for word in one.code[2].split()]
            assert any(word in text for word in words for text in meanings[one.code[1]]), (one.name, one.code, meanings[one.code[1]])
            checked += 1
    assert checked > 100


def test_hounsfield_values_suit_the_tissue():
    own = {row["structure"] for row in anatomy._rows("hounsfield")}
    for one in anatomy.structures().values():
        if one.name == "cochlea_left" or one.name == "cochlea_right":
            continue  # fluid in the densest bone
        for phase in anatomy.PHASES:
            low, high = HU_RANGE[one.tissue]
            assert low <= one.mean(phase) <= high, (one.name, phase, one.mean(phase))
            assert 0 < one.sd(phase) <= 750
        source = next(s for s in (one, *anatomy.ancestors(one)) if s.name in own)
        assert source.tissue is one.tissue, f"{one.name} has the values of {source.name}, which is another tissue"


def test_contrast_brightens_what_it_should():
    aorta, cava, liver, myocardium = map(anatomy.structure, ("aorta", "IVC", "liver", "myocardium"))
    assert aorta.mean("plain") < 60 < aorta.mean("portal") < aorta.mean("arterial")
    assert cava.mean("arterial") < cava.mean("portal")
    assert liver.mean("plain") < liver.mean("arterial") < liver.mean("portal")
    assert myocardium.mean("arterial") < anatomy.structure("LV").mean("arterial") - 100
    assert anatomy.structure("rib_left_1").mean("arterial") == anatomy.structure("ribs").mean("plain")


def test_sources_are_spelled_out():
    readme = (anatomy.RESOURCES / "Anatomy" / "README.md").read_text(encoding="utf-8")
    for row in anatomy._rows("hounsfield"):
        assert row["source"]
        for key in row["source"].split():
            assert f"\n| {key} |" in readme, key


def test_mmwhs_label_values():
    assert anatomy.label_table("mmwhs") == {
        500: "heart_ventricle_left", 600: "heart_ventricle_right", 420: "heart_atrium_left", 550: "heart_atrium_right",
        421: "heart_atrium_left", 205: "heart_myocardium", 820: "aorta_ascending", 850: "pulmonary_artery",
    }  # fmt: skip
    assert anatomy.structure("whole heart").name == "heart"


def test_label_tables_name_structures():
    assert set(anatomy.label_table("krishna2019")) == {0, 50, 100, 150, 200, 230}
    for table in ("mmwhs", "totalsegmentator", "krishna2019"):
        assert set(anatomy.label_table(table).values()) <= set(anatomy.structures())


def test_import_is_light():
    code = (
        "import sys, time; import CTSynthesisLib, csv, re, dataclasses, enum; start = time.process_time(); import CTSynthesisLib.anatomy;"
        "print(time.process_time() - start); assert not {'torch', 'pydicom', 'SimpleITK', 'vtk'} & set(sys.modules)"
    )
    times = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    assert min(times) < 0.05


# ------------------------------------------------------------------------------------------------------------------ by name


@pytest.mark.parametrize(
    "name",
    ["lung_left", "Left Lung", "lung left", "LEFT LUNGS", "L lung", "lung_l", "Lung (L)", "Lung-L", "LungL", "Lt. lung", "leftlung"],
)
def test_the_side_may_stand_anywhere(name):
    assert understood(name).structure.name == "lung_left"


@pytest.mark.parametrize(
    "name, expected",
    {
        "RK": "kidney_right", "Kidney L": "kidney_left", "LV": "heart_ventricle_left", "RV": "heart_ventricle_right",
        "RA": "heart_atrium_right", "LA": "heart_atrium_left", "Ao": "aorta", "PA": "pulmonary_artery",
        "Myo": "heart_myocardium", "Rt lung": "lung_right",
        "SpinalCord": "spinal_cord", "Cord": "spinal_cord", "BrainStem": "brainstem", "Brainstem": "brainstem", "GTV-1": "tumor",
        "RightParotid": "parotid_gland_right", "Parotid_L": "parotid_gland_left", "Glnd_Submand_R": "submandibular_gland_right",
        "Bone_Mandible": "mandible", "GTVn": "lymph_node", "Tumor_c40": "tumor", "LN_c40": "lymph_node", "Patient": "body",
        "Femur_Head_L": "femur_head_left", "LUL": "lung_upper_lobe_left", "RML": "lung_middle_lobe_right", "T7": "vertebrae_T7",
        "upper lobe of left lung": "lung_upper_lobe_left", "Th12": "vertebrae_T12", "L5 vertebra": "vertebrae_L5",
        "left 5th rib": "rib_left_5", "Rib5_L": "rib_left_5", "lungs": "lungs", "Lungs L+R": "lungs",
        "oesophagus": "esophagus", "postcava": "inferior_vena_cava",
        "torso_fat": "visceral_fat", "liver_segment_4": "liver",
    }.items(),
)  # fmt: skip
def test_names_that_people_type(name, expected):
    assert understood(name).structure.name == expected


@pytest.mark.parametrize("name", ["Segment_1", "PTV56", "PTV-1", "CTV_Lung nodule", "foo", "", "12", "Lungs-GTV", "contrast"])
def test_what_is_not_understood_is_soft_tissue_and_said(name):
    result = understood(name)
    assert (result.how, result.structure.tissue, result.mean_hu, result.structure.parent) == ("not understood", Tissue.ORGAN, 40, "body")
    assert "40 HU" in result.note and "--hu" in result.note and "--labels" in result.note


def test_a_word_for_the_kind_helps_where_the_name_is_unknown():
    result = understood("lateral rectus muscle")
    assert result.structure.name == "muscle" and "muscle" in result.note


def test_a_missing_side_is_told():
    result = understood("ovary")
    assert result.structure.name == "ovary_left" and "no side" in result.note
    assert understood("left ribs").structure.name == "ribs" and "side" in understood("left ribs").note


def test_structure_names_the_nearest():
    assert anatomy.structure("Left  KIDNEY").name == "kidney_left"
    with pytest.raises(UnusableInput, match="spleen"):
        anatomy.structure("spleeen")


def test_an_unnamed_mmwhs_label_map_is_recognized_and_told():
    segments = [Segment(value, f"Segment_{value}") for value in (205, 420, 500)]
    results = anatomy.understand(segments)
    assert [r.structure.name for r in results] == ["heart_myocardium", "heart_atrium_left", "heart_ventricle_left"]
    assert all("MM-WHS" in r.note for r in results)
    assert {r.how for r in anatomy.understand([*segments, Segment(1, "Segment_1")])} == {"not understood"}
    assert anatomy.understand([Segment(500, "liver")])[0].structure.name == "liver"


# ------------------------------------------------------------------------------------------------------------------ by code


def test_a_code_with_a_side_goes_before_a_name_that_says_nothing():
    result = understood("Segment_1", "64033007", RIGHT)
    assert (result.structure.name, result.how) == ("kidney_right", "code")
    assert understood("Segment_1", "45653009", LEFT).structure.name == "lung_upper_lobe_left"
    assert understood("Segment_1", "87878005").structure.name == "heart_ventricle_left"
    assert understood("left one", "64033007").structure.name == "kidney_left"


def test_a_finer_name_goes_before_a_coarser_code():
    assert understood("rib_left_5", "272673000").structure.name == "rib_left_5"  # Bone
    assert understood("kidney_cyst_left", "367643001").structure.name == "kidney_cyst_left"  # Cyst
    assert understood("lung_vessels", "59820001").structure.name == "lung_vessels"  # Blood vessel
    assert understood("pericardial effusion", "41699000").structure.name == "pericardial_effusion"  # Effusion
    assert understood("bone", "113197003").structure.name == "ribs"  # and a finer code before a coarser name


@pytest.mark.parametrize("vague", ["85756007", "123037004", "91772007", "87784001"])
def test_codes_that_say_nothing_leave_the_name(vague):
    assert (understood("liver", vague).structure.name, understood("liver", vague).how) == ("liver", "name")


def test_a_contradiction_follows_the_code_and_is_told():
    result = understood("spleen", "10200004")
    assert result.structure.name == "liver" and "Liver" in result.note and "Spleen" in result.note


def test_an_unknown_code_is_read_by_its_meaning():
    (result,) = anatomy.understand([Segment(1, "Segment_1", code=("FMA", "7197", "Right kidney"))])
    assert (result.structure.name, result.how) == ("kidney_right", "code")


# ------------------------------------------------------------------------------------------------- corrections, phases, overlaps


def test_the_user_corrects_names_by_name_or_value():
    segments = [Segment(1, "Segment_1"), Segment(7, "thing")]
    one, two = anatomy.understand(segments, names={"segment_1": "left lung", "7": "aorta"})
    assert (one.structure.name, one.how, two.structure.name) == ("lung_left", "user", "aorta")
    with pytest.raises(UnusableInput, match="'nothing'"):
        anatomy.understand(segments, names={"nothing": "liver"})
    with pytest.raises(UnusableInput, match="'livver'.*liver"):
        anatomy.understand(segments, names={"thing": "livver"})


def test_the_most_particular_hu_decides():
    skull = Segment(2, "my skull", code=("SCT", "89546000", "Skull"))
    segments = [Segment(1, "rib_left_1"), skull, Segment(3, "liver", hu=90), Segment(4, "sternum")]
    ribs, skull, liver, sternum = anatomy.understand(segments, hu={"bone": 500, "ribs": 400, "MY SKULL": 900, "4": 300})
    assert (ribs.mean_hu, skull.mean_hu, liver.mean_hu, sternum.mean_hu) == (400, 900, 90, 300)
    assert anatomy.understand(segments, hu={"Liver": 120})[2].mean_hu == 120


@pytest.mark.parametrize("hu", [{"spleen": 50}, {"body": 0}, {"liver": "bright"}, {"liver": float("nan")}, {"liver": 5000}])
def test_a_hu_that_cannot_be_used_is_refused(hu):
    with pytest.raises(UnusableInput, match=next(iter(hu))):
        anatomy.understand([Segment(1, "liver")], hu=hu)


def test_the_phase_sets_the_expected_hu():
    assert understood("aorta", phase="arterial").mean_hu == anatomy.structure("aorta").mean("arterial")
    with pytest.raises(UnusableInput, match="venous"):
        understood("aorta", phase="venous")


def selected(name, *segments, **how):
    understood = anatomy.understand([Segment(n, one) for n, one in enumerate(segments, start=1)])
    return [u.segment.name for u in understood if anatomy.closeness(name, u.segment, u.structure, **how) is not None]


@pytest.mark.parametrize(("name", "members"), [
    ("lung", ["Lung R", "lung_upper_lobe_left", "nodule"]), ("Lungs", ["Lung R", "lung_upper_lobe_left", "nodule"]),
    ("left lung", ["lung_upper_lobe_left"]), ("lung lobes", ["lung_upper_lobe_left"]), ("bones", ["vertebrae_T8", "rib_left_3", "Sacrum"]),
    ("vertebrae", ["vertebrae_T8"]), ("vertebra", ["vertebrae_T8"]), ("thoracic vertebrae", ["vertebrae_T8"]), ("lumbar vertebrae", []),
    ("ribs", ["rib_left_3"]), ("rib", ["rib_left_3"]), ("left ribs", ["rib_left_3"]), ("right ribs", []), ("heart", ["LV", "Left Atrium"]),
    ("kidneys", ["Right Kidney", "kidney_tumor"]), ("ureters", ["ureter_left", "ureter_right"]), ("ureter left", ["ureter_left"]),
    ("tumors", ["kidney_tumor"]), ("bowel", ["Colon"]), ("9", ["Colon"]), ("renal artery of mine", []), ("Segment_1", []), ("PTV", []),
])  # fmt: skip
def test_groups_and_parents_select_their_members(name, members):
    everything = ["Lung R", "lung_upper_lobe_left", "nodule", "vertebrae_T8", "rib_left_3", "Sacrum", "LV", "Left Atrium", "Colon",
                  "Right Kidney", "kidney_tumor", "ureter_left", "ureter_right"]  # fmt: skip
    assert selected(name, *everything) == members


def test_hounsfield_values_by_group():
    segments = [Segment(n, name) for n, name in enumerate(("kidney_left", "kidney_right", "rib_left_1", "rib_right_1", "ureter_right"), 1)]
    hu = {"kidneys": 150, "right kidney": 160, "bones": 500, "left ribs": 600, "ureter": 400}
    assert [u.mean_hu for u in anatomy.understand(segments, hu=hu)] == [150, 160, 600, 500, 400]
    assert anatomy.understand(segments, hu={"lung": -800, "kidneys": 1}, elsewhere=("lungs",))
    with pytest.raises(UnusableInput, match="lung"):
        anatomy.understand(segments, hu={"lung": -800}, elsewhere=("bone",))


def test_finer_structures_and_what_lies_inside_others_are_deeper():
    def depth(name):
        return anatomy.depth(Segment(1, name))

    assert depth("vertebrae_T7") > depth("vertebrae") > depth("bone") > depth("body") == depth("Segment_1") == 0
    inside = {
        "nodule": "lung_upper_lobe_left", "tumor": "kidney_left", "lung_vessels": "lung_upper_lobe_left", "trachea": "lung_right",
        "heart_ventricle_left": "heart", "kidney_cyst_left": "kidney_left", "liver": "abdomen", "bowel gas": "colon",
        "liver_tumor": "liver",
    }  # fmt: skip
    for inner, outer in inside.items():
        assert depth(inner) > depth(outer), (inner, outer)
    assert anatomy.depth(anatomy.structure("liver")) == depth("liver")


def _forget_tables():
    """What anatomy keeps of its tables is made anew, all of it: a part would mix structures of two tables."""
    for kept in (anatomy.structures, anatomy._names, anatomy._codes, anatomy.named):
        kept.cache_clear()


def test_the_lungs_hounsfield_value_is_not_that_of_what_lies_in_them():
    segments = [Segment(n, name) for n, name in enumerate(("lung_upper_lobe_left", "lung_right", "lung_vessels", "nodule"), start=1)]
    plain, told = (anatomy.understand(segments, hu=hu) for hu in ({}, {"lungs": -700.0}))
    assert [u.mean_hu for u in told] == [-700.0, -700.0, plain[2].mean_hu, plain[3].mean_hu]
    assert anatomy.understand(segments, hu={"lung_vessels": 30.0})[2].mean_hu == 30.0
