"""Bad input: one sentence, a fixed exit code, never a traceback of ours."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def _one_sentence(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("revati: "), done.stderr
    for part in parts:
        assert part in lines[0], done.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "--gpu", "h100-smx", "--", "true"], ["unknown GPU 'h100-smx'", "h100-sxm"]),
        (["run", "--gpu", "h100-sxm:99", "--", "true"], ["1 to 16"]),
        (["run", "--predictor", "magic", "--", "true"], ["--predictor magic"]),
        (["run", "--predictor", "constant:-1", "--", "true"], ["constant:MICROSECONDS"]),
        (["run", "--policy", "magic", "--", "true"], ["--policy"]),
        (["run", "--routing", "power", "--", "true"], ["routing", "power_law_1.01"]),
        (["run", "--host-profile", "defalt", "--", "true"], ["host profile", "default"]),
        (["run", "--host-profile", "./no-such.yaml", "--", "true"], ["no-such.yaml", "No such file"]),
        (["run", "--host-ratio", "0", "--", "true"], ["--host-ratio"]),
        (["run"], ["nothing to run"]),
        (["run", "--", "no-such-program"], ["command not found"]),
        (["run", "--", "/etc/passwd"], ["not an executable"]),
        (["run", "--oracle", "/no/such/file", "--", "true"], ["/no/such/file"]),
        (["gpus", "h1000x"], ["unknown GPU"]),
        (["models", "write", "llama-9", "/tmp/x"], ["unknown model"]),
        (["nonsense"], ["nonsense"]),
        (["join", "--", "true"], ["nothing runs"]),
        (["status"], ["nothing runs"]),
    ],
)
def test_usage_errors(revati: Call, arguments: list[str], parts: list[str]) -> None:
    done = revati(*arguments)
    _one_sentence(done, 4 if "nothing runs" in parts else 2, *parts)


def test_model_directories_without_config(revati: Call, tmp_path: Path) -> None:
    vllm = tmp_path / "vllm"
    vllm.write_text("#!/bin/sh\nexit 0\n")
    vllm.chmod(0o755)
    (tmp_path / "empty").mkdir()
    _one_sentence(revati("run", "--", str(vllm), "serve", str(tmp_path / "empty")), 2, "has no config.json")
    _one_sentence(revati("run", "--", str(vllm), "serve", str(tmp_path / "absent")), 2, "does not exist")


def test_port_in_use(revati: Call, tmp_path: Path) -> None:
    vllm = tmp_path / "vllm"
    vllm.write_text("#!/bin/sh\nexit 0\n")
    vllm.chmod(0o755)
    (tmp_path / "config.json").write_text("{}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        _one_sentence(
            revati("run", "--", str(vllm), "serve", str(tmp_path), "--port", port), 3, f"port {port}", "in use"
        )


def test_listen_port_in_use(revati: Call) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = revati("run", "--quiet", "--listen", port, "--", "sleep", "1")
        assert done.returncode == 3 and f"port {port}" in done.stderr and "Traceback" not in done.stderr


def test_setuid_program(revati: Call, tmp_path: Path) -> None:
    program = tmp_path / "suid"
    shutil.copy("/bin/true", program)
    program.chmod(0o755 | stat.S_ISUID)
    if not program.stat().st_mode & stat.S_ISUID:
        pytest.skip("this file system has no setuid")
    _one_sentence(revati("run", "--", str(program)), 3, "setuid")


def test_static_program(revati: Call, tmp_path: Path) -> None:
    source = tmp_path / "main.c"
    source.write_text("int main(void) { return 0; }\n")
    program = tmp_path / "static"
    built = subprocess.run(["cc", "-static", str(source), "-o", str(program)], capture_output=True)
    if built.returncode:
        pytest.skip("no static libc here")
    _one_sentence(revati("run", "--", str(program)), 3, "statically linked")


def test_script_with_missing_interpreter(revati: Call, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    _one_sentence(revati("run", "--", str(script)), 2, "/no/such/interpreter")


def test_old_kernel_and_hidden_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    from revati import HostError, _hostcheck

    class Old:
        release = "5.4.0-generic"

    monkeypatch.setattr(_hostcheck.os, "uname", lambda: Old)
    with pytest.raises(HostError, match=r"5\.4\.0-generic is too old: 5\.16"):
        _hostcheck.check_host()
    monkeypatch.undo()
    monkeypatch.setattr(_hostcheck.threading, "get_native_id", lambda: 2**30)
    with pytest.raises(HostError, match="/proc is hidden"):
        _hostcheck.check_host()


def test_no_compiler(tmp_path: Path) -> None:
    """Building the preload library without a compiler: one sentence."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "csrc" / "build.py"), str(tmp_path / "x.so"), "--build-dir", str(tmp_path)],
        env={**os.environ, "PATH": str(tmp_path), "CC": "no-such-cc"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "no C compiler" in done.stderr and "Traceback" not in done.stderr


def test_foreign_run_directory(revati: Call, tmp_path: Path) -> None:
    """A run directory that others may enter is refused."""
    base = tmp_path / "runtime"
    (base / "revati").mkdir(parents=True)
    (base / "revati").chmod(0o777)
    done = revati("status", env={**os.environ, "XDG_RUNTIME_DIR": str(base)})
    _one_sentence(done, 2, "only you can enter")


def test_gpus_models_api_list(revati: Call) -> None:
    assert "h100-sxm" in revati("gpus").stdout
    assert "llama-3.1-8b" in revati("models").stdout
    assert "cudaMalloc" in revati("api", "cudaMalloc").stdout
    assert '"total_bytes"' in revati("gpus", "--json", "l4").stdout


def test_closed_pipe_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m revati gpus | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "0" and not done.stderr
