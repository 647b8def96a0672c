"""Finds and decodes image files, in a folder or in an archive that is never unpacked."""

import functools
import io
import lzma
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from xinv.numbers import is_one_of
from xinv.types import InputError

MAX_FILE_BYTES = 256 * 2**20
"""Size of the largest image file, in bytes."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
GREY_MODES = {"1", "L", "LA"}
DEEP_MODES = {"I", "F"}
BACKGROUNDS = {"white": 255, "grey": 128, "black": 0}
"""Grey levels of the backgrounds of transparent images."""
FAINT = 8
"""Levels (3 %) by which a pixel must differ from its background for an image to show anything."""
UNREAD = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow cannot decode, and PostScript: it would start another program."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that puts an image of each EXIF orientation upright."""


def read_files(
    root: str | Path,
    select: Callable[[str], bool],
    left_out: list[str] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yields relative path, with slashes, and content of selected files of a folder or tar archive.

    Hidden files and folders are left out. Links to folders are followed; a folder behind several
    links is read once, under its own path if it lies below `root`. An archive is read front to back
    in memory; nothing is written to disk.

    Args:
      root: the folder or archive.
      select: True for the relative path of a file to read.
      left_out: receives the relative paths of the other files, and, with a slash at the end, of
        links to folders that are read already.

    Raises:
      InputError: nothing is at `root`, it cannot be read, a link leads nowhere, an archive is
        truncated or has a member that leaves it (an absolute path, "..", a link or device), or a
        selected file exceeds MAX_FILE_BYTES.
    """
    # Errors of the archive's library and of the disk become one sentence.
    root, left_out = Path(root), [] if left_out is None else left_out
    if not root.exists():
        raise InputError(f"no image folder or tar archive at {root}")
    try:
        yield from (_folder if root.is_dir() else _archive)(root, select, left_out)
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        if zipfile.is_zipfile(root):
            raise InputError(
                f"{root} is a zip archive: unpack it, or pack it as a tar archive"
            ) from error
        raise InputError(
            f"{root} is truncated or not a tar archive (.tar, .gz, .bz2, .xz): {error}"
        ) from error
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error}") from error


def _folder(
    root: Path,
    select: Callable[[str], bool],
    left_out: list[str],
) -> Iterator[tuple[str, bytes]]:
    seen: set[Path] = set()
    folders = [root]
    links = []
    while folders or links:
        # Links wait until no folder is left, so that a folder keeps its own path.
        folder = folders.pop(0) if folders else links.pop(0)
        # Read a folder once: a link to a parent would never end
        if folder.resolve() in seen:
            left_out.append(f"{folder.relative_to(root).as_posix()}/")
            continue
        seen.add(folder.resolve())
        for path in sorted(folder.iterdir()):
            relative = path.relative_to(root).as_posix()
            if not _visible(relative):
                continue
            if path.is_dir():
                (links if path.is_symlink() else folders).append(path)
            elif path.is_symlink() and not path.exists():
                raise InputError(f"{root}: the link {relative} leads nowhere")
            elif path.is_file() and select(relative):
                _check_size(root, relative, path.stat().st_size)
                yield relative, path.read_bytes()
            else:
                left_out.append(relative)


def _archive(
    root: Path,
    select: Callable[[str], bool],
    left_out: list[str],
) -> Iterator[tuple[str, bytes]]:
    # As a stream, so that a compressed archive is decompressed once.
    with tarfile.open(root, "r|*") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f"{root}: the path {member.name!r} leaves the archive")
            # Links and devices could read files outside of the archive.
            if not (member.isreg() or member.isdir()):
                raise InputError(
                    f"{root}: {member.name!r} is a link or device, only files and folders are"
                    " allowed"
                )
            if member.isdir() or not _visible(str(path)):
                continue
            if select(str(path)):
                _check_size(root, member.name, member.size)
                # A stream only goes forward: read a member before the next one
                yield str(path), archive.extractfile(member).read()
            else:
                left_out.append(str(path))


def _visible(path: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


def _check_size(root: Path, path: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"{root}: {path} has {size} bytes, more than the {MAX_FILE_BYTES} allowed for an image"
            " file"
        )


def is_image(path: str) -> bool:
    """True if the extension of `path` belongs to a format that `decode` reads."""
    return PurePosixPath(path).suffix.lower() in _extensions()


@functools.cache
def _extensions() -> frozenset[str]:
    formats = {*_formats(), "MPO"}  # which Pillow opens as a kind of JPEG
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats)


def decode(
    content: bytes,
    what: str,
    channels: int | None = None,
    background: str = "white",
) -> np.ndarray:
    """Decodes an image of any Pillow format, upright by its EXIF orientation.

    Args:
      content: the file; an animation gives its first frame.
      what: name of the image in an error.
      channels: 1, 3 or 4, of which 4 keep the transparency; None for 1 of a grey image or palette
        and 3 of any other.
      background: "white", "grey" or "black", shown by transparent pixels.

    Returns:
      uint8 [H,W,channels].

    Raises:
      InputError: `content` cannot be decoded, has more than 8 bits per channel, is transparent and
        shows nothing on `background`, or has more pixels than Pillow's limit
        (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million); or there is no such background.
    """
    level = check_background(background)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, which decide no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=_formats())
            # Read the bits before the pixels: loading clears the header's tiles
            bits = _bits(image, content)
            image.load()
            image = _upright(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{what} has more than the {Image.MAX_IMAGE_PIXELS} pixels allowed"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{what} is not a readable image: Pillow knows no such format") from error
    except Exception as error:  # Pillow's decoders raise a dozen types on corrupt data
        raise InputError(f"{what} is not a readable image: {error}") from error
    # More than 8 bits would lose detail without a sign of it.
    if image.mode in DEEP_MODES or image.mode.startswith("I;"):
        raise InputError(
            f"{what} has pixels of mode {image.mode}, only 8 bits per channel are allowed"
        )
    if bits > 8:
        raise InputError(f"{what} has {bits} bits per channel, only 8 are allowed")
    return _pixels(image, what, channels, level)


def check_background(background: str) -> int:
    """The grey level of a background.

    Raises:
      InputError: there is no such background.
    """
    if not is_one_of(background, BACKGROUNDS):
        raise InputError(
            f"unknown background {background!r}: choose one of {', '.join(BACKGROUNDS)}"
        )
    return BACKGROUNDS[background]


def _bits(image: Image.Image, content: bytes) -> int:
    """Bits per channel by the file's header, as Pillow reads colour of 16 bits as 8."""
    if image.format == "PNG":
        if ";16" in str(image.tile[0].args):
            return 16
        return 8
    if image.format == "TIFF":
        return int(np.max(image.tag_v2.get(258, 1)))
    if image.format == "PPM":
        return _bits_of_ppm(image.tile[0].args)
    if image.format == "SGI":
        return 8 * content[3]
    if image.format == "JPEG2000":
        return _bits_of_jpeg2000(content)
    if image.format == "AVIF":
        # Bit 6 of the third byte in the AV1 configuration box says that there are 10 or 12.
        if content[content.index(b"av1C") + 6] & 0x40:
            return 10
        return 8
    return 8


def _bits_of_ppm(args: str | tuple[str | int, ...]) -> int:
    """Bits of the largest value; Pillow gives it to its decoder where it is not 255."""
    if isinstance(args, tuple) and args[0] in ("L", "RGB"):
        return args[1].bit_length()
    return 8


def _bits_of_jpeg2000(content: bytes) -> int:
    """The largest precision in the SIZ segment."""
    # Three bytes per component, behind the number of components (ISO 15444-1, A.5.1)
    segment = content[content.index(b"\xff\x4f\xff\x51") :]
    components = int.from_bytes(segment[40:42], "big")
    return max(1 + (value & 0x7F) for value in segment[42 : 42 + 3 * components : 3])


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (
        Exception
    ):  # damaged metadata beside a whole image, which every viewer shows as it stands
        return image
    if orientation in TURNS:
        return image.transpose(TURNS[orientation])
    return image


def _pixels(image: Image.Image, what: str, channels: int | None, level: int) -> np.ndarray:
    """uint8 [H,W,channels] of an image of 8 bits per channel."""
    # Transparency first, as a conversion to grey or RGB drops it
    palette = image.mode in ("P", "PA")
    if channels != 4 and image.has_transparency_data:
        image = _composed(image, what, level)
    mode = "L" if image.mode in GREY_MODES else "RGB"
    try:
        pixels = np.asarray(image.convert(MODES[channels] if channels else mode))
    except ValueError as error:
        raise InputError(
            f"{what} has pixels of mode {image.mode}, neither grey nor RGB: {error}"
        ) from error
    # Grey pixels come without an axis of channels
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    # A palette of greys alone counts as a grey image
    grey = channels is None and palette and (pixels == pixels[..., :1]).all()
    if grey:
        return pixels[..., :1]
    return pixels


def _composed(image: Image.Image, what: str, level: int) -> Image.Image:
    """`image` in grey or RGB, over a background of the grey `level`."""
    grey = image.mode in ("1", "L", "LA", "La")
    pixels = np.asarray(image.convert("LA" if grey else "RGBA")).astype(int)
    colour = pixels[..., :-1]
    alpha = pixels[..., -1:]
    # Rounded to the nearest level
    result = (colour * alpha + level * (255 - alpha) + 127) // 255
    # A drawing in the background's colour would vanish without an error
    if alpha.min() < 255 and np.abs(result - level).max() < FAINT:
        others = ", ".join(name for name, other in BACKGROUNDS.items() if other != level)
        raise InputError(
            f"{what} is transparent and shows nothing on its background of grey level {level}:"
            f" choose background among {others}, or leave an empty image out"
        )
    return Image.fromarray(result.astype(np.uint8).squeeze(-1) if grey else result.astype(np.uint8))


def _formats() -> list[str]:
    """The formats that Pillow opens and decodes by itself."""
    Image.init()
    return [name for name in Image.ID if name not in UNREAD]
