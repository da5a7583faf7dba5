/* CUDA runtime: devices, properties, peers, limits. */
#include <string.h>

#include "device/attributes.h"

#define CHECK_ORDINAL(d)                                            \
  do {                                                              \
    int rc_ = rvt_init();                                           \
    if (rc_) return rvt_rt(rc_);                                    \
    if (!rvt_valid_ordinal(d)) return rvt_rt(RVT_E_INVALID_DEVICE); \
  } while (0)

RVT_API int cudaGetDeviceCount(int *count) {
  if (!count) return rvt_rt(RVT_E_INVALID_VALUE);
  int rc = rvt_init();
  *count = rc ? 0 : rvt_g.count;
  return rvt_rt(rc);
}

RVT_API int cudaGetDevice(int *device) {
  if (RVT_UNLIKELY(!device)) return rvt_rt(RVT_E_INVALID_VALUE);
  int rc = rvt_init();
  if (RVT_UNLIKELY(rc)) return rvt_rt(rc);
  *device = rvt_t.device;
  return RVT_OK;
}

RVT_API int cudaSetDevice(int device) {
  CHECK_ORDINAL(device);
  rvt_t.device = device;
  rvt_t.ctx = &rvt_dev(device)->primary;
  return rvt_rt(rvt_activate(device));
}

RVT_API int cudaInitDevice(int device, unsigned device_flags, unsigned flags) {
  CHECK_ORDINAL(device);
  return rvt_rt(rvt_activate(device));
}

RVT_API int cudaSetValidDevices(int *devices, int n) { return rvt_rt(n < 0 ? RVT_E_INVALID_VALUE : rvt_init()); }

RVT_API int cudaSetDeviceFlags(unsigned flags) {
  int rc = rvt_init();
  if (rc == RVT_OK) rvt_dev(rvt_t.device)->primary.flags = flags;
  return rvt_rt(rc);
}

RVT_API int cudaGetDeviceFlags(unsigned *flags) {
  int rc = rvt_init();
  if (rc == RVT_OK) *flags = rvt_dev(rvt_t.device)->primary.flags | 8; /* cudaDeviceMapHost is always on */
  return rvt_rt(rc);
}

RVT_API int cudaChooseDevice(int *device, const void *prop) {
  int rc = rvt_init();
  if (rc == RVT_OK) *device = 0;
  return rvt_rt(rc);
}

/* CUDA 13's name and layout; in CUDA 12 this symbol is the structure of CUDA 11, which nothing built since asks for. */
RVT_API int cudaGetDeviceProperties(void *prop, int device) {
  CHECK_ORDINAL(device);
  if (!prop) return rvt_rt(RVT_E_INVALID_VALUE);
  rvt_device_prop(device, 13, prop);
  return RVT_OK;
}

RVT_API int cudaGetDeviceProperties_v2(void *prop, int device) {
  CHECK_ORDINAL(device);
  if (!prop) return rvt_rt(RVT_E_INVALID_VALUE);
  rvt_device_prop(device, 12, prop);
  return RVT_OK;
}

RVT_API int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  CHECK_ORDINAL(device);
  if (!value || attribute <= 0 || attribute >= RVT_MAX_ATTRS) return rvt_rt(RVT_E_INVALID_VALUE);
  *value = rvt_attribute(device, attribute);
  return RVT_OK;
}

RVT_API int cudaDeviceGetPCIBusId(char *out, int room, int device) {
  CHECK_ORDINAL(device);
  if (!out || room < 13) return rvt_rt(RVT_E_INVALID_VALUE);
  rvt_pci_text(device, out, (size_t)room);
  return RVT_OK;
}

RVT_API int cudaDeviceGetByPCIBusId(int *device, const char *text) {
  int rc = rvt_init();
  if (rc) return rvt_rt(rc);
  if (!device || !text) return rvt_rt(RVT_E_INVALID_VALUE);
  for (int i = 0; i < rvt_g.count; i++) {
    char mine[32];
    rvt_pci_text(i, mine, sizeof mine);
    size_t n = strlen(text), m = strlen(mine);
    if (n && n <= m && strncasecmp(mine + m - n, text, n) == 0) {
      *device = i;
      return RVT_OK;
    }
  }
  return rvt_rt(RVT_E_INVALID_DEVICE);
}

RVT_API int cudaDeviceSynchronize(void) {
  int rc = rvt_enter();
  if (rc == RVT_OK) rc = rvt_capture_forbids();
  return rvt_rt(rc ? rc : rvt_wait_device(rvt_t.device, "cudaDeviceSynchronize"));
}

RVT_API int cudaDeviceReset(void) { return rvt_rt(rvt_init()); }

RVT_API int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return rvt_rt(rvt_init());
}

/* ---- limits and caches ----------------------------------------------------------------------------------- */

RVT_API int cudaDeviceGetLimit(size_t *value, int limit) {
  int rc = rvt_enter();
  if (rc) return rvt_rt(rc);
  if (!value || limit < 0 || limit >= 16) return rvt_rt(RVT_E_INVALID_VALUE);
  *value = rvt_dev(rvt_t.device)->limits[limit];
  return RVT_OK;
}

RVT_API int cudaDeviceSetLimit(int limit, size_t value) {
  int rc = rvt_enter();
  if (rc) return rvt_rt(rc);
  if (limit < 0 || limit >= 16) return rvt_rt(RVT_E_INVALID_VALUE);
  rvt_dev(rvt_t.device)->limits[limit] = value;
  return RVT_OK;
}

RVT_RECORDED int cudaDeviceSetCacheConfig(int config) { return rvt_rt(rvt_enter()); }
RVT_API int cudaDeviceGetCacheConfig(int *config) {
  *config = 0;
  return rvt_rt(rvt_enter());
}
RVT_RECORDED int cudaDeviceSetSharedMemConfig(int config) { return rvt_rt(rvt_enter()); }
RVT_API int cudaDeviceGetSharedMemConfig(int *config) {
  *config = 1;
  return rvt_rt(rvt_enter());
}
RVT_RECORDED int cudaCtxResetPersistingL2Cache(void) { return rvt_rt(rvt_enter()); }

/* ---- peers ------------------------------------------------------------------------------------------------ */

RVT_API int cudaDeviceCanAccessPeer(int *can, int device, int peer) {
  CHECK_ORDINAL(device);
  CHECK_ORDINAL(peer);
  *can = rvt_peers(device, peer);
  return RVT_OK;
}

RVT_API int cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  int rc = rvt_enter();
  if (rc) return rvt_rt(rc);
  CHECK_ORDINAL(peer);
  struct rvt_device *d = rvt_dev(rvt_t.device);
  if (!rvt_peers(rvt_t.device, peer)) return rvt_rt(217); /* cudaErrorPeerAccessUnsupported */
  if (__atomic_fetch_or(&d->peers, 1u << peer, __ATOMIC_RELAXED) >> peer & 1) return rvt_rt(RVT_E_PEER_ENABLED);
  return RVT_OK;
}

RVT_API int cudaDeviceDisablePeerAccess(int peer) {
  CHECK_ORDINAL(peer);
  struct rvt_device *d = rvt_dev(rvt_t.device);
  if (!(__atomic_fetch_and(&d->peers, ~(1u << peer), __ATOMIC_RELAXED) >> peer & 1))
    return rvt_rt(RVT_E_PEER_NOT_ENABLED);
  return RVT_OK;
}

RVT_API int cudaDeviceGetP2PAttribute(int *value, int attribute, int from, int to) {
  CHECK_ORDINAL(from);
  CHECK_ORDINAL(to);
  if (!value || attribute < 1 || attribute > 4) return rvt_rt(RVT_E_INVALID_VALUE);
  /* 1 performance rank, 2 access, 3 native atomics, 4 arrays */
  bool nvlink = rvt_dev(from)->info->nvlinks > 0;
  *value = !rvt_peers(from, to) ? 0 : attribute == 1 ? !nvlink : attribute == 3 ? nvlink : 1;
  return RVT_OK;
}

/* ---- versions --------------------------------------------------------------------------------------------- */

RVT_API int cudaDriverGetVersion(int *version) {
  struct rvt_device_page *page = rvt_devices();
  if (!version) return rvt_rt(RVT_E_INVALID_VALUE);
  *version = page ? page->driver_version : 0;
  return RVT_OK;
}

RVT_API int cudaRuntimeGetVersion(int *version) {
  if (!version) return rvt_rt(RVT_E_INVALID_VALUE);
  *version = rvt_cuda_major() >= 13 ? 13000 : 12080;
  return RVT_OK;
}

RVT_RECORDED int cudaProfilerStart(void) { return RVT_OK; }
RVT_RECORDED int cudaProfilerStop(void) { return RVT_OK; }
RVT_RECORDED int cudaThreadSynchronize(void) { return cudaDeviceSynchronize(); }
