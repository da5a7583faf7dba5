/* Host time of the target machine, policy `modelled`: every kind of work has a price in the shared page (a host
 * profile, written by the coordinator), charged to the thread that does it.
 *
 * With REVATI_HOST_MARKS=FILE the same counts make a profile of this host instead: each engine step and each intake of
 * outputs writes the CPU time that its thread spent since the one before, and what it did meanwhile.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "device/core.h"

bool rvt_host_costing;
static int marks_fd = -1;
static __thread uint64_t done[RVT_HOST_COSTS];
static __thread int64_t marked_ns;

__attribute__((constructor)) static void read_costs(void) {
  struct rvt_device_page *page = rvt_devices();
  if (!page) return;
  const char *marks = getenv("REVATI_HOST_MARKS");
  if (marks && *marks) marks_fd = open(marks, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  rvt_host_costing = marks_fd >= 0;
  for (int i = 0; i < RVT_HOST_COSTS; i++) rvt_host_costing |= page->host_cost_ns[i] > 0;
}

static void mark(enum rvt_host_cost kind) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  int64_t now_ns = t.tv_sec * 1000000000ll + t.tv_nsec;
  char line[512];
  int n = snprintf(line, sizeof line, "%d %d %lld", (int)getpid(), (int)kind,
                   (long long)(marked_ns ? now_ns - marked_ns : 0));
  for (int i = 0; i < RVT_HOST_COSTS; i++) {
    n += snprintf(line + n, sizeof line - (size_t)n, " %llu", (unsigned long long)done[i]);
    done[i] = 0;
  }
  line[n++] = '\n';
  rvt_internal_begin();
  ssize_t ignored = write(marks_fd, line, (size_t)n);
  (void)ignored;
  rvt_internal_end();
  marked_ns = now_ns;
}

void rvt_host_cost_slow(enum rvt_host_cost kind, uint64_t times) {
  struct rvt_device_page *page = rvt_devices();
  rvt_charge_ns(page->host_cost_ns[kind] * (int64_t)times);
  if (marks_fd < 0) return;
  if (kind == RVT_HOST_STEP || kind == RVT_HOST_OUTPUTS) mark(kind);
  done[kind] += times;
}

/* The API server hands on what it has worked out, often without a system call: libzmq's queues are plain memory unless
 * their reader sleeps. So the time of the work passes before; carried on, it would be spent or not by who is quicker.
 */
static bool hands_on(uint32_t kind) { return kind == RVT_HOST_INPUT || kind == RVT_HOST_OUTPUT; }

/* Called by an observer: the thread did work of this kind so many times. Unknown kinds are ignored: an observer may
 * be newer than the library. */
RVT_API void revati_observe_host(uint32_t kind, uint64_t times) {
  if (!rvt_host_costing || kind >= RVT_HOST_COSTS) return;
  rvt_host_cost_slow((enum rvt_host_cost)kind, times);
  if (hands_on(kind)) rvt_wait_until_ns(0, "host time");
}
