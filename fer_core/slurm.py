"""The same trainings as Slurm jobs, by submitit. **Untested on a real cluster**: tried with submitit's local executor.

A job is one run. Before Slurm preempts it or its time is over, submitit gets SIGUSR2 (`SUBMITIT_PREEMPT_SIGNAL`, set to
USR1, makes it the other) and asks the job's `checkpoint()` what to go on with. Here that stops the training at once:
its last epoch's checkpoint stands, and the requeued job goes on from there to the same bytes. OUT, this checkout and
its environment must be seen by the nodes under the same paths, as they are on a cluster's shared drive.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from fer_core import build, devices
from fer_core.artifacts import Settings
from fer_core.cluster import IN_FLIGHT, first_line, gpus_per_run, take_in
from fer_core.schema import FerError, parse_yaml

TIMEOUT_MINUTES = 240  # of a job; one that needs longer is requeued
MAX_TIMEOUTS = 100


@dataclass
class Training:
    """What a job executes: the run of a message, in a thread of its own, so that a signal can wait for its end."""

    message: dict[str, Any]
    settings: Settings

    def __call__(self) -> dict[str, Any]:
        self.stop = threading.Event()
        self.answer: dict[str, Any] = {"error": "the job was stopped before its run had ended"}
        self.thread = threading.Thread(target=self._train, daemon=True)
        self.thread.start()
        self.thread.join()
        return self.answer

    def _train(self) -> None:
        self.answer = build.perform(self.message, self.settings, self.stop)

    def checkpoint(self) -> Any:
        """Called by submitit within its signal handler: end the training within a step, and say how to go on."""
        from submitit.helpers import DelayedSubmission

        self.stop.set()
        while self.thread.is_alive():  # not join(): the main thread stands in one already
            time.sleep(0.05)
        return DelayedSubmission(Training(self.message, self.settings))


class SlurmEngine:
    """Runs as jobs.

    Parameters
    ----------
    address : submitit's parameters, `slurm_partition=gpu timeout_min=600 …`; `local`: jobs on this machine, for tests

    Raises
    ------
    FerError: submitit is not installed, this machine has no Slurm, a parameter or GPUS_PER_RUN is at fault.
    """

    in_flight = IN_FLIGHT
    slots = 1  # what Slurm will grant nobody knows: estimates are for one after the other

    def __init__(self, settings: Settings, address: str) -> None:
        gpus = gpus_per_run(devices.device_type(settings.device))
        if gpus != int(gpus):
            raise FerError(f"GPUS_PER_RUN is {gpus:g}, but Slurm gives whole GPUs: use 0 or 1.")
        self.settings, self.gpus = settings, int(gpus)
        self.executor = self._executor(address)
        self.jobs: list[Any] = []
        self.lock = threading.Lock()
        os.environ.update(build.worker_environment(settings))  # a job inherits it

    def _executor(self, address: str) -> Any:
        try:
            import submitit
        except ImportError:
            raise FerError("ENGINE is slurm, but submitit is not installed here: pip install submitit==1.5.4") from None
        kind, words = ("local", []) if address == "local" else ("slurm", address.split())
        try:
            executor = submitit.AutoExecutor(
                self.settings.store / "slurm", cluster=kind, **{f"{kind}_max_num_timeout": MAX_TIMEOUTS}
            )
            given = dict(word.partition("=")[::2] for word in words)
            parameters = {name: parse_yaml(value, f"ADDRESS {name}") for name, value in given.items()}
            executor.update_parameters(
                **{"name": "fer", "timeout_min": TIMEOUT_MINUTES, "gpus_per_node": self.gpus, **parameters}
            )
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as fault:
            raise FerError(f"submitit takes no jobs here: {' '.join(str(fault).split())}") from fault
        return executor

    def do(self, message: dict[str, Any]) -> dict[str, Any]:
        """Have the run trained; the answer of its job once it has ended, requeued or not."""
        there = replace(self.settings, device="cuda" if self.gpus else "cpu")
        try:
            with self.lock:  # submitit's executor is not made for threads
                self.executor.update_parameters(cpus_per_task=message["params"].get("threads", 1))
                job = self.executor.submit(Training(message, there))
                self.jobs.append(job)
            return take_in(job.result(), self.settings, message["key"])
        except Exception as fault:  # submitit's errors have no common ancestor
            return {"error": f"{type(fault).__name__}: {first_line(fault)}; see .runs/slurm in OUT"}

    def close(self) -> None:
        with self.lock:
            for job in self.jobs:
                if not job.done():
                    job.cancel(check=False)
