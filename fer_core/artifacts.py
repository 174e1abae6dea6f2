"""Where things lie and when they count as the same: atomic files, keys by content, the store of runs."""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_core.schema import PACKAGE, RESERVED_NAMES, ROOT, FerError, ParameterError, Params, parse_set, run_values

if TYPE_CHECKING:
    import pandas as pd

HISTORY_COLUMNS = (
    "epoch", "learning_rate", "train_loss", "train_accuracy", "train_clean_accuracy", "validation_loss",
    "validation_accuracy", "gradient_norm",
)  # fmt: skip
RESULT_COLUMNS = (
    "page", "notebook", "network", "parameters", "multiply_adds", "seed", "epochs", "selected_epoch",
    "train_accuracy", "train_clean_accuracy", "validation_accuracy", "gap",
    "test_official_accuracy", "test_official_low", "test_official_high",
    "test_leak_free_accuracy", "test_leak_free_low", "test_leak_free_high", "status", "training_key",
)  # fmt: skip
CLAIM_COLUMNS = ("claim", "page", "effect", "low", "high", "n", "rule", "verdict")
FINISHED = ("done", "diverged")
PRIVATE = ("host", "wandb_id")  # entries of run.json that name the machine and its tracking: not for others
RUN_FILES = ("metrics.json", "history.csv", "predictions.parquet", "model.safetensors", "run.json")
WATCHED_FILE = "test_by_epoch.csv"  # of a run whose page asks for it: see `watch`
DERIVED_FILES = ("attention.json", "ensemble.json", "ablation.json")  # by `Run.derived`


# --------------------------------------------------------------------------------------------------------------- files


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it once the block has ended without an error and is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, values: Any) -> None:
    write_bytes(path, (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """What the file holds; None where there is none or it is not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def csv_bytes(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as CSV, without pandas; a column that a row lacks is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """A table as CSV (floats in their shortest exact form) or, by its ending, Parquet."""
    with atomic_file(path) as temporary:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary, index=False, compression="zstd")
        else:
            frame.to_csv(temporary, index=False, lineterminator="\n")


# ------------------------------------------------------------------------------------------------------------ settings


@dataclass(frozen=True)
class Settings:
    """What the environment says: where data, reports and runs lie. No path enters a key or a page."""

    data: Path | None
    name: str
    device: str
    out: Path
    set_values: dict[str, Any] = field(default_factory=dict)
    afresh: bool = False  # train even what the ledger holds: for `make reproduce`

    @property
    def sample(self) -> bool:
        return self.data is None

    @property
    def store(self) -> Path:
        return self.out / ".runs"

    @property
    def reports(self) -> Path:
        return self.out / "reports" / self.name

    @property
    def ledger(self) -> Path:
        """The committed runs of this dataset."""
        return ROOT / "reports" / "published" / self.name / "runs"

    @property
    def published(self) -> Path | None:
        """The ledger where its runs count as done, as they do on a clean clone."""
        return None if self.afresh else self.ledger


def user_path(words: str) -> Path:
    """A path as a user gives it; raises ParameterError where `~name` is nobody."""
    try:
        return Path(words).expanduser()
    except RuntimeError:
        raise ParameterError(f"{words}: nobody here is called {words.split('/')[0][1:]}.") from None


def settings() -> Settings:
    """From FER_DATA, FER_NAME, FER_DEVICE, FER_OUT and FER_SET; unset means the sample, auto, the repository
    (the current folder, where the package was installed without one).

    Raises
    ------
    ParameterError: a reserved or unusable NAME, an unknown DEVICE, a faulty SET.
    """
    data = os.environ.get("FER_DATA") or None
    name = os.environ.get("FER_NAME") or ("fer2013" if data else "sample")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ParameterError(f"NAME is '{name}': it names a folder, so use letters, digits, '.', '_' and '-'.")
    if name in RESERVED_NAMES and not (name == "sample" and data is None):
        raise ParameterError(f"NAME is '{name}', which is reserved: choose another.")
    device = os.environ.get("FER_DEVICE") or "auto"
    if device == "mps":
        raise ParameterError("DEVICE is 'mps', where torch lacks what the training needs (foreach clipping): take cpu.")
    if device not in ("auto", "cpu", "cuda"):
        raise ParameterError(f"DEVICE is '{device}', expected auto, cpu or cuda.")
    if device == "auto" and sys.platform == "darwin":
        device = "cpu"  # else it would be mps
    here = ROOT if PACKAGE.parent == ROOT else Path.cwd()  # nothing is written to where packages are installed
    out = user_path(os.environ.get("FER_OUT") or str(here)).resolve()
    path = user_path(data).resolve() if data else None
    if name == "fer2013" and data is None:
        raise ParameterError("NAME is 'fer2013' without its images, and drawn ones must not pass for them: add DATA=.")
    afresh = os.environ.get("FER_AFRESH", "") not in ("", "0")
    return Settings(path, name, device, out, parse_set(os.environ.get("FER_SET") or ""), afresh)


def number_from(name: str, text: str, fits: Callable[[float], bool], expected: str) -> float:
    """A variable's number; FerError in a sentence where it is none, not finite, or does not fit."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not fits(number):
        raise FerError(f"{name} is '{text}', expected {expected}.")
    return number


# ---------------------------------------------------------------------------------------------------------------- keys


def digest(value: Any) -> str:
    """16 hex digits of SHA-256 over canonical JSON (or over bytes)."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(data).hexdigest()[:16]


@cache
def code_fingerprint(*files: str) -> str:
    """The syntax trees of files of this package, without comments and docstrings: rewording one changes nothing."""
    trees = []
    for name in sorted(files):
        tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                text = body[0].value
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    body.pop(0)
        trees.append([name, _dumped(tree)])
    return digest(trees)


def _dumped(tree: ast.AST) -> str:
    """The same words on every Python: 3.12 added a field to functions and classes, 3.13 leaves out what is empty."""
    if sys.version_info >= (3, 12):
        for node in ast.walk(tree):
            node._fields = tuple(name for name in node._fields if name != "type_params")
    every: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **every)


def training_fingerprint(network: str) -> str:
    """The code that trains: the chosen network's file and the layers it is made of, augmentation, training, devices."""
    files = "networks/layers.py", "networks/__init__.py", "augment.py", "training.py", "devices.py"
    return code_fingerprint(f"networks/{network}.py", *files)


@dataclass(frozen=True)
class RunKey:
    """What makes a run the same run. `identity` is parameters and data; `key` adds code, device, precision, threads."""

    values: dict[str, Any] = field(hash=False)
    data_hash: str
    device: str
    precision: str
    threads: int
    code: str

    @property
    def identity(self) -> str:
        return digest([self.values, self.data_hash])

    @property
    def key(self) -> str:
        return digest([self.identity, self.device, self.precision, self.threads, self.code])


def run_key(params: Params, data_hash: str, device: str) -> RunKey:
    """The key of a run whose `precision` and `threads` are resolved already."""
    if params.precision == "auto" or params.threads == "auto":
        raise ValueError("precision and threads must be resolved before a key is made")
    code = training_fingerprint(params.network)
    return RunKey(run_values(params), data_hash, device, params.precision, int(params.threads), code)


# ---------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Run:
    """One training as it lies in the store.

    `foreign` names what differs (code, device, precision, threads) where a published or imported run stands in.
    """

    key: str
    params: Params
    folder: Path
    foreign: str = ""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return read_json(self.folder / "run.json") or {}

    @property
    def state(self) -> str:
        return self.provenance.get("state", "missing")

    def settled(self, params: Params) -> Params:
        """`params` with what `auto` came to where this run was trained, which may have been another machine."""
        told = {name: self.provenance.get(name) or getattr(params, name) for name in ("precision", "threads")}
        return replace(params, **told)

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row an epoch; the columns are HISTORY_COLUMNS."""
        import pandas as pd

        return pd.read_csv(self.folder / "history.csv")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return read_json(self.folder / "metrics.json") or {}

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """image_id, split, label, p_<class> …; the test's rows are there only once it has been scored.

        A ledger keeps probabilities in half precision: what is below 6e-8 there has become 0.

        Raises
        ------
        FerError : a ledger's run, published without them.
        """
        import pandas as pd

        file = self.folder / "predictions.parquet"
        if not file.exists():
            raise self.lacks("its predictions")
        found = pd.read_parquet(file)
        halves = [name for name in found.columns if found[name].dtype == "float16"]
        return found.astype(dict.fromkeys(halves, "float32"))

    def derived(self, name: str, of: Any, make: Callable[[], Any]) -> Any:
        """What pages work out from weights, or from the answers of further runs, as JSON: kept beside the run.

        A ledger holds this and neither of the two, so that a page is made anew from it.

        Parameters
        ----------
        name : of the file, without its ending
        of : which images and runs it is of, JSON; of others it is never shown
        make : gives the value, by `explain` and `evaluation`: where these have changed it is made anew, if it can be

        Raises
        ------
        FerError : neither this value nor the weights are here.
        """
        path, mark = self.folder / f"{name}.json", digest([of, self.state, self.metrics.get("epochs")])
        kept, code = read_json(path) or {}, code_fingerprint("explain.py", "evaluation.py")
        if (self.folder / "model.safetensors").exists():
            if (kept.get("of"), kept.get("code")) != (mark, code):
                write_json(path, {"of": mark, "code": code, "value": make()})
                kept = read_json(path)
        elif kept.get("of") != mark:
            raise self.lacks(f"its weights, and {path.name} is not of this")
        return kept["value"]

    def lacks(self, what: str) -> FerError:
        """The error where a ledger or a folder lacks what a page needs, with how to get it."""
        remedy = f"remove {self.folder.parent.name}/{self.folder.name} from the run store, and it is trained anew"
        if ROOT in self.folder.parents and "published" in self.folder.parts:
            remedy = "FER_AFRESH=1 trains it here"
        return FerError(f"Run {self.key} is here without {what}: {remedy}.")

    @property
    def selected_epoch(self) -> int:
        return int(self.metrics.get("selected_epoch", 0))

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def whole(self) -> bool:
        """Whether what every page reads is there: a copied or synchronised folder may have lost files."""
        told = read_json(self.folder / "metrics.json") or {}  # not `metrics`, which is kept: the test may yet be scored
        return (self.folder / "history.csv").exists() and "validation" in told

    @property
    def scored(self) -> bool:
        return "test_official" in self.metrics


def run_folder(store: Path, key: str) -> Path:
    return store / "runs" / key


def find_run(params: Params, wanted: RunKey, store: Path, published: Path | None = None) -> Run | None:
    """The finished run, by its key; else an imported or published one of the same parameters and data, marked."""
    own = Run(wanted.key, params, run_folder(store, wanted.key))
    if own.finished and own.whole:
        return own
    for shelf in filter(None, (store / "imported", published)):
        folder = shelf / wanted.identity
        record = read_json(folder / "run.json") or {}
        marks = "code", "device", "precision", "threads"
        differs = ", ".join(name for name in marks if record.get(name) != getattr(wanted, name))
        found = Run(record.get("key", ""), params, folder, differs)
        if found.finished and found.whole:
            return found
    return None
