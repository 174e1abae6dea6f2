"""Pictures of one's own: found in files and folders, decoded whatever their form, faces found and cut out as FER2013's.

FER2013's faces were boxed by OpenCV (arXiv:1307.0414), so its detector is used here too: the Haar cascades that ship
inside opencv-python-headless 4. OpenCV is under Apache 2.0, each cascade's file under Intel's BSD-like licence.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fer_core.data import PICTURE_MAGIC, PICTURE_SUFFIXES, in_colour, upright
from fer_core.schema import DataError, FerError

DETECTOR = (
    "Haar cascades frontalface_alt2 and frontalface_default of OpenCV (Apache 2.0; the cascades: Intel, BSD-like)"
)
# On 800 FER2013 images, framed by their own edge pixels, the median box had 0.97 of the image's side and its centre.
MARGIN = 0.03  # so that much is added to a box, as a share of its side
DETECTION_SIDE = 1280  # pixels; larger pictures are looked at in this size
SMALLEST_FACE = 24  # pixels in that size
SMALLEST_CROP = 8  # pixels; less is no face, whoever says so
MAX_PIXELS = 1 << 27  # decoded, some 400 MB
AGREEMENT = 0.4  # share of their union that two cascades' boxes must have in common
TURNS = (25, -25)  # degrees; the cascade itself finds faces turned by up to 15
NOT_PICTURES = {".pdf", ".eps", ".ps", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".emf", ".wmf"}
HEIC_SUFFIXES = (".heic", ".heif", ".hif")


class Picture(NamedTuple):
    """A file to look at, and how it is called in the answer."""

    name: str
    path: Path


class Box(NamedTuple):
    """A face's place in pixels of the upright picture, from its upper left corner."""

    x: int
    y: int
    width: int
    height: int


# -------------------------------------------------------------------------------------------------------------- finding


def find(paths: Sequence[Path]) -> tuple[list[Picture], int]:
    """The pictures among files and folders (all below), each once, and how many files of folders are none.

    Names are relative to the folder that all have in common, so that equal names in two folders stay apart.

    Raises
    ------
    DataError: a path that is not there, or no picture at all.
    """
    found: dict[Path, None] = {}
    left_out = 0
    for path in paths:
        if not path.exists():
            raise DataError(f"IMAGES: {path} does not exist: check the path (a name with blanks goes in quotes).")
        for file in sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]:
            if path.is_file() or _is_picture(file, path):
                found.setdefault(file.resolve())
            else:
                left_out += 1
    if not found:
        names = ", ".join(path.name or str(path) for path in paths)
        raise DataError(f"IMAGES: no picture in {names} ({left_out:,} other files): give pictures or their folder.")
    roots = [path.resolve() if path.is_dir() else path.resolve().parent for path in paths]
    try:
        base: Path | None = Path(os.path.commonpath(roots))
    except ValueError:  # on two drives of Windows
        base = None
    return [Picture(shown(file.relative_to(base) if base else file), file) for file in found], left_out


def shown(path: Path) -> str:
    """A name that every encoding can write: bytes that are no UTF-8 become �."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


@cache
def _suffixes() -> frozenset[str]:
    from PIL import Image

    known = set(Image.registered_extensions()) - NOT_PICTURES
    return frozenset({*known, *PICTURE_SUFFIXES, *HEIC_SUFFIXES})


def _is_picture(file: Path, root: Path) -> bool:
    """By its suffix, or by its first bytes; what is hidden below the root, and what macOS adds, are none."""
    if any(part.startswith(".") or part == "__MACOSX" for part in file.relative_to(root).parts):
        return False
    if file.suffix.lower() in _suffixes():
        return True
    try:
        with file.open("rb") as opened:
            return opened.read(16).startswith(PICTURE_MAGIC)
    except OSError:
        return False


# ------------------------------------------------------------------------------------------------------------- decoding


def decode(path: Path) -> np.ndarray:
    """The picture upright and in colour: uint8 (h, w, 3), RGB; of several frames the first, on white.

    Raises
    ------
    DataError: no picture, damaged, or too large; says so without the file's name.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # whatever else a file may be faulty in, its pixels are what counts
            with Image.open(file) as picture:
                picture.draft("RGB", (4096, 4096))  # a huge JPEG is decoded at a half, a quarter or an eighth
                pixels = picture.width * picture.height
                if pixels > MAX_PIXELS:
                    raise DataError(
                        f"{pixels / 1e6:.0f} million pixels, expected at most {MAX_PIXELS / 1e6:.0f}: shrink it"
                    )
                return np.asarray(in_colour(upright(picture)))
    except UnidentifiedImageError:
        raise DataError(_unknown(path)) from None
    except Image.DecompressionBombError:
        raise DataError("more pixels than a picture should have: shrink it first") from None
    except DataError:
        raise
    except OSError as fault:
        raise DataError(f"damaged or cut short ({fault.strerror or fault}): copy it again or remove it") from fault
    except Exception as fault:  # Pillow's readers raise whatever a damaged file leads them to
        raise DataError(f"damaged ({type(fault).__name__}: {fault}): copy it again or remove it") from fault


def _unknown(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(32)
    if path.suffix.lower() in HEIC_SUFFIXES or head[4:11] in (b"ftyphei", b"ftyphev", b"ftypmif"):
        return "a HEIC picture, which Pillow does not read: save it as JPEG or PNG"
    if not head:
        return "an empty file: copy it again or remove it"
    return "no picture that Pillow can read: save it as JPEG or PNG, or remove it"


# ---------------------------------------------------------------------------------------------------------------- faces


@cache
def _cascade(name: str) -> Any:
    import cv2
    import cv2.data

    cv2.setNumThreads(1)  # the same boxes on any number of cores
    path = Path(cv2.data.haarcascades) / f"haarcascade_{name}.xml"
    if not path.exists():
        raise FerError(
            f"OpenCV {cv2.__version__} ships no Haar cascades: install opencv-python-headless below 5, "
            "or give faces already cut out with --no-detect (NO_DETECT=1)."
        )
    return cv2.CascadeClassifier(str(path))


def _boxes(grey: np.ndarray, name: str) -> list[Box]:
    smallest = (SMALLEST_FACE, SMALLEST_FACE)
    return [Box(*map(int, box)) for box in _cascade(name).detectMultiScale(grey, 1.1, 4, minSize=smallest)]


def overlap(a: Box, b: Box) -> float:
    """Share of their union that two boxes have in common."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    common = max(0, width) * max(0, height)
    return common / (a.width * a.height + b.width * b.height - common)


def find_faces(image: np.ndarray) -> list[Box]:
    """The faces of uint8 (h, w, 3), from left to right.

    A picture in which none is found is looked at again: with its contrast evened out, then turned either way, where two
    cascades must agree.
    """
    import cv2

    scale = min(1.0, DETECTION_SIDE / max(image.shape[:2]))
    if min(image.shape[:2]) * scale < SMALLEST_FACE:
        return []
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = _boxes(grey, "frontalface_alt2") or _boxes(cv2.equalizeHist(grey), "frontalface_alt2")
    if not found:
        found = [box for degrees in TURNS for box in _turned_boxes(grey, degrees)]
    kept: list[Box] = []
    for box in sorted(found, key=lambda box: -box.width):  # of two that lie over each other the larger
        if all(overlap(box, other) < AGREEMENT for other in kept):
            kept.append(box)
    return sorted(_within(Box(*(round(side / scale) for side in box)), image) for box in kept)


def _turned_boxes(grey: np.ndarray, degrees: int) -> list[Box]:
    """The boxes of faces that are upright once the picture is turned, as upright squares at their place before."""
    import cv2

    height, width = grey.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    cosine, sine = abs(turn[0, 0]), abs(turn[0, 1])
    wide, high = math.ceil(width * cosine + height * sine), math.ceil(height * cosine + width * sine)
    turn[:, 2] += (wide - width) / 2, (high - height) / 2
    turned = cv2.warpAffine(grey, turn, (wide, high), borderMode=cv2.BORDER_REPLICATE)
    found = _boxes(turned, "frontalface_alt2")
    others = _boxes(turned, "frontalface_default") if found else []
    back = cv2.invertAffineTransform(turn)
    boxes = []
    for box in found:
        if any(overlap(box, other) >= AGREEMENT for other in others):
            x, y = back @ (box.x + box.width / 2, box.y + box.height / 2, 1)
            boxes.append(Box(round(x - box.width / 2), round(y - box.height / 2), box.width, box.height))
    return boxes


def _within(box: Box, image: np.ndarray) -> Box:
    height, width = image.shape[:2]
    side = min(box.width, width, height)
    return Box(max(0, min(box.x, width - side)), max(0, min(box.y, height - side)), side, side)


# ---------------------------------------------------------------------------------------------------------------- crops


def crop(image: np.ndarray, box: Box, size: tuple[int, int], channels: int) -> np.ndarray:
    """The face as FER2013's are: a tight square, in the network's size; beyond the picture its edge goes on.

    Returns
    -------
    uint8 (h, w), grey, or (h, w, 3)
    """
    side = (1 + MARGIN) * max(box.width, box.height)
    left, top = box.x + (box.width - side) / 2, box.y + (box.height - side) / 2
    rows = np.arange(math.floor(top), math.ceil(top + side)).clip(0, image.shape[0] - 1)
    columns = np.arange(math.floor(left), math.ceil(left + side)).clip(0, image.shape[1] - 1)
    x, y = left - math.floor(left), top - math.floor(top)
    return _resized(image[np.ix_(rows, columns)], (x, y, x + side, y + side), size, channels)


def whole(image: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    """The whole picture as a face already cut out, in the network's size.

    Raises
    ------
    DataError: it is too small to be one.
    """
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_CROP:
        raise DataError(
            f"{width} × {height} pixels, expected at least {SMALLEST_CROP} × {SMALLEST_CROP}: no face fits in"
        )
    return _resized(image, (0, 0, width, height), size, channels)


def _resized(
    image: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int], channels: int
) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(image).convert("L" if channels == 1 else "RGB")
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR, box))


def resized(images: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    """uint8 (n, h, w) as a network of another size or of colours wants them."""
    if images.shape[1:3] == size and channels == 1:
        return images
    return np.stack([whole(image, size, channels) for image in images])
