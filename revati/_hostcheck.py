"""What the host must offer: kernel, /proc, the built libraries. Each check returns a finding for `revati doctor`."""

from __future__ import annotations

import os
import platform
import re
import resource
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from revati._errors import HostError

__all__ = ["Finding", "check_host", "check_port", "findings", "preload_library", "recorder_library"]

KERNEL_NEEDED = (5, 16)  # futex_waitv
FILES_WANTED = 65536


@dataclass(frozen=True)
class Finding:
    """One line of `revati doctor`; `fatal` findings stop a run."""

    name: str
    good: bool
    text: str
    fatal: bool = True


def preload_library() -> Path:
    """The preload library of this installation. Raises HostError when it was never built."""
    path = Path(__file__).resolve().parent / "_lib" / "librevati.so"
    if not path.exists():
        raise HostError(f"{path} is missing: install with 'pip install .' and a C compiler")
    return path


def recorder_library() -> Path:
    """The recorder of this installation. Raises HostError when it was never built."""
    path = preload_library().with_name("librevati_record.so")
    if not path.exists():
        raise HostError(f"{path} is missing: install with 'pip install .' and a C compiler")
    return path


def _system() -> Finding:
    system, machine = platform.system(), platform.machine()
    return Finding(
        "system", system == "Linux" and machine == "x86_64", f"{system} {machine}; Linux x86_64 is supported"
    )


def _kernel() -> Finding:
    release = os.uname().release
    match = re.match(r"(\d+)\.(\d+)", release)
    good = bool(match) and (int(match.group(1)), int(match.group(2))) >= KERNEL_NEEDED  # type: ignore[union-attr]
    need = ".".join(map(str, KERNEL_NEEDED))
    return Finding(
        "kernel", good, f"Linux {release}" if good else f"Linux {release} is too old: {need} or newer is needed"
    )


def _libc() -> Finding:
    name, version = platform.libc_ver()
    return Finding(
        "libc", name == "glibc", f"{name} {version}" if name == "glibc" else "glibc is needed, this is another libc"
    )


def _proc() -> Finding:
    path = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/syscall"
    try:
        Path(path).read_text()
    except OSError as error:
        return Finding(
            "/proc", False, f"{path} cannot be read ({error.strerror}): /proc is hidden, or the sandbox is too strict"
        )
    return Finding("/proc", True, "thread states are readable")


def _page() -> Finding:
    try:
        os.close(os.memfd_create("revati-doctor"))
    except (OSError, AttributeError) as error:
        return Finding("memfd", False, f"memfd_create failed: {error}")
    return Finding("memfd", True, "shared pages can be made")


def _library() -> Finding:
    try:
        return Finding("preload library", True, str(preload_library()))
    except HostError as error:
        return Finding("preload library", False, str(error))


def _host_loop() -> Finding:
    from revati_coordinator.errors import CoordinatorError
    from revati_coordinator.host import abi_version

    try:
        return Finding("coordinator", True, f"page version {abi_version()}")
    except CoordinatorError as error:
        return Finding("coordinator", False, str(error))


def _files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = hard == resource.RLIM_INFINITY or hard >= FILES_WANTED
    text = (
        "open files: enough"
        if good
        else f"open files: the hard limit is {hard}; {FILES_WANTED} is better for large runs"
    )
    return Finding("limits", good, text, fatal=False)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    return Finding("processors", cores >= 2, f"{cores} usable; 2 or more are recommended", fatal=False)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _system, _kernel, _libc, _proc, _page, _library, _host_loop, _files, _cores,
)  # fmt: skip


def findings() -> list[Finding]:
    return [check() for check in CHECKS]


def check_host() -> None:
    """Raises HostError with the first reason why no run is possible here; raises the soft limit on open files."""
    for finding in findings():
        if finding.fatal and not finding.good:
            raise HostError(finding.text)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_port(host: str, port: int) -> None:
    """Raises HostError when somebody listens there already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise HostError(
                f"port {port} needs more rights than you have; choose one above 1023 with --port"
            ) from error
        except OSError as error:
            raise HostError(f"port {port} on {host} is in use; choose another with --port") from error
