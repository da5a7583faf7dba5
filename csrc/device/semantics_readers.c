/* Kernels that take control data (lengths, block tables, positions) as input and write activations only.
 *
 * Without an entry a kernel is assumed to overwrite everything it has a pointer to, and the next read of a
 * sequence length would find it unknown. None of these writes anything that a host reads.
 */
#include "device/semantics.h"

#define READER(text) {.pattern = text, .anywhere = true}

const struct rvt_entry rvt_entries_readers[] = {
    READER("flash"),
    READER("Flash"),
    READER("fmha"),
    READER("attention"),
    READER("mla_"),
    READER("attn"),
    READER("prepare_varlen_num_blocks"),
    READER("reshape_and_cache"),
    READER("concat_and_cache"),
    READER("rotary"),
    READER("rope"),
    READER("rms_norm"),
    READER("_fwd_kernel"),
    READER("act_and_mul"),
    READER("triton_red_fused"),
    READER("triton_poi_fused"),
    READER("triton_per_fused"),
    READER("triton_tem_fused"),
    READER("fused_moe_kernel"),
    READER("cross_device_reduce"),
    {0},
};
