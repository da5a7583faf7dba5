/* A seeded schedule of sleeps and messages with an exact oracle: under the policy `free` a message arrives at the
 * virtual time at which it was sent and a timed wait ends at its deadline, never earlier and never later.
 * Run without the clock the same program must report violations: that is the test of the oracle.
 */
#ifndef RVT_STRESS_H
#define RVT_STRESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define FOREVER_NS INT64_MAX
#define NS_PER_S 1000000000ll
#define MAX_CHANNELS 1024
#define RING 1024
#define MAX_REPORTED 20

enum kind {
  KIND_PIPE,
  KIND_UNIX,
  KIND_TCP,
  KIND_UDP,
  KIND_EVENTFD,
  KIND_SHM,   /* polled with sched_yield, like the shared memory rings of inference engines */
  KIND_SEM,   /* within one process */
  KIND_PSEM,  /* between processes */
  KIND_COND,  /* within one process */
  KIND_PCOND, /* between processes */
  KIND_FUTEX, /* within one process */
  KIND_PFUTEX,
  KIND_COUNT
};
extern const char *const kind_names[KIND_COUNT];

struct message {
  int64_t sent_ns;
  uint32_t id;   /* drives what the receiver does with it, so that a seed fixes the schedule */
  uint16_t hops; /* relays still allowed */
  uint16_t stop; /* 1 = the receiver ends */
};

struct ring_entry {
  uint32_t turn;
  struct message message;
};

/* One receiver, any number of senders. All of it lies in memory that the processes share. */
struct channel {
  enum kind kind;
  int process;
  int fd_in, fd_out; /* the receiver's and the senders' ends */
  sem_t sem;
  pthread_mutex_t mutex;
  pthread_cond_t cond;
  uint32_t word; /* futex */
  uint32_t head, tail;
  struct ring_entry ring[RING];
  uint64_t sent, received;
};

struct violation {
  char what[32];
  enum kind kind;
  int process, thread;
  int64_t expected_ns, got_ns;
};

struct shared {
  uint64_t messages, timeouts, sleeps, joins, children; /* checked events by sort */
  uint64_t violations;
  struct violation reported[MAX_REPORTED];
  int64_t newest_ns; /* latest clock reading of any thread: no later reading may be below */
  int32_t processes_left;
  sem_t all_sent;
  int channel_count;
  struct channel channels[MAX_CHANNELS];
};
extern struct shared *shared;

struct options {
  uint64_t events;
  int processes, threads, churn_permille, spin_chain;
  bool at_least;    /* times may be later than expected, never earlier: policies that charge host time */
  int64_t early_ns; /* but for so much, which those policies do not settle */
  uint64_t seed;
  int64_t host_end_ns; /* senders stop at this real time, whatever is left to send */
  uint32_t mix;        /* bit per kind */
};
extern struct options options;

/* What a thread needs for its part of the schedule. */
struct actor {
  uint64_t rng;
  int process, thread;
  int64_t last_ns;
  int epoll_fd, timer_fd, silent_fd; /* for sleeps and for waits */
  sem_t silent_sem;
  pthread_cond_t silent_cond;
  pthread_mutex_t silent_mutex;
};

void actor_init(struct actor *actor, int process, int thread);
void actor_end(struct actor *actor);
uint64_t next_random(uint64_t *state);
static inline uint64_t pick(struct actor *actor, uint64_t n) { return next_random(&actor->rng) % n; }

/* The clock of the program, checked: never decreases in a thread, nor from one process to another. */
int64_t now_checked(struct actor *actor);
int64_t realtime_offset_ns(void);
int64_t host_ns(void); /* real time past any interposition */
void violation(struct actor *actor, const char *what, enum kind kind, int64_t expected_ns, int64_t got_ns);
void die(const char *what) __attribute__((noreturn));
static inline bool off(int64_t expected_ns, int64_t got_ns) {
  return options.at_least ? got_ns < expected_ns - options.early_ns : got_ns != expected_ns;
}

static inline struct timespec timespec_of(int64_t ns) {
  return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}
static inline bool kind_within_process(enum kind kind) {
  return kind == KIND_SEM || kind == KIND_COND || kind == KIND_FUTEX;
}

/* sleep.c: sleeps about delay_ns in one of many ways and checks the time of waking. */
void sleep_checked(struct actor *actor, int64_t delay_ns);

/* channel.c */
void channel_open(struct channel *channel, enum kind kind, int process);
void channel_send(struct channel *channel, struct message message);
/* Waits for messages until the deadline: their number, 0 = timed out (checked). */
int channel_receive(struct actor *actor, struct channel *channel, int64_t deadline_ns, struct message *out, int max);

#endif
