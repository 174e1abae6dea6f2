"""One run: `train_step` and `validation_step`, the loop around them, its checkpoints and what it leaves behind.

All randomness is a function of (seed, epoch), or of (seed, epoch, image): the epoch's number is the generators' whole
state, so a run that was killed goes on with the same bits.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fer_core import augment, devices, evaluation, networks
from fer_core.artifacts import (
    HISTORY_COLUMNS,
    Run,
    RunKey,
    Settings,
    find_run,
    read_json,
    run_folder,
    run_key,
    write_bytes,
    write_frame,
    write_json,
)
from fer_core.data import Faces, Split, make_split
from fer_core.schema import ROOT, FerError, Params

EVALUATION_BATCH = 256  # images; large enough for speed, small enough for a core's cache share
CLEAN_IMAGES = 4096  # training images that are measured without transforms and Dropout: ± 1.5 points at most
CHANCE_MARGIN = 0.02  # above the majority class's share: below it a run counts as never having learned
OnEpoch = Callable[[dict[str, Any]], None]


class Stopped(Exception):
    """The run was asked to stop (SIGTERM, time limit); its last checkpoint stands."""


@dataclass
class Session:
    """A training under way: all that a checkpoint must hold, and the images on their device."""

    params: Params
    device: str
    network: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scale: tuple[Tensor, Tensor]  # mean and standard deviation of the training pixels, (1, c, 1, 1), 0 to 255
    train: ImageSet
    validation: ImageSet
    clean: ImageSet  # training images to measure as they are
    classes: int
    class_weights: Tensor | None
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    tracking_id: str = ""

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are measured and kept: the moving average where there is one."""
        return self.average.module if self.average is not None else self.network


@dataclass(frozen=True)
class ImageSet:
    """Images on the device as uint8, with their labels and their place in the canonical order."""

    images: Tensor  # uint8 (n, c, h, w)
    labels: Tensor  # int64 (n,)
    rows: np.ndarray  # int64 (n,)

    def __len__(self) -> int:
        return len(self.labels)


class FaceDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """The images as a torch Dataset, for people's own loops: float (c, h, w) in 0 to 1 and the label.

    The training here does not use it: it keeps all images on the device and changes them in batches.
    """

    def __init__(self, faces: Faces, indices: np.ndarray) -> None:
        self.faces, self.indices = faces, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        index = int(self.indices[item])
        return channels_first(self.faces.images[index : index + 1])[0].float() / 255, int(self.faces.labels[index])


# ---------------------------------------------------------------------------------------------------------- preparation


def channels_first(images: np.ndarray) -> Tensor:
    """uint8 (n, h, w) or (n, h, w, 3) -> uint8 (n, c, h, w)."""
    tensor = torch.from_numpy(np.array(images))
    return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()


def image_set(faces: Faces, rows: np.ndarray, device: str) -> ImageSet:
    rows = np.asarray(rows, dtype=np.int64)
    labels = torch.from_numpy(faces.labels[rows].astype(np.int64))
    return ImageSet(channels_first(faces.images[rows]).to(device), labels.to(device), rows)


def pixel_scale(images: np.ndarray, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 (n, h, w) or (n, h, w, 3), each float32 (1, c, 1, 1).

    Counted in whole numbers, so that every machine gets the same.
    """
    channels = images[..., None] if images.ndim == 3 else images
    levels = np.arange(256, dtype=np.float64)
    found = []
    for channel in range(channels.shape[3]):
        counts = np.bincount(channels[..., channel].ravel(), minlength=256)
        mean = (counts * levels).sum() / counts.sum()
        variance = (counts * levels**2).sum() / counts.sum() - mean**2
        found.append((mean, math.sqrt(max(variance, 1.0))))
    mean, deviation = (torch.tensor(part).float().view(1, -1, 1, 1).to(device) for part in zip(*found, strict=True))
    return mean, deviation


def normalise(images: Tensor, scale: tuple[Tensor, Tensor], fault: str = "none") -> Tensor:
    """Float (n, c, h, w), 0 to 255 -> mean 0, deviation 1 over the training images, channels last."""
    values = (images - scale[0]) / scale[1]
    if fault == "normalised_twice":
        values = (values - scale[0]) / scale[1]
    return values.contiguous(memory_format=torch.channels_last)


def _optimizer(network: nn.Module, params: Params) -> torch.optim.Optimizer:
    weights, rate, decay = list(network.parameters()), params.learning_rate, params.weight_decay
    if params.optimizer == "sgd":
        return torch.optim.SGD(weights, rate, params.momentum, weight_decay=decay, nesterov=params.momentum > 0)
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return kind(weights, rate, weight_decay=decay, fused=True)


def _class_weights(labels: Tensor, classes: int) -> Tensor:
    """n / (classes · images of the class): every class weighs the same in all."""
    counts = functional.one_hot(labels, classes).sum(0).float()
    return len(labels) / (classes * counts.clamp_min(1))


def prepare(params: Params, faces: Faces, split: Split, device: str) -> Session:
    """A session at epoch 0: images on the device, weights drawn from the seed."""
    torch.manual_seed(params.seed)
    channels, classes = faces.channels, len(faces.classes)
    network = networks.build(params, faces.image_size, channels, classes).to(device)
    network = network.to(memory_format=torch.channels_last)
    average = None
    if params.ema_decay is not None:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(params.ema_decay))
    train = image_set(faces, split.train, device)
    if params.data_fault == "labels_out_of_step":
        shuffled = torch.from_numpy(np.random.default_rng(0).permutation(len(train))).to(device)
        train = ImageSet(train.images, train.labels[shuffled], train.rows)
    weights = _class_weights(train.labels, classes) if params.class_weights else None
    validation = image_set(faces, split.validation, device)
    optimizer = _optimizer(network, params)
    scale = pixel_scale(faces.images[split.train], device)
    clean = clean_part(train)
    return Session(params, device, network, average, optimizer, scale, train, validation, clean, classes, weights)


# ---------------------------------------------------------------------------------------------------------------- steps


def learning_rate(params: Params, step: int, steps: int, history: list[dict[str, float]]) -> float:
    """The rate of a step out of all steps of the run.

    Warm-up is linear. cosine: arXiv:1608.03983 without restarts. one_cycle: up over the warm-up, then linear to 0.
    plateau: as torch's ReduceLROnPlateau, replayed over the validation losses so far.
    """
    rate = params.learning_rate
    warm = params.warmup_fraction * steps
    if step < warm:
        return rate * (step + 1) / (math.floor(warm) + 1)
    along = (step - warm) / max(1.0, steps - warm)
    if params.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * along))
    if params.schedule == "one_cycle":
        return rate * (1 - along)
    if params.schedule == "plateau":
        return rate * params.plateau_factor ** _plateaus(params, [row["validation_loss"] for row in history])
    return rate


def _plateaus(params: Params, losses: list[float]) -> int:
    """How often the loss has stayed for longer than the patience above (1 − 1e-4) of its best."""
    best, waited, reached = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - 1e-4):
            best, waited = loss, 0
        else:
            waited += 1
        if waited > params.plateau_patience:
            reached, waited = reached + 1, 0
    return reached


def train_step(session: Session, chosen: Tensor, numbers: Tensor, epoch: int, batch: int) -> tuple[Tensor, ...]:
    """One step of the optimiser on a batch.

    Parameters
    ----------
    chosen : int64 (b,), places in the training set
    numbers : float (b, k), the images' uniform numbers for augmentation

    Returns
    -------
    The mean loss, the number of right answers and the gradient's norm before clipping, still on the device.
    """
    params, train = session.params, session.train
    images = augment.apply(train.images[chosen], numbers, params)
    labels = train.labels[chosen]
    images, labels, partners, share = augment.mix(images, labels, params, params.seed, epoch, batch)
    with devices.autocast(session.device, params.precision):
        logits = session.network(normalise(images, session.scale, params.data_fault)).float()
    loss = _loss(session, logits, labels)
    if share < 1:
        loss = share * loss + (1 - share) * _loss(session, logits, partners)
    session.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(session.network.parameters(), params.gradient_clip or math.inf, foreach=True)
    session.optimizer.step()
    if session.average is not None:
        session.average.update_parameters(session.network)
    return loss.detach(), (logits.detach().argmax(1) == labels).sum(), norm.detach()


def _loss(session: Session, logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(
        logits, labels, session.class_weights, label_smoothing=session.params.label_smoothing
    )


@torch.inference_mode()
def validation_step(network: nn.Module, images: Tensor, scale: tuple[Tensor, Tensor], params: Params) -> Tensor:
    """Logits float32 (b, k) of uint8 images (b, c, h, w) as they are, without transforms and Dropout."""
    with devices.autocast(images.device.type, params.precision):
        logits: Tensor = network(normalise(images.float(), scale, params.data_fault))
    return logits.float()


def predict(network: nn.Module, images: Tensor, scale: tuple[Tensor, Tensor], params: Params, views: int = 1) -> Tensor:
    """Probabilities float32 (n, k), averaged over views: as it is, mirrored, and both shifted by 2 pixels four ways."""
    network.eval()
    shifts = [(0, 0), (2, 0), (-2, 0), (0, 2), (0, -2)] if views == 10 else [(0, 0)]
    batches = []
    for part in images.split(EVALUATION_BATCH):
        total: Tensor | float = 0.0
        for down, right in shifts:
            moved = _shifted(part, down, right)
            for view in (moved, moved.flip(3)) if views > 1 else (moved,):
                total = total + validation_step(network, view, scale, params).softmax(1)
        batches.append(total / (views if views > 1 else 1))
    return torch.cat(batches)  # type: ignore[arg-type]


def _shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Moved by whole pixels; the edge's pixels go on beyond it.  (b, c, h, w) -> the same."""
    if not down and not right:
        return images
    h, w = images.shape[2:]
    rows = (torch.arange(h, device=images.device) - down).clamp(0, h - 1)
    columns = (torch.arange(w, device=images.device) - right).clamp(0, w - 1)
    return images[:, :, rows][:, :, :, columns]


# --------------------------------------------------------------------------------------------------------------- epochs


def _order(session: Session, epoch: int, n: int) -> Tensor:
    """The training set's places in this epoch's order: by a number that depends on (seed, epoch, image) alone."""
    keys = np.random.default_rng([session.params.seed, epoch, 1]).random(n)[session.train.rows]
    return torch.from_numpy(np.argsort(keys, kind="stable")).to(session.device)


def train_epoch(session: Session, epoch: int, n: int, stop: Callable[[], bool]) -> dict[str, float]:
    """One pass over the training images; `n` is the number of images in the whole data set.

    Raises
    ------
    Stopped: `stop` said so.
    FloatingPointError: the loss was not a number; names epoch and batch.
    """
    params = session.params
    torch.manual_seed(_mixed_seed(params.seed, epoch))  # Dropout's masks
    numbers = augment.draw(params, n, params.seed, epoch, session.device)[torch.from_numpy(session.train.rows)]
    batches = _batches(_order(session, epoch, n), params.batch_size)
    steps = len(batches)
    session.network.train()
    sums: list[tuple[Tensor, ...]] = []
    rate = params.learning_rate
    for batch, chosen in enumerate(batches):
        if stop():
            raise Stopped
        rate = learning_rate(params, (epoch - 1) * steps + batch, params.epochs * steps, session.history)
        for group in session.optimizer.param_groups:
            group["lr"] = rate
        sums.append(train_step(session, chosen, numbers[chosen], epoch, batch))
    losses, right, norms = (torch.stack(parts).cpu().double() for parts in zip(*sums, strict=True))
    faulty = (~losses.isfinite()).nonzero()
    if len(faulty):
        raise FloatingPointError(f"the loss became {losses[faulty[0, 0]]} in epoch {epoch}, batch {faulty[0, 0] + 1}")
    sizes = torch.tensor([len(chosen) for chosen in batches], dtype=torch.float64)
    middle = learning_rate(params, (epoch - 1) * steps + steps // 2, params.epochs * steps, session.history)
    return {
        "learning_rate": middle,
        "train_loss": float((losses * sizes).sum() / sizes.sum()),
        "train_accuracy": float(right.sum() / sizes.sum()),
        "gradient_norm": float(norms.mean()),
    }


def _mixed_seed(*parts: int) -> int:
    """One 63-bit seed out of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """The order cut into batches; a last one of a single image joins the one before, as BatchNorm needs two."""
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def measure(session: Session, images: ImageSet) -> tuple[float, float]:
    """Plain cross-entropy and accuracy of the evaluated weights, without transforms and Dropout."""
    loss, right = loss_and_right(session, images)
    return float(loss), float(right) / len(images)


def loss_and_right(session: Session, images: ImageSet) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (float64, on the CPU: not every device knows it) and the number of right answers."""
    probabilities = predict(session.evaluated, images.images, session.scale, session.params)
    right = (probabilities.argmax(1) == images.labels).sum()
    chosen = probabilities.gather(1, images.labels[:, None]).cpu().double().clamp_min(1e-12)
    return -chosen.log().mean(), right


def clean_part(train: ImageSet) -> ImageSet:
    """Up to CLEAN_IMAGES training images, evenly from the canonical order and so from every class."""
    every = slice(None, None, max(1, -(-len(train) // CLEAN_IMAGES)))
    return ImageSet(train.images[every], train.labels[every], train.rows[every])


def one_epoch(session: Session, epoch: int, n: int, stop: Callable[[], bool]) -> dict[str, float]:
    """Train, measure, and remember the weights if this epoch is the one to select so far; returns its history row."""
    row: dict[str, float] = {"epoch": epoch, **train_epoch(session, epoch, n, stop)}
    row["validation_loss"], row["validation_accuracy"] = measure(session, session.validation)
    row["train_clean_accuracy"] = measure(session, session.clean)[1] if session.params.clean_accuracy else math.nan
    best = max((earlier["validation_accuracy"] for earlier in session.history), default=-1.0)
    session.history.append({name: row[name] for name in HISTORY_COLUMNS})
    if session.params.select == "last" or row["validation_accuracy"] > best:
        session.best = {"epoch": epoch, "weights": _weights(session.evaluated)}
    return session.history[-1]


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}


def _stops_early(session: Session) -> bool:
    patience = session.params.early_stopping_patience
    if patience is None or not session.history:
        return False
    accuracies = [row["validation_accuracy"] for row in session.history]
    return len(accuracies) - 1 - int(np.argmax(accuracies)) >= patience


# ---------------------------------------------------------------------------------------------------------- checkpoints


def save_checkpoint(session: Session, path: Path) -> None:
    """All that the session is, atomically, read back: a drive may lose what was written a moment ago."""
    best = session.best if session.params.select != "last" else None
    content = io.BytesIO()
    torch.save(
        {
            "network": session.network.state_dict(),
            "average": session.average.state_dict() if session.average is not None else None,
            "optimizer": session.optimizer.state_dict(),
            "history": session.history,
            "best": best,
            "tracking_id": session.tracking_id,
        },
        content,
    )
    data = content.getvalue()
    write_bytes(path, hashlib.sha256(data).digest() + data)
    if path.stat().st_size != len(data) + 32 or path.read_bytes()[32:] != data:
        raise FerError(f"{path.name}: what was written does not read back; the drive is full or failing.")


def load_checkpoint(session: Session, path: Path) -> bool:
    """Go on from the checkpoint; False where there is none that is whole."""
    if not path.exists():
        return False
    stored = path.read_bytes()
    if hashlib.sha256(stored[32:]).digest() != stored[:32]:
        return False
    state = torch.load(io.BytesIO(stored[32:]), map_location=session.device, weights_only=True)
    session.network.load_state_dict(state["network"])
    if session.average is not None:
        session.average.load_state_dict(state["average"])
    session.optimizer.load_state_dict(state["optimizer"])
    session.history, session.tracking_id = state["history"], state["tracking_id"]
    session.best = state["best"] or {"epoch": len(session.history), "weights": _weights(session.evaluated)}
    return True


# ------------------------------------------------------------------------------------------------------------- tracking


def _start_tracking(session: Session, key: str, folder: Path) -> Any:
    """A wandb run, offline unless WANDB_MODE says otherwise, silent; None where it is disabled."""
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    if mode == "disabled":
        return None
    os.environ["WANDB_SILENT"] = "true"  # offline, it prints paths and a random id into the notebook otherwise
    import wandb

    session.tracking_id = session.tracking_id or key
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "fer"),
        id=session.tracking_id,
        name=f"{session.params.network}-{key[:6]}",
        config={"training_key": key, **{k: v for k, v in vars(session.params).items() if k not in ("arms", "rule")}},
        dir=str(folder),
        mode=mode,
        resume="allow",
        settings=wandb.Settings(
            silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True, disable_code=True
        ),
    )


# ------------------------------------------------------------------------------------------------------------ whole run


def fit(
    session: Session, folder: Path, n: int, key: str, on_epoch: OnEpoch, stop: Callable[[], bool], deadline: float
) -> str:
    """Train to the end, a checkpoint an epoch; returns what became of it: done, diverged or cut."""
    checkpoint = folder / "checkpoint.pt"
    resumed = load_checkpoint(session, checkpoint)
    epochs = session.params.epochs
    if resumed and len(session.history) < epochs:
        on_epoch({"resuming": len(session.history) + 1, "epochs": epochs})
    tracked = _start_tracking(session, key, folder)
    try:
        for epoch in range(len(session.history) + 1, epochs + 1):
            if _stops_early(session):
                break
            if time.monotonic() > deadline:
                return "cut"
            try:
                row = one_epoch(session, epoch, n, stop)
            except FloatingPointError as fault:
                return _diverge(session, checkpoint, epoch, str(fault))
            save_checkpoint(session, checkpoint)
            if tracked is not None:
                tracked.log(row, step=epoch)
            on_epoch({"epochs": epochs, **row})
    finally:
        if tracked is not None:
            tracked.finish()
    return "done"


def _diverge(session: Session, checkpoint: Path, epoch: int, reason: str) -> str:
    """Back to the last epoch whose loss was a number (else to the first weights); the history keeps the faulty one."""
    if not load_checkpoint(session, checkpoint):
        torch.manual_seed(session.params.seed)
        _, channels, height, width = session.train.images.shape
        fresh = networks.build(session.params, (height, width), channels, session.classes)
        session.best = {"epoch": 0, "weights": _weights(fresh)}
    session.history.append(dict.fromkeys(HISTORY_COLUMNS, math.nan) | {"epoch": epoch})
    return f"diverged: {reason}"


def _frame(ids: np.ndarray, split: str, labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> Any:
    import pandas as pd

    columns = {f"p_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    return pd.DataFrame({"image_id": ids.astype(str), "split": split, "label": labels.astype(np.int64), **columns})


def _finish(session: Session, outcome: str, folder: Path, faces: Faces, split: Split) -> dict[str, Any]:
    """Write weights, history, validation predictions and metrics of the selected epoch."""
    import pandas as pd
    from safetensors.torch import save

    from fer_core import explain

    assert session.best is not None
    network = copy.deepcopy(session.network)
    network.load_state_dict(session.best["weights"])
    mean, deviation = (part.flatten().tolist() for part in session.scale)
    # One entry: safetensors writes several in an order that changes from one process to the next.
    header = json.dumps({"classes": faces.classes, "mean": mean, "deviation": deviation})
    write_bytes(folder / "model.safetensors", save(session.best["weights"], {"fer": header}))
    history = pd.DataFrame(session.history, columns=list(HISTORY_COLUMNS)).astype({"epoch": int})
    write_frame(folder / "history.csv", history)
    views = session.params.test_views
    found = predict(network, session.validation.images, session.scale, session.params, views).cpu().numpy()
    labels = faces.labels[split.validation]
    write_frame(
        folder / "predictions.parquet",
        _frame(faces.ids[split.validation], "validation", labels, found, faces.classes),
    )
    layers = explain.layer_table(network, faces.image_size, faces.channels)
    write_frame(folder / "network.csv", layers)
    selected = history[history.epoch == session.best["epoch"]].iloc[0].to_dict() if session.best["epoch"] else {}
    validation = evaluation.metrics(found, labels, faces.classes)
    majority = float(np.bincount(labels, minlength=len(faces.classes)).max() / len(labels))
    state = outcome.partition(":")[0]
    if state == "done" and validation["accuracy"] < majority + CHANCE_MARGIN:
        state = "diverged"
    metrics = {
        "validation": validation,
        "gap": _known(selected.get("train_accuracy", math.nan) - selected.get("validation_accuracy", math.nan)),
        "train_accuracy": _known(selected.get("train_accuracy", math.nan)),
        "train_clean_accuracy": _known(selected.get("train_clean_accuracy", math.nan)),
        "selected_epoch": int(session.best["epoch"]),
        "epochs": len(history),
        "status": state,
        "majority_share": majority,
        "parameters": int(layers["parameters"].sum()),
        "multiply_adds": int(layers["multiply_adds"].sum()),
    }
    write_json(folder / "metrics.json", metrics)
    return {"state": state, "reason": outcome.partition(": ")[2]}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def train_or_load(
    params: Params,
    settings: Settings,
    faces: Faces,
    on_epoch: OnEpoch | None = None,
    time_limit_minutes: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """The finished run of these parameters: loaded, resumed or trained. Whoever else wants it meanwhile waits.

    Parameters
    ----------
    params : with `seed`; `auto` is resolved here
    on_epoch : gets each history row with `epochs` as it comes, and first {"resuming", "epochs"} where it goes on
    time_limit_minutes : stop at an epoch's end after so long; the run is then `cut` and the next call goes on

    Raises
    ------
    Stopped: `stop` said so within an epoch; the last checkpoint stands.
    FerError: the device's memory does not hold a batch; says which size might.
    """
    params, device = devices.resolve(params, settings.device)
    wanted = run_key(params, faces.data_hash, device)
    folder = run_folder(settings.store, wanted.key)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        found = find_run(params, wanted, settings.store, settings.published)
        if found is not None:
            return found
        deadline = time.monotonic() + (time_limit_minutes or math.inf) * 60
        try:
            with devices.ready(device, int(params.threads)):
                _train(params, wanted, folder, faces, on_epoch or (lambda row: None), stop, deadline)
        except Exception as fault:
            if not devices.out_of_memory(fault):
                raise
            smaller = max(2, params.batch_size // 2)
            raise FerError(
                f"a batch of {params.batch_size} does not fit the {device}'s memory: try batch_size {smaller}."
            ) from fault
    return Run(wanted.key, params, folder)


def _train(
    params: Params,
    wanted: RunKey,
    folder: Path,
    faces: Faces,
    on_epoch: OnEpoch,
    stop: Callable[[], bool],
    deadline: float,
) -> None:
    started, clock = datetime.now(UTC), time.monotonic()
    earlier = read_json(folder / "run.json") or {}
    split = make_split(faces, params.split, params.train_fraction, params.split_seed, params.drop_leaked_copies)
    session = prepare(params, faces, split, wanted.device)

    def report(row: dict[str, Any]) -> None:
        on_epoch(row)
        write_json(folder / "progress.json", {**row, "seconds": time.monotonic() - clock})

    outcome = fit(session, folder, faces.n, wanted.key, report, stop, deadline)
    if not session.history:  # cut before the first epoch's end
        return
    record = _finish(session, outcome, folder, faces, split)
    seconds = time.monotonic() - clock + earlier.get("seconds", 0.0)
    write_json(
        folder / "run.json",
        {
            **record,
            "key": wanted.key,
            "identity": wanted.identity,
            "parameters": wanted.values,
            "data_hash": faces.data_hash,
            "device": wanted.device,
            "precision": wanted.precision,
            "threads": wanted.threads,
            "code": wanted.code,
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
            "host": socket.gethostname(),
            "wandb_id": session.tracking_id,
            **commit(),
            **devices.describe(wanted.device),
        },
    )
    (folder / "progress.json").unlink(missing_ok=True)
    if record["state"] != "cut":
        (folder / "checkpoint.pt").unlink(missing_ok=True)


def commit() -> dict[str, Any]:
    """The commit of the code and whether the tree was clean; None outside a git checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", "fer_core", "notebooks", "params") if head else None
    return {"commit": head, "clean": None if changed is None else not changed}


# ------------------------------------------------------------------------------------------------------- after the run


def load_network(run: Run, faces: Faces) -> nn.Module:
    """The run's network on the CPU with its selected weights, in evaluation mode."""
    from safetensors.torch import load_file

    network = networks.build(run.params, faces.image_size, faces.channels, len(faces.classes))
    network.load_state_dict(load_file(run.folder / "model.safetensors"))
    return network.eval()


def run_scale(run: Run) -> tuple[Tensor, Tensor]:
    """Mean and deviation that the run normalised with, from its weights' file: (1, c, 1, 1) each."""
    from safetensors import safe_open

    with safe_open(run.folder / "model.safetensors", "pt") as weights:
        header = json.loads(weights.metadata()["fer"])
    mean, deviation = (torch.tensor(header[name]).view(1, -1, 1, 1) for name in ("mean", "deviation"))
    return mean, deviation


def to_input(images: np.ndarray, run: Run) -> Tensor:
    """uint8 (b, h, w) or (b, h, w, 3) -> float32 (b, c, h, w), normalised as in the run's training."""
    return normalise(channels_first(images).float(), run_scale(run), run.params.data_fault)


def score_test(run: Run, faces: Faces) -> Run:
    """Look at the test set once, after selection: its predictions and metrics, official and leak-free, join the run's.

    A run that was scored before is returned as it is.
    """
    import pandas as pd

    if run.scored or not run.finished:
        return run
    params, device = devices.resolve(run.params, "cpu")
    split = make_split(faces, params.split, params.train_fraction, params.split_seed, params.drop_leaked_copies)
    labels = faces.labels[split.test]
    known = labels < len(faces.classes)
    if not known.any():  # no test images, or the competition's, without labels
        return run
    with FileLock(run.folder.with_suffix(".lock")), devices.ready(device, int(params.threads)):
        network = load_network(run, faces).to(memory_format=torch.channels_last)
        images = channels_first(faces.images[split.test])
        found = predict(network, images, run_scale(run), params, params.test_views).numpy()
        frame = _frame(faces.ids[split.test], "test", labels, found, faces.classes)
        scores = {
            name: evaluation.metrics(found[part], labels[part], faces.classes)
            for name, part in (("test_official", known), ("test_leak_free", known & split.leak_free))
        }
        validation = run.predictions[run.predictions.split == "validation"]
        write_frame(run.folder / "predictions.parquet", pd.concat([validation, frame], ignore_index=True))
        write_json(run.folder / "metrics.json", {**run.metrics, **scores})
    return Run(run.key, run.params, run.folder, run.foreign)


def sanity_checks(params: Params, faces: Faces) -> list[dict[str, Any]]:
    """Four checks in seconds on a network of its own: the run's bits do not change by them.

    Returns
    -------
    A row each: check, expected, found, ok.
    """
    params, device = devices.resolve(params, "cpu")
    split = make_split(faces, params.split, params.train_fraction, params.split_seed, params.drop_leaked_copies)
    few = split.train[:: max(1, len(split.train) // 256)][:256]
    part = Split(few, split.validation[:8], split.test[:0], split.leak_free[:0])
    with devices.ready(device, int(params.threads)):
        return list(_checks(prepare(params, faces, part, device)))


def _checks(session: Session) -> Iterator[dict[str, Any]]:
    def row(check: str, expected: str, found: str, ok: bool) -> dict[str, Any]:
        return {"check": check, "expected": expected, "found": found, "ok": bool(ok)}

    train, params, chance = session.train, session.params, math.log(session.classes)
    network, optimizer = session.network, torch.optim.Adam(session.network.parameters(), 1e-3)
    some = slice(0, 16)
    inputs, labels = normalise(train.images[some].float(), session.scale), train.labels[some]

    def batch_loss() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(inputs), labels)
        loss.backward()
        return loss.detach()

    # In training mode: BatchNorm has seen nothing yet that it could normalise by in evaluation.
    logits = validation_step(network.train(), train.images, session.scale, params)
    start = float(functional.cross_entropy(logits, train.labels))
    # One more than chance: Kaiming's weights answer a little more surely before they have learned anything.
    yield row("initial loss", f"near ln({session.classes}) = {chance:.2f}", f"{start:.2f}", start < chance + 1)
    network.train()
    batch_loss()
    without = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    yield row("gradients", "every parameter gets one", ", ".join(without) or "all do", not without)
    network.eval()  # no Dropout, BatchNorm as it stands: only whether one batch can be learned by heart
    for _ in range(80):
        loss = batch_loss()
        if loss < 0.1 * chance:
            break
        optimizer.step()
    yield row("one batch overfits", f"loss below {0.1 * chance:.2f}", f"{loss:.3f}", bool(loss < 0.1 * chance))
    finite = all(bool(weight.isfinite().all()) for weight in network.parameters())
    yield row("numbers", "no NaN in any weight", "none" if finite else "NaN", finite)
