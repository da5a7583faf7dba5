/* Records on disk: each thread owns a mapped file and writes into it with plain stores. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "record/record.h"

struct rvt_writer {
  struct rvt_segment *segment;
  struct rvt_record *records;
  uint64_t count; /* of this segment */
  uint32_t thread, number;
  struct rvt_histogram *histograms; /* RVT_MAX_SITES */
  bool broken;
  struct rvt_writer *next_free;
};

__thread struct rvt_thread_state rvt_here;

static char folder[3072];
static _Atomic uint32_t generation = 1, threads;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rvt_writer *free_writers; /* of threads that ended */
static pthread_key_t thread_end;

#define SEGMENT_BYTES (sizeof(struct rvt_segment) + (size_t)RVT_SEGMENT_RECORDS * sizeof(struct rvt_record))

int64_t rvt_clock_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

void rvt_say(const char *format, ...) {
  char line[1024];
  int n = snprintf(line, sizeof line, "revati record: ");
  va_list args;
  va_start(args, format);
  n += vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
  va_end(args);
  if (n > (int)sizeof line - 2) n = (int)sizeof line - 2;
  line[n++] = '\n';
  ssize_t ignored = write(2, line, (size_t)n);
  (void)ignored;
}

bool rvt_recording(void) { return folder[0] != 0; }

static void give_writer_back(void *writer) {
  struct rvt_writer *w = writer;
  pthread_mutex_lock(&lock);
  w->next_free = free_writers;
  free_writers = w;
  pthread_mutex_unlock(&lock);
  rvt_here.writer = NULL;
}

/* A forked child writes files of its own; what the parent had mapped stays the parent's. */
static void forked(void) {
  atomic_fetch_add(&generation, 1);
  free_writers = NULL;
  rvt_forget_ops();
  pthread_mutex_init(&lock, NULL);
}

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("REVATI_RECORD");
  if (!path || !*path || strlen(path) >= sizeof folder) return;
  uint16_t number = 0;
  for (struct rvt_site *const *s = __start_rvt_sites; s < __stop_rvt_sites; s++) (*s)->number = number++;
  pthread_key_create(&thread_end, give_writer_back);
  pthread_atfork(NULL, NULL, forked);
  strcpy(folder, path);
}

/* The names behind the numbers of sites: the same for every process, since they all load this library. */
static void write_site_names(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/sites", folder);
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return;
  for (struct rvt_site *const *s = __start_rvt_sites; s < __stop_rvt_sites; s++) dprintf(fd, "%s\n", (*s)->name);
  close(fd);
}

static void *map_file(const char *path, size_t bytes) {
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return NULL;
  void *at =
      ftruncate(fd, (off_t)bytes) == 0 ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  close(fd);
  return at == MAP_FAILED ? NULL : at;
}

static void give_up(struct rvt_writer *w) {
  static atomic_flag said;
  w->broken = true;
  if (!atomic_flag_test_and_set(&said))
    rvt_say("%s cannot be written (%s): this program is not recorded from here on", folder, strerror(errno));
}

static bool next_segment(struct rvt_writer *w) {
  char path[4096];
  if (w->broken) return false;
  if (w->segment) munmap(w->segment, SEGMENT_BYTES);
  snprintf(path, sizeof path, "%s/%d-%u-%u.seg", folder, (int)getpid(), w->thread, w->number);
  struct rvt_segment *s = map_file(path, SEGMENT_BYTES);
  w->segment = s;
  if (!s) {
    give_up(w);
    return false;
  }
  memcpy(s->magic, "RVTREC\0\0", 8);
  s->version = RVT_RECORD_VERSION;
  s->pid = (uint32_t)getpid();
  s->thread = w->thread;
  s->number = w->number++;
  w->records = (struct rvt_record *)(s + 1);
  w->count = 0;
  return true;
}

static struct rvt_writer *new_writer(void) {
  char path[4096];
  struct rvt_writer *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  w->thread = atomic_fetch_add(&threads, 1);
  snprintf(path, sizeof path, "%s/%d-%u.hist", folder, (int)getpid(), w->thread);
  w->histograms = map_file(path, RVT_MAX_SITES * sizeof *w->histograms);
  if (!w->histograms || !next_segment(w)) give_up(w);
  else write_site_names();
  return w;
}

static struct rvt_writer *take_writer(void) {
  pthread_mutex_lock(&lock);
  struct rvt_writer *w = free_writers;
  if (w) free_writers = w->next_free;
  pthread_mutex_unlock(&lock);
  if (!w) w = new_writer();
  rvt_here.writer = w;
  if (rvt_here.generation) rvt_here.events = NULL; /* a forked child: the events are the parent's */
  rvt_here.generation = atomic_load(&generation);
  /* Numbers of threads are never used twice, so neither are correlations. */
  rvt_here.sequence = (uint64_t)(atomic_fetch_add(&threads, 1) + 1) << 40;
  if (w) pthread_setspecific(thread_end, w);
  return w;
}

static inline struct rvt_writer *my_writer(void) {
  if (RVT_LIKELY(rvt_here.writer && rvt_here.generation == atomic_load_explicit(&generation, memory_order_relaxed)))
    return rvt_here.writer;
  return take_writer();
}

uint64_t rvt_next_correlation(void) {
  my_writer();
  return ++rvt_here.sequence;
}

struct rvt_record *rvt_reserve(void) {
  struct rvt_writer *w = my_writer();
  if (RVT_UNLIKELY(!w || w->broken)) return NULL;
  if (RVT_UNLIKELY(w->count == RVT_SEGMENT_RECORDS) && !next_segment(w)) return NULL;
  return &w->records[w->count];
}

void rvt_commit(void) {
  struct rvt_writer *w = rvt_here.writer;
  __atomic_store_n(&w->segment->count, ++w->count, __ATOMIC_RELEASE);
}

void rvt_put_text(const struct rvt_record *head, const void *text, size_t bytes) {
  const size_t piece = sizeof((struct rvt_text_record *)0)->text;
  uint64_t slots = 1 + (bytes + piece - 1) / piece;
  if (slots > RVT_SEGMENT_RECORDS || !rvt_reserve()) return;
  struct rvt_writer *w = rvt_here.writer;
  if (w->count + slots > RVT_SEGMENT_RECORDS && !next_segment(w)) return;
  w->records[w->count] = *head;
  struct rvt_text_record *out = (struct rvt_text_record *)&w->records[w->count + 1];
  for (size_t done = 0; done < bytes; done += piece, out++) {
    out->type = RVT_REC_TEXT;
    out->bytes = (uint8_t)(bytes - done < piece ? bytes - done : piece);
    memcpy(out->text, (const char *)text + done, out->bytes);
  }
  w->count += slots;
  __atomic_store_n(&w->segment->count, w->count, __ATOMIC_RELEASE);
}

/* ---- host time ---------------------------------------------------------------------------------------------- */

static uint32_t bucket_of(uint64_t ns) {
  if (ns < 1u << RVT_HIST_FIRST) return 0;
  uint32_t octave = 63 - (uint32_t)__builtin_clzll(ns);
  uint32_t bucket = (octave - RVT_HIST_FIRST) * 4 + (uint32_t)(ns >> (octave - 2) & 3);
  return bucket < RVT_HIST_BUCKETS ? bucket : RVT_HIST_BUCKETS - 1;
}

void rvt_count_call(struct rvt_site *site, int64_t ns) {
  struct rvt_writer *w = my_writer();
  if (RVT_UNLIKELY(!w || w->broken)) return;
  struct rvt_histogram *h = &w->histograms[site->number];
  h->calls++;
  h->total_ns += (uint64_t)ns;
  h->bucket[bucket_of((uint64_t)ns)]++;
}
