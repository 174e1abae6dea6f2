"""`python -m fer_core …`: the commands of the Makefile, for Windows and for those without make."""

from __future__ import annotations

import argparse
import errno
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fer_core import artifacts, bootstrap, build, cluster, data, devices, schema, slurm
from fer_core.schema import PACKAGE, ROOT, FerError

KAGGLE_DATASET = "msambare/fer2013"  # the folder form, public: needs no account


def _report(options: argparse.Namespace) -> int:
    return build.build(artifacts.settings(), getattr(options, "pages", None), _jobs(), _engine())


def _plan(options: argparse.Namespace) -> int:
    settings = artifacts.settings()
    _engine()  # one that does not exist is told here too
    plan = build.Plan(settings, options.pages or None)
    plan.check_chosen()
    print(plan.describe(_jobs(), _price()))
    return 0


def _compare(options: argparse.Namespace) -> int:
    return build.compare_pages(artifacts.settings(), options.pages)


def _sweep(options: argparse.Namespace) -> int:
    from fer_core import sweep

    if options.sweep is None:
        raise FerError(f"which sweep? One of: {', '.join(sweep.names())}")
    return sweep.sweep(artifacts.settings(), options.sweep, _jobs(), _engine())


def _wandb_sync(options: argparse.Namespace) -> int:
    from fer_core import tracking

    return tracking.sync(artifacts.settings(), options.dry_run)


def _data(_: argparse.Namespace) -> int:
    import kagglehub

    try:
        path = Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except Exception as fault:  # of requests, of its own, of the disk: which of them is no contract of kagglehub's
        why = f"{type(fault).__name__}: {fault}".splitlines()[0][:200]
        raise FerError(f"{KAGGLE_DATASET} could not be downloaded ({why}): check the network, or say DATA=.") from fault
    settings = artifacts.settings()
    faces = data.open_faces(path, settings.store)
    print(f"{KAGGLE_DATASET} ({faces.source}): {faces.n:,} images, data hash {faces.data_hash}")
    print(f"make all-reports DATA={path}")
    return 0


def _lab(_: argparse.Namespace) -> int:
    path, s = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])), artifacts.settings()
    # Kernels start in notebooks/, where a relative path would mean another place.
    environment = {**os.environ, "PYTHONPATH": path, "FER_OUT": str(s.out), "FER_DATA": str(s.data or "")}
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(ROOT / "notebooks")], env=environment)


def _clean(_: argparse.Namespace) -> int:
    """Remove what can be rebuilt, naming what it weighs; on a terminal only after a yes.

    Runs from another machine stay, and so does whatever else lies under reports/.
    """
    settings = artifacts.settings()
    names = ("sample", "predictions", settings.name)
    folders = [path for path in settings.store.glob("*") if path.name != "imported"]
    for folder in (settings.out / "reports").glob("*"):
        ours = folder.name in names or (folder / "results.csv").exists()
        folders += [folder] * (ours and folder.name != "published")
    runs = list((settings.store / "runs").glob("*/run.json"))
    hours = sum((artifacts.read_json(run) or {}).get("seconds", 0) for run in runs) / 3600
    for folder in folders:
        size = sum(file.stat().st_size for file in [folder, *folder.rglob("*")] if file.is_file())
        print(f"{size / 1e6:10,.1f} MB  {folder}")
    print(f"{len(runs)} runs, {hours:.1f} hours of training, among them.")
    if folders and sys.stdin.isatty() and input("Remove? [y/N] ").strip().lower() != "y":
        return 1
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        else:
            folder.unlink()
    return 0


def _publish(_: argparse.Namespace) -> int:
    from fer_core import publish

    return publish.publish(artifacts.settings())


def _import(options: argparse.Namespace) -> int:
    from fer_core import publish

    if not options.source:
        raise FerError("which runs? FROM=another machine's OUT, or a folder that make publish made.")
    return publish.import_runs(artifacts.user_path(options.source).resolve(), artifacts.settings())


def _reproduce(options: argparse.Namespace) -> int:
    from fer_core import reproduce

    if not options.page:
        raise FerError("which page? PAGE=04_complex_cnn/default, or another that trains.")
    if _engine():
        raise FerError(
            "ENGINE is set, but a page is reproduced here, on the machine whose answer is wanted: leave it out."
        )
    return reproduce.reproduce(artifacts.settings(), options.page, _jobs())


def _test(_: argparse.Namespace) -> int:
    return subprocess.call([sys.executable, "-m", "pytest"], cwd=ROOT)


def _bench(_: argparse.Namespace) -> int:
    where = [str(found)] if (found := artifacts.settings().data) else []
    commands = ["benchmarks.engine"], ["benchmarks.data_reading", *where]
    return max(subprocess.call([sys.executable, "-m", *words], cwd=ROOT) for words in commands)


def _bootstrap(options: argparse.Namespace) -> int:
    if options.write:
        notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
        print("\n".join(path.name for path in notebooks if bootstrap.write(path)))
    else:
        print("".join(bootstrap.cell(bootstrap.repository())["source"]))
    return 0


def _predict(options: argparse.Namespace) -> int:
    from fer_core import predict  # torch takes its seconds

    words = options.images or [os.environ.get("FER_IMAGES") or ""]
    detect = not (options.no_detect or os.environ.get("FER_NO_DETECT", "") not in ("", "0"))
    return predict.predict(words, artifacts.settings(), options.model or os.environ.get("FER_MODEL") or "", detect)


def _jobs() -> int:
    text = os.environ.get("FER_JOBS") or ""
    if not text:
        return devices.cpu_count() if devices.device_type(artifacts.settings().device) == "cpu" else 1
    if not text.isdigit() or int(text) < 1:
        raise FerError(f"JOBS is '{text}', expected a whole number from 1.")
    return int(text)


def _engine() -> Callable[[artifacts.Settings], build.Engine] | None:
    """Where runs are trained: None is here, in the build's own workers."""
    name, address = os.environ.get("FER_ENGINE") or "local", os.environ.get("FER_ADDRESS") or ""
    if name == "ray":
        return lambda settings: cluster.RayEngine(settings, address)
    if name == "slurm":
        return lambda settings: slurm.SlurmEngine(settings, address)
    if name != "local":
        raise FerError(f"ENGINE is '{name}', expected local, ray or slurm.")
    if address:
        raise FerError("ADDRESS is set, but ENGINE is not: add ENGINE=ray or ENGINE=slurm.")
    return None


def _price() -> float | None:
    text = os.environ.get("FER_PRICE") or ""
    expected = "what an hour of one core or GPU costs, such as 1.10"
    return artifacts.number_from("PRICE", text, lambda price: price >= 0, expected) if text else None


def _help(options: argparse.Namespace) -> int:
    _parser().print_help()
    return 0


SHARED = {
    "data": "FER2013 in any form, or your own images; unset: the drawn sample",
    "name": "the folder under reports/",
    "device": "auto, cpu or cuda",
    "jobs": "trainings and pages side by side",
    "out": "where reports and the run store go",
    "set": "parameters that come last: 'epochs=2 learning_rate=0.01'",
    "engine": "where runs are trained: local, ray or slurm",
    "address": "Ray's head (host:port or auto); for slurm its options, or local",
    "gpus-per-run": "with an engine: a share of a GPU, such as 0.25",
    "price": "for plan: of an hour of one core or GPU",
}
COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    "all-reports": (_report, "make every page that is not current"),
    "report": (_report, "make one page"),
    "plan": (_plan, "say what would run and why"),
    "compare": (_compare, "set the runs of pages side by side"),
    "sweep": (_sweep, "try ranges of parameters, deciding on validation"),
    "wandb-sync": (_wandb_sync, "send what was logged offline to your wandb server"),
    "data": (_data, "download FER2013 from Kaggle (a public data set)"),
    "lab": (_lab, "open the notebooks in JupyterLab"),
    "clean": (_clean, "remove reports and runs, naming their size first"),
    "publish": (_publish, "write reports/published/: the study on real data, single faces withheld"),
    "import": (_import, "take in finished runs from another machine"),
    "reproduce": (_reproduce, "train a page afresh and compare with what stands"),
    "test": (_test, "run the tests"),
    "bench": (_bench, "this engine against the loop people write today"),
    "bootstrap": (_bootstrap, "the cell with which notebooks start on Colab and Kaggle"),
    "predict": (_predict, "a network's answer for your own pictures or Kaggle's test.csv"),
    "help": (_help, "say what there is"),
    "_worker": (lambda _: build.serve(), ""),
}
PAGES = {"pages": {"nargs": "*", "metavar": "PAGE", "help": "such as 04_complex_cnn/default"}}
OWN: dict[str, dict[str, dict[str, Any]]] = {  # what a command takes beside what all take
    "report": PAGES,
    "plan": PAGES,
    "compare": PAGES,
    "sweep": {"sweep": {"nargs": "?", "metavar": "SWEEP", "help": "a file params/sweeps/SWEEP.yaml"}},
    "wandb-sync": {"--dry-run": {"action": "store_true", "help": "only list what would be sent"}},
    "import": {
        "source": {"nargs": "?", "metavar": "FROM", "help": "another machine's OUT, or a folder that make publish made"}
    },
    "reproduce": {"page": {"nargs": "?", "metavar": "PAGE", "help": "a training page, such as 04_complex_cnn/default"}},
    "bootstrap": {"--write": {"action": "store_true", "help": "put it on top of every notebook"}},
    "predict": {
        "images": {"nargs": "*", "metavar": "IMAGE", "help": "pictures, folders of them, or one test.csv"},
        "--no-detect": {"action": "store_true", "help": "each picture is a face already cut out"},
        "--model": {"help": "a page of this OUT or a run's folder; unset: the published network"},
    },
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fer_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (action, about) in COMMANDS.items():
        words: dict[str, Any] = {"help": about, "description": about} if about else {}  # a worker is not listed
        added = commands.add_parser(command, **words)
        for name, told in SHARED.items() if command not in ("bootstrap", "help", "_worker") else ():
            added.add_argument(f"--{name}", help=told)
        for name, options in OWN.get(command, {}).items():
            added.add_argument(name, **options)
        added.set_defaults(action=action)
    return parser


THE_DISKS_FAULT = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, and run it again")
THE_DISKS_FAULT |= dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR), "say OUT=, a folder that can be written to"
)


class Terminated(BaseException):
    """SIGTERM came: a cluster wants its machine back."""


def _terminate(*_: object) -> None:
    raise Terminated


def main() -> int:
    options = _parser().parse_args(sys.argv[1:] or ["help"])
    for stream in (sys.stdout, sys.stderr):  # a pipe or a console that knows no "→" gets "?" for it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    for name in (name.replace("-", "_") for name in SHARED):
        if getattr(options, name, None):
            os.environ[f"FER_{name.upper()}"] = getattr(options, name)
    if options.command in ("all-reports", "report", "reproduce", "sweep"):
        signal.signal(signal.SIGTERM, _terminate)
        if os.environ.get("WANDB_MODE") == "online":
            from fer_core import tracking

            tracking.offline_unless_answered()
    if options.command not in ("lab", "data"):
        os.environ.setdefault("FER_THREADS", "1")  # JOBS fill the cores: faster together, and the same bits anywhere
    status: int | None = None
    try:
        if options.command == "report" and not options.pages:
            raise FerError(f"which page? One of: {', '.join(schema.page_names())}")
        status = options.action(options)
        sys.stdout.flush()
        return status
    except FerError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    except Terminated:
        print("\nstopped by SIGTERM; the next call goes on from the last checkpoints.", file=sys.stderr)
        return build.STOPPED_STATUS
    except KeyboardInterrupt:
        print("\nstopped; the next call goes on where this one stood.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `make plan | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(options.command != "plan") if status is None else status
    except OSError as fault:
        if fault.errno not in THE_DISKS_FAULT:
            raise
        remedy = THE_DISKS_FAULT[fault.errno]
        print(f"error: {fault.filename or 'OUT'}: {os.strerror(fault.errno)}; {remedy}.", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
