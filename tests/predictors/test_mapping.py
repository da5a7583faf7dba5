"""Launches become operators: every kernel that vLLM and SGLang launch, each operator carried exactly once."""

from __future__ import annotations

import pytest

from revati_predictors import RooflinePredictor, find_gpu
from revati_predictors.facts import NO_FACTS, ModelFacts
from revati_predictors.kernel_table import RULES
from revati_predictors.mapping import _ROLES, find_rule, resolve
from revati_predictors.operators import Attention, Collective, Gemm, Mla, Moe, Stream
from revati_predictors.pricing import Pricer
from revati_predictors.wire import FAMILY, KIND, NEEDS_BATCH, NEEDS_SEQS, NEEDS_TOKENS, OpRecord

LLAMA = ModelFacts.from_json(
    {
        "dtype": "bfloat16",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }
)
QWEN_MOE = ModelFacts.from_json(
    {
        "dtype": "bfloat16",
        "layers": 48,
        "hidden": 2048,
        "intermediate": 6144,
        "moe_intermediate": 768,
        "experts": 128,
        "topk": 8,
        "heads_q": 32,
        "heads_kv": 4,
        "head_dim": 128,
        "vocab": 151936,
    }
)
LLAMA_FP8 = ModelFacts.from_json(
    {
        "quantization": "fp8",
        "layers": 32,
        "hidden": 4096,
        "intermediate": 14336,
        "vocab": 128256,
        "heads_q": 32,
        "heads_kv": 8,
        "head_dim": 128,
        "kv_cache_dtype": "fp8_e4m3",
    }
)

# Names as the frameworks launch them (vLLM 0.25.1, SGLang 0.5.15, torch 2.11), shortened, mangled or not.
NAMES = {
    "_ZN7cutlass13device_kernelIN5flash11enable_sm90INS1_16FlashAttnFwdSm90INS1_24CollectiveMainloopFwd": "ATTENTION",
    "_ZN7cutlass13device_kernelIN5flash19FlashAttnFwdCombineIN4cute5tupleIJ": "ATTENTION",
    "_ZN5flash32prepare_varlen_num_blocks_kernelILi1ELb1EEEviiiPKiS2_": "ATTENTION",
    "_ZN5flash23flash_fwd_splitkv_kernelI23Flash_fwd_kernel_traits": "ATTENTION",
    "_ZN5flash31flash_fwd_splitkv_combine_kernelI23Flash_fwd": "ATTENTION",
    "_ZN10flashinfer33BatchPrefillWithPagedKVCacheKernelINS_": "ATTENTION",
    "_ZN10flashinfer32BatchDecodeWithPagedKVCacheKernelILN": "ATTENTION",
    "_ZN10flashinfer38PersistentVariableLengthMergeStatesKernel": "ATTENTION",
    "fmhaSm100fKernel_QkvBfloat16OBfloat16H128PagedKvCausalP64VarSeqQ128Kv128PersistentContext": "ATTENTION",
    "kernel_unified_attention_2d": "ATTENTION",
    "_ZN4vllm30reshape_and_cache_flash_kernelI13__nv_bfloat16": "KV_WRITE",
    "store_kvcache<2048, 4>": "KV_WRITE",
    "_ZN4vllm15rms_norm_kernelIN3c108BFloat16ELi8ELi2EEE": "NORM",
    "_ZN4vllm25fused_add_rms_norm_kernelIN3c108BFloat16ELi8EEE": "NORM",
    "kernel_cutlass_kernel_flashinfernormkernelsfused_add_rmsnormFusedAddRMSNormKernel": "NORM",
    "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0": "NORM",
    "triton_red_fused_2": "NORM",
    "_ZN4vllm18act_and_mul_kernelIN3c108BFloat16E": "ACTIVATION",
    "triton_poi_fused_mul_silu_slice_1": "ACTIVATION",
    "_ZN4vllm23rotary_embedding_kernelIN3c108BFloat16E": "ROPE",
    "fused_rope_kernel<true, 128, 128>": "ROPE",
    "triton_poi_fused_3": "ROPE",
    "_ZN2at6native24vectorized_gather_kernelILi16ElEEvPcS2_PT0_illllb": "EMBEDDING",
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::ArgMaxOps<float>": "SAMPLING",
    "_gumbel_sample_kernel": "SAMPLING",
    "_ZN10flashinfer8sampling33TopKTopPSamplingFromProbKernelILj1024E": "SAMPLING",
    "_prepare_pos_seq_lens_kernel": "METADATA",
    "_fused_metadata_kernel_ps1_no_swa": "METADATA",
    "clamp_position_kernel": "METADATA",
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctorOnSelf_add<long>": "METADATA",
    "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int>": "ELEMENTWISE",
    "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl<direct_copy_kernel_cuda": "ELEMENTWISE",
    "_ZN4vllm3moe10topkGatingILi4ELi128ELi4ELi16ELi32Eif": "MOE",
    "_ZN4vllm3moe27moe_align_block_size_kernelIi": "MOE",
    "_ZN4vllm3moe36count_and_sort_expert_tokens_kernelIi": "MOE",
    "fused_moe_kernel": "MOE",
    "_ZN4vllm3moe18moe_sum_vec_kernelIN3c108BFloat16E": "MOE",
    "_ZN4vllm26cross_device_reduce_1stageI13__nv_bfloat16Li2EEE": "COLLECTIVE",
    "all_reduce_one_shot_push_kernel": "COLLECTIVE",
    "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)": "COLLECTIVE",
    "_ZN4vllm33per_token_group_quant_8bit_kernelIN3c108BFloat16E": "QUANT",
    "_ZN9deep_gemm24sm90_fp8_gemm_1d2d_implILN4cute4UMMA5MajorE0ELj0ELj5120ELj2048ELj1E": "GEMM",
    "nvjet_tst_64x8_64x16_4x1_v_bz_TNT": "GEMM",
    "_ZN8cublasLt19splitKreduce_kernelILi32ELi16Ei": "GEMM",
    "_ZN5flash19flash_fwd_mla_combine_kernel": "MLA",
    "_ZN3sm9027flash_fwd_splitkv_mla_kernelI": "MLA",
    "_apply_grammar_bitmask_kernel": "SAMPLING",
    "_bias_kernel": "METADATA",
    "_bincount_kernel": "METADATA",
    "_prompt_logprobs_token_ids_kernel": "METADATA",
    "_ZN2at6native20bitonicSortKVInPlaceILi2ELin1ELi16ELi16EN3c108BFloat16ElNS0_4GTOpIS3_Lb1EEEjEE": "METADATA",
}


@pytest.mark.parametrize("name, family", NAMES.items())
def test_known_names(name: str, family: str) -> None:
    rule = find_rule(name)
    assert rule is not None and rule.family == family


def test_table_is_well_formed() -> None:
    assert {rule.role for rule in RULES} <= set(_ROLES)
    assert {rule.family for rule in RULES} <= set(FAMILY)


def _kernel(name: str, seqs: tuple[tuple[int, int], ...] = ((1, 512),) * 8, grid: int = 8, padded: int = 0) -> OpRecord:
    return OpRecord(KIND["KERNEL"], name=name, seqs=seqs, padded=padded, p=(grid, 1, 1, 128, 1, 1, 0, -1))


def _total_us(records: list[OpRecord], facts: dict[str, object]) -> float:
    pricer = Pricer([RooflinePredictor(find_gpu("h100-sxm"))])
    index = pricer.announce(facts)
    for record in records:
        record.model = index
    return sum(row[0] for row in pricer.price(records)) / 1e3


FACTS = {
    "layers": 32,
    "hidden": 4096,
    "intermediate": 14336,
    "vocab": 128256,
    "heads_q": 32,
    "heads_kv": 8,
    "head_dim": 128,
}


@pytest.mark.parametrize("seqs", [((1, 512),) * 8, ((1, 10),), ((700, 700), (1, 4000), (1, 9)), ((1, 3), (1, 99999))])
@pytest.mark.parametrize(
    "extra", [[], ["flash::FlashAttnFwdCombine"], ["prepare_varlen_num_blocks", "FlashAttnFwdCombine"]]
)
def test_attention_is_counted_once(seqs: tuple[tuple[int, int], ...], extra: list[str]) -> None:
    """KV write + attention + helpers add up to the measured attention operator, whichever helpers ran."""
    launches = ["reshape_and_cache_flash_kernel", "flash::FlashAttnFwdSm90", *extra]
    total = _total_us([_kernel(name, seqs) for name in launches], dict(FACTS))
    operator = Attention(seqs, 32, 8, 128, "bfloat16", "bfloat16", 0, "all")
    alone = RooflinePredictor(find_gpu("h100-sxm")).predict([operator])[0].us
    assert total == pytest.approx(alone, abs=0.003)


def test_split_backends_share_one_batch() -> None:
    """FlashInfer runs decodes and prefills as two kernels: each gets its own sequences, together the whole batch."""
    seqs = ((1, 500), (1, 600), (300, 300))
    decode, prefill = (
        resolve(_kernel(n, seqs), LLAMA)
        for n in ("BatchDecodeWithPagedKVCacheKernel", "BatchPrefillWithPagedKVCacheKernel")
    )
    got = [part.seqs for r in (decode, prefill) for part, _ in r.parts if isinstance(part, Attention)]
    assert got == [((1, 500), (1, 600)), ((300, 300),)]


def test_latent_attention_splits_the_batch() -> None:
    """Decodes run on FlashMLA, prefills on an ordinary kernel with expanded keys: together the batch, once."""
    facts = ModelFacts.from_json({**FACTS, "kv_lora_rank": 512, "heads_q": 128})
    seqs = ((1, 500), (300, 300))
    names = (
        "flash_fwd_splitkv_mla_kernel",
        "FlashAttnFwdSm90",
        "concat_and_cache_mla_kernel",
        "flash_fwd_mla_combine_kernel",
    )
    parts = [part for name in names for part, _ in resolve(_kernel(name, seqs), facts).parts]
    assert [part.seqs for part in parts if isinstance(part, Mla)] == [((1, 500),), ((300, 300),)]
    assert len(parts) == 2


def test_moe_layer_is_counted_once() -> None:
    names = [
        "topkGating",
        "moe_align_block_size_kernel",
        "count_and_sort_expert_tokens_kernel",
        "fused_moe_kernel",
        "act_and_mul_kernel",
        "fused_moe_kernel",
        "moe_sum_vec_kernel",
    ]
    records = [_kernel(name, grid=64) for name in names]  # 8 tokens x 8 experts = 64 activation rows
    resolved = [resolve(record, QWEN_MOE) for record in records]
    weights = [weight for r in resolved for op, weight in r.parts if isinstance(op, Moe)]
    assert sum(weights) == pytest.approx(1.0)
    assert all(isinstance(op, Moe) for r in resolved for op, _ in r.parts)
    moe = next(op for r in resolved for op, _ in r.parts)
    assert moe == Moe(8, 2048, 768, 8, 128, 1, 1, "bfloat16", "power_law_1.01", "fused_moe_kernel")


def test_dense_activation_is_its_own_kernel() -> None:
    op, weight = resolve(_kernel("act_and_mul_kernel"), LLAMA).parts[0]
    assert isinstance(op, Stream) and op.op == "activation" and weight == 1.0
    assert op.bytes == 8 * 14336 * 6


def test_fp8_layer_products_add_up() -> None:
    """Which of a layer's four products a CUTLASS launch is cannot be seen: the four launches cost the four products."""
    resolved = [resolve(_kernel("cutlass::device_kernel<scaled>"), LLAMA_FP8) for _ in range(4)]
    total: dict[tuple[int, int], float] = {}
    for r in resolved:
        for op, weight in r.parts:
            assert isinstance(op, Gemm) and op.dtype == "fp8"
            total[(op.n, op.k)] = total.get((op.n, op.k), 0.0) + weight
    assert total == {(6144, 4096): 1.0, (4096, 4096): 1.0, (28672, 4096): 1.0, (4096, 14336): 1.0}
    assert resolve(_kernel("scaled_fp8_quant_kernel"), LLAMA_FP8).parts == []  # inside the measured product


def test_deepgemm_shape_from_its_name() -> None:
    name = "_ZN9deep_gemm24sm90_fp8_gemm_1d2d_implILN4cute4UMMA5MajorE0ELj0ELj5120ELj2048ELj1ELj64E"
    op, _ = resolve(_kernel(name), LLAMA_FP8).parts[0]
    assert op == Gemm(8, 5120, 2048, "fp8_block", 1, True)


def test_custom_all_reduce_reads_ranks_from_the_name() -> None:
    facts = ModelFacts.from_json({**FACTS, "tp": 4})
    op, _ = resolve(_kernel("_ZN4vllm26cross_device_reduce_1stageI13__nv_bfloat16Li2EEE"), facts).parts[0]
    assert op == Collective("all_reduce", 8 * 4096 * 2, 2, 1, "one_shot")


def test_kernels_of_cublas_and_nccl_do_not_count_again() -> None:
    for name in ("nvjet_tst_64x8", "splitKreduce_kernel", "ncclDevKernel_AllReduce_Sum"):
        assert resolve(_kernel(name), LLAMA).parts == []


def test_unknown_kernel_is_priced_and_listed() -> None:
    pricer = Pricer([RooflinePredictor(find_gpu("h100-sxm"))])
    row = pricer.price([_kernel("something_new_kernel", grid=1000)])[0]
    assert row[0] > 1000 and row[3] == FAMILY["OTHER"] and row[4] == 3
    assert "something_new_kernel" in pricer.statistics.as_dict()["unmapped_kernels"]


def test_an_activation_of_experts_and_of_a_shared_one_have_one_key() -> None:
    facts = ModelFacts.from_json(
        {"layers": 4, "hidden": 2048, "intermediate": 0, "moe_intermediate": 1024, "vocab": 32000, "heads_q": 16,
         "heads_kv": 16, "head_dim": 128, "experts": 64, "topk": 8, "shared_experts": 2}
    )  # fmt: skip
    routed = resolve(_kernel("act_and_mul_kernel", seqs=((1, 99),) * 8, grid=64), facts)
    shared = resolve(_kernel("act_and_mul_kernel", seqs=((1, 99),) * 64, grid=64), facts)
    assert not routed.parts and shared.parts
    assert routed.flags == shared.flags == NEEDS_TOKENS


@pytest.mark.parametrize("name", ["FlashAttnFwdSm90", "reshape_and_cache_flash_kernel"])
def test_batch_flag(name: str) -> None:
    assert resolve(_kernel(name), LLAMA).flags == NEEDS_BATCH


def test_sampling_depends_on_the_number_of_sequences_alone() -> None:
    short, long = (_kernel("_gumbel_sample_kernel", seqs=((1, kv),) * 4) for kv in (10, 1000))
    assert resolve(short, LLAMA).flags == NEEDS_SEQS
    assert resolve(short, LLAMA).parts == resolve(long, LLAMA).parts


def test_without_facts_everything_is_a_marked_guess() -> None:
    pricer = Pricer([RooflinePredictor(find_gpu("h100-sxm"))])
    records = [_kernel(name, seqs=()) for name in NAMES]
    for record, row in zip(records, pricer.price(records)):
        assert row[0] >= 0 and row[4] in (0, 3), record.name
        assert row[0] > 0 or resolve(record, NO_FACTS).parts == []


def test_bad_facts_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="num_attention_heads"):
        ModelFacts.from_json({"num_attention_heads": "many"})
