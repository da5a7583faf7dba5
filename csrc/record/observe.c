/* What the framework's observer announces (revati/frameworks): the model and each step's batch. Recorded, and passed on
 * to the virtual device where there is one.
 */
#include <string.h>

#include "record/record.h"

RVT_API uint32_t revati_observe_model(const char *json);
RVT_SITE(revati_observe_model);
RVT_API uint32_t revati_observe_model(const char *json) {
  enum { MODELS = 8 }; /* a target and its draft model alternate: each is written once */
  static uint64_t known[MODELS];
  static _Atomic uint32_t last;
  uint32_t (*real)(const char *) = rvt_real(&site_revati_observe_model);
  if (json && rvt_recording()) {
    uint64_t hash = rvt_hash_bytes(json, strlen(json)) | 1;
    uint32_t number = 0;
    for (uint32_t i = 0; i < MODELS && !number; i++) {
      if (__atomic_load_n(&known[i], __ATOMIC_ACQUIRE) == hash) number = i + 1;
    }
    if (!number) {
      number = atomic_fetch_add(&last, 1) + 1;
      struct rvt_record head = {.type = RVT_REC_MODEL, .op = number, .begin_ns = rvt_clock_ns()};
      rvt_put_text(&head, json, strlen(json));
      if (number <= MODELS) __atomic_store_n(&known[number - 1], hash, __ATOMIC_RELEASE);
    }
    atomic_store(&rvt_model, number);
  }
  return real ? real(json) : 0;
}

/* A recording holds what happened, whether or not anything can emulate it. */
RVT_API void revati_observe_lacking(const char *what);
RVT_SITE(revati_observe_lacking);
RVT_API void revati_observe_lacking(const char *what) {
  void (*real)(const char *) = rvt_real(&site_revati_observe_lacking);
  if (real) real(what);
}

RVT_API int revati_observe_batch(const struct rvt_seq *seqs, uint32_t n, uint32_t padded, const char *const *ids);
RVT_SITE(revati_observe_batch);
RVT_API int revati_observe_batch(const struct rvt_seq *seqs, uint32_t n, uint32_t padded, const char *const *ids) {
  int (*real)(const struct rvt_seq *, uint32_t, uint32_t, const char *const *) = rvt_real(&site_revati_observe_batch);
  if (rvt_recording() && (seqs || !n)) {
    uint32_t step = atomic_fetch_add(&rvt_step, 1) + 1;
    struct rvt_record head = {.type = RVT_REC_STEP, .step = step, .value = padded, .begin_ns = rvt_clock_ns()};
    rvt_put_text(&head, seqs, n * sizeof *seqs);
  }
  return real ? real(seqs, n, padded, ids) : 0;
}

RVT_API void revati_observe_request(const char *id, const int32_t *prompt, uint32_t prompt_tokens, uint64_t seed,
                                    uint32_t min_tokens, int32_t eos, const int32_t *avoid, uint32_t avoid_count,
                                    const int32_t *allowed, uint32_t allowed_count);
RVT_SITE(revati_observe_request);
RVT_API void revati_observe_request(const char *id, const int32_t *prompt, uint32_t prompt_tokens, uint64_t seed,
                                    uint32_t min_tokens, int32_t eos, const int32_t *avoid, uint32_t avoid_count,
                                    const int32_t *allowed, uint32_t allowed_count) {
  __typeof__(&revati_observe_request) real = rvt_real(&site_revati_observe_request);
  if (real) real(id, prompt, prompt_tokens, seed, min_tokens, eos, avoid, avoid_count, allowed, allowed_count);
}

/* What the framework did on the host: only a virtual clock charges for it, a recorded host takes its own time. */
RVT_API void revati_observe_host(uint32_t kind, uint64_t times);
RVT_SITE(revati_observe_host);
RVT_API void revati_observe_host(uint32_t kind, uint64_t times) {
  void (*real)(uint32_t, uint64_t) = rvt_real(&site_revati_observe_host);
  if (real) real(kind, times);
}
