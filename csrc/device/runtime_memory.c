/* CUDA runtime: memory, copies, pointers. */
#include <string.h>

#include "device/copy.h"

#define ENTER()                  \
  do {                           \
    int rc_ = rvt_enter();       \
    if (rc_) return rvt_rt(rc_); \
  } while (0)

RVT_API int cudaMalloc(void **out, size_t bytes) {
  ENTER();
  if (!out) return rvt_rt(RVT_E_INVALID_VALUE);
  *out = NULL;
  if (bytes == 0) return RVT_OK;
  int rc = rvt_capture_forbids();
  uint64_t addr = 0;
  rvt_host_cost(RVT_HOST_MALLOC);
  if (rc == RVT_OK) rc = rvt_alloc_device(rvt_t.device, bytes, RVT_ALLOC_DEVICE, &addr);
  *out = (void *)addr;
  return rvt_rt(rc);
}

/* Also waits for the device, as the real one does. */
RVT_API int cudaFree(void *p) {
  ENTER();
  if (!p) return RVT_OK;
  int rc = rvt_capture_forbids();
  if (rc) return rvt_rt(rc);
  struct rvt_alloc *a = rvt_alloc_find((uint64_t)p);
  if (!a) return rvt_rt(rvt_host_free(p)); /* managed memory */
  rvt_wait_device(a->device, "cudaFree");
  return rvt_rt(rvt_free_any((uint64_t)p));
}

RVT_API int cudaMallocPitch(void **out, size_t *pitch, size_t width, size_t height) {
  if (!out || !pitch) return rvt_rt(RVT_E_INVALID_VALUE);
  *pitch = (width + 511) & ~(size_t)511;
  return cudaMalloc(out, *pitch * height);
}

RVT_API int cudaMallocManaged(void **out, size_t bytes, unsigned flags) {
  ENTER();
  return rvt_rt(out ? rvt_host_alloc(bytes, RVT_ALLOC_MANAGED, out) : RVT_E_INVALID_VALUE);
}

RVT_API int cudaMemGetInfo(size_t *free_bytes, size_t *total) {
  ENTER();
  const struct rvt_gpu *gpu = rvt_dev(rvt_t.device)->info;
  uint64_t used = rvt_used_bytes(rvt_t.device);
  if (total) *total = gpu->total_bytes;
  if (free_bytes) *free_bytes = used < gpu->total_bytes ? gpu->total_bytes - used : 0;
  return RVT_OK;
}

/* ---- host memory ------------------------------------------------------------------------------------------ */

RVT_API int cudaHostAlloc(void **out, size_t bytes, unsigned flags) {
  ENTER();
  return rvt_rt(out ? rvt_host_alloc(bytes, RVT_ALLOC_HOST, out) : RVT_E_INVALID_VALUE);
}

RVT_API int cudaMallocHost(void **out, size_t bytes) { return cudaHostAlloc(out, bytes, 0); }

RVT_API int cudaFreeHost(void *p) {
  ENTER();
  return rvt_rt(rvt_host_free(p));
}

RVT_API int cudaHostRegister(void *p, size_t bytes, unsigned flags) {
  ENTER();
  return rvt_rt(rvt_host_register(p, bytes));
}

RVT_API int cudaHostUnregister(void *p) {
  ENTER();
  return rvt_rt(rvt_host_unregister(p));
}

RVT_API int cudaHostGetDevicePointer(void **out, void *host, unsigned flags) {
  ENTER();
  uint64_t base, bytes;
  int kind;
  if (!out || !rvt_host_range((uint64_t)host, &base, &bytes, &kind)) return rvt_rt(RVT_E_INVALID_VALUE);
  *out = host; /* one address space */
  return RVT_OK;
}

RVT_API int cudaHostGetFlags(unsigned *flags, void *host) {
  ENTER();
  *flags = 2; /* cudaHostAllocMapped */
  return RVT_OK;
}

struct pointer_attributes {
  int type; /* 0 unregistered, 1 host, 2 device, 3 managed */
  int device;
  void *device_pointer, *host_pointer;
  long reserved[8]; /* since CUDA 13 */
};

RVT_API int cudaPointerGetAttributes(struct pointer_attributes *out, const void *p) {
  int rc = rvt_init();
  if (rc) return rvt_rt(rc);
  if (!out) return rvt_rt(RVT_E_INVALID_VALUE);
  struct pointer_attributes a = {.type = 0, .device = -2, .host_pointer = (void *)p};
  uint64_t base, bytes;
  int kind;
  struct rvt_alloc *alloc = rvt_alloc_find((uint64_t)p);
  if (alloc) {
    a = (struct pointer_attributes){.type = 2, .device = alloc->device, .device_pointer = (void *)p};
  } else if (rvt_host_range((uint64_t)p, &base, &bytes, &kind)) {
    a = (struct pointer_attributes){.type = kind == RVT_ALLOC_MANAGED ? 3 : 1,
                                    .device = rvt_t.device,
                                    .device_pointer = (void *)p,
                                    .host_pointer = (void *)p};
  }
  memcpy(out, &a, rvt_cuda_major() >= 13 ? sizeof a : offsetof(struct pointer_attributes, reserved));
  return RVT_OK;
}

/* ---- copies ------------------------------------------------------------------------------------------------ */

RVT_API int cudaMemcpy(void *to, const void *from, size_t n, int kind) {
  ENTER();
  return rvt_rt(rvt_copy((uint64_t)to, (uint64_t)from, n, rvt_default_stream(), true));
}

RVT_API int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) {
  ENTER();
  return rvt_rt(rvt_copy((uint64_t)to, (uint64_t)from, n, rvt_stream_resolve(stream), false));
}

RVT_API int cudaMemcpyPeer(void *to, int to_device, const void *from, int from_device, size_t n) {
  ENTER();
  return rvt_rt(rvt_copy((uint64_t)to, (uint64_t)from, n, rvt_default_stream(), true));
}

RVT_API int cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t n, void *stream) {
  ENTER();
  return rvt_rt(rvt_copy((uint64_t)to, (uint64_t)from, n, rvt_stream_resolve(stream), false));
}

RVT_API int cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                         int kind) {
  ENTER();
  struct rvt_copy2d c = {(uint64_t)to, to_pitch, (uint64_t)from, from_pitch, width, height};
  return rvt_rt(rvt_copy_2d(&c, rvt_default_stream(), true));
}

RVT_API int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, int kind, void *stream) {
  ENTER();
  struct rvt_copy2d c = {(uint64_t)to, to_pitch, (uint64_t)from, from_pitch, width, height};
  return rvt_rt(rvt_copy_2d(&c, rvt_stream_resolve(stream), false));
}

/* cudaMemcpyBatchAsync of CUDA 13: no failing index, attributes only say how sources are accessed. */
RVT_API int cudaMemcpyBatchAsync(void *const *to, const void *const *from, const size_t *sizes, size_t count,
                                 void *attributes, size_t *attribute_index, size_t attribute_count, void *stream) {
  ENTER();
  struct rvt_stream *s = rvt_stream_resolve(stream);
  int rc = RVT_OK;
  for (size_t i = 0; i < count && rc == RVT_OK; i++)
    rc = rvt_copy((uint64_t)to[i], (uint64_t)from[i], sizes[i], s, false);
  return rvt_rt(rc);
}

RVT_API int cudaMemset(void *to, int value, size_t n) {
  ENTER();
  return rvt_rt(rvt_fill((uint64_t)to, (unsigned char)value, 1, n, rvt_default_stream(), true));
}

RVT_API int cudaMemsetAsync(void *to, int value, size_t n, void *stream) {
  ENTER();
  return rvt_rt(rvt_fill((uint64_t)to, (unsigned char)value, 1, n, rvt_stream_resolve(stream), false));
}

RVT_API int cudaMemset2D(void *to, size_t pitch, int value, size_t width, size_t height) {
  ENTER();
  return rvt_rt(rvt_fill_2d((uint64_t)to, pitch, (unsigned char)value, 1, width, height, rvt_default_stream(), true));
}

RVT_API int cudaMemset2DAsync(void *to, size_t pitch, int value, size_t width, size_t height, void *stream) {
  ENTER();
  return rvt_rt(
      rvt_fill_2d((uint64_t)to, pitch, (unsigned char)value, 1, width, height, rvt_stream_resolve(stream), false));
}

RVT_RECORDED int cudaMemAdvise(const void *p, size_t n, int advice, ...) { return RVT_OK; }
RVT_RECORDED int cudaMemPrefetchAsync(const void *p, size_t n, ...) { return RVT_OK; }
RVT_RECORDED int cudaStreamAttachMemAsync(void *stream, void *p, size_t n, unsigned flags) { return RVT_OK; }
