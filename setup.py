"""Builds the C parts of the distribution.

- `revati/_lib/librevati.so` and `librevati_record.so`: the preload library and the recorder, plain C, by csrc/build.py.
- `revati/data/api/*.csv`: the symbol tables, copied from csrc/api for `revati api`.
- `revati_coordinator._host`: the host side of the clock as a cffi API-mode extension, by coordinator/build_host.py.

Everything else about the distribution is in pyproject.toml.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))

from build import BuildError, build_preload, build_recorder  # noqa: E402


class BuildBoth(build_ext):
    """build_ext that also compiles the preload library, and says in one sentence what a build lacks."""

    def run(self) -> None:
        base = ROOT if self.inplace or self.editable_mode else Path(self.build_lib)
        libraries = base / "revati" / "_lib"
        try:
            build_preload(libraries / "librevati.so", ROOT / "build" / "preload")
            build_recorder(libraries / "librevati_record.so", ROOT / "build" / "record")
        except BuildError as error:
            raise SystemExit(f"revati: {error}") from None
        tables = base / "revati" / "data" / "api"
        tables.mkdir(parents=True, exist_ok=True)
        for table in (ROOT / "csrc" / "api").glob("*.csv"):
            shutil.copyfile(table, tables / table.name)
        if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
            raise SystemExit(
                "revati: Python.h is missing; install the Python headers (Debian: apt-get install python3-dev)"
            )
        super().run()

    def get_outputs(self) -> list[str]:
        base = ROOT if self.inplace or self.editable_mode else Path(self.build_lib)
        libraries = [str(base / "revati" / "_lib" / name) for name in ("librevati.so", "librevati_record.so")]
        return [*super().get_outputs(), *libraries]


PACKAGE_ROOTS = {"revati": ".", "revati_predictors": "predictors", "revati_coordinator": "coordinator"}

setup(
    packages=[
        package
        for name, root in PACKAGE_ROOTS.items()
        for package in find_packages(str(ROOT / root), include=[name, f"{name}.*"])
    ],
    package_dir={name: str(Path(root) / name) for name, root in PACKAGE_ROOTS.items()},
    package_data={
        "revati": [
            "py.typed",
            "data/**/*",
            "frameworks/**/*.json",
            "frameworks/**/*.yaml",
            "calibration/measure/*.cu",
            "calibration/measure/plugin/*.py",
            "experiments/presets/*.yaml",
            "experiments/data/*.yaml",
            "experiments/report/*.html",
            "experiments/report/*.css",
            "experiments/report/*.js",
        ],
        "revati_predictors": ["py.typed", "**/*"],
        "revati_coordinator": ["py.typed"],
    },
    cffi_modules=["coordinator/build_host.py:ffibuilder"],
    cmdclass={"build_ext": BuildBoth},
)
