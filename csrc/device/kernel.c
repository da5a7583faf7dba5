/* Kernel objects, and the table from a host function's address to its kernel. */
#define _GNU_SOURCE
#include <string.h>

#include "device/core.h"
#include "device/fatbin.h"

#define HOST_SLOTS (1u << 19) /* torch and vLLM register 30,000 kernels */

static _Atomic(struct rvt_kernel *) by_host[HOST_SLOTS];
static _Atomic(const void *) host_of[HOST_SLOTS];
static pthread_mutex_t resolve_lock = PTHREAD_MUTEX_INITIALIZER;

static uint32_t host_slot(const void *host) {
  return (uint32_t)(((uint64_t)host * 0x9E3779B97F4A7C15ull) >> 45) & (HOST_SLOTS - 1);
}

struct rvt_kernel *rvt_kernel_of_host(const void *host) {
  for (uint32_t i = host_slot(host), n = 0; n < HOST_SLOTS; i = (i + 1) & (HOST_SLOTS - 1), n++) {
    const void *there = atomic_load_explicit(&host_of[i], memory_order_acquire);
    if (there == host) return atomic_load_explicit(&by_host[i], memory_order_acquire);
    if (!there) return NULL;
  }
  return NULL;
}

void rvt_kernel_register_host(const void *host, struct rvt_kernel *k) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&lock);
  for (uint32_t i = host_slot(host), n = 0; n < HOST_SLOTS; i = (i + 1) & (HOST_SLOTS - 1), n++) {
    const void *there = atomic_load_explicit(&host_of[i], memory_order_relaxed);
    if (there && there != host) continue;
    atomic_store_explicit(&by_host[i], k, memory_order_release);
    atomic_store_explicit(&host_of[i], host, memory_order_release);
    break;
  }
  pthread_mutex_unlock(&lock);
}

struct rvt_kernel *rvt_kernel_of_handle(const void *handle) {
  if (!handle) return NULL;
  struct rvt_kernel *k = rvt_kernel_of_host(handle);
  if (k) return k;
  k = (struct rvt_kernel *)handle;
  /* A handle of ours is 16-byte aligned memory; anything else was never given out. */
  if ((uintptr_t)handle % 16 || k->magic != RVT_MAGIC_KERNEL) return NULL;
  return k;
}

struct rvt_kernel *rvt_kernel_make(const char *name, size_t name_len, struct rvt_module *module) {
  struct rvt_kernel *k = rvt_persist(sizeof *k);
  if (!k) return NULL;
  k->magic = RVT_MAGIC_KERNEL;
  k->name = name;
  k->name_len = (uint32_t)name_len;
  k->param_count = -1;
  k->module = module;
  k->max_threads = 1024;
  k->registers = 32;
  if (module) {
    k->next = module->kernels;
    module->kernels = k;
  }
  return k;
}

static void layout_from_sizes(struct rvt_kernel *k, const uint16_t *bytes, int count) {
  struct rvt_param *params = rvt_persist((size_t)count * sizeof *params);
  if (!params) return;
  uint32_t offset = 0;
  for (int i = 0; i < count; i++) {
    uint32_t align = bytes[i] >= 8 ? 8 : bytes[i] >= 4 ? 4 : bytes[i] >= 2 ? 2 : 1;
    offset = (offset + align - 1) & ~(align - 1);
    params[i] = (struct rvt_param){(uint16_t)offset, bytes[i]};
    offset += bytes[i];
  }
  k->params = params;
  k->param_count = (int16_t)count;
  k->param_total_bytes = (uint16_t)offset;
  k->read_params = 0;
}

static void choose_image(struct rvt_kernel *k) {
  const struct rvt_gpu *gpu = rvt_g.devices[0].info;
  const void *fat_binary = k->module ? k->module->fat_binary : NULL;
  struct rvt_image image = rvt_fatbin_choose(fat_binary, gpu ? gpu->cc_major * 10 + gpu->cc_minor : 90);
  k->ptx_version = image.ptx_version;
  k->binary_version = image.binary_version;
  k->no_image = image.none;
}

/* What 30,000 registrations should not pay for: hash, registry and layout are looked up at the first use. */
void rvt_kernel_resolve_slow(struct rvt_kernel *k) {
  pthread_mutex_lock(&resolve_lock);
  if (!atomic_load(&k->resolved)) {
    if (!k->name_len) k->name_len = (uint32_t)strlen(k->name);
    k->name_hash = rvt_hash_bytes(k->name, k->name_len);
    choose_image(k);
    if (k->param_count < 0) {
      struct rvt_param params[RVT_MAX_KERNEL_PARAMS];
      uint16_t total;
      int n = rvt_layout_from_name(k->name, params, RVT_MAX_KERNEL_PARAMS, &total, &k->read_params);
      if (n >= 0) {
        struct rvt_param *kept = rvt_persist(((size_t)n + 1) * sizeof *kept);
        if (kept) {
          memcpy(kept, params, (size_t)n * sizeof *kept);
          k->params = kept;
          k->param_count = (int16_t)n;
          k->param_total_bytes = total;
        }
      }
    }
    k->semantic = rvt_registry_find(k);
    if (k->semantic && k->semantic->param_count && !k->layout_is_cubin)
      layout_from_sizes(k, k->semantic->param_bytes, k->semantic->param_count);
    atomic_store_explicit(&k->resolved, true, memory_order_release);
  }
  pthread_mutex_unlock(&resolve_lock);
}
