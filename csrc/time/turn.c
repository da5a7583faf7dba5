/* Turns: whoever is woken by another thread goes on when nothing else runs. So what happens at one virtual instant
 * happens one after another, in an order that depends neither on the machine nor on its load: first come, first served,
 * and by identity among those who were woken together. What the coordinator fired has its turn already.
 * docs/adr/0010-turns.md */
#include "internal.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>

/* Somebody may compute for ever, or until this very thread has done something. Nothing that serves requests computes so
 * long without waiting once; measured in CPU time, so that a busy machine changes nothing. */
#define RVT_COMPUTES_NS 500000000ll
#define RVT_POLLED_NS 100000000ll           /* the same, where a busy-poller waits for its round */
#define RVT_LOOK_NS 20000000l               /* real time between two looks at those who run */
#define RVT_TURN_MOST_NS (3 * RVT_NS_PER_S) /* real time: who is stopped, or waits for a disk, takes no CPU time */
#define RVT_RUNNERS 16

struct runner {
  int tid;
  uint32_t seq;
  int64_t cpu_ns; /* when it was first seen since it waited last */
};

static int64_t cpu_ns(int pid, int tid) {
  char text[80];
  snprintf(text, sizeof(text), "/proc/%d/task/%d/schedstat", pid, tid);
  long fd = rvt_raw(SYS_openat, AT_FDCWD, (long)text, O_RDONLY | O_CLOEXEC, 0, 0, 0);
  if (fd < 0) return -1;
  long n = rvt_raw(SYS_read, fd, (long)text, sizeof(text) - 1, 0, 0, 0);
  rvt_raw(SYS_close, fd, 0, 0, 0, 0, 0);
  text[n > 0 ? n : 0] = 0;
  return n > 0 ? atoll(text) : -1;
}

/* Has one of the running threads computed for so long since it was first seen? */
static bool somebody_computes(struct runner *runners, int64_t limit_ns) {
  struct rvt_page *page = rvt_the_page;
  for (uint32_t i = 0; i < rvt_load(&page->slots_high); i++) {
    struct rvt_slot *slot = &page->slots[i];
    int tid = rvt_load(&slot->tid);
    uint32_t seq = rvt_load(&slot->seq);
    if (rvt_state_of(rvt_load(&slot->owner)) != RVT_SLOT_LIVE || seq & 1 || tid <= 0) continue;
    struct runner *runner = runners;
    while (runner < runners + RVT_RUNNERS && runner->tid && runner->tid != tid) runner++;
    if (runner == runners + RVT_RUNNERS) continue;
    int64_t now_ns = cpu_ns(rvt_load(&slot->pid), tid);
    if (now_ns < 0) continue;
    if (!runner->tid || runner->seq != seq) *runner = (struct runner){tid, seq, now_ns};
    else if (now_ns - runner->cpu_ns > limit_ns) return true;
  }
  return false;
}

/* In a marked wait: until the kick comes or a signal; false: it is not waited for any longer. */
static bool await_kick(int64_t limit_ns) {
  struct rvt_slot *slot = rvt_self_tls.slot;
  struct runner runners[RVT_RUNNERS] = {{0, 0, 0}};
  struct timespec look = {0, RVT_LOOK_NS};
  int64_t began_ns = 0;
  uint64_t turn = 0;
  while (rvt_raw(SYS_futex, (long)&slot->kick, FUTEX_WAIT, 0, (long)&look, 0, 0) == -ETIMEDOUT) {
    int64_t real_ns = rvt_host_ns();
    if (!began_ns || turn != rvt_load(&rvt_the_page->turn)) began_ns = real_ns; /* it goes on, for others */
    turn = rvt_load(&rvt_the_page->turn);
    if (limit_ns == RVT_POLLED_NS && rvt_load(&rvt_the_page->still)) return false;
    if (somebody_computes(runners, limit_ns) || real_ns - began_ns > RVT_TURN_MOST_NS) return false;
  }
  return true;
}

void rvt_await_round(void) {
  if (!await_kick(RVT_POLLED_NS) && !rvt_load(&rvt_the_page->still))
    __atomic_add_fetch(&rvt_the_page->turns_lost, 1, __ATOMIC_SEQ_CST);
}

bool rvt_turn(void) {
  struct rvt_page *page = rvt_the_page;
  if (RVT_LIKELY(!page->turns)) return false;
  if (rvt_state_of(rvt_load(&rvt_self_tls.slot->owner)) != RVT_SLOT_LIVE) return false; /* it ends, and holds the run */
  int error = errno;
  uint64_t woken_in = rvt_load(&page->turn);
  for (;;) {
    rvt_block(RVT_WAIT_TURN | RVT_WAIT_COUNTED, rvt_clock_ns(), woken_in);
    bool waits = await_kick(RVT_COMPUTES_NS);
    uint32_t kick = rvt_unblock();
    if (kick == RVT_KICK_TURN) break;
    if (waits) continue;
    __atomic_add_fetch(&page->turns_lost, 1, __ATOMIC_SEQ_CST);
    break;
  }
  errno = error;
  return true;
}
