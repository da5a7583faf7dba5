/* The coordinator: page, loop, control. */
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static __thread char error_text[512];

int rvt_host_fail(const char *format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(error_text, sizeof(error_text), format, list);
  va_end(list);
  return -1;
}

const char *rvt_host_error(void) { return error_text; }
uint32_t rvt_host_abi_version(void) { return RVT_ABI_VERSION; }

static int64_t clock_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t rvt_real_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

/* Timers that only look at a flag: gloo's event loops wake up 100 times a second to see whether to stop, NCCL's
 * watchdogs (one per process group) ten times, with nothing to watch. */
#define RVT_IDLE_TIMERS "libtorch:10 libgloo:10 libtorch:100"

static void defaults(struct rvt_host_options *o) {
  if (!o->charge_ppm) o->charge_ppm = 1000000;
  if (!o->stall_ms) o->stall_ms = 1000;
  if (!o->deadlock_ms) o->deadlock_ms = 3000;
  if (!o->grace_ms) o->grace_ms = 3000;
  if (!o->start_ms) o->start_ms = 30000;
  if (!o->idle_stretch) o->idle_stretch = 1000;
  if (!o->spin_polls) o->spin_polls = 8;
  if (!o->spin_rounds) o->spin_rounds = 2;
  if (!o->idle_timers) o->idle_timers = RVT_IDLE_TIMERS;
  if (!o->start_ns) o->start_ns = clock_ns(CLOCK_MONOTONIC);
  if (!o->realtime_start_ns) o->realtime_start_ns = clock_ns(CLOCK_REALTIME);
}

static int make_page(struct rvt_host *host) {
  host->page_fd = memfd_create("revati", MFD_CLOEXEC);
  if (host->page_fd < 0 || ftruncate(host->page_fd, sizeof(struct rvt_page)))
    return rvt_host_fail("no shared page: %s", strerror(errno));
  host->page = mmap(NULL, sizeof(struct rvt_page), PROT_READ | PROT_WRITE, MAP_SHARED, host->page_fd, 0);
  if (host->page == MAP_FAILED) return rvt_host_fail("no shared page: %s", strerror(errno));
  if (pipe2(host->life_pipe, O_CLOEXEC)) return rvt_host_fail("no pipe: %s", strerror(errno));
  snprintf(host->page_path, sizeof(host->page_path), "/proc/%d/fd/%d", getpid(), host->page_fd);
  struct rvt_page *page = host->page;
  const struct rvt_host_options *o = &host->options;
  page->coordinator_pid = getpid();
  page->lost_fd = (uint32_t)host->life_pipe[0];
  page->policy = o->policy;
  page->charge_ppm = o->charge_ppm;
  page->idle_stretch = o->idle_stretch;
  page->turns = o->order == RVT_ORDER_TURNS;
  page->spin_polls = o->spin_polls;
  page->clock_polls = 100000; /* torch reads the clock some 10000 times while it is imported */
  page->trace = o->trace;
  snprintf(page->idle_timers, sizeof(page->idle_timers), "%s", o->idle_timers);
  if (o->preload && strlen(o->preload) >= sizeof(page->preload))
    return rvt_host_fail("the path of the preload library is too long");
  snprintf(page->preload, sizeof(page->preload), "%s", o->preload ?: "");
  page->now_ns = o->start_ns;
  page->realtime_offset_ns = o->realtime_start_ns - o->start_ns;
  page->device.abi_version = RVT_ABI_VERSION;
  page->page_bytes = sizeof(struct rvt_page);
  page->abi_version = RVT_ABI_VERSION;
  rvt_store(&page->magic, RVT_PAGE_MAGIC);
  return 0;
}

/* A coordinator that reads the clock of another run would wait for itself. */
static bool inside_a_run(void) {
  const char *page = getenv("REVATI_PAGE");
  if (!page || !*page) return false;
  FILE *maps = fopen("/proc/self/maps", "re");
  char line[512];
  bool found = false;
  while (maps && !found && fgets(line, sizeof(line), maps)) found = strstr(line, "/memfd:revati") != NULL;
  if (maps) fclose(maps);
  return found;
}

rvt_host *rvt_host_new(const struct rvt_host_options *options) {
  if (inside_a_run()) {
    rvt_host_fail("this program already runs under the virtual clock; a run inside a run is not supported");
    return NULL;
  }
  if (options->struct_bytes != sizeof(*options)) {
    rvt_host_fail("rvt_host_options has %u bytes in the caller and %zu here: mixed versions", options->struct_bytes,
                  sizeof(*options));
    return NULL;
  }
  struct rvt_host *host = calloc(1, sizeof(*host));
  if (!host) {
    rvt_host_fail("no memory");
    return NULL;
  }
  host->options = *options;
  defaults(&host->options);
  pthread_mutex_init(&host->lock, NULL);
  host->softnet_fd = host->page_fd = host->life_pipe[0] = host->life_pipe[1] = host->init_socket = -1;
  host->run_to_ns = RVT_FOREVER_NS;
  for (int i = 0; i < RVT_MAX_SLOTS; i++)
    host->watch[i].wchan_fd = host->watch[i].syscall_fd = host->watch[i].schedstat_fd = host->watch[i].evfd = -1;
  if (make_page(host) || rvt_init_start(host)) {
    rvt_host_free(host);
    return NULL;
  }
  host->start_ns = host->options.start_ns;
  host->real_start_ns = rvt_real_ns();
  rvt_core_init(&host->core, host->start_ns, host->options.spin_rounds, (enum rvt_order)host->options.order);
  rvt_kernel_try_wchan(host->init_pid);
  rvt_packets_find(host);
  return host;
}

void rvt_host_free(rvt_host *host) {
  if (!host) return;
  if (host->init_socket >= 0) {
    rvt_init_kill_tree(host);
    close(host->init_socket); /* init ends on the hang-up */
    waitpid(host->init_pid, NULL, 0);
  }
  for (int i = 0; i < RVT_MAX_SLOTS; i++) rvt_kernel_unwatch(&host->watch[i]);
  rvt_packets_close(host);
  for (int i = 0; i < 2; i++)
    if (host->life_pipe[i] >= 0) close(host->life_pipe[i]);
  if (host->page && host->page != MAP_FAILED) munmap(host->page, sizeof(struct rvt_page));
  if (host->page_fd >= 0) close(host->page_fd);
  free(host);
}

const char *rvt_host_page_path(rvt_host *host) { return host->page_path; }
struct rvt_device_page *rvt_host_device(rvt_host *host) { return &host->page->device; }
int64_t rvt_host_now_ns(rvt_host *host) { return rvt_load(&host->page->now_ns); }

void rvt_host_poke(struct rvt_host *host) {
  struct rvt_page *page = host->page;
  __atomic_add_fetch(&page->coord_futex, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &page->coord_futex, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Until somebody pokes since `futex` was read, or the limit. */
void rvt_host_sleep(struct rvt_host *host, uint32_t futex, int64_t limit_ns) {
  struct rvt_page *page = host->page;
  struct timespec limit = {limit_ns / 1000000000, limit_ns % 1000000000};
  rvt_store(&page->coord_asleep, 1);
  syscall(SYS_futex, &page->coord_futex, FUTEX_WAIT, futex, &limit, NULL, 0);
  rvt_store(&page->coord_asleep, 0);
}

struct rvt_slot *rvt_host_slot(struct rvt_host *host, enum rvt_slot_state state, uint64_t order) {
  struct rvt_page *page = host->page;
  for (uint32_t i = 0; i < RVT_MAX_SLOTS; i++) {
    struct rvt_slot *slot = &page->slots[i];
    uint64_t owner = rvt_load(&slot->owner);
    if (RVT_STATE(owner) != RVT_SLOT_FREE) continue;
    uint64_t taken = ((owner >> 8) + 1) << 8 | RVT_SLOT_STARTING;
    if (!__atomic_compare_exchange_n(&slot->owner, &owner, taken, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) continue;
    rvt_store(&slot->pid, 0);
    slot->tid = 0;
    slot->parent_pid = 0;
    slot->kind = RVT_WAIT_NONE;
    slot->flags = 0;
    slot->evfd = -1;
    slot->waits = slot->spins = slot->fired = slot->charged_ns = 0;
    slot->order = order;
    slot->events++;
    rvt_store(&slot->deadline_ns, RVT_FOREVER_NS);
    rvt_store(&slot->kick, 0);
    if (slot->seq & 1) rvt_store(&slot->seq, slot->seq + 1);
    __atomic_add_fetch(&page->running, 1, __ATOMIC_SEQ_CST);
    uint32_t high = rvt_load(&page->slots_high);
    while (high < i + 1 &&
           !__atomic_compare_exchange_n(&page->slots_high, &high, i + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    rvt_store(&slot->owner, (taken & ~0xffull) | state);
    return slot;
  }
  return NULL;
}

/* Gives back what a dead process held on the virtual GPUs, and its timers. */
static void release_process(struct rvt_host *host, int pid) {
  char state = rvt_kernel_state(pid, pid);
  if (state != 0 && state != 'Z' && state != 'X') return;
  for (uint32_t i = 0; i < rvt_load(&host->page->timers_high); i++) {
    struct rvt_timer *timer = &host->page->timers[i];
    if (timer->pid != pid || rvt_load(&timer->kind) == RVT_TIMER_FREE) continue;
    rvt_store(&timer->deadline_ns, RVT_FOREVER_NS);
    rvt_store(&timer->kind, RVT_TIMER_FREE);
  }
  struct rvt_device_page *device = &host->page->device;
  for (int i = 0; i < RVT_MAX_GPU_CLIENTS; i++) {
    struct rvt_gpu_client *client = &device->clients[i];
    if (rvt_load(&client->pid) != pid) continue;
    if (client->gpu >= 0 && client->gpu < RVT_MAX_GPUS)
      __atomic_sub_fetch(&device->use[client->gpu].used_bytes, client->used_bytes, __ATOMIC_SEQ_CST);
    client->used_bytes = 0;
    rvt_store(&client->pid, 0);
  }
}

bool rvt_host_reap(struct rvt_host *host, int index, uint64_t owner) {
  struct rvt_slot *slot = &host->page->slots[index];
  int pid = slot->pid;
  uint32_t seq = rvt_load(&slot->seq);
  if (!__atomic_compare_exchange_n(&slot->owner, &owner, owner & ~0xffull, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
    return false;
  if (!(seq & 1)) __atomic_sub_fetch(&host->page->running, 1, __ATOMIC_SEQ_CST);
  __atomic_add_fetch(&host->page->signals, 1, __ATOMIC_SEQ_CST); /* SIGCHLD to its parent, if it was the last */
  rvt_kernel_unwatch(&host->watch[index]);
  if ((uint32_t)index < rvt_load(&host->page->slots_hint)) rvt_store(&host->page->slots_hint, (uint32_t)index);
  if (pid > 0) release_process(host, pid);
  return true;
}

/* ---- programs ---- */

static int spawn(struct rvt_host *host, const char *const *argv, const char *const *env, const char *cwd, int fd_in,
                 int fd_out, int fd_err) {
  const char *preload = host->page->preload;
  if (!*preload) return rvt_host_fail("no preload library was named");
  if (!argv || !argv[0]) return rvt_host_fail("no command");
  size_t count = 0;
  while (env && env[count]) count++;
  const char **full = calloc(count + 3, sizeof(*full));
  char page_var[128], preload_var[PATH_MAX];
  size_t n = 0;
  snprintf(page_var, sizeof(page_var), "REVATI_PAGE=%s", host->page_path);
  snprintf(preload_var, sizeof(preload_var), "LD_PRELOAD=%s", preload);
  for (size_t i = 0; i < count; i++) {
    if (!strncmp(env[i], "REVATI_PAGE=", 12)) continue;
    if (!strncmp(env[i], "LD_PRELOAD=", 11)) {
      if (env[i][11]) snprintf(preload_var, sizeof(preload_var), "LD_PRELOAD=%s:%s", preload, env[i] + 11);
      continue;
    }
    full[n++] = env[i];
  }
  full[n++] = page_var;
  full[n++] = preload_var;
  pthread_mutex_lock(&host->lock);
  struct rvt_slot *slot = rvt_host_slot(host, RVT_SLOT_STARTING, 0x5245564154490000ull + (uint64_t)host->spawned_count);
  int fds[3] = {fd_in, fd_out, fd_err};
  int pid = slot ? rvt_init_spawn(host, argv, full, cwd, fds, (int)(slot - host->page->slots))
                 : rvt_host_fail("no free slot");
  if (pid < 0 && slot) rvt_host_reap(host, (int)(slot - host->page->slots), rvt_load(&slot->owner));
  pthread_mutex_unlock(&host->lock);
  free(full);
  return pid;
}

int rvt_host_spawn(rvt_host *host, const char *const *argv, const char *const *env, const char *cwd, int fd_in,
                   int fd_out, int fd_err) {
  int pid = spawn(host, argv, env, cwd, fd_in, fd_out, fd_err);
  if (pid > 0) host->main_pid = pid;
  return pid;
}

int rvt_host_spawn_more(rvt_host *host, const char *const *argv, const char *const *env, const char *cwd, int fd_in,
                        int fd_out, int fd_err) {
  return spawn(host, argv, env, cwd, fd_in, fd_out, fd_err);
}

static bool spawned_ended(struct rvt_host *host, int pid, int *code) {
  for (int i = 0; i < host->spawned_count; i++) {
    if (host->spawned[i].pid != pid || !host->spawned[i].ended) continue;
    int status = host->spawned[i].status;
    *code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    return true;
  }
  return false;
}

int rvt_host_exit_code(rvt_host *host, int pid, int *code) {
  pthread_mutex_lock(&host->lock);
  rvt_init_collect(host);
  int running = !spawned_ended(host, pid, code);
  pthread_mutex_unlock(&host->lock);
  return running;
}

/* ---- the loop ---- */

static void set_clock(struct rvt_host *host, int64_t now_ns) {
  if (now_ns <= rvt_load(&host->page->now_ns)) return;
  rvt_store(&host->page->now_ns, now_ns);
  host->jumps++;
}

/* While somebody talks to a peer outside the run the clock keeps to real time: nobody can prove what is under way
 * there. Real time in which the programs ran does not count. */
static int64_t external_cap(struct rvt_host *host, int64_t real_ns) {
  if (!host->externals || host->external_waited_ns > RVT_EXTERNAL_MOST_NS) {
    host->external_mark_ns = 0;
    return host->run_to_ns;
  }
  int64_t passed_ns = host->external_mark_ns ? real_ns - host->external_mark_ns : 0;
  host->external_mark_ns = real_ns;
  host->external_waited_ns += passed_ns;
  if (host->external_waited_ns > RVT_EXTERNAL_MOST_NS)
    fprintf(stderr,
            "revati: warning: connections to other hosts have held the clock for %lld s; from now on it does not wait "
            "for them\n",
            RVT_EXTERNAL_MOST_NS / 1000000000);
  int64_t cap_ns = host->core.now_ns + passed_ns;
  return cap_ns < host->run_to_ns ? cap_ns : host->run_to_ns;
}

static void let_go(struct rvt_host *host, const struct rvt_view *views, const int *picks, int picked,
                   enum rvt_step step) {
  uint32_t kick = step == RVT_STEP_FIRE ? RVT_KICK_FIRED : step == RVT_STEP_TURN ? RVT_KICK_TURN : RVT_KICK_ROUND;
  const char *name = step == RVT_STEP_FIRE ? "fires" : step == RVT_STEP_TURN ? "turn" : "round";
  host->backoff_ns = 0;
  rvt_awake_handed_over(host);
  host->turns += step == RVT_STEP_TURN;
  rvt_store(&host->page->turn, host->page->turn + 1);
  for (int i = 0; i < picked; i++) {
    if (host->options.trace) rvt_trace(host, &views[picks[i]], name);
    rvt_fire(host, &views[picks[i]], kick);
  }
}

/* Everything is proved to wait: one step of the core. */
static void step(struct rvt_host *host, const struct rvt_view *views, int count) {
  static int picks[RVT_MAX_SLOTS + RVT_MAX_TIMERS];
  int picked;
  int64_t real_ns = rvt_real_ns();
  int64_t cap_ns = external_cap(host, real_ns);
  bool held = cap_ns < host->run_to_ns;
  enum rvt_step step = rvt_core_step(&host->core, views, count, cap_ns, picks, &picked);
  set_clock(host, host->core.now_ns);
  if (held && (step == RVT_STEP_CAP || step == RVT_STEP_IDLE)) {
    host->last_jump_real_ns = real_ns;
    return;
  }
  if (step == RVT_STEP_CAP) {
    host->run_to_ns = RVT_FOREVER_NS;
    host->paused = true;
    return;
  }
  if (step == RVT_STEP_IDLE) {
    if (!host->idle_since_real_ns) host->idle_since_real_ns = real_ns;
    host->backoff_ns = 2000000;
    return;
  }
  host->idle_since_real_ns = 0;
  host->last_jump_real_ns = real_ns;
  host->rounds += step == RVT_STEP_ROUND;
  if (host->steps && step == RVT_STEP_FIRE && --host->steps == 0) host->paused = true;
  let_go(host, views, picks, picked, step);
}

/* Those who wait for a turn, whatever else there is: for when no proof is to be had. */
static int waiting_for_turns(struct rvt_host *host, struct rvt_view *views) {
  int count = 0;
  uint32_t high = rvt_load(&host->page->slots_high);
  for (uint32_t i = 0; i < high; i++) {
    struct rvt_slot *slot = &host->page->slots[i];
    bool waits = RVT_STATE(rvt_load(&slot->owner)) == RVT_SLOT_LIVE && rvt_load(&slot->seq) & 1;
    if (!waits || (slot->kind & 0xff) != RVT_WAIT_TURN || rvt_load(&slot->kick)) continue;
    views[count++] =
        (struct rvt_view){.kind = RVT_WAIT_TURN, .turn = slot->what, .order = slot->order, .index = (int32_t)i};
  }
  return count;
}

/* The clock stands (paused, held, or an actor works): turns are given all the same, else nobody would answer an actor.
 */
static bool step_in_place(struct rvt_host *host, const struct rvt_view *views, int count) {
  int pick = rvt_core_turn(views, count);
  if (pick >= 0) let_go(host, views, &pick, 1, RVT_STEP_TURN);
  return pick >= 0;
}

/* Where no proof is to be had for some time: one that opens a FIFO, say, may wait for the very thread whose turn it is.
 */
static void turn_without_proof(struct rvt_host *host, struct rvt_view *views, enum rvt_proof proof, int64_t now_ns) {
  if (proof != RVT_UNCERTAIN) host->uncertain_since_ns = 0;
  else if (!host->uncertain_since_ns) host->uncertain_since_ns = now_ns;
  else if (host->page->turns && now_ns - host->uncertain_since_ns > RVT_UNCERTAIN_MOST_NS &&
           step_in_place(host, views, waiting_for_turns(host, views)))
    host->last_jump_real_ns = now_ns;
}

static void end_with(struct rvt_host *host, struct rvt_host_end *end, enum rvt_host_reason reason, const char *format,
                     ...) {
  end->reason = reason;
  va_list list;
  va_start(list, format);
  int n = vsnprintf(end->text, sizeof(end->text), format, list);
  va_end(list);
  if (reason == RVT_END_DEADLOCK || reason == RVT_END_STALL)
    rvt_report(host, end->text + n, sizeof(end->text) - (size_t)n);
}

/* Ends that do not depend on the clock. True: leave the loop. */
static bool check_ends(struct rvt_host *host, struct rvt_host_end *end, int64_t *main_ended_ns) {
  const struct rvt_host_options *o = &host->options;
  int64_t real_ns = rvt_real_ns();
  if (rvt_init_collect(host)) {
    end_with(host, end, RVT_END_ERROR, "the init process of the run died");
    return true;
  }
  if (host->stop) {
    end_with(host, end, RVT_END_STOPPED, "%s", host->stop_text);
    return true;
  }
  if (!*main_ended_ns && host->main_pid && spawned_ended(host, host->main_pid, &end->exit_code))
    *main_ended_ns = real_ns;
  if (*main_ended_ns && (real_ns - *main_ended_ns > o->grace_ms * 1000000ll || rvt_init_tree_empty(host))) {
    end_with(host, end, RVT_END_EXIT, "the program ended with code %d", end->exit_code);
    return true;
  }
  if (o->limit_virtual_ns && host->core.now_ns - host->start_ns > o->limit_virtual_ns) {
    end_with(host, end, RVT_END_LIMIT, "the limit of %.3f virtual seconds has passed",
             (double)o->limit_virtual_ns / 1e9);
    return true;
  }
  if (o->limit_real_ms && real_ns - host->real_start_ns > o->limit_real_ms * 1000000ll) {
    end_with(host, end, RVT_END_LIMIT, "the limit of %.3f real seconds has passed", (double)o->limit_real_ms / 1e3);
    return true;
  }
  if (host->idle_since_real_ns && o->deadlock_ms > 0 &&
      real_ns - host->idle_since_real_ns > o->deadlock_ms * 1000000ll && !host->actors && !host->holds &&
      !host->paused && !host->externals) {
    end_with(host, end, RVT_END_DEADLOCK, "deadlock: every thread waits and no wait has a time-out\n");
    return true;
  }
  return false;
}

/* While something runs there is nothing to prove: the thread that blocks last wakes us. The hint can be wrong (a
 * killed process, a wait that nobody marked), so the waiting has limits that grow. */
#define RVT_BACKOFF_MOST_NS 4000000
#define RVT_BACKOFF_LEAST_NS 40000

static bool something_runs(struct rvt_host *host) {
  return rvt_load(&host->page->running) > rvt_load(&host->page->idle_level);
}

static void wait_for_change(struct rvt_host *host, uint32_t futex) {
  host->backoff_ns = host->backoff_ns ? host->backoff_ns * 2 : RVT_BACKOFF_LEAST_NS;
  if (host->backoff_ns > RVT_BACKOFF_MOST_NS) host->backoff_ns = RVT_BACKOFF_MOST_NS;
  if (host->ending && host->backoff_ns > 4 * RVT_BACKOFF_LEAST_NS) host->backoff_ns = 4 * RVT_BACKOFF_LEAST_NS;
  rvt_host_sleep(host, futex, host->backoff_ns);
}

/* Who runs pokes us when it blocks: to look earlier is of no use. Where nobody does, the next look is a proof. */
static void wait_for_runners(struct rvt_host *host, uint32_t futex) {
  rvt_host_sleep(host, futex, RVT_BACKOFF_MOST_NS);
  host->backoff_ns = something_runs(host) ? RVT_BACKOFF_MOST_NS : 0;
}

static void notice_leavers(struct rvt_host *host) {
  uint32_t leavers = rvt_load(&host->page->leavers);
  host->ending |= leavers != host->leavers;
  host->leavers = leavers;
}

/* The loop is over: everybody who waits for the run learns it, and what is left of the tree is killed. */
static int finish(struct rvt_host *host, struct rvt_host_end *end) {
  rvt_readers_end(host);
  rvt_awake_end(host);
  host->ended = end->reason;
  rvt_store(&host->page->failed, 1);
  __atomic_add_fetch(&host->actor_wake, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &host->actor_wake, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, NULL, NULL, 0);
  pthread_mutex_lock(&host->lock);
  end->killed = rvt_init_kill_tree(host);
  pthread_mutex_unlock(&host->lock);
  end->virtual_ns = host->core.now_ns - host->start_ns;
  end->real_ns = rvt_real_ns() - host->real_start_ns;
  return end->reason;
}

int rvt_host_run(rvt_host *host, struct rvt_host_end *end) {
  memset(end, 0, offsetof(struct rvt_host_end, text) + 1);
  end->exit_code = -1;
  prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0); /* short sleeps are short */
  static struct rvt_view views[RVT_MAX_SLOTS + RVT_MAX_TIMERS];
  int64_t main_ended_ns = 0, checked_ns = 0;
  host->last_jump_real_ns = host->last_runnable_real_ns = rvt_real_ns();
  rvt_readers_start(host);
  rvt_awake_start(host);
  for (;;) {
    uint32_t futex = rvt_load(&host->page->coord_futex);
    int64_t real_ns = rvt_real_ns();
    if (real_ns - checked_ns > 2000000) {
      checked_ns = real_ns;
      pthread_mutex_lock(&host->lock);
      bool leave = check_ends(host, end, &main_ended_ns);
      pthread_mutex_unlock(&host->lock);
      if (leave) break;
    }
    bool still = host->paused || host->holds;
    if (still) {
      host->last_jump_real_ns = real_ns;
      host->external_mark_ns = 0;
    }
    if (still && !host->page->turns) {
      rvt_host_sleep(host, futex, 20000000);
      continue;
    }
    notice_leavers(host);
    if (something_runs(host) && !host->ending && host->backoff_ns < RVT_BACKOFF_MOST_NS) {
      wait_for_runners(host, futex);
      continue;
    }
    int count;
    int64_t before_ns = rvt_real_ns();
    pthread_mutex_lock(&host->lock);
    enum rvt_proof proof = rvt_prove(host, views, &count);
    if (proof == RVT_STILL || (still && proof == RVT_PROVED)) {
      rvt_store(&host->page->still, 1);
      bool gave = step_in_place(host, views, count);
      pthread_mutex_unlock(&host->lock);
      host->last_jump_real_ns = real_ns;
      host->idle_since_real_ns = host->external_mark_ns = 0;
      rvt_host_sleep(host, futex, gave ? 200000 : 20000000);
      continue;
    }
    if (proof == RVT_PROVED) {
      rvt_store(&host->page->still, 0);
      host->proof_ns += (uint64_t)(rvt_real_ns() - before_ns);
      step(host, views, count);
      pthread_mutex_unlock(&host->lock);
      /* What was woken answers by blocking again. */
      rvt_host_sleep(host, futex, host->idle_since_real_ns ? 2000000 : host->external_mark_ns ? 1000000 : 200000);
      continue;
    }
    turn_without_proof(host, views, proof, before_ns);
    pthread_mutex_unlock(&host->lock);
    if (!host->packets) host->idle_since_real_ns = 0; /* a busy neighbour must not put a deadlock report off */
    host->external_mark_ns = 0;
    int64_t stall_ns = host->options.stall_ms * 1000000ll;
    if (before_ns - host->last_runnable_real_ns > stall_ns && before_ns - host->last_jump_real_ns > stall_ns) {
      end_with(host, end, RVT_END_STALL,
               "stall: for %d ms nothing could run, yet not every thread is in a wait that Revati knows\n",
               host->options.stall_ms);
      break;
    }
    wait_for_change(host, futex);
  }
  return finish(host, end);
}

/* ---- control ---- */

void rvt_host_stop(rvt_host *host, const char *why) {
  if (host->stop) return;
  size_t n = strlen(why);
  if (n > sizeof(host->stop_text) - 1) n = sizeof(host->stop_text) - 1;
  memcpy(host->stop_text, why, n);
  host->stop_text[n] = 0;
  rvt_store(&host->stop, 1);
  rvt_host_poke(host);
}

void rvt_host_signal(rvt_host *host, int signo) {
  if (host->main_pid > 0) kill(host->main_pid, signo);
}

void rvt_host_hold(rvt_host *host) { __atomic_add_fetch(&host->holds, 1, __ATOMIC_SEQ_CST); }

int rvt_host_release(rvt_host *host) {
  pthread_mutex_lock(&host->lock);
  int result = host->holds ? 0 : rvt_host_fail("not held");
  if (!result) __atomic_sub_fetch(&host->holds, 1, __ATOMIC_SEQ_CST);
  pthread_mutex_unlock(&host->lock);
  rvt_host_poke(host);
  return result;
}

void rvt_host_pause(rvt_host *host) {
  pthread_mutex_lock(&host->lock);
  host->paused = true;
  pthread_mutex_unlock(&host->lock);
}

void rvt_host_resume(rvt_host *host) {
  pthread_mutex_lock(&host->lock);
  host->paused = false;
  host->steps = 0;
  host->run_to_ns = RVT_FOREVER_NS;
  pthread_mutex_unlock(&host->lock);
  rvt_host_poke(host);
}

void rvt_host_step(rvt_host *host, uint32_t jumps) {
  pthread_mutex_lock(&host->lock);
  host->steps = jumps;
  host->paused = jumps == 0;
  pthread_mutex_unlock(&host->lock);
  rvt_host_poke(host);
}

void rvt_host_run_to(rvt_host *host, int64_t t_ns) {
  pthread_mutex_lock(&host->lock);
  host->run_to_ns = t_ns;
  host->paused = false;
  pthread_mutex_unlock(&host->lock);
  rvt_host_poke(host);
}
