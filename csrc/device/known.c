/* Memory by provenance: which device bytes are known, and their values.
 *
 * Writers (host copies, memsets, emulated kernels) store bytes here; a launch that may have written forgets
 * them. Single writes above 1 MiB and everything beyond the process's budget are dropped, i.e. become unknown.
 *
 * The lock keeps stores and reads apart. Forgetting is on the launch path and takes none: pages are never unmapped,
 * bits change atomically, and who forgets a page clears `any` before the bits while who stores sets it after them, so
 * that known bits never hide behind a cleared `any`.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "device/core.h"
#include "device/chunk.h"

#define LARGEST_WRITE (1ull << 20)
#define BUDGET_PAGES (192ull << 20 >> 12) /* 192 MiB of values a process */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t pages_made;

int rvt_known_init(void) { return RVT_OK; }

static inline struct rvt_known_chunk *chunk_known(uint64_t addr) {
  return __atomic_load_n(&rvt_chunks[(addr - rvt_arena_base) / RVT_CHUNK_BYTES].known, __ATOMIC_ACQUIRE);
}

static inline struct rvt_known_page *page_of(uint64_t addr) {
  struct rvt_known_chunk *c = chunk_known(addr);
  if (!c) return NULL;
  return __atomic_load_n(&c->page[(addr - rvt_arena_base) % RVT_CHUNK_BYTES / RVT_PAGE_BYTES], __ATOMIC_ACQUIRE);
}

static struct rvt_known_page *page_make(uint64_t addr) {
  struct rvt_known_page *p = page_of(addr);
  if (p || pages_made >= BUDGET_PAGES) return p;
  struct rvt_chunk *chunk = &rvt_chunks[(addr - rvt_arena_base) / RVT_CHUNK_BYTES];
  if (!chunk->known) {
    struct rvt_known_chunk *made = rvt_persist(sizeof *made);
    if (!made) return NULL;
    __atomic_store_n(&chunk->known, made, __ATOMIC_RELEASE);
  }
  p = rvt_persist(sizeof *p);
  if (!p) return NULL;
  pages_made++;
  uint64_t index = (addr - rvt_arena_base) % RVT_CHUNK_BYTES / RVT_PAGE_BYTES;
  __atomic_store_n(&chunk->known->page[index], p, __ATOMIC_RELEASE);
  return p;
}

static inline bool bit(const uint64_t *map, uint32_t i) {
  return __atomic_load_n(&map[i / 64], __ATOMIC_RELAXED) >> (i % 64) & 1;
}

/* The next word of the range of `n` bits from `from`, as a mask; moves on behind it. */
static inline uint64_t next_word(uint32_t *from, uint32_t *n, uint32_t *word) {
  uint32_t at = *from % 64, take = 64 - at < *n ? 64 - at : *n;
  *word = *from / 64;
  *from += take;
  *n -= take;
  return (take == 64 ? ~0ull : ((1ull << take) - 1)) << at;
}

static void set_bits(uint64_t *map, uint32_t from, uint32_t n) {
  for (uint32_t word; n;) {
    uint64_t mask = next_word(&from, &n, &word);
    __atomic_fetch_or(&map[word], mask, __ATOMIC_RELAXED);
  }
}

static void clear_bits(uint64_t *map, uint32_t from, uint32_t n) {
  for (uint32_t word; n;) {
    uint64_t mask = next_word(&from, &n, &word);
    if (mask == ~0ull) __atomic_store_n(&map[word], 0, __ATOMIC_RELAXED);
    else __atomic_fetch_and(&map[word], ~mask, __ATOMIC_RELAXED);
  }
}

static bool all_bits(const uint64_t *map, uint32_t from, uint32_t n) {
  for (uint32_t word; n;) {
    uint64_t mask = next_word(&from, &n, &word);
    if ((__atomic_load_n(&map[word], __ATOMIC_RELAXED) & mask) != mask) return false;
  }
  return true;
}

static bool no_bits(const uint64_t *map, uint32_t from, uint32_t n) {
  for (uint32_t word; n;) {
    uint64_t mask = next_word(&from, &n, &word);
    if (__atomic_load_n(&map[word], __ATOMIC_RELAXED) & mask) return false;
  }
  return true;
}

/* Calls body for each page piece of [addr, addr + n): `at` offset in the page, `take` bytes. */
#define FOR_PAGES(addr, n, done, at, take)                                                              \
  for (uint64_t done = 0, at, take;                                                                     \
       done < (n) && (at = ((addr) + done) % RVT_PAGE_BYTES,                                            \
                     take = RVT_PAGE_BYTES - at < (n) - done ? RVT_PAGE_BYTES - at : (n) - done, true); \
       done += take)

static inline bool may_know(const struct rvt_known_page *p) { return p && __atomic_load_n(&p->any, __ATOMIC_ACQUIRE); }

/* Results of matrix products are large, and as a rule nothing of them is known: they cost a look at each page. */
static void forget(uint64_t addr, uint64_t n) {
  uint64_t end = addr + n;
  while (addr < end) {
    uint64_t chunk_end = rvt_arena_base + ((addr - rvt_arena_base) / RVT_CHUNK_BYTES + 1) * RVT_CHUNK_BYTES;
    uint64_t stop = chunk_end < end ? chunk_end : end;
    if (!chunk_known(addr)) {
      addr = stop;
      continue;
    }
    uint64_t len = stop - addr;
    FOR_PAGES(addr, len, done, at, take) {
      struct rvt_known_page *p = page_of(addr + done);
      if (!may_know(p)) continue;
      if (take == RVT_PAGE_BYTES) __atomic_store_n(&p->any, false, __ATOMIC_SEQ_CST);
      clear_bits(p->known, (uint32_t)at, (uint32_t)take);
      clear_bits(p->start, (uint32_t)at, (uint32_t)take);
    }
    addr = stop;
  }
}

void rvt_mem_forget(uint64_t addr, size_t n) {
  if (n && rvt_is_device_address(addr)) forget(addr, n);
}

bool rvt_known_any(uint64_t addr) {
  struct rvt_known_page *p = page_of(addr);
  return p && bit(p->known, (uint32_t)(addr % RVT_PAGE_BYTES));
}

void rvt_mem_forget_at(uint64_t addr) {
  if (!rvt_is_device_address(addr) || RVT_LIKELY(!rvt_known_any(addr))) return;
  for (bool first = true;; first = false) {
    struct rvt_known_page *p = rvt_is_device_address(addr) ? page_of(addr) : NULL;
    uint32_t i = (uint32_t)(addr % RVT_PAGE_BYTES);
    if (!p) break;
    uint32_t from = i;
    while (i < RVT_PAGE_BYTES && bit(p->known, i) && ((first && i == from) || !bit(p->start, i))) i++;
    clear_bits(p->known, from, i - from);
    clear_bits(p->start, from, i - from);
    if (i < RVT_PAGE_BYTES) break;
    addr += i - from;
  }
}

static bool host_pointer(uint64_t addr) {
  uint64_t base, bytes;
  int kind;
  return rvt_host_range(addr, &base, &bytes, &kind);
}

bool rvt_mem_read(uint64_t addr, void *out, size_t n) {
  if (!rvt_is_device_address(addr)) {
    if (addr == 0 || !host_pointer(addr)) {
      memset(out, 0, n);
      return false;
    }
    memcpy(out, (const void *)addr, n);
    return true;
  }
  bool known = true;
  pthread_mutex_lock(&lock);
  FOR_PAGES(addr, n, done, at, take) {
    struct rvt_known_page *p = page_of(addr + done);
    unsigned char *to = (unsigned char *)out + done;
    if (!may_know(p)) {
      memset(to, 0, take);
      known = false;
    } else if (all_bits(p->known, (uint32_t)at, (uint32_t)take)) {
      memcpy(to, p->bytes + at, take);
    } else {
      known = false;
      for (uint64_t i = 0; i < take; i++) to[i] = bit(p->known, (uint32_t)(at + i)) ? p->bytes[at + i] : 0;
    }
  }
  pthread_mutex_unlock(&lock);
  return known;
}

bool rvt_mem_written_at_once(uint64_t addr, size_t n) {
  if (!rvt_is_device_address(addr)) return false;
  bool whole = true;
  pthread_mutex_lock(&lock);
  FOR_PAGES(addr, n, done, at, take) {
    struct rvt_known_page *p = page_of(addr + done);
    whole = p && all_bits(p->known, (uint32_t)at, (uint32_t)take);
    uint32_t first = done ? 0 : 1; /* the first byte may begin an upload */
    whole = whole && no_bits(p->start, (uint32_t)at + first, (uint32_t)take - first);
    if (!whole) break;
  }
  pthread_mutex_unlock(&lock);
  return whole;
}

static bool store(uint64_t addr, const void *in, size_t n, bool host_write) {
  if (n == 0) return true;
  if (!rvt_is_device_address(addr)) {
    if (!host_pointer(addr)) return false;
    memcpy((void *)addr, in, n);
    return true;
  }
  bool stored = true;
  pthread_mutex_lock(&lock);
  if (n > LARGEST_WRITE) {
    forget(addr, n);
    stored = false;
  } else {
    FOR_PAGES(addr, n, done, at, take) {
      struct rvt_known_page *p = page_make(addr + done);
      if (!p) {
        stored = false;
        continue;
      }
      memcpy(p->bytes + at, (const unsigned char *)in + done, take);
      set_bits(p->known, (uint32_t)at, (uint32_t)take);
      if (host_write) {
        clear_bits(p->start, (uint32_t)at, (uint32_t)take);
        if (done == 0) set_bits(p->start, (uint32_t)at, 1);
      }
      __atomic_store_n(&p->any, true, __ATOMIC_SEQ_CST);
    }
    /* The byte behind a host write starts something else, whatever wrote it. */
    uint64_t next = addr + n;
    struct rvt_known_page *p = host_write && rvt_is_device_address(next) ? page_of(next) : NULL;
    if (p && bit(p->known, (uint32_t)(next % RVT_PAGE_BYTES))) set_bits(p->start, (uint32_t)(next % RVT_PAGE_BYTES), 1);
  }
  pthread_mutex_unlock(&lock);
  return stored;
}

bool rvt_mem_write(uint64_t addr, const void *in, size_t n) { return store(addr, in, n, false); }

bool rvt_mem_write_host(uint64_t addr, const void *in, size_t n) { return store(addr, in, n, true); }

bool rvt_mem_fill(uint64_t addr, const void *pattern, size_t pattern_bytes, size_t n) {
  unsigned char buffer[RVT_PAGE_BYTES];
  if (n == 0) return true;
  if (rvt_is_device_address(addr) && n > LARGEST_WRITE) {
    rvt_mem_forget(addr, n);
    return false;
  }
  size_t chunk = sizeof buffer / pattern_bytes * pattern_bytes;
  size_t used = chunk < n ? chunk : n, have = pattern_bytes < used ? pattern_bytes : used;
  memcpy(buffer, pattern, have);
  /* By doubling: a division for every byte took longer than the rest of the call. */
  for (; have < used; have *= 2) memcpy(buffer + have, buffer, have < used - have ? have : used - have);
  bool stored = true;
  for (size_t done = 0; done < n; done += chunk) {
    size_t take = chunk < n - done ? chunk : n - done;
    stored &= store(addr + done, buffer, take, done == 0);
  }
  return stored;
}

static bool any_known(uint64_t addr, size_t n) {
  FOR_PAGES(addr, n, done, at, take) {
    struct rvt_known_page *p = page_of(addr + done);
    for (uint64_t word = at / 64; may_know(p) && word <= (at + take - 1) / 64; word++)
      if (__atomic_load_n(&p->known[word], __ATOMIC_RELAXED)) return true;
  }
  return false;
}

bool rvt_mem_copy(uint64_t to, uint64_t from, size_t n) {
  unsigned char buffer[RVT_PAGE_BYTES];
  if (n > LARGEST_WRITE && rvt_is_device_address(to)) {
    rvt_mem_forget(to, n);
    return false;
  }
  bool known = true;
  for (size_t done = 0; done < n; done += sizeof buffer) {
    size_t take = sizeof buffer < n - done ? sizeof buffer : n - done;
    if (rvt_is_device_address(from + done) && !any_known(from + done, take)) {
      rvt_mem_forget(to + done, take);
      known = false;
      continue;
    }
    bool all = rvt_mem_read(from + done, buffer, take);
    if (all) {
      store(to + done, buffer, take, done == 0);
      continue;
    }
    /* Partly known: byte runs keep their knowledge. */
    known = false;
    rvt_mem_forget(to + done, take);
    for (size_t i = 0; i < take; i++)
      if (rvt_is_device_address(from + done + i) && rvt_known_any(from + done + i))
        store(to + done + i, buffer + i, 1, false);
  }
  return known;
}

void rvt_count_unknown_read(uint64_t addr, size_t n) {
  if (rvt_g.page) __atomic_fetch_add(&rvt_g.page->unknown_reads, 1, __ATOMIC_RELAXED);
}
