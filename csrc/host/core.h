/* The pure clock core: given a proven-quiescent world, what happens next. No I/O, no host time, integer
 * nanoseconds; tests drive it with seeded schedules.
 */
#ifndef RVT_HOST_CORE_H
#define RVT_HOST_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "../include/rvt_abi.h"

/* One waiting thread, timer or actor, as the proof saw it. */
struct rvt_view {
  int64_t deadline_ns; /* RVT_FOREVER_NS: none */
  uint64_t turn;       /* RVT_WAIT_TURN: when it was woken */
  uint64_t order;      /* stable identity, breaks ties */
  uint32_t events;     /* effects so far */
  uint32_t kind;       /* enum rvt_wait_kind */
  int32_t index;       /* the caller's */
};

struct rvt_core {
  int64_t now_ns;
  /* busy-pollers */
  uint32_t rounds_needed;
  uint32_t rounds_clean;
  uint64_t activity; /* a hash of what everybody has done */
  bool acted;        /* it has changed since the last round began */
  int64_t round_ns;
  bool in_round; /* one by one: the busy-pollers after this one are still to look */
  uint64_t round_order;
  int32_t round_index;
  enum rvt_order order;
};

enum rvt_step {
  RVT_STEP_FIRE,  /* wake picks[0..count): their deadline is now */
  RVT_STEP_ROUND, /* wake picks[0..count): busy-pollers that may look once more */
  RVT_STEP_TURN,  /* wake picks[0]: it was woken by another and nothing else runs */
  RVT_STEP_IDLE,  /* nobody has a deadline */
  RVT_STEP_CAP,   /* the clock went to cap_ns; nobody is due before it */
};

void rvt_core_init(struct rvt_core *core, int64_t now_ns, uint32_t rounds_needed, enum rvt_order order);

/* Whose turn it is: an index of views, -1 when nobody waits for one. Moves no clock. */
int rvt_core_turn(const struct rvt_view *views, int count);

/* Decides. Moves core->now_ns, never back, never past cap_ns. picks holds count entries of views. */
enum rvt_step rvt_core_step(struct rvt_core *core, const struct rvt_view *views, int count, int64_t cap_ns, int *picks,
                            int *picked);

#endif
