/* Messages to the user, and the one place where an unsupported call is reported. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device/core.h"
#include "device/stub.h"

void rvt_message(const char *format, ...) {
  char line[1024];
  int n = snprintf(line, sizeof line, "revati[%d]: ", (int)getpid());
  va_list args;
  va_start(args, format);
  n += vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
  va_end(args);
  if (n > (int)sizeof line - 2) n = (int)sizeof line - 2;
  line[n++] = '\n';
  rvt_internal_begin();
  ssize_t ignored = write(STDERR_FILENO, line, (size_t)n);
  (void)ignored;
  rvt_internal_end();
}

/* Names already reported, by hash; a full table only means a repeated message. */
static _Atomic uint64_t reported[1024];

static bool first_time(const char *name) {
  uint64_t h = rvt_hash_bytes(name, strlen(name)) | 1;
  for (unsigned i = 0; i < 8; i++) {
    _Atomic uint64_t *slot = &reported[(h + i) & 1023];
    uint64_t old = 0;
    if (atomic_compare_exchange_strong(slot, &old, h)) return true;
    if (old == h) return false;
  }
  return true;
}

static const char *library_of(const void *caller) {
  Dl_info info;
  return dladdr(caller, &info) && info.dli_fname ? info.dli_fname : "an unknown library";
}

static bool count_and_ask(const char *name) {
  struct rvt_device_page *page = rvt_devices();
  if (page) __atomic_fetch_add(&page->unsupported_calls, 1, __ATOMIC_RELAXED);
  return first_time(name);
}

void rvt_lacking(const char *what) {
  if (count_and_ask(what)) rvt_message("%s: results of this run are not to be trusted where it matters", what);
}

long rvt_unsupported(const char *name, const void *caller, long error) {
  if (count_and_ask(name))
    rvt_message("%s is not supported by the virtual device (called from %s); it answers error %ld. "
                "See docs/api-table.md; report the call if your workload needs it.",
                name, library_of(caller), error);
  return error;
}

long rvt_unsupported_call(const char *name, const void *caller, long error, const long a[4]) {
  if (count_and_ask(name))
    rvt_message(
        "%s(%#lx, %#lx, %#lx, %#lx ...) is not supported by the virtual device (called from %s); it answers error %ld. "
        "See docs/api-table.md; report the call if your workload needs it.",
        name, a[0], a[1], a[2], a[3], library_of(caller), error);
  return error;
}
