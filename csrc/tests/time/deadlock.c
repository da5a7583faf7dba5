/* Everybody waits and no wait has a deadline: under the clock the run must end with a report that names each wait.
 * Natively these programs hang, so they are only run inside. Argument: which deadlock. */
#include "check.h"

#include <semaphore.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <linux/futex.h>

static pthread_mutex_t first = PTHREAD_MUTEX_INITIALIZER, second = PTHREAD_MUTEX_INITIALIZER;
static void *crosswise(void *argument) {
  pthread_mutex_lock(&second);
  rest(2 * MS);
  pthread_mutex_lock(&first);
  return NULL;
}

int main(int argc, char **argv) {
  const char *which = argc > 1 ? argv[1] : "";
  int ends[2];
  char byte;
  if (pipe(ends)) return 2;
  if (!strcmp(which, "mutex")) {
    pthread_t thread;
    pthread_create(&thread, NULL, crosswise, NULL);
    pthread_mutex_lock(&first);
    rest(2 * MS);
    pthread_mutex_lock(&second);
  } else if (!strcmp(which, "pipe")) {
    return (int)read(ends[0], &byte, 1);
  } else if (!strcmp(which, "processes")) { /* parent and child wait for each other's pipe */
    int back[2];
    if (pipe(back)) return 2;
    if (fork() == 0) return (int)read(back[0], &byte, 1);
    return (int)read(ends[0], &byte, 1);
  } else if (!strcmp(which, "semaphore")) {
    sem_t sem;
    sem_init(&sem, 0, 0);
    sem_wait(&sem);
  } else if (!strcmp(which, "futex")) {
    uint32_t word = 0;
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
  } else {
    fprintf(stderr, "usage: deadlock mutex|pipe|processes|semaphore|futex\n");
    return 2;
  }
  return 0;
}
