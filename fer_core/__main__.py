"""`python -m fer_core …`: every command of the Makefile, for Windows and for those without make."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from fer_core import artifacts, bootstrap, build, data, devices, schema
from fer_core.schema import PACKAGE, ROOT, FerError

KAGGLE_DATASET = "msambare/fer2013"  # the folder form, public: needs no account


def _all_reports(_: argparse.Namespace) -> int:
    return build.build(artifacts.settings(), None, _jobs())


def _report(options: argparse.Namespace) -> int:
    return build.build(artifacts.settings(), options.pages, _jobs())


def _plan(options: argparse.Namespace) -> int:
    settings = artifacts.settings()
    print(build.Plan(settings, options.pages or None).describe(_jobs()))
    return 0


def _compare(options: argparse.Namespace) -> int:
    return build.compare_pages(artifacts.settings(), options.pages)


def _data(_: argparse.Namespace) -> int:
    import kagglehub

    path = Path(kagglehub.dataset_download(KAGGLE_DATASET))
    settings = artifacts.settings()
    faces = data.open_faces(path, settings.store)
    print(f"{KAGGLE_DATASET} ({faces.source}): {faces.n:,} images, data hash {faces.data_hash}")
    print(f"make all-reports DATA={path}")
    return 0


def _lab(_: argparse.Namespace) -> int:
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(ROOT / "notebooks")], env=environment)


def _clean(_: argparse.Namespace) -> int:
    """Remove reports and the run store, naming what they weigh; on a terminal only after a yes."""
    settings = artifacts.settings()
    reports = settings.out / "reports"
    folders = [settings.store, *(f for f in reports.glob("*") if f.is_dir() and f.name != "published")]
    folders = [folder for folder in folders if folder.exists()]
    runs = list((settings.store / "runs").glob("*/run.json"))
    hours = sum((artifacts.read_json(run) or {}).get("seconds", 0) for run in runs) / 3600
    for folder in folders:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{size / 1e6:10,.1f} MB  {folder}")
    print(f"{len(runs)} runs, {hours:.1f} hours of training, among them.")
    if folders and sys.stdin.isatty() and input("Remove? [y/N] ").strip().lower() != "y":
        return 1
    for folder in folders:
        shutil.rmtree(folder)
    return 0


def _publish(_: argparse.Namespace) -> int:
    from fer_core import publish

    return publish.publish(artifacts.settings())


def _import(options: argparse.Namespace) -> int:
    from fer_core import publish

    return publish.import_runs(Path(options.source).expanduser().resolve(), artifacts.settings())


def _reproduce(options: argparse.Namespace) -> int:
    from fer_core import reproduce

    return reproduce.reproduce(artifacts.settings(), options.page, _jobs())


def _bootstrap(options: argparse.Namespace) -> int:
    changed = bootstrap.write_all() if options.write else []
    print("\n".join(changed) if options.write else "".join(bootstrap.cell(bootstrap.repository())["source"]))
    return 0


def _predict(options: argparse.Namespace) -> int:
    from fer_core import predict  # torch takes its seconds

    words = options.images or [os.environ.get("FER_IMAGES") or ""]
    detect = not (options.no_detect or os.environ.get("FER_NO_DETECT", "") not in ("", "0"))
    return predict.predict(words, artifacts.settings(), options.model or os.environ.get("FER_MODEL") or "", detect)


def _worker(_: argparse.Namespace) -> int:
    return build.serve()


def _jobs() -> int:
    text = os.environ.get("FER_JOBS") or ""
    if not text:
        return devices.cpu_count() if devices.device_type(artifacts.settings().device) == "cpu" else 1
    if not text.isdigit() or int(text) < 1:
        raise FerError(f"JOBS is '{text}', expected a whole number from 1.")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fer_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    for name, about in (
        ("data", "FER2013 in any form, or your own images; unset: the drawn sample"),
        ("name", "the folder under reports/"),
        ("device", "auto, cpu, cuda or mps"),
        ("jobs", "trainings and pages side by side"),
        ("out", "where reports and the run store go"),
        ("set", "parameters that come last: 'epochs=2 learning_rate=0.01'"),
    ):
        shared.add_argument(f"--{name}", help=about)
    pages = argparse.ArgumentParser(add_help=False)
    pages.add_argument("pages", nargs="*", metavar="PAGE", help="such as 04_complex_cnn/default")
    page = argparse.ArgumentParser(add_help=False)
    page.add_argument("page", metavar="PAGE", help="a training page, such as 04_complex_cnn/default")
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("source", metavar="FROM", help="another machine's OUT, or a folder that make publish made")
    written = argparse.ArgumentParser(add_help=False)
    written.add_argument("--write", action="store_true", help="put it on top of every notebook")
    images = argparse.ArgumentParser(add_help=False)
    images.add_argument("images", nargs="*", metavar="IMAGE", help="pictures, folders of them, or one test.csv")
    images.add_argument("--no-detect", action="store_true", help="each picture is a face already cut out")
    images.add_argument("--model", help="a page of this OUT or a run's folder; unset: the published network")
    for command, action, about, parents in (
        ("all-reports", _all_reports, "make every page that is not current", [shared]),
        ("report", _report, "make one page", [shared, pages]),
        ("plan", _plan, "say what would run and why", [shared, pages]),
        ("compare", _compare, "set the runs of pages side by side", [shared, pages]),
        ("data", _data, "download FER2013 from Kaggle (a public data set)", [shared]),
        ("lab", _lab, "open the notebooks in JupyterLab", [shared]),
        ("clean", _clean, "remove reports and runs, naming their size first", [shared]),
        ("publish", _publish, "write reports/published/: the study on real data, single faces withheld", [shared]),
        ("import", _import, "take in finished runs from another machine", [shared, source]),
        ("reproduce", _reproduce, "train a page afresh and compare with what stands", [shared, page]),
        ("bootstrap", _bootstrap, "the cell with which notebooks start on Colab and Kaggle", [written]),
        ("predict", _predict, "a network's answer for your own pictures or Kaggle's test.csv", [shared, images]),
        ("_worker", _worker, argparse.SUPPRESS, []),
    ):
        added = commands.add_parser(command, help=about, description=about, parents=parents)
        added.set_defaults(action=action)
    return parser


class Terminated(BaseException):
    """SIGTERM came: a cluster wants its machine back."""


def _terminate(*_: object) -> None:
    raise Terminated


def main() -> int:
    options = _parser().parse_args()
    for name in ("data", "name", "device", "jobs", "out", "set"):
        if getattr(options, name, None):
            os.environ[f"FER_{name.upper()}"] = getattr(options, name)
    if options.command in ("all-reports", "report", "reproduce"):
        signal.signal(signal.SIGTERM, _terminate)
    if options.command not in ("lab", "data"):
        os.environ.setdefault("FER_THREADS", "1")  # JOBS fill the cores: faster together, and the same bits anywhere
    try:
        if options.command == "report" and not options.pages:
            raise FerError(f"which page? One of: {', '.join(schema.page_names())}")
        return options.action(options)
    except FerError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    except Terminated:
        print("\nstopped by SIGTERM; the next call goes on from the last checkpoints.", file=sys.stderr)
        return build.STOPPED_STATUS
    except KeyboardInterrupt:
        print("\nstopped; the next call goes on where this one stood.", file=sys.stderr)
        return 130
    except OSError as fault:
        if fault.errno == 28:
            print(
                f"error: no space left on the device that holds {fault.filename or 'OUT'}: free some.", file=sys.stderr
            )
            return 2
        raise


if __name__ == "__main__":
    sys.exit(main())
