"""Which operator each kernel belongs to: the explicit table from kernel names to operators.

A rule's pattern is searched (case-sensitive) in the kernel name, mangled or not; the first rule that matches wins.

Roles:
  attention  carries the whole attention operator of the layer, less the KV write when that is a launch of its own
  mla, moe   carry the whole operator; `per_layer` launches of one layer share it equally
  gemm       a matrix product launched as a kernel: shape from its name or from the model's linear layers
  stream     a kernel of its own that streams bytes; `arg` names the operator and how its bytes follow
  allreduce  a custom all-reduce kernel; bytes from the batch
  part       another launch of an operator whose time a carrier above already has: 0 ns, never counted twice
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["RULES", "Rule"]


class Rule(NamedTuple):
    """One line of the table. `family` is the accounting family, `arg` and `per_layer` are explained above."""

    pattern: str
    role: str
    family: str
    arg: str = ""
    per_layer: int = 1


RULES: tuple[Rule, ...] = (
    # MLA before attention: FlashMLA and the vLLM/SGLang variants contain "flash_fwd" too.
    Rule(r"mla_combine|mla_reduce|get_mla_metadata|combine_kernel_mla", "part", "MLA"),
    Rule(r"concat_and_cache_mla|set_mla_kv|concat_mla", "part", "MLA"),
    Rule(
        r"flash_fwd_splitkv_mla|flash_fwd_mla|FlashMLA|flash_mla|fmha_cutlass_mla|Sm100FmhaMla|MlaDecode|mla_decode"
        r"|BatchMLAPaged|_fwd_grouped_kernel_stage1",
        "mla",
        "MLA",
    ),
    # Attention: what is not the carrier first.
    Rule(
        r"FlashAttnFwdCombine|splitkv_combine|flash_fwd_combine|prepare_varlen_num_blocks|MergeStates"
        r"|MergeState|reduce_segments|_fwd_kernel_stage2|fmhaReduction|fmha_reduction|merge_attn_states"
        r"|FlashAttnPrepare",
        "part",
        "ATTENTION",
    ),
    Rule(
        r"reshape_and_cache|store_kvcache|store_cache|set_kv_buffer|AppendPagedKVCache|append_paged_kv",
        "kv_write",
        "KV_WRITE",
    ),
    Rule(
        r"BatchDecodeWithPagedKVCache|SingleDecodeWithKV|fmhaSm\d+\w*Decode|fmhaSm\d+\w*_Gen|xqa_kernel|kernel_mha"
        r"|fmhaSm\d+\w*SwapsMma|fmhaSm\d+\w*KeepsMma",
        "attention",
        "ATTENTION",
        "decode",
    ),
    Rule(
        r"BatchPrefillWith|SinglePrefillWith|PrefillWithKVCache|fmhaSm\d+\w*|FmhaKernelTma|Sm100FmhaFwd",
        "attention",
        "ATTENTION",
        "prefill",
    ),
    Rule(
        r"FlashAttnFwd|flash_fwd_kernel|flash_fwd_splitkv|flash_attn|kernel_unified_attention|paged_attention_v"
        r"|FlashAttentionForward|_fwd_kernel\b|_fwd_grouped_kernel|fmha_fwd|BatchAttention|kernel_paged_attention",
        "attention",
        "ATTENTION",
        "all",
    ),
    # Mixture of experts: two grouped products carry the layer.
    Rule(
        r"topkGating|topk_softmax|moe_align|count_and_sort_expert|moe_sum|moe_permute|moe_unpermute|expandInputRows"
        r"|finalizeMoeRouting|doActivation|routingIndices|routingMain|routingRenorm|routingDeepSeek|moe_fused_gate"
        r"|grouped_topk|topk_sigmoid|computeExpertFirst|blockExpertPrefix|globalExpertPrefix|mergeExpertPrefix"
        r"|fusedBuildExpertMaps|computeStrides|shuffle_rows|ep_scatter|ep_gather|silu_mul_quant_expert"
        r"|permute_scale|compute_problem_sizes|compute_expert_",
        "part",
        "MOE",
    ),
    Rule(
        r"fused_moe_kernel|fused_moe_wna16|marlin_moe|moe_wna16|m_grouped_(?:fp8_)?gemm|grouped_gemm|GroupProblemShape"
        r"|GroupedGemm|MoeFCGemm|moe_gemm|_matmul_ogs|_p_matmul_ogs|bmm_\w*_(?:Fp8|E4m3|Bfloat16|E2m1|MxE4m3)",
        "moe",
        "MOE",
        "",
        2,
    ),
    # Matrix products launched as kernels. cuBLAS calls arrive as calls; its kernels must not count again.
    Rule(
        r"splitKreduce|nvjet_|ampere_\w*gemm|sm80_xmma|sm90_xmma|sm100_xmma|cutlass_80_|gemv2T|gemvNSP|cublas",
        "part",
        "GEMM",
    ),
    Rule(r"fp8_gemm_1d[12]d|bf16_gemm_impl|deep_gemm", "gemm", "GEMM", "name_nk"),
    Rule(
        r"cutlass.*device_kernel|_ZN7cutlass|cutlass::Kernel|marlin::Marlin|gptq_marlin|scaled_mm|_w8a8_block_fp8|"
        r"gemm_kernel|gemm_sm\d+|Gemm_Kernel|GemmKernel",
        "gemm",
        "GEMM",
        "facts_nk",
    ),
    # Quantisation of activations; part of the product where the measured rows include it.
    Rule(
        r"per_token_group_quant|per_token_quant|scaled_fp8_quant|segmented_max_reduction|per_tensor_quant|cvt_fp16_to_fp4"
        r"|quantize_with_block|scaled_quant|transpose_and_pack_fp32_into_ue8m0|_quant_fp8",
        "quant",
        "QUANT",
    ),
    # Collectives launched as kernels.
    Rule(
        r"cross_device_reduce_1stage|all_reduce_one_shot|one_shot_all_reduce|allreduce_fusion_kernel_oneshot",
        "allreduce",
        "COLLECTIVE",
        "one_shot",
    ),
    Rule(
        r"cross_device_reduce|all_reduce_two_shot|two_shot_all_reduce|multimem_all_reduce|allreduce_fusion_kernel"
        r"|quickreduce|all_reduce_pull|all_reduce_push",
        "allreduce",
        "COLLECTIVE",
        "custom",
    ),
    Rule(r"ncclDevKernel", "part", "COLLECTIVE"),
    # Streams with a known size.
    Rule(r"rms_norm_.*quant|fused_add_rms_norm_.*quant", "stream", "NORM", "norm_residual"),
    Rule(r"(?:fused_)?add_?rms_?norm|FusedAddRMSNorm|fused_add_rms", "stream", "NORM", "norm_residual"),
    Rule(r"(?i)rms_?norm|layer_?norm", "stream", "NORM", "norm"),
    Rule(
        r"act_and_mul|silu_and_mul|swiglu|silu_mul|gelu_and_mul|activation_kernel",
        "activation",
        "ACTIVATION",
        "activation",
    ),
    Rule(r"rotary|fused_rope|rope_kernel|RopeQuantize|BatchQKApplyRotary", "stream", "ROPE", "rope"),
    Rule(
        r"embedding|EmbeddingForward|vocab_parallel|vectorized_gather_kernel|indexSelect",
        "stream",
        "EMBEDDING",
        "embedding",
    ),
    # Sampling works on rows of logits.
    Rule(
        r"ArgMaxOps|ArgMinOps|argmax|gumbel_sample|TopKTopPSampling|TopPSampling|TopKSampling|MinPSampling"
        r"|SamplingFromProb|SamplingFromLogits|RenormProb|TopPRenorm|TopKRenorm|TopKMask|TopKMaskLogits|softmax_warp"
        r"|cunn_SoftMax|OnlineSoftmax|softmax_forward|SoftMaxForward|log_softmax|_topk_log_softmax|_ranks_kernel"
        r"|distribution_elementwise|multinomial|gatherTopK|sbtopk|mbtopk|RadixTopK|apply_repetition_penalties"
        r"|_penalties_kernel|_temperature_kernel|_min_p_kernel|_bad_words|apply_token_bitmask|_apply_grammar_bitmask",
        "stream",
        "SAMPLING",
        "logits",
    ),
    # Small kernels that prepare a batch.
    Rule(
        r"_prepare_pos_seq_lens|_prepare_prefill_inputs|_post_update|_apply_write|_get_num_sampled|_combine_sampled"
        r"|_compute_slot_mapping|_gather_block_tables|fused_metadata|compute_position|clamp_position|_copy_page_indices"
        r"|create_flashinfer_kv_indices|write_req_to_token|alloc_extend|alloc_decode|get_last_loc|multi_tensor_apply"
        r"|CUDAFunctorOnSelf_add|elementwise_kernel_with_index|arange|DeviceScan|cumsum|_idx_mapping|index_put"
        r"|_prepare_.*_kernel|set_.*_metadata|merge_sort|bucketize|searchsorted|DeviceSelect|DeviceReduce|bitonicSortKV"
        r"|\b_bias_kernel|_bincount_kernel|_prompt_logprobs_token_ids",
        "metadata",
        "METADATA",
    ),
    # Code that torch.compile generated: its name lists the fused operations.
    Rule(r"triton_\w*(?:silu|gelu|sigmoid_mul)", "activation", "ACTIVATION", "activation"),
    Rule(r"triton_\w*embedding", "stream", "NORM", "norm_residual"),
    Rule(r"triton_(?:red|per)_fused\w*(?:rsqrt|rms|mean|norm|pow)", "stream", "NORM", "norm_residual"),
    Rule(r"triton_(?:red|per)_fused\w*(?:argmax|softmax|amax|exp)", "stream", "SAMPLING", "logits"),
    Rule(r"triton_(?:red|per)_fused", "stream", "NORM", "norm_residual"),
    Rule(r"triton_poi_fused\w*(?:cos|sin|cat|rotary|stack|neg|index_select|split)", "stream", "ROPE", "rope"),
    Rule(r"triton_poi_fused_\d+$", "stream", "ROPE", "rope"),
    Rule(r"triton_", "elementwise", "ELEMENTWISE"),
    Rule(r"FillFunctor|fill_kernel|memset", "elementwise", "ELEMENTWISE"),
    Rule(
        r"elementwise|direct_copy|CatArrayBatchedCopy|reduce_kernel|index_kernel|gather|scatter|copy_kernel|where_"
        r"|masked_|tril|triu|flip|roll|convert",
        "elementwise",
        "ELEMENTWISE",
    ),
)
