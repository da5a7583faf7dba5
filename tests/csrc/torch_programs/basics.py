"""torch on the virtual device: properties, copies, arithmetic that runs nowhere, events, memory, graphs."""

from __future__ import annotations

import torch

MIB = 1 << 20


def properties() -> None:
    p = torch.cuda.get_device_properties(0)
    assert (p.name, p.major, p.minor, p.multi_processor_count) == ("NVIDIA H100 80GB HBM3", 9, 0, 132), p
    assert torch.cuda.device_count() == 1
    free, total = torch.cuda.mem_get_info()
    assert 0 < free < total == p.total_memory


def copies() -> None:
    x = torch.arange(1000, dtype=torch.int32)
    y = x.cuda()
    assert torch.equal(y.cpu(), x)
    assert torch.equal(y[10:20].clone().cpu(), x[10:20])
    pinned = torch.arange(64).pin_memory()
    assert pinned.is_pinned()
    z = pinned.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(z.cpu(), pinned)
    z.add_(1)  # a kernel wrote it: its value is unknown, not the old one
    assert not torch.equal(z.cpu(), pinned)


def unknown_is_not_stale() -> None:
    """The allocator hands out the same block again; what a kernel leaves there must not read as the old bytes."""
    old = torch.full((4096,), 7, dtype=torch.int32).cuda()
    address = old.data_ptr()
    del old
    new = torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")
    again = torch.empty(4096, dtype=torch.int32, device="cuda")
    again.random_()
    assert address in (new.data_ptr(), again.data_ptr())
    assert 7 not in again.cpu().tolist()


def timing() -> None:
    a = torch.zeros(4096, 4096, device="cuda", dtype=torch.bfloat16)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.mm(a, a)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(10):
        torch.mm(a, a)
    end.record()
    assert not end.query()
    end.synchronize()
    assert abs(begin.elapsed_time(end) - 10 * 0.002) < 1e-6, begin.elapsed_time(end)


def graphs() -> None:
    x = torch.zeros(256, device="cuda")
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        side.wait_stream(torch.cuda.current_stream())
        y = x * 2
        with torch.cuda.stream(side):
            z = x + 1  # beside the multiplication
        torch.cuda.current_stream().wait_stream(side)
        w = y + z
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    assert abs(begin.elapsed_time(end) - 2 * 0.002) < 1e-6, begin.elapsed_time(end)
    assert w.shape == (256,)
    failed = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(failed):
            (x * 3).cpu()
    except RuntimeError as error:
        assert "captur" in str(error), error
    else:
        raise AssertionError("a read-back inside a capture must fail")


def out_of_memory() -> None:
    free, _ = torch.cuda.mem_get_info()
    block = torch.empty(free - 512 * MIB, dtype=torch.uint8, device="cuda")
    try:
        torch.empty(1024 * MIB, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        pass
    else:
        raise AssertionError("the card is full")
    del block
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info()[0] >= free


if __name__ == "__main__":
    properties()
    copies()
    unknown_is_not_stale()
    timing()
    graphs()
    out_of_memory()
    print("passed")
