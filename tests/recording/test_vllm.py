"""The real vLLM, offline, recorded on the virtual device: launches have owners, GPU time is equal by family."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from revati.recording.parquet import read_metadata, steps_path
from tests.frameworks.emulated import need
from tests.recording.helpers import PROGRAMS, record, report_of, rows_of

EVENT_RESOLUTION_NS = 500

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_offline_with_graphs(tmp_path: Path) -> None:
    need("vllm", "pyarrow")
    from revati.models import write_model

    model, out = tmp_path / "llama", tmp_path / "vllm.parquet"
    write_model("llama-3.1-8b", model)
    config = json.loads((model / "config.json").read_text())
    config["num_hidden_layers"] = 2  # vocabulary and kernels are the real ones
    (model / "config.json").write_text(json.dumps(config))
    command = [sys.executable, str(PROGRAMS / "vllm_offline.py"), str(model)]
    done = record(out, command, "--graph-nodes", predictor="auto", timeout=1500)
    assert '{"tokens": 192}' in done.stdout, done.stdout[-3000:] + done.stderr[-6000:]
    use, metadata = report_of(out), read_metadata(out)
    pairing = metadata["pairing"]
    assert (pairing["untimed"], pairing["unowned"], pairing["failed"]) == (0, 0, 0)
    assert pairing["graph_launches"] == pairing["graph_launches_with_nodes"] > 20
    assert pairing["family_count"] == {name: n for name, n in use["launches"].items() if n}
    recorded, booked = dict(pairing["family_ns"]), {name: ns for name, ns in use["family_ns"].items() if ns}
    # Between two events a copy also waits for the copy engine; the device books its own time only.
    assert recorded.pop("copy") >= booked.pop("copy")
    # A launch whose time is in another operator's books nothing; events tell no less than their resolution.
    unresolved = [row for row in rows_of(out) if row["duration_ns"] == EVENT_RESOLUTION_NS]
    assert {row["family"] for row in unresolved} <= {"attention"}
    recorded["attention"] -= EVENT_RESOLUTION_NS * len(unresolved)
    recorded["other"] += EVENT_RESOLUTION_NS * sum(row["node"] is not None for row in unresolved)
    assert recorded == booked
    assert [p["models"]["1"]["layers"] for p in metadata["processes"] if p["models"]] == [2]
    steps = [s for s in rows_of(steps_path(out)) if s["q_lens"]]
    # The first token of each of 8 requests comes from its prompt, 23 from decodes of one token.
    assert sum(map(sum, (s["q_lens"] for s in steps))) >= sum(20 * s + 5 for s in range(8)) + 8 * 23
