/* See core.h. */
#include "core.h"

#include <assert.h>
#include <stdlib.h>

/* With nothing but busy-pollers the clock creeps: their hidden deadlines are seen at most this late. */
#define RVT_EPSILON_NS 1000000

void rvt_core_init(struct rvt_core *core, int64_t now_ns, uint32_t rounds_needed, enum rvt_order order) {
  *core = (struct rvt_core){.now_ns = now_ns, .rounds_needed = rounds_needed, .round_ns = now_ns - 1, .order = order};
}

/* A loop that reads the clock may look at memory as well (vLLM's shm ring does), so it gets its rounds, too. */
static bool is_spinner(const struct rvt_view *view) {
  return view->kind == RVT_WAIT_SPIN || view->kind == RVT_WAIT_CLOCK;
}

static bool before(const struct rvt_view *a, const struct rvt_view *b) {
  if (a->deadline_ns != b->deadline_ns) return a->deadline_ns < b->deadline_ns;
  if (a->order != b->order) return a->order < b->order;
  return a->index < b->index;
}

/* Has anybody done anything since the last step? */
static void note_activity(struct rvt_core *core, const struct rvt_view *views, int count) {
  uint64_t activity = 0; /* a hash: in a plain sum one thread's end could hide another's deed */
  for (int i = 0; i < count; i++) {
    uint64_t x = views[i].order ^ (uint64_t)views[i].index << 40 ^ (uint64_t)views[i].events << 8;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    activity += x ^ (x >> 31);
  }
  core->acted |= activity != core->activity;
  core->activity = activity;
}

/* A round is owed after every move of the clock and after everything that anybody did: a busy-poller could see
 * it. It is over when `rounds_needed` rounds in a row changed nothing. */
static bool round_owed(struct rvt_core *core) {
  if (core->acted || core->now_ns != core->round_ns) {
    core->acted = false;
    core->round_ns = core->now_ns;
    core->rounds_clean = 0;
    return true;
  }
  return ++core->rounds_clean < core->rounds_needed;
}

static bool woken_before(const struct rvt_view *a, const struct rvt_view *b) {
  return a->turn != b->turn ? a->turn < b->turn : before(a, b);
}

int rvt_core_turn(const struct rvt_view *views, int count) {
  int turn = -1;
  for (int i = 0; i < count; i++)
    if (views[i].kind == RVT_WAIT_TURN && (turn < 0 || woken_before(&views[i], &views[turn]))) turn = i;
  return turn;
}

static bool identity_before(uint64_t order, int32_t index, const struct rvt_view *b) {
  return order != b->order ? order < b->order : index < b->index;
}

/* The next busy-poller of a round, in the order of identities; -1: all have looked. */
static int next_of_round(struct rvt_core *core, const struct rvt_view *views, int count) {
  int next = -1;
  for (int i = 0; i < count; i++) {
    if (!is_spinner(&views[i])) continue;
    if (core->in_round && !identity_before(core->round_order, core->round_index, &views[i])) continue;
    if (next < 0 || identity_before(views[i].order, views[i].index, &views[next])) next = i;
  }
  core->in_round = next >= 0;
  if (next >= 0) core->round_order = views[next].order, core->round_index = views[next].index;
  return next;
}

/* Lets the busy-pollers look: all at once, or the first of them. */
static enum rvt_step begin_round(struct rvt_core *core, const struct rvt_view *views, int count, int *picks,
                                 int *picked) {
  if (core->order == RVT_ORDER_TURNS) {
    core->in_round = false;
    picks[(*picked)++] = next_of_round(core, views, count);
    return RVT_STEP_ROUND;
  }
  for (int i = 0; i < count; i++)
    if (is_spinner(&views[i])) picks[(*picked)++] = i;
  return RVT_STEP_ROUND;
}

enum rvt_step rvt_core_step(struct rvt_core *core, const struct rvt_view *views, int count, int64_t cap_ns, int *picks,
                            int *picked) {
  int first = -1, turn = rvt_core_turn(views, count);
  bool spinners = false;
  for (int i = 0; i < count; i++) {
    spinners |= is_spinner(&views[i]);
    if (views[i].deadline_ns != RVT_FOREVER_NS && (first < 0 || before(&views[i], &views[first]))) first = i;
  }
  *picked = 0;
  note_activity(core, views, count);
  if (turn >= 0) {
    picks[(*picked)++] = turn;
    return RVT_STEP_TURN;
  }
  if (core->in_round && (picks[0] = next_of_round(core, views, count)) >= 0) {
    *picked = 1;
    return RVT_STEP_ROUND;
  }
  if (spinners && round_owed(core)) return begin_round(core, views, count, picks, picked);
  if (first < 0 && !spinners) return RVT_STEP_IDLE;
  int64_t target_ns = first >= 0 ? views[first].deadline_ns : core->now_ns + RVT_EPSILON_NS;
  if (target_ns > cap_ns) {
    if (cap_ns > core->now_ns) core->now_ns = cap_ns;
    return RVT_STEP_CAP;
  }
  if (target_ns > core->now_ns) core->now_ns = target_ns;
  if (first < 0) { /* the clock moved: the next step owes the round */
    core->round_ns = core->now_ns;
    core->rounds_clean = 0;
    return begin_round(core, views, count, picks, picked);
  }
  if (core->order != RVT_ORDER_ANY) {
    picks[(*picked)++] = first;
  } else {
    for (int i = 0; i < count; i++)
      if (views[i].deadline_ns <= core->now_ns) picks[(*picked)++] = i;
  }
  assert(*picked > 0);
  return RVT_STEP_FIRE;
}
