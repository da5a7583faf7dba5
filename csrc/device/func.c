/* Function attributes and occupancy. */
#include "device/attributes.h"
#include "device/func.h"

/* Numbers of CUfunction_attribute. */
enum {
  F_MAX_THREADS = 0,
  F_SHARED = 1,
  F_CONST = 2,
  F_LOCAL = 3,
  F_REGISTERS = 4,
  F_PTX = 5,
  F_BINARY = 6,
  F_CACHE = 7,
  F_MAX_DYNAMIC = 8
};

int rvt_max_dynamic_shared(const struct rvt_kernel *k) {
  if (k->max_dynamic_shared_bytes) return k->max_dynamic_shared_bytes;
  return rvt_attribute(rvt_t.device, 8) - k->static_shared_bytes;
}

int rvt_func_set(struct rvt_kernel *k, int attribute, int value) {
  if (attribute != F_MAX_DYNAMIC) return attribute >= 0 && attribute <= 15 ? RVT_OK : RVT_E_INVALID_VALUE;
  if (value < 0 || value + k->static_shared_bytes > rvt_attribute(rvt_t.device, 97)) return RVT_E_INVALID_VALUE;
  k->max_dynamic_shared_bytes = value;
  return RVT_OK;
}

int rvt_func_get(struct rvt_kernel *k, int attribute, int *value) {
  rvt_kernel_resolve(k);
  switch (attribute) {
  case F_MAX_THREADS: *value = k->max_threads; break;
  case F_SHARED: *value = k->static_shared_bytes; break;
  case F_CONST: *value = k->const_bytes; break;
  case F_LOCAL: *value = k->local_bytes; break;
  case F_REGISTERS: *value = k->registers; break;
  case F_PTX: *value = k->ptx_version; break;
  case F_BINARY: *value = k->binary_version; break;
  case F_MAX_DYNAMIC: *value = rvt_max_dynamic_shared(k); break;
  case 9: *value = -1; break; /* preferred carve-out */
  default:
    if (attribute < 0 || attribute > 15) return RVT_E_INVALID_VALUE;
    *value = 0;
  }
  return RVT_OK;
}

int rvt_func_param(struct rvt_kernel *k, size_t index, size_t *offset, size_t *bytes) {
  rvt_kernel_resolve(k);
  if (k->param_count < 0) return RVT_E_NOT_SUPPORTED;
  if (index >= (size_t)k->param_count) return RVT_E_INVALID_VALUE;
  if (offset) *offset = k->params[index].offset;
  if (bytes) *bytes = k->params[index].bytes;
  return RVT_OK;
}

static int at_most(int a, int b) { return a < b ? a : b; }

int rvt_occupancy(struct rvt_kernel *k, int threads, size_t shared_bytes) {
  int d = rvt_t.device;
  if (threads < 1 || threads > k->max_threads) return 0;
  int warps = (threads + 31) / 32, blocks = at_most(rvt_attribute(d, 106), rvt_attribute(d, 39) / 32 / warps);
  /* Registers are given to warps in units of 256. */
  int registers = (k->registers * 32 + 255) / 256 * 256 * warps;
  if (registers) blocks = at_most(blocks, rvt_attribute(d, 82) / registers);
  size_t shared = shared_bytes + (size_t)k->static_shared_bytes + (size_t)rvt_attribute(d, 111);
  if (shared) blocks = at_most(blocks, (int)((size_t)rvt_attribute(d, 81) / shared));
  return blocks < 0 ? 0 : blocks;
}
