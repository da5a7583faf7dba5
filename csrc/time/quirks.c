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

/* Idle timers: "library-substring:timeout_ms ..." in the page, read once. The time-out is compared first, then the
 * library that the call comes from; the last answers are kept. */
struct rule {
  char library[48];
  int64_t delay_ns;
};
#define RVT_RULES 16
static struct rule rules[RVT_RULES];
static int rule_count = -1;

static void read_rules(void) {
  char text[sizeof(rvt_the_page->idle_timers)];
  memcpy(text, rvt_the_page->idle_timers, sizeof(text));
  text[sizeof(text) - 1] = 0;
  int count = 0;
  for (char *next = text, *rule; count < RVT_RULES && (rule = strsep(&next, " "));) {
    char *colon = strrchr(rule, ':');
    if (!colon || colon == rule || colon - rule >= (long)sizeof(rules[0].library)) continue;
    memcpy(rules[count].library, rule, (size_t)(colon - rule));
    rules[count].delay_ns = atoll(colon + 1) * 1000000;
    count++;
  }
  rvt_store(&rule_count, count);
}

struct verdict {
  const void *caller;
  int64_t delay_ns;
  bool idle;
};

bool rvt_idle_timer(const void *caller, int64_t delay_ns) {
  if (rvt_the_page->idle_stretch <= 1) return false;
  if (RVT_UNLIKELY(rvt_load(&rule_count) < 0)) read_rules();
  bool candidate = false;
  for (int i = 0; i < rule_count; i++) candidate |= rules[i].delay_ns == delay_ns;
  if (RVT_LIKELY(!candidate)) return false;
  static __thread struct verdict verdicts[4];
  struct verdict *verdict = &verdicts[((uintptr_t)caller >> 4) & 3];
  if (verdict->caller == caller && verdict->delay_ns == delay_ns) return verdict->idle;
  *verdict = (struct verdict){caller, delay_ns, false};
  Dl_info info;
  if (!dladdr(caller, &info) || !info.dli_fname) return false;
  const char *name = strrchr(info.dli_fname, '/');
  name = name ? name + 1 : info.dli_fname;
  for (int i = 0; i < rule_count; i++)
    if (rules[i].delay_ns == delay_ns && strstr(name, rules[i].library)) verdict->idle = true;
  return verdict->idle;
}
