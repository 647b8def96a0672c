"""Stores a Dataset for TFDS as array_record, without TensorFlow: large sets then stream."""

import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from xinv.data.dataset import Dataset
from xinv.types import InputError

CHUNK = 256
"""Images read at a time: the memory of a lazy set."""


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes a Dataset in its order as one split "train": images as PNG, and class labels."""

    # Else TFDS seeks checksums there, by a package (importlib_resources) that it does not require
    code_path = None

    def __init__(self, dataset: Dataset, name: str, root: Path):
        # Set before TFDS's own constructor, which reads them
        self.name = name
        self.VERSION = tfds.core.Version("1.0.0")
        self._dataset = dataset
        super().__init__(data_dir=root, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=self._dataset.images.shape[1:], encoding_format="png")
        labels = {}
        for key, names in self._dataset.classes.items():
            labels[key] = tfds.features.ClassLabel(names=names)
        # Without shuffling, so that indices stay those of the Dataset
        return tfds.core.DatasetInfo(
            builder=self,
            description=description(self._dataset),
            features=tfds.features.FeaturesDict({"image": image, **labels}),
            disable_shuffling=True,
        )

    def _split_generators(self, download_manager: Any) -> dict[str, Iterator]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        # By row, as the order is that of the Dataset
        images = self._dataset.images
        labels = self._dataset.labels
        for start in range(0, len(images), CHUNK):
            for row, image in enumerate(images[start : start + CHUNK], start):
                yield (
                    row,
                    {"image": _png(image)}
                    | {key: int(values[row]) for key, values in labels.items()},
                )


def prepare(dataset: Dataset, root: str, name: str = "") -> Path:
    """Stores `dataset` for `data.build("tfds", dataset=name, root=root)`.

    Images and labels come back equal and in order. The folder appears complete or not at all; a
    folder with the same content is kept.

    Args:
      dataset: images with 1, 3 or 4 channels, in memory or lazy.
      root: TFDS's data folder.
      name: lower-case letters, digits and underscores; made from the data set's name if empty.

    Returns:
      The folder of the data set.

    Raises:
      InputError: TFDS does not allow the name or a class name, the folder has other content, or it
        cannot be written.
    """
    name = name or re.sub(r"\W+", "_", dataset.name.lower())
    _check(dataset, name)
    # TFDS writes beside the folder and renames it, and keeps one that is there.
    try:
        builder = Builder(dataset, name, Path(root))
        folder = Path(builder.data_dir)
        # Equal descriptions mean equal content, by the fingerprint
        if folder.exists() and tfds.builder_from_directory(folder).info.description != description(
            dataset
        ):
            raise InputError(
                f"{folder} holds another data set: give this one another name, or remove that"
                " folder"
            )
        # Nothing is downloaded, but TFDS makes the folder.
        with tempfile.TemporaryDirectory() as downloads:
            builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        raise InputError(f"{name} cannot be stored in {root}: {error}") from error
    return folder


def description(dataset: Dataset) -> str:
    """Describes a Dataset for TFDS, its content by the fingerprint."""
    return f"{dataset.name}, stored by xinv; fingerprint {dataset.fingerprint}"


def _check(dataset: Dataset, name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(
            f"{name!r} is no TFDS name: use lower-case letters, digits and _, beginning with a"
            " letter"
        )
    if dataset.images.shape[-1] not in (1, 3, 4):
        raise InputError(
            f"{dataset.name}: images have {dataset.images.shape[-1]} channels, PNG holds 1, 3 or 4"
        )
    # TFDS keeps class names as lines of a file.
    broken = [
        repr(c)
        for names in dataset.classes.values()
        for c in names
        if c.strip() != c or len(c.splitlines()) > 1
    ]
    if broken:
        raise InputError(
            f"{dataset.name}: class name {broken[0]} has line breaks or outer spaces, TFDS drops"
            " those"
        )
    if "image" in dataset.labels:
        raise InputError(f"{dataset.name}: a label set may not be called 'image'")


def _png(image: np.ndarray) -> bytes:
    # Little compression: images are read far more often than stored.
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        file,
        "png",
        compress_level=1,
    )
    return file.getvalue()
