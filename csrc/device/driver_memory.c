/* CUDA driver: memory, copies, pointer attributes. */
#include <string.h>

#include "device/copy.h"

#define ENTER()            \
  do {                     \
    int rc_ = rvt_enter(); \
    if (rc_) return rc_;   \
  } while (0)

extern int cudaMalloc(void **, size_t), cudaFree(void *), cudaMemGetInfo(size_t *, size_t *);

RVT_API int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { return cudaMemGetInfo(free_bytes, total); }
RVT_API int cuMemAlloc_v2(uint64_t *out, size_t bytes) {
  if (!bytes) return RVT_E_INVALID_VALUE;
  return cudaMalloc((void **)out, bytes);
}
RVT_API int cuMemFree_v2(uint64_t p) { return cudaFree((void *)p); }
RVT_API int cuMemAllocPitch_v2(uint64_t *out, size_t *pitch, size_t width, size_t height, unsigned element) {
  *pitch = (width + 511) & ~(size_t)511;
  return cudaMalloc((void **)out, *pitch * height);
}
RVT_API int cuMemAllocManaged(uint64_t *out, size_t bytes, unsigned flags) {
  ENTER();
  return rvt_host_alloc(bytes, RVT_ALLOC_MANAGED, (void **)out);
}
RVT_API int cuMemAllocHost_v2(void **out, size_t bytes) {
  ENTER();
  return rvt_host_alloc(bytes, RVT_ALLOC_HOST, out);
}
RVT_API int cuMemHostAlloc(void **out, size_t bytes, unsigned flags) { return cuMemAllocHost_v2(out, bytes); }
RVT_API int cuMemFreeHost(void *p) { return rvt_host_free(p); }
RVT_API int cuMemHostRegister_v2(void *p, size_t bytes, unsigned flags) {
  ENTER();
  return rvt_host_register(p, bytes);
}
RVT_API int cuMemHostUnregister(void *p) { return rvt_host_unregister(p); }
RVT_API int cuMemHostGetDevicePointer_v2(uint64_t *out, void *p, unsigned flags) {
  uint64_t base, bytes;
  int kind;
  if (!rvt_host_range((uint64_t)p, &base, &bytes, &kind)) return RVT_E_INVALID_VALUE;
  *out = (uint64_t)p;
  return RVT_OK;
}
RVT_API int cuMemHostGetFlags(unsigned *flags, void *p) {
  *flags = 2;
  return RVT_OK;
}
RVT_API int cuMemGetAddressRange_v2(uint64_t *base, size_t *bytes, uint64_t p) {
  struct rvt_alloc *a = rvt_alloc_find(p);
  if (!a) return RVT_E_NOT_FOUND;
  if (base) *base = a->base;
  if (bytes) *bytes = a->bytes;
  return RVT_OK;
}

/* ---- pointer attributes -------------------------------------------------------------------------------------- */

enum {
  P_CONTEXT = 1,
  P_TYPE = 2,
  P_DEVICE_POINTER = 3,
  P_HOST_POINTER = 4,
  P_SYNC = 6,
  P_BUFFER_ID = 7,
  P_MANAGED = 8,
  P_ORDINAL = 9,
  P_LEGACY_IPC = 10,
  P_START = 11,
  P_SIZE = 12,
  P_MAPPED = 13,
  P_HANDLE_TYPES = 14,
  P_RDMA = 15,
  P_ACCESS = 16,
  P_POOL = 17,
  P_MAP_SIZE = 18,
  P_MAP_BASE = 19,
};

static int pointer_attribute(void *out, int attribute, uint64_t p) {
  struct rvt_alloc *a = rvt_alloc_find(p);
  uint64_t base = 0, bytes = 0;
  int kind = -1;
  bool host = !a && rvt_host_range(p, &base, &bytes, &kind);
  if (!a && !host) return RVT_E_INVALID_VALUE;
  if (a) base = a->base, bytes = a->bytes;
  int device = a ? a->device : rvt_t.device;
  switch (attribute) {
  case P_CONTEXT: *(void **)out = &rvt_dev(device)->primary; break;
  case P_TYPE: *(unsigned *)out = a || kind == RVT_ALLOC_MANAGED ? 2 : 1; break;
  case P_DEVICE_POINTER: *(uint64_t *)out = p; break;
  case P_HOST_POINTER:
    if (a) return RVT_E_INVALID_VALUE;
    *(uint64_t *)out = p;
    break;
  case P_SYNC: *(unsigned *)out = 0; break;
  case P_BUFFER_ID: *(uint64_t *)out = a ? a->id : base; break;
  case P_MANAGED: *(unsigned *)out = kind == RVT_ALLOC_MANAGED; break;
  case P_ORDINAL: *(int *)out = device; break;
  case P_LEGACY_IPC: *(unsigned *)out = a && a->kind == RVT_ALLOC_DEVICE; break;
  case P_START:
  case P_MAP_BASE: *(uint64_t *)out = base; break;
  case P_SIZE:
  case P_MAP_SIZE: *(size_t *)out = bytes; break;
  case P_MAPPED: *(unsigned *)out = 1; break;
  case P_HANDLE_TYPES: *(uint64_t *)out = a && a->kind == RVT_ALLOC_VMM ? 1 : 0; break;
  case P_RDMA: *(unsigned *)out = 1; break;
  case P_ACCESS: *(unsigned *)out = 3; break;
  case P_POOL: *(void **)out = a ? a->pool : NULL; break;
  default: return RVT_E_INVALID_VALUE;
  }
  return RVT_OK;
}

RVT_API int cuPointerGetAttribute(void *out, int attribute, uint64_t p) {
  int rc = rvt_init();
  return rc ? rc : out ? pointer_attribute(out, attribute, p) : RVT_E_INVALID_VALUE;
}
RVT_API int cuPointerGetAttributes(unsigned n, const int *attributes, void **out, uint64_t p) {
  int rc = rvt_init();
  static const uint8_t size[] = {0, 8, 4, 8, 8, 16, 4, 8, 4, 4, 4, 8, 8, 4, 8, 4, 4, 8, 8, 8};
  for (unsigned i = 0; i < n && rc == RVT_OK; i++) /* Unknown pointers answer zeros here, unlike the single call. */
    if (pointer_attribute(out[i], attributes[i], p) && attributes[i] > 0 && attributes[i] < (int)sizeof size) {
      memset(out[i], 0, size[attributes[i]]);
      if (attributes[i] == P_ORDINAL) *(int *)out[i] = -2;
    }
  return rc;
}
RVT_RECORDED int cuPointerSetAttribute(const void *value, int attribute, uint64_t p) { return RVT_OK; }

/* ---- copies --------------------------------------------------------------------------------------------------- */

#define COPY_SYNC(to, from, n) \
  ENTER();                     \
  return rvt_copy((uint64_t)(to), (uint64_t)(from), n, rvt_default_stream(), true)
#define COPY_ASYNC(to, from, n) \
  ENTER();                      \
  return rvt_copy((uint64_t)(to), (uint64_t)(from), n, rvt_stream_resolve(stream), false)

RVT_API int cuMemcpy(uint64_t to, uint64_t from, size_t n) { COPY_SYNC(to, from, n); }
RVT_API int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t n) { COPY_SYNC(to, from, n); }
RVT_API int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t n) { COPY_SYNC(to, from, n); }
RVT_API int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t n) { COPY_SYNC(to, from, n); }
RVT_API int cuMemcpyAsync(uint64_t to, uint64_t from, size_t n, void *stream) { COPY_ASYNC(to, from, n); }
RVT_API int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *stream) { COPY_ASYNC(to, from, n); }
RVT_API int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *stream) { COPY_ASYNC(to, from, n); }
RVT_API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void *stream) { COPY_ASYNC(to, from, n); }
RVT_API int cuMemcpyPeer(uint64_t to, void *to_ctx, uint64_t from, void *from_ctx, size_t n) { COPY_SYNC(to, from, n); }
RVT_API int cuMemcpyPeerAsync(uint64_t to, void *to_ctx, uint64_t from, void *from_ctx, size_t n, void *stream) {
  COPY_ASYNC(to, from, n);
}

struct memcpy2d { /* CUDA_MEMCPY2D */
  size_t from_x, from_y;
  unsigned from_type;
  const void *from_host;
  uint64_t from_device;
  void *from_array;
  size_t from_pitch, to_x, to_y;
  unsigned to_type;
  void *to_host;
  uint64_t to_device;
  void *to_array;
  size_t to_pitch, width, height;
};

static int copy_2d(const struct memcpy2d *m, void *stream, bool sync) {
  ENTER();
  if (!m || m->from_type == 3 || m->to_type == 3) return RVT_E_NOT_SUPPORTED; /* CUDA arrays */
  struct rvt_copy2d c = {.to_pitch = m->to_pitch, .from_pitch = m->from_pitch, .width = m->width, .height = m->height};
  c.from = (m->from_type == 1 ? (uint64_t)m->from_host : m->from_device) + m->from_y * m->from_pitch + m->from_x;
  c.to = (m->to_type == 1 ? (uint64_t)m->to_host : m->to_device) + m->to_y * m->to_pitch + m->to_x;
  return rvt_copy_2d(&c, sync ? rvt_default_stream() : rvt_stream_resolve(stream), sync);
}
RVT_API int cuMemcpy2D_v2(const struct memcpy2d *m) { return copy_2d(m, NULL, true); }
RVT_API int cuMemcpy2DUnaligned_v2(const struct memcpy2d *m) { return copy_2d(m, NULL, true); }
RVT_API int cuMemcpy2DAsync_v2(const struct memcpy2d *m, void *stream) { return copy_2d(m, stream, false); }

/* ---- memset ---------------------------------------------------------------------------------------------------- */

#define FILL_SYNC(to, v, bytes, n) \
  ENTER();                         \
  return rvt_fill(to, v, bytes, (n) * (bytes), rvt_default_stream(), true)
#define FILL_ASYNC(to, v, bytes, n) \
  ENTER();                          \
  return rvt_fill(to, v, bytes, (n) * (bytes), rvt_stream_resolve(stream), false)

RVT_API int cuMemsetD8_v2(uint64_t to, unsigned char v, size_t n) { FILL_SYNC(to, v, 1, n); }
RVT_API int cuMemsetD16_v2(uint64_t to, unsigned short v, size_t n) { FILL_SYNC(to, v, 2, n); }
RVT_API int cuMemsetD32_v2(uint64_t to, unsigned v, size_t n) { FILL_SYNC(to, v, 4, n); }
RVT_API int cuMemsetD8Async(uint64_t to, unsigned char v, size_t n, void *stream) { FILL_ASYNC(to, v, 1, n); }
RVT_API int cuMemsetD16Async(uint64_t to, unsigned short v, size_t n, void *stream) { FILL_ASYNC(to, v, 2, n); }
RVT_API int cuMemsetD32Async(uint64_t to, unsigned v, size_t n, void *stream) { FILL_ASYNC(to, v, 4, n); }

static int fill_2d(uint64_t to, size_t pitch, uint64_t v, size_t bytes, size_t width, size_t height, void *stream,
                   bool sync) {
  ENTER();
  return rvt_fill_2d(to, pitch, v, bytes, width * bytes, height,
                     sync ? rvt_default_stream() : rvt_stream_resolve(stream), sync);
}
RVT_API int cuMemsetD2D8_v2(uint64_t to, size_t pitch, unsigned char v, size_t w, size_t h) {
  return fill_2d(to, pitch, v, 1, w, h, NULL, true);
}
RVT_API int cuMemsetD2D32_v2(uint64_t to, size_t pitch, unsigned v, size_t w, size_t h) {
  return fill_2d(to, pitch, v, 4, w, h, NULL, true);
}
RVT_API int cuMemsetD2D8Async(uint64_t to, size_t pitch, unsigned char v, size_t w, size_t h, void *stream) {
  return fill_2d(to, pitch, v, 1, w, h, stream, false);
}
RVT_API int cuMemsetD2D32Async(uint64_t to, size_t pitch, unsigned v, size_t w, size_t h, void *stream) {
  return fill_2d(to, pitch, v, 4, w, h, stream, false);
}
