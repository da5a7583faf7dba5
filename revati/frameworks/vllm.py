"""vLLM on a host without a GPU: its environment, and where it says that it is ready.

Nothing here changes what vLLM runs: torch.compile, CUDA graphs and the FlashInfer sampler stay on. The variables
make it start on a small CPU-only host, keep it away from the network, and let its run-time compilers work with the
CUDA tool chain that pip installs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from revati.frameworks._program_env import ProgramEnvironment

__all__ = ["READY_PATH", "environment"]

READY_PATH = "/health"

_HOST = {
    # Compiler pools: each worker is a process that imports torch, and the clock proves every one of them idle.
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "MAX_JOBS": "2",
    "TOKENIZERS_PARALLELISM": "false",
    # Token ids are made up, models are local: nothing to fetch, nothing to report.
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # Rendezvous and worker sockets stay on this host, whatever its name resolves to.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    # Humming builds its launcher when a quantised layer asks for it, not ahead of time in two more torch processes.
    "HUMMING_DISABLE_PARALLEL_BUILD": "1",
    # A kernel for every possible batch size, built before the first request: minutes of nvcc for nothing.
    "VLLM_DEEP_GEMM_WARMUP": "skip",
}


def environment(program: ProgramEnvironment) -> dict[str, str]:
    """Variables for a vLLM installed in `program`."""
    return dict(_HOST) | _tool_chain(program) | _compiled_kernels(program)


def _compiled_kernels(program: ProgramEnvironment) -> dict[str, str]:
    """FlashInfer's cache is one per user, and an environment with other paths rebuilds it: one for each instead."""
    if "FLASHINFER_WORKSPACE_BASE" in os.environ:
        return {}
    folder = _cache_folder() / f"flashinfer-{hashlib.sha256(os.fsencode(program.site)).hexdigest()[:12]}"
    return {"FLASHINFER_WORKSPACE_BASE": str(folder)}


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "revati"


def _tool_chain(program: ProgramEnvironment) -> dict[str, str]:
    """What nvcc needs to compile FlashInfer's sampler and other kernels at run time.

    The wheels pair a newer nvcc with older headers, which CCCL refuses though they work together, and hold
    libcudart.so.13 without the name that the linker asks for.
    """
    if os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return {}  # the user's own tool kit is complete and consistent
    home = program.cuda_home()
    if home is None:
        return {}
    variables = {"CUDA_HOME": str(home)}
    flags = os.environ.get("NVCC_APPEND_FLAGS", "")
    variables["NVCC_APPEND_FLAGS"] = f"{flags} -DCCCL_DISABLE_CTK_COMPATIBILITY_CHECK".strip()
    links = _link_directory(home)
    if links is not None:
        variables["LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(links), os.environ.get("LIBRARY_PATH")]))
    return variables


def _link_directory(home: Path) -> Path | None:
    """A directory in which the linker finds libcudart.so and libcuda.so; the environment itself is left alone."""
    runtimes = sorted((home / "lib").glob("libcudart.so.*"))
    if not runtimes:
        return None
    folder = _cache_folder() / f"link-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("libcudart.so", "libcuda.so"):
            # Both resolve to real files; at run time the preload library answers for both.
            with contextlib.suppress(FileExistsError):
                (folder / name).symlink_to(runtimes[0])
    except OSError:
        return None
    return folder
