/* Virtual memory management (reserve, create, map) and IPC handles. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/chunk.h"
#include "device/core.h"

#define MAGIC_PHYSICAL 0x50485953u

/* Memory of the card without an address: lives until it is released and mapped nowhere. */
struct physical {
  uint32_t magic;
  int device;
  uint64_t bytes, charged;
  uint32_t references; /* handles + mappings */
};
struct location {
  int type, id;
};
struct allocation_prop { /* CUmemAllocationProp */
  int type, handle_types;
  struct location location;
  void *win32;
  unsigned char flags[8];
};

/* Which physical memory is mapped at a record; indexed through the record's `shared` field. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define ENTER()            \
  do {                     \
    int rc_ = rvt_enter(); \
    if (rc_) return rc_;   \
  } while (0)

static bool valid(const struct physical *p) { return p && p->magic == MAGIC_PHYSICAL; }

RVT_API int cuMemGetAllocationGranularity(size_t *bytes, const struct allocation_prop *prop, int option) {
  if (!bytes) return RVT_E_INVALID_VALUE;
  *bytes = RVT_CHUNK_BYTES;
  return RVT_OK;
}

RVT_API int cuMemAddressReserve(uint64_t *out, size_t bytes, size_t align, uint64_t hint, unsigned long long flags) {
  ENTER();
  if (!out || !bytes || bytes % RVT_CHUNK_BYTES) return RVT_E_INVALID_VALUE;
  *out = rvt_arena_take(bytes, align, hint);
  return *out ? RVT_OK : RVT_E_OUT_OF_MEMORY;
}
RVT_API int cuMemAddressFree(uint64_t addr, size_t bytes) {
  if (!rvt_is_device_address(addr) || bytes % RVT_CHUNK_BYTES) return RVT_E_INVALID_VALUE;
  rvt_arena_give(addr, bytes);
  return RVT_OK;
}

RVT_API int cuMemCreate(struct physical **out, size_t bytes, const struct allocation_prop *prop,
                        unsigned long long flags) {
  ENTER();
  if (!out || !prop || !bytes || bytes % RVT_CHUNK_BYTES) return RVT_E_INVALID_VALUE;
  int device = prop->location.id;
  if (prop->location.type != 1) return RVT_UNSUPPORTED("cuMemCreate with host location", RVT_E_NOT_SUPPORTED);
  if (device < 0 || device >= rvt_g.count) return RVT_E_INVALID_DEVICE;
  int rc = rvt_activate(device);
  if (rc) return rc;
  if (!rvt_charge_bytes(device, bytes)) return RVT_E_OUT_OF_MEMORY;
  struct physical *p = rvt_persist(sizeof *p);
  if (!p) return RVT_E_OUT_OF_MEMORY;
  *p = (struct physical){.magic = MAGIC_PHYSICAL, .device = device, .bytes = bytes, .charged = bytes, .references = 1};
  *out = p;
  return RVT_OK;
}

static void drop_reference(struct physical *p) {
  pthread_mutex_lock(&lock);
  bool last = --p->references == 0;
  pthread_mutex_unlock(&lock);
  if (last && p->charged) rvt_release_bytes(p->device, p->charged);
  if (last) p->magic = 0;
}
static void add_reference(struct physical *p) {
  pthread_mutex_lock(&lock);
  p->references++;
  pthread_mutex_unlock(&lock);
}

RVT_API int cuMemRelease(struct physical *p) {
  if (!valid(p)) return RVT_E_INVALID_VALUE;
  drop_reference(p);
  return RVT_OK;
}

RVT_API int cuMemMap(uint64_t addr, size_t bytes, size_t offset, struct physical *p, unsigned long long flags) {
  if (!valid(p) || !rvt_is_device_address(addr) || addr % RVT_CHUNK_BYTES || bytes % RVT_CHUNK_BYTES)
    return RVT_E_INVALID_VALUE;
  if (offset + bytes > p->bytes || rvt_alloc_find(addr)) return RVT_E_INVALID_VALUE;
  struct rvt_alloc *a = rvt_alloc_record(addr, bytes, p->device, RVT_ALLOC_VMM, 0);
  if (!a) return RVT_E_OUT_OF_MEMORY;
  a->shared = (struct rvt_shared *)p;
  add_reference(p);
  return RVT_OK;
}

RVT_API int cuMemUnmap(uint64_t addr, size_t bytes) {
  for (uint64_t end = addr + bytes; addr < end;) {
    struct rvt_alloc *a = rvt_alloc_find(addr);
    if (!a || a->kind != RVT_ALLOC_VMM || a->base != addr || a->bytes > end - addr) return RVT_E_INVALID_VALUE;
    struct physical *p = (struct physical *)a->shared;
    rvt_mem_forget(a->base, a->bytes);
    addr += a->bytes;
    rvt_alloc_forget_record(a);
    drop_reference(p);
  }
  return RVT_OK;
}

RVT_RECORDED int cuMemSetAccess(uint64_t addr, size_t bytes, const void *list, size_t n) {
  return rvt_is_device_address(addr) ? RVT_OK : RVT_E_INVALID_VALUE;
}
RVT_API int cuMemGetAccess(unsigned long long *flags, const struct location *location, uint64_t addr) {
  *flags = rvt_alloc_find(addr) ? 3 : 0;
  return RVT_OK;
}
RVT_API int cuMemRetainAllocationHandle(struct physical **out, void *addr) {
  struct rvt_alloc *a = rvt_alloc_find((uint64_t)addr);
  if (!a || a->kind != RVT_ALLOC_VMM) return RVT_E_INVALID_VALUE;
  *out = (struct physical *)a->shared;
  add_reference(*out);
  return RVT_OK;
}
RVT_API int cuMemGetAllocationPropertiesFromHandle(struct allocation_prop *out, struct physical *p) {
  if (!valid(p)) return RVT_E_INVALID_VALUE;
  *out = (struct allocation_prop){.type = 1, .handle_types = 1, .location = {1, p->device}};
  return RVT_OK;
}

/* A file descriptor (handle type 1) that another process can import: a memfd that says what it stands for. */
struct exported {
  uint32_t magic;
  int32_t gpu;
  uint64_t bytes;
};
RVT_API int cuMemExportToShareableHandle(void *out, struct physical *p, int type, unsigned long long flags) {
  if (!valid(p) || !out) return RVT_E_INVALID_VALUE;
  if (type != 1)
    return RVT_UNSUPPORTED("cuMemExportToShareableHandle of a fabric or Windows handle", RVT_E_NOT_SUPPORTED);
  struct exported e = {MAGIC_PHYSICAL, rvt_dev(p->device)->gpu, p->bytes};
  int fd = memfd_create("revati-device-memory", MFD_CLOEXEC);
  if (fd < 0 || pwrite(fd, &e, sizeof e, 0) != (ssize_t)sizeof e) return RVT_E_OUT_OF_MEMORY;
  *(int *)out = fd;
  return RVT_OK;
}
RVT_API int cuMemImportFromShareableHandle(struct physical **out, void *handle, int type) {
  ENTER();
  struct exported e;
  if (type != 1 || pread((int)(intptr_t)handle, &e, sizeof e, 0) != (ssize_t)sizeof e || e.magic != MAGIC_PHYSICAL)
    return RVT_E_INVALID_VALUE;
  int device = 0;
  while (device < rvt_g.count && rvt_dev(device)->gpu != e.gpu) device++;
  struct physical *p = rvt_persist(sizeof *p);
  if (!p) return RVT_E_OUT_OF_MEMORY;
  *p = (struct physical){.magic = MAGIC_PHYSICAL,
                         .device = device < rvt_g.count ? device : rvt_t.device,
                         .bytes = e.bytes,
                         .references = 1};
  *out = p;
  return RVT_OK;
}

/* ---- IPC ---------------------------------------------------------------------------------------------------- */

struct ipc_handle { /* inside the 64 bytes of cudaIpcMemHandle_t */
  uint32_t magic;
  int32_t pid, gpu;
  uint64_t base, bytes;
};
struct ipc_bytes {
  char bytes[64];
};

RVT_API int cudaIpcGetMemHandle(struct ipc_bytes *out, void *p) {
  struct rvt_alloc *a = rvt_alloc_find((uint64_t)p);
  if (!a || !out) return rvt_rt(RVT_E_INVALID_VALUE);
  struct ipc_handle h = {MAGIC_PHYSICAL, getpid(), rvt_dev(a->device)->gpu, a->base, a->bytes};
  memset(out, 0, sizeof *out);
  memcpy(out, &h, sizeof h);
  return RVT_OK;
}

RVT_API int cudaIpcOpenMemHandle(void **out, struct ipc_bytes bytes, unsigned flags) {
  int rc = rvt_enter();
  struct ipc_handle h;
  memcpy(&h, &bytes, sizeof h);
  if (rc || !out || h.magic != MAGIC_PHYSICAL) return rvt_rt(rc ? rc : RVT_E_INVALID_VALUE);
  if (h.pid == getpid()) return rvt_rt(RVT_E_INVALID_CONTEXT); /* CUDA: not in the exporting process */
  uint64_t addr = rvt_arena_take(h.bytes, RVT_CHUNK_BYTES, 0);
  if (!addr || !rvt_alloc_record(addr, h.bytes, rvt_t.device, RVT_ALLOC_IPC, 0)) return rvt_rt(RVT_E_OUT_OF_MEMORY);
  *out = (void *)addr;
  return RVT_OK;
}

RVT_API int cudaIpcCloseMemHandle(void *p) {
  struct rvt_alloc *a = rvt_alloc_find((uint64_t)p);
  if (!a || a->kind != RVT_ALLOC_IPC) return rvt_rt(RVT_E_INVALID_VALUE);
  uint64_t base = a->base, bytes = a->bytes;
  rvt_mem_forget(base, bytes);
  rvt_alloc_forget_record(a);
  rvt_arena_give(base, bytes);
  return RVT_OK;
}

RVT_API int cuIpcGetMemHandle(struct ipc_bytes *out, uint64_t p) { return cudaIpcGetMemHandle(out, (void *)p); }
RVT_API int cuIpcOpenMemHandle_v2(uint64_t *out, struct ipc_bytes bytes, unsigned flags) {
  return cudaIpcOpenMemHandle((void **)out, bytes, flags);
}
RVT_API int cuIpcCloseMemHandle(uint64_t p) { return cudaIpcCloseMemHandle((void *)p); }
