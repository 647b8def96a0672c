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
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

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
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        # Links are followed, each folder once: a link to a folder above would lead round for ever.
        if os.path.realpath(folder) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
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


def decode(content: bytes, what: str, channels: int | None = None, background: int = 255) -> np.ndarray:
    """The image in `content`, of any Pillow format, as uint8 [H,W,channels]; an animation gives its first frame.

    It is turned as its EXIF orientation says. Without `channels` (1, 3 or 4) a grey image, or one whose palette is
    grey, has one and any other has three.

    Args:
      content: of the file.
      what: what to call it in an error.
      channels: how many there shall be; 4 keeps transparency.
      background: the intensity, 0 to 255, that transparent pixels are composed on.

    Raises:
      InputError: `what` cannot be decoded, holds more than 8 bits per channel (which would lose detail silently), has
        more pixels than Pillow's limit (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million), or is drawn in the background's
        own colour, so that nothing of it would be left.
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
    if _bits(content, image) > 8:
        raise InputError(f"{what} has {_bits(content, image)} bits per channel, only 8 are allowed")
    image = _composed(ImageOps.exif_transpose(image), what, background) if channels != 4 else image
    mode = MODES[channels] if channels else "L" if image.mode in GREY_MODES else "RGB"
    pixels = np.asarray(image.convert(mode))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    grey_palette = channels is None and image.mode == "P" and (pixels == pixels[..., :1]).all()
    return pixels[..., :1] if grey_palette else pixels


def _bits(content: bytes, image: Image.Image) -> int:
    """Bits per channel as the file states them: Pillow cuts colours of 16 bits without a word."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content[24]
    sizes = getattr(image, "tag_v2", {}).get(TiffImagePlugin.BITSPERSAMPLE, 8)
    return max(sizes) if isinstance(sizes, tuple) else int(sizes)


def _composed(image: Image.Image, what: str, background: int) -> Image.Image:
    """An image without transparency, on a background."""
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return image
    pixels = np.asarray(image.convert("RGBA"), np.float32)
    alpha = pixels[..., 3:] / 255
    result = np.rint(pixels[..., :3] * alpha + background * (1 - alpha)).astype(np.uint8)
    if np.ptp(alpha) > 0 and (result == result[0, 0]).all():
        raise InputError(f"{what} is drawn in {background} on nothing: give another background, 0 to 255")
    grey = image.mode in ("LA", "La", "L") or ((result == result[..., :1]).all() and image.mode in ("P", "PA"))
    return Image.fromarray(result[..., 0] if grey else result)


CLOSED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
"""Formats that Pillow names and cannot decode by itself; PostScript would start another program on the content."""


def extensions() -> frozenset[str]:
    """The extensions, in small letters with their point, of files that `decode` reads."""
    known = Image.registered_extensions().items()
    return frozenset(extension for extension, name in known if name in Image.OPEN and name not in CLOSED)


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in CLOSED]
