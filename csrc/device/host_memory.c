/* Pinned, registered and managed host memory: ranges that kernels may touch and copies need not stage. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "device/core.h"

struct host_range {
  uint64_t base, bytes;
  int kind;
  bool mapped; /* ours to unmap */
};

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct host_range *ranges; /* by address */
static size_t count, room;

/* Index of the last range that starts at or below addr, or -1. */
static long find(uint64_t addr) {
  long low = 0, high = (long)count - 1, at = -1;
  while (low <= high) {
    long mid = (low + high) / 2;
    if (ranges[mid].base <= addr) {
      at = mid;
      low = mid + 1;
    } else {
      high = mid - 1;
    }
  }
  return at;
}

bool rvt_host_range(uint64_t addr, uint64_t *base, uint64_t *bytes, int *kind) {
  bool found = false;
  pthread_rwlock_rdlock(&lock);
  long i = find(addr);
  if (i >= 0 && addr - ranges[i].base < ranges[i].bytes) {
    *base = ranges[i].base;
    *bytes = ranges[i].bytes;
    *kind = ranges[i].kind;
    found = true;
  }
  pthread_rwlock_unlock(&lock);
  return found;
}

static int insert(struct host_range r) {
  int rc = RVT_OK;
  pthread_rwlock_wrlock(&lock);
  long i = find(r.base);
  bool overlaps = (i >= 0 && ranges[i].base + ranges[i].bytes > r.base) ||
                  ((size_t)(i + 1) < count && r.base + r.bytes > ranges[i + 1].base);
  if (overlaps) {
    rc = RVT_E_HOST_REGISTERED;
  } else {
    if (count == room) {
      size_t more = room ? room * 2 : 256;
      struct host_range *grown = rvt_persist(more * sizeof *grown);
      if (count) memcpy(grown, ranges, count * sizeof *grown);
      ranges = grown;
      room = more;
    }
    memmove(&ranges[i + 2], &ranges[i + 1], (count - (size_t)(i + 1)) * sizeof *ranges);
    ranges[i + 1] = r;
    count++;
  }
  pthread_rwlock_unlock(&lock);
  return rc;
}

static bool take_out(uint64_t base, struct host_range *out) {
  bool found = false;
  pthread_rwlock_wrlock(&lock);
  long i = find(base);
  if (i >= 0 && ranges[i].base == base) {
    *out = ranges[i];
    memmove(&ranges[i], &ranges[i + 1], (count - (size_t)i - 1) * sizeof *ranges);
    count--;
    found = true;
  }
  pthread_rwlock_unlock(&lock);
  return found;
}

int rvt_host_alloc(uint64_t bytes, int kind, void **out) {
  *out = NULL;
  if (bytes == 0) return RVT_OK;
  uint64_t size = (bytes + 4095) & ~4095ull;
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return RVT_E_OUT_OF_MEMORY;
  int rc = insert((struct host_range){(uint64_t)p, bytes, kind, true});
  if (rc == RVT_OK) *out = p;
  return rc;
}

int rvt_host_free(void *p) {
  struct host_range r;
  if (!p) return RVT_OK;
  if (!take_out((uint64_t)p, &r)) return RVT_E_INVALID_VALUE;
  if (r.mapped) munmap((void *)r.base, (r.bytes + 4095) & ~4095ull);
  return RVT_OK;
}

int rvt_host_register(void *p, uint64_t bytes) {
  if (!p || !bytes) return RVT_E_INVALID_VALUE;
  return insert((struct host_range){(uint64_t)p, bytes, RVT_ALLOC_HOST, false});
}

int rvt_host_unregister(void *p) {
  struct host_range r;
  return take_out((uint64_t)p, &r) ? RVT_OK : RVT_E_HOST_NOT_REGISTERED;
}
