/* Process and thread state: devices, contexts, accounting on the card, fork. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/core.h"
#include "include/rvt_abi.h"

struct rvt_state rvt_g;
__thread struct rvt_thread rvt_t;

static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;

struct rvt_device_page *rvt_devices(void) {
  struct rvt_page *page = rvt_page();
  return page ? &page->device : NULL;
}

/* ---- memory that lives as long as the process ---------------------------------------------------------- */

void *rvt_persist(size_t bytes) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static char *block;
  static size_t left;
  bytes = (bytes + 15) & ~(size_t)15;
  if (bytes > (1u << 18)) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
  }
  pthread_mutex_lock(&lock);
  if (left < bytes) {
    size_t size = 1u << 20;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
      pthread_mutex_unlock(&lock);
      return NULL;
    }
    block = p;
    left = size;
  }
  void *out = block;
  block += bytes;
  left -= bytes;
  pthread_mutex_unlock(&lock);
  return out;
}

const char *rvt_persist_string(const char *s, size_t n) {
  char *copy = rvt_persist(n + 1);
  if (copy) memcpy(copy, s, n);
  return copy;
}

/* ---- which devices this process sees ------------------------------------------------------------------- */

static int find_uuid(const struct rvt_device_page *page, const char *text, size_t n) {
  for (uint32_t i = 0; i < page->gpu_count; i++)
    if (n >= 5 && strncmp(page->gpus[i].uuid, text, n) == 0) return (int)i;
  return -1;
}

/* CUDA_VISIBLE_DEVICES: numbers or (prefixes of) UUIDs; the list ends at the first entry that is neither. */
static int visible_devices(const struct rvt_device_page *page, int *out) {
  const char *list = getenv("CUDA_VISIBLE_DEVICES");
  int total = (int)page->gpu_count, n = 0;
  if (!list) {
    for (; n < total && n < RVT_MAX_GPUS; n++) out[n] = n;
    return n;
  }
  while (*list && n < RVT_MAX_GPUS) {
    size_t len = strcspn(list, ",");
    while (len && *list == ' ') list++, len--;
    char *end;
    long index = strtol(list, &end, 10);
    int gpu = -1;
    if (len && end > list && (*end == ',' || *end == 0 || *end == ' '))
      gpu = index >= 0 && index < total ? (int)index : -1;
    else if (strncmp(list, "GPU-", 4) == 0) gpu = find_uuid(page, list, len);
    if (gpu < 0) break;
    for (int i = 0; i < n; i++)
      if (out[i] == gpu) return 0; /* a device twice: CUDA then shows none */
    out[n++] = gpu;
    list += len;
    if (*list == ',') list++;
  }
  return n;
}

/* ---- fork ---------------------------------------------------------------------------------------------- */

/* CUDA cannot be used in a child that was forked after initialisation; a child forked before it can. */
static void in_forked_child(void) {
  if (atomic_load(&rvt_g.ready) == 1) atomic_store(&rvt_g.ready, 2);
}

int rvt_init_slow(void) {
  int state = atomic_load_explicit(&rvt_g.ready, memory_order_acquire);
  if (state == 1) return RVT_OK;
  if (state == 2) return RVT_E_NOT_INITIALIZED;
  if (state == 3) return RVT_E_NO_DEVICE;
  pthread_mutex_lock(&init_lock);
  if (atomic_load(&rvt_g.ready) == 0) {
    struct rvt_device_page *page = rvt_devices();
    int gpus[RVT_MAX_GPUS];
    int count = page ? visible_devices(page, gpus) : 0;
    rvt_g.page = page;
    if (count == 0 || rvt_arena_init() || rvt_known_init()) {
      atomic_store(&rvt_g.ready, 3);
    } else {
      for (int i = 0; i < count; i++) {
        struct rvt_device *d = &rvt_g.devices[i];
        d->gpu = gpus[i];
        d->info = &page->gpus[gpus[i]];
        d->client = -1;
        d->primary = (struct rvt_context){.magic = RVT_MAGIC_CONTEXT, .device = i, .primary = true};
        d->limits[0] = 1024;    /* stack size */
        d->limits[1] = 7 << 20; /* printf buffer (6.9 MiB on current drivers) */
        d->limits[2] = 8 << 20; /* malloc heap */
        d->limits[3] = 2;       /* device runtime sync depth */
        d->limits[4] = 2048;    /* pending launches */
        d->limits[5] = 128;     /* L2 fetch granularity */
      }
      rvt_g.count = count;
      pthread_atfork(NULL, NULL, in_forked_child);
      atomic_store_explicit(&rvt_g.ready, 1, memory_order_release);
    }
  }
  state = atomic_load(&rvt_g.ready);
  pthread_mutex_unlock(&init_lock);
  return state == 1 ? RVT_OK : RVT_E_NO_DEVICE;
}

int rvt_device_count(void) { return rvt_init() == 0 ? rvt_g.count : 0; }
int rvt_gpu_index(int ordinal) {
  return ordinal >= 0 && ordinal < rvt_device_count() ? rvt_g.devices[ordinal].gpu : -1;
}
const struct rvt_gpu *rvt_gpu(int ordinal) {
  return ordinal >= 0 && ordinal < rvt_device_count() ? rvt_g.devices[ordinal].info : NULL;
}
int rvt_current_device(void) { return rvt_t.device; }

/* Set once the process has given its memory back: later frees by other libraries' destructors change nothing. */
static atomic_bool gone;

/* ---- accounting ---------------------------------------------------------------------------------------- */

uint64_t rvt_used_bytes(int ordinal) {
  struct rvt_device *d = rvt_dev(ordinal);
  return d->info->reserved_bytes + __atomic_load_n(&rvt_g.page->use[d->gpu].used_bytes, __ATOMIC_RELAXED);
}

bool rvt_charge_bytes(int ordinal, uint64_t bytes) {
  struct rvt_device *d = rvt_dev(ordinal);
  struct rvt_gpu_use *use = &rvt_g.page->use[d->gpu];
  uint64_t limit = d->info->total_bytes - d->info->reserved_bytes;
  uint64_t old = __atomic_load_n(&use->used_bytes, __ATOMIC_RELAXED);
  do {
    if (bytes > limit || old > limit - bytes) return false;
  } while (!__atomic_compare_exchange_n(&use->used_bytes, &old, old + bytes, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  uint64_t peak = __atomic_load_n(&use->peak_bytes, __ATOMIC_RELAXED);
  while (peak < old + bytes &&
         !__atomic_compare_exchange_n(&use->peak_bytes, &peak, old + bytes, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  atomic_fetch_add(&d->process_bytes, bytes);
  if (d->client >= 0) __atomic_fetch_add(&rvt_g.page->clients[d->client].used_bytes, bytes, __ATOMIC_RELAXED);
  return true;
}

void rvt_release_bytes(int ordinal, uint64_t bytes) {
  if (atomic_load_explicit(&gone, memory_order_relaxed)) return;
  struct rvt_device *d = rvt_dev(ordinal);
  __atomic_fetch_sub(&rvt_g.page->use[d->gpu].used_bytes, bytes, __ATOMIC_RELAXED);
  atomic_fetch_sub(&d->process_bytes, bytes);
  if (d->client >= 0) __atomic_fetch_sub(&rvt_g.page->clients[d->client].used_bytes, bytes, __ATOMIC_RELAXED);
}

/* ---- contexts ------------------------------------------------------------------------------------------ */

static void claim_client(struct rvt_device *d) {
  for (int i = 0; i < RVT_MAX_GPU_CLIENTS; i++) {
    struct rvt_gpu_client *c = &rvt_g.page->clients[i];
    int32_t expected = 0;
    if (__atomic_compare_exchange_n(&c->pid, &expected, (int32_t)getpid(), false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
      c->gpu = d->gpu;
      __atomic_store_n(&c->used_bytes, 0, __ATOMIC_RELAXED);
      d->client = i;
      return;
    }
  }
}

int rvt_activate_slow(int ordinal) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  struct rvt_device *d = rvt_dev(ordinal);
  int rc = RVT_OK;
  pthread_mutex_lock(&lock);
  if (!atomic_load(&d->active)) {
    if (d->client < 0) claim_client(d);
    if (!rvt_charge_bytes(ordinal, d->info->context_bytes)) rc = RVT_E_OUT_OF_MEMORY;
    else if (!rvt_stream_legacy(ordinal)) rc = RVT_E_OUT_OF_MEMORY;
    else atomic_store_explicit(&d->active, true, memory_order_release);
  }
  pthread_mutex_unlock(&lock);
  return rc;
}

/* A process that ends gives its memory back; one that is killed is reaped by the coordinator. */
__attribute__((destructor)) static void give_back_at_exit(void) {
  if (atomic_load(&rvt_g.ready) != 1) return;
  atomic_store(&gone, true);
  for (int i = 0; i < rvt_g.count; i++) {
    struct rvt_device *d = &rvt_g.devices[i];
    if (d->client < 0) continue;
    struct rvt_gpu_client *c = &rvt_g.page->clients[d->client];
    if (__atomic_load_n(&c->pid, __ATOMIC_ACQUIRE) != (int32_t)getpid()) continue;
    uint64_t bytes = __atomic_exchange_n(&c->used_bytes, 0, __ATOMIC_ACQ_REL);
    __atomic_fetch_sub(&rvt_g.page->use[d->gpu].used_bytes, bytes, __ATOMIC_RELAXED);
    d->client = -1;
    __atomic_store_n(&c->pid, 0, __ATOMIC_RELEASE);
  }
}
