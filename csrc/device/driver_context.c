/* CUDA driver: initialisation, devices, contexts. */
#include <string.h>

#include "device/attributes.h"

#define INIT()            \
  do {                    \
    int rc_ = rvt_init(); \
    if (rc_) return rc_;  \
  } while (0)
#define DEVICE(d) \
  INIT();         \
  if (!rvt_valid_ordinal(d)) return RVT_E_INVALID_DEVICE

RVT_API int cuInit(unsigned flags) { return rvt_init(); }

RVT_API int cuDriverGetVersion(int *version) {
  struct rvt_device_page *page = rvt_devices();
  if (!version) return RVT_E_INVALID_VALUE;
  *version = page ? page->driver_version : 0;
  return page ? RVT_OK : RVT_E_NOT_INITIALIZED;
}

RVT_API int cuDeviceGetCount(int *count) {
  INIT();
  *count = rvt_g.count;
  return RVT_OK;
}
RVT_API int cuDeviceGet(int *device, int ordinal) {
  DEVICE(ordinal);
  *device = ordinal;
  return RVT_OK;
}
RVT_API int cuDeviceGetName(char *name, int room, int device) {
  DEVICE(device);
  if (!name || room < 1) return RVT_E_INVALID_VALUE;
  strncpy(name, rvt_dev(device)->info->name, (size_t)room - 1);
  name[room - 1] = 0;
  return RVT_OK;
}
RVT_API int cuDeviceGetUuid(unsigned char *uuid, int device) {
  DEVICE(device);
  rvt_uuid(device, uuid);
  return RVT_OK;
}
RVT_API int cuDeviceGetUuid_v2(unsigned char *uuid, int device) { return cuDeviceGetUuid(uuid, device); }
RVT_API int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  DEVICE(device);
  *bytes = rvt_dev(device)->info->total_bytes;
  return RVT_OK;
}
RVT_API int cuDeviceGetAttribute(int *value, int attribute, int device) {
  DEVICE(device);
  if (!value || attribute <= 0 || attribute >= RVT_MAX_ATTRS) return RVT_E_INVALID_VALUE;
  *value = rvt_attribute(device, attribute);
  return RVT_OK;
}
RVT_API int cuDeviceComputeCapability(int *major, int *minor, int device) {
  DEVICE(device);
  *major = rvt_attribute(device, 75);
  *minor = rvt_attribute(device, 76);
  return RVT_OK;
}
RVT_API int cuDeviceGetPCIBusId(char *out, int room, int device) {
  DEVICE(device);
  rvt_pci_text(device, out, (size_t)room);
  return RVT_OK;
}
RVT_API int cuDeviceCanAccessPeer(int *can, int device, int peer) {
  DEVICE(device);
  DEVICE(peer);
  *can = rvt_peers(device, peer);
  return RVT_OK;
}
RVT_API int cuDeviceGetP2PAttribute(int *value, int attribute, int from, int to) {
  extern int cudaDeviceGetP2PAttribute(int *, int, int, int);
  return cudaDeviceGetP2PAttribute(value, attribute, from, to);
}
RVT_API int cuDeviceGetExecAffinitySupport(int *supported, int type, int device) {
  DEVICE(device);
  *supported = 0;
  return RVT_OK;
}

/* ---- contexts: the primary one of each device, plus explicitly created ones ---------------------------------- */

static int current_device_of(struct rvt_context *ctx) { return ctx ? ctx->device : -1; }

static int make_current(struct rvt_context *ctx) {
  rvt_t.ctx = ctx;
  if (!ctx) return RVT_OK;
  rvt_t.device = ctx->device;
  return rvt_activate(ctx->device);
}

static bool valid_context(const struct rvt_context *ctx) { return ctx && ctx->magic == RVT_MAGIC_CONTEXT; }

RVT_API int cuDevicePrimaryCtxRetain(struct rvt_context **out, int device) {
  DEVICE(device);
  atomic_fetch_add(&rvt_dev(device)->primary.retained, 1);
  *out = &rvt_dev(device)->primary;
  return rvt_activate(device);
}
RVT_API int cuDevicePrimaryCtxRelease_v2(int device) {
  DEVICE(device);
  return RVT_OK; /* the runtime keeps its context for the life of the process */
}
RVT_API int cuDevicePrimaryCtxReset_v2(int device) {
  DEVICE(device);
  return RVT_OK;
}
RVT_API int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
  DEVICE(device);
  rvt_dev(device)->primary.flags = flags;
  return RVT_OK;
}
RVT_API int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
  DEVICE(device);
  if (flags) *flags = rvt_dev(device)->primary.flags;
  if (active) *active = atomic_load(&rvt_dev(device)->active);
  return RVT_OK;
}

static int context_create(struct rvt_context **out, unsigned flags, int device) {
  DEVICE(device);
  struct rvt_context *ctx = rvt_persist(sizeof *ctx);
  if (!ctx) return RVT_E_OUT_OF_MEMORY;
  *ctx = (struct rvt_context){.magic = RVT_MAGIC_CONTEXT, .device = device, .flags = flags, .retained = 1};
  *out = ctx;
  if (rvt_t.ctx_depth < RVT_CTX_DEPTH) rvt_t.ctx_stack[rvt_t.ctx_depth++] = rvt_t.ctx;
  return make_current(ctx);
}
RVT_API int cuCtxCreate_v2(struct rvt_context **out, unsigned flags, int device) {
  return context_create(out, flags, device);
}
RVT_API int cuCtxCreate_v3(struct rvt_context **out, void *affinity, int n, unsigned flags, int device) {
  return context_create(out, flags, device);
}
RVT_API int cuCtxCreate_v4(struct rvt_context **out, void *params, unsigned flags, int device) {
  return context_create(out, flags, device);
}
RVT_API int cuCtxDestroy_v2(struct rvt_context *ctx) {
  if (!valid_context(ctx) || ctx->primary) return RVT_E_INVALID_CONTEXT;
  if (rvt_t.ctx == ctx) rvt_t.ctx = rvt_t.ctx_depth ? rvt_t.ctx_stack[--rvt_t.ctx_depth] : NULL;
  ctx->magic = 0;
  return RVT_OK;
}

RVT_API int cuCtxGetCurrent(struct rvt_context **out) {
  INIT();
  *out = rvt_t.ctx;
  return RVT_OK;
}
RVT_API int cuCtxSetCurrent(struct rvt_context *ctx) {
  INIT();
  return !ctx || valid_context(ctx) ? make_current(ctx) : RVT_E_INVALID_CONTEXT;
}
RVT_API int cuCtxPushCurrent_v2(struct rvt_context *ctx) {
  INIT();
  if (!valid_context(ctx)) return RVT_E_INVALID_CONTEXT;
  if (rvt_t.ctx_depth >= RVT_CTX_DEPTH) return RVT_E_OUT_OF_MEMORY;
  rvt_t.ctx_stack[rvt_t.ctx_depth++] = rvt_t.ctx;
  return make_current(ctx);
}
RVT_API int cuCtxPopCurrent_v2(struct rvt_context **out) {
  INIT();
  if (!rvt_t.ctx) return RVT_E_INVALID_CONTEXT;
  if (out) *out = rvt_t.ctx;
  return make_current(rvt_t.ctx_depth ? rvt_t.ctx_stack[--rvt_t.ctx_depth] : NULL);
}
RVT_API int cuCtxGetDevice(int *device) {
  INIT();
  if (!rvt_t.ctx) return RVT_E_INVALID_CONTEXT;
  *device = current_device_of(rvt_t.ctx);
  return RVT_OK;
}
RVT_API int cuCtxGetDevice_v2(int *device, struct rvt_context *ctx) {
  INIT();
  if (ctx && !valid_context(ctx)) return RVT_E_INVALID_CONTEXT;
  if (!ctx) return cuCtxGetDevice(device);
  *device = ctx->device;
  return RVT_OK;
}
RVT_API int cuCtxGetFlags(unsigned *flags) {
  if (!rvt_t.ctx) return RVT_E_INVALID_CONTEXT;
  *flags = rvt_t.ctx->flags;
  return RVT_OK;
}
RVT_API int cuCtxGetId(struct rvt_context *ctx, unsigned long long *id) {
  if (!ctx) ctx = rvt_t.ctx;
  if (!valid_context(ctx)) return RVT_E_INVALID_CONTEXT;
  *id = ctx->primary ? (unsigned long long)ctx->device + 1 : (unsigned long long)(uintptr_t)ctx;
  return RVT_OK;
}
RVT_API int cuCtxGetApiVersion(struct rvt_context *ctx, unsigned *version) {
  *version = 3020;
  return RVT_OK;
}
RVT_API int cuCtxSynchronize(void) {
  int rc = rvt_enter();
  if (rc == RVT_OK) rc = rvt_capture_forbids();
  return rc ? rc : rvt_wait_device(rvt_t.device, "cuCtxSynchronize");
}
RVT_API int cuCtxGetLimit(size_t *value, int limit) {
  int rc = rvt_enter();
  if (rc) return rc;
  if (!value || limit < 0 || limit >= 16) return RVT_E_INVALID_VALUE;
  *value = rvt_dev(rvt_t.device)->limits[limit];
  return RVT_OK;
}
RVT_API int cuCtxSetLimit(int limit, size_t value) {
  int rc = rvt_enter();
  if (rc) return rc;
  if (limit < 0 || limit >= 16) return RVT_E_INVALID_VALUE;
  rvt_dev(rvt_t.device)->limits[limit] = value;
  return RVT_OK;
}
RVT_RECORDED int cuCtxSetCacheConfig(int config) { return RVT_OK; }
RVT_RECORDED int cuCtxSetSharedMemConfig(int config) { return RVT_OK; }
RVT_API int cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return rvt_init();
}
RVT_API int cuCtxEnablePeerAccess(struct rvt_context *peer, unsigned flags) {
  extern int cudaDeviceEnablePeerAccess(int, unsigned);
  if (!valid_context(peer)) return RVT_E_INVALID_CONTEXT;
  return cudaDeviceEnablePeerAccess(peer->device, flags);
}
RVT_API int cuCtxDisablePeerAccess(struct rvt_context *peer) {
  extern int cudaDeviceDisablePeerAccess(int);
  if (!valid_context(peer)) return RVT_E_INVALID_CONTEXT;
  return cudaDeviceDisablePeerAccess(peer->device);
}
RVT_RECORDED int cuProfilerStart(void) { return RVT_OK; }
RVT_RECORDED int cuProfilerStop(void) { return RVT_OK; }
