/* What single libraries need: libzmq's cycle counter, and periodic timers that do nothing. */
#include "internal.h"

#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* libzmq caches the time until the cycle counter has moved; a jump moves no counter. `rdtsc; shl rdx,32; mov
 * eax,eax` becomes "no counter" (zero), which libzmq knows. */
static const unsigned char zmq_rdtsc[] = {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x89, 0xc0};
static const unsigned char zmq_zero[] = {0x31, 0xc0, 0x31, 0xd2, 0x90, 0x90, 0x90, 0x90};

static bool patch(unsigned char *at) {
  uintptr_t first = (uintptr_t)at & ~4095ul;
  size_t bytes = ((uintptr_t)at + sizeof(zmq_zero) - first + 4095) & ~4095ul;
  if (mprotect((void *)first, bytes, PROT_READ | PROT_WRITE | PROT_EXEC)) return false;
  memcpy(at, zmq_zero, sizeof(zmq_zero));
  mprotect((void *)first, bytes, PROT_READ | PROT_EXEC);
  return true;
}

static int patch_object(struct dl_phdr_info *info, size_t size, void *data) {
  const char *name = strrchr(info->dlpi_name, '/');
  if (!name || !strstr(name, "libzmq")) return 0;
  int *found = data;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
    if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X)) continue;
    unsigned char *start = (unsigned char *)info->dlpi_addr + segment->p_vaddr;
    unsigned char *end = start + segment->p_memsz;
    unsigned char *at = start;
    while ((at = memmem(at, (size_t)(end - at), zmq_rdtsc, sizeof(zmq_rdtsc)))) {
      if (!patch(at)) rvt_fail("libzmq's time stamp counter cannot be switched off in %s", info->dlpi_name);
      (*found)++;
    }
  }
  return 0;
}

static int count_loads(struct dl_phdr_info *info, size_t size, void *data) {
  *(unsigned long long *)data = info->dlpi_adds;
  return 1;
}

void rvt_zmq_check(void) { /* called when a thread is created: libzmq makes threads before it waits */
#if defined(__x86_64__)
  static unsigned long long seen;
  unsigned long long loads = 0;
  dl_iterate_phdr(count_loads, &loads);
  if (__atomic_exchange_n(&seen, loads, __ATOMIC_SEQ_CST) == loads) return;
  int found = 0;
  dl_iterate_phdr(patch_object, &found);
#endif
}

/* CPython itself waits on a condition variable with a time-out only for its global lock: after 5 ms it asks the
 * holder to give it up. */
bool rvt_from_python(const void *caller) {
  static __thread const void *last;
  static __thread bool answer;
  if (last == caller) return answer;
  last = caller;
  Dl_info info;
  answer = false;
  if (!dladdr(caller, &info) || !info.dli_fname) return false;
  const char *name = strrchr(info.dli_fname, '/');
  name = name ? name + 1 : info.dli_fname;
  answer = !strncmp(name, "libpython", 9) || !strncmp(name, "python", 6);
  return answer;
}

/* Idle timers: "library-substring:timeout_ms ..." in the page. The caller's address decides; answers are kept. */
struct verdict {
  const void *caller;
  int64_t delay_ns;
  bool idle;
};
bool rvt_idle_timer(const void *caller, int64_t delay_ns) {
  if (rvt_the_page->idle_stretch <= 1) return false;
  static __thread struct verdict verdicts[4];
  struct verdict *verdict = &verdicts[((uintptr_t)caller >> 4) & 3];
  if (verdict->caller == caller && verdict->delay_ns == delay_ns) return verdict->idle;
  verdict->caller = caller;
  verdict->delay_ns = delay_ns;
  verdict->idle = false;
  Dl_info info;
  if (!dladdr(caller, &info) || !info.dli_fname) return false;
  char rules[sizeof(rvt_the_page->idle_timers)];
  memcpy(rules, rvt_the_page->idle_timers, sizeof(rules));
  char *next = rules, *rule;
  while ((rule = strsep(&next, " "))) {
    char *colon = strrchr(rule, ':');
    if (!colon) continue;
    *colon = 0;
    if (strstr(info.dli_fname, rule) && atoll(colon + 1) * 1000000 == delay_ns) verdict->idle = true;
  }
  return verdict->idle;
}
