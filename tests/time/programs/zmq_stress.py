"""PUSH/PULL between processes over tcp and ipc with the exact oracle: a message arrives when it is sent.

Every process has one PULL socket per transport; half of the receivers block, half poll with NOBLOCK. Senders sleep,
push to a random process and go on. Prints one JSON line; exit code 1 after any violation or loss.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import socket
import sys
import tempfile
import threading
import time
from typing import Any

import zmq

STOP = b"stop"


def receive(context: Any, address: str, block: bool, result: Any) -> None:
    pull = context.socket(zmq.PULL)
    pull.bind(address)
    result.put(("bound", None))
    count, wrong = 0, []
    while True:
        try:
            message = pull.recv(0 if block else zmq.NOBLOCK)
        except zmq.Again:
            continue
        now = time.monotonic_ns()
        if message == STOP:
            break
        count += 1
        if int(message) != now:
            wrong.append((address, block, now - int(message)))
    result.put(("received", (count, wrong)))
    pull.close(0)


def process_main(
    index: int, addresses: list[list[str]], quota: int, seed: int, result: Any, go: Any, stop: Any
) -> None:
    context = zmq.Context()
    threads = [
        threading.Thread(target=receive, args=(context, address, (index + i) % 2 == 0, result))
        for i, address in enumerate(addresses[index])
    ]
    for thread in threads:
        thread.start()
    go.wait()
    rng = random.Random(seed * 1009 + index)
    pushes: dict[str, Any] = {}
    for address in (address for group in addresses for address in group):
        pushes[address] = context.socket(zmq.PUSH)
        pushes[address].connect(address)
    time.sleep(0.1)  # connections are made in the background
    for _ in range(quota):
        time.sleep(rng.randrange(1, 2000) * 1e-6)
        pushes[rng.choice(rng.choice(addresses))].send(b"%d" % time.monotonic_ns())
    result.put(("sent", quota))
    stop.wait()
    for address in addresses[index]:
        pushes[address].send(STOP)
    for thread in threads:
        thread.join()
    for push in pushes.values():
        push.close(0)
    context.term()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        addresses = [[f"tcp://127.0.0.1:{free_port()}", f"ipc://{folder}/{i}"] for i in range(args.processes)]
        context = multiprocessing.get_context("fork")
        result, go, stop = context.Queue(), context.Event(), context.Event()
        quota = max(1, args.events // args.processes)
        children = [
            context.Process(target=process_main, args=(i, addresses, quota, args.seed, result, go, stop))
            for i in range(args.processes)
        ]
        for child in children:
            child.start()
        for _ in range(2 * args.processes):
            result.get()
        go.set()
        sent = sum(next_of(result, "sent") for _ in range(args.processes))
        time.sleep(1)
        stop.set()
        received, wrong = 0, []
        for _ in range(2 * args.processes):
            count, bad = next_of(result, "received")
            received += count
            wrong += bad
        for child in children:
            child.join()
    for address, block, late_ns in wrong[:20]:
        way = "blocking" if block else "polled"
        print(f"zmq: over {address.split(':')[0]}, {way}: {late_ns:+} ns", file=sys.stderr)
    violations = len(wrong) + abs(sent - received)
    print(
        json.dumps(
            {
                "events": received,
                "violations": violations,
                "lost": sent - received,
                "processes": args.processes,
                "seed": args.seed,
                "virtual_s": round(time.monotonic() - began, 6),
            }
        )
    )
    return 1 if violations else 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def next_of(result: Any, kind: str) -> Any:
    got, value = result.get()
    assert got == kind, (got, kind)
    return value


if __name__ == "__main__":
    sys.exit(main())
