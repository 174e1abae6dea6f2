"""The same trainings on a Ray cluster: each run is a Ray task; pages are made here afterwards, as ever.

What a node needs is Python and the libraries, Ray and Python of this machine's versions: no checkout and no data. This
package travels as Ray's `py_modules` (a third of a megabyte), so that no node can lag behind; a node whose code is
another all the same refuses. The images lie in Ray's object store, once a node. Where a node sees OUT under the same
path it trains right there, checkpoints included; else in a folder of its own, and the run comes back as bytes.
A lost worker's run is tried again elsewhere, from its last checkpoint where OUT is shared, else from the start:
with the same bytes at the end in both cases.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from fer_core import artifacts, build, data, devices
from fer_core.artifacts import Settings, run_folder, write_bytes
from fer_core.data import Faces
from fer_core.schema import FerError

RETRIES = 3  # of a run whose worker or node was lost
PATIENCE_SECONDS = 10  # for runs that are called back
IN_FLIGHT = 256  # runs handed to the cluster at a time: it may grow as they wait


def gpus_per_run(device: str) -> float:
    """GPUS_PER_RUN, a share of one GPU or several whole ones; unset: one where this machine's device is a GPU."""
    text = os.environ.get("FER_GPUS_PER_RUN") or ("0" if device == "cpu" else "1")
    expected = "a share of a GPU such as 0.25, or a whole number from 0"
    return artifacts.number_from("GPUS_PER_RUN", text, lambda n: 0 <= n <= 1 or (n <= 64 and n == int(n)), expected)


def package_fingerprint() -> str:
    """The syntax trees of the whole package, by which a node knows whether it has this code."""
    folder = Path(__file__).parent
    return artifacts.code_fingerprint(*(file.relative_to(folder).as_posix() for file in folder.rglob("*.py")))


class RayEngine:
    """Runs as tasks of a Ray cluster.

    Parameters
    ----------
    address : of the cluster's head, host:port, or `auto` on one of its machines

    Raises
    ------
    FerError: Ray is not installed, no cluster answers, GPUS_PER_RUN is no such number.
    """

    in_flight = IN_FLIGHT

    def __init__(self, settings: Settings, address: str) -> None:
        if not address:
            raise FerError(
                "ENGINE is ray, but ADDRESS is empty: give the head's host:port, or auto on a cluster's machine."
            )
        self.settings = settings
        self.gpus = gpus_per_run(devices.device_type(settings.device))
        self.ray = _connect(address)
        self.slots = self._slots()
        faces = data.open_faces(settings.data, settings.store)
        # A plain array: a mapped file would travel as a path.
        self.faces = self.ray.put(replace(faces, images=np.asarray(faces.images)))
        self.mark = settings.store / f"driver-{secrets.token_hex(8)}"
        write_bytes(self.mark, b"")
        self.order = {
            "code": package_fingerprint(),
            "settings": replace(settings, data=None, device="cuda" if self.gpus else "cpu"),
            "mark": self.mark,
        }
        self.train = self.ray.remote(num_gpus=self.gpus, max_calls=1, max_retries=RETRIES)(train)
        self.under_way: set[Any] = set()
        self.lock = threading.Lock()

    def _slots(self) -> int:
        """How many runs the cluster's nodes hold now; says so where none holds any."""
        slots = 0
        for node in filter(lambda node: node["Alive"], self.ray.nodes()):
            cpus, gpus = (node["Resources"].get(kind, 0) for kind in ("CPU", "GPU"))
            slots += int(min(cpus, gpus / self.gpus if self.gpus else cpus))
        if not slots:
            wanted = f"a CPU and {self.gpus:g} GPUs" if self.gpus else "a CPU"
            print(f"no machine of the cluster offers {wanted} a run: runs wait until one does.", file=sys.stderr)
        return max(1, slots)

    def do(self, message: dict[str, Any]) -> dict[str, Any]:
        """Have the run trained and put into the store; the answer of whoever trained it, or why nobody could."""
        carried = _carried(run_folder(self.settings.store, message["key"]))
        order = {**self.order, "message": message, "carried": carried}
        task = self.train.options(num_cpus=message["params"].get("threads", 1)).remote(order, self.faces)
        with self.lock:
            self.under_way.add(task)
        try:
            return take_in(self.ray.get(task), self.settings, message["key"])
        except self.ray.exceptions.RayError as fault:
            return {"error": f"Ray lost it, {RETRIES} retries included: {first_line(fault)}"}
        except Exception as fault:  # whatever it is, the other runs go on
            return {"error": f"{type(fault).__name__}: {first_line(fault)}"}
        finally:
            with self.lock:
                self.under_way.discard(task)

    def close(self) -> None:
        """Call back what is under way; leave the cluster once nobody waits for an answer any more."""
        with self.lock:
            for task in self.under_way:
                with contextlib.suppress(Exception):  # a task that has just ended; the others go all the same
                    self.ray.cancel(task, force=True)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.under_way and time.monotonic() < deadline:
            time.sleep(0.05)
        self.mark.unlink(missing_ok=True)
        self.ray.shutdown()


def _connect(address: str) -> Any:
    """The module `ray`, connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise FerError(
            "ENGINE is ray, but Ray is not installed here: pip install 'ray==<the cluster's version>' and try again."
        ) from None
    words = {**build.ONE_THREAD, "WANDB_MODE": os.environ.get("WANDB_MODE", "offline")}
    package = {"py_modules": [str(Path(__file__).parent)], "excludes": ["__pycache__"], "env_vars": words}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address != "auto":  # Ray itself tries for minutes where nobody listens
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, runtime_env=package, log_to_driver=False, logging_level="ERROR")
    except Exception as fault:
        raise FerError(
            f"no Ray cluster that this machine can use answers at '{address}': {first_line(fault)}"
        ) from fault
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own there, which leaves without a word
    return ray


def first_line(fault: BaseException) -> str:
    return next((line.strip() for line in str(fault).splitlines() if line.strip()), type(fault).__name__)


# ----------------------------------------------------------------------------------------------------------- on a node


def train(order: dict[str, Any], faces: Faces) -> dict[str, Any]:
    """A Ray task: train the run of `order["message"]`.

    Returns
    -------
    A worker's answer; where the node does not see the driver's OUT, `files` holds the run's folder.
    """
    host, code = socket.gethostname(), package_fingerprint()
    if code != order["code"]:
        remedy = "update its copy, or take it off PYTHONPATH so that the one sent along is used."
        return {"error": f"{host} has another fer_core ({code}) than this machine ({order['code']}): {remedy}"}
    shared, settings = order["mark"].exists(), order["settings"]
    if not shared:
        settings = replace(settings, out=_scratch())
        for name, content in order["carried"].items():
            file = run_folder(settings.store, order["message"]["key"]) / name
            if not file.exists():
                write_bytes(file, content)
    answer = build.perform(order["message"], settings, threading.Event(), faces)
    if not shared and "key" in answer:
        folder = run_folder(settings.store, answer["key"])
        answer["files"] = _files(folder)
        shutil.rmtree(folder)
    return answer


def _scratch() -> Path:
    """Where a node trains that does not see OUT: a run that is tried again on the same machine goes on there."""
    folder = Path(tempfile.gettempdir()) / f"fer-runs-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    """The run's files by their path in its folder, wandb's included."""
    found = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found if not file.is_symlink()}


def _carried(folder: Path) -> dict[str, bytes]:
    """What a run that was cut short needs to go on elsewhere."""
    files = (folder / name for name in ("checkpoint.pt", "run.json"))
    return {file.name: file.read_bytes() for file in files if file.exists()}


# -------------------------------------------------------------------------------------------------------- back from it


def take_in(answer: dict[str, Any], settings: Settings, key: str) -> dict[str, Any]:
    """Put a run trained elsewhere into this store: under the key it was wanted by; beside, if on another device.

    run.json comes last: without it the rest counts for nothing. A run of another type of device than this machine's
    has a key of its own and stands in as an imported one does: by parameters and data, and pages say so.
    """
    files = answer.pop("files", None)
    if "key" not in answer:
        return answer
    folder = run_folder(settings.store, answer["key"])
    files = _files(folder) if files is None else files
    record = json.loads(files.pop("run.json", b"{}"))
    if answer["key"] != key and record:
        folder = settings.store / "imported" / record["identity"]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        for name, content in files.items():
            file = folder / name
            if not file.resolve().is_relative_to(folder.resolve()):
                return {"error": f"a node sent {name}, which lies outside the run's folder: nothing more was taken."}
            if not file.exists() or file.read_bytes() != content:
                write_bytes(file, content)
        if record:
            if record.get("commit") is None:  # a package sent along knows none: the node ran this checkout's code
                from fer_core.training import commit

                record |= commit()
            artifacts.write_json(folder / "run.json", record)
    return answer
