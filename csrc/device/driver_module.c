/* CUDA driver and runtime: modules, libraries, functions, launches. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/attributes.h"
#include "device/func.h"
#include "device/module.h"

static int kernel_from_handle(void *handle, struct rvt_kernel **out) {
  struct rvt_kernel *k = handle;
  if (!k || k->magic != RVT_MAGIC_KERNEL) return RVT_E_INVALID_HANDLE;
  *out = k;
  return RVT_OK;
}

/* ---- modules and libraries ---------------------------------------------------------------------------------- */

static int load(struct rvt_module **out, const void *image, bool library) {
  int rc = rvt_enter();
  return rc ? rc : rvt_module_load(image, library, out);
}

/* Module images are read once; only names and sizes are kept. */
static int load_file(struct rvt_module **out, const char *path, bool library) {
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  struct stat st;
  if (fd < 0) return 301; /* CUDA_ERROR_FILE_NOT_FOUND */
  int rc = RVT_E_INVALID_IMAGE;
  if (fstat(fd, &st) == 0 && st.st_size > 64) {
    void *image = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (image != MAP_FAILED) {
      rc = load(out, image, library);
      munmap(image, (size_t)st.st_size);
    }
  }
  close(fd);
  return rc;
}

RVT_API int cuModuleLoadData(struct rvt_module **out, const void *image) { return load(out, image, false); }
RVT_API int cuModuleLoadDataEx(struct rvt_module **out, const void *image, unsigned n, int *options, void **values) {
  return load(out, image, false);
}
RVT_API int cuModuleLoadFatBinary(struct rvt_module **out, const void *image) { return load(out, image, false); }
RVT_API int cuModuleLoad(struct rvt_module **out, const char *path) { return load_file(out, path, false); }
RVT_API int cuModuleUnload(struct rvt_module *m) { return rvt_module_unload(m); }
RVT_API int cuModuleGetFunction(struct rvt_kernel **out, struct rvt_module *m, const char *name) {
  return rvt_module_kernel(m, name, out);
}
RVT_API int cuModuleGetLoadingMode(int *mode) {
  *mode = 2; /* lazy */
  return RVT_OK;
}

static int global(uint64_t *addr, size_t *bytes, struct rvt_module *m, const char *name) {
  struct rvt_symbol *s;
  uint64_t at = 0;
  int rc = rvt_module_symbol(m, name, &s);
  if (rc == RVT_OK) rc = rvt_symbol_address(s, rvt_t.device, &at);
  if (rc) return rc;
  if (addr) *addr = at;
  if (bytes) *bytes = s->bytes;
  return RVT_OK;
}
RVT_API int cuModuleGetGlobal_v2(uint64_t *addr, size_t *bytes, struct rvt_module *m, const char *name) {
  return global(addr, bytes, m, name);
}

RVT_API int cuLibraryLoadData(struct rvt_module **out, const void *image, int *jit, void **jit_values, unsigned n_jit,
                              int *options, void **values, unsigned n) {
  return load(out, image, true);
}
RVT_API int cuLibraryLoadFromFile(struct rvt_module **out, const char *path, int *jit, void **jit_values,
                                  unsigned n_jit, int *options, void **values, unsigned n) {
  return load_file(out, path, true);
}
RVT_API int cuLibraryUnload(struct rvt_module *m) { return rvt_module_unload(m); }
RVT_API int cuLibraryGetKernel(struct rvt_kernel **out, struct rvt_module *m, const char *name) {
  return rvt_module_kernel(m, name, out);
}
RVT_API int cuLibraryGetModule(struct rvt_module **out, struct rvt_module *m) {
  *out = m;
  return RVT_OK;
}
RVT_API int cuLibraryGetGlobal(uint64_t *addr, size_t *bytes, struct rvt_module *m, const char *name) {
  return global(addr, bytes, m, name);
}
RVT_API int cuKernelGetFunction(struct rvt_kernel **out, struct rvt_kernel *k) { return kernel_from_handle(k, out); }

static int list_kernels(struct rvt_kernel **out, unsigned room, struct rvt_module *m) {
  unsigned n = 0;
  for (struct rvt_kernel *k = m->kernels; k && n < room; k = (struct rvt_kernel *)k->next) out[n++] = k;
  return RVT_OK;
}
static int count_kernels(unsigned *count, struct rvt_module *m) {
  *count = 0;
  for (struct rvt_kernel *k = m->kernels; k; k = (struct rvt_kernel *)k->next) ++*count;
  return RVT_OK;
}
RVT_API int cuLibraryGetKernelCount(unsigned *count, struct rvt_module *m) { return count_kernels(count, m); }
RVT_API int cuLibraryEnumerateKernels(struct rvt_kernel **out, unsigned room, struct rvt_module *m) {
  return list_kernels(out, room, m);
}
RVT_API int cuModuleGetFunctionCount(unsigned *count, struct rvt_module *m) { return count_kernels(count, m); }
RVT_API int cuModuleEnumerateFunctions(struct rvt_kernel **out, unsigned room, struct rvt_module *m) {
  return list_kernels(out, room, m);
}

RVT_API int cudaLibraryLoadData(struct rvt_module **out, const void *image, int *jit, void **jit_values, unsigned n_jit,
                                int *options, void **values, unsigned n) {
  return rvt_rt(load(out, image, true));
}
RVT_API int cudaLibraryLoadFromFile(struct rvt_module **out, const char *path, int *jit, void **jit_values,
                                    unsigned n_jit, int *options, void **values, unsigned n) {
  return rvt_rt(load_file(out, path, true));
}
RVT_API int cudaLibraryUnload(struct rvt_module *m) { return rvt_rt(rvt_module_unload(m)); }
RVT_API int cudaLibraryGetKernel(struct rvt_kernel **out, struct rvt_module *m, const char *name) {
  return rvt_rt(rvt_module_kernel(m, name, out));
}
RVT_API int cudaLibraryGetGlobal(uint64_t *addr, size_t *bytes, struct rvt_module *m, const char *name) {
  return rvt_rt(global(addr, bytes, m, name));
}
RVT_API int cudaLibraryGetKernelCount(unsigned *count, struct rvt_module *m) { return count_kernels(count, m); }
RVT_API int cudaLibraryEnumerateKernels(struct rvt_kernel **out, unsigned room, struct rvt_module *m) {
  return list_kernels(out, room, m);
}

/* ---- functions ---------------------------------------------------------------------------------------------- */

RVT_API int cuFuncGetAttribute(int *value, int attribute, void *func) {
  struct rvt_kernel *k;
  int rc = kernel_from_handle(func, &k);
  return rc ? rc : rvt_func_get(k, attribute, value);
}
RVT_API int cuFuncSetAttribute(void *func, int attribute, int value) {
  struct rvt_kernel *k;
  int rc = kernel_from_handle(func, &k);
  return rc ? rc : rvt_func_set(k, attribute, value);
}
RVT_API int cuKernelGetAttribute(int *value, int attribute, void *kernel, int device) {
  return cuFuncGetAttribute(value, attribute, kernel);
}
RVT_API int cuKernelSetAttribute(int attribute, int value, void *kernel, int device) {
  return cuFuncSetAttribute(kernel, attribute, value);
}
RVT_API int cudaKernelSetAttributeForDevice(void *kernel, int attribute, int value, int device) {
  return rvt_rt(cuFuncSetAttribute(kernel, attribute, value));
}
RVT_RECORDED int cuFuncSetCacheConfig(void *func, int config) { return RVT_OK; }
RVT_RECORDED int cuKernelSetCacheConfig(void *kernel, int config, int device) { return RVT_OK; }
RVT_RECORDED int cuFuncSetSharedMemConfig(void *func, int config) { return RVT_OK; }
RVT_RECORDED int cuFuncLoad(void *func) { return RVT_OK; }
RVT_API int cuFuncIsLoaded(int *state, void *func) {
  *state = 1;
  return RVT_OK;
}
RVT_API int cuFuncGetName(const char **name, void *func) {
  struct rvt_kernel *k;
  int rc = kernel_from_handle(func, &k);
  if (rc == RVT_OK) *name = k->name;
  return rc;
}
RVT_API int cuKernelGetName(const char **name, void *kernel) { return cuFuncGetName(name, kernel); }
RVT_API int cuFuncGetModule(struct rvt_module **out, void *func) {
  struct rvt_kernel *k;
  int rc = kernel_from_handle(func, &k);
  if (rc == RVT_OK) *out = k->module;
  return rc;
}
RVT_API int cuKernelGetLibrary(struct rvt_module **out, void *kernel) { return cuFuncGetModule(out, kernel); }
RVT_API int cuFuncGetParamInfo(void *func, size_t index, size_t *offset, size_t *bytes) {
  struct rvt_kernel *k;
  int rc = kernel_from_handle(func, &k);
  return rc ? rc : rvt_func_param(k, index, offset, bytes);
}
RVT_API int cuKernelGetParamInfo(void *kernel, size_t index, size_t *offset, size_t *bytes) {
  return cuFuncGetParamInfo(kernel, index, offset, bytes);
}

RVT_API int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *out, void *func, int threads, size_t shared,
                                                                 unsigned flags) {
  struct rvt_kernel *k;
  int rc = kernel_from_handle(func, &k);
  if (rc == RVT_OK) *out = rvt_occupancy(k, threads, shared);
  return rc;
}
RVT_API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, void *func, int threads, size_t shared) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out, func, threads, shared, 0);
}

/* ---- launches ------------------------------------------------------------------------------------------------ */

struct launch_config {
  uint32_t grid[3], block[3];
  unsigned shared_bytes;
  void *stream, *attributes;
  unsigned attribute_count;
};

RVT_API int cuOccupancyMaxActiveClusters(int *out, void *func, const struct launch_config *c) {
  struct rvt_kernel *k;
  int rc = kernel_from_handle(func, &k);
  if (rc) return rc;
  int per_sm = rvt_occupancy(k, (int)(c->block[0] * c->block[1] * c->block[2]), c->shared_bytes);
  *out = per_sm * rvt_attribute(rvt_t.device, 16);
  return RVT_OK;
}

/* Parameters given as one packed buffer: (void *)1, buffer, (void *)2, &bytes, NULL. */
static int launch(void *func, const uint32_t grid[3], const uint32_t block[3], unsigned shared_bytes, void *stream,
                  void **params, void **extra) {
  struct rvt_kernel *k;
  void *unpacked[RVT_MAX_KERNEL_PARAMS];
  int rc = rvt_enter();
  if (rc == RVT_OK) rc = kernel_from_handle(func, &k);
  if (rc) return rc;
  if (!params && extra) {
    const char *buffer = NULL;
    for (int i = 0; extra[i]; i += 2)
      if (extra[i] == (void *)1) buffer = extra[i + 1];
    rvt_kernel_resolve(k);
    if (buffer && k->param_count > 0) {
      for (int i = 0; i < k->param_count; i++) unpacked[i] = (void *)(buffer + k->params[i].offset);
      params = unpacked;
    }
  }
  return rvt_launch_kernel(k, grid, block, shared_bytes, rvt_stream_resolve(stream), params);
}

RVT_API int cuLaunchKernel(void *func, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                           unsigned shared_bytes, void *stream, void **params, void **extra) {
  return launch(func, (uint32_t[3]){gx, gy, gz}, (uint32_t[3]){bx, by, bz}, shared_bytes, stream, params, extra);
}
RVT_API int cuLaunchKernelEx(const struct launch_config *c, void *func, void **params, void **extra) {
  return launch(func, c->grid, c->block, c->shared_bytes, c->stream, params, extra);
}
RVT_API int cuLaunchCooperativeKernel(void *func, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                      unsigned bz, unsigned shared_bytes, void *stream, void **params) {
  return launch(func, (uint32_t[3]){gx, gy, gz}, (uint32_t[3]){bx, by, bz}, shared_bytes, stream, params, NULL);
}

/* ---- tensor maps --------------------------------------------------------------------------------------------- */

/* The 128 opaque bytes are only read by kernels, which do not run: the address is kept for whoever looks. */
RVT_API int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *address, const uint64_t *dim,
                                   const uint64_t *strides, const unsigned *box, const unsigned *element_strides,
                                   int interleave, int swizzle, int promotion, int fill) {
  if (!map || rank < 1 || rank > 5) return RVT_E_INVALID_VALUE;
  memset(map, 0, 128);
  memcpy(map, &address, sizeof address);
  return RVT_OK;
}
RVT_API int cuTensorMapEncodeIm2col(void *map, int type, unsigned rank, void *address, ...) {
  if (!map) return RVT_E_INVALID_VALUE;
  memset(map, 0, 128);
  memcpy(map, &address, sizeof address);
  return RVT_OK;
}
RVT_API int cuTensorMapReplaceAddress(void *map, void *address) {
  memcpy(map, &address, sizeof address);
  return RVT_OK;
}
