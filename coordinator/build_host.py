"""cffi build of `revati_coordinator._host`: the C host loop of csrc/host with the shared-page structures.

The declarations come from the C headers themselves, so that Python and C cannot disagree. cffi reads C without a
preprocessor: `declarations` drops includes, guards and macros that are no plain integers.
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

CSRC = Path(__file__).resolve().parent.parent / "csrc"
# In order of use. Every one of them promises to be declarations only.
HEADERS = ("rvt_op.h", "rvt_device_page.h", "rvt_steps.h", "rvt_abi.h", "rvt_host.h")
# The page as a whole belongs to the C side; Python sees the device part and the enumerations.
_PAGE = re.compile(r"^struct rvt_page \{.*?^\};\n", re.DOTALL | re.MULTILINE)

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_INTEGER_MACRO = re.compile(r"#\s*define\s+(\w+)\s+\(?(-?(?:0[xX])?[0-9a-fA-F]+)[uUlL]*\)?\s*$")
_INLINE = re.compile(r"^static inline .*?^}\n", re.DOTALL | re.MULTILINE)
_ASSERT = re.compile(r"_Static_assert\s*\(.*?\)\s*;", re.DOTALL)


def declarations(text: str) -> str:
    """The part of a C header that cffi's parser accepts."""
    lines: list[str] = []
    continued = False
    for line in _PAGE.sub("", _INLINE.sub("", _ASSERT.sub("", _COMMENT.sub(" ", text)))).splitlines():
        if continued or line.lstrip().startswith("#"):
            macro = None if continued else _INTEGER_MACRO.match(line.strip())
            if macro:
                lines.append(f"#define {macro.group(1)} {macro.group(2)}")
            continued = line.endswith("\\")
        else:
            lines.append(line)
    return "\n".join(lines)


def make_builder() -> FFI:
    builder = FFI()
    headers = [name for name in HEADERS if (CSRC / "include" / name).exists()]
    builder.cdef("\n".join(declarations((CSRC / "include" / name).read_text()) for name in headers))
    # setuptools wants paths relative to setup.py, which stands beside csrc/. run.c is a program of its own.
    sources = sorted(f"csrc/host/{path.name}" for path in (CSRC / "host").glob("*.c") if path.name != "run.c")
    builder.set_source(
        "revati_coordinator._host",
        "".join(f'#include "{name}"\n' for name in headers),
        sources=sources,
        include_dirs=[str(CSRC / "include"), str(CSRC)],
        extra_compile_args=["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    )
    return builder


ffibuilder = make_builder()
