"""The Python mirror of the wire equals the header, and records survive the round trip."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from revati_predictors import wire

INCLUDE = Path(__file__).parents[2] / "csrc/include"
HEADER = (INCLUDE / "rvt_op.h").read_text()
_SIZES = {"uint16_t": "H", "uint32_t": "I", "int64_t": "q", "uint64_t": "Q", "int32_t": "i"}


def _enum(prefix: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(rf"\b{prefix}([A-Z0-9_]+) = (\d+)", HEADER)}


def _struct(name: str) -> str:
    """The struct module's format of a C struct of the header."""
    text = re.search(rf"struct {name} \{{(.*?)\}};", HEADER, re.S)
    assert text
    body = re.sub(r"/\*.*?\*/", "", text.group(1), flags=re.S)
    params = int(re.search(r"RVT_OP_PARAMS (\d+)", HEADER).group(1))  # type: ignore[union-attr]
    out = "<"
    for kind, field in re.findall(r"(\w+_t) ([\w\[\]]+);", body):
        out += (str(params) if "[" in field else "") + _SIZES[kind]
    return out


def test_enums_match() -> None:
    assert _enum("RVT_OP_").items() >= wire.KIND.items()
    assert _enum("RVT_COPY_") == wire.COPY_KIND
    assert _enum("RVT_DT_") == wire.DTYPE
    assert _enum("RVT_SRC_") == wire.SOURCE
    families = _enum("RVT_FAM_")
    assert families.pop("COUNT") == len(wire.FAMILY)
    assert families == wire.FAMILY


def test_constants_match() -> None:
    def define(name: str) -> int:
        found = re.search(rf"#define {name} (0x[0-9A-Fa-f]+|\d+)u?", HEADER)
        assert found
        return int(found.group(1), 0)

    assert define("RVT_OP_VERSION") == wire.OP_VERSION
    assert define("RVT_OP_PARAMS") == wire.OP_PARAMS
    assert define("RVT_WIRE_MODEL") == wire.WIRE_MODEL
    assert define("RVT_PRED_NEEDS_BATCH") == wire.NEEDS_BATCH
    assert define("RVT_PRED_NEEDS_TOKENS") == wire.NEEDS_TOKENS
    assert define("RVT_PRED_NEEDS_SEQS") == wire.NEEDS_SEQS
    assert define("RVT_PRED_NEEDS_ANY") == wire.NEEDS_BATCH | wire.NEEDS_TOKENS | wire.NEEDS_SEQS
    assert f"RVT_PRED_OPERATOR(flags) ((flags) >> {wire.OPERATOR_SHIFT})" in HEADER
    page = (INCLUDE / "rvt_device_page.h").read_text()
    assert f"#define RVT_MAX_OPERATORS {wire.MAX_OPERATORS}\n" in page


@pytest.mark.parametrize(
    "name, mirror", [("rvt_op", wire.OP), ("rvt_seq", wire.SEQ), ("rvt_prediction", wire.PREDICTION)]
)
def test_layouts_match(name: str, mirror: struct.Struct) -> None:
    def spelled_out(text: str) -> str:
        return re.sub(r"(\d+)([a-zA-Z])", lambda m: int(m.group(1)) * m.group(2), text)

    assert spelled_out(_struct(name)) == spelled_out(mirror.format)
    # No hidden padding: the native layout of the same fields has the same size.
    assert struct.calcsize(mirror.format.replace("<", "@")) == mirror.size


def test_records_survive() -> None:
    records = [
        wire.OpRecord(0, name="kernel" * 3, p=tuple(range(16)), seqs=((1, 7), (5, 9))),
        wire.OpRecord(1, dtype=3, p=(1, 2, 3, 1) + (0,) * 12, gpu=1, model=2, padded=8),
    ]
    data = wire.pack_request(records)
    count, nbytes = wire.HEADER.unpack_from(data)
    assert nbytes == len(data) - wire.HEADER.size and nbytes % 8 == 0
    assert wire.unpack_records(data[wire.HEADER.size :], count) == records


@pytest.mark.parametrize("cut", [1, 8, 100])
def test_truncated_request_is_refused(cut: int) -> None:
    data = wire.pack_request([wire.OpRecord(0, name="some_kernel", seqs=((1, 1),))])[wire.HEADER.size :]
    with pytest.raises(wire.WireError):
        wire.unpack_records(data[:-cut], 1)
    with pytest.raises(wire.WireError):
        wire.unpack_records(data + b"\0" * 8, 1)
