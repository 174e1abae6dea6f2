"""Many machines: what a plan says of them; runs on Ray and as submitit's jobs end with the bytes of the local build."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fer_core import artifacts, build, cluster, cost, data, devices, slurm, training
from fer_core.__main__ import main
from fer_core.artifacts import Settings, run_folder, run_key, write_json
from fer_core.data import Faces
from fer_core.schema import ROOT, FerError, Params

BYTES = ("model.safetensors", "history.csv", "metrics.json", "predictions.parquet", "network.csv")
PAGE = "03_dropout/default"
SMALL = Params(width=0.25, epochs=3, batch_norm=True, threads=1, precision="float32")


# -------------------------------------------------------------------------------------------------------- time and cost


def put_run(shelf: Path, params: Params, device: str, seconds: float, data_hash: str, epochs: int = 2) -> None:
    """A finished run's two records, with these seconds."""
    key = run_key(params, data_hash, device)
    record = {
        "state": "done",
        "key": key.key,
        "identity": key.identity,
        "parameters": key.values,
        "data_hash": data_hash,
        "device": device,
        "threads": 1,
        "processor": "a processor",
        "gpu": "a card" if device == "cuda" else None,
        "seconds": seconds,
    }
    write_json(shelf / key.key / "run.json", record)
    write_json(shelf / key.key / "metrics.json", {"epochs": epochs})


def test_longest_first_fills_workers_as_counted_by_hand() -> None:
    assert cost.makespan([2, 3, 7, 4], 1) == 16
    assert cost.makespan([2, 3, 7, 4], 2) == 9  # 7 and 2; 4 and 3
    assert cost.makespan([2, 3, 7, 4], 8) == 7


def test_runs_of_known_seconds_give_the_hours_and_costs_counted_by_hand(tmp_path: Path) -> None:
    timed = replace(SMALL, epochs=2)
    put_run(tmp_path, timed, "cpu", 7200, "images")
    wide = replace(timed, width=0.5)
    runs = [(replace(timed, seed=seed), f"seed {seed}") for seed in range(9)] + [(wide, "wide")]
    lines = cost.describe(cost.Clock([tmp_path], "images"), runs, cores=2, price=0.5)
    assert lines[1] == (
        "  cpu (a processor): 18.0 core hours: 18.0 hours on 1 (costs 9.00), 10.0 hours on 2 (costs 10.00), "
        "4.0 hours on 8 (costs 16.00), 2.0 hours on 64 (costs 64.00); without 1 runs of networks not measured on it"
    )
    assert lines[2] == "  cuda: not measured"


def test_run_costs_its_own_seconds_where_it_was_trained_and_scales_by_epochs_and_images(tmp_path: Path) -> None:
    put_run(tmp_path, replace(SMALL, epochs=2), "cuda", 100, "images")
    clock = cost.Clock([tmp_path], "images")
    identity = run_key(replace(SMALL, epochs=2), "images", "cuda").identity
    assert clock.whole(replace(SMALL, epochs=2), identity, "cuda") == 100
    assert clock.whole(replace(SMALL, epochs=6), "other", "cuda") == pytest.approx(300)
    assert clock.whole(replace(SMALL, epochs=2, train_fraction=0.375), "other", "cuda") == pytest.approx(50)
    assert clock.whole(replace(SMALL, network="complex_cnn"), "other", "cuda") is None
    assert clock.whole(replace(SMALL, epochs=2), identity, "cpu") is None


def test_other_data_and_unfinished_runs_are_no_measure_and_a_run_on_two_shelves_counts_once(tmp_path: Path) -> None:
    put_run(tmp_path / "runs", SMALL, "cpu", 10, "images")
    put_run(tmp_path / "imported", SMALL, "cpu", 10, "images")
    put_run(tmp_path / "runs", SMALL, "cpu", 10, "others")
    put_run(tmp_path / "runs", replace(SMALL, seed=1), "cpu", 10, "images")
    (cut,) = (
        file for file in tmp_path.rglob("run.json") if run_key(replace(SMALL, seed=1), "images", "cpu").key in str(file)
    )
    write_json(cut, json.loads(cut.read_text()) | {"state": "cut"})
    assert len(cost.Clock([tmp_path / "runs", tmp_path / "imported"], "images").runs) == 1


def test_plan_prints_hours_on_many_workers_from_own_imported_and_published_runs(
    place: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = build.Plan(place, [PAGE])
    (params, identity), *_ = [(run.params, run.wanted.identity) for run in plan.chosen[0].runs]
    shelf = place.store / "imported"
    put_run(shelf, params, "cuda", 3600, plan.data_hash, epochs=params.epochs)
    for file in (shelf / run_key(params, plan.data_hash, "cuda").key).iterdir():
        file.replace((shelf / identity).mkdir(exist_ok=True) or shelf / identity / file.name)
    runs = len(plan.chosen[0].runs)
    for name, value in (("OUT", place.out), ("DEVICE", "cpu"), ("PRICE", "1.10"), ("THREADS", "1")):
        monkeypatch.setenv(f"FER_{name}", str(value))
    monkeypatch.setattr(sys, "argv", ["fer", "plan", PAGE, "--price", "2"])
    assert main() == 0
    text = capsys.readouterr().out
    assert f"is {runs} runs" in text
    assert "  cpu: not measured" in text
    assert (
        f"  cuda (a card): {runs}.0 GPU hours: {runs}.0 hours on 1 (costs {2 * runs}.00), 1.0 hours on 8 (costs 16.00)"
        in text
    )


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"ENGINE": "rai"}, "ENGINE is 'rai', expected local, ray or slurm"),
        ({"ADDRESS": "head:6379"}, "ADDRESS is set, but ENGINE is not"),
        ({"ENGINE": "ray"}, "ADDRESS is empty"),
        ({"ENGINE": "ray", "ADDRESS": "auto", "GPUS_PER_RUN": "1.5"}, "GPUS_PER_RUN is '1.5'"),
        ({"ENGINE": "ray", "ADDRESS": "auto", "GPUS_PER_RUN": "half"}, "GPUS_PER_RUN is 'half'"),
        ({"ENGINE": "slurm", "ADDRESS": "local", "GPUS_PER_RUN": "0.25"}, "Slurm gives whole GPUs"),
    ],
)
def test_bad_setting_gets_one_sentence_before_anything_starts(
    env: dict[str, str], sentence: str, place: Settings, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name, value in {**env, "OUT": str(place.out), "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"FER_{name}", value)
    monkeypatch.setattr(sys, "argv", ["fer", "report", PAGE])
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main() == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sentence in capsys.readouterr().err
    assert not place.reports.exists()


def test_bad_price_is_refused(monkeypatch: pytest.MonkeyPatch, place: Settings, capsys: Any) -> None:
    monkeypatch.setenv("FER_OUT", str(place.out))
    monkeypatch.setattr(sys, "argv", ["fer", "plan", PAGE, "--price", "cheap"])
    assert main() == 2
    assert "PRICE is 'cheap'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ an engine in a build, without Ray


class Broken:
    """An engine that finishes nothing."""

    slots = in_flight = 2

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer, self.messages, self.closed = answer, [], False  # type: ignore[var-annotated]

    def do(self, message: dict[str, Any]) -> dict[str, Any]:
        self.messages.append(message)
        return self.answer

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("answer", [{"error": "no machine"}, {"state": "cut"}])
def test_page_whose_run_the_engine_did_not_finish_is_not_trained_here(place: Settings, answer: dict[str, Any]) -> None:
    plan, engine = build.Plan(place, [PAGE]), Broken(answer)
    work = build.Build(plan, 1, engine)
    work.run()
    assert {message["key"] for message in engine.messages} == {run.key for run in plan.missing_runs()}
    assert not any(worker.process for worker in work.workers)
    assert engine.closed
    assert work.finished == {PAGE, *(run.name for run in plan.missing_runs())}
    failed = "error" in answer
    states = build.entry((plan := build.Plan(place, [PAGE])).pages[PAGE], plan, {})["runs"]
    assert states == {"failed" if failed else "missing": len(plan.missing_runs())}
    assert (PAGE in work.failures) == failed
    assert bool(work.cut) != failed


def test_an_engine_that_raises_ends_the_build_and_says_why(place: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Broken({})
    monkeypatch.setattr(engine, "do", lambda message: 1 / 0)
    work = build.Build(build.Plan(place, [PAGE]), 1, engine)
    work.run()
    assert "ZeroDivisionError" in next(iter(work.failures.values())) and not work.running


def test_first_run_of_a_page_goes_to_the_engine_too(place: Settings) -> None:
    plan = build.Plan(place, [PAGE])
    here = [task.message["kind"] for task in build.tasks_of(plan)]
    there = [task.message["kind"] for task in build.tasks_of(plan, apart=True)]
    assert there.count("run") == here.count("run") + 1 == len(plan.missing_runs())


def test_with_a_key_for_wandb_in_the_environment_workers_train_and_no_kernel_does(
    place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kinds() -> list[str]:
        return [task.message["kind"] for task in build.Build(build.Plan(place, [PAGE]), 1).waiting]

    monkeypatch.setenv("WANDB_API_KEY", "a-secret")
    monkeypatch.setenv("WANDB_MODE", "offline")
    before = kinds()
    monkeypatch.setenv("WANDB_MODE", "online")
    assert kinds().count("run") == before.count("run") + 1


# --------------------------------------------------------------------------------------- a node's work, in this process


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's temporary folder."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def order(place: Settings, faces: Faces, params: Params = SMALL, **changes: Any) -> dict[str, Any]:
    values = {name: value for name, value in vars(params).items() if name not in ("arms", "rule")}
    key = run_key(params, faces.data_hash, "cpu").key
    message = {"kind": "run", "params": values, "key": key}
    base = {"code": cluster.package_fingerprint(), "settings": place, "mark": place.out / "no mark"}
    return {**base, "message": message, "carried": {}, **changes}


def trained(place: Settings, faces: Faces, out: Path, params: Params = SMALL) -> dict[str, bytes]:
    run = training.train_or_load(params, replace(place, out=out), faces)
    return {name: (run.folder / name).read_bytes() for name in BYTES}


def test_run_sent_back_as_bytes_is_the_local_one_and_leaves_nothing_on_the_node(
    place: Settings, faces: Faces, node: Path, tmp_path: Path
) -> None:
    answer = cluster.train(order(place, faces), faces)
    assert not list(node.rglob("*.safetensors"))
    key = run_key(SMALL, faces.data_hash, "cpu").key
    assert "error" not in cluster.take_in(answer, place, key)
    folder = run_folder(place.store, key)
    assert {name: (folder / name).read_bytes() for name in BYTES} == trained(place, faces, tmp_path / "here")
    assert artifacts.find_run(SMALL, run_key(SMALL, faces.data_hash, "cpu"), place.store) is not None


def test_node_that_sees_out_trains_there_and_sends_nothing(place: Settings, faces: Faces, node: Path) -> None:
    mark = place.store / "driver-mark"
    artifacts.write_bytes(mark, b"")
    answer = cluster.train(order(place, faces, mark=mark), faces)
    assert "files" not in answer
    assert run_folder(place.store, answer["key"]).joinpath("run.json").exists()
    assert not list(node.iterdir())


def test_node_with_other_code_refuses_in_one_sentence(place: Settings, faces: Faces, node: Path) -> None:
    answer = cluster.train(order(place, faces, code="0123456789abcdef"), faces)
    assert "has another fer_core" in answer["error"]
    assert "0123456789abcdef" in answer["error"]
    assert not list(node.iterdir())


def test_stopped_run_goes_on_from_the_checkpoint_that_travels(
    place: Settings, faces: Faces, node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []
    original = training.train_epoch

    def counted(session: Any, epoch: int, n: int, stop: Callable[[], bool]) -> dict[str, float]:
        epochs.append(epoch)
        return original(session, epoch, n, stop)

    monkeypatch.setattr(training, "train_epoch", counted)
    with pytest.raises(training.Stopped):
        training.train_or_load(SMALL, place, faces, stop=lambda: len(epochs) > 1)
    key = run_key(SMALL, faces.data_hash, "cpu").key
    carried = cluster._carried(run_folder(place.store, key))
    epochs.clear()
    cluster.take_in(cluster.train(order(place, faces, carried=carried), faces), place, key)
    assert epochs == [2, 3]
    folder = run_folder(place.store, key)
    assert {name: (folder / name).read_bytes() for name in BYTES} == trained(place, faces, tmp_path / "here")


def test_run_of_another_type_of_device_stands_in_as_an_imported_one(place: Settings, faces: Faces, node: Path) -> None:
    answer = cluster.train(order(place, faces), faces)
    there = run_key(SMALL, faces.data_hash, "cuda")
    record = json.loads(answer["files"]["run.json"]) | {"device": "cuda", "key": there.key}
    answer["files"]["run.json"] = json.dumps(record).encode()
    cluster.take_in({**answer, "key": there.key}, place, run_key(SMALL, faces.data_hash, "cpu").key)
    found = artifacts.find_run(SMALL, run_key(SMALL, faces.data_hash, "cpu"), place.store)
    assert found is not None
    assert found.foreign == "device"


def test_file_outside_the_runs_folder_is_refused(place: Settings) -> None:
    answer = cluster.take_in({"state": "done", "key": "a", "files": {"../../b": b"x"}}, place, "a")
    assert "outside the run's folder" in answer["error"]
    assert not list(place.out.rglob("b"))


def test_shared_runs_and_sent_ones_name_this_checkouts_commit(place: Settings, faces: Faces, node: Path) -> None:
    answer = cluster.train(order(place, faces), faces)
    record = json.loads(answer["files"]["run.json"]) | {"commit": None, "clean": None}
    answer["files"]["run.json"] = json.dumps(record).encode()
    cluster.take_in(answer, place, answer["key"])
    stored = json.loads((run_folder(place.store, answer["key"]) / "run.json").read_text())
    assert {name: stored[name] for name in ("commit", "clean")} == training.commit()


# ------------------------------------------------------------------------------------------------------------------ Ray

# In a process of its own, as Ray leaves sockets and threads behind: a head without CPUs and two workers. Told the key
# of a run it kills the node, raylet and workers, that holds the lock of that run.
NODES = """
import pathlib, sys
from ray.cluster_utils import Cluster

def target(file):
    try:
        return file.readlink().name
    except OSError:  # it was closed meanwhile
        return ""

def holds(node, key):
    raylet = node.all_processes["raylet"][0].process.pid
    children = pathlib.Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    opened = [file for child in children for file in pathlib.Path(f"/proc/{child}/fd").glob("*")]
    return any(target(file) == f"{key}.lock" for file in opened)

small = {"object_store_memory": 100_000_000}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
nodes = [cluster.add_node(num_cpus=1, num_gpus=1, **small) for _ in range(2)]
print(cluster.address, flush=True)
for key in sys.stdin:
    (node,) = [node for node in nodes if holds(node, key.strip())]
    cluster.remove_node(node, allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""
SENT_BACK = """
import sys
from fer_core import artifacts, build, cluster

def connect(settings):
    engine = cluster.RayEngine(settings, sys.argv[1])
    engine.mark.unlink()  # so no node takes this OUT for its own
    return engine

sys.exit(build.build(artifacts.settings(), [sys.argv[2]], 1, connect))
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a head and two workers, and their process."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray>=2.60'")
    # Ray's workers give way to everything else on a machine (niceness 15): here they are what is waited for.
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", NODES], env=environment, stdin=pipe, stdout=pipe, text=True, cwd=tempfile.gettempdir()
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"[\w.]+:\d+", address), "the Ray cluster did not start"
        yield address, process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(60)


def driver(out: Path, *words: str, epochs: int = 12, **settings: str) -> subprocess.Popen[str]:
    """A build of one page with two runs, in another process."""
    stated = {
        "OUT": str(out),
        "SET": f"seeds=[0,1] width=0.5 epochs={epochs}",
        "JOBS": "2",
        "DEVICE": "cpu",
        **settings,
    }
    environment = {**os.environ, **{f"FER_{name}": value for name, value in stated.items()}, "FER_THREADS": "1"}
    command = [sys.executable, *(words or ("-m", "fer_core", "report", PAGE))]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return out, err


def run_bytes(out: Path) -> dict[str, bytes]:
    folder = out / ".runs" / "runs"
    return {f"{run.name}/{name}": (run / name).read_bytes() for run in folder.glob("*/") for name in BYTES}


def page(out: Path) -> str:
    html = (out / f"reports/sample/{PAGE}.html").read_text()
    return re.sub(r"<!-- provenance -->.*<!-- /provenance -->", "", html, flags=re.DOTALL)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_runs_come_back_as_bytes_where_out_is_not_shared_and_a_node_without_gpu_says_so(
    nodes: tuple[str, subprocess.Popen[str]], tmp_path: Path
) -> None:
    head, _ = nodes
    finish(driver(tmp_path / "far", "-c", SENT_BACK, head, PAGE, epochs=1))
    finish(driver(tmp_path / "near", epochs=1))
    assert len(run_bytes(tmp_path / "near")) == 2 * len(BYTES)
    assert run_bytes(tmp_path / "far") == run_bytes(tmp_path / "near")
    assert page(tmp_path / "far") == page(tmp_path / "near")
    if devices._cuda_devices():
        return
    # Ray believes in the nodes' GPUs; the run that gets a quarter of one finds none.
    wrong = driver(tmp_path / "wrong", epochs=1, ENGINE="ray", ADDRESS=head, GPUS_PER_RUN="0.25")
    out, err = wrong.communicate(timeout=600)
    assert wrong.returncode == 1, err
    assert "DEVICE is cuda, but this machine has none" in out
    assert re.search(rf"{PAGE}: its run .* failed", out)
    assert not (tmp_path / f"wrong/reports/sample/{PAGE}.html").exists()


@pytest.mark.slow
def test_stopped_driver_calls_its_runs_back_and_a_local_build_goes_on_with_them(
    nodes: tuple[str, subprocess.Popen[str]], tmp_path: Path
) -> None:
    far = driver(tmp_path, ENGINE="ray", ADDRESS=nodes[0], epochs=20)
    wait_for(lambda: list(tmp_path.rglob("checkpoint.pt")), far)
    far.send_signal(signal.SIGTERM)
    out, err = far.communicate(timeout=60)
    assert far.returncode == 75, out + err
    assert not list(tmp_path.rglob("driver-*"))
    _, err = finish(driver(tmp_path, epochs=20))
    assert re.search(r"resuming at epoch \d+ of 20", err), err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds a run's node in /proc")
def test_study_on_two_ray_nodes_one_of_them_killed_in_mid_run_has_the_local_builds_bytes(
    nodes: tuple[str, subprocess.Popen[str]], tmp_path: Path
) -> None:
    head, process = nodes
    far = driver(tmp_path / "far", ENGINE="ray", ADDRESS=head)
    wait_for(lambda: list(tmp_path.rglob("checkpoint.pt")), far)
    assert process.stdin is not None and process.stdout is not None
    print(next(tmp_path.rglob("checkpoint.pt")).parent.name, file=process.stdin, flush=True)
    assert process.stdout.readline().strip() == "killed"
    _, err = finish(far)
    assert re.search(r"resuming at epoch \d+ of 12", err), err
    finish(driver(tmp_path / "near"))
    assert len(run_bytes(tmp_path / "near")) == 2 * len(BYTES)
    assert run_bytes(tmp_path / "far") == run_bytes(tmp_path / "near")
    assert page(tmp_path / "far") == page(tmp_path / "near")
    assert not list(tmp_path.rglob("driver-*"))
    runs = [json.loads(file.read_text()) for file in (tmp_path / "far/.runs").rglob("run.json")]
    assert {run["commit"] for run in runs} == {training.commit()["commit"]}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_address_without_a_cluster_is_one_sentence(place: Settings, address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray>=2.60'")
    with pytest.raises(FerError, match=f"no Ray cluster that this machine can use answers at '{address}'"):
        cluster.RayEngine(place, address)


# ---------------------------------------------------------------------------------------------------------------- Slurm


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the job's process in /proc")
def test_job_that_gets_sigusr2_is_requeued_and_goes_on_to_the_local_bytes(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'submitit>=1.5.4'")
    for name, value in build.worker_environment(place).items():
        monkeypatch.setenv(name, value)
    faces = data.open_faces(None, place.store)
    params = replace(SMALL, epochs=12)
    message = order(place, faces, params)["message"]
    folder = run_folder(place.store, message["key"])
    engine = slurm.SlurmEngine(place, "local")
    answers: list[dict[str, Any]] = []
    sender = threading.Thread(target=lambda: answers.append(engine.do(message)))
    sender.start()
    deadline = time.monotonic() + 200
    while not (folder / "checkpoint.pt").exists():
        assert time.monotonic() < deadline and sender.is_alive(), answers
        time.sleep(0.05)
    controller = int(engine.jobs[0].job_id)
    (child,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    os.kill(int(child), signal.SIGUSR2)
    sender.join(400)
    assert [answer.get("state") for answer in answers] == ["done"], answers
    log = engine.jobs[0].stderr() + engine.jobs[0].stdout()
    assert "Caught signal SIGUSR2" in log
    assert "Requeued job" in log
    assert {name: (folder / name).read_bytes() for name in BYTES} == trained(place, faces, tmp_path / "here", params)
    engine.close()


def test_slurm_parameter_at_fault_is_one_sentence(place: Settings) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'submitit>=1.5.4'")
    with pytest.raises(FerError, match="submitit takes no jobs here"):
        slurm.SlurmEngine(place, "slurm_partion=gpu")
