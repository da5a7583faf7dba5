"""How a case's server is started: the command line of each framework."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from revati import HostError, UsageError
from revati.experiments.case import Case

__all__ = ["free_port", "installed_version", "model_path", "server_command"]


def free_port() -> int:
    """A port that is free now on the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def model_path(case: Case) -> str:
    """The model as the server gets it: a directory beside the case, else the name as it is."""
    text = case.data["model"]["path"]
    if text is None:
        return ""
    local = case.path(text)
    return str(local) if local.is_dir() else str(text)


def server_command(case: Case, port: int) -> list[str]:
    """The whole command, with the case's own arguments verbatim at the end."""
    data = case.data
    if data["framework"]["name"] == "command":
        values = {"{port}": str(port), "{model}": model_path(case), "{python}": sys.executable}
        return [_fill(word, values) for word in [*data["server"]["command"], *data["server"]["args"]]]
    if data["framework"]["name"] == "vllm":
        return _vllm(case, port)
    return _sglang(case, port)


def _fill(word: str, values: dict[str, str]) -> str:
    for key, value in values.items():
        word = word.replace(key, value)
    return word


def _vllm(case: Case, port: int) -> list[str]:
    data = case.data
    command = [executable(case, "vllm"), "serve", model_path(case), "--host", "127.0.0.1", "--port", str(port)]
    parallel = data["parallelism"]
    for key, flag in (
        ("tensor", "--tensor-parallel-size"),
        ("pipeline", "--pipeline-parallel-size"),
        ("data", "--data-parallel-size"),
    ):
        if parallel[key] > 1:
            command += [flag, str(parallel[key])]
    if parallel["expert"]:
        command.append("--enable-expert-parallel")
    if not _given(data, "--seed"):
        command += ["--seed", str(data["seed"] % 2**31)]
    return command + list(data["server"]["args"])


def _sglang(case: Case, port: int) -> list[str]:
    data = case.data
    python = data["framework"]["python"] or sys.executable
    command = [
        python,
        "-m",
        "sglang.launch_server",
        "--model-path",
        model_path(case),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    parallel = data["parallelism"]
    for key, flag in (("tensor", "--tp-size"), ("pipeline", "--pp-size"), ("data", "--dp-size")):
        if parallel[key] > 1:
            command += [flag, str(parallel[key])]
    if parallel["expert"]:
        command += ["--ep-size", str(parallel["tensor"])]
    if not _given(data, "--random-seed"):
        command += ["--random-seed", str(data["seed"] % 2**31)]
    if not _given(data, "--enable-metrics"):
        command.append("--enable-metrics")
    return command + list(data["server"]["args"])


def _given(data: dict[str, Any], flag: str) -> bool:
    return any(word == flag or word.startswith(flag + "=") for word in data["server"]["args"])


def executable(case: Case, default: str) -> str:
    """The framework's program: as the case says, beside its python, or on PATH."""
    named = case.data["framework"]["executable"]
    python = case.data["framework"]["python"]
    if named is None and python is not None and (Path(python).parent / default).exists():
        return str(Path(python).parent / default)
    beside = Path(sys.executable).parent / default
    found = shutil.which(named or default) or (str(beside) if named is None and beside.exists() else None)
    if found is None and named is not None and case.path(named).exists():
        found = str(case.path(named))
    if found is None:
        raise HostError(
            f"'{named or default}' is not on PATH; install it or set framework.executable or framework.python"
        )
    return found


def framework_python(case: Case) -> str:
    """The interpreter of the framework's environment."""
    python = case.data["framework"]["python"]
    if python is not None:
        return str(python)
    if case.data["framework"]["name"] == "vllm":
        program = Path(executable(case, "vllm"))
        for name in ("python", "python3"):
            if (program.parent / name).exists():
                return str(program.parent / name)
    return sys.executable


def installed_version(case: Case) -> str | None:
    """Version of the framework that would be started; UsageError if the case names another."""
    name = case.data["framework"]["name"]
    if name == "command":
        return None
    code = f"import importlib.metadata as m; print(m.version('{name}'))"
    done = subprocess.run([framework_python(case), "-c", code], capture_output=True, text=True, timeout=120)
    version = done.stdout.strip() if done.returncode == 0 else None
    wanted = case.data["framework"]["version"]
    if wanted is not None and version != wanted:
        found = version if version is not None else "none"
        raise UsageError(f"case '{case.name}' wants {name} {wanted}; the environment has {found}")
    return version
