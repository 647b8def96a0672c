"""Figures of Jeong 2022, shown beside those of configs/gnime.py: Tables 1 to 3 and Section 6.

Means and standard deviations of five runs; CelebA's SSIM from LRP with GNIME is in Section 6.
DeePSiM is not among them: the code has another (configs/gnime.md).
"""

import functools

from configs import base

EXPLANATIONS = ("gradient", "gradcam", "lrp")
DEFENCES = ("rnd", "ond", "gnime")


def tables_1_and_3(block: str) -> tuple[dict, ...]:
    """Returns Tables 1 and 3 of a data set; empty if the paper has none of it."""
    return _TABLES_1_AND_3.get(block, ())


def section_6(block: str) -> tuple[dict, ...]:
    """Returns the figure of Section 6."""
    return _SECTION_6.get(block, ())


def table_2(block: str) -> tuple[dict, ...]:
    """Returns Table 2: attackers who have images of another kind."""
    return _TABLE_2.get(block, ())


def _row(
    source: str, defences: tuple[str, ...], metric: str, means: tuple, spreads: tuple
) -> tuple[dict, ...]:
    """Returns a row of a table: predictions alone, then each explanation with each defence.

    None is a figure lost in the paper's text at hand, or not clearly assigned there.
    """
    # Arms in the order of the table's columns
    arms = ["prediction"]
    for name in EXPLANATIONS:
        arms.append(name)
        arms += [f"{name}_{defence}" for defence in defences]
    # A lost figure has no row
    values = {}
    for arm, mean, spread in zip(arms, means, spreads, strict=True):
        if mean is not None:
            values[arm] = (mean, spread)
    return base.published(source, metric, values)


def _table_3(distortion: tuple[float, ...]) -> tuple[dict, ...]:
    """Returns the distortion by GNIME of each explanation."""
    arms = [f"{name}_gnime" for name in EXPLANATIONS]
    values = dict(zip(arms, distortion, strict=True))
    return base.published("Table 3", "distortion", values)


_table_1 = functools.partial(_row, "Table 1", DEFENCES)
_table_2 = functools.partial(_row, "Table 2", ("gnime",))
# fmt: off
# Lines: predictions alone and gradient, gradcam, lrp; columns: undefended, RND, OND, GNIME
_TABLES_1_AND_3 = {
    "mnist": (
        _table_1("mse",
            (.0237, .0051, .0067, .0070, .0143,
             .0021, .0059, .0061, .0177,
             .0012, .0037, .0044, .0168),
            (.0001, .0003, .0002, .0003, None,
             .0003, .0002, .0003, .0002,
             .0001, .0001, .0003, .0001))
        + _table_1("ssim",
            (.5542, .9065, .8707, .8753, .7686,
             .9613, .9009, .8929, .7213,
             .9767, .9314, .9044, .7356),
            (.0068, .0133, .0249, .0115, .0046,
             .0068, .0039, .0150, .0026,
             .0009, .0052, .0064, .0037))
        + _table_1("attack_accuracy",
            (.9751, .9850, .9835, .9826, .9770,
             .9871, .9825, .9815, .9715,
             .9867, .9833, .9815, .9726),
            (.0024, .0009, .0005, .0012, .0011,
             .0009, .0010, .0010, .0021,
             .0004, .0012, .0008, .0014))
        + _table_3((.0039, .0098, .0077))
    ),
    "cifar10": (
        _table_1("mse",
            (.0486, .0374, .0416, .0416, .0469,
             .0322, .0374, .0382, .0452,
             .0087, .0157, .0174, .0409),
            (.0002, .0003, .0005, .0007, .0001,
             .0002, .0003, .0003, .0001,
             .0003, .0008, .0003, .0004))
        + _table_1("ssim",
            (.1688, .2904, .2430, .2236, .1846,
             .3348, .2654, .2454, .1855,
             .8862, .6782, .6369, .2740),
            (.0002, .0135, .0140, .0102, .0099,
             .0042, .0076, .0076, .0017,
             .0076, .0133, .0081, .0176))
        + _table_1("attack_accuracy",
            (.2969, .3769, .3157, .3125, .2902,
             .3952, .3375, .3334, .2978,
             .6651, .5770, .5780, .3290),
            (.0058, .0276, .0219, .0184, .0138,
             .0049, .0060, .0141, .0061,
             .0076, .0122, .0096, .0194))
        + _table_3((.0120, .0176, .0183))
    ),
    "celeba": (
        _table_1("mse",
            (.0287, None, None, None, None,
             .0183, .0191, .0200, .0229,
             .0069, .0124, .0155, .0234),
            (.0015, None, None, None, None,
             .0011, .0006, .0003, .0004,
             .0008, .0002, .0011, .0007))
        + _table_1("ssim",
            (.4427, .6504, .5430, .5357, .5093,
             .5823, .5417, .5274, .4952,
             None, None, None, .4960),
            (.0242, .0276, .0302, .0216, .0060,
             .0189, .0144, .0080, .0046,
             None, None, None, None))
        + _table_1("attack_accuracy",
            (.0217, .1000, .0690, .0570, .0254,
             .1097, .0860, .0795, .0445,
             .2147, .1559, .1207, .0326),
            (.0050, .0142, .0171, .0114, .0032,
             .0085, .0067, .0034, .0034,
             .0224, .0022, .0209, .0130))
        + _table_3((.0026, .0046, .0033))
    ),
    "imagenet100": (
        _table_1("mse",
            (.0438, .0324, .0377, .0364, .0418,
             .0366, .0401, .0377, .0425,
             .0166, .0261, .0309, .0437),
            (.0002, .0008, .0013, .0011, .0003,
             .0002, .0002, .0002, .0002,
             .0009, .0007, .0015, .0005))
        + _table_1("ssim",
            (.3393, .3877, .3471, .3463, .3385,
             None, None, None, None,
             .6541, None, None, None),
            (.0016, .0096, .0060, .0067, .0019,
             None, None, None, None,
             None, None, None, None))
        + _table_1("attack_accuracy",
            (.0373, .1242, .0893, .0711, .0445,
             .0615, .0514, .0469, .0388,
             .2689, .2067, .0876, .0416),
            (.0022, .0161, .0107, .0080, .0039,
             .0025, .0055, .0021, .0026,
             .0247, .0073, .0149, .0031))
        + _table_3((.0011, .0081, .0010))
    ),
}
_TABLES_1_AND_3["celeba-facescrub"] = _TABLES_1_AND_3["celeba"]
_SECTION_6 = {
    "celeba": base.published("Section 6", "ssim", dict(surrogate_sigmoid=0.4928))
}
_SECTION_6["celeba-facescrub"] = _SECTION_6["celeba"]
_TABLE_2 = {
    "celeba-facescrub": (
        _table_2("mse", (.0319, .0169, .0255, None, None, .0088, .0266),
                 (.0011, .0010, .0005, None, None, .0018, .0007))
        + _table_2("ssim", (.4257, .6218, .4424, .5583, .4317, None, None),
                   (.0217, .0248, .0099, .0330, .0174, None, None))
        + _table_2("attack_accuracy", (.0171, .0968, .0008, .1014, .0009, .2086, .0012),
                   (.0046, .0164, .0004, .0137, .0004, .0168, .0005))
    ),
}
# fmt: on
