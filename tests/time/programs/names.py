"""Look-ups of host names: what a slow name server costs is no time of the run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import threading
import time

from clockcheck import at, run, same

ADDRESS = ("192.0.2.7", 80)  # kept for documentation: in nobody's /etc/hosts


def ask_only(port: int) -> None:
    """Makes 127.0.0.1:port this thread's only name server (struct __res_state of resolv.h)."""
    libc = ctypes.CDLL(None)
    state = libc.__res_state
    state.restype = ctypes.c_void_p
    libc.__res_init()
    base = state()
    ctypes.memmove(base + 16, struct.pack("=i", 1), 4)  # nscount
    server = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton("127.0.0.1"))
    ctypes.memmove(base + 20, server, len(server))


def ticks(stop: threading.Event) -> None:
    while not stop.wait(10):
        pass


def look_ups() -> None:
    ask_only(int(os.environ["NAME_SERVER_PORT"]))
    stop = threading.Event()
    ticker = threading.Thread(target=ticks, args=(stop,))  # without a rule the clock would race along with it
    ticker.start()
    for what, look_up in (
        ("getnameinfo", lambda: same("name", socket.getnameinfo(ADDRESS, 0)[0], ADDRESS[0])),
        ("gethostbyaddr", lambda: socket.gethostbyaddr(ADDRESS[0])),
        ("getaddrinfo", lambda: socket.getaddrinfo("revati.invalid", 80)),
    ):
        start = time.monotonic_ns()
        with contextlib.suppress(OSError):  # no such host: that is what the server says
            look_up()
        at(what, start, 0)
    stop.set()
    ticker.join()


run(look_ups)
