/* One thread wakes many at one instant, by six kinds of objects, and computes on. With turns they go on one by one, in
 * the same order in every run, and see everything that was there by then. With an argument, prints the whole sequence.
 * Without turns any order is right, and they may run beside each other. */
#include "check.h"

#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#define THREADS 12
#define PROCESSES 3
#define WAITERS (THREADS * PROCESSES)
#define ROUNDS 20

static struct shared {
  uint32_t inside, overlaps, next;
  uint8_t order[WAITERS * ROUNDS];
} *shared;
static int gates[WAITERS][2], back[2], rounds[PROCESSES][2];

/* A thread of a process wakes when its process' main thread has heard of the round. */
static sem_t semaphores[THREADS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int announced;

static void wait_by_kind(int process, int thread, int round) {
  int fd = gates[process * THREADS + thread][0], polled = -1;
  struct pollfd one = {.fd = fd, .events = POLLIN};
  struct epoll_event event = {.events = EPOLLIN};
  char byte;
  switch (thread % 6) {
  case 0: break; /* read */
  case 1: poll(&one, 1, -1); break;
  case 2: poll(&one, 1, 1000000); break;
  case 3:
    polled = epoll_create1(0);
    epoll_ctl(polled, EPOLL_CTL_ADD, fd, &event);
    epoll_wait(polled, &event, 1, -1);
    close(polled);
    break;
  case 4: sem_wait(&semaphores[thread]); return;
  default:
    pthread_mutex_lock(&mutex);
    while (announced < round) pthread_cond_wait(&cond, &mutex);
    pthread_mutex_unlock(&mutex);
    return;
  }
  if (read(fd, &byte, 1) != 1) abort();
}

static void compute(void) {
  for (volatile int i = 0; i < 20000; i++) continue;
}

static void *waiter(void *argument) {
  int id = (int)(intptr_t)argument;
  for (int round = 1; round <= ROUNDS; round++) {
    wait_by_kind(id / THREADS, id % THREADS, round);
    if (__atomic_add_fetch(&shared->inside, 1, __ATOMIC_SEQ_CST) > 1)
      __atomic_add_fetch(&shared->overlaps, 1, __ATOMIC_SEQ_CST);
    shared->order[__atomic_fetch_add(&shared->next, 1, __ATOMIC_SEQ_CST)] = (uint8_t)id;
    compute();
    __atomic_sub_fetch(&shared->inside, 1, __ATOMIC_SEQ_CST);
    if (write(back[1], "x", 1) != 1) abort();
  }
  return NULL;
}

static void process_main(int process) {
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) sem_init(&semaphores[i], 0, 0);
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, waiter, (void *)(intptr_t)(process * THREADS + i));
  char byte;
  for (int round = 1; round <= ROUNDS; round++) {
    if (read(rounds[process][0], &byte, 1) != 1) abort();
    for (int i = 4; i < THREADS; i += 6) sem_post(&semaphores[i]);
    pthread_mutex_lock(&mutex);
    announced = round;
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&mutex);
  }
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  _exit(0);
}

int main(int argc, char **argv) {
  inside = getenv("REVATI_PAGE") != NULL;
  bool turns = getenv("WITH_TURNS") != NULL;
  shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED || pipe(back)) return 2;
  for (int i = 0; i < WAITERS; i++)
    if (pipe(gates[i])) return 2;
  for (int i = 0; i < PROCESSES; i++)
    if (pipe(rounds[i])) return 2;
  for (int i = 0; i < PROCESSES; i++)
    if (fork() == 0) process_main(i);
  for (int round = 0; round < ROUNDS; round++) {
    rest(MS); /* all of them wait by now */
    int64_t start_ns = now_ns();
    for (int i = WAITERS - 1; i >= 0; i--)
      if (i % THREADS % 6 < 4 && write(gates[i][1], "x", 1) != 1) abort();
    for (int i = 0; i < PROCESSES; i++)
      if (write(rounds[i][1], "x", 1) != 1) abort();
    compute();
    char bytes[WAITERS];
    for (int got = 0; got < WAITERS;) {
      ssize_t n = read(back[0], bytes, sizeof(bytes) - (size_t)got);
      if (n <= 0) return 2;
      got += (int)n;
    }
    at("a round takes no time", start_ns);
  }
  while (wait(NULL) > 0) continue;
  is("threads that went on", shared->next, WAITERS * ROUNDS);
  if (turns) is("threads that ran beside each other", shared->overlaps, 0);
  uint64_t sum = 14695981039346656037ull;
  for (int i = 0; i < WAITERS * ROUNDS; i++) {
    sum = (sum ^ shared->order[i]) * 1099511628211ull;
    if (argc > 1) printf("%d%c", shared->order[i], i % WAITERS == WAITERS - 1 ? '\n' : ' ');
  }
  printf("ok turns %016llx\n", (unsigned long long)sum);
  return failures ? 1 : 0;
}
