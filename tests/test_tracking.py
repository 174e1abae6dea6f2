"""Offline logs: found, listed and sent whole and in order, to a stand-in server; a server that refuses costs no run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fer_core import artifacts, tracking
from fer_core.artifacts import Settings
from fer_core.schema import ROOT

from .standin import StandIn

SCRIPT = """
import sys
from pathlib import Path
from fer_core import tracking, training
from fer_core.artifacts import Settings
from fer_core.schema import Params
from tests.conftest import make_faces
tracking.offline_unless_answered()
params = Params(width=0.25, batch_norm=True, epochs=9, batch_size=2, threads=1, precision="float32")
print(training.train_or_load(params, Settings(None, "sample", "cpu", Path(sys.argv[1])), make_faces()).state)
"""
FILES = ("model.safetensors", "history.csv", "predictions.parquet", "metrics.json")
KEY = "a" * 40


def environment(**more: str) -> dict[str, str]:
    """Without the keys of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "FER"))}
    return kept | {"NETRC": os.devnull, "PYTHONPATH": str(ROOT), **more}


def train(out: Path, **more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SCRIPT, str(out)]
    return subprocess.Popen(
        words, cwd=ROOT, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def content(out: Path) -> dict[str, bytes]:
    (folder,) = (path.parent for path in out.rglob("run.json"))
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a training that logged offline, was killed after its first epoch and resumed."""
    out = tmp_path_factory.mktemp("logged")
    running = train(out, WANDB_MODE="offline")
    deadline = time.monotonic() + 120
    while not list(out.rglob("progress.json")):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    running.kill()
    running.communicate()
    told, _ = train(out, WANDB_MODE="offline").communicate()
    assert told.strip() == "done"
    return out


@pytest.fixture
def here(logged: Path, tmp_path: Path) -> Settings:
    """A copy that a test may send from."""
    shutil.copytree(logged, tmp_path / "out", symlinks=True)
    return Settings(None, "sample", "cpu", tmp_path / "out")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()
    monkeypatch.setenv("WANDB_BASE_URL", stand_in.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield stand_in
    stand_in.shutdown()
    stand_in.server_close()


@pytest.mark.slow
def test_both_parts_of_a_killed_and_resumed_training_are_found_in_order(here: Settings) -> None:
    (run,) = tracking.offline_runs(here.store)
    (folder,) = (path.parent for path in here.store.rglob("run.json"))
    assert (run.id, run.state) == (folder.name, "done")
    assert artifacts.read_json(folder / "run.json")["wandb_id"] == run.id
    # Whether anything of a killed part is on disk is wandb's matter: it keeps its records back for a while.
    assert 1 <= len(run.parts) <= 2
    *before, after = (part.epochs for part in run.parts)
    assert not set(sum(before, ())) & set(after)
    assert sorted([*run.epochs, *run.missing]) == list(range(1, 10))
    assert after[-1] == 9


def test_dry_run_lists_what_would_be_sent_and_asks_no_server(
    here: Settings, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tracking.sync(here, dry_run=True) == 0
    told = capsys.readouterr().out
    (run,) = tracking.offline_runs(here.store)
    assert f"1 run(s), {len(run.parts)} part(s) would go to {server.url}" in told
    places = [told.index(part.file.parent.name) for part in run.parts]
    assert places == sorted(places)
    assert f"to {run.epochs[-1]}" in told or f"epoch {run.epochs[-1]}" in told
    assert not server.asked and not list(here.store.rglob("*.synced"))


def test_both_parts_arrive_as_one_run_each_row_once_and_are_not_sent_again(
    here: Settings, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = tracking.offline_runs(here.store)
    assert tracking.sync(here, dry_run=False) == 0
    assert list(server.rows) == [run.id]
    assert [row["epoch"] for row in server.rows[run.id]] == run.epochs
    assert all("validation_accuracy" in row for row in server.rows[run.id])
    server.asked.clear()
    assert tracking.sync(here, dry_run=False) == 0
    assert "Nothing to send" in capsys.readouterr().out and not server.asked


def test_a_part_sent_before_is_left_out(here: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = tracking.offline_runs(here.store)
    if len(run.parts) < 2:
        pytest.skip("wandb left nothing of the killed part")
    run.parts[0].file.with_suffix(".wandb.synced").touch()
    assert tracking.sync(here, dry_run=True) == 0
    told = capsys.readouterr().out
    assert "1 run(s), 1 part(s)" in told and "sent already" in told


def test_what_a_refusing_server_did_not_take_is_said_and_kept(
    here: Settings, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status = 403
    assert tracking.sync(here, dry_run=False) == 1
    assert "1 of 1 did not arrive whole" in capsys.readouterr().out
    server.status = 200
    assert tracking.sync(here, dry_run=True) == 0
    assert "part(s) would go" in capsys.readouterr().out


def test_nothing_logged_is_nothing_to_send(place: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert tracking.sync(place, dry_run=False) == 0
    assert "Nothing to send" in capsys.readouterr().out


@pytest.mark.parametrize("cut", [1, 60, 400])
def test_a_torn_log_is_read_up_to_where_it_is_torn(here: Settings, cut: int) -> None:
    (run,) = tracking.offline_runs(here.store)
    file = run.parts[-1].file
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert set(tracking.logged_epochs(file)) <= set(run.parts[-1].epochs)
    assert len(list(tracking.records(whole[:-cut]))) < len(list(tracking.records(whole)))


def test_records_over_several_blocks_come_back_whole() -> None:
    contents = [b"a" * 10, b"b" * 70_000, b"", b"c" * 32_743, b"d" * 5]
    data = b":W&B" + bytes(3)
    for text in contents:
        start, first = 0, True
        while first or start < len(text):
            if (left := 32_768 - len(data) % 32_768) < 7:
                data += bytes(left)
                left = 32_768
            piece = text[start : start + left - 7]
            last = start + len(piece) == len(text)
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, last]
            data += bytes(4) + len(piece).to_bytes(2, "little") + bytes([kind]) + piece
            start, first = start + len(piece), False
    assert list(tracking.records(data)) == contents


# -- online


@pytest.mark.parametrize(
    ("status", "key", "why"),
    [(200, KEY, None), (401, KEY, "it answers 401"), (500, KEY, "it answers 500"), (200, "", "no API key")],
)
def test_whether_a_server_takes_runs_is_asked_first(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, status: int, key: str, why: str | None
) -> None:
    server.status = status
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("WANDB_MODE", "online")
    found = tracking.refusal()
    assert found is None if why is None else found is not None and why in found
    tracking.offline_unless_answered()
    assert os.environ["WANDB_MODE"] == ("online" if why is None else "offline")


def test_a_mode_other_than_online_asks_nobody(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("offline", "disabled"):
        monkeypatch.setenv("WANDB_MODE", mode)
        tracking.offline_unless_answered()
        assert os.environ["WANDB_MODE"] == mode
    assert not server.asked


def test_commands_that_train_ask_before_they_start() -> None:
    env = environment(WANDB_MODE="online", WANDB_API_KEY=KEY, WANDB_BASE_URL="http://user:secret@127.0.0.1:9")
    words = [sys.executable, "-m", "fer_core", "report", "no/page"]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert "http://127.0.0.1:9: it cannot be reached" in done.stderr and "logging offline" in done.stderr
    assert KEY not in done.stderr and "secret" not in done.stderr


@pytest.mark.parametrize("url", ["nobody", "refusing"])
def test_a_run_whose_server_is_gone_or_refuses_ends_done_with_the_same_bytes(
    logged: Path, server: StandIn, tmp_path: Path, url: str
) -> None:
    server.status = 403
    address = server.url if url == "refusing" else "http://127.0.0.1:9"
    told, said = train(tmp_path, WANDB_MODE="online", WANDB_API_KEY=KEY, WANDB_BASE_URL=address).communicate()
    assert told.strip() == "done" and "logging offline" in said
    assert content(tmp_path) == content(logged)
    assert tracking.offline_runs(tmp_path / ".runs")[0].epochs == list(range(1, 10))


@pytest.mark.slow
def test_an_online_run_arrives_and_has_the_same_bytes(logged: Path, server: StandIn, tmp_path: Path) -> None:
    told, _ = train(tmp_path, WANDB_MODE="online", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url).communicate()
    assert told.strip() == "done"
    assert content(tmp_path) == content(logged)
    (rows,) = server.rows.values()
    assert [row["epoch"] for row in rows] == list(range(1, 10))


def answers(command: list[str], **more: Any) -> str:
    return subprocess.run(command, cwd=ROOT, env=environment(**more), capture_output=True, text=True).stdout


def test_the_command_lists_offline_runs(here: Settings) -> None:
    told = answers([sys.executable, "-m", "fer_core", "wandb-sync", "--dry-run"], FER_OUT=str(here.out))
    (run,) = tracking.offline_runs(here.store)
    assert f"1 run(s), {len(run.parts)} part(s) would go to https://api.wandb.ai" in told
