/* The oracle: deterministic, valid token ids, and requests that end where the experiment wants them to.
 *
 * A token is a pure function of (seed, request key, output index). The key is the content of the prompt, the
 * request's explicit sampling seed and its sample number (n > 1), not the request id, which frameworks draw at
 * random: so tensor-parallel ranks, repeated runs and a resumed request agree.
 *
 * By default ids come from the middle of the vocabulary, away from the special tokens that sit at its ends, avoid
 * the EOS and stop ids that the observer announced, and a request ends at max_tokens. REVATI_ORACLE names a text
 * file that changes this; one directive a line, '#' starts a comment:
 *
 *   seed N               another stream of tokens
 *   vocab N              size of the vocabulary where nothing announces it
 *   range LO HI          ids are drawn from [LO, HI)
 *   eos ID               the id that ends a request where nothing announces it
 *   length N             every request ends by EOS with N output tokens (the EOS is the last of them)
 *   length ID N          the same for requests whose id contains ID between dashes (an X-Request-Id header, say)
 *   tokens ID T0 T1 ...  replays these output tokens, then EOS
 *   accept P             probability that a draft token is accepted (speculative decoding), default 0.7
 *   accept ID P          the same for requests whose id contains ID between dashes
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/core.h"
#include "device/oracle.h"

/* --- configuration ------------------------------------------------------------------------------------- */

struct rule { /* length or tokens of one request name */
  uint64_t name_hash;
  int32_t length;
  double accept; /* negative: as for all */
  const int32_t *text;
  uint32_t text_count;
};

static struct {
  uint64_t seed;
  uint32_t vocab, low, high;
  int32_t eos, length;
  double accept;
  struct rule *rules; /* open addressing, power of two */
  uint32_t rule_slots, rule_count;
} config = {.eos = -1, .length = -1, .accept = 0.7};

static _Atomic int config_state; /* 0 unread, 1 being read, 2 read */

uint64_t rvt_oracle_hash(const void *data, size_t n, uint64_t seed) {
  const unsigned char *p = data;
  uint64_t h = seed ^ (n * 0x9E3779B97F4A7C15ull);
  while (n >= 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    h = (h ^ word) * 0xD6E8FEB86659FD93ull;
    h ^= h >> 32;
    p += 8;
    n -= 8;
  }
  uint64_t tail = 0;
  memcpy(&tail, p, n);
  h = (h ^ tail) * 0xD6E8FEB86659FD93ull;
  h ^= h >> 29;
  h *= 0xBF58476D1CE4E5B9ull;
  return h ^ h >> 32;
}

static uint64_t mix(uint64_t a, uint64_t b, uint64_t c) {
  uint64_t words[3] = {a, b, c};
  return rvt_oracle_hash(words, sizeof words, 0x5265766174694Full);
}

static struct rule *rule_slot(uint64_t hash) {
  if (!config.rule_slots) return NULL;
  uint32_t i = (uint32_t)hash & (config.rule_slots - 1);
  while (config.rules[i].name_hash && config.rules[i].name_hash != hash) i = (i + 1) & (config.rule_slots - 1);
  return &config.rules[i];
}

static struct rule *rule_make(const char *name, size_t n) {
  if (config.rule_count * 2 >= config.rule_slots) {
    struct rule *old = config.rules;
    uint32_t old_slots = config.rule_slots, slots = old_slots ? old_slots * 2 : 1024;
    struct rule *rules = calloc(slots, sizeof *rules);
    if (!rules) return NULL;
    config.rules = rules;
    config.rule_slots = slots;
    for (uint32_t i = 0; i < old_slots; i++) {
      if (old[i].name_hash) *rule_slot(old[i].name_hash) = old[i];
    }
    free(old);
  }
  uint64_t hash = rvt_oracle_hash(name, n, 1) | 1;
  struct rule *rule = rule_slot(hash);
  if (!rule->name_hash) {
    *rule = (struct rule){.name_hash = hash, .length = -1, .accept = -1};
    config.rule_count++;
  }
  return rule;
}

static bool read_tokens(char *rest, struct rule *rule) {
  uint32_t room = 64, count = 0;
  int32_t *text = malloc(room * sizeof *text);
  for (char *word = strtok(rest, " \t\r\n"); text && word; word = strtok(NULL, " \t\r\n")) {
    if (count == room) {
      int32_t *longer = realloc(text, (room *= 2) * sizeof *text);
      if (!longer) break;
      text = longer;
    }
    text[count++] = (int32_t)strtol(word, NULL, 10);
  }
  if (!text) return false;
  rule->text = text;
  rule->text_count = count;
  rule->length = (int32_t)count + 1;
  return true;
}

static bool is_probability(double p) { return p >= 0 && p <= 1; }

static bool read_line(char *line) {
  char word[32], name[160];
  long long a, b;
  double p;
  int used = 0;
  char *comment = strchr(line, '#');
  if (comment) *comment = 0;
  if (sscanf(line, " %31s %n", word, &used) < 1) return true;
  char *rest = line + used;
  if (!strcmp(word, "seed") && sscanf(rest, "%lld", &a) == 1) config.seed = (uint64_t)a;
  else if (!strcmp(word, "vocab") && sscanf(rest, "%lld", &a) == 1) config.vocab = (uint32_t)a;
  else if (!strcmp(word, "eos") && sscanf(rest, "%lld", &a) == 1) config.eos = (int32_t)a;
  else if (!strcmp(word, "accept") && sscanf(rest, "%159s %lf", name, &p) == 2 && is_probability(p)) {
    struct rule *rule = rule_make(name, strlen(name));
    if (rule) rule->accept = p;
  } else if (!strcmp(word, "accept") && sscanf(rest, "%lf %159s", &p, name) == 1 && is_probability(p))
    config.accept = p;
  else if (!strcmp(word, "range") && sscanf(rest, "%lld %lld", &a, &b) == 2 && a < b) {
    config.low = (uint32_t)a;
    config.high = (uint32_t)b;
  } else if (!strcmp(word, "length") && sscanf(rest, "%159s %lld", name, &a) == 2) {
    struct rule *rule = rule_make(name, strlen(name));
    if (rule) rule->length = (int32_t)a;
  } else if (!strcmp(word, "length") && sscanf(rest, "%lld", &a) == 1) config.length = (int32_t)a;
  else if (!strcmp(word, "tokens") && sscanf(rest, "%159s %n", name, &used) == 1) {
    struct rule *rule = rule_make(name, strlen(name));
    return rule && read_tokens(rest + used, rule);
  } else return false;
  return true;
}

static void read_config(void) {
  const char *seed = getenv("REVATI_SEED"); /* of the launcher; the file may say otherwise */
  if (seed) config.seed = strtoull(seed, NULL, 10);
  const char *path = getenv("REVATI_ORACLE");
  if (!path || !*path) return;
  FILE *file = fopen(path, "re");
  if (!file) {
    rvt_message("REVATI_ORACLE names '%s', which cannot be read; the oracle keeps its defaults", path);
    return;
  }
  char *line = NULL;
  size_t room = 0;
  for (unsigned number = 1; getline(&line, &room, file) > 0; number++) {
    if (!read_line(line))
      rvt_message("%s:%u: the oracle does not know this directive; the line is ignored", path, number);
  }
  free(line);
  fclose(file);
}

static void need_config(void) {
  if (RVT_LIKELY(atomic_load_explicit(&config_state, memory_order_acquire) == 2)) return;
  int unread = 0;
  if (atomic_compare_exchange_strong(&config_state, &unread, 1)) {
    rvt_internal_begin();
    read_config();
    rvt_internal_end();
    atomic_store_explicit(&config_state, 2, memory_order_release);
  }
}

/* --- requests ------------------------------------------------------------------------------------------ */

/* "3_cmpl-abc-0" is sample 3 of a request with n > 1: vLLM's naming of child requests. */
static uint64_t sample_number(const char *id) {
  char *end = NULL;
  unsigned long n = strtoul(id, &end, 10);
  return end > id && *end == '_' ? n + 1 : 0;
}

/* Rule whose name is a run of whole dash-separated parts of the id: frameworks wrap the caller's id in a prefix,
 * a sample number and a random suffix. */
static const struct rule *rule_for(const char *id) {
  if (!config.rule_count) return NULL;
  if (sample_number(id)) id = strchr(id, '_') + 1;
  const char *ends[24];
  uint32_t count = 0;
  for (const char *p = id; count < 24; p++) {
    if (*p && *p != '-') continue;
    ends[count++] = p;
    if (!*p) break;
  }
  for (uint32_t length = count; length > 0; length--) {
    for (uint32_t first = 0; first + length <= count; first++) {
      const char *begin = first ? ends[first - 1] + 1 : id;
      const struct rule *rule = rule_slot(rvt_oracle_hash(begin, (size_t)(ends[first + length - 1] - begin), 1) | 1);
      if (rule && rule->name_hash) return rule;
    }
  }
  return NULL;
}

void rvt_request_init(struct rvt_request *request, const char *id, const int32_t *prompt, uint32_t prompt_tokens,
                      uint64_t seed) {
  need_config();
  const struct rule *rule = id ? rule_for(id) : NULL;
  request->id_hash = id ? rvt_oracle_hash(id, strlen(id), 0) | 1 : 0;
  request->prompt_tokens = prompt_tokens;
  request->key = mix(rvt_oracle_hash(prompt, prompt_tokens * sizeof *prompt, 2), seed, id ? sample_number(id) : 0);
  request->length = rule && rule->length >= 0 ? rule->length : config.length;
  request->accept = rule && rule->accept >= 0 ? rule->accept : config.accept;
  request->text = rule ? rule->text : NULL;
  request->text_count = rule ? rule->text_count : 0;
  if (request->eos == -1) request->eos = config.eos;
}

/* Announced requests: a table that forgets the oldest. Writers are the observer's calls (one thread). */
#define REQUEST_SLOTS 16384u
static struct rvt_request *requests;

static struct rvt_request *request_slot(uint64_t id_hash, bool make) {
  if (!requests) return NULL;
  uint32_t i = (uint32_t)(id_hash >> 8) & (REQUEST_SLOTS - 1);
  for (uint32_t probe = 0; probe < 16; probe++) {
    struct rvt_request *slot = &requests[(i + probe) & (REQUEST_SLOTS - 1)];
    if (slot->id_hash == id_hash || (make && slot->id_hash == 0)) return slot;
  }
  if (!make) return NULL;
  struct rvt_request *victim = &requests[(i + (id_hash & 15)) & (REQUEST_SLOTS - 1)];
  return victim;
}

bool rvt_requests_announced(void) { return requests != NULL; }

struct rvt_request *rvt_request_find(const char *id) {
  return id ? request_slot(rvt_oracle_hash(id, strlen(id), 0) | 1, false) : NULL;
}

/* Called by a framework observer when a request enters the worker. `prompt` holds token ids; `avoid` the EOS and
 * stop ids, `allowed` the only ids that may come (none: all); eos -1 = not known, -2 = the request ignores it; seed
 * 0 = the request gave none. */
RVT_API void revati_observe_request(const char *id, const int32_t *prompt, uint32_t prompt_tokens, uint64_t seed,
                                    uint32_t min_tokens, int32_t eos, const int32_t *avoid, uint32_t avoid_count,
                                    const int32_t *allowed, uint32_t allowed_count) {
  if (!id) return;
  rvt_host_cost(RVT_HOST_REQUEST);
  if (!requests) {
    rvt_internal_begin();
    requests = calloc(REQUEST_SLOTS, sizeof *requests);
    rvt_internal_end();
    if (!requests) return;
  }
  struct rvt_request fresh = {.min_tokens = min_tokens, .eos = eos};
  fresh.avoid_count = avoid_count < RVT_MAX_AVOID ? avoid_count : RVT_MAX_AVOID;
  if (avoid) memcpy(fresh.avoid, avoid, fresh.avoid_count * sizeof *avoid);
  rvt_request_init(&fresh, id, prompt, prompt_tokens, seed);
  struct rvt_request *slot = request_slot(fresh.id_hash, true);
  /* A preempted request comes back under its id with its output appended to the prompt: keep what it was. */
  if (!slot || slot->id_hash == fresh.id_hash) return;
  free(slot->allowed);
  if (allowed && allowed_count && (fresh.allowed = malloc(allowed_count * sizeof *allowed))) {
    memcpy(fresh.allowed, allowed, allowed_count * sizeof *allowed);
    fresh.allowed_count = allowed_count;
  }
  *slot = fresh;
}

/* --- tokens -------------------------------------------------------------------------------------------- */

static bool avoided(const struct rvt_request *request, int32_t token) {
  if (token == request->eos) return true;
  for (uint32_t i = 0; i < request->avoid_count; i++) {
    if (request->avoid[i] == token) return true;
  }
  return false;
}

static bool permitted(const struct rvt_choice *c, int32_t token) {
  return token >= 0 && (uint32_t)token / 32 < c->mask_words && (c->mask[token / 32] >> (token % 32) & 1);
}

/* Special tokens live at the two ends of a vocabulary: draw from between. */
static void token_range(uint32_t vocab, uint32_t *low, uint32_t *high) {
  if (config.vocab && (!vocab || config.vocab < vocab)) vocab = config.vocab;
  if (!vocab) vocab = 32000;
  *low = config.high ? config.low : vocab / 64 + (vocab > 1024 ? 256 : 3);
  *high = config.high ? config.high : vocab - vocab / 4;
  if (*high > vocab) *high = vocab;
  if (*low >= *high) *low = 0;
}

static int32_t draw(const struct rvt_choice *c, uint64_t h) {
  uint32_t low, high;
  token_range(c->vocab, &low, &high);
  int32_t token = (int32_t)(low + (uint32_t)(h % (high - low)));
  for (uint32_t tries = 0; avoided(c->request, token) && tries < RVT_MAX_AVOID + 2; tries++) {
    token = (uint32_t)token + 1 < high ? token + 1 : (int32_t)low;
  }
  return token;
}

/* The n-th allowed id below `limit`; the last one when there are fewer. -1 = none. */
static int32_t nth_allowed(const struct rvt_choice *c, uint64_t n, uint32_t limit) {
  int32_t found = -1;
  for (uint32_t i = 0; i < c->mask_words && i * 32 < limit; i++) {
    for (uint32_t bits = c->mask[i]; bits; bits &= bits - 1) {
      uint32_t id = i * 32 + (uint32_t)__builtin_ctz(bits);
      if (id >= limit) return found;
      found = (int32_t)id;
      if (n-- == 0) return found;
    }
  }
  return found;
}

/* A token that the grammar allows. Real models close their strings and numbers; a draw over the whole mask nearly
 * never would. In common vocabularies the single characters come first, so part of the draws take one of the
 * lowest allowed ids (quotes) or the highest one among them (braces). An allowed EOS is taken: the grammar is
 * complete. */
static int32_t draw_masked(const struct rvt_choice *c, uint64_t h) {
  enum { SINGLE_CHARACTERS = 259 };
  const struct rvt_request *request = c->request;
  if (request->eos >= 0 && permitted(c, request->eos) && c->output_index >= request->min_tokens) return request->eos;
  uint64_t allowed = 0;
  for (uint32_t i = 0; i < c->mask_words; i++) allowed += (uint64_t)__builtin_popcount(c->mask[i]);
  if (!allowed) return draw(c, h);
  uint32_t vocab = c->vocab ? c->vocab : c->mask_words * 32;
  int32_t token = draw(c, h >> 8);
  switch (h & 3) {
  case 0: token = nth_allowed(c, (h >> 8) % 8, vocab); break;
  case 1: token = nth_allowed(c, UINT64_MAX, SINGLE_CHARACTERS); break;
  case 2: token = nth_allowed(c, (h >> 8) % allowed, vocab); break;
  default: break;
  }
  return token >= 0 && permitted(c, token) ? token : nth_allowed(c, (h >> 8) % allowed, vocab);
}

int32_t rvt_oracle_token(const struct rvt_choice *c) {
  need_config();
  const struct rvt_request *request = c->request;
  uint64_t h = mix(config.seed, request->key, c->output_index);
  int32_t last = request->length - 1;
  if (last >= 0 && last < (int32_t)request->min_tokens) last = (int32_t)request->min_tokens;
  bool end = request->eos >= 0 && request->length >= 0 && (int32_t)c->output_index == last;
  if (end && (!c->mask || permitted(c, request->eos))) return request->eos;
  if (request->text && c->output_index < request->text_count) {
    int32_t token = request->text[c->output_index];
    if (!c->mask || permitted(c, token)) return token;
  }
  if (c->mask) return draw_masked(c, h);
  if (c->allowed_count) return c->allowed[h % c->allowed_count];
  if (request->allowed_count) return request->allowed[h % request->allowed_count];
  return draw(c, h);
}

static bool listed(const int32_t *ids, uint32_t count, int32_t token) {
  for (uint32_t i = 0; i < count; i++) {
    if (ids[i] == token) return true;
  }
  return count == 0;
}

/* Whether a token that the oracle did not choose may stand at this position. */
static bool draft_fits(const struct rvt_choice *c, int32_t token) {
  uint32_t vocab = c->vocab ? c->vocab : config.vocab;
  if (token < 0 || (vocab && (uint32_t)token >= vocab)) return false;
  if (c->mask && !permitted(c, token)) return false;
  return listed(c->allowed, c->allowed_count, token) && listed(c->request->allowed, c->request->allowed_count, token);
}

int32_t rvt_oracle_alternative(const struct rvt_choice *c, uint32_t n, int32_t taken) {
  need_config();
  uint32_t low, high;
  token_range(c->vocab, &low, &high);
  uint32_t span = high - low;
  /* Consecutive ids from a drawn start are distinct as long as n < span; step over the one that was taken. */
  uint32_t start = (uint32_t)(mix(config.seed ^ 0xA17, c->request->key, c->output_index) % span);
  uint32_t at_taken =
      (uint32_t)taken >= low && (uint32_t)taken < high ? ((uint32_t)taken - low + span - start) % span : span;
  if (n >= at_taken) n++;
  return (int32_t)(low + (start + n) % span);
}

float rvt_oracle_logprob(uint32_t rank) {
  if (rank == 0) return -0.105f; /* 0.9003; the others sum to 0.0202 / (1 - exp(-1/4)) = 0.0915 */
  return -3.9f - 0.25f * (float)(rank - 1);
}

/* Where draft ids are made up as well (a draft model's), an accepted one was the oracle's token: the text is that of a
 * run without speculation. Where they are real (copied from the prompt), an accepted one must be taken as it is, or
 * the next drafts would be looked up in a text that never contained the last ones. */
int32_t rvt_oracle_verify(const struct rvt_choice *c, int32_t draft, double probability, bool *accepted) {
  need_config();
  const struct rvt_request *request = c->request;
  int32_t own = rvt_oracle_token(c);
  uint64_t h = mix(config.seed ^ 0xACCE, request->key, c->output_index);
  if (probability < 0) probability = request->accept < 0 ? config.accept : request->accept;
  *accepted = (double)(h >> 11) * 0x1p-53 < probability;
  /* A grammar's next mask follows the draft that the framework saw: another token in its place would not fit. */
  if (c->mask && draft == RVT_DRAFT_UNKNOWN) *accepted = false;
  if (!*accepted || draft == RVT_DRAFT_UNKNOWN || draft == own) return own;
  bool replayed = request->text && c->output_index < request->text_count;
  if (replayed && own == request->text[c->output_index]) return own;
  *accepted = own != request->eos && !avoided(request, draft) && draft_fits(c, draft);
  return *accepted ? draft : own;
}
