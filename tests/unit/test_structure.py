"""Rules about the tree itself: who may import whom, the public surface, generated files, hygiene."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

import revati
from revati import _errors

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "revati": ROOT / "revati",
    "revati_predictors": ROOT / "predictors" / "revati_predictors",
    "revati_coordinator": ROOT / "coordinator" / "revati_coordinator",
}
MAY_IMPORT = {
    "revati": {"revati", "revati_predictors", "revati_coordinator"},
    "revati_predictors": {"revati_predictors"},
    "revati_coordinator": {"revati_coordinator"},
}
FRAMEWORKS = {"vllm", "sglang", "torch", "flashinfer"}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def _modules(package: str) -> list[Path]:
    return [path for path in PACKAGES[package].rglob("*.py") if "generated" not in path.parts]


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_point_one_way(package: str) -> None:
    for path in _modules(package):
        ours = _imports(path) & set(PACKAGES)
        assert ours <= MAY_IMPORT[package], f"{path} imports {ours - MAY_IMPORT[package]}"


def test_only_frameworks_knows_a_framework() -> None:
    for package in PACKAGES:
        for path in _modules(package):
            if "frameworks" in path.parts or "calibration" in path.parts:  # calibration runs inside the framework
                continue
            assert not _imports(path) & FRAMEWORKS, f"{path} imports a framework"


def test_exported_members() -> None:
    """The public surface is the errors and the version; widening it is a decision, not an accident."""
    assert set(revati.__all__) == {*_errors.__all__, "__version__"}
    for name in revati.__all__:
        assert hasattr(revati, name)


def test_errors_have_fixed_exit_codes() -> None:
    codes = {name: getattr(_errors, name).exit_code for name in _errors.__all__}
    assert codes == {
        "RevatiError": 1,
        "UsageError": 2,
        "UnknownNameError": 2,
        "HostError": 3,
        "RunError": 4,
        "DeadlockError": 4,
        "ProtocolMismatchError": 4,
        "CoordinatorLostError": 4,
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_say_what_they_are(package: str) -> None:
    for path in _modules(package):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{path} has no docstring"


def test_packages_are_typed() -> None:
    for folder in PACKAGES.values():
        assert (folder / "py.typed").exists()


def test_families_match_the_header() -> None:
    from revati_coordinator.use import FAMILIES, SOURCES

    text = (ROOT / "csrc" / "include" / "rvt_op.h").read_text()
    families = [m.group(1).lower() for m in re.finditer(r"RVT_FAM_(\w+) = \d+", text) if m.group(1) != "COUNT"]
    found = [m.group(1).lower() for m in re.finditer(r"RVT_SRC_(\w+) = \d+", text)]
    assert tuple(families) == FAMILIES
    assert tuple(found) == SOURCES


def _tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


def test_no_large_files() -> None:
    """Packs and traces are data; everything else is small enough to read."""
    for path in _tracked():
        limit = 40_000_000 if "packs" in path.parts else 2_000_000
        assert path.stat().st_size < limit, path


def test_no_to_do_without_a_home() -> None:
    pattern = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    for path in _tracked():
        if path.suffix in (".py", ".c", ".h", ".proto", ".sh") and "generated" not in path.parts:
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                assert not pattern.search(line), f"{path}:{number}: {line.strip()}"


def test_no_machine_paths() -> None:
    """Nothing in the product knows where it was developed."""
    pattern = re.compile(r"(?<![\w.])/(root|home/[a-z]+)/")
    for path in _tracked():
        if path.suffix in (".py", ".c", ".h", ".md", ".yaml", ".toml", "") and path.stat().st_size < 500_000:
            assert not pattern.search(path.read_text(errors="replace")) or path == Path(__file__), path
