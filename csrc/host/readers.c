/* Large proofs are read by two threads: while the programs wait, a core has nothing else to do. The second thread is
 * woken for a batch and takes what is left of it when it arrives. */
#include "host.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RVT_WORTH_A_WAKE 32 /* reads of some 2 us each; the second thread arrives some 30 us late */

static void take(struct rvt_readers *readers) {
  for (;;) {
    int at = __atomic_fetch_add(&readers->next, 1, __ATOMIC_SEQ_CST);
    if (at >= readers->count) return;
    enum rvt_kernel verdict = rvt_proof_look(readers->host, readers->batch[at]);
    readers->verdicts[at] = (uint8_t)verdict;
    if (verdict != RVT_KERNEL_BLOCKED && verdict != RVT_KERNEL_OTHER) rvt_store(&readers->next, readers->count);
  }
}

static void *second_reader(void *opaque) {
  struct rvt_readers *readers = opaque;
  while (!rvt_load(&readers->stop)) {
    uint32_t seen = rvt_load(&readers->batches);
    __atomic_add_fetch(&readers->inside, 1, __ATOMIC_SEQ_CST);
    if (rvt_load(&readers->open)) take(readers);
    __atomic_sub_fetch(&readers->inside, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &readers->batches, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, seen, NULL, NULL, 0);
  }
  return NULL;
}

static void wake(struct rvt_readers *readers) {
  __atomic_add_fetch(&readers->batches, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &readers->batches, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

void rvt_readers_start(struct rvt_host *host) {
  struct rvt_readers *readers = &host->readers;
  readers->host = host;
  readers->on = sysconf(_SC_NPROCESSORS_ONLN) > 1 && !pthread_create(&readers->thread, NULL, second_reader, readers);
}

void rvt_readers_end(struct rvt_host *host) {
  struct rvt_readers *readers = &host->readers;
  if (!readers->on) return;
  readers->on = false;
  rvt_store(&readers->stop, 1);
  wake(readers);
  pthread_join(readers->thread, NULL);
}

enum rvt_kernel rvt_readers_read(struct rvt_host *host, int count, int *culprit) {
  struct rvt_readers *readers = &host->readers;
  for (int i = 0; i < count; i++) readers->verdicts[i] = RVT_KERNEL_BLOCKED;
  readers->count = count;
  rvt_store(&readers->next, 0);
  bool both = readers->on && count >= RVT_WORTH_A_WAKE;
  if (both) {
    rvt_store(&readers->open, 1);
    wake(readers);
  }
  take(readers);
  rvt_store(&readers->open, 0); /* who is not inside by now does not come in any more */
  while (both && rvt_load(&readers->inside)) sched_yield();
  enum rvt_kernel worst = RVT_KERNEL_BLOCKED;
  for (int i = 0; i < count; i++) {
    if (readers->verdicts[i] == RVT_KERNEL_BLOCKED) continue;
    *culprit = readers->batch[i];
    worst = (enum rvt_kernel)readers->verdicts[i];
    if (worst != RVT_KERNEL_OTHER) return worst;
  }
  return worst;
}
