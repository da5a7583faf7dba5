"""The wire between the preload library and the predictor service: the Python mirror of csrc/include/rvt_op.h.

A test parses the header and compares every number and field here with it, so edit both together.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "COPY_KIND",
    "DTYPE",
    "FAMILY",
    "HEADER",
    "KIND",
    "MAX_OPERATORS",
    "NEEDS_BATCH",
    "NEEDS_SEQS",
    "NEEDS_TOKENS",
    "OP",
    "OPERATOR_SHIFT",
    "OP_PARAMS",
    "OP_VERSION",
    "PREDICTION",
    "SEQ",
    "SOURCE",
    "WIRE_MODEL",
    "OpRecord",
    "WireError",
    "pack_model",
    "pack_predictions",
    "pack_request",
    "unpack_predictions",
    "unpack_records",
]

OP_VERSION = 1
OP_PARAMS = 16
WIRE_MODEL = 0xFFFFFFFF

KIND = {"KERNEL": 0, "GEMM": 1, "COPY": 2, "MEMSET": 3, "COLLECTIVE": 4, "GRAPH": 5}
COPY_KIND = {"H2H": 0, "H2D": 1, "D2H": 2, "D2D": 3, "P2P": 4}
DTYPE = {
    "NONE": 0,
    "F32": 1,
    "F16": 2,
    "BF16": 3,
    "F8E4M3": 4,
    "F8E5M2": 5,
    "F4E2M1": 6,
    "I8": 7,
    "I32": 8,
    "F64": 9,
    "TF32": 10,
}
SOURCE = {"MEASURED": 0, "INTERPOLATED": 1, "EXTRAPOLATED": 2, "FALLBACK": 3}
FAMILY = {
    "OTHER": 0,
    "GEMM": 1,
    "ATTENTION": 2,
    "MLA": 3,
    "MOE": 4,
    "QUANT": 5,
    "NORM": 6,
    "ACTIVATION": 7,
    "ROPE": 8,
    "EMBEDDING": 9,
    "SAMPLING": 10,
    "KV_WRITE": 11,
    "ELEMENTWISE": 12,
    "COPY": 13,
    "COLLECTIVE": 14,
    "METADATA": 15,
}
NEEDS_BATCH = 1
NEEDS_TOKENS = 2
NEEDS_SEQS = 4
OPERATOR_SHIFT = 16  # above the bits that say what a duration depends on: the index of an uncovered operator
MAX_OPERATORS = 4096

HEADER = struct.Struct("<II")
OP = struct.Struct(f"<HHHHIIIIII{OP_PARAMS}q")
SEQ = struct.Struct("<II")
PREDICTION = struct.Struct("<qqqHHI")

MAX_REQUEST_BYTES = 256 << 20


class WireError(ValueError):
    """A request that does not follow the wire format."""


@dataclass(slots=True)
class OpRecord:
    """One struct rvt_op with its sequences [(q_len, kv_len), ...] and name; `ahead`: nobody has launched it yet."""

    kind: int
    dtype: int = 0
    dtype_w: int = 0
    dtype_o: int = 0
    gpu: int = 0
    model: int = 0
    padded: int = 0
    name: str = ""
    p: tuple[int, ...] = ()
    seqs: tuple[tuple[int, int], ...] = field(default_factory=tuple)
    ahead: bool = False

    def key(self) -> tuple[Any, ...]:
        """Equal keys get equal predictions."""
        return (
            self.kind,
            self.dtype,
            self.dtype_w,
            self.dtype_o,
            self.gpu,
            self.model,
            self.padded,
            self.name,
            self.p,
            self.seqs,
        )


def pack_request(records: list[OpRecord]) -> bytes:
    """The bytes that the preload library sends for these records."""
    body = bytearray()
    for r in records:
        name = r.name.encode()
        params = tuple(r.p) + (0,) * (OP_PARAMS - len(r.p))
        body += OP.pack(
            r.kind, r.dtype, r.dtype_w, r.dtype_o, r.gpu, r.model, len(r.seqs), len(name), r.padded, r.ahead, *params
        )
        for seq in r.seqs:
            body += SEQ.pack(*seq)
        body += name + b"\0" * (-len(name) % 8)
    return HEADER.pack(len(records), len(body)) + bytes(body)


def unpack_records(body: bytes, count: int) -> list[OpRecord]:
    """`count` records of a request body. Raises WireError if the body is too short or too long."""
    out: list[OpRecord] = []
    at = 0
    try:
        for _ in range(count):
            head = OP.unpack_from(body, at)
            at += OP.size
            nseq, name_len = head[6], head[7]
            flat = struct.unpack_from(f"<{2 * nseq}I", body, at)
            at += SEQ.size * nseq
            if at + name_len > len(body):
                raise WireError("a record's name runs past the end of the request")
            name = body[at : at + name_len].decode("utf-8", "replace")
            at += name_len + (-name_len % 8)
            out.append(
                OpRecord(
                    head[0],
                    head[1],
                    head[2],
                    head[3],
                    head[4],
                    head[5],
                    head[8],
                    name,
                    head[10:],
                    tuple(zip(flat[::2], flat[1::2])),
                    bool(head[9]),
                )
            )
    except struct.error as error:
        raise WireError(f"a request of {len(body)} bytes is too short for its {count} records") from error
    if at != len(body):
        raise WireError(f"a request has {len(body) - at} bytes after its {count} records")
    return out


def pack_predictions(rows: list[tuple[int, int, int, int, int, int]]) -> bytes:
    """Rows (duration_ns, lo_ns, hi_ns, family, source, flags) as a reply, header included."""
    return HEADER.pack(len(rows), 0) + b"".join(PREDICTION.pack(*row) for row in rows)


def unpack_predictions(body: bytes) -> list[tuple[int, int, int, int, int, int]]:
    """The rows of a reply without its header."""
    return [PREDICTION.unpack_from(body, at) for at in range(0, len(body), PREDICTION.size)]


def pack_model(facts: dict[str, Any]) -> bytes:
    """The request that announces a model's facts; the reply is u32 model index (> 0), u32 0."""
    body = json.dumps(facts).encode()
    return HEADER.pack(WIRE_MODEL, len(body)) + body
