/* Stream-ordered allocation: pools that keep freed memory until they are trimmed.
 *
 * A pool holds its memory as ordinary allocations; a freed block stays charged to the card in the pool and is
 * reused by size, as long as the pool's release threshold allows.
 */
#define _GNU_SOURCE
#include <string.h>

#include "device/pool.h"

#define POOL_BLOCK (2ull << 20)

struct free_block {
  uint64_t addr, bytes;
  struct free_block *next;
};

struct rvt_pool {
  uint32_t magic;
  int device;
  uint64_t release_threshold;
  uint64_t reserved, reserved_high, used, used_high;
  struct free_block *free, *spare;
  int options[4];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct rvt_pool *rvt_pool_create(int ordinal) {
  struct rvt_pool *p = rvt_persist(sizeof *p);
  if (!p) return NULL;
  p->magic = RVT_MAGIC_POOL;
  p->device = ordinal;
  for (int i = 0; i < 4; i++) p->options[i] = 1;
  return p;
}

bool rvt_pool_valid(const struct rvt_pool *p) { return p && p->magic == RVT_MAGIC_POOL; }

struct rvt_pool *rvt_pool_default(int ordinal) {
  struct rvt_device *d = rvt_dev(ordinal);
  pthread_mutex_lock(&lock);
  if (!d->default_pool) d->default_pool = rvt_pool_create(ordinal);
  if (!d->current_pool) d->current_pool = d->default_pool;
  pthread_mutex_unlock(&lock);
  return d->default_pool;
}

struct rvt_pool *rvt_pool_current(int ordinal) {
  rvt_pool_default(ordinal);
  return rvt_dev(ordinal)->current_pool;
}

static void raise_high(uint64_t *high, uint64_t now) {
  if (*high < now) *high = now;
}

/* Best fit among what the pool kept; else new memory of the card. */
int rvt_pool_alloc(struct rvt_pool *p, uint64_t bytes, uint64_t *addr) {
  uint64_t size = (bytes + 511) & ~511ull;
  if (size >= (1ull << 20)) size = (size + POOL_BLOCK - 1) & ~(POOL_BLOCK - 1);
  pthread_mutex_lock(&lock);
  struct free_block **best = NULL;
  for (struct free_block **b = &p->free; *b; b = &(*b)->next)
    if ((*b)->bytes >= size && (*b)->bytes <= size * 2 && (!best || (*b)->bytes < (*best)->bytes)) best = b;
  int rc = RVT_OK;
  if (best) {
    struct free_block *b = *best;
    *addr = b->addr;
    size = b->bytes;
    *best = b->next;
    b->next = p->spare;
    p->spare = b;
  } else {
    pthread_mutex_unlock(&lock);
    rc = rvt_alloc_device(p->device, size, RVT_ALLOC_POOL, addr);
    if (rc && p->free) {
      rvt_pool_trim(p, 0);
      rc = rvt_alloc_device(p->device, size, RVT_ALLOC_POOL, addr);
    }
    pthread_mutex_lock(&lock);
    if (rc == RVT_OK) {
      rvt_alloc_find(*addr)->pool = p;
      p->reserved += size;
    }
  }
  if (rc == RVT_OK) {
    p->used += size;
    raise_high(&p->used_high, p->used);
    raise_high(&p->reserved_high, p->reserved);
  }
  pthread_mutex_unlock(&lock);
  return rc;
}

int rvt_pool_free(struct rvt_alloc *a) {
  struct rvt_pool *p = a->pool;
  uint64_t addr = a->base, bytes = a->bytes;
  rvt_mem_forget(addr, bytes);
  pthread_mutex_lock(&lock);
  p->used -= bytes;
  bool keep = p->reserved <= p->release_threshold;
  struct free_block *b = NULL;
  if (keep) {
    b = p->spare ? p->spare : rvt_persist(sizeof *b);
    if (b && b == p->spare) p->spare = b->next;
  }
  if (b) {
    *b = (struct free_block){addr, bytes, p->free};
    p->free = b;
  } else {
    p->reserved -= bytes;
  }
  pthread_mutex_unlock(&lock);
  return b ? RVT_OK : rvt_free_device(addr);
}

void rvt_pool_trim(struct rvt_pool *p, uint64_t keep) {
  pthread_mutex_lock(&lock);
  while (p->free && p->reserved > keep) {
    struct free_block *b = p->free;
    p->free = b->next;
    p->reserved -= b->bytes;
    rvt_free_device(b->addr);
    b->next = p->spare;
    p->spare = b;
  }
  pthread_mutex_unlock(&lock);
}

/* cudaMemPoolAttr: 1-3 reuse policies (int), 4 release threshold, 5 reserved, 6 its high, 7 used, 8 its high (u64). */
int rvt_pool_get(struct rvt_pool *p, int attribute, void *value) {
  if (!rvt_pool_valid(p) || !value) return RVT_E_INVALID_VALUE;
  if (attribute >= 1 && attribute <= 3) {
    *(int *)value = p->options[attribute];
    return RVT_OK;
  }
  const uint64_t list[] = {p->release_threshold, p->reserved, p->reserved_high, p->used, p->used_high};
  if (attribute < 4 || attribute > 8) return RVT_E_INVALID_VALUE;
  *(uint64_t *)value = list[attribute - 4];
  return RVT_OK;
}

int rvt_pool_set(struct rvt_pool *p, int attribute, const void *value) {
  if (!rvt_pool_valid(p) || !value) return RVT_E_INVALID_VALUE;
  if (attribute >= 1 && attribute <= 3) p->options[attribute] = *(const int *)value;
  else if (attribute == 4) p->release_threshold = *(const uint64_t *)value;
  else if (attribute == 6) p->reserved_high = p->reserved;
  else if (attribute == 8) p->used_high = p->used;
  else return RVT_E_INVALID_VALUE;
  return RVT_OK;
}

int rvt_free_any(uint64_t addr) {
  struct rvt_alloc *a = rvt_alloc_find(addr);
  if (!a || a->base != addr) return RVT_E_INVALID_VALUE;
  if (a->pool) return rvt_pool_free(a);
  if (a->kind == RVT_ALLOC_VMM || a->kind == RVT_ALLOC_IPC) return RVT_E_INVALID_VALUE;
  return rvt_free_device(addr);
}

/* ---- runtime ------------------------------------------------------------------------------------------------ */

#define ENTER()                  \
  do {                           \
    int rc_ = rvt_enter();       \
    if (rc_) return rvt_rt(rc_); \
  } while (0)

RVT_API int cudaMallocFromPoolAsync(void **out, size_t bytes, struct rvt_pool *pool, void *stream) {
  ENTER();
  uint64_t addr = 0;
  if (!out || !rvt_pool_valid(pool) || !rvt_stream_resolve(stream)) return rvt_rt(RVT_E_INVALID_VALUE);
  int rc = bytes ? rvt_pool_alloc(pool, bytes, &addr) : RVT_OK;
  *out = (void *)addr;
  return rvt_rt(rc);
}

RVT_API int cudaMallocAsync(void **out, size_t bytes, void *stream) {
  ENTER();
  struct rvt_stream *s = rvt_stream_resolve(stream);
  if (!s) return rvt_rt(RVT_E_INVALID_HANDLE);
  return cudaMallocFromPoolAsync(out, bytes, rvt_pool_current(s->device), stream);
}

RVT_API int cudaFreeAsync(void *p, void *stream) {
  ENTER();
  return rvt_rt(p ? rvt_free_any((uint64_t)p) : RVT_OK);
}

RVT_API int cudaDeviceGetDefaultMemPool(struct rvt_pool **out, int device) {
  ENTER();
  if (device < 0 || device >= rvt_g.count) return rvt_rt(RVT_E_INVALID_DEVICE);
  *out = rvt_pool_default(device);
  return RVT_OK;
}
RVT_API int cudaDeviceGetMemPool(struct rvt_pool **out, int device) {
  ENTER();
  if (device < 0 || device >= rvt_g.count) return rvt_rt(RVT_E_INVALID_DEVICE);
  *out = rvt_pool_current(device);
  return RVT_OK;
}
RVT_API int cudaDeviceSetMemPool(int device, struct rvt_pool *pool) {
  ENTER();
  if (device < 0 || device >= rvt_g.count || !rvt_pool_valid(pool)) return rvt_rt(RVT_E_INVALID_VALUE);
  rvt_dev(device)->current_pool = pool;
  return RVT_OK;
}

/* cudaMemPoolProps begins: allocation type, handle types, location {type, id}. */
RVT_API int cudaMemPoolCreate(struct rvt_pool **out, const int *props) {
  ENTER();
  if (!out || !props || props[3] < 0 || props[3] >= rvt_g.count) return rvt_rt(RVT_E_INVALID_VALUE);
  *out = rvt_pool_create(props[3]);
  return rvt_rt(*out ? RVT_OK : RVT_E_OUT_OF_MEMORY);
}
RVT_API int cudaMemPoolDestroy(struct rvt_pool *p) {
  if (!rvt_pool_valid(p)) return rvt_rt(RVT_E_INVALID_VALUE);
  rvt_pool_trim(p, 0);
  return RVT_OK;
}
RVT_API int cudaMemPoolTrimTo(struct rvt_pool *p, size_t keep) {
  if (!rvt_pool_valid(p)) return rvt_rt(RVT_E_INVALID_VALUE);
  rvt_pool_trim(p, keep);
  return RVT_OK;
}
RVT_API int cudaMemPoolGetAttribute(struct rvt_pool *p, int attribute, void *value) {
  return rvt_rt(rvt_pool_get(p, attribute, value));
}
RVT_API int cudaMemPoolSetAttribute(struct rvt_pool *p, int attribute, void *value) {
  return rvt_rt(rvt_pool_set(p, attribute, value));
}
RVT_RECORDED int cudaMemPoolSetAccess(struct rvt_pool *p, const void *list, size_t n) { return RVT_OK; }
RVT_API int cudaMemPoolGetAccess(int *flags, struct rvt_pool *p, const void *location) {
  *flags = 3; /* read and write */
  return RVT_OK;
}

/* ---- driver ------------------------------------------------------------------------------------------------- */

RVT_API int cuMemAllocAsync(uint64_t *out, size_t bytes, void *stream) {
  return cudaMallocAsync((void **)out, bytes, stream);
}
RVT_API int cuMemAllocFromPoolAsync(uint64_t *out, size_t bytes, struct rvt_pool *p, void *stream) {
  return cudaMallocFromPoolAsync((void **)out, bytes, p, stream);
}
RVT_API int cuMemFreeAsync(uint64_t p, void *stream) { return cudaFreeAsync((void *)p, stream); }
RVT_API int cuDeviceGetDefaultMemPool(struct rvt_pool **out, int device) {
  return cudaDeviceGetDefaultMemPool(out, device);
}
RVT_API int cuDeviceGetMemPool(struct rvt_pool **out, int device) { return cudaDeviceGetMemPool(out, device); }
RVT_API int cuDeviceSetMemPool(int device, struct rvt_pool *p) { return cudaDeviceSetMemPool(device, p); }
RVT_API int cuMemPoolCreate(struct rvt_pool **out, const int *props) { return cudaMemPoolCreate(out, props); }
RVT_API int cuMemPoolDestroy(struct rvt_pool *p) { return cudaMemPoolDestroy(p); }
RVT_API int cuMemPoolTrimTo(struct rvt_pool *p, size_t keep) { return cudaMemPoolTrimTo(p, keep); }
RVT_API int cuMemPoolGetAttribute(struct rvt_pool *p, int attribute, void *value) {
  return rvt_pool_get(p, attribute, value);
}
RVT_API int cuMemPoolSetAttribute(struct rvt_pool *p, int attribute, void *value) {
  return rvt_pool_set(p, attribute, value);
}
RVT_RECORDED int cuMemPoolSetAccess(struct rvt_pool *p, const void *list, size_t n) { return RVT_OK; }
