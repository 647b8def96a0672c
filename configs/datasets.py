"""The data sets of the papers, as the `data` section of a config: where they lie, their size, and
who may see what.

Sets that TFDS has prepared are not in memory: with `--config.data.source.threads=8` (extra
`stream`) eight threads read and decode the next batches while the device computes.

A `share` below 1 deals a part of the images, for a run that takes minutes.
"""

from configs.base import data_root

HALVES = dict(target_train=0.5, attack_train=0.4, attack_test=0.1)
"""Zhao 2021, Section 4.1; the other papers alike."""
DEFENDED = dict(
    target_train=0.45,
    defence_test=0.05,
    attack_train=0.4,
    attack_test=0.1,
)
"""The same, with a part of the defender's half held back to measure distortion on."""


def section(source: dict, label: str, roles: dict, share: float = 1.0, **transform: object) -> dict:
    """A `data` section without auxiliary images."""
    geometry = dict(crop=None, resize=None, grayscale=False, classes=None) | transform
    fractions = {}
    for role, part in roles.items():
        fractions[role] = share * part if isinstance(part, float) else part
    dealt = dict(roles=fractions, stratify=label, balance=None, group=None)
    return dict(source=source, transform=geometry, roles=dealt, auxiliary={})


def auxiliary(data: dict, role: str = "auxiliary") -> dict:
    """A data section's images as the auxiliary set of another, all in one role."""
    roles = data["roles"]
    share = sum(part for part in roles["roles"].values() if isinstance(part, float))
    return dict(
        source=data["source"],
        transform=data["transform"],
        roles=roles | dict(roles={role: min(1.0, share)}),
    )


def idx(folder: str, roles: dict, share: float = 1.0, **transform: object) -> dict:
    """MNIST or Fashion-MNIST at 32x32: the four idx files in $XINV_DATA/folder."""
    source = dict(
        name="idx",
        root=data_root(folder),
        split="all",
        classes=10,
        title=folder,
    )
    return section(
        source,
        "label",
        roles,
        share,
        **(dict(resize=(32, 32)) | transform),
    )


def cifar10(roles: dict, share: float = 1.0, **transform: object) -> dict:
    """All of CIFAR-10, prepared by TFDS in $XINV_DATA/tfds."""
    source = dict(
        name="tfds",
        dataset="cifar10",
        root=data_root("tfds"),
        split="train+test",
        labels=("label",),
        threads=0,
    )
    return section(source, "label", roles, share, **transform)


def cifar10_subset(roles: dict, share: float = 1.0, **transform: object) -> dict:
    """The first 5,000 images of CIFAR-10, bit-exact:
    $XINV_DATA/cifar10_lossless5k/cifar10_lossless5k.npz.
    """
    path = data_root("cifar10_lossless5k/cifar10_lossless5k.npz")
    images = ("x_train", "x_test")
    labels = {"label": ("y_train", "y_test")}
    source = dict(
        name="arrays",
        path=path,
        image=images,
        labels=labels,
        classes={"label": 10},
        title="CIFAR-10 subset",
    )
    return section(source, "label", roles, share, **transform)


def faces(
    archive: str,
    labels: str,
    stratify: str,
    roles: dict,
    side: int,
    title: str,
    **transform: object,
) -> dict:
    """A folder or archive below $XINV_DATA, grey, its largest centred square at side x side."""
    geometry = dict(crop="centre", resize=(side, side), grayscale=True)
    source = dict(
        name="folder",
        root=data_root(archive),
        labels=labels,
        drop_duplicates=True,
        title=title,
        **geometry,
    )
    return section(source, stratify, roles, **transform)


def yale(side: int) -> dict:
    """Yale faces, 15 people with 6 emotions: emotion and identity, in place of iCV-MEFED."""
    labels = r"(?P<identity>subject\d+)\.(?P<emotion>happy|normal|sad|sleepy|surprised|wink)"
    roles = dict(target_train=0.4, attack_train=0.35, attack_test=0.25)
    return faces(
        "yale_faces/yalefaces.tar.xz",
        labels,
        "identity",
        roles,
        side,
        "Yale",
    )


def orl(side: int, roles: dict = HALVES) -> dict:
    """AT&T/ORL faces: 40 identities with 10 images each."""
    return faces(
        "orl_faces/att_orl_faces.tar.xz",
        r"(?P<identity>s\d+)/",
        "identity",
        roles,
        side,
        "ORL",
    )


def lfw(side: int) -> dict:
    """Labeled Faces in the Wild, 62 identities: out-of-distribution faces for ORL."""
    labels = r"(?P<identity>[^/]+)/[^/]+\.jpg$"
    return faces(
        "lfw_gray/lfw_gray250_min20.tar",
        labels,
        "identity",
        HALVES,
        side,
        "LFW",
    )


def celeba(
    roles: dict,
    side: int,
    labels: tuple[str, ...] = ("attributes/Eyeglasses",),
) -> dict:
    """CelebA, prepared by TFDS in $XINV_DATA/tfds, the face cropped (Yang 2019, Section V-A)."""
    geometry = dict(crop=(70, 35, 108, 108), resize=(side, side), grayscale=False)
    source = dict(
        name="tfds",
        dataset="celeb_a",
        root=data_root("tfds"),
        split="train+validation+test",
        threads=0,
        **geometry,
    )
    return section(source | dict(labels=labels), labels[0], roles)


def imagenet100(roles: dict, side: int) -> dict:
    """The first hundred classes of ImageNet, prepared by TFDS in $XINV_DATA/tfds, the largest
    centred square.
    """
    geometry = dict(crop="centre", resize=(side, side), grayscale=False)
    source = dict(
        name="tfds",
        dataset="imagenet2012",
        root=data_root("tfds"),
        split="train",
        labels=("label",),
        threads=0,
    )
    return section(source | geometry, "label", roles, classes=("label", 100))


def identities(folder: str, roles: dict, side: int, grayscale: bool = True) -> dict:
    """Any folder of images with one subfolder per identity below $XINV_DATA: CelebA, FaceScrub or
    iCV-MEFED crops.
    """
    data = faces(folder, "identity", "identity", roles, side, folder)
    data["source"] |= dict(grayscale=grayscale, level=None, background="white")
    return data
