"""Image files, in a folder or in an archive that is never unpacked: which there are, and what they show."""

import io
import lzma
import os
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from xinv.types import InputError

MAX_FILE_BYTES = 256 * 2**20
"""The largest image file that is read."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
GREY_MODES = {"1", "L", "LA"}
DEEP_MODES = {"I", "F"}


def read_files(root: str | Path, select: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The relative path, with slashes, and the content of each selected file of a folder or tar archive.

    Hidden files and folders are left out. An archive is read front to back in memory; nothing is written to disk.

    Raises:
      InputError: nothing is at `root`, it cannot be read, an archive is truncated or has a member that leaves it (an
        absolute path, "..", a link or device), or a selected file exceeds MAX_FILE_BYTES.
    """
    root = Path(root)
    if not root.exists():
        raise InputError(f"no image folder or tar archive at {root}")
    try:
        yield from _folder(root, select) if root.is_dir() else _archive(root, select)
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{root} is truncated or not a tar archive (.tar, .gz, .bz2, .xz): {error}") from error
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error}") from error


def _folder(root: Path, select: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    for folder, subfolders, files in os.walk(root):
        subfolders.sort()
        for path in (Path(folder, file) for file in sorted(files)):
            relative = path.relative_to(root).as_posix()
            if _visible(relative) and select(relative):
                _check_size(root, relative, path.stat().st_size)
                yield relative, path.read_bytes()


def _archive(root: Path, select: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(root, "r|*") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f"{root}: the path {member.name!r} leaves the archive")
            if not (member.isreg() or member.isdir()):
                raise InputError(f"{root}: {member.name!r} is a link or device, only files and folders are allowed")
            if member.isreg() and _visible(str(path)) and select(str(path)):
                _check_size(root, member.name, member.size)
                yield str(path), archive.extractfile(member).read()


def _visible(path: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


def _check_size(root: Path, path: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise InputError(f"{root}: {path} has {size} bytes, more than the {MAX_FILE_BYTES} allowed for an image file")


def decode(content: bytes, what: str, channels: int | None = None) -> np.ndarray:
    """The image in `content`, of any Pillow format, as uint8 [H,W,channels]; an animation gives its first frame.

    Without `channels` (1, 3 or 4) a grey image, or one whose palette is grey, has one and any other has three.

    Raises:
      InputError: `what` cannot be decoded, holds more than 8 bits per channel (which would lose detail silently), or
        has more pixels than Pillow's limit (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=_formats())
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{what} has more than the {Image.MAX_IMAGE_PIXELS} pixels allowed") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{what} is not a readable image: Pillow knows no such format") from error
    except Exception as error:  # Pillow's decoders raise a dozen types on corrupt data
        raise InputError(f"{what} is not a readable image: {error}") from error
    if image.mode in DEEP_MODES or image.mode.startswith("I;"):
        raise InputError(f"{what} has pixels of mode {image.mode}, only 8 bits per channel are allowed")
    mode = MODES[channels] if channels else "L" if image.mode in GREY_MODES else "RGB"
    pixels = np.asarray(image.convert(mode))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    grey_palette = channels is None and image.mode == "P" and (pixels == pixels[..., :1]).all()
    return pixels[..., :1] if grey_palette else pixels


def _formats() -> list[str]:
    """What Pillow opens, but for PostScript, which would start another program on the content."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]
