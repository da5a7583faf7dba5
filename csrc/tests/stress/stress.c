/* Starts the processes and threads of the schedule, judges and reports. Prints one JSON line; exit status 1 after
 * any violation, 2 when the program itself could not do its work. See stress.h.
 */
#include "stress.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

extern pthread_mutex_t never_free; /* sleep.c */
struct shared *shared;
struct options options = {.events = 10000,
                          .processes = 4,
                          .threads = 4,
                          .churn_permille = 5,
                          .spin_chain = 0,
                          .seed = 1,
                          .host_end_ns = FOREVER_NS,
                          .mix = ~0u};

void die(const char *what) {
  fprintf(stderr, "stress: %s: %s (pid %d)\n", what, strerror(errno), (int)getpid());
  _exit(2);
}

uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

static int64_t clock_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

/* Constant under the clock; natively near enough for a program that must fail there. */
int64_t realtime_offset_ns(void) { return clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC); }

int64_t host_ns(void) {
  struct timespec t;
#if defined(__x86_64__)
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(SYS_clock_gettime), "D"(CLOCK_MONOTONIC), "S"(&t)
                   : "rcx", "r11", "memory");
#else
  register long x8 __asm__("x8") = SYS_clock_gettime;
  register long x0 __asm__("x0") = CLOCK_MONOTONIC;
  register long x1 __asm__("x1") = (long)&t;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1) : "memory");
#endif
  return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

void violation(struct actor *actor, const char *what, enum kind kind, int64_t expected_ns, int64_t got_ns) {
  uint64_t index = __atomic_fetch_add(&shared->violations, 1, __ATOMIC_RELAXED);
  if (index >= MAX_REPORTED) return;
  struct violation *entry = &shared->reported[index];
  snprintf(entry->what, sizeof(entry->what), "%s", what);
  entry->kind = kind;
  entry->process = actor->process;
  entry->thread = actor->thread;
  entry->expected_ns = expected_ns;
  entry->got_ns = got_ns;
}

int64_t now_checked(struct actor *actor) {
  int64_t newest_ns = __atomic_load_n(&shared->newest_ns, __ATOMIC_SEQ_CST);
  int64_t now_ns = clock_ns(CLOCK_MONOTONIC);
  if (now_ns < actor->last_ns) violation(actor, "clock goes back", KIND_COUNT, actor->last_ns, now_ns);
  if (now_ns < newest_ns && !options.at_least) violation(actor, "clocks differ", KIND_COUNT, newest_ns, now_ns);
  while (newest_ns < now_ns && !__atomic_compare_exchange_n(&shared->newest_ns, &newest_ns, now_ns, false,
                                                            __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
    continue;
  actor->last_ns = now_ns;
  return now_ns;
}

void actor_init(struct actor *actor, int process, int thread) {
  memset(actor, 0, sizeof(*actor));
  actor->rng = options.seed * 1000003 + (uint64_t)process * 8191 + (uint64_t)thread;
  actor->process = process;
  actor->thread = thread;
  actor->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  actor->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
  actor->silent_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (actor->epoll_fd < 0 || actor->timer_fd < 0 || actor->silent_fd < 0) die("descriptors of a thread");
  sem_init(&actor->silent_sem, 0, 0);
  pthread_mutex_init(&actor->silent_mutex, NULL);
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&actor->silent_cond, &attributes);
}

void actor_end(struct actor *actor) {
  close(actor->epoll_fd);
  close(actor->timer_fd);
  close(actor->silent_fd);
}

/* A third on a common grid (ties), some very short, the rest anywhere in 2 ms. */
static int64_t pick_delay_ns(struct actor *actor) {
  uint64_t sort = pick(actor, 10);
  if (sort < 3) return (int64_t)(1 + pick(actor, 20)) * 100000 - now_checked(actor) % 100000;
  if (sort < 5) return 1 + (int64_t)pick(actor, 20000);
  return 1 + (int64_t)pick(actor, 2000000);
}

/* A channel that the process can reach; NULL when the mix has none but the excluded kind. */
static struct channel *pick_channel(int process, uint64_t random, enum kind not_this) {
  for (int i = 0; i < shared->channel_count; i++) {
    struct channel *channel = &shared->channels[((random >> 33) + (uint64_t)i) % (uint64_t)shared->channel_count];
    if (kind_within_process(channel->kind) && channel->process != process) continue;
    if (channel->kind != not_this) return channel;
  }
  return NULL;
}

static void send_from(struct actor *actor, uint16_t hops) {
  struct channel *channel = pick_channel(actor->process, next_random(&actor->rng), KIND_COUNT);
  struct message message = {now_checked(actor), (uint32_t)next_random(&actor->rng), hops, 0};
  channel_send(channel, message);
}

/* Polling on plain memory leaves no trace that a coordinator could see: a chain of pollers that talk by nothing
 * else is a documented limit and only exercised with --spin-chain. */
static enum kind relay_exclusion(const struct channel *from) {
  if (from->kind != KIND_SHM || options.spin_chain) return KIND_COUNT;
  return KIND_SHM;
}

static void *receiver_main(void *argument) {
  struct channel *channel = argument;
  struct actor actor;
  actor_init(&actor, channel->process, 100 + (int)(channel - shared->channels));
  struct message batch[16];
  for (bool stop = false; !stop;) {
    int64_t deadline_ns = FOREVER_NS;
    if (pick(&actor, 4) == 0) deadline_ns = now_checked(&actor) + (int64_t)(1 + pick(&actor, 5)) * 1000000;
    int count = channel_receive(&actor, channel, deadline_ns, batch, 16);
    int64_t now_ns = now_checked(&actor);
    for (int i = 0; i < count; i++) {
      if (off(batch[i].sent_ns, now_ns)) violation(&actor, "message", channel->kind, batch[i].sent_ns, now_ns);
      __atomic_fetch_add(&channel->received, 1, __ATOMIC_RELAXED);
      __atomic_fetch_add(&shared->messages, 1, __ATOMIC_RELAXED);
      stop |= batch[i].stop;
      if (batch[i].stop || !batch[i].hops) continue;
      uint64_t route = batch[i].id * 0x9e3779b97f4a7c15ull;
      struct message relay = {now_ns, (uint32_t)(route >> 32), (uint16_t)(batch[i].hops - 1), 0};
      struct channel *next = pick_channel(channel->process, route, relay_exclusion(channel));
      if (next) channel_send(next, relay);
    }
  }
  actor_end(&actor);
  return NULL;
}

struct brief {
  int process, thread;
  uint64_t seed;
  int64_t ended_ns;
};

/* A thread or process of short life: sleeps, sends, ends. Its end must be seen at the very same time. */
static void *visitor_main(void *argument) {
  struct brief *brief = argument;
  struct actor actor;
  actor_init(&actor, brief->process, brief->thread);
  actor.rng = brief->seed;
  sleep_checked(&actor, pick_delay_ns(&actor));
  send_from(&actor, 1);
  actor_end(&actor);
  brief->ended_ns = now_checked(&actor);
  return NULL;
}

static void receive_visitor(struct actor *actor) {
  struct brief brief = {actor->process, actor->thread + 1000, next_random(&actor->rng), 0};
  if (pick(actor, 4)) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, visitor_main, &brief)) die("pthread_create");
    pthread_join(thread, NULL);
    int64_t now_ns = now_checked(actor);
    if (off(brief.ended_ns, now_ns)) violation(actor, "end of a thread", KIND_COUNT, brief.ended_ns, now_ns);
    __atomic_fetch_add(&shared->joins, 1, __ATOMIC_RELAXED);
    return;
  }
  int64_t delay_ns = pick_delay_ns(actor), end_ns = now_checked(actor) + delay_ns;
  pid_t child = fork();
  if (child < 0) die("fork");
  if (child == 0) {
    struct timespec end = timespec_of(end_ns);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL)) continue;
    _exit(0);
  }
  int status;
  while (waitpid(child, &status, 0) != child)
    if (errno != EINTR) die("waitpid");
  int64_t now_ns = now_checked(actor);
  if (off(end_ns, now_ns) || status) violation(actor, "end of a child", KIND_COUNT, end_ns, now_ns);
  __atomic_fetch_add(&shared->children, 1, __ATOMIC_RELAXED);
}

static uint64_t quota; /* messages to send, of each sender */

static void *sender_main(void *argument) {
  struct brief *brief = argument;
  struct actor actor;
  actor_init(&actor, brief->process, brief->thread);
  for (uint64_t sent = 0; sent < quota && host_ns() < options.host_end_ns;) {
    sleep_checked(&actor, pick_delay_ns(&actor));
    uint64_t burst = pick(&actor, 8) ? 1 : 1 + pick(&actor, 4);
    for (uint64_t i = 0; i < burst && sent < quota; i++, sent++)
      send_from(&actor, pick(&actor, 4) ? 0 : (uint16_t)(1 + pick(&actor, 3)));
    if ((int)pick(&actor, 1000) < options.churn_permille) receive_visitor(&actor);
  }
  actor_end(&actor);
  return NULL;
}

static void process_main(int process, int receivers) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  pthread_mutex_lock(&never_free);
  int senders = options.threads - receivers;
  pthread_t threads[256];
  struct brief briefs[256];
  for (int i = 0; i < receivers; i++)
    if (pthread_create(&threads[i], NULL, receiver_main, &shared->channels[process * receivers + i]))
      die("pthread_create");
  for (int i = 0; i < senders; i++) {
    briefs[i] = (struct brief){process, i, 0, 0};
    if (pthread_create(&threads[receivers + i], NULL, sender_main, &briefs[i])) die("pthread_create");
  }
  for (int i = 0; i < senders; i++) pthread_join(threads[receivers + i], NULL);
  if (__atomic_sub_fetch(&shared->processes_left, 1, __ATOMIC_SEQ_CST) == 0)
    for (int i = 0; i < options.processes; i++) sem_post(&shared->all_sent);
  while (sem_wait(&shared->all_sent)) continue;
  struct actor actor;
  actor_init(&actor, process, 99);
  sleep_checked(&actor, 20000000); /* what is relayed is relayed by now */
  for (int i = 0; i < receivers; i++)
    channel_send(&shared->channels[process * receivers + i], (struct message){now_checked(&actor), 0, 0, 1});
  for (int i = 0; i < receivers; i++) pthread_join(threads[i], NULL);
  _exit(0);
}

static void usage(void) {
  fprintf(stderr, "usage: stress [--events N] [--processes N] [--threads N] [--mix all|kind,kind] [--seed N]\n"
                  "              [--churn PERMILLE] [--spin-chain] [--at-least EARLY_US] [--seconds REAL]\n       "
                  "stress --hog SECONDS\nkinds:");
  for (int i = 0; i < KIND_COUNT; i++) fprintf(stderr, " %s", kind_names[i]);
  fprintf(stderr, "\n");
  exit(2);
}

static uint32_t parse_mix(char *text) {
  uint32_t mix = 0;
  if (!strcmp(text, "all")) return (1u << KIND_COUNT) - 1;
  for (char *word = strtok(text, ","); word; word = strtok(NULL, ",")) {
    int kind = 0;
    while (kind < KIND_COUNT && strcmp(word, kind_names[kind])) kind++;
    if (kind == KIND_COUNT) usage();
    mix |= 1u << kind;
  }
  return mix;
}

/* A busy loop outside the clock that ends by itself, or with whoever started it. */
static void hog(int seconds) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() == 1) exit(0);
  for (int64_t end_ns = host_ns() + seconds * NS_PER_S; host_ns() < end_ns;)
    for (volatile int i = 0; i < 100000; i++) continue;
  exit(0);
}

static void parse(int argc, char **argv) {
  static const struct option names[] = {
      {"events", 1, NULL, 'e'},     {"processes", 1, NULL, 'p'}, {"threads", 1, NULL, 't'}, {"mix", 1, NULL, 'm'},
      {"seed", 1, NULL, 's'},       {"churn", 1, NULL, 'c'},     {"hog", 1, NULL, 'h'},     {"seconds", 1, NULL, 'r'},
      {"spin-chain", 0, NULL, 'x'}, {"at-least", 1, NULL, 'l'},  {NULL, 0, NULL, 0}};
  options.mix = (1u << KIND_COUNT) - 1;
  for (int letter; (letter = getopt_long(argc, argv, "", names, NULL)) != -1;) {
    if (letter == 'e') options.events = strtoull(optarg, NULL, 10);
    else if (letter == 'p') options.processes = atoi(optarg);
    else if (letter == 't') options.threads = atoi(optarg);
    else if (letter == 'm') options.mix = parse_mix(optarg);
    else if (letter == 's') options.seed = strtoull(optarg, NULL, 10);
    else if (letter == 'c') options.churn_permille = atoi(optarg);
    else if (letter == 'x') options.spin_chain = 1;
    else if (letter == 'l') {
      options.at_least = true;
      options.early_ns = atoll(optarg) * 1000;
    } else if (letter == 'r') options.host_end_ns = host_ns() + atoll(optarg) * NS_PER_S;
    else if (letter == 'h') hog(atoi(optarg));
    else usage();
  }
  if (optind != argc || options.processes < 1 || options.processes > 128 || options.threads < 2 ||
      options.threads > 200 || !options.mix || (options.threads / 2) * options.processes > MAX_CHANNELS)
    usage();
}

static void report(int64_t wall_ns, int64_t virtual_ns, int failed_children) {
  uint64_t lost = 0;
  for (int i = 0; i < shared->channel_count; i++) {
    struct channel *channel = &shared->channels[i];
    if (channel->sent == channel->received) continue;
    lost += channel->sent > channel->received ? channel->sent - channel->received : 1;
    fprintf(stderr, "stress: channel %d (%s): %llu sent, %llu received\n", i, kind_names[channel->kind],
            (unsigned long long)channel->sent, (unsigned long long)channel->received);
  }
  for (uint64_t i = 0; i < shared->violations && i < MAX_REPORTED; i++) {
    struct violation *v = &shared->reported[i];
    fprintf(stderr, "stress: process %d thread %d: %s%s%s expected at %lld ns, came at %lld ns (%+lld)\n", v->process,
            v->thread, v->what, v->kind < KIND_COUNT ? " by " : "", v->kind < KIND_COUNT ? kind_names[v->kind] : "",
            (long long)v->expected_ns, (long long)v->got_ns, (long long)(v->got_ns - v->expected_ns));
  }
  uint64_t events = shared->messages + shared->timeouts + shared->sleeps + shared->joins + shared->children;
  printf("{\"events\": %llu, \"messages\": %llu, \"timeouts\": %llu, \"sleeps\": %llu, \"joins\": %llu, "
         "\"children\": %llu, \"violations\": %llu, \"lost\": %llu, \"failed_processes\": %d, \"processes\": %d, "
         "\"threads\": %d, \"seed\": %llu, \"wall_s\": %.3f, \"virtual_s\": %.6f, \"wall_us_per_event\": %.2f}\n",
         (unsigned long long)events, (unsigned long long)shared->messages, (unsigned long long)shared->timeouts,
         (unsigned long long)shared->sleeps, (unsigned long long)shared->joins, (unsigned long long)shared->children,
         (unsigned long long)shared->violations, (unsigned long long)lost, failed_children, options.processes,
         options.threads, (unsigned long long)options.seed, (double)wall_ns / 1e9, (double)virtual_ns / 1e9,
         events ? (double)wall_ns / 1e3 / (double)events : 0.0);
  exit(shared->violations || lost ? 1 : failed_children ? 2 : 0);
}

int main(int argc, char **argv) {
  parse(argc, argv);
  shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) die("shared memory");
  sem_init(&shared->all_sent, 1, 0);
  shared->processes_left = options.processes;
  int receivers = options.threads / 2;
  quota = options.events / (uint64_t)(options.processes * (options.threads - receivers));
  if (!quota) quota = 1;
  int kinds[KIND_COUNT], kind_count = 0;
  for (int i = 0; i < KIND_COUNT; i++)
    if (options.mix >> i & 1) kinds[kind_count++] = i;
  shared->channel_count = receivers * options.processes;
  for (int i = 0; i < shared->channel_count; i++)
    channel_open(&shared->channels[i], (enum kind)kinds[i % kind_count], i / receivers);

  pid_t children[128];
  int64_t host_start_ns = host_ns(), start_ns = clock_ns(CLOCK_MONOTONIC);
  for (int i = 0; i < options.processes; i++) {
    children[i] = fork();
    if (children[i] < 0) die("fork");
    if (children[i] == 0) process_main(i, receivers);
  }
  int failed = 0;
  for (int left = options.processes, status; left;) {
    if (wait(&status) < 0) {
      if (errno == EINTR) continue;
      die("wait");
    }
    left--;
    if (!status) continue;
    failed++;
    for (int i = 0; i < options.processes; i++) kill(children[i], SIGKILL); /* they would wait for it for ever */
  }
  report(host_ns() - host_start_ns, clock_ns(CLOCK_MONOTONIC) - start_ns, failed);
}
