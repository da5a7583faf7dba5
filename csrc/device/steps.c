/* The step log (include/rvt_steps.h). Work is added to the step whose batch was announced last. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/core.h"
#include "device/oracle.h"
#include "include/rvt_steps.h"

#define WINDOW_STEPS 4096u
#define STEPS_MAX (1u << 18)

bool rvt_step_logging;
static char folder[3968]; /* a copy: programs that set their title overwrite the environment */
static int fd = -1;
static uint64_t steps;
static struct rvt_step *window;
static _Atomic(struct rvt_step *) open_step;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void read_environment(void) {
  const char *value = getenv("REVATI_STEPS");
  if (!value || !*value || !rvt_devices()) return;
  rvt_step_logging = snprintf(folder, sizeof folder, "%s", value) < (int)sizeof folder;
}

static bool next_window(void) {
  size_t bytes = WINDOW_STEPS * sizeof(struct rvt_step);
  off_t from = (off_t)(steps / WINDOW_STEPS * bytes);
  if (fd < 0) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d.steps", folder, (int)getpid());
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  }
  if (fd < 0 || ftruncate(fd, from + (off_t)bytes)) return false;
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, from);
  if (p == MAP_FAILED) return false;
  window = p; /* the one before stays mapped: another thread may still add to its last step */
  return true;
}

/* With draft tokens a decode step has more than one query token: its prompt is computed, then. */
static bool decoding(const struct rvt_batch *batch, uint32_t i) {
  const struct rvt_seq *seq = &batch->seqs[i];
  if (seq->q_len == 1) return seq->kv_len > 1;
  if (!rvt_drafting || !batch->ids) return false;
  const struct rvt_request *request = rvt_request_find(batch->ids[i]);
  return request && seq->kv_len - seq->q_len >= request->prompt_tokens;
}

void rvt_log_step(const struct rvt_batch *batch) {
  rvt_internal_begin();
  pthread_mutex_lock(&lock);
  atomic_store(&open_step, NULL);
  if (steps >= STEPS_MAX || (steps % WINDOW_STEPS == 0 && !next_window())) {
    rvt_message("the step log ends after %llu steps", (unsigned long long)steps);
    rvt_step_logging = false;
  } else {
    struct rvt_step *step = &window[steps % WINDOW_STEPS];
    uint32_t decodes = 0;
    for (uint32_t i = 0; i < batch->nseq; i++) decodes += decoding(batch, i);
    *step = (struct rvt_step){.index = ++steps,
                              .observed_ns = rvt_now_ns(),
                              .nseq = batch->nseq,
                              .decodes = decodes,
                              .tokens = batch->tokens,
                              .padded = batch->padded};
    atomic_store(&open_step, step);
  }
  pthread_mutex_unlock(&lock);
  rvt_internal_end();
}

static struct rvt_step_stream *stream_of(struct rvt_step *step, uint64_t id, int64_t start_ns) {
  for (int i = 0; i < RVT_STEP_STREAMS; i++) {
    struct rvt_step_stream *s = &step->stream[i];
    uint64_t none = 0;
    if (__atomic_load_n(&s->id, __ATOMIC_RELAXED) == id) return s;
    if (__atomic_compare_exchange_n(&s->id, &none, id, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      s->first_ns = start_ns;
      return s;
    }
    if (none == id) return s;
  }
  return NULL;
}

void rvt_log_family(int family, int64_t duration_ns, uint64_t times) {
  struct rvt_step *step = atomic_load(&open_step);
  if (!step) return;
  __atomic_fetch_add(&step->launches, times, __ATOMIC_RELAXED);
  __atomic_fetch_add(&step->family_ns[family], duration_ns, __ATOMIC_RELAXED);
}

/* A stretch of work in a stream, duration_ns long until end_ns. */
void rvt_log_stretch(const struct rvt_stream *s, int64_t end_ns, int64_t duration_ns, uint64_t times) {
  struct rvt_step *step = atomic_load(&open_step);
  struct rvt_step_stream *stream = step ? stream_of(step, s->id + 1, end_ns - duration_ns) : NULL;
  if (!stream) return;
  __atomic_fetch_add(&stream->busy_ns, duration_ns, __ATOMIC_RELAXED);
  __atomic_fetch_add(&stream->launches, times, __ATOMIC_RELAXED);
  if (stream->last_ns < end_ns) __atomic_store_n(&stream->last_ns, end_ns, __ATOMIC_RELAXED);
}

void rvt_log_work(const struct rvt_stream *s, int family, int64_t end_ns, int64_t duration_ns) {
  rvt_log_family(family, duration_ns, 1);
  rvt_log_stretch(s, end_ns, duration_ns, 1);
}
