/* Optional trace of launches and copies, for bug reports: REVATI_TRACE=FILE, one line per submission. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "device/core.h"

bool rvt_tracing;
static int trace_fd = -1;

__attribute__((constructor)) static void open_trace(void) {
  const char *path = getenv("REVATI_TRACE");
  if (!path || !*path) return;
  trace_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  rvt_tracing = trace_fd >= 0;
}

void rvt_trace(const char *format, ...) {
  char line[2048];
  int n = snprintf(line, sizeof line, "%d %lld ", (int)getpid(), (long long)rvt_now_ns());
  va_list args;
  va_start(args, format);
  n += vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
  va_end(args);
  if (n > (int)sizeof line - 2) n = (int)sizeof line - 2;
  line[n++] = '\n';
  rvt_internal_begin();
  ssize_t ignored = write(trace_fd, line, (size_t)n);
  (void)ignored;
  rvt_internal_end();
}

void rvt_trace_launch(const struct rvt_launch *l, const char *how) {
  const struct rvt_kernel *k = l->kernel;
  char params[1024];
  int n = 0;
  params[0] = 0;
  for (int i = 0; i < k->param_count && n < 900 && l->params; i++) {
    uint64_t v = rvt_param_u64(l, i), head[2] = {0, 0};
    n += snprintf(params + n, sizeof params - (size_t)n, " %llx:%u", (unsigned long long)v, k->params[i].bytes);
    /* What the parameter points to: the first 16 bytes, when they are known. */
    if (k->params[i].bytes == 8 && v > 4096 && rvt_mem_read(v, head, sizeof head))
      n += snprintf(params + n, sizeof params - (size_t)n, "=[%llx %llx]", (unsigned long long)head[0],
                    (unsigned long long)head[1]);
  }
  rvt_trace("%s %s grid %u,%u,%u block %u,%u,%u %s%s", how, k->name, l->grid[0], l->grid[1], l->grid[2], l->block[0],
            l->block[1], l->block[2], k->semantic ? k->semantic->fn ? "emulated" : "read-only" : "unknown-effect",
            params);
}
