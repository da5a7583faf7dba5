"""The device catalogue: complete, sourced, consistent, and written into the page as C reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from revati import UnknownNameError, UsageError
from revati._catalogue import MIB, fill_device_page, gpu_keys, load_gpu, parse_gpu_option, sources

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "revati" / "data"


@pytest.mark.parametrize("key", gpu_keys())
def test_every_number_has_a_source(key: str) -> None:
    entry = yaml.safe_load((DATA / "gpus" / f"{key}.yaml").read_text())
    known = sources()

    def check(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                check(child, f"{path}.{name}")
        elif not (isinstance(node, list) and len(node) == 2 and node[1] in known):
            pytest.fail(f"{path} = {node!r} is no [value, source] pair")

    check({k: v for k, v in entry.items() if k not in ("key", "aliases", "topology")}, key)


def test_attributes_have_sources_and_numbers() -> None:
    table = yaml.safe_load((DATA / "gpu_attributes.yaml").read_text())
    known = sources()
    for group in (table["common"], *table["by_compute_capability"].values()):
        for name, (value, source) in group.items():
            assert name in table["numbers"], name
            assert isinstance(value, int) and source in known, name
    assert len(set(table["numbers"].values())) == len(table["numbers"])


def test_sources_are_all_used() -> None:
    text = "".join(path.read_text() for path in [*DATA.glob("gpus/*.yaml"), DATA / "gpu_attributes.yaml"])
    assert [key for key in sources() if not re.search(rf", {re.escape(key)}\]", text)] == []


@pytest.mark.parametrize("key", gpu_keys())
def test_cards_are_plausible(key: str) -> None:
    gpu = load_gpu(key)
    assert gpu.total_bytes < gpu.nvml_total_bytes
    assert gpu.context_bytes < 0.05 * gpu.total_bytes
    assert gpu.attributes[16] == gpu.sm_count
    assert gpu.attributes[38] == gpu.l2_bytes
    assert (gpu.attributes[75], gpu.attributes[76]) == gpu.compute_capability
    assert gpu.attributes[97] <= gpu.attributes[81]  # shared memory: per block opt-in, per multiprocessor
    # Peak bandwidth from clock and bus width, both edges: within what any such memory does.
    gbytes_per_s = 2 * gpu.memory_clock_khz * 1e3 * gpu.memory_bus_bits / 8 / 1e9
    assert 200 < gbytes_per_s < 9000


def test_h100_bandwidth_is_the_data_sheets() -> None:
    gpu = load_gpu("h100")
    assert 2 * gpu.memory_clock_khz * 1e3 * gpu.memory_bus_bits / 8 / 1e12 == pytest.approx(3.35, rel=0.005)


def test_aliases_are_unique_and_forgiving() -> None:
    names: dict[str, str] = {}
    for key in gpu_keys():
        for name in (key, *load_gpu(key).aliases):
            assert names.setdefault(name, key) == key
    assert load_gpu("H100_SXM") is load_gpu("h100-sxm") or load_gpu("H100_SXM") == load_gpu("h100-sxm")


def test_unknown_gpu_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="h100-sxm"):
        load_gpu("h100-smx")


@pytest.mark.parametrize("text", ["h100-sxm:0", "h100-sxm:17", "h100-sxm:x", ":2", ""])
def test_bad_gpu_options(text: str) -> None:
    with pytest.raises(UsageError):
        parse_gpu_option(text)


def test_page_as_c_sees_it() -> None:
    host = pytest.importorskip("revati_coordinator._host")
    page = host.ffi.new("struct rvt_device_page *")
    fill_device_page(page, parse_gpu_option("h100-sxm:2"), 1)
    assert page.gpu_count == 2
    first, second = page.gpus[0], page.gpus[1]
    assert host.ffi.string(first.name) == b"NVIDIA H100 80GB HBM3"
    assert host.ffi.string(first.uuid) != host.ffi.string(second.uuid)
    assert host.ffi.string(first.pci_bus_id) != host.ffi.string(second.pci_bus_id)
    assert first.total_bytes == 81089 * MIB
    assert first.attr[16] == 132
    assert (first.attr[33], second.attr[33]) == (0x18, 0x29)


def test_attribute_numbers_match_the_header() -> None:
    """Against cuda.h where a CUDA wheel or toolkit is installed."""
    import site

    headers = [h for folder in site.getsitepackages() for h in Path(folder).glob("nvidia/cu*/include/cuda.h")]
    if not headers:
        pytest.skip("no cuda.h here")
    text = headers[0].read_text(errors="replace")
    numbers = yaml.safe_load((DATA / "gpu_attributes.yaml").read_text())["numbers"]
    for name, number in numbers.items():
        match = re.search(rf"CU_DEVICE_ATTRIBUTE_{name}\s*=\s*(\d+)", text)
        assert match and int(match.group(1)) == number, name
