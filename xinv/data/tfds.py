"""Streams a TFDS data set, prepared as array_record, from disk without TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xinv import stream
from xinv.data.dataset import Dataset, Lazy, create, digest, renumber
from xinv.data.files import decode
from xinv.data.transform import Crop, Geometry, Size, geometry
from xinv.numbers import require_count
from xinv.types import InputError

CHUNK = 1024
"""Examples per read of the labels."""
RECORDS = "array_record"
"""The format for reading without TensorFlow."""


def tfds(
    dataset: str,
    root: str,
    split: str = "train",
    image: str = "image",
    labels: Sequence[str] = (),
    crop: Crop = None,
    resize: Size = None,
    grayscale: bool = False,
    method: str = "bilinear",
    threads: int = 0,
) -> Dataset:
    """Streams images, which are read and decoded when indexed, with labels in memory.

    Args:
      dataset: as TFDS spells it: "mnist", "celeb_a", "my_set/config:1.0.0".
      root: TFDS's data folder, with a folder per data set.
      split: "train", or TFDS's slicing such as "train[:50%]+test".
      image: name of the image feature.
      labels: names of the label features, class labels, integers or booleans; "attributes/Smiling"
        is a nested one. By default all class labels, by alphabet (TFDS keeps no order).
      crop, resize, grayscale, method: as in `data.transform`, done while reading; sets of mixed
        sizes need `resize`.
      threads: that read and decode the next batches meanwhile, by Grain; 0 reads a batch when it is
        needed. The images and their order are the same. At most two batches per thread wait.

    Raises:
      InputError: the data set, split or a feature does not exist or cannot be read as above; or
        there are to be threads, and Grain is not installed.
    """
    require_count(0, threads=threads)
    if threads:
        stream.require_installed()
    builder = _builder(dataset, root)
    features = builder.info.features
    # Class labels alone can name their numbers
    labels = list(labels) or sorted(
        key for key, feature in features.items() if hasattr(feature, "int2str")
    )
    columns = {key: _label(dataset, features, key) for key in labels}
    if not columns:
        raise InputError(
            f"{dataset} has no class labels: choose labels among {', '.join(features)}"
        )

    # The shape of an image after its changes, without reading one
    change = geometry(crop, resize, grayscale, method)
    stored, shape = _shapes(dataset, _feature(dataset, features, image), change)
    source = _source(builder, split, features)
    what = f"{dataset} {split} in {root}"
    read = _Reader(what, source, image, stored[-1], shape, change)
    values = _values(what, source, labels, threads)
    names = {}
    for key, feature in columns.items():
        values[key], names[key] = _named(feature, values[key])
    # Labels are hashed, images are not read: what determines them stands for them.
    identity = [
        builder.info.full_name,
        builder.info.description,
        builder.info.dataset_size,
        split,
        image,
        change,
    ]
    fingerprint = digest([identity, sorted(names.items())], *values.values())
    images = Lazy((len(source), *shape), read, threads)
    return create(dataset, images, values, names, fingerprint)


def _builder(name: str, root: str) -> Any:
    import tensorflow_datasets  # slow to import, and only this source needs it

    try:
        builder = tensorflow_datasets.core.read_only_builder.builder_from_files(name, data_dir=root)
    except (tensorflow_datasets.core.DatasetNotFoundError, TypeError, ValueError, OSError) as error:
        raise InputError(f"no prepared TFDS data set {name!r} in {root}: {_line(error)}") from error
    # Only this format is read without TensorFlow.
    stored = {form.value for form in builder.info.available_file_formats()}
    if RECORDS not in stored:
        raise InputError(
            f"{name} in {root} is prepared as {', '.join(sorted(stored))}, not as {RECORDS}:"
            f" prepare it again in another folder with `tfds build {name} --file_format={RECORDS}"
            " --data_dir=FOLDER`, where TensorFlow is installed, and give that folder as root"
        )
    return builder


def _source(builder: Any, split: str, features: Mapping[str, Any]) -> Any:
    """The examples as a sequence, with encoded images left as they are."""
    import tensorflow_datasets

    # TFDS would decode images by libraries of its own; `decode` is the same for every source.
    skip = tensorflow_datasets.decode.SkipDecoding()
    encoded = {}
    for key, feature in features.items():
        if hasattr(feature, "encoding_format"):
            encoded[key] = skip
    try:
        return builder.as_data_source(split, decoders=encoded, file_format=RECORDS)
    except (ValueError, KeyError, OSError) as error:
        splits = ", ".join(builder.info.splits)
        raise InputError(
            f"{builder.name}: split {split!r} cannot be read, choose from {splits}: {_line(error)}"
        ) from error


class _Reader(NamedTuple):
    """Reads uint8 images [M,H,W,C] of a data source at indices [M]."""

    what: str
    source: Any
    image: str
    channels: int
    shape: tuple[int, ...]
    change: Geometry

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        # Into one array, so that a batch is in memory once
        images = np.empty((len(rows), *self.shape), np.uint8)
        for place, example in enumerate(_examples(self.what, self.source, rows)):
            value = _field(self.what, example, self.image)
            if isinstance(value, bytes):
                value = decode(value, f"{self.what}: image {rows[place]}", self.channels)
            value = self.change(value)
            if value.shape != self.shape:
                what = f"{self.what}: image {rows[place]}"
                raise InputError(f"{what} has the shape {value.shape}, not {self.shape}")
            images[place] = value
        return images


def _shapes(
    name: str,
    image: Any,
    change: Geometry,
) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
    """The shapes of an image feature, None where sizes vary, and of an image after `change`."""
    shape = image.shape
    if image.np_dtype != np.uint8 or len(shape) != 3 or shape[-1] not in (1, 3, 4):
        raise InputError(
            f"{name}: images are {image.np_dtype} {shape}, not uint8 (height, width, 1, 3 or 4)"
        )
    # A fixed size is changed by the same code as an image.
    if None not in shape:
        return shape, change(np.zeros(shape, np.uint8)).shape
    if change.resize is None:
        raise InputError(f"{name}: images have different sizes, declare resize=(height, width)")
    return shape, (*change.resize, 1 if change.grayscale and shape[-1] == 3 else shape[-1])


def _values(what: str, source: Any, labels: Sequence[str], threads: int) -> dict[str, np.ndarray]:
    """Integer [N] per label name, in one pass over the examples."""

    def read(rows: np.ndarray) -> np.ndarray:
        examples = _examples(what, source, rows)
        columns = []
        for key in labels:
            columns.append([int(_field(what, example, key)) for example in examples])
        return np.array(columns, np.int64)

    # In chunks, so that threads read ahead and memory is bounded
    chunks = np.split(np.arange(len(source)), range(CHUNK, len(source), CHUNK))
    columns = np.concatenate([*stream.read_ahead(read, chunks, threads)], axis=1)
    return dict(zip(labels, columns, strict=True))


def _examples(what: str, source: Any, rows: np.ndarray) -> list[Any]:
    try:
        return source.__getitems__(rows.tolist())
    except RuntimeError as error:
        raise InputError(f"{what}: the array_record files are damaged: {_line(error)}") from error


def _field(what: str, example: Any, path: str) -> Any:
    value = _item(example, path)
    if value is None:
        raise InputError(f"{what}: an example lacks {path!r}, the array_record files are damaged")
    return value


def _item(tree: Any, path: str) -> Any:
    for key in path.split("/"):
        tree = tree[key]
    return tree


def _feature(name: str, features: Any, path: str) -> Any:
    try:
        return _item(features, path)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{name} has no feature {path!r}: choose among {', '.join(features)}"
        ) from error


def _label(name: str, features: Any, path: str) -> Any:
    feature = _feature(name, features, path)
    if feature.shape != () or np.dtype(feature.np_dtype).kind not in "iub":
        raise InputError(
            f"{name}: feature {path!r} is {feature}, not one class, integer or boolean per image"
        )
    return feature


def _named(feature: Any, values: np.ndarray) -> tuple[np.ndarray, Sequence[str]]:
    """Labels from 0 and their class names, of the values of a feature."""
    if hasattr(feature, "int2str"):
        return values, feature.names
    two = np.dtype(feature.np_dtype).kind == "b"  # also where a split has only one of them
    return renumber(values, 2 if two else None)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
