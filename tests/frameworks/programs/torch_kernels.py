"""torch kernels whose results a host reads, on the virtual device; prints what came back as one JSON line."""

import json

import torch


def values(tensor: torch.Tensor) -> list[float]:
    return tensor.cpu().reshape(-1).tolist()


device = torch.device("cuda:0")
narrow = torch.tensor([3, 4, 5], dtype=torch.int32, device=device)
result: dict[str, object] = {
    "ones": values(torch.ones(5, device=device)),
    "full_long": values(torch.full((3,), 7, dtype=torch.int64, device=device)),
    "new_ones": values(narrow.new_ones(4)),
    "fill_bool": values(torch.zeros(4, dtype=torch.bool, device=device).fill_(True)),
    "arange_int": values(torch.arange(2, 9, 2, dtype=torch.int32, device=device)),
    "arange_long": values(torch.arange(5, device=device)),
    "arange_float": values(torch.arange(0, 1, 0.25, device=device)),
    "cast_int_long": values(narrow.to(torch.int64)),
    "cast_long_int": values(torch.tensor([1 << 20, -7], device=device).to(torch.int32)),
    "cast_int_float": values(narrow.float()),
    "clone": values(narrow.clone()),
}
# A kernel that nobody emulates must not leave the bytes that its output's memory held before.
stale = torch.tensor([11.0, 12.0, 13.0, 14.0], device=device)
address = stale.data_ptr()
del stale
fresh = torch.sigmoid(torch.randn(4, device=device))
again = torch.randn(4, device=device).exp()
result["stale"] = [v for v in values(fresh) + values(again) if v in (11.0, 12.0, 13.0, 14.0)]
result["argmax"] = values(torch.randn(6, 32000, device=device).argmax(dim=-1))

# What a sampler without FlashInfer reads back of its top-k.
for kind in (torch.int32, torch.int64):
    top_k = torch.tensor([10, 32000, 3], dtype=kind).to(device)
    off = top_k == 32000
    k = top_k.masked_fill(off, 1)
    name = str(kind).removeprefix("torch.")
    result[f"top_k_{name}"] = [values(off), values(k), k.max().item(), k.min().item(), values(k - 1), values(k + 5)]
long = torch.arange(3000, dtype=torch.int32, device=device)
result["long"] = [long.max().item(), (long == 2999).cpu().nonzero().flatten().tolist(), values(long - 3)[:4]]

# Matrix products: eager, batched, captured; and time passes.
x = torch.randn(64, 4096, device=device, dtype=torch.bfloat16)
w = torch.randn(6144, 4096, device=device, dtype=torch.bfloat16)
bias = torch.randn(6144, device=device, dtype=torch.bfloat16)
shapes = [list((x @ w.t()).shape), list(torch.nn.functional.linear(x, w, bias).shape)]
shapes.append(list(torch.bmm(torch.randn(4, 8, 16, device=device), torch.randn(4, 16, 8, device=device)).shape))
eight = x.to(torch.float8_e4m3fn)
scale = torch.ones((), device=device)
weight = w.to(torch.float8_e4m3fn).t()
shapes.append(list(torch._scaled_mm(eight, weight, scale, scale, out_dtype=torch.bfloat16).shape))
result["shapes"] = shapes


def event_ms(run: object) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()  # type: ignore[operator]
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


result["gemm_ms"] = event_ms(lambda: x @ w.t())
graph = torch.cuda.CUDAGraph()
counter = torch.zeros(4, dtype=torch.int64, device=device)
with torch.cuda.graph(graph):
    y = x @ w.t()
    filled = counter.fill_(9)
graph.replay()
result["graph_ms"] = event_ms(graph.replay)
result["graph_fill"] = values(counter)
print(json.dumps(result))
