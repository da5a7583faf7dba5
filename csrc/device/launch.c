/* Kernel launches: effects on memory, price, timeline. The hot path of the virtual device. */
#define _GNU_SOURCE
#include <string.h>

#include "device/core.h"

/* Every device address among the parameters may have been written to. */
static void forget_parameters(const struct rvt_launch *l) {
  const struct rvt_kernel *k = l->kernel;
  for (int i = 0; i < k->param_count; i++) {
    if (k->read_params >> i & 1) continue;
    const char *at = l->params[i];
    for (uint32_t left = k->params[i].bytes; left >= 8; left -= 8, at += 8) {
      uint64_t v;
      memcpy(&v, at, 8);
      if (RVT_UNLIKELY(rvt_is_device_address(v))) rvt_mem_forget_at(v);
    }
  }
}

void rvt_kernel_effects(const struct rvt_launch *l) {
  if (RVT_UNLIKELY(rvt_tracing)) rvt_trace_launch(l, l->replay ? "replay" : "launch");
  const struct rvt_semantic *sem = l->kernel->semantic;
  if (sem) {
    if (sem->fn && sem->fn(l) == RVT_SEM_DONE) return;
    if (sem->read_only) return;
  }
  if (l->params) forget_parameters(l);
}

int rvt_launch_kernel(const struct rvt_kernel *k, const uint32_t grid[3], const uint32_t block[3],
                      uint32_t shared_bytes, struct rvt_stream *s, void **params) {
  if (RVT_UNLIKELY(!k)) return RVT_E_INVALID_DEVICE_FUNCTION;
  if (RVT_UNLIKELY(!s)) return RVT_E_INVALID_HANDLE;
  uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
  if (RVT_UNLIKELY(threads == 0 || threads > 1024 || !grid[0] || !grid[1] || !grid[2])) return RVT_E_INVALID_VALUE;
  rvt_kernel_resolve(k);
  if (RVT_UNLIKELY(k->no_image)) return RVT_E_NO_BINARY;
  struct rvt_launch l = {.kernel = k,
                         .grid = {grid[0], grid[1], grid[2]},
                         .block = {block[0], block[1], block[2]},
                         .shared_bytes = shared_bytes,
                         .stream = s,
                         .params = params};
  struct rvt_op op;
  memset(&op, 0, sizeof op);
  rvt_describe_kernel(&op, grid, block, shared_bytes, k->name_len);
  op.gpu = (uint32_t)rvt_dev(s->device)->gpu;
  op.model = rvt_model_index();
  uint64_t key = rvt_op_key(&op, k->name_hash);
  rvt_progress();
  rvt_host_cost(RVT_HOST_LAUNCH);
  if (RVT_UNLIKELY(rvt_stream_is_capturing(s))) {
    if (RVT_UNLIKELY(rvt_tracing)) rvt_trace_launch(&l, "capture");
    return rvt_capture_kernel(s, &op, key, &l);
  }
  rvt_kernel_effects(&l);
  struct rvt_price price = rvt_price_op(&op, key, k->name);
  int64_t end_ns = rvt_timeline_push(s, price.duration_ns, RVT_ENGINE_NONE);
  rvt_account(s->device, &price);
  if (RVT_UNLIKELY(rvt_step_logging)) rvt_log_work(s, price.family, end_ns, price.duration_ns);
  return RVT_OK;
}
