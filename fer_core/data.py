"""FER2013 in any form people have it, or own pictures: read, checked, put in one order, cached, split, audited.

The same images give the same data hash, ids and splits whatever form, file order or archive they came in.
`python benchmarks/data_reading.py` times it against torchvision's reader.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import itertools
import json
import lzma
import math
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Self, cast

import numpy as np

from fer_core import sample
from fer_core.artifacts import atomic_file, code_fingerprint, read_json, write_json
from fer_core.schema import EMOTIONS, USAGES, DataError, ParameterError, Params, check_value

SPOKEN = {  # other names of FER2013's folders
    "anger": "angry", "disgusted": "disgust", "fearful": "fear", "happiness": "happy", "sadness": "sad",
    "surprised": "surprise",
}  # fmt: skip
UNLABELLED = 255  # the label of an image of the competition's test.csv
TRAINING, PUBLIC, PRIVATE = range(3)  # positions in USAGES
LOW_CONTRAST_STD = 2.0  # grey levels; FER2013's 13 lie below 0.7, the next at 4.1
NEAR_THRESHOLDS = (0.90, 0.95, 0.98, 0.99)
# What Pillow raises of a damaged file.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, SyntaxError, struct.error)
READER = 3  # goes up when this file reads the same bytes differently: what older ones remembered is read again

MAX_MEMBERS = 1_000_000  # bounds on what an archive may unpack to; FER2013 as folders is 35,887 files,
MAX_MEMBER_BYTES = 1 << 30  # as a table 301 MB, the competition's archive 0.7 GB
MAX_TOTAL_BYTES = 4 << 30
MAX_PICTURE_PIXELS = 1 << 26
MIN_SIDE = 8

ROWS_AT_A_TIME = 16  # parsed in one go: some 130 kB, which stay in the processor's cache
HEAD_BYTES = 1 << 16  # how much of a file tells what it is; a row of fer2013.csv is at most 9.2 kB
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
PICTURE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"P5\n", b"P6\n", b"P2\n")
COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip, b"\xfd7zXZ\0": lzma, b"BZh": bz2}
PIXELS_COLUMN = re.compile(rb'(^|[,;\t])[ "]*pixels[ "]*([,;\t\r]|$)', re.IGNORECASE)
USAGE_PREFIX = re.compile(r"(training|publictest|privatetest)[_-]", re.IGNORECASE)
USAGE_OF = {
    **dict.fromkeys(("train", "training"), TRAINING),
    **dict.fromkeys(("validation", "valid", "val", "dev", "public", "publictest"), PUBLIC),
    **dict.fromkeys(("test", "testing", "private", "privatetest"), PRIVATE),
}
EXPECTED = (
    "expected fer2013.csv, icml_face_data.csv, train.csv with test.csv, or pictures in train/<class>/ and test/<class>/"
)
DAMAGED = "the file is damaged or cut short: download or copy it again"


@dataclass(frozen=True, eq=False)
class Faces:
    """All images of one dataset in canonical order: usage, label, pixel hash.

    Attributes
    ----------
    images : uint8 (n, h, w), grey 0–255, or (n, h, w, 3), RGB; memory-mapped, read-only
    labels : uint8 (n,), index into `classes`, or UNLABELLED (only in PrivateTest)
    usage : uint8 (n,), index into USAGES
    ids : str (n,), 12 hex digits of the pixels' SHA-256, with "-2", "-3" on further exact copies
    copies : int32 (n,), the same number for the same pixels
    classes : the class names; FER2013's emotions in its own label order, others sorted
    name : "sample" or "fer2013", the default names of drawn and of the user's data
    data_hash : 32 hex digits over pixels, labels, usage and classes
    source : the form it was read from, for provenance; no path
    """

    images: np.ndarray
    labels: np.ndarray
    usage: np.ndarray
    ids: np.ndarray
    copies: np.ndarray
    classes: tuple[str, ...]
    name: str
    data_hash: str
    source: str

    @property
    def n(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.images.shape[1], self.images.shape[2]

    @property
    def channels(self) -> int:
        return 3 if self.images.ndim == 4 else 1

    @property
    def has_test_labels(self) -> bool:
        return bool((self.labels[self.usage == PRIVATE] != UNLABELLED).any())


@dataclass(frozen=True, eq=False)
class Split:
    """Which images train, validate and test.

    Attributes
    ----------
    train, validation, test : int64, sorted indices into the canonical order
    leak_free : bool (len(test),), True where a test image has no exact copy in Training or PublicTest
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    leak_free: np.ndarray


class Raw(NamedTuple):
    """What a reader found, in the order in which it lay there; fields as in `Faces`."""

    images: np.ndarray
    labels: np.ndarray
    usage: np.ndarray
    classes: tuple[str, ...]
    source: str


class Entry(NamedTuple):
    """A file in a folder or archive: `path` within it, `file` where it lies on disk, `read(n)` its first n bytes."""

    path: str
    size: int
    read: Callable[[int], bytes]
    file: Path | None = None


# ------------------------------------------------------------------------------------------------- opening and caching


def open_faces(path: Path | None, store: Path) -> Faces:
    """The images at `path`, or the drawn sample where it is None; parsed once, then opened from the cache in `store`.

    Raises
    ------
    DataError: what lies there is missing, damaged, unsafe or of no known form, or the cache cannot be written.
    """
    file, memo, fingerprint = _identify(path, store)
    name = "sample" if path is None else "fer2013"
    known = _recall(memo, fingerprint)
    if known and (faces := _load(store, known["hash"], name, known["source"])):
        return faces
    raw, digests = _canonical(_read(file), file.name)
    key = _hash(raw, digests)
    try:
        if not _load(store, key, name, raw.source):
            _save(store, key, raw, digests)
        write_json(memo, {"fingerprint": fingerprint, "hash": key, "source": raw.source})
    except OSError as error:
        raise DataError(
            f"The data cache in OUT cannot be written ({error.strerror}): free space there or set OUT."
        ) from error
    if not (faces := _load(store, key, name, raw.source)):
        raise DataError("The data cache just written in OUT reads back differently: check the disk or set OUT.")
    return faces


def data_hash(path: Path | None, store: Path) -> str:
    """The hash of the data at `path`, from the memo where path, size and time are those remembered."""
    _, memo, fingerprint = _identify(path, store)
    known = _recall(memo, fingerprint)
    return known["hash"] if known else open_faces(path, store).data_hash


def _identify(path: Path | None, store: Path) -> tuple[Path, Path, list[int]]:
    """The file or folder to read, where its memo lies, and what tells cheaply whether it has changed."""
    if path is None:
        path = store / "data" / f"sample-{code_fingerprint('sample.py')}" / "fer2013.csv"
        if not path.exists():
            try:
                sample.write(path)
            except OSError as error:
                raise DataError(f"OUT cannot hold the drawn sample: {path}: {error.strerror}; say OUT=.") from error
    path = Path(path).expanduser().resolve()
    memo = store / "data" / "memo" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"
    try:
        stats = [path.stat(), *(found for _, _, found in _walk(path))] if path.is_dir() else [path.stat()]
    except OSError as error:
        raise DataError(f"DATA {path}: {error.strerror}; {EXPECTED}: check the path.") from error
    # Changing times count too: a picture moved to another class's folder keeps number, sizes and its own time.
    times = [(s.st_mtime_ns, s.st_ctime_ns) for s in stats]
    sizes = [s.st_size for s in stats if stat.S_ISREG(s.st_mode)]
    return path, memo, [READER, len(stats), sum(sizes), max(map(max, times)), sum(map(sum, times))]


def _walk(folder: Path) -> Iterator[tuple[str, str, os.stat_result]]:
    """(path within, path, stat) of each file and folder below; a link to a folder is followed once."""
    waiting, seen = [("", str(folder))], {os.path.realpath(folder)}
    while waiting:
        inside, outside = waiting.pop()
        with os.scandir(outside) as entries:
            for entry in entries:
                if entry.is_dir():
                    real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                    if real in seen:
                        continue
                    seen.add(real)
                    waiting.append((f"{inside}{entry.name}/", entry.path))
                if entry.is_dir() or entry.is_file():
                    yield inside + entry.name, entry.path, entry.stat()


def _recall(memo: Path, fingerprint: list[int]) -> dict[str, str] | None:
    known = read_json(memo)
    return known if isinstance(known, dict) and known.get("fingerprint") == fingerprint else None


def _save(store: Path, key: str, raw: Raw, digests: np.ndarray) -> None:
    """Two files, the small one last: without it the other counts for nothing."""
    with atomic_file(store / "data" / f"{key}.npy") as temporary, temporary.open("wb") as out:
        np.save(out, raw.images)
    with atomic_file(store / "data" / f"{key}.npz") as temporary, temporary.open("wb") as out:
        checksum = np.array(_checksum(raw.images))
        classes = np.array(raw.classes)
        np.savez(out, labels=raw.labels, usage=raw.usage, classes=classes, digests=digests, checksum=checksum)


def _load(store: Path, key: str, name: str, source: str) -> Faces | None:
    """The cached dataset; None where it is missing or not what was written."""
    try:
        # Opened here, since np.load leaves the file open where it is no archive.
        with (store / "data" / f"{key}.npz").open("rb") as file, np.load(file, allow_pickle=False) as rest:
            labels, usage, digests = rest["labels"], rest["usage"], rest["digests"]
            classes, checksum = tuple(rest["classes"].tolist()), int(rest["checksum"])
        images = np.load(store / "data" / f"{key}.npy", mmap_mode="r", allow_pickle=False)
        raw = Raw(images, labels, usage, classes, source)
        if images.dtype != np.uint8 or _checksum(images) != checksum or _hash(raw, digests) != key:
            return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    copies = np.unique(digests, return_inverse=True)[1].astype(np.int32)
    return Faces(images, labels, usage, _ids(digests), copies, classes, name, key, source)


def _checksum(images: np.ndarray) -> int:
    """CRC-32 of all images, of evenly spaced ones where all would take longer than half a second."""
    step = 1 + images.nbytes // (1 << 29)
    return zlib.crc32(np.ascontiguousarray(images[::step]).data)


def _ids(digests: np.ndarray) -> np.ndarray:
    number: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
    prefixes = digests.astype("S12").astype("U12").tolist()
    return np.array([p if (n := next(number[p])) == 1 else f"{p}-{n}" for p in prefixes])


def _hash(raw: Raw, digests: np.ndarray) -> str:
    head = json.dumps([list(raw.classes), list(raw.images.shape[1:])]).encode()
    body = b"".join(part.tobytes() for part in (raw.usage, raw.labels, digests))
    return hashlib.sha256(head + body).hexdigest()[:32]


def _canonical(raw: Raw, name: str) -> tuple[Raw, np.ndarray]:
    """In canonical order, with the pixels' digests (bytes (n,), 32 hex digits); every class has Training images."""
    if min(raw.images.shape[1:3]) < MIN_SIDE:
        height, width = raw.images.shape[1:3]
        raise DataError(f"{name}: images of {width} × {height} pixels, expected at least {MIN_SIDE} × {MIN_SIDE}.")
    digests = np.array([hashlib.sha256(image.data).hexdigest()[:32] for image in raw.images], "S32")
    if not (raw.usage == PRIVATE).any():
        usage, kept = raw.usage.copy(), raw.usage == PUBLIC  # what the owner set aside to validate on stays that
        how, ends = ("10 %", (18, 18)) if kept.any() else ("split 80/10/10", (16, 18))
        usage[~kept] = _own_split(raw.labels[~kept], digests[~kept], ends)
        raw = raw._replace(usage=usage, source=f"{raw.source}; no test images of its own, so {how} by pixel hash")
        if not (raw.usage == PRIVATE).any():
            raise DataError(f"{name}: expected test images, or 5 images of a class to set one aside for it: add some.")
    elif not (raw.usage == PUBLIC).any():
        # The official split wants images to validate on; the other splits draw from both parts anyway.
        usage, pool = raw.usage.copy(), raw.usage == TRAINING
        usage[pool] = _own_split(raw.labels[pool], digests[pool], (18, 20))
        raw = raw._replace(usage=usage, source=f"{raw.source}; no validation images of its own, so 10 % by pixel hash")
    for code, emotion in enumerate(raw.classes):
        if not ((raw.labels == code) & (raw.usage == TRAINING)).any():
            total = np.count_nonzero(raw.labels == code)
            raise DataError(
                f"{name}: class '{emotion}' has no training image ({total:,} in all), expected one or more of each of "
                f"{', '.join(raw.classes)}: the data is incomplete, download it again or add images."
            )
    order = np.lexsort((digests, raw.labels, raw.usage))
    ordered = Raw(raw.images[order], raw.labels[order], raw.usage[order], raw.classes, raw.source)
    return ordered, digests[order]


def _own_split(labels: np.ndarray, digests: np.ndarray, ends: tuple[int, int]) -> np.ndarray:
    """Usage (n,): of each class's images Training and PublicTest, exact copies together, PrivateTest the rest.

    Parameters
    ----------
    ends : where Training and PublicTest end, in twentieths: (16, 18) is 80 %, 10 % and 10 %
    """
    usage = np.zeros(len(labels), np.uint8)
    groups_of: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for group in _groups(digests):
        groups_of[labels[group].min()].append(group)  # where copies disagree, the lowest label decides
    for groups in groups_of.values():
        total, before = sum(map(len, groups)), 0
        for group in groups:
            middle = 10 * (2 * before + len(group))  # compared in twentieths of the class, without rounding
            usage[group] = TRAINING if middle < ends[0] * total else PUBLIC if middle < ends[1] * total else PRIVATE
            before += len(group)
    return usage


def _groups(keys: np.ndarray) -> list[np.ndarray]:
    """The positions of each group of equal keys, groups in the keys' order."""
    order = np.argsort(keys, kind="stable")
    groups = np.split(order, np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1)
    return [group for group in groups if len(group)]


# ---------------------------------------------------------------------------------------------- files and what they are


def _read(path: Path) -> Raw:
    """The one way in: a folder, an archive or a table, told by content."""
    name = path.name
    with ExitStack() as stack:
        if path.is_dir():
            (tables, pictures), note = _sort_out(_folder(path), name, stack), "a folder"
        elif (kind := _kind(head := _head(path, HEAD_BYTES))) == "archive":
            (tables, pictures), note = _sort_out(_archive(path, name, stack), name, stack), "an archive"
        elif kind == "picture":
            raise DataError(f"{name}: a single picture, {EXPECTED}: for its expression use make predict IMAGES=….")
        elif b"\0" in head:
            raise DataError(f"{name}: neither a table, nor a .zip, .tar, .tar.gz or .tar.xz archive; {EXPECTED}.")
        else:
            tables, pictures, note = [Entry(name, path.stat().st_size, partial(_head, path), path)], [], "a file"
        raw = _from_tables(tables) if tables else _from_pictures(pictures, name)
        return raw._replace(source=f"{raw.source}, from {note}")


def _head(path: Path, n: int) -> bytes:
    """The first n bytes, or all with −1."""
    try:
        with path.open("rb") as file:
            return file.read(n)
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror}): check it and its permissions.") from error


def _kind(head: bytes) -> str:
    if head.startswith((b"PK\3\4", b"PK\5\6", *COMPRESSED)) or head[257:262] == b"ustar":
        return "archive"
    if head.startswith(PICTURE_MAGIC):
        return "picture"
    return "table" if b"\0" not in head and PIXELS_COLUMN.search(head.split(b"\n", 1)[0]) else ""


def _sort_out(entries: Iterable[Entry], name: str, stack: ExitStack, depth: int = 0) -> tuple[list[Entry], list[Entry]]:
    """The tables and the pictures among the files of a folder or archive; where there are none, an inner archive's.

    Junk is left out: what macOS adds (`__MACOSX`, `._x`, `.DS_Store`), hidden files, README, anything else of no use.
    """
    found: dict[str, dict[str, Entry]] = {"table": {}, "picture": {}, "archive": {}, "": {}}
    for entry in entries:
        parts = entry.path.split("/")
        if any(part.startswith((".", "__MACOSX")) for part in parts) or parts[-1].lower().startswith("readme"):
            continue
        picture = entry.path.lower().endswith(PICTURE_SUFFIXES)  # spares the opening of 35,887 files
        kind = "picture" if picture else _kind(entry.read(HEAD_BYTES))
        found[kind][entry.path] = entry  # a tar's later member of the same name replaces the earlier one
    tables, pictures = list(found["table"].values()), list(found["picture"].values())
    if tables or pictures:
        return tables, pictures
    if depth < 2:
        for inner in found["archive"].values():
            source = inner.file or io.BytesIO(inner.read(-1))
            tables, pictures = _sort_out(_archive(source, inner.path, stack), inner.path, stack, depth + 1)
            if tables or pictures:
                return tables, pictures
    if depth:
        return [], []
    others = sorted([*found[""], *found["archive"]])
    came = f"{len(others):,} other files ({', '.join(others[:3])} …)" if others else "nothing"
    raise DataError(f"{name}: {EXPECTED}, found {came}: give the path of FER2013 or of pictures in class folders.")


def _folder(folder: Path) -> Iterator[Entry]:
    for inside, outside, found in _walk(folder):
        if stat.S_ISREG(found.st_mode):
            yield Entry(inside, found.st_size, partial(_head, Path(outside)), Path(outside))


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns what the archive modules raise into one sentence."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{name}: the archive cannot be read ({error or 'it ends early'}): {DAMAGED}.") from error
    except (RuntimeError, NotImplementedError) as error:  # a password, a method that Python does not know
        raise DataError(f"{name}: the archive cannot be read ({error}): unpack it and give the folder.") from error


class _Budget:
    """Adds up what an archive unpacks to and refuses unsafe names before anything is read."""

    def __init__(self, name: str) -> None:
        self.name, self.members, self.bytes = name, 0, 0

    def add(self, path: str, size: int) -> str:
        """The member's path, checked."""
        parts = PurePosixPath(path.replace("\\", "/")).parts
        if ".." in parts or path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path):
            raise DataError(
                f"{self.name}: unsafe member path '{path}', expected paths inside the archive: do not trust it."
            )
        self.members, self.bytes = self.members + 1, self.bytes + size
        if self.members > MAX_MEMBERS or size > MAX_MEMBER_BYTES or self.bytes > MAX_TOTAL_BYTES:
            raise DataError(
                f"{self.name}: unpacks to more than FER2013 can be ('{path}': {size:,} bytes), expected at most "
                f"{MAX_MEMBERS:,} members, {MAX_MEMBER_BYTES:,} bytes each and {MAX_TOTAL_BYTES:,} together: "
                "unpack it yourself if you trust it, and give the folder."
            )
        return "/".join(parts)

    def refuse_link(self, path: str) -> None:
        """A link is passed over, but not where an image would be lost in silence."""
        if path.lower().endswith((".csv", *PICTURE_SUFFIXES)):
            raise DataError(f"{self.name}: '{path}' is a link, expected a file: unpack it and give the folder.")


def _archive(source: Path | io.BytesIO, name: str, stack: ExitStack) -> Iterator[Entry]:
    """The files of a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz, read in memory: nothing is ever unpacked to disk."""
    budget = _Budget(name)
    with _named(name):
        file: IO[bytes] = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        head = file.read(8)
        file.seek(0)
        if head.startswith(b"PK"):
            yield from _zip_members(stack.enter_context(zipfile.ZipFile(file)), name, budget)
            return
        module = next((module for magic, module in COMPRESSED.items() if head.startswith(magic)), None)
        stream = _Stream(module.open(file) if module else file, budget)
        if module and stream.head[257:262] != b"ustar" and _kind(stream.head) == "table":
            text = stream.read(MAX_MEMBER_BYTES)  # a table compressed by itself: fer2013.csv.gz
            yield Entry(name, len(text), partial(_first, text))
        else:
            yield from _tar_members(stream, budget)


def _zip_members(archive: zipfile.ZipFile, name: str, budget: _Budget) -> Iterator[Entry]:
    def read(info: zipfile.ZipInfo, n: int) -> bytes:
        with _named(name), archive.open(info) as member:
            return member.read(n)

    for info in archive.infolist():
        path = budget.add(info.filename, info.file_size)
        if stat.S_ISLNK(info.external_attr >> 16):
            budget.refuse_link(path)
        elif not info.is_dir():
            yield Entry(path, info.file_size, partial(read, info))


def _tar_members(stream: _Stream, budget: _Budget) -> Iterator[Entry]:
    """In one pass; holds in memory what may be of use."""
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", tarinfo=_StrictInfo) as archive:
        for info in archive:
            path = budget.add(info.name, info.size)
            member = archive.extractfile(info) if info.isfile() else None
            if member:
                data = member.read(HEAD_BYTES)
                if path.lower().endswith(PICTURE_SUFFIXES) or _kind(data):
                    data += member.read()
                yield Entry(path, info.size, partial(_first, data))
            elif not info.isdir():
                budget.refuse_link(path)
    while stream.read(1 << 20):  # to the end, where the checksum is
        pass


def _first(data: bytes, n: int) -> bytes:
    return data if n < 0 else data[:n]


class _StrictInfo(tarfile.TarInfo):
    """tarfile takes a damaged or missing header after the first for the archive's end: this one says so."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset:,}") from error


class _Stream:
    """What a decompressor gives, counted, so that no archive fills the memory; `head` is what it starts with."""

    def __init__(self, file: IO[bytes], budget: _Budget) -> None:
        self.file, self.budget, self.total = file, budget, 0
        self.head = self.waiting = file.read(512)

    def read(self, n: int) -> bytes:
        data, self.waiting = self.waiting[:n], self.waiting[n:]
        if len(data) < n:
            data += self.file.read(n - len(data))
        self.total += len(data)
        if self.total > MAX_TOTAL_BYTES:
            self.budget.add("", self.total)
        return data


# --------------------------------------------------------------------------------------------------------------- tables


def _columns(entry: Entry) -> tuple[str, dict[str, str]]:
    """The delimiter, and the columns by lower-case name (Kaggle's icml_face_data.csv has " Usage" and " pixels")."""
    line = entry.read(HEAD_BYTES).split(b"\n", 1)[0].decode("utf-8-sig", "replace")
    delimiter = max(",;\t", key=line.count)
    try:
        names = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as fault:  # line ends of another age, among others
        raise DataError(f"{entry.path}: its first line is no list of columns ({fault}): {DAMAGED}.") from None
    return delimiter, {name.strip().casefold(): name for name in names}


def _from_tables(tables: list[Entry]) -> Raw:
    """Of several tables those that belong together: one that is complete, else the competition's train and test."""
    tables = sorted(tables, key=lambda entry: (-entry.size, entry.path))
    complete = [entry for entry in tables if {"emotion", "usage"} <= _columns(entry)[1].keys()]
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for entry in complete or tables:
        parts.append(_read_table(entry, len(tables) == 1))
        if {TRAINING, PRIVATE} <= set(parts[-1][2].tolist()):
            parts = parts[-1:]
            break
    if all((labels == UNLABELLED).all() for _, labels, _ in parts):
        names = ", ".join(entry.path for entry in tables)
        raise DataError(f"{names}: column 'emotion' is missing from all, expected it in one: add train.csv.")
    if len({pixels.shape[1] for pixels, _, _ in parts}) > 1:
        raise DataError(
            f"{tables[0].path}: images of another size than in the other tables: give tables of one data set."
        )
    pixels, labels, usage = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    side = math.isqrt(pixels.shape[1])
    form = "a table with Usage" if complete else "the competition's tables"
    return Raw(pixels.reshape(-1, side, side), labels, usage, EMOTIONS, form)


def unlabelled_images(path: Path) -> np.ndarray:
    """The images of a table such as the competition's test.csv, by itself or in an archive, labels left aside.

    Returns
    -------
    uint8 (n, side, side), in the table's own order

    Raises
    ------
    DataError: no such table, several of them, or a row at fault.
    """
    with ExitStack() as stack:
        tables = [Entry(path.name, path.stat().st_size, partial(_head, path), path)]
        if _kind(_head(path, HEAD_BYTES)) == "archive":
            tables, _ = _sort_out(_archive(path, path.name, stack), path.name, stack)
        tables = [entry for entry in tables if "emotion" not in _columns(entry)[1]] or tables
        if len(tables) != 1:
            came = ", ".join(entry.path for entry in tables) or "pictures"
            raise DataError(
                f"{path.name}: expected one table with a column 'pixels', found {came}: give that file alone."
            )
        pixels = _read_table(tables[0], alone=False, labelled=False)[0]
    side = math.isqrt(pixels.shape[1])
    return pixels.reshape(-1, side, side)


def is_table(path: Path) -> bool:
    """Whether a file is a table, or an archive that may hold one, and no picture."""
    return path.suffix.lower() == ".csv" or _kind(_head(path, HEAD_BYTES)) in ("table", "archive")


def _read_table(entry: Entry, alone: bool, labelled: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (n, side²), labels (n,) and usage (n,) of one table, all uint8; faults are told by row."""
    name, head = entry.path, entry.read(HEAD_BYTES)
    if not head.strip():
        raise DataError(
            f"{name}: the file is empty, expected emotion,pixels,Usage and a row an image: download it again."
        )
    delimiter, columns = _columns(entry)
    if "pixels" not in columns:
        came = "a web page" if head.lstrip().startswith(b"<") else ", ".join(columns)[:80]
        raise DataError(f"{name}: column 'pixels' is missing, expected emotion,pixels,Usage, found {came}; {EXPECTED}.")
    if not labelled:
        columns = {"pixels": columns["pixels"]}
    elif "emotion" not in columns and (alone or "usage" in columns):
        remedy = "give the folder or archive that has train.csv too, or download fer2013.csv again"
        raise DataError(f"{name}: column 'emotion' is missing, expected emotion,pixels,Usage: {remedy}.")
    table = _arrow_table(entry, delimiter, [columns[key] for key in ("pixels", "emotion", "usage") if key in columns])
    if not table.num_rows:
        raise DataError(f"{name}: holds its header line and no image, expected a row an image: download it again.")
    labels = np.full(table.num_rows, UNLABELLED, np.uint8)
    usage = np.full(table.num_rows, TRAINING if alone else _usage_by_name(name), np.uint8)
    if "usage" in columns:
        parts = {text.lower(): code for code, text in enumerate(USAGES)}
        usage = _codes(table[columns["usage"]], parts, name, "Usage", ", ".join(USAGES))
    if "emotion" in columns:
        digits = {str(code): code for code in range(len(EMOTIONS))}
        labels = _codes(
            table[columns["emotion"]], digits, name, "emotion", f"a whole number of 0 to {len(EMOTIONS) - 1}"
        )
    else:
        usage[:] = PRIVATE  # the competition's test.csv, whatever its name is now
    return _all_pixels([chunk for chunk in table[columns["pixels"]].chunks if len(chunk)], name), labels, usage


def _usage_by_name(path: str) -> int:
    name = PurePosixPath(path).name.lower()
    return PRIVATE if re.search("test|private", name) else PUBLIC if re.search("val|public", name) else TRAINING


def _all_pixels(texts: list[Any], name: str) -> np.ndarray:
    """uint8 (n, side²) from pyarrow's arrays of pixel strings, parsed side by side; 48 × 48 unless most rows differ."""
    counts = Counter(len(text.as_py().split()) for text in texts[0][:101])
    pixels = counts.most_common(1)[0][0]
    if math.isqrt(pixels) ** 2 != pixels or pixels < MIN_SIDE**2:
        pixels = 48 * 48
    firsts = np.cumsum([0, *map(len, texts)]).tolist()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        blocks = list(pool.map(lambda text, first: _parse(text, pixels, name, first), texts, firsts[:-1]))
    return np.concatenate(blocks)


def _arrow_table(entry: Entry, delimiter: str, wanted: list[str]) -> Any:
    """The wanted columns as bytes; pyarrow splits 300 MB in a fraction of a second."""
    import pyarrow as pa
    from pyarrow import csv as pacsv

    bad: list[tuple[int, int, int]] = []

    def note(row: Any) -> str:
        bad.append((row.number or 0, row.actual_columns, row.expected_columns))
        return "error"

    def table(threads: bool) -> Any:
        source = pa.memory_map(str(entry.file)) if entry.file else pa.BufferReader(entry.read(-1))
        types = dict.fromkeys(wanted, pa.binary())
        return pacsv.read_csv(
            source,
            pacsv.ReadOptions(use_threads=threads, block_size=1 << 24),
            pacsv.ParseOptions(delimiter=delimiter, invalid_row_handler=note),
            pacsv.ConvertOptions(include_columns=wanted, column_types=types, strings_can_be_null=False),
        )

    try:
        return table(True)
    except pa.ArrowInvalid:
        bad.clear()
    try:
        return table(False)  # once more in order: only so does pyarrow number the rows
    except pa.ArrowInvalid as error:
        if not bad:
            raise DataError(f"{entry.path}: cannot be read as a table ({error}): {DAMAGED}.") from error
        row, came, expected = bad[0]
        raise DataError(f"{_row(entry.path, row - 1)}: {came} columns, expected {expected}: {DAMAGED}.") from error


def _row(name: str, row: int) -> str:
    """`row` from 1, without the header."""
    return f"{name}, row {row:,} (line {row + 1:,})"


def _codes(column: Any, known: dict[str, int], name: str, what: str, expected: str) -> np.ndarray:
    encoded = column.combine_chunks().dictionary_encode()
    words = [word.decode("utf-8", "replace").strip() for word in encoded.dictionary.to_pylist()]
    codes = np.array([known.get(word.lower(), -1) for word in words])[encoded.indices.to_numpy()]
    wrong = np.flatnonzero(codes < 0)
    if len(wrong):
        word, where = words[encoded.indices[wrong[0]].as_py()][:40], _row(name, wrong[0] + 1)
        raise DataError(f"{where}: {what} is '{word}', expected {expected}: {DAMAGED}.")
    return codes.astype(np.uint8)


def _parse(texts: Any, pixels: int, name: str, first: int) -> np.ndarray:
    """uint8 (n, pixels) of pyarrow's pixel strings; `first` rows of the file lie before them."""
    import pyarrow as pa
    from pyarrow import compute

    space, nothing = pa.scalar(b" ", pa.binary()), pa.scalar(b"", pa.binary())
    joined = compute.binary_join_element_wise(texts, nothing, space)  # a space ends each row too
    ends = np.frombuffer(joined.buffers()[1], np.int32)[joined.offset : joined.offset + len(joined) + 1]
    data = np.frombuffer(joined.buffers()[2], np.uint8)
    images = np.empty((len(texts), pixels), np.uint8)
    for row in range(0, len(texts), ROWS_AT_A_TIME):
        block = ends[row : row + ROWS_AT_A_TIME + 1]
        values = _fast(data[block[0] : block[-1]], block[1:] - block[0], pixels)
        if values is None:
            rows = range(row, row + len(block) - 1)
            values = np.array([_slow(texts[k].as_py(), pixels, name, first + k + 1) for k in rows])
        images[row : row + len(values)] = values
    return images


def _fast(text: np.ndarray, ends: np.ndarray, pixels: int) -> np.ndarray | None:
    """Rows of numbers of one to three digits, a space after each, at most 255; None where anything differs.

    `ends` (rows,): where each row ends. Three spaces in front spare the first number its own treatment.
    """
    text = np.concatenate([np.full(3, 32, np.uint8), text])
    space = text == 32
    digits = (text - 48) * ~space  # uint8: other characters wrap round to more than 9
    spaces = np.flatnonzero(space)[2:]
    lengths, spaces = np.diff(spaces) - 1, spaces[1:]
    if len(spaces) != pixels * len(ends) or (spaces[pixels - 1 :: pixels] - 2 != ends).any():
        return None
    if lengths.min() < 1 or lengths.max() > 3 or digits.max() > 9:
        return None
    tens, hundreds = digits.take(spaces - 2), digits.take(spaces - 3) * (lengths == 3)
    numbers = digits.take(spaces - 1) + np.uint16(10) * tens + np.uint16(100) * hundreds
    return None if numbers.max() > 255 else numbers.reshape(-1, pixels)


def _slow(text: bytes, pixels: int, name: str, row: int) -> list[int]:
    """One row, forgiving about white space, with its fault named."""
    words = text.split()
    if len(words) != pixels:
        raise DataError(f"{_row(name, row)}: {len(words):,} pixels, expected {pixels:,}: {DAMAGED}.")
    for position, word in enumerate(words, 1):
        if not (word.isdigit() and len(word) < 10 and int(word) <= 255):
            where, came = f"{_row(name, row)}: pixel {position:,}", repr(word[:20])[1:]
            raise DataError(f"{where} is {came}, expected a whole number of 0 to 255: {DAMAGED}.")
    return [int(word) for word in words]


# ------------------------------------------------------------------------------------------------------------- pictures


def _from_pictures(pictures: list[Entry], name: str) -> Raw:
    """Pictures in class folders; file names' prefixes or folders tell the split."""
    pictures = sorted(pictures, key=lambda entry: entry.path)
    root = _root([entry.path for entry in pictures])
    places = [_place(entry.path, name, root) for entry in pictures]
    prefixed = any(USAGE_PREFIX.match(PurePosixPath(entry.path).name) for entry in pictures)
    unplaced = [entry.path for entry, (_, part) in zip(pictures, places, strict=True) if part is None]
    if 0 < len(unplaced) < len(pictures):
        raise DataError(
            f"{name}: '{unplaced[0]}' lies in no train, validation or test folder, as others do: move or remove it."
        )
    spelling = {label.casefold(): label for label, _ in reversed(places) if label is not None}  # the first one counts
    meant = {folded: SPOKEN.get(folded, folded) for folded in spelling}
    if set(meant.values()) <= set(EMOTIONS):  # FER2013 itself has all seven, own data perhaps fewer
        classes = EMOTIONS if prefixed else tuple(emotion for emotion in EMOTIONS if emotion in meant.values())
    else:
        meant = {folded: folded for folded in spelling}
        classes = tuple(sorted(spelling.values()))
    if not 2 <= len(classes) <= 200:
        came = ", ".join(classes[:3])
        raise DataError(f"{name}: {len(classes)} class folders ({came}), expected 2 to 200; {EXPECTED}.")
    code = {label.casefold(): position for position, label in enumerate(classes)}
    codes = [UNLABELLED if label is None else code[meant[label.casefold()]] for label, _ in places]
    labels = np.array(codes, np.uint8)
    usage = np.array([TRAINING if part is None else part for _, part in places], np.uint8)
    images, resized = _pictures(pictures, name)
    form = "class folders, split by file names" if prefixed else "class folders"
    return Raw(images, labels, usage, classes, form + resized)


def _root(paths: list[str]) -> int:
    """How many folders lie around all class folders: data/faces/anna/x.png, data/faces/bob/2024/y.png have two."""
    folders = [path.split("/")[:-1] for path in paths]
    shared = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False)))
    return max(0, shared - all(len(parts) == shared for parts in folders))  # a single class is no root


def _place(path: str, name: str, root: int) -> tuple[str | None, int | None]:
    """Class and usage of a picture by where it lies; class None: a test picture without a label."""
    *folders, file = path.split("/")
    prefix = USAGE_PREFIX.match(file)
    splits = [k for k, folder in enumerate(folders) if folder.casefold() in USAGE_OF]
    usage, below = None, folders[root : root + 1]  # what lies deeper (anna/2024/) is still of that class
    if splits:  # train/<class>/…, or <class>/train/…
        usage = USAGE_OF[folders[splits[-1]].casefold()]
        below = folders[splits[-1] + 1 :] or folders[root : splits[-1]][-1:]
    if prefix:
        usage = USAGE_OF[prefix[1].lower()]
    if not below and usage != PRIVATE:
        raise DataError(f"{name}: picture '{path}' lies in no class folder; {EXPECTED}: move or remove it.")
    return (below[0] if below else None), usage


def _pictures(pictures: list[Entry], name: str) -> tuple[np.ndarray, str]:
    """All pictures, decoded side by side, as one array of one size; the second tells whether some were resized."""
    from PIL import Image

    batches = [pictures[k : k + 64] for k in range(0, len(pictures), 64)]
    decoded: list[np.ndarray] = []
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        results = pool.map(lambda batch: [_decode(entry, name) for entry in batch], batches)
        total = 0
        for batch in results:
            decoded += batch
            total += sum(image.nbytes for image in batch)
            if total > MAX_TOTAL_BYTES:
                pool.shutdown(cancel_futures=True)
                raise DataError(
                    f"{name}: more than {MAX_TOTAL_BYTES:,} bytes of pixels: make the pictures smaller first."
                )
    sizes = Counter(image.shape[:2] for image in decoded)
    size = max(sizes, key=lambda s: (sizes[s], s))
    colour = any(image.ndim == 3 for image in decoded)
    images = np.empty((len(decoded), *size, *((3,) if colour else ())), np.uint8)
    for k, image in enumerate(decoded):
        if image.shape[:2] != size:
            image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        images[k] = image[..., None] if colour and image.ndim == 2 else image
    others = len(decoded) - sizes[size]
    return images, f", {others:,} pictures resized to {size[1]} × {size[0]}" if others else ""


def _decode(entry: Entry, name: str) -> np.ndarray:
    """Grey (h, w), also where the three channels of a colour picture are equal, or RGB (h, w, 3)."""
    from PIL import Image

    data = entry.read(-1)
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PICTURE_PIXELS:
                raise ValueError(f"{picture.width:,} × {picture.height:,} pixels")
            turned = upright(picture)
            if turned.mode in ("L", "1") and "transparency" not in turned.info:
                return np.asarray(turned.convert("L"))
            pixels = np.asarray(in_colour(turned))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError, *UNREADABLE) as error:
        came = f"{len(data):,} bytes" if data else "an empty file"
        reason = str(error).split(" <_io")[0]
        raise DataError(
            f"{name}: '{entry.path}' is no readable picture ({came}; {reason}): replace or remove it."
        ) from error
    return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels


def in_colour(picture: Any) -> Any:
    """RGB of any mode: deep grey scaled to 8 bits, transparency laid on white."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(picture, np.float64), nan=0, posinf=0, neginf=0)
        # Twelve bits often come in sixteen: the smallest range that holds the brightest pixel.
        top = next((t for t in (255, 1023, 4095, 65535) if values.max() <= t), values.max())
        if picture.mode == "F" and values.max() <= 1:
            top = 1
        grey = Image.fromarray((values.clip(0) / top * 255).round().astype(np.uint8))
        return grey.convert("RGB")
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        covered = picture.convert("RGBA")
        white = Image.new("RGBA", covered.size, "white")
        white.alpha_composite(covered)
        return white.convert("RGB")
    return picture.convert("RGB")


def upright(picture: Any) -> Any:
    """Turned as its EXIF says, where that can be read."""
    from PIL import ImageOps

    picture.load()  # Pillow reads a damaged picture a second time without a word
    try:
        return ImageOps.exif_transpose(picture)
    except UNREADABLE:
        return picture


# --------------------------------------------------------------------------------------------------- splits and audit


def make_split(
    faces: Faces, kind: str = "random", train_fraction: float = 0.75, seed: int = 0, drop_leaked_copies: bool = False
) -> Split:
    """Divides Training and PublicTest into training and validation; PrivateTest is the test set, always.

    Parameters
    ----------
    kind : "random", a plain draw as the original's; "group", whole groups of exact copies; "official", as published.
        Of a user's own data, which has folders or a rule of its own for what validates, "random" is "official"
    train_fraction : share of Training and PublicTest to train on, above 0 and below 1; not for "official"
    drop_leaked_copies : whether training images with an exact copy in PrivateTest are left out

    Raises
    ------
    ParameterError: an unknown kind, a fraction out of range, or a split that leaves a part or a class empty.
    """
    check_value("split", kind, "make_split")
    if not 0 < train_fraction < 1:
        raise ParameterError(f"train_fraction is {train_fraction}, expected more than 0 and less than 1.")
    pool, test = np.flatnonzero(faces.usage != PRIVATE), np.flatnonzero(faces.usage == PRIVATE)
    rng, wanted = np.random.default_rng(seed), round(train_fraction * len(pool))
    chosen = np.zeros(faces.n, bool)
    if kind == "official" or (kind == "random" and _keeps_its_parts(faces)):
        chosen[faces.usage == TRAINING] = True
    elif kind == "random":
        chosen[rng.permutation(pool)[:wanted]] = True
    else:
        groups = _groups(faces.copies[pool])
        for group in (groups[k] for k in rng.permutation(len(groups))):
            if len(group) <= wanted:  # FER2013 has so many images without a copy that the last ones fill the number
                chosen[pool[group]] = True
                wanted -= len(group)
    leaked = np.isin(faces.copies, faces.copies[test])
    train = pool[chosen[pool] & ~(leaked[pool] & drop_leaked_copies)]
    split = Split(train, pool[~chosen[pool]], test, ~np.isin(faces.copies[test], faces.copies[pool]))
    _check_split(faces, split, kind)
    return split


def _check_split(faces: Faces, split: Split, kind: str) -> None:
    remedy = "choose split: random" if kind == "official" else "add images, or choose another split_seed"
    if not len(split.validation):
        raise ParameterError(f"split '{kind}' leaves no image for validation, expected one or more: {remedy}.")
    counts = np.bincount(faces.labels[split.train], minlength=len(faces.classes))
    if not counts.all():
        emotion = faces.classes[int(counts.argmin())]
        raise ParameterError(
            f"split '{kind}' leaves class '{emotion}' no training image, expected one or more: {remedy}."
        )


def split_of(faces: Faces, params: Params) -> Split:
    """How a run with these parameters divides the images; see `make_split`."""
    return make_split(faces, params.split, params.train_fraction, params.split_seed, params.drop_leaked_copies)


def class_sizes(faces: Faces) -> np.ndarray:
    """Labelled images of each class: int (classes,)."""
    return np.bincount(faces.labels[faces.labels < len(faces.classes)], minlength=len(faces.classes))


def torn_copies(faces: Faces, split: Split) -> int:
    """How many validation images have an exact copy among the training images."""
    return int(np.isin(faces.copies[split.validation], faces.copies[split.train]).sum())


def low_contrast(faces: Faces) -> np.ndarray:
    """Indices of images with next to no contrast: pixels' standard deviation below LOW_CONTRAST_STD grey levels."""
    blocks = [faces.images[k : k + 1024].reshape(-1, faces.images[0].size) for k in range(0, faces.n, 1024)]
    spread = np.concatenate([block.std(1, dtype=np.float64) for block in blocks])
    return np.flatnonzero(spread < LOW_CONTRAST_STD)


def is_fer2013(faces: Faces) -> bool:
    """Whether these are FER2013's images, in any form of it: only to them the original's figures can be compared.

    Its test set has 3,589 images, 7,178 where a form of it merges PublicTest and PrivateTest.
    """
    n = np.count_nonzero(faces.usage == PRIVATE)
    return faces.classes == EMOTIONS and faces.image_size == (48, 48) and n in (3589, 7178)


def _keeps_its_parts(faces: Faces) -> bool:
    """Whether these are neither drawn nor of FER2013's kind: their parts are what their owner made them."""
    return faces.name != "sample" and (faces.classes != EMOTIONS or faces.image_size != (48, 48))


def audit(faces: Faces) -> dict[str, int]:
    """What a careful reader would count first, by exact pixel content; "private" and "public" are the two test sets.

    Returns
    -------
    images; duplicate_groups; redundant_copies, beyond the first of each group; conflicting_groups, whose copies
    disagree on the label; low_contrast; private_copies_of_training, private_copies_of_public, private_copies (of
    either); public_copies_of_training; leak_free, PrivateTest images without a copy in the other two; unlabelled.
    """
    sizes = np.bincount(faces.copies)
    labelled = faces.labels != UNLABELLED
    pairs = np.unique(np.stack([faces.copies[labelled], faces.labels[labelled]]), axis=1)
    inside = [np.isin(faces.copies, faces.copies[faces.usage == part]) for part in range(len(USAGES))]
    private, public = faces.usage == PRIVATE, faces.usage == PUBLIC
    counts = {
        "images": faces.n,
        "duplicate_groups": (sizes > 1).sum(),
        "redundant_copies": (sizes - 1).sum(),
        "conflicting_groups": (np.bincount(pairs[0]) > 1).sum(),
        "low_contrast": len(low_contrast(faces)),
        "private_copies_of_training": (private & inside[TRAINING]).sum(),
        "private_copies_of_public": (private & inside[PUBLIC]).sum(),
        "private_copies": (private & (inside[TRAINING] | inside[PUBLIC])).sum(),
        "public_copies_of_training": (public & inside[TRAINING]).sum(),
        "leak_free": (private & ~inside[TRAINING] & ~inside[PUBLIC]).sum(),
        "unlabelled": (~labelled).sum(),
    }
    return {name: int(count) for name, count in counts.items()}


def near_copies(faces: Faces, thresholds: Sequence[float] = NEAR_THRESHOLDS) -> dict[str, list[Any]]:
    """Leak-free PrivateTest images that come close to one of Training or PublicTest: brighter, or cropped otherwise.

    Likeness is the cosine of mean-free pixel vectors, the best over all of Training and PublicTest.

    Returns
    -------
    threshold; n (test images above it); mirrored (test images whose mirror image is above it); agreement (share of the
    first whose nearest has their label, NaN without any): a list each.
    """
    pool = np.flatnonzero(faces.usage != PRIVATE)
    test = np.flatnonzero((faces.usage == PRIVATE) & ~np.isin(faces.copies, faces.copies[pool]))
    step = 1 + max(faces.image_size) // 96  # larger pictures are thinned out: the cost is quadratic as it is
    small = faces.images[:, ::step, ::step]
    vectors = _mean_free(small[pool])
    (likeness, nearest_image), (mirrored, _) = (
        _best(_mean_free(images), vectors) for images in (small[test], small[test][:, :, ::-1])
    )
    agree = faces.labels[test] == faces.labels[pool[nearest_image]]
    above, labelled = [likeness > threshold for threshold in thresholds], faces.labels[test] != UNLABELLED
    return {
        "threshold": list(thresholds),
        "n": [int(mask.sum()) for mask in above],
        "mirrored": [int((mirrored > threshold).sum()) for threshold in thresholds],
        "agreement": [float(agree[m & labelled].mean()) if (m & labelled).any() else math.nan for m in above],
    }


def _mean_free(images: np.ndarray) -> np.ndarray:
    """Unit vectors, float32 (n, pixels), mean 0; a picture without contrast becomes zeros and is like nothing."""
    vectors = images.reshape(len(images), -1).astype(np.float32)
    vectors -= vectors.mean(1, keepdims=True)
    lengths = np.sqrt(np.square(vectors).sum(1, keepdims=True))
    vectors /= np.where(lengths > 0, lengths, 1)
    return vectors


def _best(vectors: np.ndarray, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each vector the largest cosine with one of the pool (float32 (n,)), and which it is (int64 (n,))."""
    products = (vectors[k : k + 512] @ pool.T for k in range(0, len(vectors), 512))
    best = [(block.max(1), block.argmax(1)) for block in products]
    values, places = zip(*best, strict=True) if best else ((np.zeros(0, np.float32),), (np.zeros(0, np.int64),))
    return np.concatenate(values), np.concatenate(places)
