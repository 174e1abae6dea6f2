"""Pictures in any form, faces found and cut out, a row each, the page, submissions, what is published of a network."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fer_core import artifacts, data, evaluation, networks, pictures, predict, training
from fer_core.artifacts import Settings
from fer_core.data import Faces
from fer_core.pictures import Box
from fer_core.schema import EMOTIONS, DataError, FerError, Params
from tests.conftest import make_faces

SMALL = Params(width=0.25, epochs=2, batch_size=32, learning_rate=0.005, threads=1, precision="float32", seeds=(0,))
HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"  # a photograph that matplotlib ships
FACE = Box(145, 99, 239, 239)  # where its face is, 512 × 600 pixels


@pytest.fixture(scope="module")
def faces() -> Faces:
    """Seven classes under the emotions' names."""
    return dataclasses.replace(make_faces(n=280, side=48, classes=7), classes=EMOTIONS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, faces: Faces) -> artifacts.Run:
    """A tiny run in a store of its own."""
    place = Settings(None, "sample", "cpu", tmp_path_factory.mktemp("out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        return training.train_or_load(SMALL, place, faces)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, run: artifacts.Run, faces: Faces) -> predict.Model:
    """Published from that run, as `make publish` does."""
    return predict.write_model(run, tmp_path_factory.mktemp("published") / "model", faces, "01_basic_cnn/default")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, model: predict.Model) -> predict.Model:
    monkeypatch.setattr(predict, "published_network", lambda folder=None: model)
    return model


@pytest.fixture
def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """One face in the left half of every picture: what becomes of it is tested without the cascade's seconds."""
    monkeypatch.setattr(pictures, "find_faces", lambda image: [Box(0, 0, image.shape[1] // 2, image.shape[1] // 2)])


def photo(path: Path, size: tuple[int, int] = (64, 40), form: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize(size).convert("RGB").save(path, form, **options)
    return path


def read_rows(place: Settings) -> list[dict[str, str]]:
    with (place.out / "reports" / "predictions" / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def page_of(place: Settings) -> str:
    return (place.out / "reports" / "predictions" / "index.html").read_text()


# -- decoding


def ramp() -> np.ndarray:
    return np.tile(np.arange(0, 256, 4, dtype=np.uint8), (32, 1))


@pytest.mark.parametrize("form", ["png16", "tif12", "rgba", "gif", "cmyk", "float"])
def test_every_form_of_a_picture_becomes_the_same_colours(tmp_path: Path, form: str) -> None:
    grey, path = ramp(), tmp_path / "picture.png"
    if form == "png16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    elif form == "tif12":
        path = path.with_suffix(".tif")
        Image.fromarray(grey.astype(np.uint16) * 16).save(path)
    elif form == "float":
        path = path.with_suffix(".tif")
        Image.fromarray((grey / 255).astype(np.float32)).save(path)
    elif form == "rgba":
        Image.fromarray(np.dstack([grey, grey, grey, np.full_like(grey, 255)])).save(path)
    elif form == "gif":
        path = path.with_suffix(".gif")
        Image.fromarray(grey).convert("P").save(path)
    else:
        path = path.with_suffix(".jpg")
        Image.fromarray(grey).convert("RGB").convert("CMYK").save(path, quality=100, subsampling=0)
    found = pictures.decode(path)
    assert found.shape == (32, 64, 3)
    assert found.dtype == np.uint8
    assert np.abs(found[..., 1].astype(int) - grey).max() <= 4


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert pictures.decode(tmp_path / "clear.png").min() == 255


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_exif_rotation_is_obeyed(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    path = tmp_path / f"turned{suffix}"
    upright = Image.fromarray(np.vstack([np.full((20, 30, 3), 250, np.uint8), np.zeros((20, 30, 3), np.uint8)]))
    upright.rotate(90, expand=True).save(path, exif=exif)
    found = pictures.decode(path)
    assert found.shape == (40, 30, 3)
    assert found[:15].min() > 200 > 50 > found[25:].max()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"nothing of the kind", "no picture that Pillow can read"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "picture.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        pictures.decode(path)


def test_a_cut_picture_and_a_huge_one_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = photo(tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        pictures.decode(tmp_path / "cut.jpg")
    monkeypatch.setattr(pictures, "MAX_PIXELS", 2000)
    with pytest.raises(DataError, match="shrink it"):
        pictures.decode(photo(tmp_path / "large.png"))


# -- finding


def test_folders_give_pictures_once_and_count_the_rest(tmp_path: Path) -> None:
    for name in ("a/face.png", "b/face.png", "b/deep/other.JPG"):
        photo(tmp_path / name, form="PNG")
    photo(tmp_path / "a" / "named_like_nothing", form="PNG")
    (tmp_path / "b" / "notes.txt").write_text("x")
    (tmp_path / "b" / ".DS_Store").write_text("x")
    (tmp_path / "b" / "phone.heic").write_text("x")
    found, left_out = pictures.find([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "face.png"])
    names = ["a/face.png", "a/named_like_nothing", "b/deep/other.JPG", "b/face.png", "b/phone.heic"]
    assert [picture.name for picture in found] == names
    assert left_out == 2


def test_one_folder_gives_names_within_it_and_one_file_its_own(tmp_path: Path) -> None:
    path = photo(tmp_path / "a" / "face.png")
    assert [p.name for p in pictures.find([tmp_path])[0]] == ["a/face.png"]
    assert [p.name for p in pictures.find([path])[0]] == ["face.png"]


def test_a_missing_path_and_a_folder_without_pictures_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        pictures.find([tmp_path / "no.jpg"])
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no picture in .* \(1 other files\)"):
        pictures.find([tmp_path])


def test_images_may_have_blanks_quotes_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my face.png", "b.png", "c.png"):
        photo(tmp_path / name)
    assert predict.image_paths(["my face.png"]) == [Path("my face.png")]
    assert predict.image_paths(["'my face.png' b.png"]) == [Path("my face.png"), Path("b.png")]
    assert predict.image_paths(["?.png"]) == [Path("b.png"), Path("c.png")]
    photo(tmp_path / "Anna's" / "one.png")
    assert predict.image_paths(["Anna's/*.png"]) == predict.image_paths(["A*/*.png"]) == [Path("Anna's/one.png")]
    assert predict.image_paths([str(tmp_path / "?.png")]) == [tmp_path / "b.png", tmp_path / "c.png"]
    assert predict.image_paths([" ".join(["b.png"] * 60)]) == [Path("b.png")] * 60  # as one name too long to be any


# -- faces


def test_a_photograph_s_face_is_found_and_cut_out_as_fer2013_s_are() -> None:
    image = pictures.decode(HOPPER)
    (box,) = pictures.find_faces(image)
    assert pictures.overlap(box, FACE) > 0.7
    crop = pictures.crop(image, box, (48, 48), 1)
    assert crop.shape == (48, 48)
    # Her glasses are darker than the forehead above and the cheeks below: eyes in the upper half, as in FER2013.
    rows = crop[:, 8:40].mean(1)
    assert 12 < rows[8:30].argmin() + 8 < 24


def test_faces_side_by_side_come_from_left_to_right_in_the_picture_s_own_pixels() -> None:
    hopper = Image.open(HOPPER).convert("RGB").resize((256, 300))
    both = Image.new("RGB", (2000, 400), "grey")  # larger than the detector looks at
    both.paste(hopper, (1500, 50))
    both.paste(hopper, (100, 50))
    left, right = pictures.find_faces(np.asarray(both))
    for box, x in ((left, 100), (right, 1500)):
        assert pictures.overlap(box, Box(x + 72, 50 + 49, 120, 120)) > 0.6


def test_no_face_is_found_in_noise_or_in_a_single_pixel() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 3)).astype(np.uint8)
    assert pictures.find_faces(noise) == []
    assert pictures.find_faces(np.zeros((1, 1, 3), np.uint8)) == []


def test_no_face_is_found_in_a_line() -> None:
    assert pictures.find_faces(np.zeros((1, 3000, 3), np.uint8)) == []
    assert pictures.find_faces(np.zeros((3000, 1, 3), np.uint8)) == []


def test_a_crop_at_the_edge_goes_on_with_the_edge() -> None:
    image = np.full((50, 50, 3), 200, np.uint8)
    assert (pictures.crop(image, Box(-10, -10, 60, 60), (48, 48), 3) == 200).all()


def test_an_image_of_the_network_s_own_size_stays_as_it_is() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (48, 48)).astype(np.uint8)
    assert (pictures.whole(np.stack([grey] * 3, -1), (48, 48), 1) == grey).all()


# -- the model


def test_the_published_network_answers_as_its_run_did(model: predict.Model, faces: Faces) -> None:
    split = data.make_split(faces, SMALL.split, SMALL.train_fraction, SMALL.split_seed)
    stored = model.run.metrics["validation"]["accuracy"]
    found = model.probabilities(faces.images[split.validation])
    assert (found.argmax(1) == faces.labels[split.validation]).mean() == pytest.approx(stored)
    assert found.sum(1) == pytest.approx(1)


def test_the_temperature_is_fitted_on_validation_alone(tmp_path: Path, model: predict.Model) -> None:
    p = np.array([[0.9, 0.1]] * 4)
    labels = [0, 0, 0, 1]
    frame = [{"split": "validation", "label": k, "p_a": q[0], "p_b": q[1]} for q, k in zip(p, labels, strict=True)]
    frame += [{"split": "test", "label": 1, "p_a": 0.9, "p_b": 0.1}] * 9
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((model.run.folder / "model.safetensors").read_bytes())
    artifacts.write_frame(folder / "predictions.parquet", pd.DataFrame(frame))
    assert predict.run_network(artifacts.Run("", SMALL, folder), (48, 48)).temperature == pytest.approx(
        evaluation.fit_temperature(p, labels)
    )


def test_a_published_folder_has_no_machine_and_all_that_it_takes(model: predict.Model) -> None:
    names = {"MODEL_CARD.md", "metrics.json", "model.json", "model.safetensors", "run.json"}
    assert {file.name for file in model.run.folder.iterdir()} == names
    assert "host" not in model.run.provenance
    again = predict.published_network(model.run.folder)
    assert (again.classes, again.image_size, again.channels) == (EMOTIONS, (48, 48), 1)


def test_weights_too_large_to_commit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: artifacts.Run, faces: Faces
) -> None:
    monkeypatch.setattr(predict, "LARGEST_WEIGHTS", 1000)
    with pytest.raises(FerError, match="MB, expected at most"):
        predict.write_model(run, tmp_path / "model", faces)
    assert not (tmp_path / "model").exists()


def test_the_model_card_tells_data_metrics_by_class_limits_and_licences(model: predict.Model, faces: Faces) -> None:
    card = (model.run.folder / "MODEL_CARD.md").read_text()
    validation = model.run.metrics["validation"]
    assert f"{100 * validation['accuracy']:.1f}" in card
    assert faces.data_hash in card
    for name in EMOTIONS:
        assert re.search(rf"^\| {name} \| \d+ \|", card, re.MULTILINE)
    for part in ("95 %", "It is weakest on", "Calibration", "does not know what a person feels", "Licences"):
        assert part in card
    assert "undefined" not in card
    assert "None" not in card


def test_without_a_published_network_the_error_names_the_command(tmp_path: Path, place: Settings) -> None:
    with pytest.raises(FerError, match="make report PAGE="):
        predict.published_network(tmp_path)
    with pytest.raises(FerError, match="neither a run's folder nor a page"):
        predict.chosen_network("04_complex_cnn/defualt", place)


def test_a_run_s_folder_or_an_untrained_page_as_model(run: artifacts.Run, faces: Faces, place: Settings) -> None:
    real = dataclasses.replace(place, data=place.out)
    with pytest.raises(FerError, match="the data it was trained on is in no run store here"):
        predict.chosen_network(str(run.folder), real)
    cache = run.folder.parent.parent / "data"
    cache.mkdir()
    np.save(cache / f"{faces.data_hash}.npy", faces.images[:2])
    assert predict.chosen_network(str(run.folder), real).image_size == (48, 48)
    with pytest.raises(FerError, match="has no finished run in OUT: make report PAGE=01_basic_cnn/default"):
        predict.chosen_network("01_basic_cnn/default", place)


def test_weights_of_another_network_are_refused(model: predict.Model) -> None:
    wider = dataclasses.replace(model, run=dataclasses.replace(model.run, params=SMALL.replace(width=0.5)))
    with pytest.raises(FerError, match="do not fit"):
        wider.network()


# -- the command


def test_a_row_a_face_and_faults_do_not_stop_the_others(
    tmp_path: Path, place: Settings, published: predict.Model, no_detector: None, capsys: pytest.CaptureFixture[str]
) -> None:
    name = '<b>&"x.png'
    photo(tmp_path / "in" / name, form="PNG")
    photo(tmp_path / "in" / "whole.jpg")
    (tmp_path / "in" / "cut.jpg").write_bytes((tmp_path / "in" / "whole.jpg").read_bytes()[:300])
    assert predict.predict([str(tmp_path / "in")], place) == 1
    odd, cut, whole = read_rows(place)
    columns = ["file", "face", "x", "y", "width", "height", "label", *(f"p_{name}" for name in EMOTIONS), "note"]
    assert list(odd) == columns
    assert (odd["file"], odd["face"], odd["x"], odd["width"]) == (name, "1", "0", "32")
    assert odd["label"] in EMOTIONS
    assert sum(float(odd[f"p_{name}"]) for name in EMOTIONS) == pytest.approx(1, abs=1e-5)
    assert (cut["face"], cut["label"], cut["p_happy"]) == ("", "", "")
    assert "damaged" in cut["note"]
    assert whole["note"] == ""
    assert "error: cut.jpg: damaged" in capsys.readouterr().err
    page = page_of(place)
    assert "&lt;b&gt;&amp;&#34;x.png" in page
    assert "<b>" not in page


def test_no_face_found_is_a_row_with_empty_fields_and_no_fault(
    tmp_path: Path, place: Settings, published: predict.Model
) -> None:
    assert predict.predict([str(photo(tmp_path / "ramp.png"))], place) == 0
    (row,) = read_rows(place)
    assert row["note"] == "no face found"
    assert not any(value for name, value in row.items() if name not in ("file", "note"))
    assert "no face found" in page_of(place)


def test_ready_crops_are_taken_whole_and_tiny_ones_refused(
    tmp_path: Path, place: Settings, published: predict.Model
) -> None:
    photo(tmp_path / "crop.png", (48, 48))
    photo(tmp_path / "dot.png", (1, 1))
    assert predict.predict([str(tmp_path)], place, detect=False) == 1
    crop, dot = read_rows(place)
    assert (crop["x"], crop["y"], crop["width"], crop["height"]) == ("0", "0", "48", "48")
    assert "1 × 1 pixels" in dot["note"]


def test_a_table_without_labels_gives_a_submission_in_its_own_order(
    tmp_path: Path, place: Settings, published: predict.Model, faces: Faces
) -> None:
    chosen = faces.images[[5, 3, 8, 3]]
    lines = [" ".join(map(str, image.ravel())) for image in chosen]
    table = tmp_path / "test.csv"
    table.write_text("pixels\n" + "".join(f'"{line}"\n' for line in lines))
    assert predict.predict([str(table)], place) == 0
    expected = published.probabilities(chosen).argmax(1)
    submission = (place.out / "reports" / "predictions" / "submission.csv").read_text()
    assert submission == "".join(f"{label}\n" for label in expected)
    assert [row["face"] for row in read_rows(place)] == ["1", "2", "3", "4"]
    # The next call on pictures leaves no old submission behind.
    predict.predict([str(photo(tmp_path / "ramp.png"))], place)
    assert not (place.out / "reports" / "predictions" / "submission.csv").exists()


def test_a_faulty_row_of_a_table_is_named_and_nothing_is_written(
    tmp_path: Path, place: Settings, published: predict.Model
) -> None:
    (tmp_path / "test.csv").write_text('pixels\n"1 2 300"\n')
    with pytest.raises(DataError, match=r"test\.csv, row 1"):
        predict.predict([str(tmp_path / "test.csv")], place)
    assert not (place.out / "reports").exists()


def test_the_page_asks_nobody_describes_every_picture_and_says_what_it_does_not_mean(
    tmp_path: Path, place: Settings, published: predict.Model, no_detector: None
) -> None:
    predict.predict([str(photo(tmp_path / "face.png"))], place)
    page = page_of(place)
    assert not re.search(r"""(src|href)="(https?:)?//""", page)
    assert all("alt=" in tag for tag in re.findall(r"<img [^>]*>", page))
    assert 'aria-label="face.png: 1 face marked, face 1' in page
    assert "Not what a person feels" in page
    assert "img-src data:" in page
    assert len(re.findall(r'<th scope="row">happy', page)) == 2  # a bar and a row of the table by class


def test_the_page_has_no_more_faces_than_it_may_and_says_so(
    tmp_path: Path, place: Settings, published: predict.Model, no_detector: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "SHOWN_FACES", 1)
    for name in ("a.png", "b.png"):
        photo(tmp_path / "in" / name)
    predict.predict([str(tmp_path / "in")], place)
    assert len(read_rows(place)) == 2
    page = page_of(place)
    assert "The first 1 face of 2 faces" in page
    assert "b.png" not in page


def test_evidence_lies_between_0_and_1_on_each_crop(model: predict.Model, faces: Faces) -> None:
    maps = model.evidence(faces.images[:3], np.array([0, 1, 2]))
    assert maps.shape == (3, 48, 48)
    assert maps.min() >= 0
    assert maps.max() == pytest.approx(1)


def test_networks_are_built_as_the_run_says(model: predict.Model) -> None:
    built = networks.build(model.run.params, model.image_size, model.channels, len(model.classes))
    assert [p.shape for p in built.parameters()] == [p.shape for p in model.network().parameters()]
