"""A network's answer for pictures of one's own: predictions.csv, a page to read, a submission for Kaggle's test.csv.

Also what is published of a network: `write_model` writes weights, facts and card, `published_network` reads them.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fer_core import build, data, devices, evaluation, explain, networks, pictures, plots, report, schema, training
from fer_core.artifacts import Run, Settings, csv_bytes, read_json, user_path, write_bytes, write_json
from fer_core.data import Faces
from fer_core.pictures import Box, Picture
from fer_core.schema import EMOTIONS, ROOT, DataError, FerError, ParameterError, counted

PUBLISHED = ROOT / "reports" / "published" / "fer2013" / "model"

LARGEST_WEIGHTS = 8_000_000  # bytes that a repository may be asked to carry
FACTS = ("classes", "image_size", "channels", "temperature", "page", "drawn")  # of a model, in its model.json
SHOWN_FACES = 200  # on the page; predictions.csv has all
SHOWN_SIDE = 720  # pixels of a picture on the page
COLUMNS = ("file", "face", "x", "y", "width", "height", "label")
NO_FACE = "no face found"


# --------------------------------------------------------------------------------------------------------- the network


@dataclass(frozen=True)
class Model:
    """A finished run and what it takes to ask it."""

    run: Run
    classes: tuple[str, ...]
    image_size: tuple[int, int]  # height and width that it was trained on
    channels: int
    temperature: float  # what its logits are divided by, fitted on its own validation images
    page: str = ""  # whose run it is; empty where unknown
    drawn: bool = False  # whether it was trained on drawn faces, which say nothing about real ones

    def network(self) -> nn.Module:
        """On the CPU, in evaluation mode.

        Raises
        ------
        FerError: the weights are damaged, or of another network than the run says.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        network = networks.build(self.run.params, self.image_size, self.channels, len(self.classes))
        try:
            network.load_state_dict(load_file(self.run.folder / "model.safetensors"))
        except (OSError, SafetensorError) as fault:
            raise FerError(f"model.safetensors of the network cannot be read ({fault}): get it again.") from fault
        except RuntimeError as fault:
            raise FerError(
                f"the weights do not fit the {self.run.params.network} of this checkout: use the commit in run.json."
            ) from fault
        return network.eval()

    def probabilities(self, crops: np.ndarray, device: str = "cpu") -> np.ndarray:
        """Calibrated, float64 (n, k), of uint8 (n, h, w) or (n, h, w, 3); in float32 on every machine."""
        params = dataclasses.replace(self.run.params, precision="float32")
        with devices.ready(device, devices.cpu_count()):
            network = self.network().to(device).to(memory_format=torch.channels_last)
            mean, deviation = training.run_scale(self.run)
            images, scale = training.channels_first(crops).to(device), (mean.to(device), deviation.to(device))
            found = training.predict(network, images, scale, params, params.test_views).cpu().numpy()
        return evaluation.with_temperature(found, self.temperature)

    def evidence(self, crops: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Grad-CAM of the class given for each, float (n, h, w), 0 to 1."""
        network = self.network()
        with devices.ready("cpu", devices.cpu_count()):
            maps = [
                explain.grad_cam(network, training.to_input(crops[part], self.run), torch.from_numpy(classes[part]))
                for part in (slice(start, start + 64) for start in range(0, len(crops), 64))
            ]
        return torch.cat(maps).numpy()


def _weights_header(folder: Path) -> dict[str, Any]:
    """What training wrote beside the weights: classes, mean and deviation of the pixels."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "model.safetensors", "pt") as weights:
            return json.loads(weights.metadata()["fer"])
    except (OSError, SafetensorError, KeyError, TypeError) as fault:
        raise FerError(f"{folder.name}: model.safetensors is missing or damaged: get or train it again.") from fault


def _run(folder: Path) -> Run:
    """The finished run in a folder, its parameters from run.json."""
    record = read_json(folder / "run.json")
    if not isinstance(record, dict) or "parameters" not in record:
        raise FerError(
            f"MODEL {folder}: holds no run.json of a run: give a run's folder or a page, such as 06_final/all_fixes."
        )
    params = schema.resolve(schema.check(record["parameters"], "run.json"), sample=False)
    return _learned(Run(record.get("key", ""), params, folder), folder.name)


def _learned(run: Run, name: str) -> Run:
    if run.state != "done":
        raise FerError(f"MODEL {name}: its run is {run.state}, expected one that is done: choose another.")
    return run


def published_network(folder: Path = PUBLISHED) -> Model:
    """The network that `write_model` put there.

    Raises
    ------
    FerError: there is none, or it is not whole; says how to make one.
    """
    facts = read_json(folder / "model.json")
    if not isinstance(facts, dict) or not facts.keys() >= set(FACTS):
        raise FerError(
            "no network is published here yet: train one with make report PAGE=06_final/all_fixes "
            "DATA=path/to/fer2013, then add MODEL=06_final/all_fixes DATA=path/to/fer2013 to this command."
        )
    known = {name: facts[name] for name in FACTS}
    return Model(_run(folder), **known | {name: tuple(facts[name]) for name in ("classes", "image_size")})


def run_network(run: Run, image_size: tuple[int, int], page: str = "", drawn: bool = False) -> Model:
    """A run of the store, its temperature fitted on its own validation predictions."""
    header, temperature = _weights_header(run.folder), evaluation.fit_temperature(*_answers(run, "validation"))
    return Model(run, tuple(header["classes"]), image_size, len(header["mean"]), temperature, page, drawn)


def _answers(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Of a split's labelled images the probabilities, float (n, k), and the labels, int (n,)."""
    found, columns = run.predictions, evaluation.probability_columns(run.predictions)
    found = found[(found["split"] == split) & (found["label"] < len(columns))]
    return found[columns].to_numpy(float), found["label"].to_numpy(int)


def chosen_network(words: str, settings: Settings) -> Model:
    """The published network, or the one that MODEL names: a page of this OUT and its data, or a run's folder.

    Raises
    ------
    FerError: nothing of that name, or its run is not finished; says which command makes it.
    """
    if not words:
        return published_network()
    folder = user_path(words)
    if (folder / "model.json").exists():
        return published_network(folder)
    if folder.is_dir():
        run = _run(folder)
        drawn = settings.sample and run.provenance.get("data_hash") == data.data_hash(None, settings.store)
        return run_network(run, _stored_size(run, settings), drawn=drawn)
    if words not in schema.page_names():
        near = schema.nearest(words, schema.page_names())
        raise ParameterError(f"MODEL is '{words}', neither a run's folder nor a page{near}: see make plan.")
    plan = build.Plan(settings, [words]).pages[words]
    if plan.own is None:
        raise ParameterError(
            f"MODEL is {words}, a page without a network of its own: name one of notebooks 01 to 04, 06 or 07."
        )
    if plan.own.found is None:
        variables = "" if settings.sample else " DATA=…"
        raise FerError(f"MODEL: {words} has no finished run in OUT: make report PAGE={words}{variables} trains it.")
    faces = data.open_faces(settings.data, settings.store)
    return run_network(_learned(plan.own.found, words), faces.image_size, words, settings.sample)


def _stored_size(run: Run, settings: Settings) -> tuple[int, int]:
    """Height and width of the images that a run was trained on, from the data's cache: beside it, or in this OUT."""
    for store in (run.folder.resolve().parent.parent, settings.store):
        try:
            stored = np.load(store / "data" / f"{run.provenance.get('data_hash')}.npy", mmap_mode="r")
        except (OSError, ValueError):  # not there, or damaged
            continue
        height, width = stored.shape[1:3]
        return height, width
    raise FerError(
        f"MODEL {run.folder}: the data it was trained on is in no run store here: "
        "name its page instead (MODEL=06_final/… DATA=…)."
    )


# ----------------------------------------------------------------------------------------------------------- answering


@dataclass
class Face:
    """A face in a picture (`number` from 1, left to right) or a row of a table, with its answer once there is one."""

    number: int
    box: Box
    crop: np.ndarray
    probabilities: np.ndarray = field(default_factory=lambda: np.zeros(0))
    label: str = ""
    heat: np.ndarray = field(default_factory=lambda: np.zeros(0))  # of the first SHOWN_FACES: where the evidence lies


@dataclass
class Seen:
    """A picture with its faces; with `fault` one that could not be read."""

    name: str
    size: tuple[int, int] = (0, 0)
    faces: list[Face] = field(default_factory=list)
    shown: str = ""  # small, as JPEG and without what the file says beside its pixels (such as where it was taken)
    fault: str = ""

    @property
    def note(self) -> str:
        return self.fault or ("" if self.faces else NO_FACE)


def look(picture: Picture, model: Model, detect: bool, show: bool) -> Seen:
    """Decode a picture and cut out its faces."""
    try:
        image = pictures.decode(picture.path)
        height, width = image.shape[:2]
        if detect:
            boxes = pictures.find_faces(image)
            crops = [pictures.crop(image, box, model.image_size, model.channels) for box in boxes]
        else:
            boxes, crops = [Box(0, 0, width, height)], [pictures.whole(image, model.image_size, model.channels)]
    except DataError as fault:
        return Seen(picture.name, fault=str(fault))
    faces = [Face(n, box, crop) for n, (box, crop) in enumerate(zip(boxes, crops, strict=True), 1)]
    return Seen(picture.name, (height, width), faces, _small_address(image) if show else "")


def look_at_table(path: Path, model: Model) -> Seen:
    """Each row of a table such as Kaggle's test.csv as a face."""
    images = data.unlabelled_images(path)
    height, width = images.shape[1:]
    crops = pictures.resized(images, model.image_size, model.channels)
    faces = [Face(n, Box(0, 0, width, height), face) for n, face in enumerate(crops, 1)]
    return Seen(pictures.shown(Path(path.name)), (height, width), faces)


def answer(model: Model, seen: Sequence[Seen], device: str) -> None:
    """Fill in probabilities and label of every face, and the evidence of those that the page shows."""
    faces = [face for one in seen for face in one.faces]
    if not faces:
        return
    crops = np.stack([face.crop for face in faces])
    found = model.probabilities(crops, device)
    for face, p in zip(faces, found, strict=True):
        face.probabilities, face.label = p, model.classes[int(p.argmax())]
    maps = model.evidence(crops[:SHOWN_FACES], found[:SHOWN_FACES].argmax(1))
    for face, heat in zip(faces[:SHOWN_FACES], maps, strict=True):
        face.heat = heat


def rows(seen: Iterable[Seen], classes: Sequence[str]) -> list[dict[str, Any]]:
    """predictions.csv: a row a face; one with empty fields and a note where there is none."""
    found: list[dict[str, Any]] = []
    for one in seen:
        for face in one.faces:
            named = {f"p_{name}": f"{p:.6f}" for name, p in zip(classes, face.probabilities, strict=True)}
            found.append({"file": one.name, "face": face.number, **face.box._asdict(), "label": face.label, **named})
        if one.note:
            found.append({"file": one.name, "note": one.note})
    return found


def submission(table: Seen) -> bytes:
    """The emotions' numbers, one a line in the table's order, without a header.

    Source: the organisers' own baseline, pylearn2/scripts/icml_2013_wrepl/emotions/make_submission.py.
    """
    return "".join(f"{EMOTIONS.index(face.label)}\n" for face in table.faces).encode()


# ------------------------------------------------------------------------------------------------------------- the page


def _address(picture: Any, form: str, **options: Any) -> str:
    """A picture of Pillow's within the page."""
    out = io.BytesIO()
    picture.save(out, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(out.getvalue()).decode()}"


def _small_address(image: np.ndarray) -> str:
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return _address(small, "jpeg", quality=80)


def _crop_address(face: Face, warm: bool) -> str:
    """The face as the network sees it, three times as large; `warm`, under the evidence as other pages draw it."""
    import matplotlib
    from PIL import Image

    crop = face.crop if face.crop.ndim == 3 else np.stack([face.crop] * 3, -1)
    if warm:
        heat = face.heat.clip(0, 1)
        colours, share = matplotlib.colormaps["inferno"](heat)[..., :3], 0.65 * heat[..., None]
        crop = ((1 - share) * crop + share * 255 * colours).round().astype(np.uint8)
    large = Image.fromarray(crop).resize((3 * crop.shape[1], 3 * crop.shape[0]), Image.Resampling.NEAREST)
    return _address(large, "png")


def _shown_pictures(seen: Sequence[Seen], model: Model) -> list[dict[str, Any]]:
    """What the template draws: each picture with boxes, and of each face two crops and the bars, likeliest first."""
    colours = plots.palette(model.classes)
    shown, left = [], SHOWN_FACES
    for one in seen:
        faces = []
        for face in one.faces[:left]:
            bars = sorted(zip(model.classes, face.probabilities.tolist(), strict=True), key=lambda bar: -bar[1])
            drawn: dict[str, Any] = {"crop": _crop_address(face, False), "heat": _crop_address(face, True)}
            drawn |= {"evident": bool(face.heat.any()), "bars": [(name, p, colours[name]) for name, p in bars]}
            faces.append(vars(face) | drawn)
        left -= len(faces)
        if faces or (one.note and left > 0):
            shown.append({"seen": one, "address": one.shown, "faces": faces})
    return shown


def class_rows(scores: Mapping[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class of one split's metrics, with a Wilson interval of the recall."""
    found = []
    for name in classes:
        row = scores["classes"][name]
        low, high = evaluation.wilson(round((row["recall"] or 0) * row["n"]), row["n"])
        found.append({"name": name, **row, "low": low, "high": high})
    return found


def measured(run: Run) -> tuple[str, dict[str, Any]]:
    """The strictest split that the run was scored on, in words, and its metrics."""
    parts = {
        "test_leak_free": "test images without a copy in training or validation",
        "test_official": "test images",
        "validation": "validation images",
    }
    for name, words in parts.items():
        if name in run.metrics:
            return words, run.metrics[name]
    raise FerError(f"{run.folder.name}: metrics.json is missing or damaged: get or train this run again.")


def _provenance(model: Model, detect: bool) -> dict[str, str]:
    import PIL

    record = model.run.provenance
    told = {
        "network": model.run.params.network,
        "page": model.page or "–",
        "training key": model.run.key or "–",
        "data hash": record.get("data_hash", "–"),
        "commit": record.get("commit") or "–",
        "temperature": f"{model.temperature:.3f}",
        "torch": torch.__version__,
        "Pillow": PIL.__version__,
    }
    if detect:
        import cv2

        told["OpenCV"] = cv2.__version__
    return told


def render(model: Model, seen: Sequence[Seen], left_out: int, detect: bool, table: bool) -> str:
    """The page: one file, no request to any host, nothing that a script must do."""
    shown = _shown_pictures(seen, model)
    words, scores = measured(model.run)
    return report.filled(
        "predictions.html.j2",
        model=model,
        pictures=shown,
        faces=sum(len(one.faces) for one in seen),
        shown_faces=sum(len(one["faces"]) for one in shown),
        total=len(seen),
        without=sum(one.note == NO_FACE for one in seen),
        faulty=sum(bool(one.fault) for one in seen),
        left_out=left_out,
        detect=detect,
        table=table,
        detector=pictures.DETECTOR,
        margin=pictures.MARGIN,
        split=words,
        scores=scores,
        classes=class_rows(scores, model.classes),
        original_classes=model.classes == EMOTIONS,
        provenance=_provenance(model, detect and not table),
    )


# ----------------------------------------------------------------------------------------------------------- publishing


def write_model(run: Run, folder: Path, faces: Faces, page: str = "") -> Model:
    """Put a run where others can use it: weights, metrics, run.json (without the machine's name), facts and card.

    `faces` is the data that it was trained on, `page` the page whose run it is.

    Raises
    ------
    FerError: the weights are larger than LARGEST_WEIGHTS.
    """
    size = (run.folder / "model.safetensors").stat().st_size
    if size > LARGEST_WEIGHTS:
        raise FerError(
            f"the weights of {page or run.key} are {size / 1e6:.1f} MB, expected at most {LARGEST_WEIGHTS / 1e6:.0f}: "
            "publish a run of smaller width."
        )
    model = run_network(run, faces.image_size, page, faces.name == "sample")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").unlink(missing_ok=True)  # what counts is written last
    write_bytes(folder / "model.safetensors", (run.folder / "model.safetensors").read_bytes())
    write_json(folder / "metrics.json", run.metrics)
    write_json(folder / "run.json", report.without_machine(run.provenance))
    write_bytes(folder / "MODEL_CARD.md", model_card(model, faces).encode())
    write_json(folder / "model.json", {name: getattr(model, name) for name in FACTS})
    return published_network(folder)


def model_card(model: Model, faces: Faces) -> str:
    """The model card in Markdown, every figure from the run's artifacts and the data.

    Source: Mitchell et al., Model Cards for Model Reporting, arXiv:1810.03993.
    """
    params = model.run.params
    words, scores = measured(model.run)
    parts = {"test_official": "test, official", "test_leak_free": "test, leak-free", "validation": "validation"}
    stated = ", ".join(f"{name} {value}" for name, value in sorted(schema.run_values(params).items()))
    return report.filled(
        "model_card.md.j2",
        autoescape=False,
        model=model,
        faces=faces,
        split=data.split_of(faces, params),
        stated=stated or "nothing",
        scores={words: model.run.metrics[name] for name, words in parts.items() if name in model.run.metrics},
        words=words,
        n=scores["n"],
        classes=class_rows(scores, model.classes),
        calibration=list(_calibration(model)),
        confusions=_confusions(model),
        detector=pictures.DETECTOR,
    )


def _calibration(model: Model) -> Iterator[dict[str, Any]]:
    """ECE and cross-entropy before and after the temperature, on each split that was scored."""
    for split in sorted(model.run.predictions["split"].unique()):
        p, labels = _answers(model.run, split)
        row: dict[str, Any] = {"split": split, "n": len(p)}
        for when, q in (("before", p), ("after", evaluation.with_temperature(p, model.temperature))):
            row[f"ece_{when}"] = evaluation.calibration_error(evaluation.calibration(q, labels))
            row[f"loss_{when}"] = evaluation.cross_entropy(q, labels)
        yield row


def _confusions(model: Model) -> list[tuple[str, str, float]]:
    """The three commonest mistakes by share of the true class's validation images: (true, answered, share)."""
    p, labels = _answers(model.run, "validation")
    counts = evaluation.confusion(labels, evaluation.predicted_labels(p), len(model.classes))
    shares = np.where(np.eye(len(counts), dtype=bool), 0, counts) / np.maximum(counts.sum(1, keepdims=True), 1)
    order = np.argsort(-shares, axis=None, kind="stable")[:3]
    return [
        (model.classes[i], model.classes[j], float(shares[i, j]))
        for i, j in zip(*np.unravel_index(order, shares.shape), strict=True)
    ]


# --------------------------------------------------------------------------------------------------------- the command


def image_paths(words: Sequence[str]) -> list[Path]:
    """The paths that IMAGES names: one as it stands, or several parted by blanks; quotes and patterns as in a shell."""
    paths: list[Path] = []
    for word in words:
        for part in [word] if _exists(word) else _parted(word):
            path = user_path(part)
            whole = path.relative_to(path.anchor).as_posix()  # a pattern must be relative
            paths += [path] if _exists(part) else sorted(Path(path.anchor).glob(whole)) or [path]
    return paths


def _exists(word: str) -> bool:
    try:
        return user_path(word).exists()
    except OSError:  # too long to be a name
        return False


def _parted(word: str) -> list[str]:
    """Words parted by blanks, quotes as in a shell; whole where they do not close, as in Anna's photos/*.jpg."""
    try:
        return shlex.split(word.replace("\\", "\\\\") if os.name == "nt" else word) or [word]
    except ValueError:
        return [word]


def predict(words: Sequence[str], settings: Settings, model_words: str = "", detect: bool = True) -> int:
    """Look at pictures, folders or one table; write predictions.csv, the page and, for a table, submission.csv.

    Returns
    -------
    The exit status: 1 where a picture could not be read (its row says why), else 0.

    Raises
    ------
    FerError: no picture, no network, a table at fault.
    """
    paths = image_paths([word for word in words if word.strip()])
    if not paths:
        raise FerError("which pictures? IMAGES=photo.jpg, a folder, or Kaggle's test.csv.")
    table = next((path for path in paths if path.is_file() and data.is_table(path)), None)
    if table is not None and len(paths) > 1:
        raise FerError(f"IMAGES: {table.name} is a table, which goes alone: leave the other paths out.")
    found, left_out = ([], 0) if table else pictures.find(paths)
    model = chosen_network(model_words, settings)
    if table:
        if model.classes != EMOTIONS:
            raise FerError(
                f"{table.name}: a submission names FER2013's seven emotions, which this network does not know."
            )
        seen = [look_at_table(table, model)]
    else:
        seen = _look_at_all(found, model, detect)
    answer(model, seen, devices.device_type(settings.device))
    folder = settings.out / "reports" / "predictions"
    _write(folder, model, seen, left_out, detect, table is not None)
    return _tell(folder, seen, left_out, table is not None)


def _look_at_all(found: Sequence[Picture], model: Model, detect: bool) -> list[Seen]:
    seen: list[Seen] = []
    living, faces = sys.stderr.isatty() and len(found) > 1, 0
    for n, picture in enumerate(found, 1):
        if living:
            print(f"\r\033[K{n} of {len(found)} pictures", end="", file=sys.stderr, flush=True)
        seen.append(look(picture, model, detect, faces < SHOWN_FACES))
        faces += len(seen[-1].faces)
    if living:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return seen


def _write(folder: Path, model: Model, seen: Sequence[Seen], left_out: int, detect: bool, table: bool) -> None:
    """All files once all is known: what an earlier call left there is replaced whole."""
    page = render(model, seen, left_out, detect, table).encode()
    columns = (*COLUMNS, *(f"p_{name}" for name in model.classes), "note")
    (folder / "submission.csv").unlink(missing_ok=True)
    write_bytes(folder / "predictions.csv", csv_bytes(columns, rows(seen, model.classes)))
    write_bytes(folder / "index.html", page)
    if table:
        write_bytes(folder / "submission.csv", submission(seen[0]))


def _tell(folder: Path, seen: Sequence[Seen], left_out: int, table: bool) -> int:
    """A line a face where they are few, then what there was in all; faults go to stderr."""
    faces = [(one.name, face) for one in seen for face in one.faces]
    for name, face in faces[:20] if not table else []:
        print(f"{name}, face {face.number}: {face.label} ({face.probabilities.max():.0%})")
    for one in seen:
        if one.note == NO_FACE and len(seen) <= 20:
            print(f"{one.name}: {NO_FACE}")
    faulty = [one for one in seen if one.fault]
    for one in faulty:
        print(f"error: {one.name}: {one.fault}.", file=sys.stderr)
    others = f", {counted(left_out, 'other file')} left out" if left_out else ""
    print(
        f"{counted(len(faces), 'face')} in {counted(len(seen) - len(faulty), 'table' if table else 'picture')}{others}."
    )
    if table:
        print(f"submission: {folder / 'submission.csv'}")
    print(f"page: {folder / 'index.html'}")
    return 1 if faulty else 0
