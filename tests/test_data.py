"""Every form of the data gives the same dataset; every fault gives one sentence; splits and audit count exactly.

With FER_TEST_DATA set to a FER2013 in any form, the study's facts about it are checked too.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_core import data, pictures, sample
from fer_core.data import PRIVATE, PUBLIC, TRAINING, UNLABELLED
from fer_core.schema import EMOTIONS, USAGES, DataError, ParameterError

N = 210
Rows = list[tuple[str, str, str]]  # emotion, pixels, Usage


@pytest.fixture(scope="module")
def rows() -> Rows:
    images, labels, usage = sample.draw(N, 1)
    pixels = [" ".join(map(str, image)) for image in images.reshape(N, -1).tolist()]
    return [(str(label), text, USAGES[part]) for label, text, part in zip(labels, pixels, usage, strict=True)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def write_table(
    path: Path, rows: Rows, header: str = "emotion,pixels,Usage", order: tuple[int, ...] = (0, 1, 2)
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(row[k] for k in order) for row in rows)]) + "\n")
    return path


def write_folder(folder: Path, rows: Rows, name: str = "{split}/{emotion}/{usage}_{k}.png") -> Path:
    for k, (label, text, usage) in enumerate(rows):
        split = "train" if usage == "Training" else "test"
        file = folder / name.format(split=split, emotion=EMOTIONS[int(label)], usage=usage, k=k)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(text.split(), np.uint8).reshape(48, 48)).save(file)
    return folder


def write_archive(path: Path, folder: Path, form: str, extra: dict[str, bytes] | None = None) -> Path:
    """`form`: zip, or tarfile's mode; `extra` members by name."""
    files = {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
    files.update(extra or {})
    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, form) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def picture(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def own_folder(
    folder: Path, classes: tuple[str, ...] = ("cat", "dog"), n: int = 10, splits: tuple[str, ...] = ("",)
) -> Path:
    """n drawn pictures of each class in each split's folder, 16 × 12."""
    random = np.random.default_rng(0)
    for split in splits:
        for label in classes:
            for k in range(n):
                file = folder / split / label / f"{k}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(picture(random.integers(0, 256, (12, 16), dtype=np.uint8)))
    return folder


def same(first: data.Faces, second: data.Faces) -> bool:
    return first.data_hash == second.data_hash and (first.ids == second.ids).all() and first.classes == second.classes


# ---------------------------------------------------------------------------------------------------------------- forms


def _icml(tmp: Path, rows: Rows) -> Path:
    return write_table(tmp / "icml_face_data.csv", rows, "emotion, Usage, pixels", (0, 2, 1))


def _reversed(tmp: Path, rows: Rows) -> Path:
    return write_table(tmp / "fer2013.csv", rows[::-1])


def _renamed(tmp: Path, rows: Rows) -> Path:
    return write_table(tmp / "download(1).bin", rows)


def _quoted_windows_lines(tmp: Path, rows: Rows) -> Path:
    path = write_table(
        tmp / "fer.csv", [(f'"{a}"', f'"{b}"', f'"{c}"') for a, b, c in rows], '"emotion","pixels","Usage"'
    )
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    return path


def _semicolons_and_double_spaces(tmp: Path, rows: Rows) -> Path:
    path = write_table(tmp / "fer.csv", [(a, b.replace(" ", "  ") + " ", c) for a, b, c in rows])
    path.write_text(path.read_text().replace(",", ";"))
    return path


def _extra_column(tmp: Path, rows: Rows) -> Path:
    return write_table(tmp / "f.csv", [(f"x,{a}", b, c) for a, b, c in rows], "name,emotion,pixels,Usage")


def _folder(tmp: Path, rows: Rows) -> Path:
    return write_folder(tmp / "f", rows)


def _capital_nested_folder(tmp: Path, rows: Rows) -> Path:
    folder = write_folder(tmp / "f" / "deep" / "FER2013", rows, "{split}/{emotion}/{usage}_{k}.PNG")
    for split in ("train", "test"):
        for emotion in EMOTIONS:
            (folder / split / emotion).rename(folder / split / emotion.upper())
        (folder / split).rename(folder / split.title())
    return tmp / "f"


def _flat_prefixes(tmp: Path, rows: Rows) -> Path:
    return write_folder(tmp / "f", rows, "{emotion}/{usage}_{k}.png")


def _with_junk(tmp: Path, rows: Rows) -> Path:
    folder = write_folder(tmp / "f", rows)
    (folder / "notes.txt").write_text("48 x 48 pixels, grey\n")
    (folder / "__MACOSX" / "train").mkdir(parents=True)
    (folder / "__MACOSX" / "train" / "._a.png").write_bytes(b"junk")
    for junk in ("train/happy/._Training_1.png", ".DS_Store", "README.md", "train/happy/Thumbs.db", "readme.png"):
        (folder / junk).write_bytes(b"junk")
    return folder


def _colour_of_grey(tmp: Path, rows: Rows) -> Path:
    folder = write_folder(tmp / "f", rows)
    for file in folder.rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    return folder


def _usage_folders(tmp: Path, rows: Rows) -> Path:
    """FER2013 without the prefixes: the folders tell."""
    folder = write_folder(tmp / "f", rows, "{usage}/{emotion}/{k}.png")
    for old, new in zip(USAGES, ("train", "validation", "test"), strict=True):
        (folder / old).rename(folder / new)
    return folder


def _zip(tmp: Path, rows: Rows) -> Path:
    return write_archive(tmp / "data.zip", write_folder(tmp / "f", rows), "zip")


def _tar(tmp: Path, rows: Rows) -> Path:
    return write_archive(tmp / "data.tar", write_folder(tmp / "f", rows), "w")


def _tar_gz_named_zip(tmp: Path, rows: Rows) -> Path:
    return write_archive(tmp / "data.zip", write_table(tmp / "f" / "fer2013" / "fer2013.csv", rows).parent, "w:gz")


def _tar_xz(tmp: Path, rows: Rows) -> Path:
    return write_archive(tmp / "data.tar.xz", write_folder(tmp / "f", rows), "w:xz")


def _tar_bz2(tmp: Path, rows: Rows) -> Path:
    return write_archive(tmp / "data", write_table(tmp / "f" / "a.csv", rows).parent, "w:bz2")


def _csv_gz(tmp: Path, rows: Rows) -> Path:
    path = tmp / "fer2013.csv.gz"
    path.write_bytes(gzip.compress(_reversed(tmp, rows).read_bytes()))
    return path


def _competition_with_everything(tmp: Path, rows: Rows) -> Path:
    """As Kaggle serves it: the complete table beside those without labels or Usage, and an archive within."""
    folder = tmp / "f"
    folder.mkdir()
    _icml(folder, rows)
    write_table(folder / "train.csv", [r for r in rows if r[2] == "Training"], "emotion,pixels", (0, 1))
    write_table(folder / "test.csv", [r for r in rows if r[2] != "Training"], "pixels", (1,))
    (folder / "example_submission.csv").write_text("id,emotion\n1,0\n")
    write_archive(folder / "fer2013.tar.gz", write_table(tmp / "g" / "fer2013.csv", rows).parent, "w:gz")
    return write_archive(tmp / "competition.zip", folder, "zip")


def _archive_in_archive(tmp: Path, rows: Rows) -> Path:
    inner = write_archive(tmp / "inner.tar.gz", write_table(tmp / "g" / "fer2013.csv", rows).parent, "w:gz")
    (tmp / "f").mkdir()
    shutil.move(inner, tmp / "f")
    return write_archive(tmp / "outer.zip", tmp / "f", "zip")


FORMS = (
    _icml, _reversed, _renamed, _quoted_windows_lines, _semicolons_and_double_spaces, _extra_column, _folder,
    _capital_nested_folder, _flat_prefixes, _with_junk, _colour_of_grey, _usage_folders, _zip, _tar, _tar_gz_named_zip,
    _tar_xz, _tar_bz2, _csv_gz, _competition_with_everything, _archive_in_archive,
)  # fmt: skip


@pytest.fixture(scope="module")
def reference(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> data.Faces:
    folder = tmp_path_factory.mktemp("reference")
    return data.open_faces(write_table(folder / "fer2013.csv", rows), folder / "store")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__.strip("_"))
def test_every_form_gives_the_same_data_hash_ids_and_order(
    form: Callable[[Path, Rows], Path], rows: Rows, reference: data.Faces, tmp_path: Path, store: Path
):
    faces = data.open_faces(form(tmp_path, rows), store)
    assert same(faces, reference)
    assert (faces.images == reference.images).all()


def test_labels_pixels_and_usage_are_those_of_the_rows(rows: Rows, reference: data.Faces):
    wanted = sorted((USAGES.index(c), int(a), np.array(b.split(), np.uint8).tobytes()) for a, b, c in rows)
    images = [image.tobytes() for image in reference.images]
    assert sorted(zip(reference.usage.tolist(), reference.labels.tolist(), images, strict=True)) == wanted


def test_canonical_order_is_usage_label_pixel_hash(reference: data.Faces):
    keys = list(zip(reference.usage, reference.labels, (i.split("-")[0] for i in reference.ids), strict=True))
    assert keys == sorted(keys)


def test_classes_come_in_fer2013s_label_order(reference: data.Faces):
    assert reference.classes == EMOTIONS
    assert (reference.n, reference.image_size, reference.channels) == (N, (48, 48), 1)


def test_one_changed_pixel_changes_the_hash(rows: Rows, reference: data.Faces, tmp_path: Path, store: Path):
    first = rows[0][1].split()
    first[7] = str((int(first[7]) + 1) % 256)
    path = write_table(tmp_path / "f.csv", [(rows[0][0], " ".join(first), rows[0][2]), *rows[1:]])
    assert data.open_faces(path, store).data_hash != reference.data_hash


def test_one_changed_label_changes_the_hash(rows: Rows, reference: data.Faces, tmp_path: Path, store: Path):
    changed = [("2" if rows[0][0] != "2" else "4", *rows[0][1:]), *rows[1:]]
    assert data.open_faces(write_table(tmp_path / "f.csv", changed), store).data_hash != reference.data_hash


def test_competition_without_test_labels_is_read_unlabelled(rows: Rows, tmp_path: Path, store: Path):
    write_table(tmp_path / "f" / "train.csv", [r for r in rows if r[2] == "Training"], "emotion,pixels", (0, 1))
    write_table(tmp_path / "f" / "test.csv", [r for r in rows if r[2] != "Training"], "pixels", (1,))
    faces = data.open_faces(tmp_path / "f", store)
    assert ((faces.labels == UNLABELLED) == (faces.usage == PRIVATE)).all()
    assert (faces.usage == PRIVATE).sum() == sum(r[2] != "Training" for r in rows)
    assert data.audit(faces)["unlabelled"] == (faces.usage == PRIVATE).sum()


def test_train_csv_alone_is_split_by_pixel_hash(rows: Rows, tmp_path: Path, store: Path):
    many = rows * 3  # copies, which stay together; and 5 images or more of each class
    faces = data.open_faces(write_table(tmp_path / "train.csv", many, "emotion,pixels", (0, 1)), store)
    assert "80/10/10" in faces.source
    assert all(len(np.unique(faces.usage[faces.copies == group])) == 1 for group in np.unique(faces.copies))
    assert 0.7 < (faces.usage == TRAINING).mean() < 0.9


def test_images_set_aside_to_validate_on_stay_that_where_test_images_are_missing(
    rows: Rows, tmp_path: Path, store: Path
):
    known = [row for row in rows * 3 if row[2] != "PrivateTest"]
    faces = data.open_faces(write_table(tmp_path / "f.csv", known), store)
    assert "80/10/10" not in faces.source and "10 % by pixel hash" in faces.source
    assert (faces.usage == PUBLIC).sum() == sum(row[2] == "PublicTest" for row in known)
    assert 0.05 < (faces.usage == PRIVATE).sum() / sum(row[2] == "Training" for row in known) < 0.2


def test_table_of_another_square_size_is_read(rows: Rows, tmp_path: Path, store: Path):
    small = [(a, " ".join(b.split()[: 24 * 24]), c) for a, b, c in rows]
    assert data.open_faces(write_table(tmp_path / "f.csv", small), store).image_size == (24, 24)


def test_sample_is_drawn_once_and_read_by_the_same_reader(store: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[Path] = []
    write = sample.write
    monkeypatch.setattr(sample, "write", lambda path: (drawn.append(path), write(path, 210)))
    faces = data.open_faces(None, store)
    assert (faces.name, faces.n) == ("sample", 210)
    assert data.data_hash(None, store) == faces.data_hash == data.open_faces(drawn[0], store).data_hash
    assert [path.name for path in drawn] == ["fer2013.csv"]


# ------------------------------------------------------------------------------------------------------------- own data


def test_own_classes_are_sorted_and_split_follows_the_folders(tmp_path: Path, store: Path):
    folder = own_folder(tmp_path / "f", ("dog", "Cat", "ant"), 4, ("train", "val", "test"))
    faces = data.open_faces(folder, store)
    assert faces.classes == ("Cat", "ant", "dog")
    assert np.bincount(faces.usage).tolist() == [12, 12, 12]
    assert faces.image_size == (12, 16)


def test_only_class_folders_are_split_80_10_10_in_each_class(tmp_path: Path, store: Path):
    faces = data.open_faces(own_folder(tmp_path / "f", n=20), store)
    assert [np.bincount(faces.usage[faces.labels == k]).tolist() for k in (0, 1)] == [[16, 2, 2]] * 2


def test_own_split_is_the_same_in_another_file_order(tmp_path: Path, store: Path):
    first = own_folder(tmp_path / "f", n=20)
    second = tmp_path / "g"
    for k, file in enumerate(sorted(first.rglob("*.png"))):
        (second / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, second / file.parent.name / f"{97 * k % 101}.png")
    assert same(data.open_faces(first, store), data.open_faces(second, store))


def test_colour_pictures_stay_in_colour(tmp_path: Path, store: Path):
    folder = own_folder(tmp_path / "f")
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[..., 0] = 200
    (folder / "cat" / "red.jpg").write_bytes(picture(pixels, "JPEG", quality=95))
    faces = data.open_faces(folder, store)
    assert (faces.channels, faces.images.shape[1:]) == (3, (12, 16, 3))


def test_pictures_of_other_sizes_are_resized_to_the_most_common(tmp_path: Path, store: Path):
    folder = own_folder(tmp_path / "f")
    (folder / "cat" / "large.png").write_bytes(picture(np.full((40, 50), 9, np.uint8)))
    faces = data.open_faces(folder, store)
    assert faces.image_size == (12, 16)
    assert "1 pictures resized to 16 × 12" in faces.source


def test_a_damaged_picture_is_refused_for_training_as_for_an_answer(tmp_path: Path, store: Path):
    content = bytearray(picture(np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)))
    middle = len(content) // 2
    content[middle : middle + 30] = bytes(255 - byte for byte in content[middle : middle + 30])
    folder = own_folder(tmp_path / "f")
    file = folder / "cat" / "own.png"
    file.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        pictures.decode(file)
    with pytest.raises(DataError, match=r"own\.png' is no readable picture"):
        data.open_faces(folder, store)


@pytest.mark.parametrize(
    ("form", "grey"), [("16 bits", 200), ("12 bits in 16", 200), ("float", 200), ("transparent", 255), ("turned", 50)]
)
def test_a_picture_is_read_for_training_as_for_an_answer(tmp_path: Path, store: Path, form: str, grey: int):
    flat, exif = np.full((12, 16), grey, np.uint16), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    rising = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (12, 1))
    pixels, name, options = {
        "16 bits": (flat * 257, "PNG", {}),
        "12 bits in 16": (np.where(np.arange(16) == 0, 4095, flat * 16).astype(np.uint16), "PNG", {}),
        "float": (np.where(np.arange(16) == 0, 1, flat / 255).astype(np.float32), "TIFF", {}),
        "transparent": (np.zeros((12, 16, 4), np.uint8), "PNG", {}),
        "turned": (np.rot90(rising), "TIFF", {"exif": exif}),
    }[form]
    folder = own_folder(tmp_path / "f")
    file = folder / "cat" / "own.png"
    file.write_bytes(picture(pixels, name, **options))
    answered = pictures.decode(file)[..., 0]
    assert answered.shape == (12, 16) and abs(int(answered[5, 5]) - grey) <= 1
    assert (data.open_faces(folder, store).images == answered).all((1, 2)).any()


def test_some_of_the_emotions_are_own_data_in_label_order(tmp_path: Path, store: Path):
    faces = data.open_faces(own_folder(tmp_path / "f", ("sad", "happy", "angry")), store)
    assert faces.classes == ("angry", "happy", "sad")


def test_fer2013s_folders_may_have_their_other_names(tmp_path: Path, store: Path):
    spoken = ("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral")
    faces = data.open_faces(own_folder(tmp_path / "f", spoken), store)
    assert faces.classes == EMOTIONS
    assert same(faces, data.open_faces(own_folder(tmp_path / "g", EMOTIONS), store))
    assert data.open_faces(own_folder(tmp_path / "h", ("fearful", "bold")), store).classes == ("bold", "fearful")


def test_a_folder_around_train_and_test_is_no_class(tmp_path: Path, store: Path):
    folder = own_folder(tmp_path / "f" / "fer", splits=("train",))
    own_folder(tmp_path / "f" / "fer", ("",), 3, ("test",))
    around, within = (data.open_faces(path, store) for path in (folder.parent, folder))
    assert (around.labels == UNLABELLED).sum() == 3 and same(around, within)


def test_test_pictures_without_class_folder_are_unlabelled(tmp_path: Path, store: Path):
    folder = own_folder(tmp_path / "f", splits=("train",))
    own_folder(tmp_path / "f", ("",), 3, ("test",))
    assert (data.open_faces(folder, store).labels == UNLABELLED).sum() == 3


def test_links_to_folders_are_followed_once(tmp_path: Path, store: Path):
    own_folder(tmp_path / "elsewhere")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "cat" / "loop").symlink_to(tmp_path / "f")
    assert data.open_faces(tmp_path / "f", store).n == 20


# --------------------------------------------------------------------------------------------------------------- faults


def _row_fault(row: int, **changes: str) -> Callable[[Rows], Rows]:
    """Row `row`, from 1, with its pixels, emotion or Usage replaced."""

    def spoil(rows: Rows) -> Rows:
        label, pixels, usage = rows[row - 1]
        spoilt = (changes.get("emotion", label), changes.get("pixels", pixels), changes.get("usage", usage))
        return [*rows[: row - 1], spoilt, *rows[row:]]

    return spoil


BLACK = ["0"] * 2304
ROW_FAULTS = {
    "2,303 pixels, expected 2,304": {"pixels": " ".join(BLACK[1:])},
    "2,305 pixels": {"pixels": " ".join([*BLACK, "0"])},
    "pixel 3 is '300'": {"pixels": " ".join(["0", "0", "300", *BLACK[3:]])},
    "pixel 2,304 is '256'": {"pixels": " ".join([*BLACK[1:], "256"])},
    "pixel 1 is '1000'": {"pixels": " ".join(["1000", *BLACK[1:]])},
    "pixel 1 is '-5'": {"pixels": " ".join(["-5", *BLACK[1:]])},
    "pixel 2 is 'x'": {"pixels": " ".join(["0", "x", *BLACK[2:]])},
    "pixel 2 is '1.5'": {"pixels": " ".join(["0", "1.5", *BLACK[2:]])},
    "0 pixels": {"pixels": ""},
    "emotion is '7', expected a whole number of 0 to 6": {"emotion": "7"},
    "emotion is '-1'": {"emotion": "-1"},
    "emotion is 'happy'": {"emotion": "happy"},
    "emotion is ''": {"emotion": ""},
    "Usage is 'Test', expected Training, PublicTest, PrivateTest": {"usage": "Test"},
    "1 columns, expected 3": {"emotion": "0\n0"},
}


@pytest.mark.parametrize("told", ROW_FAULTS)
@pytest.mark.parametrize("row", [1, 50, N])
def test_a_faulty_row_is_named(told: str, row: int, rows: Rows, tmp_path: Path, store: Path):
    path = write_table(tmp_path / "fer2013.csv", _row_fault(row, **ROW_FAULTS[told])(rows))
    with pytest.raises(DataError) as caught:
        data.open_faces(path, store)
    message = str(caught.value)
    assert message.startswith(f"fer2013.csv, row {row} (line {row + 1})")
    assert told in message and "download" in message


def test_a_table_cut_in_a_row_is_told_with_its_row(rows: Rows, tmp_path: Path, store: Path):
    path = write_table(tmp_path / "fer2013.csv", rows)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\n", 0, len(content) // 2) + 3000])
    with pytest.raises(DataError, match=r"fer2013.csv, row \d+ .*2 columns, expected 3.*cut short"):
        data.open_faces(path, store)


TABLE_FAULTS = {
    "the file is empty": b"",
    "holds its header line and no image": b"emotion,pixels,Usage\n",
    "column 'pixels' is missing, expected emotion,pixels,Usage, found emotion, usage": b"emotion,Usage\n0,Training\n",
    "column 'emotion' is missing": b"pixels,Usage\n0 0,Training\n",
    "found a web page": b"<!doctype html>\n<html>log in</html>\n",
    "neither a table, nor a .zip": b"\x7fELF\0\0\0\1",
    "column 'pixels' is missing": b"0,1 2 3,Training\n",
    "a single picture": picture(np.zeros((48, 48), np.uint8)),
}


@pytest.mark.parametrize("told", TABLE_FAULTS)
def test_a_file_of_no_use_is_told_in_one_sentence(told: str, tmp_path: Path, store: Path):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(TABLE_FAULTS[told])
    with pytest.raises(DataError) as caught:
        data.open_faces(path, store)
    message = str(caught.value)
    assert told in message
    assert message.startswith("fer2013.csv") and "expected" in message and "\n" not in message


def test_a_missing_path_is_told_with_what_is_expected(tmp_path: Path, store: Path):
    with pytest.raises(DataError, match=r"nowhere: No such file or directory; expected fer2013.csv"):
        data.open_faces(tmp_path / "nowhere", store)


def test_an_emotion_without_training_images_is_named(rows: Rows, tmp_path: Path, store: Path):
    path = write_table(tmp_path / "f.csv", [r for r in rows if (r[0], r[2]) != ("1", "Training")])
    with pytest.raises(DataError, match="class 'disgust' has no training image"):
        data.open_faces(path, store)


def test_a_test_folder_alone_is_told_in_one_sentence(tmp_path: Path, store: Path):
    with pytest.raises(DataError, match="class 'cat' has no training image"):
        data.open_faces(own_folder(tmp_path / "f", splits=("test",)), store)


def test_an_emotion_folder_missing_from_fer2013_is_named(rows: Rows, tmp_path: Path, store: Path):
    folder = write_folder(tmp_path / "f", rows)
    for split in ("train", "test"):
        shutil.rmtree(folder / split / "fear")
    with pytest.raises(DataError, match="class 'fear' has no training image"):
        data.open_faces(folder, store)


@pytest.mark.parametrize("content", [b"", b"no picture"], ids=["empty", "text"])
def test_an_unreadable_picture_is_named(content: bytes, tmp_path: Path, store: Path):
    folder = own_folder(tmp_path / "f")
    (folder / "cat" / "bad.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"f: 'cat/bad.jpg' is no readable picture"):
        data.open_faces(folder, store)


def test_a_truncated_picture_is_named(tmp_path: Path, store: Path):
    folder = own_folder(tmp_path / "f")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    (folder / "cat" / "bad.jpg").write_bytes(picture(noise, "JPEG")[:1500])
    with pytest.raises(DataError, match=r"cat/bad.jpg.*truncated"):
        data.open_faces(folder, store)


def test_a_picture_that_claims_to_be_huge_is_refused(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "MAX_PICTURE_PIXELS", 100 * 100)
    folder = own_folder(tmp_path / "f")
    (folder / "cat" / "bomb.png").write_bytes(picture(np.zeros((101, 100), np.uint8)))
    with pytest.raises(DataError, match=r"cat/bomb.png"):
        data.open_faces(folder, store)


FOLDER_FAULTS = {
    "lies in no class folder": "train/stray.png",
    "lies in no train, validation or test folder": "other/cat/stray.png",
}


@pytest.mark.parametrize("told", FOLDER_FAULTS)
def test_a_picture_out_of_place_is_named(told: str, tmp_path: Path, store: Path):
    folder = own_folder(tmp_path / "f", splits=("train", "test"))
    stray = folder / FOLDER_FAULTS[told]
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(picture(np.zeros((12, 16), np.uint8)))
    with pytest.raises(DataError, match=f"stray.png.*{told}"):
        data.open_faces(folder, store)


def test_one_class_is_too_few(tmp_path: Path, store: Path):
    with pytest.raises(DataError, match=r"1 class folders \(cat\), expected 2 to 200"):
        data.open_faces(own_folder(tmp_path / "f", ("cat",)), store)


def test_an_empty_folder_is_told(tmp_path: Path, store: Path):
    (tmp_path / "f").mkdir()
    with pytest.raises(DataError, match="found nothing"):
        data.open_faces(tmp_path / "f", store)


# ------------------------------------------------------------------------------------------------------------- archives

ARCHIVE_FORMS = ("zip", "w", "w:gz", "w:xz")


CUTS = [(form, share) for form in ARCHIVE_FORMS for share in (0.1, 0.5)] + [
    ("zip", 0.97),
    ("w:gz", 0.99),
    ("w:xz", 0.99),
]


@pytest.mark.parametrize(("form", "share"), CUTS)
def test_a_truncated_archive_is_told_and_leaves_nothing(form: str, share: float, tmp_path: Path, store: Path):
    path = write_archive(tmp_path / "data", own_folder(tmp_path / "f"), form)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"^data: the archive cannot be read .*cut short: download"):
        data.open_faces(path, store)
    assert not list(store.rglob("*.np*"))


def test_a_tar_cut_between_two_members_is_told(tmp_path: Path, store: Path):
    path = write_archive(tmp_path / "data.tar", own_folder(tmp_path / "f"), "w")
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-3].offset
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(DataError, match="cannot be read"):
        data.open_faces(path, store)


def test_a_damaged_zip_member_is_told(tmp_path: Path, store: Path):
    path = write_archive(tmp_path / "data.zip", own_folder(tmp_path / "f"), "zip")
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"data.zip: the archive cannot be read"):
        data.open_faces(path, store)


@pytest.mark.parametrize("form", ARCHIVE_FORMS)
def test_an_archive_without_data_is_told_with_what_it_holds(form: str, tmp_path: Path, store: Path):
    (tmp_path / "f").mkdir()
    path = write_archive(tmp_path / "data", tmp_path / "f", form, {"notes.txt": b"hello", "x.doc": b"1"})
    with pytest.raises(DataError, match=r"data: expected fer2013.csv.*found 2 other files \(notes.txt, x.doc"):
        data.open_faces(path, store)


@pytest.mark.parametrize("form", ARCHIVE_FORMS)
@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:\\evil.png", "..\\evil.png"])
def test_unsafe_member_paths_are_refused(name: str, form: str, tmp_path: Path, store: Path):
    path = write_archive(tmp_path / "data", own_folder(tmp_path / "f"), form, {name: b"x"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="data: unsafe member path"):
        data.open_faces(path, store)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("limit", ["MAX_MEMBERS", "MAX_MEMBER_BYTES", "MAX_TOTAL_BYTES"])
@pytest.mark.parametrize("form", ARCHIVE_FORMS)
def test_archives_are_not_unpacked_without_bound(
    limit: str, form: str, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(data, limit, {"MAX_MEMBERS": 19, "MAX_MEMBER_BYTES": 99_999, "MAX_TOTAL_BYTES": 99_999}[limit])
    path = write_archive(tmp_path / "data", own_folder(tmp_path / "f"), form, {"zeros.bin": bytes(100_000)})
    with pytest.raises(DataError, match="data: unpacks to more than FER2013 can be"):
        data.open_faces(path, store)


def test_a_compressed_stream_of_no_end_is_stopped(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "MAX_TOTAL_BYTES", 1 << 20)
    path = tmp_path / "fer2013.csv.gz"
    path.write_bytes(gzip.compress(b"emotion,pixels,Usage\n" + b"0 " * (1 << 20)))
    with pytest.raises(DataError, match="unpacks to more"):
        data.open_faces(path, store)


def _link(kind: bytes, name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
def test_a_link_in_place_of_a_picture_is_refused(kind: bytes, tmp_path: Path, store: Path):
    path = write_archive(tmp_path / "data.tar", own_folder(tmp_path / "f"), "w")
    with tarfile.open(path, "a") as archive:
        archive.addfile(_link(kind, "cat/link.png"))
    with pytest.raises(DataError, match=r"'cat/link.png' is a link"):
        data.open_faces(path, store)


def test_other_links_and_devices_are_passed_over(tmp_path: Path, store: Path):
    path = write_archive(tmp_path / "data.tar", own_folder(tmp_path / "f"), "w")
    with tarfile.open(path, "a") as archive:
        archive.addfile(_link(tarfile.SYMTYPE, "latest"))
        archive.addfile(_link(tarfile.FIFOTYPE, "pipe"))
    assert data.open_faces(path, store).n == 20


def test_a_zip_with_a_password_is_told(tmp_path: Path, store: Path):
    path = write_archive(tmp_path / "data.zip", own_folder(tmp_path / "f"), "zip")
    content = path.read_bytes()
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # what tells that a member is encrypted
        parts = content.split(signature)
        content = signature.join([parts[0], *(p[: flags - 4] + b"\1" + p[flags - 3 :] for p in parts[1:])])
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"password.*unpack it and give the folder"):
        data.open_faces(path, store)


# ---------------------------------------------------------------------------------------------------------------- cache


@pytest.fixture
def table(rows: Rows, tmp_path: Path) -> Path:
    return write_table(tmp_path / "fer2013.csv", rows)


def _no_reading(*_: object) -> None:
    raise AssertionError("the file was read again")


def test_second_opening_reads_nothing_but_the_cache(table: Path, store: Path, monkeypatch: pytest.MonkeyPatch):
    first = data.open_faces(table, store)
    monkeypatch.setattr(data, "_read", _no_reading)
    second = data.open_faces(table, store)
    assert same(first, second) and second.source == first.source
    assert isinstance(second.images, np.memmap) and not second.images.flags.writeable


def test_data_hash_opens_no_array_once_it_is_remembered(table: Path, store: Path, monkeypatch: pytest.MonkeyPatch):
    known = data.open_faces(table, store).data_hash
    monkeypatch.setattr(data, "_read", _no_reading)
    monkeypatch.setattr(data, "_load", _no_reading)
    assert data.data_hash(table, store) == known


def test_data_hash_alone_reads_the_data_once(table: Path, store: Path, reference: data.Faces):
    assert data.data_hash(table, store) == reference.data_hash


def test_a_changed_file_is_read_again(table: Path, store: Path):
    before = data.data_hash(table, store)
    content = table.read_text()
    table.write_text(content.replace("\n0,", "\n4,", 1))
    assert data.data_hash(table, store) != before


def test_a_picture_moved_to_another_class_is_noticed(tmp_path: Path, store: Path):
    folder = own_folder(tmp_path / "f")
    before = data.data_hash(folder, store)
    (folder / "cat" / "3.png").rename(folder / "dog" / "33.png")
    assert data.data_hash(folder, store) != before


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_cache_is_rebuilt(ending: str, damage: str, table: Path, store: Path, reference: data.Faces):
    data.open_faces(table, store)
    file = store / "data" / f"{reference.data_hash}.{ending}"
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[len(content) // 3] ^= 255
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    faces = data.open_faces(table, store)
    assert same(faces, reference) and (faces.images == reference.images).all()


def test_killed_while_caching_leaves_nothing_that_looks_finished(
    table: Path, store: Path, monkeypatch: pytest.MonkeyPatch, reference: data.Faces
):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "savez", killed)
        data.open_faces(table, store)
    assert not list(store.rglob("*.npz")) and not list(store.rglob("*.json"))
    assert same(data.open_faces(table, store), reference)


def test_no_space_left_is_told(table: Path, store: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\): free space"):
        data.open_faces(table, store)


def test_no_path_enters_the_cache(table: Path, store: Path):
    data.open_faces(table, store)
    held = b"".join(file.read_bytes() for file in store.rglob("*") if file.is_file())
    assert str(table.parent).encode() not in held


def test_importing_data_is_cheap():
    code = "import sys, fer_core.data; print(*({'torch', 'pyarrow', 'PIL', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


# ----------------------------------------------------------------------------------------------------- splits and audit


def made(groups: list[int], labels: list[int], usage: list[int]) -> data.Faces:
    """Images of 8 × 8 noise; images of one group are copies."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (max(groups) + 1, 8, 8), dtype=np.uint8)
    arrays = (np.array(labels, np.uint8), np.array(usage, np.uint8), np.arange(len(groups)).astype(str))
    return data.Faces(noise[groups], *arrays, np.array(groups, np.int32), ("a", "b"), "sample", "0", "memory")


def test_ids_tell_exact_copies_apart_in_canonical_order(rows: Rows, tmp_path: Path, store: Path):
    copies = [(rows[0][0], rows[0][1], usage) for usage in ("Training", "PublicTest")]
    faces = data.open_faces(write_table(tmp_path / "f.csv", [*copies, *rows]), store)
    key = np.flatnonzero((faces.images == np.array(rows[0][1].split(), np.uint8).reshape(48, 48)).all((1, 2)))
    prefix = faces.ids[key[0]]
    assert faces.ids[key].tolist() == [prefix, f"{prefix}-2", f"{prefix}-3"]
    assert len(set(faces.copies[key])) == 1 and len(set(faces.ids)) == faces.n


def test_random_split_is_a_plain_draw_of_the_pool(reference: data.Faces):
    split = data.make_split(reference, "random", 0.75, 5)
    pool = np.flatnonzero(reference.usage != PRIVATE)
    assert len(split.train) == round(0.75 * len(pool))
    assert np.array_equal(np.sort(np.r_[split.train, split.validation]), pool)
    assert np.array_equal(split.train, np.sort(np.random.default_rng(5).permutation(pool)[: len(split.train)]))


def test_test_set_and_leak_free_are_the_same_for_every_run(reference: data.Faces):
    splits = [data.make_split(reference, kind, 0.6, seed) for kind in ("random", "group") for seed in (0, 1)]
    assert all(np.array_equal(split.test, np.flatnonzero(reference.usage == PRIVATE)) for split in splits)
    assert len({split.leak_free.tobytes() for split in splits}) == 1


def test_another_seed_splits_otherwise(reference: data.Faces):
    first, second = (data.make_split(reference, seed=seed).train for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_group_split_keeps_copies_together_and_its_size():
    groups = [0, 0, 0, 1, 1, *range(2, 37)]
    faces = made([*groups, 37], [k % 2 for k in range(41)], [0] * 30 + [1] * 10 + [2])
    for seed in range(20):
        split = data.make_split(faces, "group", 0.75, seed)
        assert data.torn_copies(faces, split) == 0
        assert len(split.train) == 30


def test_official_split_is_training_and_public(reference: data.Faces):
    split = data.make_split(reference, "official")
    assert set(reference.usage[split.train]) == {TRAINING} and set(reference.usage[split.validation]) == {PUBLIC}


def test_torn_copies_counts_validation_images():
    faces = made([0, 1, 0, 1, 1, 2], [0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 2])
    assert data.torn_copies(faces, data.make_split(faces, "official")) == 3


def test_leaked_copies_are_dropped_from_training_alone():
    faces = made([0, 1, 2, 3, 0, 0, 4], [0, 1, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 2, 2])
    split = data.make_split(faces, "official", drop_leaked_copies=True)
    assert split.train.tolist() == [1, 2] and split.validation.tolist() == [3, 4]
    assert split.leak_free.tolist() == [False, True]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "grup"}, "split is 'grup', expected one of random, group, official; did you mean group?"),
        ({"train_fraction": 1.0}, "train_fraction is 1.0, expected more than 0 and less than 1"),
        ({"train_fraction": 0.001}, "no training image"),
        ({"train_fraction": 0.999}, "leaves no image for validation"),
    ],
)
def test_an_impossible_split_is_refused(changes: dict, told: str, reference: data.Faces):
    with pytest.raises(ParameterError) as caught:
        data.make_split(reference, **changes)
    assert told in str(caught.value)


def test_official_split_without_public_images_is_refused():
    with pytest.raises(ParameterError, match="choose split: random"):
        data.make_split(made([0, 1, 2], [0, 1, 0], [0, 0, 2]), "official")


def test_audit_counts_exact_copies():
    groups, labels = [0, 0, 0, 1, 1, 2, 0, 1, 3, 4, 2], [0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0]
    counts = data.audit(made(groups, labels, [0, 0, 0, 0, 0, 0, 1, 2, 2, 1, 2]))
    assert counts == {
        "images": 11, "duplicate_groups": 3, "redundant_copies": 6, "conflicting_groups": 1, "low_contrast": 0,
        "private_copies_of_training": 2, "private_copies_of_public": 0, "private_copies": 2,
        "public_copies_of_training": 1, "leak_free": 1, "unlabelled": 0,
    }  # fmt: skip


def test_near_copies_find_brighter_and_mirrored_images_but_not_exact_ones():
    faces = made(list(range(8)), [0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 2, 2, 2, 2])
    images, copies = faces.images.copy(), faces.copies.copy()
    images[4] = images[0] // 2 + 60  # brighter; the same label
    images[5] = images[2] // 3 + 9  # another label
    images[6] = images[1][:, ::-1]
    images[7], copies[7] = images[3], copies[3]  # exact: not among the further ones
    faces = data.Faces(images, faces.labels, faces.usage, faces.ids, copies, faces.classes, "sample", "0", "memory")
    near = data.near_copies(faces, [0.9, 0.99])
    assert (near["n"], near["mirrored"], near["agreement"]) == ([2, 2], [1, 1], [0.5, 0.5])


def test_flat_images_have_low_contrast_and_are_like_nothing():
    faces = made([0, 1, 2, 3], [0, 1, 0, 1], [0, 0, 2, 2])
    faces.images[[0, 2]] = 77
    assert data.low_contrast(faces).tolist() == [0, 2]
    assert data.near_copies(faces)["n"] == [0, 0, 0, 0]


# ------------------------------------------------------------------------------------------------------- the real thing

REAL = os.environ.get("FER_TEST_DATA")
needs_fer2013 = pytest.mark.skipif(not REAL, reason="FER_TEST_DATA does not name a FER2013")


@pytest.fixture(scope="module")
def fer2013(tmp_path_factory: pytest.TempPathFactory) -> data.Faces:
    assert REAL is not None
    return data.open_faces(Path(REAL), tmp_path_factory.mktemp("store"))


@needs_fer2013
def test_audit_of_fer2013_finds_the_studys_facts(fer2013: data.Faces):
    assert data.audit(fer2013) == {
        "images": 35887, "duplicate_groups": 1516, "redundant_copies": 1853, "conflicting_groups": 57,
        "low_contrast": 13, "private_copies_of_training": 288, "private_copies_of_public": 44, "private_copies": 314,
        "public_copies_of_training": 280, "leak_free": 3275, "unlabelled": 0,
    }  # fmt: skip


@needs_fer2013
def test_random_split_of_fer2013_has_the_originals_size(fer2013: data.Faces):
    split = data.make_split(fer2013)
    assert (len(split.train), len(split.validation), len(split.test)) == (24224, 8074, 3589)
    assert split.leak_free.sum() == 3275


@needs_fer2013
def test_near_copies_of_fer2013_are_the_studys(fer2013: data.Faces):
    near = data.near_copies(fer2013, [0.95, 0.98])
    assert near["n"] == [115, 41]
    assert [round(share, 2) for share in near["agreement"]] == [0.83, 0.8]
