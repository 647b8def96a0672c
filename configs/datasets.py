"""The data sets of the papers, as the `data` section of a config: place, geometry, roles.

`roles` gives each party its fraction of the images. A `share` below 1 is a part of the images, for
a run of some minutes.

Folders of images are in memory up to 4 GiB of pixels. Larger ones are decoded once, into a file in
`--config.data.source.cache` ($XDG_CACHE_HOME/xinv/images if empty): 24 GiB for ImageNet-100 at
256x256, 10 GiB for all of CelebA at 128x128 in colour.

Sets that TFDS has prepared are not in memory: with `--config.data.source.threads=8` (extra
`stream`) eight threads read and decode the next batches while the device computes.
"""

import math
from decimal import Decimal

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
    """Returns a `data` section without auxiliary images.

    Args:
      source: a factory of `xinv.data` with its parameters.
      label: its classes are equally frequent in every role.
      roles: the specification of each role, as in `xinv.data.roles.split`.
      share: fraction of the images in use.
      **transform: changes of the geometry: crop, resize, grayscale, classes.
    """
    # Name every key: the command line changes existing ones alone
    geometry = dict(crop=None, resize=None, grayscale=False, classes=None)
    return dict(
        source=source,
        transform=geometry | transform,
        roles=dict(roles=shared(roles, share), stratify=label, balance=None, group=None),
        auxiliary={},
    )


def shared(roles: dict, share: float) -> dict:
    """Returns the roles with fractions times `share`; unions and halves stay."""
    found = {}
    for role, part in roles.items():
        if isinstance(part, float):
            # As decimals: a tenth of 0.1 is 0.01 and not 0.010000000000000002
            part = float(Decimal(str(part)) * Decimal(str(share)))
        found[role] = part
    return found


def auxiliary(data: dict, role: str = "auxiliary") -> dict:
    """Returns the images of a data section as auxiliary set of another, all in one role."""
    roles = data["roles"]
    # Unions and halves add no images, so fractions alone count
    fractions = [part for part in roles["roles"].values() if isinstance(part, float)]
    used = min(1.0, math.fsum(fractions))
    return dict(
        source=data["source"],
        transform=data["transform"],
        roles=roles | dict(roles={role: used}),
    )


def digits(roles: dict | str) -> dict:
    """Returns scikit-learn's 1,797 digits at 32x32; they are part of the package."""
    return dict(
        source=dict(name="digits"),
        transform=dict(crop=None, resize=(32, 32), grayscale=False),
        roles=dict(roles=roles, stratify="digit", balance=None),
        auxiliary={},
    )


def idx(folder: str, roles: dict, share: float = 1.0, **transform: object) -> dict:
    """Returns MNIST or Fashion-MNIST at 32x32: the four idx files in $XINV_DATA/folder."""
    # Join the set's own two parts, as roles split anew
    source = dict(
        name="idx",
        root=data_root(folder),
        split="all",
        classes=10,
        title=folder,
    )
    geometry = dict(resize=(32, 32)) | transform
    return section(source, "label", roles, share, **geometry)


def cifar10(roles: dict, share: float = 1.0, **transform: object) -> dict:
    """Returns all of CIFAR-10, prepared by TFDS in $XINV_DATA/tfds."""
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
    """Returns the first 5,000 images of CIFAR-10, bit-exact.

    They are in $XINV_DATA/cifar10_lossless5k/cifar10_lossless5k.npz.
    """
    source = dict(
        name="arrays",
        path=data_root("cifar10_lossless5k/cifar10_lossless5k.npz"),
        image=("x_train", "x_test"),
        labels={"label": ("y_train", "y_test")},
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
    """Returns grey faces: the largest centred square of each image at `side` x `side` pixels.

    Args:
      archive: a folder or archive of images below $XINV_DATA.
      labels: a regular expression of paths with labels as named groups; or the label of folders.
      stratify: its classes are equally frequent in every role.
      roles: fraction of the images per role.
      side: height and width in pixels.
      title: name in reports.
      **transform: changes of the geometry, and attributes.
    """
    # Change sizes while reading, since files may differ in size
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
    """Returns Yale faces, 15 people with six emotions, in place of iCV-MEFED."""
    labels = r"(?P<identity>subject\d+)\.(?P<emotion>happy|normal|sad|sleepy|surprised|wink)"
    # At most six images a person: a tenth for the test would be none for some
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
    """Returns AT&T/ORL faces, 40 people with ten images each."""
    return faces(
        "orl_faces/att_orl_faces.tar.xz",
        r"(?P<identity>s\d+)/",
        "identity",
        roles,
        side,
        "ORL",
    )


def lfw(side: int) -> dict:
    """Returns Labeled Faces in the Wild, 62 people: out of distribution for ORL."""
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
    """Returns CelebA, prepared by TFDS in $XINV_DATA/tfds, the face cropped.

    The crop is that of Yang 2019, Section V-A.
    """
    # Crop and resize while reading: the set is not in memory
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
    """Returns the first hundred classes of ImageNet, the largest centred square of each image.

    ImageNet is prepared by TFDS in $XINV_DATA/tfds.
    """
    # Images of mixed sizes: bring them to one while reading
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
    """Returns a folder of images below $XINV_DATA with one subfolder per person or class.

    For example crops of CelebA, FaceScrub or iCV-MEFED.
    """
    # Files may be coloured or grey, transparent, and too large for memory
    data = faces(folder, "identity", "identity", roles, side, folder)
    data["source"] |= dict(grayscale=grayscale, level=None, background="white", cache="")
    return data
