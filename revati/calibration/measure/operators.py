"""Builds the operators of the sweep's cells out of torch and, where it is installed, vLLM's own kernels.

Inputs are random, never zeros (zeros run faster). `cold` cells rotate weights or KV among copies that together
exceed the L2 several times, as the layers of a model do; activations stay where the previous kernel would have left
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from revati.calibration.cells import MODELS, Cell
from revati.calibration.measure.conditions import version_of

__all__ = ["Bench", "UnsupportedCellError", "Work"]

Call = Callable[[], Any]
_PAGE = 16  # tokens of a KV block, vLLM's default
_GRAPH_SPLITS = 32  # vLLM's bound on KV splits where a CUDA graph may hold the step
_GRAPH_TOKENS = 512  # vLLM's largest captured step


class UnsupportedCellError(RuntimeError):
    """This machine has no implementation of the cell's operator."""


def _each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Call]:
    """One call per item: the rotation of weights or caches."""
    return [partial(function, item) for item in items]


class Work(NamedTuple):
    """What is timed: `calls` in turn. `kernel`, `framework` name the implementation as the kernel tables do."""

    calls: list[Call]
    kernel: str
    framework: str
    capture: bool = True


class Bench:
    """Makes the work of cells on one device and keeps buffers that several cells share.

    `dry` shrinks every size so that a CPU runs it; the code path is the same where the CPU has the operators.
    `fallback` lets torch stand in for kernels that vLLM would bring.
    """

    def __init__(self, dry: bool = False, fallback: bool = True) -> None:
        import torch

        self.torch = torch
        self.dry = dry
        self.fallback = fallback
        self.device = torch.device("cuda" if torch.cuda.is_available() and not dry else "cpu")
        self.l2_bytes = 4096 if self.device.type == "cpu" else torch.cuda.get_device_properties(0).L2_cache_size
        self.vllm = None if self.device.type == "cpu" else _vllm_kernels()
        self._kept: dict[tuple[Any, ...], list[Any]] = {}
        torch.manual_seed(20260115)

    def version(self, framework: str) -> str:
        return version_of(framework) if framework == "vllm" else self.torch.__version__

    def build(self, cell: Cell) -> Work:
        """The cell's work on fresh random data. Raises UnsupportedCellError, or torch's out-of-memory error."""
        torchs_own = cell.family in ("copy", "graph") or (cell.family == "gemm" and cell.params[0] == "bfloat16")
        if self.vllm is None and not self.fallback and not torchs_own:
            raise UnsupportedCellError("left for vLLM's kernels")
        return getattr(self, f"_{cell.family}")(cell)  # type: ignore[no-any-return]

    def release(self) -> None:
        self._kept.clear()
        if self.device.type == "cuda":
            self.torch.cuda.empty_cache()

    # Sizes and buffers

    def _size(self, value: int, dry_limit: int = 64) -> int:
        return min(value, dry_limit) if self.dry else value

    def _random(self, *shape: int, dtype: Any = None) -> Any:
        return self.torch.randn(shape, device=self.device, dtype=dtype or self.torch.bfloat16)

    def _integers(self, high: int, *shape: int, dtype: Any = None) -> Any:
        return self.torch.randint(0, high, shape, device=self.device, dtype=dtype or self.torch.int64)

    def _copies(self, bytes_each: int, cold: bool, limit: int = 256) -> int:
        return max(1, min(limit, -(-4 * self.l2_bytes // max(1, bytes_each)))) if cold else 1

    def _keep(self, key: tuple[Any, ...], make: Callable[[], list[Any]]) -> list[Any]:
        """Buffers of the latest key only: neighbouring cells share weights, and the card must not fill up."""
        found = self._kept.get(key)
        if found is None:
            for old in [k for k in self._kept if k[0] == key[0]]:
                del self._kept[old]
            found = self._kept[key] = make()
        return found

    # Products

    def _gemm(self, cell: Cell) -> Work:
        dtype, m, n, k = cell.params
        m, n, k = self._size(int(m)), self._size(int(n)), self._size(int(k))
        torch = self.torch
        width = 1 if dtype == "fp8" else 2
        copies = self._copies(n * k * width, cell.l2 == "cold")
        if dtype == "bfloat16":
            weights = self._keep(("gemm", n, k, dtype, copies), lambda: [self._random(n, k) for _ in range(copies)])
            x = self._random(m, k)
            linear = torch.nn.functional.linear
            return Work(_each(lambda w: linear(x, w), weights), "torch.nn.functional.linear", "torch")
        fp8 = torch.float8_e4m3fn
        weights = self._keep(("gemm", n, k, dtype, copies), lambda: [self._random(n, k).to(fp8) for _ in range(copies)])
        x = self._random(m, k).to(fp8)
        one = torch.ones(1, device=self.device)
        if self.vllm is not None:
            mm = self.vllm["ops"].cutlass_scaled_mm
            return Work(
                _each(lambda w: mm(x, w.t(), one, one, torch.bfloat16), weights), "vllm.cutlass_scaled_mm", "vllm"
            )
        scaled = torch._scaled_mm
        calls = _each(lambda w: scaled(x, w.t(), one, one, out_dtype=torch.bfloat16), weights)
        return Work(calls, "torch._scaled_mm", "torch")

    def _moe(self, cell: Cell) -> Work:
        if self.vllm is None:
            raise UnsupportedCellError("fused MoE kernels come with vLLM, which is not here")
        torch = self.torch
        p = cell.as_dict()
        tokens, hidden, inter = int(p["num_tokens"]), int(p["hidden_size"]), int(p["inter_size"])
        topk, experts = int(p["topk"]), int(p["num_experts"])

        def weights() -> list[Any]:
            return [self._random(experts, 2 * inter, hidden), self._random(experts, hidden, inter)]

        w1, w2 = self._keep(("moe", hidden, inter, experts), weights)
        x = self._random(tokens, hidden)
        popularity = torch.zeros(experts, device=self.device)
        if str(p["distribution"]).startswith("power_law_"):
            alpha = float(str(p["distribution"]).rsplit("_", 1)[1])
            ranks = torch.randperm(experts, device=self.device).float() + 1
            popularity = -alpha * ranks.log()
        fused_topk, fused_experts = self.vllm["fused_topk"], self.vllm["fused_experts"]
        # Different routings in turn: one routing of few tokens would keep its experts in L2.
        gates = [(self._random(tokens, experts, dtype=torch.float32) + popularity).to(torch.bfloat16) for _ in range(8)]

        def layer(gate: Any) -> Any:
            weights_k, ids, _ = fused_topk(x, gate, topk, True)
            return fused_experts(x, w1, w2, weights_k, ids)

        return Work(_each(layer, gates), "vllm_unquantizedfusedmoe_triton_tritonexperts", "vllm")

    def _quantize(self, cell: Cell) -> Work:
        torch = self.torch
        op, _, m, k = cell.params
        x = self._random(self._size(int(m)), self._size(int(k)))
        scale = torch.full((1,), 0.5, device=self.device)
        if self.vllm is None:
            if op != "scale_matrix":
                raise UnsupportedCellError("dynamic fp8 quantisation comes with vLLM, which is not here")
            return Work([lambda: (x * scale).to(torch.float8_e4m3fn)], "torch", "torch")
        quant = self.vllm["ops"].scaled_fp8_quant
        if op == "scale_matrix":
            return Work([lambda: quant(x, scale)], "static_scaled_fp8_quant", "vllm")
        return Work([lambda: quant(x)], "dynamic_scaled_fp8_quant", "vllm")

    # Attention: as in the kernel tables, the write of the new tokens into the KV cache is part of the operator.

    def _attn_decode(self, cell: Cell) -> Work:
        p = cell.as_dict()
        batch, kv = self._size(int(p["batch_size"]), 2), self._size(int(p["kv_len"]))
        return self._attention(
            [(1, kv)] * batch, int(p["num_heads"]), int(p["num_kv_heads"]), int(p["head_dim"]), cell.l2
        )

    def _attn_prefill(self, cell: Cell) -> Work:
        p = cell.as_dict()
        batch, q = self._size(int(p["batch_size"]), 2), self._size(int(p["q_len"]))
        return self._attention(
            [(q, q)] * batch, int(p["num_heads"]), int(p["num_kv_heads"]), int(p["head_dim"]), cell.l2
        )

    def _attn_mixed(self, cell: Cell) -> Work:
        p = cell.as_dict()
        model = MODELS[str(p["model"])]
        chunk, cached = self._size(int(p["prefill_chunk"])), self._size(int(p["kv_prefill"]))
        seqs = [(chunk, chunk + cached)] if chunk else []
        count, mean, spread = self._size(int(p["n_decode"]), 2), self._size(int(p["kv_decode"])), int(p["spread"]) / 100
        for i in range(count):  # evenly from mean * (1 - spread) to mean * (1 + spread)
            offset = (2 * i / (count - 1) - 1) * spread if count > 1 else 0.0
            seqs.append((1, max(2, round(mean * (1 + offset)))))
        return self._attention(seqs, model.heads, model.kv_heads, model.head_dim, cell.l2)

    def _attention(self, seqs: list[tuple[int, int]], heads: int, kv_heads: int, dim: int, l2: str) -> Work:
        torch = self.torch
        pages = [-(-kv // _PAGE) for _, kv in seqs]
        bytes_each = sum(pages) * _PAGE * 2 * kv_heads * dim * 2
        copies = self._copies(bytes_each, l2 == "cold", 64)
        if self.vllm is None:
            return self._sdpa(seqs, heads, kv_heads, dim, copies)
        total, width = sum(q for q, _ in seqs), max(pages)
        caches = [self._random(sum(pages), 2, _PAGE, kv_heads, dim) for _ in range(copies)]
        order = torch.randperm(sum(pages), device=self.device).to(torch.int32)
        table = torch.zeros(len(seqs), width, dtype=torch.int32, device=self.device)
        slots, first = [], 0
        for row, (q, kv) in enumerate(seqs):
            table[row, : pages[row]] = order[first : first + pages[row]]
            where = torch.arange(kv - q, kv, device=self.device)
            slots.append(table[row][where // _PAGE].long() * _PAGE + where % _PAGE)
            first += pages[row]
        slot = torch.cat(slots)
        starts = torch.tensor([0, *(q for q, _ in seqs)], device=self.device).cumsum(0).to(torch.int32)
        lengths = torch.tensor([kv for _, kv in seqs], dtype=torch.int32, device=self.device)
        query = self._random(total, heads, dim)
        key, value, out = (
            self._random(total, kv_heads, dim),
            self._random(total, kv_heads, dim),
            torch.empty_like(query),
        )
        scale = torch.ones((), device=self.device)
        max_q, max_kv = max(q for q, _ in seqs), max(kv for _, kv in seqs)
        splits = _GRAPH_SPLITS if total <= _GRAPH_TOKENS else 0
        flash, write = self.vllm["flash"], self.vllm["ops"].reshape_and_cache_flash
        metadata = self.vllm["metadata"](
            batch_size=len(seqs),
            max_seqlen_q=max_q,
            max_seqlen_k=max_kv,
            num_heads_q=heads,
            num_heads_kv=kv_heads,
            headdim=dim,
            cache_seqlens=lengths,
            qkv_dtype=torch.bfloat16,
            cu_seqlens_q=starts,
            page_size=_PAGE,
            causal=True,
            window_size=(-1, -1),
            num_splits=splits,
        )

        def layer(cache: Any) -> None:
            keys, values = cache.unbind(1)
            write(key, value, keys, values, slot, "auto", scale, scale)
            flash(
                q=query,
                k=keys,
                v=values,
                out=out,
                cu_seqlens_q=starts,
                max_seqlen_q=max_q,
                seqused_k=lengths,
                max_seqlen_k=max_kv,
                softmax_scale=dim**-0.5,
                causal=True,
                block_table=table,
                scheduler_metadata=metadata,
                fa_version=3,
                num_splits=splits,
            )

        return Work(_each(layer, caches), "vllm_flash_attn_fa3", "vllm")

    def _sdpa(self, seqs: list[tuple[int, int]], heads: int, kv_heads: int, dim: int, copies: int) -> Work:
        """torch's attention on equal sequences; it has no paged or ragged form."""
        torch = self.torch
        q, kv = seqs[0]
        if any(s != seqs[0] for s in seqs) or (q not in (1, kv)):
            raise UnsupportedCellError("ragged batches and cached prefixes need vLLM's attention, which is not here")
        query = self._random(len(seqs), heads, q, dim)
        caches = [
            (self._random(len(seqs), kv_heads, kv, dim), self._random(len(seqs), kv_heads, kv, dim))
            for _ in range(copies)
        ]
        attention = torch.nn.functional.scaled_dot_product_attention
        calls = _each(lambda c: attention(query, c[0], c[1], is_causal=q > 1, enable_gqa=heads != kv_heads), caches)
        return Work(calls, "torch_sdpa", "torch")

    # Everything else of a layer

    def _layer_ops(self, cell: Cell) -> Work:
        p = cell.as_dict()
        model, op, tokens = MODELS[str(p["model"])], str(p["op"]), self._size(int(p["num_tokens"]), 4)
        hidden, vocab = self._size(model.hidden), self._size(model.vocab, 128)
        torch, ops = self.torch, self.vllm["ops"] if self.vllm else None
        if op == "emb":
            table = self._keep(("emb", vocab, hidden), lambda: [self._random(vocab, hidden)])[0]
            ids = [self._integers(vocab, tokens) for _ in range(8)]
            return Work(_each(lambda i: torch.nn.functional.embedding(i, table), ids), "torch", "torch")
        if op in ("input_layernorm", "final_layernorm", "post_attention_layernorm", "qk_norm"):
            rows, width = (
                (tokens * (model.heads + model.kv_heads), model.head_dim) if op == "qk_norm" else (tokens, hidden)
            )
            x, residual, weight = self._random(rows, width), self._random(rows, width), self._random(width)
            if ops is None:
                return Work([lambda: torch.nn.functional.rms_norm(x, (width,), weight)], "torch", "torch")
            if op == "post_attention_layernorm":
                return Work([lambda: ops.fused_add_rms_norm(x, residual, weight, 1e-6)], "vllm_c", "vllm")
            out = torch.empty_like(x)
            return Work([lambda: ops.rms_norm(out, x, weight, 1e-6)], "vllm_c", "vllm")
        if op == "add":
            x, y = self._random(tokens, hidden), self._random(tokens, hidden)
            return Work([lambda: x + y], "torch", "torch")
        if op in ("attn_rope", "kv_write", "mlp_act"):
            return self._vllm_layer_op(op, model, tokens)
        return self._head_op(op, tokens, vocab)

    def _vllm_layer_op(self, op: str, model: Any, tokens: int) -> Work:
        torch = self.torch
        if op == "mlp_act":
            x, width = self._random(tokens, 2 * self._size(model.inter)), self._size(model.inter)
            if self.vllm is None:
                return Work([lambda: torch.nn.functional.silu(x[:, :width]) * x[:, width:]], "torch", "torch")
            out = torch.empty(tokens, width, dtype=x.dtype, device=self.device)
            return Work([lambda: torch.ops._C.silu_and_mul(out, x)], "vllm_c", "vllm")
        if self.vllm is None:
            raise UnsupportedCellError(f"{op} comes with vLLM, which is not here")
        ops = self.vllm["ops"]
        key, value = (
            self._random(tokens, model.kv_heads, model.head_dim),
            self._random(tokens, model.kv_heads, model.head_dim),
        )
        if op == "attn_rope":
            query = self._random(tokens, model.heads * model.head_dim)
            flat = key.view(tokens, -1)
            positions, cache = self._integers(8192, tokens), self._random(8192, model.head_dim)
            return Work(
                [lambda: ops.rotary_embedding(positions, query, flat, model.head_dim, cache, True)], "vllm_c", "vllm"
            )
        pages = -(-tokens // _PAGE) * 2
        keys, values = self._random(pages, 2, _PAGE, model.kv_heads, model.head_dim).unbind(1)
        slot, scale = torch.randperm(pages * _PAGE, device=self.device)[:tokens], torch.ones((), device=self.device)
        return Work(
            [lambda: ops.reshape_and_cache_flash(key, value, keys, values, slot, "auto", scale, scale)],
            "vllm_c",
            "vllm",
        )

    def _head_op(self, op: str, rows: int, vocab: int) -> Work:
        torch = self.torch
        if op == "logits_to_float":
            half = self._random(rows, vocab)
            return Work([lambda: half.float()], "torch", "torch")
        logits = self._random(rows, vocab, dtype=torch.float32)
        if op == "argmax":
            return Work([lambda: logits.argmax(dim=-1)], "torch", "torch")
        if op == "softmax":
            return Work([lambda: logits.softmax(dim=-1)], "torch", "torch")
        if op == "gumbel_sample":
            if self.vllm is None or self.vllm["gumbel"] is None:
                return Work([lambda: (logits / -torch.rand_like(logits).log()).argmax(dim=-1)], "torch", "torch")
            index, seeds = torch.arange(rows, device=self.device, dtype=torch.int32), self._integers(1 << 30, rows)
            warm, positions, sample = (
                torch.ones(rows, device=self.device),
                self._integers(4096, rows),
                self.vllm["gumbel"],
            )
            return Work([lambda: sample(logits, index, warm, seeds, positions, True)], "vllm_triton", "vllm")
        top_k, top_p = torch.full((rows,), 50, device=self.device), torch.full((rows,), 0.9, device=self.device)
        if self.vllm is None or self.vllm["top_k_top_p"] is None:
            return Work([lambda: logits.sort(dim=-1)], "torch", "torch")
        masked, both = logits.clone(), self.vllm["top_k_top_p"]
        return Work([lambda: both(masked, top_k.int(), top_p)], "vllm", "vllm", False)

    # Copies

    def _copy(self, cell: Cell) -> Work:
        torch = self.torch
        direction, memory, count = str(cell.params[0]), str(cell.params[1]), self._size(int(cell.params[2]), 4096)
        on_gpu = self.device.type == "cuda"

        def host() -> list[Any]:
            buffer = torch.empty(
                1 << 30 if not self.dry else 4096, dtype=torch.uint8, pin_memory=memory == "pinned" and on_gpu
            )
            buffer.random_(0, 255)
            return [buffer]

        device = torch.randint(0, 255, (count,), dtype=torch.uint8, device=self.device)
        if direction == "memset":
            return Work([device.zero_], "cudaMemsetAsync", "torch")
        if direction == "d2d":
            other = torch.empty_like(device)
            return Work([lambda: other.copy_(device)], "cudaMemcpyAsync", "torch")
        near = self._keep((f"host-{memory}", memory), host)[0][:count]
        pinned = memory == "pinned"
        if direction == "h2d":
            return Work([lambda: device.copy_(near, non_blocking=True)], "cudaMemcpyAsync", "torch", pinned)
        return Work([lambda: near.copy_(device, non_blocking=True)], "cudaMemcpyAsync", "torch", pinned)

    def _graph(self, cell: Cell) -> Work:
        raise UnsupportedCellError("graph launches are timed by the sweep itself")


def _vllm_kernels() -> dict[str, Any] | None:
    """vLLM's kernels by the names the operators use, or None where vLLM is not installed."""
    if not version_of("vllm"):
        return None
    import vllm._custom_ops as ops
    from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts
    from vllm.platforms import current_platform
    from vllm.vllm_flash_attn.flash_attn_interface import flash_attn_varlen_func, get_scheduler_metadata

    current_platform.import_kernels()
    kernels: dict[str, Any] = {
        "ops": ops,
        "flash": flash_attn_varlen_func,
        "metadata": get_scheduler_metadata,
        "fused_experts": fused_experts,
        "fused_topk": None,
        "gumbel": None,
        "top_k_top_p": None,
    }
    optional = {
        "fused_topk": ("vllm.model_executor.layers.fused_moe.router.fused_topk_router", "fused_topk"),
        "gumbel": ("vllm.v1.worker.gpu.sample.gumbel", "gumbel_sample"),
        "top_k_top_p": ("vllm.v1.sample.ops.topk_topp_sampler", "apply_top_k_top_p"),
    }
    for name, (module, attribute) in optional.items():
        try:
            kernels[name] = getattr(__import__(module, fromlist=[attribute]), attribute)
        except (ImportError, AttributeError):
            continue
    return kernels
