"""An actor that is not preloaded joins the clock over gRPC, waits and leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from revati_coordinator.client import ClockActor
from revati_coordinator.errors import CoordinatorError, NotRunningError
from revati_coordinator.generated import clock_pb2 as pb
from revati_coordinator.rundir import find_run
from tests.conftest import REVATI, wait_until

PROGRAM = (
    "import time\nprint('up', flush=True)\nwhile True:\n  time.sleep(1); print(repr(time.monotonic()), flush=True)"
)


@pytest.fixture
def run() -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*REVATI, "run", "--quiet", "--", "sh", "-c", f'exec {sys.executable} -c "$PROGRAM" > /dev/null'],
        env={**os.environ, "PROGRAM": PROGRAM},
        start_new_session=True,
    )

    def control() -> str:
        try:
            return str(find_run()["control"])
        except NotRunningError:
            return ""

    wait_until(control, what="the run")
    yield process, control()
    process.terminate()
    process.wait(timeout=120)


def test_clock_stands_still_while_an_actor_works(run: tuple[subprocess.Popen[str], str]) -> None:
    with ClockActor(run[1], "worker") as actor:
        before = actor.now_ns()
        time.sleep(0.3)
        assert actor.now_ns() == before


def test_wait_until_is_exact(run: tuple[subprocess.Popen[str], str]) -> None:
    with ClockActor(run[1], "worker") as actor:
        for _ in range(20):
            target = actor.now_ns() + 123_456_789
            assert actor.wait_until(target)
            assert actor.now_ns() == target


def test_resume_ends_a_wait_early(run: tuple[subprocess.Popen[str], str]) -> None:
    with ClockActor(run[1], "holder") as other, ClockActor(run[1], "waiter") as actor:
        target = actor.now_ns() + 10**15
        timer = threading.Timer(0.2, actor.resume)
        timer.start()
        assert not actor.wait_until(target)
        assert actor.now_ns() < target
        assert other.now_ns() == actor.now_ns()


SERVER = (
    "import http.server, sys, threading\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "  def do_GET(self):\n"
    "    other = threading.Thread(target=len, args=('',)); other.start(); other.join()\n"
    "    self.send_response(204); self.end_headers()\n"
    "  def log_message(self, *_): pass\n"
    "server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)\n"
    "open(sys.argv[1] + '.new', 'w').write(str(server.server_port))\n"
    "import os; os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
    "server.serve_forever()"
)


@pytest.mark.parametrize("holding", [False, True], ids=["working", "holding"])
def test_the_run_answers_an_actor_while_the_clock_stands(tmp_path: Path, holding: bool) -> None:
    """Threads of a run go on in turns; whom an actor's message wakes gets one though the clock does not move."""
    port_file = tmp_path / "port"
    process = subprocess.Popen(
        [*REVATI, "run", "--quiet", "--policy", "free", "--", sys.executable, "-c", SERVER, str(port_file)],
        start_new_session=True,
    )
    try:
        wait_until(port_file.exists, what="the server")
        with ClockActor(str(find_run()["control"]), "client") as actor:
            if holding:
                actor.hold()
            before_ns, began = actor.now_ns(), time.monotonic()
            for _ in range(10):
                with urllib.request.urlopen(f"http://127.0.0.1:{port_file.read_text()}/", timeout=60) as answer:
                    assert answer.status == 204
            assert time.monotonic() - began < 10  # each lost turn would cost seconds, and there are some 10 a request
            assert actor.now_ns() == before_ns
    finally:
        process.terminate()
        process.wait(timeout=120)


def test_hold_outlives_a_wait(run: tuple[subprocess.Popen[str], str]) -> None:
    with ClockActor(run[1], "a") as actor:
        actor.hold()
        actor.release()
        with pytest.raises(CoordinatorError, match="holds nothing"):
            actor.release()


def test_vanished_actor_frees_the_clock(run: tuple[subprocess.Popen[str], str]) -> None:
    actor = ClockActor(run[1], "vanishes")
    actor.hold()
    before = actor.now_ns()
    actor._channel.close()
    with ClockActor(run[1], "observer") as observer:
        assert observer.wait_until(before + 10**9)


def test_other_protocol_is_refused_by_name(
    run: tuple[subprocess.Popen[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revati_coordinator.client.PROTOCOL", 99)
    with pytest.raises(CoordinatorError, match="protocol 1, the client 99"):
        ClockActor(run[1], "from the future")


def test_requests_before_register_are_refused(run: tuple[subprocess.Popen[str], str]) -> None:
    import grpc

    from revati_coordinator.generated import clock_pb2_grpc as rpc

    with grpc.insecure_channel(run[1]) as channel:
        replies = rpc.ClockStub(channel).Session(iter([pb.ClockRequest(id=1, now=pb.Now())]))
        assert "Register" in next(replies).error


def test_lost_coordinator_is_an_error_not_a_hang(run: tuple[subprocess.Popen[str], str]) -> None:
    actor = ClockActor(run[1], "late")
    errors: list[Callable[[], object] | Exception] = []

    def wait() -> None:
        try:
            actor.wait_until(actor.now_ns() + 10**18)
        except (NotRunningError, CoordinatorError) as error:
            errors.append(error)

    actor.hold()
    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    run[0].terminate()
    thread.join(120)
    assert errors and not thread.is_alive()
