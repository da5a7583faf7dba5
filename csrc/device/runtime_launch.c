/* CUDA runtime: what compiled host code calls (registration, launches), function attributes, symbols. */
#define _GNU_SOURCE
#include <string.h>

#include "device/attributes.h"
#include "device/copy.h"
#include "device/func.h"
#include "device/module.h"

struct dim3 {
  uint32_t x, y, z;
};

/* ---- registration ------------------------------------------------------------------------------------------ */

RVT_API void **__cudaRegisterFatBinary(void *image) {
  struct rvt_module *m = rvt_persist(sizeof *m);
  if (!m) return NULL;
  m->magic = RVT_MAGIC_MODULE;
  m->fat_binary = image;
  return (void **)m;
}
RVT_RECORDED void __cudaRegisterFatBinaryEnd(void **handle) {}
RVT_RECORDED void __cudaUnregisterFatBinary(void **handle) {}
RVT_RECORDED char __cudaInitModule(void **handle) { return 1; }

/* Names are literals in the caller's read-only data; a library that is closed unregisters and is not launched. */
RVT_API void __cudaRegisterFunction(void **handle, const char *host, char *device_fun, const char *name,
                                    int thread_limit, void *tid, void *bid, void *block, void *grid, int *warp_size) {
  struct rvt_kernel *k = rvt_kernel_make(name, 0, (struct rvt_module *)handle);
  if (!k) return;
  if (thread_limit > 0) k->max_threads = thread_limit;
  rvt_kernel_register_host(host, k);
}

#define SYMBOL_SLOTS (1u << 17)
static struct rvt_symbol *symbols[SYMBOL_SLOTS]; /* chains by hash of the host address */
static pthread_mutex_t symbol_lock = PTHREAD_MUTEX_INITIALIZER;

static uint32_t symbol_slot(const void *host) {
  return (uint32_t)((uint64_t)host * 0x9E3779B97F4A7C15ull >> 40) & (SYMBOL_SLOTS - 1);
}

RVT_API void __cudaRegisterVar(void **handle, char *host, char *device_address, const char *name, int ext, size_t bytes,
                               int constant, int global) {
  struct rvt_symbol *s = rvt_persist(sizeof *s);
  if (!s) return;
  s->name = name;
  s->host = host;
  s->bytes = bytes;
  pthread_mutex_lock(&symbol_lock);
  s->next = symbols[symbol_slot(host)];
  symbols[symbol_slot(host)] = s;
  pthread_mutex_unlock(&symbol_lock);
}

RVT_API void __cudaRegisterManagedVar(void **handle, void **host, char *device_address, const char *name, int ext,
                                      size_t bytes, int constant, int global) {
  void *memory = NULL;
  if (rvt_host_alloc(bytes, RVT_ALLOC_MANAGED, &memory) == 0) *host = memory;
}
RVT_RECORDED void __cudaRegisterTexture(void **handle, const void *host, const void **device, const char *name, int dim,
                                        int norm, int ext) {}
RVT_RECORDED void __cudaRegisterSurface(void **handle, const void *host, const void **device, const char *name, int dim,
                                        int ext) {}

static struct rvt_symbol *find_symbol(const void *host) {
  pthread_mutex_lock(&symbol_lock);
  struct rvt_symbol *s = symbols[symbol_slot(host)];
  while (s && s->host != host) s = s->next;
  pthread_mutex_unlock(&symbol_lock);
  return s;
}

/* ---- launches ---------------------------------------------------------------------------------------------- */

RVT_API unsigned __cudaPushCallConfiguration(struct dim3 grid, struct dim3 block, size_t shared_bytes, void *stream) {
  struct rvt_thread *t = &rvt_t;
  if (t->config_depth >= (int)(sizeof t->config / sizeof *t->config)) return RVT_E_INVALID_VALUE;
  t->config[t->config_depth++] =
      (struct rvt_call_config){{grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes, stream};
  return 0;
}

RVT_API int __cudaPopCallConfiguration(struct dim3 *grid, struct dim3 *block, size_t *shared_bytes, void *stream) {
  struct rvt_thread *t = &rvt_t;
  if (t->config_depth <= 0) return rvt_rt(9); /* cudaErrorInvalidConfiguration */
  const struct rvt_call_config *c = &t->config[--t->config_depth];
  *grid = (struct dim3){c->grid[0], c->grid[1], c->grid[2]};
  *block = (struct dim3){c->block[0], c->block[1], c->block[2]};
  *shared_bytes = c->shared_bytes;
  *(void **)stream = c->stream;
  return RVT_OK;
}

static int launch(const struct rvt_kernel *k, struct dim3 grid, struct dim3 block, void **params, size_t shared_bytes,
                  void *stream) {
  int rc = rvt_enter();
  if (RVT_UNLIKELY(rc)) return rvt_rt(rc);
  uint32_t g[3] = {grid.x, grid.y, grid.z}, b[3] = {block.x, block.y, block.z};
  return rvt_rt(rvt_launch_kernel(k, g, b, (uint32_t)shared_bytes, rvt_stream_resolve(stream), params));
}

RVT_API int cudaLaunchKernel(const void *func, struct dim3 grid, struct dim3 block, void **params, size_t shared_bytes,
                             void *stream) {
  return launch(rvt_kernel_of_handle(func), grid, block, params, shared_bytes, stream);
}
RVT_API int cudaLaunchCooperativeKernel(const void *func, struct dim3 grid, struct dim3 block, void **params,
                                        size_t shared_bytes, void *stream) {
  return launch(rvt_kernel_of_handle(func), grid, block, params, shared_bytes, stream);
}

RVT_API int __cudaGetKernel(void **out, const void *func) {
  struct rvt_kernel *k = rvt_kernel_of_host(func);
  if (!k) return rvt_rt(RVT_E_INVALID_DEVICE_FUNCTION);
  *out = k;
  return RVT_OK;
}
RVT_API int cudaGetKernel(void **out, const void *func) { return __cudaGetKernel(out, func); }
RVT_API int cudaGetFuncBySymbol(void **out, const void *func) { return __cudaGetKernel(out, func); }

RVT_API int __cudaLaunchKernel(void *kernel, struct dim3 grid, struct dim3 block, void **params, size_t shared_bytes,
                               void *stream) {
  const struct rvt_kernel *k = kernel;
  return launch(k && k->magic == RVT_MAGIC_KERNEL ? k : NULL, grid, block, params, shared_bytes, stream);
}

struct launch_config {
  struct dim3 grid, block;
  size_t shared_bytes;
  void *stream, *attributes;
  unsigned attribute_count;
};
RVT_API int cudaLaunchKernelExC(const struct launch_config *c, const void *func, void **params) {
  if (!c) return rvt_rt(RVT_E_INVALID_VALUE);
  return launch(rvt_kernel_of_handle(func), c->grid, c->block, params, c->shared_bytes, c->stream);
}

/* ---- function attributes ------------------------------------------------------------------------------------ */

struct func_attributes {
  size_t shared_bytes, const_bytes, local_bytes;
  int max_threads, registers, ptx_version, binary_version, cache_mode, max_dynamic_shared, carveout;
  int cluster_must_be_set, cluster_x, cluster_y, cluster_z, cluster_policy, non_portable_cluster;
  int reserved[16];
};

RVT_API int cudaFuncGetAttributes(struct func_attributes *out, const void *func) {
  int rc = rvt_enter();
  struct rvt_kernel *k = rvt_kernel_of_handle(func);
  if (rc || !out || !k) return rvt_rt(rc ? rc : !out ? RVT_E_INVALID_VALUE : RVT_E_INVALID_DEVICE_FUNCTION);
  rvt_kernel_resolve(k);
  if (k->no_image) return rvt_rt(RVT_E_NO_BINARY);
  *out = (struct func_attributes){.shared_bytes = (size_t)k->static_shared_bytes,
                                  .const_bytes = (size_t)k->const_bytes,
                                  .local_bytes = (size_t)k->local_bytes,
                                  .max_threads = k->max_threads,
                                  .registers = k->registers,
                                  .ptx_version = k->ptx_version,
                                  .binary_version = k->binary_version,
                                  .carveout = -1,
                                  .max_dynamic_shared = rvt_max_dynamic_shared(k)};
  return RVT_OK;
}

RVT_API int cudaFuncSetAttribute(const void *func, int attribute, int value) {
  struct rvt_kernel *k = rvt_kernel_of_handle(func);
  int rc = rvt_enter();
  return rvt_rt(rc ? rc : k ? rvt_func_set(k, attribute, value) : RVT_E_INVALID_DEVICE_FUNCTION);
}
RVT_RECORDED int cudaFuncSetCacheConfig(const void *func, int config) { return RVT_OK; }
RVT_RECORDED int cudaFuncSetSharedMemConfig(const void *func, int config) { return RVT_OK; }

RVT_API int cudaFuncGetName(const char **name, const void *func) {
  struct rvt_kernel *k = rvt_kernel_of_handle(func);
  if (!k || !name) return rvt_rt(RVT_E_INVALID_DEVICE_FUNCTION);
  *name = k->name;
  return RVT_OK;
}

RVT_API int cudaFuncGetParamInfo(const void *func, size_t index, size_t *offset, size_t *bytes) {
  struct rvt_kernel *k = rvt_kernel_of_handle(func);
  if (!k) return rvt_rt(RVT_E_INVALID_DEVICE_FUNCTION);
  return rvt_rt(rvt_func_param(k, index, offset, bytes));
}

RVT_API int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *out, const void *func, int threads,
                                                                   size_t shared, unsigned flags) {
  struct rvt_kernel *k = rvt_kernel_of_handle(func);
  int rc = rvt_enter();
  if (rc || !k || !out) return rvt_rt(rc ? rc : !k ? RVT_E_INVALID_DEVICE_FUNCTION : RVT_E_INVALID_VALUE);
  *out = rvt_occupancy(k, threads, shared);
  return RVT_OK;
}
RVT_API int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *out, const void *func, int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out, func, threads, shared, 0);
}

RVT_API int cudaOccupancyAvailableDynamicSMemPerBlock(size_t *out, const void *func, int blocks, int threads) {
  int rc = rvt_enter();
  if (rc || !out || blocks < 1) return rvt_rt(rc ? rc : RVT_E_INVALID_VALUE);
  size_t per_sm = (size_t)rvt_attribute(rvt_t.device, 81), limit = (size_t)rvt_attribute(rvt_t.device, 97);
  size_t share = per_sm / (size_t)blocks - 1024;
  *out = share < limit ? share : limit;
  return RVT_OK;
}

RVT_API int cudaOccupancyMaxActiveClusters(int *out, const void *func, const struct launch_config *c) {
  struct rvt_kernel *k = rvt_kernel_of_handle(func);
  int rc = rvt_enter();
  if (rc || !k || !out || !c) return rvt_rt(rc ? rc : RVT_E_INVALID_VALUE);
  int per_sm = rvt_occupancy(k, (int)(c->block.x * c->block.y * c->block.z), c->shared_bytes);
  *out = per_sm * rvt_attribute(rvt_t.device, 16);
  return RVT_OK;
}
RVT_API int cudaOccupancyMaxPotentialClusterSize(int *out, const void *func, const struct launch_config *c) {
  *out = 8;
  return RVT_OK;
}

/* ---- symbols ------------------------------------------------------------------------------------------------ */

static int symbol_address(const void *host, uint64_t *addr, size_t *bytes) {
  int rc = rvt_enter();
  if (rc) return rc;
  struct rvt_symbol *s = find_symbol(host);
  if (!s) return RVT_E_INVALID_SYMBOL;
  if (bytes) *bytes = s->bytes;
  return rvt_symbol_address(s, rvt_t.device, addr);
}

RVT_API int cudaGetSymbolAddress(void **out, const void *symbol) {
  uint64_t addr = 0;
  int rc = symbol_address(symbol, &addr, NULL);
  *out = (void *)addr;
  return rvt_rt(rc);
}
RVT_API int cudaGetSymbolSize(size_t *bytes, const void *symbol) {
  uint64_t addr;
  return rvt_rt(symbol_address(symbol, &addr, bytes));
}
RVT_API int cudaMemcpyToSymbol(const void *symbol, const void *from, size_t n, size_t offset, int kind) {
  uint64_t addr;
  int rc = symbol_address(symbol, &addr, NULL);
  return rvt_rt(rc ? rc : rvt_copy(addr + offset, (uint64_t)from, n, rvt_default_stream(), true));
}
RVT_API int cudaMemcpyToSymbolAsync(const void *symbol, const void *from, size_t n, size_t offset, int kind,
                                    void *stream) {
  uint64_t addr;
  int rc = symbol_address(symbol, &addr, NULL);
  return rvt_rt(rc ? rc : rvt_copy(addr + offset, (uint64_t)from, n, rvt_stream_resolve(stream), false));
}
RVT_API int cudaMemcpyFromSymbol(void *to, const void *symbol, size_t n, size_t offset, int kind) {
  uint64_t addr;
  int rc = symbol_address(symbol, &addr, NULL);
  return rvt_rt(rc ? rc : rvt_copy((uint64_t)to, addr + offset, n, rvt_default_stream(), true));
}
