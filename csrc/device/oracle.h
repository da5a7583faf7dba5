/* The oracle: where token values come from, since no kernel computes logits. */
#ifndef RVT_ORACLE_H
#define RVT_ORACLE_H

#include "device/device.h"

#define RVT_MAX_AVOID 24

/* What is known about one request. Filled by the observer (revati_observe_request), or derived from device
 * buffers by the semantics of the framework's kernels when the observer is off. */
struct rvt_request {
  uint64_t id_hash; /* of the framework's request id; 0 = not announced */
  uint64_t key;     /* identity for token values: prompt, seed, sample index */
  uint32_t prompt_tokens;
  uint32_t min_tokens;
  int32_t eos;          /* -1 unknown, -2 none */
  uint32_t avoid_count; /* EOS and stop ids that must not appear by chance */
  int32_t avoid[RVT_MAX_AVOID];
  int32_t length;      /* output tokens, the last one EOS; -1 = no end of its own */
  const int32_t *text; /* replayed output, NULL = generated */
  uint32_t text_count;
  uint32_t allowed_count; /* allowed_token_ids of the request, 0 = all */
  int32_t *allowed;
  double accept;     /* probability that a draft token is accepted; negative = as for all */
  uint32_t produced; /* output tokens so far, counted where they are sampled; 0 = none or not known */
};

/* One token to choose. */
struct rvt_choice {
  struct rvt_request *request; /* never NULL */
  uint32_t output_index;       /* 0 = first token after the prompt */
  uint32_t vocab;              /* 0 = unknown */
  const uint32_t *mask;        /* grammar bitmask, bit set = allowed; NULL = all */
  uint32_t mask_words;
  const int32_t *allowed; /* allowed_token_ids of the request; NULL = all */
  uint32_t allowed_count;
};

/* A valid id for the choice; pure function of its arguments and the configuration. */
int32_t rvt_oracle_token(const struct rvt_choice *choice);

/* The n-th other plausible id for a position (alternatives in top-k logprobs); differs from `taken`. */
int32_t rvt_oracle_alternative(const struct rvt_choice *choice, uint32_t n, int32_t taken);

/* Log-probability of the rank-th likeliest token (0 is the most likely, and the one that is taken): falls off, and
 * summed over all ranks the probabilities stay below one, as those of a real distribution do. */
float rvt_oracle_logprob(uint32_t rank);

#define RVT_DRAFT_UNKNOWN INT32_MIN

/* What stands at the position of a draft token (speculative decoding), and whether the draft was accepted. `draft`: the
 * id that was proposed, RVT_DRAFT_UNKNOWN where only kernels would know it; `probability` of acceptance, negative = the
 * request's. A pure function, as rvt_oracle_token is. */
int32_t rvt_oracle_verify(const struct rvt_choice *choice, int32_t draft, double probability, bool *accepted);

/* Whether an observer announces requests in this process. */
bool rvt_requests_announced(void);

/* Request announced under this id, or NULL. */
struct rvt_request *rvt_request_find(const char *id);

/* Fills key, length, text of a request from its id (may be NULL), prompt and seed. */
void rvt_request_init(struct rvt_request *request, const char *id, const int32_t *prompt, uint32_t prompt_tokens,
                      uint64_t seed);

uint64_t rvt_oracle_hash(const void *data, size_t n, uint64_t seed);

#endif
