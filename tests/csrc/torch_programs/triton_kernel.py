"""A Triton kernel on the virtual device: compile, launch, capture; its parameter layout comes from the cubin."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def double(out, source, n, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out + at, tl.load(source + at, mask=at < n) * 2, mask=at < n)


x = torch.arange(100, dtype=torch.float32).cuda()
y = torch.full((100,), 5.0).cuda()
double[(1,)](y, x, 100, SIZE=128)
torch.cuda.synchronize()
assert 5.0 not in y.cpu().tolist(), "the kernel got this pointer: its bytes are unknown now"
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    double[(1,)](y, x, 100, SIZE=128)
begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
begin.record()
graph.replay()
graph.replay()
end.record()
torch.cuda.synchronize()
assert abs(begin.elapsed_time(end) - 2 * 0.002) < 1e-6
print("passed")
