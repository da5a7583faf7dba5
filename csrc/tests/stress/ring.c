/* The oracle of the clock: processes that wait for each other in every way the library knows, and know exactly
 * when everything must happen. Under policy `free` a message arrives at the virtual time of its sending, a timer
 * ends at its deadline, and no time-out comes early. One deviation is one violation and fails the run.
 *
 * ring [--events N] [--processes P] [--kinds pipe,unix,tcp,sem,cond,futex,spin] [--seed S] [--pad THREADS]
 * Run under rvt-run. Prints one line; exit code 1 on any violation.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum kind { PIPE, UNIX, TCP, SEM, COND, FUTEX, SPIN, KINDS };
static const char *const kind_names[KINDS] = {"pipe", "unix", "tcp", "sem", "cond", "futex", "spin"};

#define RING 256
#define MAX_PROCESSES 64
#define MAX_VIOLATIONS 20

struct message {
  int64_t sent_ns; /* -1 = the end */
  int32_t hops;    /* to be passed on at once */
  int32_t pad;
};

/* One way from process p to its successor. */
struct channel {
  enum kind kind;
  int fds[2]; /* read, write */
  uint32_t head, tail;
  struct message ring[RING];
  sem_t items;
  pthread_mutex_t mutex; /* of the ring and of the sending side */
  pthread_cond_t cond;
  uint32_t word;
};

struct shared {
  uint64_t events, violations, timers, timeouts, messages;
  int64_t target;
  uint32_t stopping;
  pthread_barrier_t ready;
  struct channel channels[MAX_PROCESSES][KINDS];
};

static struct shared *shared;
static int processes = 8, pad_threads;
static bool use_kind[KINDS];
static uint64_t base_seed = 1;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint32_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return (uint32_t)(*state >> 16);
}

static void violation(const char *what, enum kind kind, int64_t got_ns, int64_t want_ns) {
  if (__atomic_fetch_add(&shared->violations, 1, __ATOMIC_SEQ_CST) < MAX_VIOLATIONS)
    fprintf(stderr, "violation: %s on %s: at %lld, must be %lld (%+lld ns)\n", what, kind_names[kind],
            (long long)got_ns, (long long)want_ns, (long long)(got_ns - want_ns));
}

static void event(uint64_t *counter) {
  __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
  if ((int64_t)__atomic_fetch_add(&shared->events, 1, __ATOMIC_RELAXED) >= shared->target)
    __atomic_store_n(&shared->stopping, 1, __ATOMIC_SEQ_CST);
}

static void put(struct channel *channel, struct message message) {
  pthread_mutex_lock(&channel->mutex);
  switch (channel->kind) {
  case PIPE:
  case UNIX:
  case TCP:
    if (write(channel->fds[1], &message, sizeof(message)) != sizeof(message)) abort();
    break;
  default:
    while (__atomic_load_n(&channel->head, __ATOMIC_SEQ_CST) - __atomic_load_n(&channel->tail, __ATOMIC_SEQ_CST) >=
           RING)
      abort(); /* far more than can be under way */
    channel->ring[channel->head % RING] = message;
    __atomic_fetch_add(&channel->head, 1, __ATOMIC_SEQ_CST);
    if (channel->kind == SEM) sem_post(&channel->items);
    if (channel->kind == COND) pthread_cond_signal(&channel->cond);
    if (channel->kind == FUTEX) {
      __atomic_fetch_add(&channel->word, 1, __ATOMIC_SEQ_CST);
      syscall(SYS_futex, &channel->word, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
  }
  pthread_mutex_unlock(&channel->mutex);
}

static bool pop(struct channel *channel, struct message *message) {
  if (__atomic_load_n(&channel->head, __ATOMIC_SEQ_CST) == channel->tail) return false;
  *message = channel->ring[channel->tail % RING];
  __atomic_fetch_add(&channel->tail, 1, __ATOMIC_SEQ_CST);
  return true;
}

static struct timespec at(int64_t ns) { return (struct timespec){ns / 1000000000, ns % 1000000000}; }

/* Receives within wait_ns (-1: for ever). False: timed out. */
static bool get(struct channel *channel, struct message *message, int64_t wait_ns, uint64_t *seed) {
  int64_t end_ns = wait_ns < 0 ? INT64_MAX : now_ns() + wait_ns;
  struct timespec limit = at(end_ns == INT64_MAX ? 0 : end_ns);
  switch (channel->kind) {
  case PIPE:
  case UNIX:
  case TCP:
    if (wait_ns >= 0) {
      int ready;
      if (next_random(seed) & 1) {
        struct pollfd one = {.fd = channel->fds[0], .events = POLLIN};
        struct timespec t = at(wait_ns);
        ready = ppoll(&one, 1, &t, NULL);
      } else {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(channel->fds[0], &set);
        struct timeval t = {wait_ns / 1000000000, wait_ns % 1000000000 / 1000};
        ready = select(channel->fds[0] + 1, &set, NULL, NULL, &t);
      }
      if (ready == 0) return false;
    }
    size_t got = 0;
    while (got < sizeof(*message)) {
      ssize_t n = read(channel->fds[0], (char *)message + got, sizeof(*message) - got);
      if (n <= 0) abort();
      got += (size_t)n;
    }
    return true;
  case SEM:
    if (wait_ns < 0) {
      while (sem_wait(&channel->items)) {
      }
    } else if (sem_clockwait(&channel->items, CLOCK_MONOTONIC, &limit)) {
      return false;
    }
    return pop(channel, message);
  case COND: {
    pthread_mutex_lock(&channel->mutex);
    bool got = pop(channel, message);
    while (!got) {
      if (wait_ns < 0) pthread_cond_wait(&channel->cond, &channel->mutex);
      else if (pthread_cond_clockwait(&channel->cond, &channel->mutex, CLOCK_MONOTONIC, &limit) == ETIMEDOUT) {
        got = pop(channel, message);
        break;
      }
      got = pop(channel, message);
    }
    pthread_mutex_unlock(&channel->mutex);
    return got;
  }
  case FUTEX:
    for (;;) {
      uint32_t seen = __atomic_load_n(&channel->word, __ATOMIC_SEQ_CST);
      if (pop(channel, message)) return true;
      struct timespec left = at(wait_ns < 0 ? 0 : end_ns - now_ns());
      if (syscall(SYS_futex, &channel->word, FUTEX_WAIT, seen, wait_ns < 0 ? NULL : &left, NULL, 0) &&
          errno == ETIMEDOUT)
        return pop(channel, message);
    }
  default: /* SPIN */
    for (;;) {
      if (pop(channel, message)) return true;
      sched_yield();
    }
  }
}

struct job {
  int process;
  enum kind kind;
};

static void *sender(void *opaque) {
  struct job *job = opaque;
  struct channel *channel = &shared->channels[job->process][job->kind];
  uint64_t seed = base_seed * 7919 + (uint64_t)job->process * 131 + job->kind * 17 + 1;
  pthread_barrier_wait(&shared->ready);
  while (!__atomic_load_n(&shared->stopping, __ATOMIC_SEQ_CST)) {
    int64_t wait_ns = 1000 + next_random(&seed) % 300000;
    if (next_random(&seed) % 8 == 0) wait_ns = 100000; /* ties */
    int64_t before_ns = now_ns();
    struct timespec t = at(wait_ns);
    nanosleep(&t, NULL);
    int64_t after_ns = now_ns();
    if (after_ns != before_ns + wait_ns) violation("timer", job->kind, after_ns, before_ns + wait_ns);
    event(&shared->timers);
    put(channel, (struct message){after_ns, (int32_t)(next_random(&seed) % 4), 0});
  }
  put(channel, (struct message){-1, 0, 0});
  return NULL;
}

static void *receiver(void *opaque) {
  struct job *job = opaque;
  int from = (job->process + processes - 1) % processes;
  struct channel *channel = &shared->channels[from][job->kind];
  uint64_t seed = base_seed * 104729 + (uint64_t)job->process * 257 + job->kind * 31 + 7;
  int64_t last_ns = 0;
  int ends = 0;
  pthread_barrier_wait(&shared->ready);
  while (ends < 1) {
    int64_t wait_ns = next_random(&seed) % 2 ? -1 : (int64_t)(1 + next_random(&seed) % 200) * 1000;
    struct message message;
    int64_t before_ns = now_ns();
    bool got = get(channel, &message, wait_ns, &seed);
    int64_t after_ns = now_ns();
    if (after_ns < last_ns) violation("clock went back", job->kind, after_ns, last_ns);
    last_ns = after_ns;
    if (!got) {
      if (after_ns != before_ns + wait_ns) violation("time-out", job->kind, after_ns, before_ns + wait_ns);
      event(&shared->timeouts);
      continue;
    }
    if (message.sent_ns < 0) {
      ends++;
      continue;
    }
    if (after_ns != message.sent_ns) violation("message", job->kind, after_ns, message.sent_ns);
    event(&shared->messages);
    if (message.hops > 0 && !__atomic_load_n(&shared->stopping, __ATOMIC_SEQ_CST)) {
      enum kind kind = job->kind;
      do kind = (kind + 1) % KINDS;
      while (!use_kind[kind]);
      put(&shared->channels[job->process][kind], (struct message){now_ns(), message.hops - 1, 0});
    }
  }
  return NULL;
}

static void *idle(void *opaque) { /* threads that only have to be proved blocked */
  pthread_barrier_wait(&shared->ready);
  sem_t *done = opaque;
  while (sem_wait(done)) {
  }
  return NULL;
}

static void process_main(int process) {
  pthread_t threads[2 * KINDS], pads[4096];
  struct job jobs[KINDS];
  sem_t done;
  sem_init(&done, 0, 0);
  int count = 0;
  for (int i = 0; i < pad_threads; i++) pthread_create(&pads[i], NULL, idle, &done);
  for (int kind = 0; kind < KINDS; kind++) {
    if (!use_kind[kind]) continue;
    jobs[kind] = (struct job){process, (enum kind)kind};
    pthread_create(&threads[count++], NULL, sender, &jobs[kind]);
    pthread_create(&threads[count++], NULL, receiver, &jobs[kind]);
  }
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < pad_threads; i++) sem_post(&done);
  for (int i = 0; i < pad_threads; i++) pthread_join(pads[i], NULL);
}

static void make_tcp(int fds[2]) {
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof(address);
  if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1) ||
      getsockname(listener, (struct sockaddr *)&address, &length))
    abort();
  fds[1] = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fds[1], (struct sockaddr *)&address, length)) abort();
  fds[0] = accept(listener, NULL, NULL);
  close(listener);
}

static void make_channel(struct channel *channel, enum kind kind) {
  channel->kind = kind;
  if (kind == PIPE && pipe(channel->fds)) abort();
  if (kind == UNIX && socketpair(AF_UNIX, SOCK_STREAM, 0, channel->fds)) abort();
  if (kind == TCP) make_tcp(channel->fds);
  sem_init(&channel->items, 1, 0);
  pthread_mutexattr_t mutex;
  pthread_mutexattr_init(&mutex);
  pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&channel->mutex, &mutex);
  pthread_condattr_t cond;
  pthread_condattr_init(&cond);
  pthread_condattr_setpshared(&cond, PTHREAD_PROCESS_SHARED);
  pthread_condattr_setclock(&cond, CLOCK_MONOTONIC);
  pthread_cond_init(&channel->cond, &cond);
}

int main(int argc, char **argv) {
  int64_t target = 20000;
  const char *kinds = "pipe,unix,tcp,sem,cond,futex";
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!strcmp(argv[i], "--events")) target = atoll(argv[i + 1]);
    else if (!strcmp(argv[i], "--processes")) processes = atoi(argv[i + 1]);
    else if (!strcmp(argv[i], "--kinds")) kinds = argv[i + 1];
    else if (!strcmp(argv[i], "--seed")) base_seed = strtoull(argv[i + 1], NULL, 10);
    else if (!strcmp(argv[i], "--pad")) pad_threads = atoi(argv[i + 1]);
    else {
      fprintf(stderr, "stress: unknown option %s\n", argv[i]);
      return 2;
    }
  }
  int kinds_used = 0;
  for (int kind = 0; kind < KINDS; kind++) kinds_used += use_kind[kind] = strstr(kinds, kind_names[kind]) != NULL;
  if (processes < 1 || processes > MAX_PROCESSES || !kinds_used || pad_threads > 4096) return 2;
  shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  shared->target = target;
  pthread_barrierattr_t attr;
  pthread_barrierattr_init(&attr);
  pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
  pthread_barrier_init(&shared->ready, &attr, (unsigned)(processes * (2 * kinds_used + pad_threads)));
  for (int p = 0; p < processes; p++)
    for (int kind = 0; kind < KINDS; kind++)
      if (use_kind[kind]) make_channel(&shared->channels[p][kind], (enum kind)kind);
  int64_t start_ns = now_ns();
  for (int p = 0; p < processes; p++)
    if (fork() == 0) {
      process_main(p);
      _exit(0);
    }
  int bad = 0, status;
  for (int p = 0; p < processes; p++)
    if (wait(&status) < 0 || status) bad = 1;
  printf("{\"events\": %llu, \"violations\": %llu, \"messages\": %llu, \"timers\": %llu, \"time_outs\": %llu, "
         "\"processes\": %d, \"threads\": %d, \"virtual_s\": %.6f, \"crashed\": %d}\n",
         (unsigned long long)shared->events, (unsigned long long)shared->violations,
         (unsigned long long)shared->messages, (unsigned long long)shared->timers, (unsigned long long)shared->timeouts,
         processes, processes * (2 * kinds_used + pad_threads) + processes + 1, (double)(now_ns() - start_ns) / 1e9,
         bad);
  return bad || shared->violations ? 1 : 0;
}
