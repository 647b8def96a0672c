"""Figures of Thielen 2024 for MNIST, shown beside those of configs/thielen.py.

A figure is a mean and a standard deviation.
"""

from configs import base


def _table(source: str, ssim: dict, mse: dict) -> tuple[dict, ...]:
    return base.published(source, "ssim", ssim) + base.published(source, "mse", mse)


TABLE_1 = {
    ("none", 0.0): (0.9838, 0.0027),
    ("none", 0.5): (0.9865, 0.0019),
    ("relu", 0.0): (0.9750, 0.0114),
    ("relu", 0.5): (0.7113, 0.3255),
    ("sigmoid", 0.0): (0.9851, 0.0030),
    ("sigmoid", 0.5): (0.8829, 0.1553),
    ("gelu", 0.0): (0.9826, 0.0061),
    ("gelu", 0.5): (0.8918, 0.0909),
    ("silu", 0.0): (0.9770, 0.0081),
    ("silu", 0.5): (0.8714, 0.1602),
}
"""Weighted F1 of the target by activation and dropout between its dense layers."""

TABLE_2 = base.published("Table 2", "weighted_f1", dict(target=0.9856, shadow=0.9866))
TABLE_3 = _table(
    "Table 3",
    ssim=dict(
        random=(0.0417, 0.0065),
        class_instance=(0.1846, 0.0141),
        class_average=(0.2409, 0.0068),
    ),
    mse=dict(
        random=(0.1136, 0.0047),
        class_instance=(0.0778, 0.0084),
        class_average=(0.0672, 0.0021),
    ),
)
TABLE_4 = _table(
    "Table 4",
    ssim={
        "O": (0.2298, 0.0041),
        "A": (0.1218, 0.0043),
        "X": (0.3727, 0.0030),
        "O+A": (0.1619, 0.0027),
        "O+X": (0.2467, 0.0013),
        "A+X": (0.1822, 0.0051),
        "O+A+X": (0.2194, 0.0016),
    },
    mse={
        "O": (0.0966, 0.0011),
        "A": (0.1077, 0.0014),
        "X": (0.0649, 0.0009),
        "O+A": (0.1055, 0.0016),
        "O+X": (0.0904, 0.0013),
        "A+X": (0.0961, 0.0012),
        "O+A+X": (0.0927, 0.0011),
    },
)
TABLE_5 = _table(
    "Table 5",
    ssim=dict(
        O=(0.2287, 0.0031),
        X=(0.3720, 0.0043),
        O_rounded=(0.2295, 0.0025),
        X_rounded=(0.3716, 0.0060),
    ),
    mse=dict(
        O=(0.0977, 0.0012),
        X=(0.0659, 0.0005),
        O_rounded=(0.0965, 0.0015),
        X_rounded=(0.0658, 0.0013),
    ),
)
TABLE_6 = _table(
    "Table 6",
    ssim=dict(
        O=(0.2538, 0.0025),
        O_top5=(0.3895, 0.0024),
        O_top3=(0.4092, 0.0018),
        O_top1=(0.4135, 0.0013),
        X=(0.3747, 0.0015),
        X_top5=(0.4084, 0.0014),
        X_top3=(0.4172, 0.0027),
        X_top1=(0.4296, 0.0017),
    ),
    mse=dict(
        O=(0.0952, 0.0003),
        O_top5=(0.0604, 0.0008),
        O_top3=(0.0580, 0.0007),
        O_top1=(0.0569, 0.0004),
        X=(0.0649, 0.0006),
        X_top5=(0.0588, 0.0003),
        X_top3=(0.0572, 0.0005),
        X_top1=(0.0548, 0.0005),
    ),
)
TABLE_3_SHADOW = _table(
    "Table 3, shadow validation set",
    ssim=dict(
        random=(0.0536, 0.0081),
        class_instance=(0.2476, 0.0138),
        class_average=(0.3014, 0.0079),
    ),
    mse=dict(
        random=(0.1032, 0.0042),
        class_instance=(0.0687, 0.0078),
        class_average=(0.0601, 0.0037),
    ),
)
PUBLISHED = TABLE_2 + TABLE_3 + TABLE_4 + TABLE_5 + TABLE_6
UNITS = {
    "table-3": TABLE_3,
    "table-3-shadow": TABLE_2 + TABLE_3_SHADOW,
    "table-4": TABLE_4,
    "table-5": TABLE_5,
    "table-6": TABLE_6,
    "figure-8": tuple(row for row in TABLE_3 if row["arm"] == "class_average"),
}
"""Figures by unit of the sweep."""
