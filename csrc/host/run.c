/* rvt-run [options] [--] CMD...: one command and its tree under the virtual clock. */
#include "rvt_host.h"

#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "rvt_abi.h"

extern char **environ;
static rvt_host *the_host;

static volatile sig_atomic_t arrived; /* the program may be up before spawn has returned its pid */
static void on_signal(int signo) {
  arrived = signo;
  rvt_host_signal(the_host, signo);
}

static _Noreturn void usage(const char *why) {
  fprintf(stderr,
          "rvt-run: %s\n"
          "usage: rvt-run [--preload LIB] [--policy free|modelled|measured] [--charge PPM] [--concurrent|--turns] "
          "[--trace]\n"
          "               [--awake] [--quiet] [--limit SECONDS] [--real-limit SECONDS] [--idle-ok] [--stretch N] "
          "[--kernel-us US]\n"
          "               [--] CMD...\n",
          why);
  exit(2);
}

/* Next to this program, or in ../lib. */
static const char *find_preload(void) {
  static char path[PATH_MAX + 32];
  char self[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
  if (n <= 0) return NULL;
  self[n] = 0;
  *strrchr(self, '/') = 0;
  snprintf(path, sizeof(path), "%s/librvt.so", self);
  return access(path, R_OK) == 0 ? path : NULL;
}

static double cpu_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
  struct rvt_host_options options = {.struct_bytes = sizeof(options)};
  int quiet = 0, kernel_us = 2;
  options.preload = getenv("RVT_PRELOAD");
  int at = 1;
  for (; at < argc && argv[at][0] == '-'; at++) {
    const char *name = argv[at];
    if (!strcmp(name, "--")) {
      at++;
      break;
    }
    if (!strcmp(name, "--concurrent")) options.order = RVT_ORDER_ANY;
    else if (!strcmp(name, "--turns")) options.order = RVT_ORDER_TURNS;
    else if (!strcmp(name, "--trace")) options.trace = 1;
    else if (!strcmp(name, "--awake")) options.keep_awake = 1;
    else if (!strcmp(name, "--quiet")) quiet = 1;
    else if (!strcmp(name, "--idle-ok")) options.deadlock_ms = -1;
    else if (at + 1 >= argc) usage("an option lacks its value");
    else if (!strcmp(name, "--preload")) options.preload = argv[++at];
    else if (!strcmp(name, "--charge")) options.charge_ppm = (uint32_t)atol(argv[++at]);
    else if (!strcmp(name, "--stretch")) options.idle_stretch = (uint32_t)atol(argv[++at]);
    else if (!strcmp(name, "--kernel-us")) kernel_us = atoi(argv[++at]);
    else if (!strcmp(name, "--limit")) options.limit_virtual_ns = (int64_t)(atof(argv[++at]) * 1e9);
    else if (!strcmp(name, "--real-limit")) options.limit_real_ms = (int64_t)(atof(argv[++at]) * 1e3);
    else if (!strcmp(name, "--policy")) {
      const char *policy = argv[++at];
      if (!strcmp(policy, "free")) options.policy = RVT_POLICY_FREE;
      else if (!strcmp(policy, "modelled")) options.policy = RVT_POLICY_MODELLED;
      else if (!strcmp(policy, "measured")) options.policy = RVT_POLICY_MEASURED;
      else usage("unknown policy");
    } else usage("unknown option");
  }
  if (at >= argc) usage("no command");
  if (!options.preload && !(options.preload = find_preload()))
    usage("no preload library: --preload LIB or RVT_PRELOAD");
  char full[PATH_MAX];
  if (!realpath(options.preload, full)) usage("the preload library does not exist");
  options.preload = full;
  the_host = rvt_host_new(&options);
  if (!the_host) {
    fprintf(stderr, "rvt-run: %s\n", rvt_host_error());
    return 1;
  }
  rvt_host_device(the_host)->constant_kernel_ns = kernel_us * 1000;
  signal(SIGINT, SIG_IGN); /* the terminal sends it to the programs as well */
  signal(SIGTERM, on_signal);
  signal(SIGHUP, on_signal);
  static struct rvt_host_end end;
  if (rvt_host_spawn(the_host, (const char *const *)argv + at, (const char *const *)environ, NULL, -1, -1, -1) < 0) {
    fprintf(stderr, "rvt-run: %s\n", rvt_host_error());
    rvt_host_free(the_host);
    return 127;
  }
  if (arrived) rvt_host_signal(the_host, arrived);
  rvt_host_run(the_host, &end);
  if (end.reason != RVT_END_EXIT) fprintf(stderr, "rvt-run: %s\n", end.text);
  if (!quiet) {
    struct rvt_host_status s;
    rvt_host_status_get(the_host, &s);
    uint64_t proved = s.fires + s.rounds + s.turns;
    fprintf(stderr,
            "rvt-run: virtual %.6f s, real %.3f s, jumps %llu, fires %llu, rounds %llu, turns %llu, aborts %llu, slow "
            "proofs %llu, "
            "proof %.1f us, threads %llu, killed %d, coordinator %.3f s CPU\n",
            (double)end.virtual_ns / 1e9, (double)end.real_ns / 1e9, (unsigned long long)s.jumps,
            (unsigned long long)s.fires, (unsigned long long)s.rounds, (unsigned long long)s.turns,
            (unsigned long long)s.aborts, (unsigned long long)s.slow_proofs,
            proved ? (double)s.proof_ns / 1e3 / (double)proved : 0.0, (unsigned long long)s.threads_seen, end.killed,
            cpu_s());
  }
  rvt_host_free(the_host);
  return end.reason == RVT_END_EXIT ? end.exit_code : 70;
}
