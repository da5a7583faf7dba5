/* Keeps the CPUs awake while hand-overs follow each other closely.
 *
 * A hand-over wakes a thread, as a rule on a CPU that has nothing to do. Virtual machines halt such a CPU, and waking
 * it up again is the hypervisor's business, which takes 20 to 30 us (scripts/bench), several times in every step of a
 * served engine. So a thread of SCHED_IDLE priority runs on every CPU meanwhile; it gives way to anything else. Virtual
 * time does not know of it. */
#include "host.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RVT_CLOSELY_NS 10000000 /* hand-overs at most so far apart ... */
#define RVT_AWAKE_NS 50000000   /* ... keep the CPUs awake for so long */
#define RVT_PAUSES 64           /* between two looks at the time: some us */

static bool wanted(struct rvt_awake *awake) {
  return rvt_real_ns() < rvt_load(&awake->until_ns) && !rvt_load(&awake->stop);
}

static void *stay_awake(void *opaque) {
  struct rvt_awake *awake = opaque;
  struct sched_param none = {0};
  if (sched_setscheduler(0, SCHED_IDLE, &none)) return NULL;
  while (!rvt_load(&awake->stop)) {
    while (wanted(awake))
      for (int i = 0; i < RVT_PAUSES; i++) __builtin_ia32_pause();
    uint32_t seen = rvt_load(&awake->called);
    __atomic_add_fetch(&awake->dozing, 1, __ATOMIC_SEQ_CST);
    if (!wanted(awake) && !rvt_load(&awake->stop))
      syscall(SYS_futex, &awake->called, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, seen, NULL, NULL, 0);
    __atomic_sub_fetch(&awake->dozing, 1, __ATOMIC_SEQ_CST);
  }
  return NULL;
}

static void call(struct rvt_awake *awake) {
  __atomic_add_fetch(&awake->called, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &awake->called, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, NULL, NULL, 0);
}

static bool start_on(struct rvt_awake *awake, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  bool started = !pthread_attr_setaffinity_np(&attributes, sizeof(set), &set) &&
                 !pthread_create(&awake->threads[awake->count], &attributes, stay_awake, awake);
  pthread_attr_destroy(&attributes);
  awake->count += started;
  return started;
}

void rvt_awake_start(struct rvt_host *host) {
  struct rvt_awake *awake = &host->awake;
  cpu_set_t allowed;
  if (!host->options.keep_awake || sched_getaffinity(0, sizeof(allowed), &allowed)) return;
  for (int cpu = 0; cpu < CPU_SETSIZE && awake->count < RVT_AWAKE_MOST; cpu++)
    if (CPU_ISSET(cpu, &allowed) && !start_on(awake, cpu)) break;
}

void rvt_awake_end(struct rvt_host *host) {
  struct rvt_awake *awake = &host->awake;
  rvt_store(&awake->stop, 1);
  if (awake->count) call(awake);
  while (awake->count) pthread_join(awake->threads[--awake->count], NULL);
}

void rvt_awake_handed_over(struct rvt_host *host) {
  struct rvt_awake *awake = &host->awake;
  if (!awake->count) return;
  int64_t now_ns = rvt_real_ns(), before_ns = awake->last_ns;
  awake->last_ns = now_ns;
  if (now_ns - before_ns > RVT_CLOSELY_NS) return;
  rvt_store(&awake->until_ns, now_ns + RVT_AWAKE_NS);
  if (rvt_load(&awake->dozing)) call(awake);
}
