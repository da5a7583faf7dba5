/* Functions of libc that csrc/time interposes or needs past its own interpositions. */
#ifndef RVT_TIME_REAL_H
#define RVT_TIME_REAL_H

#include <netdb.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <threads.h>

#define RVT_REALS(X)                                                                                                  \
  X(int, clock_gettime, (clockid_t, struct timespec *))                                                               \
  X(int, gettimeofday, (struct timeval *, void *))                                                                    \
  X(time_t, time, (time_t *))                                                                                         \
  X(int, timespec_get, (struct timespec *, int))                                                                      \
  X(int, nanosleep, (const struct timespec *, struct timespec *))                                                     \
  X(int, clock_nanosleep, (clockid_t, int, const struct timespec *, struct timespec *))                               \
  X(int, usleep, (useconds_t))                                                                                        \
  X(unsigned, sleep, (unsigned))                                                                                      \
  X(int, sched_yield, (void))                                                                                         \
  X(int, poll, (struct pollfd *, nfds_t, int))                                                                        \
  X(int, ppoll, (struct pollfd *, nfds_t, const struct timespec *, const sigset_t *))                                 \
  X(int, select, (int, fd_set *, fd_set *, fd_set *, struct timeval *))                                               \
  X(int, pselect, (int, fd_set *, fd_set *, fd_set *, const struct timespec *, const sigset_t *))                     \
  X(int, epoll_wait, (int, struct epoll_event *, int, int))                                                           \
  X(int, epoll_pwait, (int, struct epoll_event *, int, int, const sigset_t *))                                        \
  X(int, epoll_pwait2, (int, struct epoll_event *, int, const struct timespec *, const sigset_t *))                   \
  X(ssize_t, read, (int, void *, size_t))                                                                             \
  X(ssize_t, readv, (int, const struct iovec *, int))                                                                 \
  X(ssize_t, write, (int, const void *, size_t))                                                                      \
  X(ssize_t, writev, (int, const struct iovec *, int))                                                                \
  X(ssize_t, recv, (int, void *, size_t, int))                                                                        \
  X(ssize_t, recvfrom, (int, void *, size_t, int, struct sockaddr *, socklen_t *))                                    \
  X(ssize_t, recvmsg, (int, struct msghdr *, int))                                                                    \
  X(int, recvmmsg, (int, struct mmsghdr *, unsigned, int, struct timespec *))                                         \
  X(ssize_t, send, (int, const void *, size_t, int))                                                                  \
  X(ssize_t, sendto, (int, const void *, size_t, int, const struct sockaddr *, socklen_t))                            \
  X(ssize_t, sendmsg, (int, const struct msghdr *, int))                                                              \
  X(int, sendmmsg, (int, struct mmsghdr *, unsigned, int))                                                            \
  X(int, accept, (int, struct sockaddr *, socklen_t *))                                                               \
  X(int, accept4, (int, struct sockaddr *, socklen_t *, int))                                                         \
  X(int, getaddrinfo, (const char *, const char *, const struct addrinfo *, struct addrinfo **))                      \
  X(int, getnameinfo, (const struct sockaddr *, socklen_t, char *, socklen_t, char *, socklen_t, int))                \
  X(struct hostent *, gethostbyname, (const char *))                                                                  \
  X(struct hostent *, gethostbyname2, (const char *, int))                                                            \
  X(struct hostent *, gethostbyaddr, (const void *, socklen_t, int))                                                  \
  X(int, gethostbyname_r, (const char *, struct hostent *, char *, size_t, struct hostent **, int *))                 \
  X(int, gethostbyname2_r, (const char *, int, struct hostent *, char *, size_t, struct hostent **, int *))           \
  X(int, gethostbyaddr_r, (const void *, socklen_t, int, struct hostent *, char *, size_t, struct hostent **, int *)) \
  X(int, connect, (int, const struct sockaddr *, socklen_t))                                                          \
  X(int, setsockopt, (int, int, int, const void *, socklen_t))                                                        \
  X(int, getsockopt, (int, int, int, void *, socklen_t *))                                                            \
  X(int, close, (int))                                                                                                \
  X(int, kill, (pid_t, int))                                                                                          \
  X(int, killpg, (pid_t, int))                                                                                        \
  X(int, tgkill, (pid_t, pid_t, int))                                                                                 \
  X(int, sigqueue, (pid_t, int, const union sigval))                                                                  \
  X(int, pthread_kill, (pthread_t, int))                                                                              \
  X(int, pthread_sigqueue, (pthread_t, int, const union sigval))                                                      \
  X(int, sem_wait, (sem_t *))                                                                                         \
  X(int, sem_trywait, (sem_t *))                                                                                      \
  X(int, sem_timedwait, (sem_t *, const struct timespec *))                                                           \
  X(int, sem_clockwait, (sem_t *, clockid_t, const struct timespec *))                                                \
  X(int, sem_post, (sem_t *))                                                                                         \
  X(int, pthread_create, (pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))                            \
  X(int, pthread_cancel, (pthread_t))                                                                                 \
  X(int, pthread_join, (pthread_t, void **))                                                                          \
  X(int, pthread_timedjoin_np, (pthread_t, void **, const struct timespec *))                                         \
  X(int, pthread_clockjoin_np, (pthread_t, void **, clockid_t, const struct timespec *))                              \
  X(int, pthread_tryjoin_np, (pthread_t, void **))                                                                    \
  X(int, pthread_barrier_wait, (pthread_barrier_t *))                                                                 \
  X(int, pthread_mutex_lock, (pthread_mutex_t *))                                                                     \
  X(int, pthread_mutex_trylock, (pthread_mutex_t *))                                                                  \
  X(int, pthread_mutex_unlock, (pthread_mutex_t *))                                                                   \
  X(int, pthread_mutex_timedlock, (pthread_mutex_t *, const struct timespec *))                                       \
  X(int, pthread_mutex_clocklock, (pthread_mutex_t *, clockid_t, const struct timespec *))                            \
  X(int, pthread_rwlock_unlock, (pthread_rwlock_t *))                                                                 \
  X(int, pthread_rwlock_rdlock, (pthread_rwlock_t *))                                                                 \
  X(int, pthread_rwlock_wrlock, (pthread_rwlock_t *))                                                                 \
  X(int, pthread_rwlock_tryrdlock, (pthread_rwlock_t *))                                                              \
  X(int, pthread_rwlock_trywrlock, (pthread_rwlock_t *))                                                              \
  X(int, pthread_rwlock_timedrdlock, (pthread_rwlock_t *, const struct timespec *))                                   \
  X(int, pthread_rwlock_timedwrlock, (pthread_rwlock_t *, const struct timespec *))                                   \
  X(int, pthread_rwlock_clockrdlock, (pthread_rwlock_t *, clockid_t, const struct timespec *))                        \
  X(int, pthread_rwlock_clockwrlock, (pthread_rwlock_t *, clockid_t, const struct timespec *))                        \
  X(int, pthread_cond_init, (pthread_cond_t *, const pthread_condattr_t *))                                           \
  X(int, pthread_cond_destroy, (pthread_cond_t *))                                                                    \
  X(int, pthread_cond_wait, (pthread_cond_t *, pthread_mutex_t *))                                                    \
  X(int, pthread_cond_timedwait, (pthread_cond_t *, pthread_mutex_t *, const struct timespec *))                      \
  X(int, pthread_cond_clockwait, (pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *))           \
  X(int, pthread_cond_signal, (pthread_cond_t *))                                                                     \
  X(int, pthread_cond_broadcast, (pthread_cond_t *))                                                                  \
  X(int, cnd_init, (cnd_t *))                                                                                         \
  X(void, cnd_destroy, (cnd_t *))                                                                                     \
  X(int, cnd_wait, (cnd_t *, mtx_t *))                                                                                \
  X(int, cnd_timedwait, (cnd_t *, mtx_t *, const struct timespec *))                                                  \
  X(int, cnd_signal, (cnd_t *))                                                                                       \
  X(int, cnd_broadcast, (cnd_t *))                                                                                    \
  X(int, mtx_timedlock, (mtx_t *, const struct timespec *))                                                           \
  X(int, thrd_sleep, (const struct timespec *, struct timespec *))                                                    \
  X(pid_t, fork, (void))                                                                                              \
  X(pid_t, _Fork, (void))                                                                                             \
  X(int, execve, (const char *, char *const *, char *const *))                                                        \
  X(int, execvpe, (const char *, char *const *, char *const *))                                                       \
  X(int, fexecve, (int, char *const *, char *const *))                                                                \
  X(int, posix_spawn,                                                                                                 \
    (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *,             \
     char *const *))                                                                                                  \
  X(int, posix_spawnp,                                                                                                \
    (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *,             \
     char *const *))                                                                                                  \
  X(int, system, (const char *))                                                                                      \
  X(FILE *, popen, (const char *, const char *))                                                                      \
  X(void, _exit, (int))                                                                                               \
  X(pid_t, wait, (int *))                                                                                             \
  X(pid_t, waitpid, (pid_t, int *, int))                                                                              \
  X(pid_t, wait3, (int *, int, struct rusage *))                                                                      \
  X(pid_t, wait4, (pid_t, int *, int, struct rusage *))                                                               \
  X(int, waitid, (idtype_t, id_t, siginfo_t *, int))                                                                  \
  X(int, pause, (void))                                                                                               \
  X(int, sigsuspend, (const sigset_t *))                                                                              \
  X(int, sigwait, (const sigset_t *, int *))                                                                          \
  X(int, sigwaitinfo, (const sigset_t *, siginfo_t *))                                                                \
  X(int, sigtimedwait, (const sigset_t *, siginfo_t *, const struct timespec *))                                      \
  X(int, sigaction, (int, const struct sigaction *, struct sigaction *))                                              \
  X(sighandler_t, signal, (int, sighandler_t))                                                                        \
  X(unsigned, alarm, (unsigned))                                                                                      \
  X(useconds_t, ualarm, (useconds_t, useconds_t))                                                                     \
  X(int, setitimer, (__itimer_which_t, const struct itimerval *, struct itimerval *))                                 \
  X(int, getitimer, (__itimer_which_t, struct itimerval *))                                                           \
  X(int, timer_create, (clockid_t, struct sigevent *, timer_t *))                                                     \
  X(int, timer_settime, (timer_t, int, const struct itimerspec *, struct itimerspec *))                               \
  X(int, timer_gettime, (timer_t, struct itimerspec *))                                                               \
  X(int, timer_delete, (timer_t))                                                                                     \
  X(int, timer_getoverrun, (timer_t))                                                                                 \
  X(int, timerfd_create, (int, int))                                                                                  \
  X(int, timerfd_settime, (int, int, const struct itimerspec *, struct itimerspec *))                                 \
  X(int, timerfd_gettime, (int, struct itimerspec *))

#endif
