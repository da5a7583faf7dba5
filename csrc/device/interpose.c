/* dlopen for the names that this library replaces.
 *
 * Frameworks and their JIT compilers open libcuda, libcudart, NVML, cuBLAS and NCCL by soname or by the absolute
 * path of a wheel's file. Those opens return this library. Everything else goes to the real dlopen as a tail
 * call, so that libc still sees the original caller and its RPATH counts.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

#include "device/core.h"

static const char *const replaced[] = {"libcuda.so",   "libnvidia-ml.so", "libcudart.so",
                                       "libcublas.so", "libcublasLt.so",  "libnccl.so"};

typedef void *(*dlopen_fn)(const char *, int);
static _Atomic(dlopen_fn) real_dlopen;
static atomic_int cuda_major;

/* Ours by base name: one of `replaced`, optionally with a version behind it. */
static bool is_replaced(const char *path) {
  const char *base = strrchr(path, '/');
  base = base ? base + 1 : path;
  for (size_t i = 0; i < sizeof replaced / sizeof *replaced; i++) {
    size_t n = strlen(replaced[i]);
    if (strncmp(base, replaced[i], n) == 0 && (base[n] == 0 || base[n] == '.')) return true;
  }
  return false;
}

/* "libcudart.so.12" -> 12; 0 when the name says nothing. */
static int major_of(const char *path) {
  const char *at = strstr(path, "libcudart.so.");
  return at ? atoi(at + strlen("libcudart.so.")) : 0;
}

static int look_at_library(struct dl_phdr_info *info, size_t size, void *found) {
  const char *base = info->dlpi_name ? strrchr(info->dlpi_name, '/') : NULL;
  int major = base ? major_of(base) : 0;
  if (major >= 12) *(int *)found = major;
  return major >= 12;
}

int rvt_cuda_major(void) {
  int major = atomic_load_explicit(&cuda_major, memory_order_relaxed);
  if (RVT_LIKELY(major)) return major;
  const char *forced = getenv("REVATI_CUDA_MAJOR");
  if (forced) major = atoi(forced);
  if (!major) dl_iterate_phdr(look_at_library, &major);
  /* Nothing loaded yet: do not settle on an answer. */
  if (!major) return 13;
  atomic_store_explicit(&cuda_major, major, memory_order_relaxed);
  return major;
}

static void *open_self(void) {
  static _Atomic(void *) handle;
  void *h = atomic_load(&handle);
  if (h) return h;
  Dl_info info;
  dlopen_fn real = atomic_load(&real_dlopen);
  if (!dladdr((void *)open_self, &info)) return NULL;
  h = real(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  if (!h) h = real(info.dli_fname, RTLD_NOW);
  atomic_store(&handle, h);
  return h;
}

static dlopen_fn find_real(void) {
  dlopen_fn f = (dlopen_fn)dlsym(RTLD_NEXT, "dlopen");
  atomic_store(&real_dlopen, f);
  return f;
}

__attribute__((optimize("O2"))) RVT_API void *dlopen(const char *path, int mode) {
  dlopen_fn real = atomic_load_explicit(&real_dlopen, memory_order_relaxed);
  if (RVT_UNLIKELY(!real)) real = find_real();
  if (path && rvt_managed() && is_replaced(path)) {
    int major = major_of(path);
    if (major >= 12) atomic_store(&cuda_major, major);
    void *self = open_self();
    if (self) return self;
  }
  return real(path, mode);
}
