"""Soft organs of the sample atlas: heart chambers, great vessels, airways, mediastinum, upper abdomen, neck, lung vessels.

Coordinates are LPS mm about the middle of the lungs, so x grows to the patient's left, y to the back, z to the head. The courses were
read off the averaged chest; what lies between is drawn as anatomy has it. Shapes that touch are painted in order, the later on top.
"""

from __future__ import annotations

import numpy as np

from .atlas_shapes import ellipsoid, half_space, joined, tube

# Tables of points read better on long lines.
# fmt: off
BOX = ((-200, -200, -250), (200, 200, 250))

# Left ventricle: from the middle of the mitral ring to the apex.
MITRAL, APEX = np.array([20.0, -14, -34]), np.array([70.0, -54, -71])
AXIS = (APEX - MITRAL) / np.linalg.norm(APEX - MITRAL)


def heart():
    """Chambers and walls: dict of shapes in the order in which they are painted, and the whole heart's outline."""
    center = MITRAL + AXIS * 33
    across = [AXIS, (0.6, 0.75, 0.1), (0, 0.2, 1)]
    cavity = ellipsoid(center - AXIS * 2, (45, 24, 26), across) & half_space(MITRAL - AXIS * 3, -AXIS, *BOX)
    wall = ellipsoid(center - AXIS * 1, (55, 34.5, 36.5), across) & half_space(MITRAL + AXIS * 1, -AXIS, *BOX)
    inflow = ellipsoid((21, -60, -55), (47, 25, 26), [(0.88, -0.20, -0.30), (0.3, 0.9, 0.1), (0.1, 0, 1)])
    outflow = tube([(20, -62, -48), (27, -60, -30), (28, -53, -16)], [20, 17, 13.5])
    right = joined(inflow, outflow, blend=12) - wall.grown(1.0)
    left_atrium = joined(
        ellipsoid((5, 3, -27), (31, 15, 21), [(1, 0.08, 0), (0, 1, -0.1), (0, 0, 1)]),
        ellipsoid((15, -5, -30), (17, 13, 17)),
        tube([(24, -8, -15), (36, -16, -11), (42, -26, -13)], [8, 7, 5]),
        blend=8,
    )
    right_atrium = joined(ellipsoid((-14, -32, -42), (21.5, 25, 31), [(1, 0.1, 0.1), (0, 1, 0), (0, 0, 1)]),
                          tube([(-20, -38, -22), (-12, -50, -14), (-4, -58, -12)], [11, 8.5, 5]), blend=8)
    chambers = {
        "heart_myocardium": wall,
        "heart_ventricle_right": right,
        "heart_atrium_right": right_atrium - right.grown(1.5),
        "heart_atrium_left": left_atrium - wall.grown(-1.0) - right_atrium.grown(2.5),
        "heart_ventricle_left": cavity,
    }
    outline = joined(wall.grown(0.3), right.grown(3.2), right_atrium.grown(2.0), left_atrium.grown(1.8), blend=5)
    return chambers, outline


def pericardium():
    """The sac: heart, roots of the vessels and the fat around them."""
    return joined(
        ellipsoid((24, -34, -46), (56, 47, 42), [(0.93, -0.25, -0.28), (0.25, 0.97, 0), (0.28, 0, 0.96)]),
        ellipsoid((2, -22, -5), (38, 38, 40)),
        ellipsoid((-14, -26, -40), (26, 30, 40)),
        blend=14,
    )


AORTA = [(6, -28, -31), (4, -35, -18), (-4, -38.5, -4), (-10, -37, 12), (-9, -34, 30), (-3, -28, 46), (6, -16, 56), (14, 0, 60),
         (19.5, 16, 55), (20.5, 27, 42), (19, 34, 25), (18, 39, 8), (18, 42.5, -12), (18, 42, -35), (16, 38, -60), (13, 30, -80),
         (10, 23, -98), (7, 17, -120), (5, 12, -145), (4, 8, -175)]
AORTA_RADIUS = [14, 16.5, 15.5, 15.5, 15.5, 15, 14.2, 13.5, 13, 12.8, 12.5, 12.3, 12, 12, 11.8, 11.5, 11, 10.5, 10, 9.5]


def vessels():
    """Great vessels by name, in the order in which they are painted."""
    vein = {
        "azygos_vein": tube([(-24, -10, 44), (-21, 8, 46), (-13, 24, 42), (-8, 33, 28), (-6, 37, 5), (-5, 38, -40), (-4, 33, -80),
                             (-3, 26, -120)],
                            [4, 4, 4, 4, 3.5, 3.5, 3, 3]),
        "superior_vena_cava": tube([(-19, -28, -15), (-22, -22, -3), (-25, -19, 12), (-25.5, -19, 30), (-25, -21, 52), (-26, -24, 72)],
                                   [11, 10.5, 10, 9.8, 9.5, 9]),
        "brachiocephalic_vein_right": tube([(-26, -24, 72), (-30, -26, 86), (-38, -25, 98)], [8.5, 8, 7.5]),
        "brachiocephalic_vein_left": tube([(-25, -26, 72), (-10, -37, 76), (8, -38, 82), (26, -34, 91), (38, -26, 99)],
                                          [8, 6.5, 7, 7.5, 7.5]),
        "subclavian_vein_right": tube([(-38, -25, 98), (-56, -30, 104), (-80, -22, 112), (-104, -20, 112)], [7, 5.5, 5.5, 5]),
        "subclavian_vein_left": tube([(38, -26, 99), (56, -30, 104), (80, -22, 112), (104, -20, 112)], [7, 5.5, 5.5, 5]),
        "internal_jugular_vein_right": tube([(-38, -24, 99), (-33, -24, 114), (-33, -26, 140)], [7, 6.5, 6.5]),
        "internal_jugular_vein_left": tube([(38, -25, 100), (33, -24, 115), (32, -26, 140)], [7, 6, 6]),
        "inferior_vena_cava": tube([(-17, -20, -66), (-17, -14, -76), (-18, -7, -88), (-18, 0, -104), (-18, 4, -125), (-17, 6, -145),
                                    (-16, 8, -180)],
                                   [13, 12.5, 12, 12, 11.5, 11, 11]),
        "pulmonary_vein": joined(
            tube([(-18, 2, -18), (-32, -2, -12), (-46, 0, 0), (-58, -6, 12)], [7.5, 6.5, 5.5, 4]),
            tube([(-16, 8, -34), (-30, 14, -38), (-46, 22, -46), (-58, 28, -58)], [7.5, 6.5, 5.5, 4]),
            tube([(24, 2, -16), (36, 2, -4), (46, -4, 10), (54, -14, 20)], [7, 6.5, 5.5, 4]),
            tube([(26, 10, -32), (38, 18, -35), (52, 26, -44), (64, 30, -56)], [7, 6.5, 5.5, 4])),
    }
    artery = {
        "pulmonary_artery": joined(
            tube([(28, -52, -16), (25, -44, -2), (22, -32, 12), (20, -19, 18)], [13.5, 14, 14, 13]),
            tube([(20, -20, 17), (8, -11, 12), (-8, -4.5, 10), (-24, -1, 7), (-36, 3, 0), (-42, 10, -14), (-46, 17, -30)],
                 [12, 11.5, 11.5, 11, 9.5, 8, 6.5]),
            tube([(21, -19, 19), (26, -5, 25), (33, 9, 25), (40, 19, 15), (43, 25, 0), (46, 30, -18)], [12.5, 12, 11, 9.5, 8, 6.5]),
            tube([(-28, -1, 8), (-38, -2, 18), (-48, 0, 32)], [8, 6.5, 5]),
            tube([(32, 4, 27), (40, -2, 38), (46, -4, 50)], [7, 6, 4.5]), blend=4),
        "brachiocephalic_trunk": tube([(-2, -25, 54), (-6, -22, 68), (-12, -19, 82), (-18, -18, 94)], [7, 6.5, 6.2, 6]),
        "common_carotid_artery_right": tube([(-18, -18, 94), (-20, -20, 108), (-21, -21, 140)], [4.8, 4, 3.8]),
        "subclavian_artery_right": tube([(-18, -18, 94), (-30, -14, 108), (-52, -12, 116), (-78, -14, 113), (-104, -14, 110)],
                                        [5.2, 4.6, 4.5, 4.2, 4]),
        "common_carotid_artery_left": tube([(8, -13, 62), (12, -14, 78), (17, -17, 98), (20, -20, 115), (21, -21, 140)],
                                           [4.8, 4.2, 4, 3.8, 3.8]),
        "subclavian_artery_left": tube([(15, 2, 66), (18, -1, 82), (23, -2, 98), (34, -6, 111), (54, -12, 116), (78, -14, 113),
                                        (104, -14, 110)],
                                       [5.5, 5.2, 5, 4.6, 4.5, 4.2, 4]),
        "celiac_trunk": tube([(7, 14, -122), (7, 2, -126), (12, -8, -124)], [4.2, 3.6, 3]),
        "superior_mesenteric_artery": tube([(6, 10, -136), (6, -2, -140), (5, -6, -152), (4, -8, -180)], [4.2, 4, 3.8, 3.6]),
        "aorta": tube(AORTA, AORTA_RADIUS),
    }
    return {**vein, **artery}


def airways():
    """Lumen of the trachea, and of the main and lobar bronchi."""
    trachea = tube([(-2, -31, 145), (-2, -26, 125), (-2.5, -18, 108), (-3, -9, 90), (-3.5, -2, 74), (-3.5, 4, 58), (-3, 8, 44),
                    (-3, 9, 39)],
                   [8.5, 8.8, 9, 9, 9, 9.2, 9.8, 9])
    right = joined(
        tube([(-4, 9, 40), (-14, 10, 29), (-24, 11, 18), (-29, 13, 3), (-32, 18, -12), (-36, 26, -28)], [7.8, 7.4, 6.8, 5.8, 5, 3.8]),
        tube([(-23, 11, 20), (-34, 10, 25), (-43, 8, 33)], [5, 4.4, 3.2]),
        tube([(-30, 14, -2), (-38, 4, -12), (-46, -8, -20)], [4, 3.4, 2.6]), blend=3)
    left = joined(
        tube([(-2, 9, 40), (9, 12, 28), (21, 15, 18), (31, 19, 9), (36, 25, -5), (39, 31, -22)], [7.2, 6.6, 6.2, 5.8, 4.8, 3.6]),
        tube([(31, 18, 9), (42, 10, 11), (50, 0, 16)], [4.6, 4, 3]), blend=3)
    return trachea, joined(right, left)


ESOPHAGUS = [(2, -13, 140), (3, -9, 125), (4, -1, 108), (5, 7, 90), (5, 13, 74), (4, 19, 58), (4, 23, 42), (5, 26, 22), (6, 28, 0),
             (7, 28, -22),
             (9, 25, -42), (12, 17, -60), (15, 7, -76), (19, 1, -90), (26, 2, -100)]


def esophagus():
    return tube(ESOPHAGUS, [5.5, 5.5, 6, 6.5, 7, 7, 7, 7, 7.2, 7.5, 8, 8, 8, 8.5, 10])


def mediastinum():
    """What holds the great vessels together above and behind the heart: fat and lymph nodes between the lungs."""
    return joined(
        tube([(-3, -8, 118), (-2, -4, 90), (-3, 4, 60), (-2, 10, 38)], [19, 17, 17, 17]),
        tube([(-22, -20, 90), (-22, -20, 60), (-22, -14, 30)], [13, 13, 14]),
        tube([(16, -12, 92), (14, -10, 72), (20, 0, 45), (22, 4, 25)], [14, 17, 17, 15]),
        tube([(0, -32, 84), (0, -36, 64), (0, -40, 40)], [13, 13, 11]),
        tube([(3, -50, 66), (3, -60, 30), (4, -70, -10), (6, -78, -50)], [6, 5, 6, 9]),
        tube([(2, 14, 36), (4, 18, 10), (6, 20, -20), (9, 22, -50), (11, 14, -74)], [13, 11, 10, 10, 11]),
        blend=6,
    )


def abdomen():
    """Organs below the diaphragm, in the order in which they are painted; what the diaphragm and the wall leave of them."""
    # Larger than life where the diaphragm and the wall will cut them: they lie against it.
    stomach = joined(
        ellipsoid((66, 6, -97), (50, 48, 25)),
        tube([(34, 6, -102), (60, 4, -110), (70, -8, -124), (66, -30, -138), (46, -52, -152), (22, -54, -158), (-2, -44, -154)],
             [14, 27, 26, 24, 21, 17, 12]), blend=6)
    liver = joined(
        ellipsoid((-74, -10, -116), (80, 84, 68), [(1, 0, 0.1), (0, 1, 0), (-0.1, 0, 1)]),
        ellipsoid((-30, -48, -104), (70, 60, 44), [(1, -0.1, 0.3), (0, 1, 0), (-0.3, 0, 1)]),
        ellipsoid((30, -62, -98), (62, 38, 26), [(1, -0.05, 0.22), (0, 1, 0), (-0.2, 0, 1)]),
        ellipsoid((-16, -18, -108), (24, 20, 26)),
        blend=12,
    ) - half_space((-62, -30, -166), (-0.48, -0.2, 1), *BOX) - tube([(-6, 30, -60), (-4, 34, -110), (-4, 32, -180)], 30)  # crura and spine
    kidneys = {
        word: ellipsoid(c, (25, 24, 54), [(1, 0, side * 0.28), (0, 1, 0.1), (-side * 0.28, 0, 1)]) - tube([(side * 20, 20, -185),
                                                                                                           (side * 36, 34, -180)], 12)
        for side, word, c in ((-1, "right", (-62, 44, -184)), (1, "left", (62, 44, -178)))
    }
    colon = joined(
        tube([(112, 0, -178), (106, -30, -152), (90, -58, -140), (66, -76, -146), (36, -86, -158), (0, -90, -164), (-36, -88, -172)],
             [18, 19, 20, 19, 17, 17, 17]))
    return {
        "iliopsoas_left": tube([(24, 44, -140), (28, 46, -160), (36, 44, -190)], [4, 8, 14]),
        "iliopsoas_right": tube([(-28, 44, -140), (-32, 46, -160), (-40, 44, -190)], [4, 8, 14]),
        "colon": colon,
        "spleen": ellipsoid((98, 40, -120), (60, 40, 36), [(0.25, -0.65, -0.45), (-0.1, 0.5, -0.75), (0.9, 0.4, 0)]) - stomach.grown(3.0),
        "kidney_right": kidneys["right"],
        "kidney_left": kidneys["left"],
        "adrenal_gland_right": tube([(-26, 22, -126), (-28, 30, -140)], [3, 3.5]),
        "adrenal_gland_left": tube([(28, 22, -132), (32, 28, -146)], [3, 3.5]),
        "pancreas": tube([(78, 22, -138), (52, 12, -143), (24, -16, -148), (0, -22, -154), (-14, -24, -168)], [8, 10, 10, 11, 13]),
        "duodenum": tube([(-2, -44, -154), (-18, -42, -152), (-32, -34, -156), (-36, -20, -168), (-36, -10, -185)], [11, 12, 12, 12, 12]),
        "small_bowel": joined(
            tube([(30, -20, -166), (48, -16, -162), (64, -20, -168), (76, -34, -176)], [12, 12.5, 12, 12]),
            tube([(4, -64, -180), (24, -66, -176), (44, -60, -178), (58, -48, -182)], [12, 13, 12, 12])),
        "liver": liver,
        "gallbladder": ellipsoid((-46, -64, -158), (13, 17, 24), [(1, 0, 0.2), (0, 1, 0.4), (0, 0, 1)]),
        "stomach": stomach,
    }


def gas():
    """Air in the stomach's front and fundus and in the colon: it rises, so it has a level."""
    stomach = tube([(62, 2, -104), (70, -14, -122), (60, -36, -138), (44, -56, -150)], [18, 20, 18, 15]) & half_space((0, -22, 0),
                                                                                                                      (0, 1, 0), *BOX)
    colon = tube([(98, -46, -146), (84, -66, -140), (64, -80, -146), (38, -90, -157)], [12, 14, 13, 11]) & half_space((0, -62, 0),
                                                                                                                      (0, 1, 0), *BOX)
    return {"stomach": stomach, "colon": colon}


def abdominal_vessels():
    return {
        "portal_vein_and_splenic_vein": joined(
            tube([(88, 26, -128), (56, 4, -138), (24, -12, -142), (-4, -16, -142), (-22, -20, -130), (-36, -22, -118)],
                 [3.5, 4, 4.5, 6.5, 7, 6]),
            tube([(-34, -22, -119), (-56, -20, -112), (-76, -14, -112)], [5.5, 4.5, 3]),
            tube([(-32, -23, -120), (-20, -38, -108), (4, -52, -104)], [5, 4, 2.8])),
        "hepatic_veins": joined(
            tube([(-22, -8, -88), (-46, -8, -94), (-74, -6, -106), (-94, 0, -122)], [5.5, 4.8, 3.8, 2.6]),
            tube([(-20, -12, -88), (-34, -36, -94), (-50, -58, -108)], [5, 4, 2.6]),
            tube([(-16, -14, -88), (0, -36, -94), (22, -54, -100)], [4.5, 3.6, 2.4])),
    }


def neck():
    both = {}
    for side, word in ((-1, "right"), (1, "left")):
        both[f"thyroid_gland_{word}"] = ellipsoid((side * 16 - 2, -24, 124), (8, 11, 20), [(1, side * 0.3, 0), (0, 1, 0), (0, 0.2, 1)])
    return both
