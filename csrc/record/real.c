/* Where calls are forwarded to, and how callers that look functions up get the wrappers.
 *
 * Callers that link a library dynamically meet the wrappers because this library is preloaded. The others call dlsym,
 * cuGetProcAddress or cudaGetDriverEntryPoint, which are wrapped here: an answer that has a wrapper is replaced by it.
 * NVIDIA's shared runtime is the exception: its calls are wrapped above it, so it gets the driver as it is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

#include "record/record.h"

typedef void *(*dlsym_fn)(void *, const char *);
static _Atomic(dlsym_fn) real_dlsym;

static dlsym_fn find_dlsym(void) {
  dlsym_fn f = atomic_load_explicit(&real_dlsym, memory_order_relaxed);
  if (RVT_LIKELY(f != NULL)) return f;
  f = (dlsym_fn)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
  if (!f) f = (dlsym_fn)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
  atomic_store(&real_dlsym, f);
  return f;
}

static struct rvt_site *site_of(const char *name) {
  for (struct rvt_site *const *s = __start_rvt_sites; s < __stop_rvt_sites; s++)
    if (strcmp((*s)->name, name) == 0) return *s;
  return NULL;
}

/* ---- the real function ------------------------------------------------------------------------------------ */

/* The library that documents a function, as the beginning of its file name. */
static const char *library_of(const char *name) {
  if (strncmp(name, "cublasLt", 8) == 0) return "libcublasLt.so";
  if (strncmp(name, "cublas", 6) == 0) return "libcublas.so";
  if (strncmp(name, "cuda", 4) == 0 || strncmp(name, "__cuda", 6) == 0) return "libcudart.so";
  if (strncmp(name, "nccl", 4) == 0) return "libnccl.so";
  return strncmp(name, "cu", 2) == 0 ? "libcuda.so" : NULL;
}

struct search {
  const char *library;
  char path[4096];
};

static int look_at_library(struct dl_phdr_info *info, size_t size, void *context) {
  struct search *search = context;
  const char *base = strrchr(info->dlpi_name, '/');
  if (!base || strncmp(base + 1, search->library, strlen(search->library)) != 0) return 0;
  snprintf(search->path, sizeof search->path, "%s", info->dlpi_name);
  return 1;
}

/* Next in the global scope (the virtual device, or a program linked with CUDA), else in the library of the function
 * that some extension module has loaded for itself. */
void *rvt_find_real(const char *name) {
  dlsym_fn look = find_dlsym();
  void *found = look(RTLD_NEXT, name);
  if (found) return found;
  struct search search = {.library = library_of(name)};
  if (!search.library || !dl_iterate_phdr(look_at_library, &search)) return NULL;
  void *handle = dlopen(search.path, RTLD_LAZY | RTLD_NOLOAD);
  return handle ? look(handle, name) : NULL;
}

void *rvt_real_slow(struct rvt_site *site) {
  void *found = rvt_find_real(site->name);
  if (found) atomic_store_explicit(&site->real, found, memory_order_release);
  return found;
}

bool rvt_runtime_directory(char *out, size_t room) {
  struct search search = {.library = "libcudart.so"};
  if (!dl_iterate_phdr(look_at_library, &search)) return false;
  *(strrchr(search.path, '/') + 1) = 0;
  return snprintf(out, room, "%s", search.path) < (int)room;
}

int rvt_no_real(struct rvt_site *site) {
  static atomic_flag said;
  if (!atomic_flag_test_and_set(&said))
    rvt_say(
        "%s was called, and no CUDA library of this process has it: is there a GPU driver? Without a GPU, record on "
        "a virtual one: revati run --gpu NAME -- revati record ...",
        site->name);
  return strncmp(site->name, "cublas", 6) == 0 ? 14 : strncmp(site->name, "nccl", 4) == 0 ? 3 : 999;
}

/* ---- callers that look functions up ------------------------------------------------------------------------ */

/* The wrapper for `name` where `found` is a real function, which the site then stands in front of. */
static void *wrapper_for(const char *name, void *found) {
  struct rvt_site *site = found ? site_of(name) : NULL;
  if (!site || found == site->wrapper) return found;
  void *none = NULL;
  if (!rvt_real(site)) atomic_compare_exchange_strong(&site->real, &none, found);
  return site->wrapper;
}

/* Everything else goes on as a tail call, so that libc sees the original caller (RTLD_NEXT, RTLD_DEFAULT). */
__attribute__((optimize("O2"))) RVT_API void *dlsym(void *handle, const char *name) {
  dlsym_fn real = find_dlsym();
  if (handle == RTLD_NEXT || !rvt_recording() || !site_of(name)) return real(handle, name);
  return wrapper_for(name, real(handle, name));
}

static bool called_by_runtime(const void *caller) {
  Dl_info info;
  if (!dladdr(caller, &info) || !info.dli_fname) return false;
  const char *base = strrchr(info.dli_fname, '/');
  return strncmp(base ? base + 1 : info.dli_fname, "libcudart.so", 12) == 0;
}

#define PER_THREAD_STREAMS 2u /* CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM: other functions, without wrappers */

/* Callers ask by base name; what they get is the newest form that their version knows. */
static void *driver_wrapper(const char *name, void *found, uint64_t flags) {
  char versioned[128];
  if (!found || !name || (flags & PER_THREAD_STREAMS)) return found;
  static const char *const suffixes[] = {"_v3", "_v2", ""};
  for (unsigned i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
    if (snprintf(versioned, sizeof versioned, "%s%s", name, suffixes[i]) >= (int)sizeof versioned) return found;
    if (site_of(versioned)) return wrapper_for(versioned, found);
  }
  return found;
}

#define LOOKS_UP(function, parameters, arguments, flags)                                      \
  RVT_API int function parameters;                                                            \
  RVT_SITE(function);                                                                         \
  RVT_API int function parameters {                                                           \
    int(*real) parameters = rvt_real(&site_##function);                                       \
    if (!real) return rvt_no_real(&site_##function);                                          \
    int rc = real arguments;                                                                  \
    if (rc == 0 && out && rvt_recording() && !called_by_runtime(__builtin_return_address(0))) \
      *out = driver_wrapper(name, *out, flags);                                               \
    return rc;                                                                                \
  }

LOOKS_UP(cuGetProcAddress_v2, (const char *name, void **out, int version, uint64_t flags, int *status),
         (name, out, version, flags, status), flags)
LOOKS_UP(cuGetProcAddress, (const char *name, void **out, int version, uint64_t flags), (name, out, version, flags),
         flags)
LOOKS_UP(cudaGetDriverEntryPointByVersion,
         (const char *name, void **out, unsigned version, unsigned long long flags, int *status),
         (name, out, version, flags, status), flags)
LOOKS_UP(cudaGetDriverEntryPoint, (const char *name, void **out, unsigned long long flags, int *status),
         (name, out, flags, status), flags)
