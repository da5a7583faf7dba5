"""libzmq reads the processor's cycle counter; unpatched its time-outs are many times too long under the clock."""

from __future__ import annotations

import threading
import time

import zmq
from clockcheck import INSIDE, at, run, same

context = zmq.Context()


def polls() -> None:
    """Exactly as many milliseconds as asked for."""
    quiet = context.socket(zmq.PULL)
    quiet.bind("inproc://quiet")
    for delay_ms in (1, 5, 50, 1000 if INSIDE else 60):
        start = time.monotonic_ns()
        same("poll", quiet.poll(delay_ms), 0)
        at(f"poll({delay_ms})", start, delay_ms / 1e3, 0)
    poller = zmq.Poller()
    poller.register(quiet, zmq.POLLIN)
    start = time.monotonic_ns()
    same("Poller", poller.poll(7), [])
    at("Poller", start, 0.007, 0)
    quiet.close()


def limits() -> None:
    quiet = context.socket(zmq.PULL)
    quiet.bind("inproc://limits")
    quiet.setsockopt(zmq.RCVTIMEO, 100)
    start = time.monotonic_ns()
    try:
        quiet.recv()
        same("recv", "a message", "Again")
    except zmq.Again:
        at("RCVTIMEO", start, 0.1, 0)
    quiet.close()
    full = context.socket(zmq.PUSH)
    full.setsockopt(zmq.SNDTIMEO, 50)
    full.bind("inproc://full")
    start = time.monotonic_ns()
    try:
        full.send(b"x")
        same("send", "sent", "Again")
    except zmq.Again:
        at("SNDTIMEO", start, 0.05, 0)
    full.close(0)


def _arrivals(address: str, block: bool) -> None:
    pull = context.socket(zmq.PULL)
    if address.endswith(":*"):
        address = f"{address[:-2]}:{pull.bind_to_random_port(address[:-2])}"
    else:
        pull.bind(address)

    def send() -> None:
        push = context.socket(zmq.PUSH)
        push.connect(address)
        for _ in range(20):
            time.sleep(0.003)
            push.send(b"%d" % time.monotonic_ns())
        push.close()

    thread = threading.Thread(target=send)
    thread.start()
    for _ in range(20):
        while True:
            try:
                message = pull.recv(0 if block else zmq.NOBLOCK)
                break
            except zmq.Again:
                continue
        at(f"arrival over {address}", int(message), 0, 0)
    thread.join()
    pull.close()


def arrivals() -> None:
    for address in ("inproc://arrivals", "ipc://@revati-test-arrivals", "tcp://127.0.0.1:*"):
        _arrivals(address, block=True)


def no_block() -> None:
    for address in ("inproc://no-block", "ipc://@revati-test-no-block", "tcp://127.0.0.1:*"):
        _arrivals(address, block=False)


run(polls, limits, arrivals, no_block)
