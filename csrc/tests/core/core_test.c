/* Seeded schedules against the pure clock core: fake threads sleep, poll, change and leave at random; after every
 * step the promises of core.h are checked. No clock, no threads, no I/O: a million steps a second.
 *
 * core_test [--steps N] [--seeds N]. Prints one line; exit code 1 names seed, step and the broken promise.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../host/core.h"

#define MAX 64

static uint64_t state;
static uint32_t draw(uint32_t below) {
  uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return (uint32_t)((z ^ (z >> 31)) >> 32) % below;
}

static uint64_t seed, at_step;
#define PROMISE(what, condition)                                                           \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      fprintf(stderr, "core: seed %llu step %llu: broken: %s\n", (unsigned long long)seed, \
              (unsigned long long)at_step, what);                                          \
      exit(1);                                                                             \
    }                                                                                      \
  } while (0)

static bool polls(const struct rvt_view *view) { return view->kind == RVT_WAIT_SPIN || view->kind == RVT_WAIT_CLOCK; }

static bool turns; /* of the run */

static struct rvt_view fresh(int64_t now_ns, int index) {
  struct rvt_view view = {.index = index, .order = draw(5), .kind = RVT_WAIT_COND, .deadline_ns = RVT_FOREVER_NS};
  switch (draw(7)) {
  case 6:
    if (!turns) break;
    view.kind = RVT_WAIT_TURN;
    view.deadline_ns = now_ns;
    view.turn = draw(3);
    break;
  case 0:
    view.kind = RVT_WAIT_SPIN;
    if (draw(2)) view.deadline_ns = now_ns + draw(1000);
    break;
  case 1:
  case 2: break;                                                                  /* untimed */
  default: view.kind = RVT_WAIT_SLEEP; view.deadline_ns = now_ns + draw(4) * 100; /* many ties, some due at once */
  }
  return view;
}

struct run {
  struct rvt_core core;
  struct rvt_view views[MAX];
  int count;
  bool changed;         /* somebody acted since the last round */
  int rounds;           /* given since then */
  int64_t looked_ns;    /* clock at the last round */
  uint32_t events[MAX]; /* a slot's count goes on under its next owner, as in the page */
  uint64_t digest;
};

static void check_fire(struct run *run, int64_t before_ns, const int *picks, int picked, int64_t cap_ns) {
  PROMISE("a fire wakes somebody", picked > 0);
  const struct rvt_view *first = &run->views[picks[0]];
  bool any = run->core.order == RVT_ORDER_ANY;
  for (int i = 0; i < picked; i++)
    PROMISE("only due deadlines are fired", run->views[picks[i]].deadline_ns <= run->core.now_ns);
  for (int i = 0; i < run->count; i++) {
    const struct rvt_view *view = &run->views[i];
    PROMISE("no earlier deadline is passed over", view->deadline_ns >= first->deadline_ns || any);
    PROMISE("ties go by stable identity", any || view->deadline_ns > first->deadline_ns || view->order >= first->order);
    if (any && view->deadline_ns <= run->core.now_ns) {
      bool fired = false;
      for (int k = 0; k < picked; k++) fired |= picks[k] == i;
      PROMISE("concurrent firing leaves nobody due behind", fired);
    }
  }
  PROMISE("serial firing fires one", any || picked == 1);
  PROMISE("the clock stops at the first deadline",
          run->core.now_ns == (first->deadline_ns > before_ns ? first->deadline_ns : before_ns));
  PROMISE("the cap holds", run->core.now_ns <= cap_ns || run->core.now_ns == before_ns);
}

static void act(struct run *run, int i) { /* the thread runs and waits anew */
  uint32_t events = run->views[i].events;
  bool was_poller = polls(&run->views[i]);
  run->views[i] = fresh(run->core.now_ns, run->views[i].index);
  run->views[i].events = events + (was_poller && polls(&run->views[i]) ? 0 : 1);
  run->changed |= run->views[i].events != events;
}

static void one_step(struct run *run) {
  int picks[MAX], picked = 0;
  bool pollers = false;
  int64_t before_ns = run->core.now_ns, first_ns = RVT_FOREVER_NS;
  for (int i = 0; i < run->count; i++) {
    pollers |= polls(&run->views[i]);
    if (run->views[i].deadline_ns < first_ns) first_ns = run->views[i].deadline_ns;
  }
  int64_t cap_ns = draw(4) ? RVT_FOREVER_NS : before_ns + draw(200);
  enum rvt_step step = rvt_core_step(&run->core, run->views, run->count, cap_ns, picks, &picked);
  run->digest = (run->digest ^ (uint64_t)run->core.now_ns ^ (uint64_t)step << 60 ^ (uint64_t)picked) * 1099511628211ull;
  PROMISE("the clock never goes back", run->core.now_ns >= before_ns);
  switch (step) {
  case RVT_STEP_FIRE:
    check_fire(run, before_ns, picks, picked, cap_ns);
    PROMISE("pollers have looked since the last change", !pollers || !run->changed);
    PROMISE("pollers have looked at this time", !pollers || run->looked_ns == before_ns);
    act(run, picks[draw((uint32_t)picked)]);
    break;
  case RVT_STEP_ROUND:
    PROMISE("rounds are for pollers", picked > 0);
    for (int i = 0; i < picked; i++) PROMISE("rounds wake pollers only", polls(&run->views[picks[i]]));
    int expected = 0;
    for (int i = 0; i < run->count; i++) expected += polls(&run->views[i]);
    PROMISE("a round is for every poller, or one by one", picked == (turns ? 1 : expected));
    run->rounds = run->changed ? 1 : run->rounds + 1;
    run->changed = false;
    run->looked_ns = run->core.now_ns;
    if (draw(6) == 0) act(run, picks[draw((uint32_t)picked)]); /* it saw something */
    break;
  case RVT_STEP_TURN:
    PROMISE("turns are for those who wait for one", picked == 1 && run->views[picks[0]].kind == RVT_WAIT_TURN);
    for (int i = 0; i < run->count; i++)
      PROMISE("who was woken first goes first",
              run->views[i].kind != RVT_WAIT_TURN || run->views[i].turn >= run->views[picks[0]].turn);
    PROMISE("a turn moves no clock", run->core.now_ns == before_ns);
    act(run, picks[0]);
    break;
  case RVT_STEP_IDLE:
    PROMISE("idle means no deadline", first_ns == RVT_FOREVER_NS);
    PROMISE("idle means no poller", !pollers);
    PROMISE("idle moves no clock", run->core.now_ns == before_ns);
    for (int i = 0; i < run->count; i++) run->events[i] = run->views[i].events + 1;
    run->count = 0;
    break;
  case RVT_STEP_CAP:
    PROMISE("capped only before the next deadline", first_ns > cap_ns || first_ns == RVT_FOREVER_NS);
    PROMISE("the clock goes to the cap", run->core.now_ns == (cap_ns > before_ns ? cap_ns : before_ns));
    break;
  }
}

static uint64_t run_seed(uint64_t number, uint64_t steps, enum rvt_order order) {
  struct run run = {.changed = true};
  seed = number;
  state = number * 2654435761u + order;
  turns = order == RVT_ORDER_TURNS;
  rvt_core_init(&run.core, 1000, 2, order);
  for (at_step = 0; at_step < steps; at_step++) {
    if (run.count < 2 || (run.count < MAX && draw(20) == 0)) {
      run.views[run.count] = fresh(run.core.now_ns, run.count);
      run.views[run.count].events = run.events[run.count];
      run.count++;
      run.changed = true;
    } else if (draw(40) == 0) { /* a thread ends: the last one, so that indices stay dense */
      run.count--;
      run.events[run.count] = run.views[run.count].events + 1;
      run.changed = true;
    }
    one_step(&run);
  }
  return run.digest;
}

int main(int argc, char **argv) {
  uint64_t steps = 2000, seeds = 500;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!strcmp(argv[i], "--steps")) steps = strtoull(argv[i + 1], NULL, 10);
    else if (!strcmp(argv[i], "--seeds")) seeds = strtoull(argv[i + 1], NULL, 10);
  }
  uint64_t digest = 0;
  for (uint64_t number = 1; number <= seeds; number++)
    for (int order = RVT_ORDER_FIRED; order <= RVT_ORDER_ANY; order++) {
      uint64_t first = run_seed(number, steps, (enum rvt_order)order);
      PROMISE("one seed, one schedule", first == run_seed(number, steps, (enum rvt_order)order));
      digest ^= first * (3 * number + (uint64_t)order);
    }
  printf("{\"steps\": %llu, \"seeds\": %llu, \"digest\": \"%016llx\"}\n", (unsigned long long)steps,
         (unsigned long long)seeds, (unsigned long long)digest);
  return 0;
}
