/* Device memory: address ranges, allocations and what the card has left.
 *
 * Addresses come from one large PROT_NONE mapping (the arena): they cost no RAM and a host access faults, as on
 * the real thing. The card's capacity is charged in 2 MiB pages; allocations below 1 MiB share such a page, as
 * the real driver does. A chunk entry per 2 MiB of the arena finds the allocation behind an address.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "device/core.h"
#include "device/chunk.h"

#define ARENA_BYTES (16ull << 40)
#define SMALL_LIMIT (1ull << 20)
#define SMALL_ALIGN 512ull
#define SMALL_SLOTS (RVT_CHUNK_BYTES / SMALL_ALIGN)

uint64_t rvt_arena_base, rvt_arena_bytes;
struct rvt_chunk *rvt_chunks;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

bool rvt_is_device_address(uint64_t addr) { return addr - rvt_arena_base < rvt_arena_bytes; }

int rvt_arena_init(void) {
  /* Near where real device pointers lie; anywhere else if the place is taken. Smaller if the system refuses. */
  for (uint64_t bytes = ARENA_BYTES; bytes >= (1ull << 40); bytes >>= 1) {
    void *hint = (void *)0x302000000000ull;
    void *p = mmap(hint, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) continue;
    size_t table = bytes / RVT_CHUNK_BYTES * sizeof(struct rvt_chunk);
    rvt_chunks = mmap(NULL, table, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (rvt_chunks == MAP_FAILED) return RVT_E_OUT_OF_MEMORY;
    madvise(p, bytes, MADV_DONTDUMP);
    uint64_t start = ((uint64_t)p + RVT_CHUNK_BYTES - 1) & ~(RVT_CHUNK_BYTES - 1);
    rvt_arena_base = start;
    rvt_arena_bytes = bytes - (start - (uint64_t)p);
    rvt_arena_bytes &= ~(RVT_CHUNK_BYTES - 1);
    return RVT_OK;
  }
  return RVT_E_OUT_OF_MEMORY;
}

/* ---- address ranges ------------------------------------------------------------------------------------- */

/* Free ranges by address, first fit. Ranges are few (a caching allocator asks for large segments). */
struct range {
  uint64_t addr, bytes;
};
static struct range *free_ranges;
static size_t free_count, free_room;
static uint64_t arena_top;

static bool ranges_reserve(size_t n) {
  if (n <= free_room) return true;
  size_t room = free_room ? free_room * 2 : 1024;
  struct range *grown = rvt_persist(room * sizeof *grown);
  if (!grown) return false;
  if (free_count) memcpy(grown, free_ranges, free_count * sizeof *grown);
  free_ranges = grown;
  free_room = room;
  return true;
}

static void range_give(uint64_t addr, uint64_t bytes) {
  size_t i = 0;
  while (i < free_count && free_ranges[i].addr < addr) i++;
  bool joins_left = i > 0 && free_ranges[i - 1].addr + free_ranges[i - 1].bytes == addr;
  bool joins_right = i < free_count && addr + bytes == free_ranges[i].addr;
  if (joins_left) {
    free_ranges[i - 1].bytes += bytes;
    if (joins_right) {
      free_ranges[i - 1].bytes += free_ranges[i].bytes;
      memmove(&free_ranges[i], &free_ranges[i + 1], (--free_count - i) * sizeof *free_ranges);
    }
  } else if (joins_right) {
    free_ranges[i].addr = addr;
    free_ranges[i].bytes += bytes;
  } else if (ranges_reserve(free_count + 1)) {
    memmove(&free_ranges[i + 1], &free_ranges[i], (free_count++ - i) * sizeof *free_ranges);
    free_ranges[i] = (struct range){addr, bytes};
  }
}

static uint64_t range_take(uint64_t bytes, uint64_t align) {
  for (size_t i = 0; i < free_count; i++) {
    struct range r = free_ranges[i];
    uint64_t start = (r.addr + align - 1) & ~(align - 1);
    if (start - r.addr + bytes > r.bytes) continue;
    memmove(&free_ranges[i], &free_ranges[i + 1], (--free_count - i) * sizeof *free_ranges);
    if (start > r.addr) range_give(r.addr, start - r.addr);
    if (start + bytes < r.addr + r.bytes) range_give(start + bytes, r.addr + r.bytes - start - bytes);
    return start;
  }
  if (!arena_top) arena_top = rvt_arena_base;
  uint64_t start = (arena_top + align - 1) & ~(align - 1);
  if (start + bytes > rvt_arena_base + rvt_arena_bytes) return 0;
  if (start > arena_top) range_give(arena_top, start - arena_top);
  arena_top = start + bytes;
  return start;
}

static uint64_t round_up(uint64_t v, uint64_t to) { return (v + to - 1) & ~(to - 1); }

uint64_t rvt_arena_take(uint64_t bytes, uint64_t align, uint64_t hint) {
  if (align < RVT_CHUNK_BYTES) align = RVT_CHUNK_BYTES;
  pthread_mutex_lock(&lock);
  uint64_t addr = range_take(round_up(bytes, RVT_CHUNK_BYTES), align);
  pthread_mutex_unlock(&lock);
  return addr;
}

void rvt_arena_give(uint64_t addr, uint64_t bytes) {
  pthread_mutex_lock(&lock);
  range_give(addr, round_up(bytes, RVT_CHUNK_BYTES));
  pthread_mutex_unlock(&lock);
}

/* ---- allocation records --------------------------------------------------------------------------------- */

static struct rvt_alloc *free_records;
static uint64_t next_id = 1;

static struct rvt_alloc *record_new(void) {
  struct rvt_alloc *a = free_records;
  if (a) free_records = a->next_free;
  else a = rvt_persist(sizeof *a);
  if (a) memset(a, 0, sizeof *a);
  return a;
}

static struct rvt_chunk *chunk_of(uint64_t addr) { return &rvt_chunks[(addr - rvt_arena_base) / RVT_CHUNK_BYTES]; }

static void record_map(struct rvt_alloc *a, struct rvt_alloc *value) {
  for (uint64_t at = a->base; at < a->base + a->bytes; at += RVT_CHUNK_BYTES)
    __atomic_store_n(&chunk_of(at)->alloc, value, __ATOMIC_RELEASE);
}

struct rvt_alloc *rvt_alloc_record(uint64_t base, uint64_t bytes, int ordinal, int kind, uint64_t charged) {
  pthread_mutex_lock(&lock);
  struct rvt_alloc *a = record_new();
  if (a) {
    a->base = base;
    a->bytes = bytes;
    a->device = (int16_t)ordinal;
    a->kind = (uint8_t)kind;
    a->charged = charged;
    a->id = next_id++;
    a->live = true;
    record_map(a, a);
  }
  pthread_mutex_unlock(&lock);
  return a;
}

void rvt_alloc_forget_record(struct rvt_alloc *a) {
  pthread_mutex_lock(&lock);
  record_map(a, NULL);
  a->live = false;
  a->next_free = free_records;
  free_records = a;
  pthread_mutex_unlock(&lock);
}

/* ---- small allocations: slabs of 2 MiB ------------------------------------------------------------------- */

struct rvt_slab {
  uint64_t base;
  int device;
  uint32_t used_slots, scan;
  struct rvt_alloc *slot[SMALL_SLOTS]; /* the allocation that covers each 512 bytes */
  struct rvt_slab *next;
};
static struct rvt_slab *slabs[RVT_MAX_GPUS];

static int slab_fit(struct rvt_slab *s, uint32_t want) {
  uint32_t run = 0;
  if (SMALL_SLOTS - s->used_slots < want) return -1;
  for (uint32_t i = 0; i < SMALL_SLOTS; i++) {
    run = s->slot[i] ? 0 : run + 1;
    if (run == want) return (int)(i + 1 - want);
  }
  return -1;
}

static struct rvt_slab *slab_new(int ordinal) {
  if (!rvt_charge_bytes(ordinal, RVT_CHUNK_BYTES)) return NULL;
  uint64_t base = range_take(RVT_CHUNK_BYTES, RVT_CHUNK_BYTES);
  struct rvt_slab *s = base ? rvt_persist(sizeof *s) : NULL;
  if (!s) return NULL;
  s->base = base;
  s->device = ordinal;
  s->next = slabs[ordinal];
  slabs[ordinal] = s;
  __atomic_store_n(&chunk_of(base)->slab, s, __ATOMIC_RELEASE);
  return s;
}

static struct rvt_alloc *small_alloc(int ordinal, uint64_t bytes, int kind) {
  uint32_t want = (uint32_t)((bytes + SMALL_ALIGN - 1) / SMALL_ALIGN);
  struct rvt_slab *s = slabs[ordinal];
  int at = -1;
  for (; s && (at = slab_fit(s, want)) < 0; s = s->next);
  if (!s) {
    s = slab_new(ordinal);
    at = 0;
  }
  struct rvt_alloc *a = s ? record_new() : NULL;
  if (!a) return NULL;
  *a = (struct rvt_alloc){.base = s->base + (uint64_t)at * SMALL_ALIGN,
                          .bytes = bytes,
                          .id = next_id++,
                          .device = (int16_t)ordinal,
                          .kind = (uint8_t)kind,
                          .live = true};
  for (uint32_t i = 0; i < want; i++) s->slot[(uint32_t)at + i] = a;
  s->used_slots += want;
  return a;
}

static void small_free(struct rvt_slab *s, struct rvt_alloc *a) {
  uint32_t at = (uint32_t)((a->base - s->base) / SMALL_ALIGN);
  uint32_t n = (uint32_t)((a->bytes + SMALL_ALIGN - 1) / SMALL_ALIGN);
  for (uint32_t i = 0; i < n; i++) s->slot[at + i] = NULL;
  s->used_slots -= n;
  a->live = false;
  a->next_free = free_records;
  free_records = a;
}

/* ---- the interface --------------------------------------------------------------------------------------- */

struct rvt_alloc *rvt_alloc_find(uint64_t addr) {
  if (!rvt_is_device_address(addr)) return NULL;
  struct rvt_chunk *c = chunk_of(addr);
  struct rvt_alloc *a = __atomic_load_n(&c->alloc, __ATOMIC_ACQUIRE);
  if (a) return addr - a->base < a->bytes ? a : NULL;
  struct rvt_slab *s = __atomic_load_n(&c->slab, __ATOMIC_ACQUIRE);
  if (!s) return NULL;
  a = s->slot[(addr - s->base) / SMALL_ALIGN];
  return a && addr - a->base < a->bytes ? a : NULL;
}

uint64_t rvt_mem_extent(uint64_t addr) {
  struct rvt_alloc *a = rvt_alloc_find(addr);
  if (a) return a->base + a->bytes - addr;
  uint64_t base, bytes;
  int kind;
  return rvt_host_range(addr, &base, &bytes, &kind) ? base + bytes - addr : 0;
}

int rvt_alloc_device(int ordinal, uint64_t bytes, int kind, uint64_t *addr) {
  struct rvt_alloc *a = NULL;
  *addr = 0;
  if (bytes < SMALL_LIMIT) {
    pthread_mutex_lock(&lock);
    a = small_alloc(ordinal, bytes ? bytes : 1, kind);
    pthread_mutex_unlock(&lock);
    if (!a) return RVT_E_OUT_OF_MEMORY;
    *addr = a->base;
    return RVT_OK;
  }
  if (bytes > rvt_arena_bytes) return RVT_E_OUT_OF_MEMORY;
  uint64_t charged = round_up(bytes, RVT_CHUNK_BYTES);
  if (!rvt_charge_bytes(ordinal, charged)) return RVT_E_OUT_OF_MEMORY;
  uint64_t base = rvt_arena_take(charged, RVT_CHUNK_BYTES, 0);
  if (base) a = rvt_alloc_record(base, bytes, ordinal, kind, charged);
  if (!a) {
    rvt_release_bytes(ordinal, charged);
    return RVT_E_OUT_OF_MEMORY;
  }
  *addr = base;
  return RVT_OK;
}

int rvt_free_device(uint64_t addr) {
  struct rvt_alloc *a = rvt_alloc_find(addr);
  if (!a || a->base != addr) return RVT_E_INVALID_VALUE;
  rvt_mem_forget(a->base, a->bytes);
  struct rvt_chunk *c = chunk_of(addr);
  if (c->slab) {
    pthread_mutex_lock(&lock);
    small_free(c->slab, a);
    pthread_mutex_unlock(&lock);
    return RVT_OK;
  }
  uint64_t charged = a->charged;
  int device = a->device;
  rvt_alloc_forget_record(a);
  rvt_arena_give(addr, charged);
  rvt_release_bytes(device, charged);
  return RVT_OK;
}
