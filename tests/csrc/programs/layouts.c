/* vLLM's Triton kernels as two of its releases declare them: the same step through both parameter lists and with
 * request slots of 4 and of 8 bytes says the same. The cubins hold the metadata of a kernel and no code. */
#include <elf.h>

#include "device.h"

int cuModuleLoadData(void **, const void *), cuModuleGetFunction(void **, void *, const char *);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                   void **);

enum { ROWS = 3, SLOTS = 4, VOCAB = 1024, PROMPT = 8, ROOM = 4 };

/* A cubin with one kernel; `sizes` lists the bytes of its parameters. */
static void *cubin(const char *name, const uint8_t *sizes, int count) {
  static _Alignas(16) char image[8192];
  char *strings = image + 1024, *info = image + 2048;
  Elf64_Ehdr *head = (Elf64_Ehdr *)image;
  Elf64_Shdr *sections = (Elf64_Shdr *)(image + 128);
  memset(image, 0, sizeof image);
  memcpy(head->e_ident, ELFMAG, SELFMAG);
  head->e_ident[EI_CLASS] = ELFCLASS64;
  *head =
      (Elf64_Ehdr){.e_machine = 190, .e_shoff = 128, .e_shentsize = sizeof *sections, .e_shnum = 4, .e_shstrndx = 1};
  memcpy(head->e_ident, ELFMAG, SELFMAG);
  head->e_ident[EI_CLASS] = ELFCLASS64;
  int text = 1, nv = text + 1 + sprintf(strings + text, ".text.%s", name);
  int length = nv + 1 + sprintf(strings + nv, ".nv.info.%s", name);
  char *at = info;
  for (int i = 0, offset = 0; i < count; offset += sizes[i++]) {
    offset = (offset + sizes[i] - 1) / sizes[i] * sizes[i];
    uint32_t words[4] = {0x04u | 0x17u << 8 | 12u << 16, 0, (uint32_t)i | (uint32_t)offset << 16,
                         (uint32_t)sizes[i] << 18};
    memcpy(at, words, sizeof words);
    at += sizeof words;
  }
  sections[1] = (Elf64_Shdr){.sh_type = SHT_STRTAB, .sh_offset = 1024, .sh_size = (uint64_t)length};
  sections[2] = (Elf64_Shdr){.sh_name = (uint32_t)text, .sh_type = SHT_PROGBITS, .sh_offset = 4096, .sh_size = 16};
  sections[3] = (Elf64_Shdr){
      .sh_name = (uint32_t)nv, .sh_type = SHT_PROGBITS, .sh_offset = 2048, .sh_size = (uint64_t)(at - info)};
  return image;
}

/* Arguments in order: P(pointer) and I(integer); Triton appends two scratch pointers. */
struct argument {
  uint64_t value;
  uint8_t bytes;
};
#define P(pointer) \
  { (uint64_t)(uintptr_t)(pointer), 8 }
#define I(number) \
  { (uint64_t)(number), 4 }
#define RUN(name, x, y, ...)                              \
  do {                                                    \
    struct argument a_[] = {__VA_ARGS__, {0, 8}, {0, 8}}; \
    run(name, x, y, a_, sizeof a_ / sizeof *a_);          \
  } while (0)

static void run(const char *name, unsigned x, unsigned y, struct argument *arguments, int count) {
  uint8_t sizes[32];
  void *values[32], *module, *function;
  for (int i = 0; i < count; i++) {
    sizes[i] = arguments[i].bytes;
    values[i] = &arguments[i].value;
  }
  OK(cuModuleLoadData(&module, cubin(name, sizes, count)));
  OK(cuModuleGetFunction(&function, module, name));
  OK(cuLaunchKernel(function, x, y, 1, 128, 1, 1, 0, NULL, values, NULL));
}

static void *device(size_t bytes) {
  void *p;
  OK(cudaMalloc(&p, bytes));
  return p;
}

static void upload(void *to, const void *from, size_t bytes) { OK(cudaMemcpy(to, from, bytes, H2D)); }

/* One step of three requests in the slots 2, 0 and 1; the second may only say 77. What the host would read back: */
struct outcome {
  int32_t seq_lens[ROOM];
  int64_t tokens[ROWS], ids[ROWS][ROOM];
  float logprobs[ROWS][ROOM];
};

static struct outcome step(int newer, void *slots) {
  static const int32_t narrow[ROWS] = {2, 0, 1}, start[ROWS + 1] = {0, 1, 3, 6}, computed[SLOTS] = {7, 6, 7},
                       lengths[SLOTS] = {8, 8, 8}, rows[ROWS + 1] = {0, 1, 2, 3}, limited[1] = {1};
  static const int64_t wide[ROWS] = {2, 0, 1};
  static const float zero[SLOTS];
  int32_t prompts[SLOTS][PROMPT];
  uint32_t mask[VOCAB / 32] = {[77 / 32] = 1u << (77 % 32)};
  for (int i = 0; i < SLOTS * PROMPT; i++) prompts[0][i] = 100 + i;
  void *query = device(64), *done = device(64), *length = device(64), *prompt = device(sizeof prompts),
       *next = device(64);
  void *input = device(4096), *positions = device(256), *seq_lens = device(64), *cu = device(64), *only = device(64);
  void *bits = device(sizeof mask), *best = device(256), *value = device(256), *logits = device(ROWS * VOCAB * 4);
  void *seeds = device(64), *heat = device(64), *ids = device(1024), *scores = device(256);
  if (newer) upload(slots, wide, sizeof wide);
  else upload(slots, narrow, sizeof narrow);
  upload(query, start, sizeof start);
  upload(done, computed, sizeof computed);
  upload(length, lengths, sizeof lengths);
  upload(prompt, prompts, sizeof prompts);
  upload(cu, rows, sizeof rows);
  upload(only, limited, sizeof limited);
  upload(bits, mask, sizeof mask);
  upload(heat, zero, sizeof zero);

  if (newer)
    RUN("_prepare_prefill_inputs_kernel", ROWS, 1, P(input), P(next), I(SLOTS), P(slots), P(query), P(prompt),
        I(PROMPT), P(length), P(done));
  else
    RUN("_prepare_prefill_inputs_kernel", ROWS, 1, P(input), P(next), P(slots), P(query), P(prompt), I(PROMPT),
        P(length), P(done));
  RUN("_prepare_pos_seq_lens_kernel", ROWS + 1, 1, P(positions), P(seq_lens), P(slots), P(query), P(done), I(ROOM));
  if (newer)
    RUN("_apply_grammar_bitmask_kernel", 1, 1, P(logits), I(VOCAB), P(only), P(cu), P(bits), I(VOCAB / 32), I(VOCAB));
  else RUN("_apply_grammar_bitmask_kernel", 1, 1, P(logits), I(VOCAB), P(only), P(bits), I(VOCAB / 32), I(VOCAB));
  /* One block of the vocabulary: strides of 1 are left out. */
  if (newer)
    RUN("_gumbel_sample_kernel", ROWS, 1, P(best), P(value), I(0), I(0), I(0), P(logits), I(VOCAB), P(slots), P(seeds),
        P(positions), P(heat), I(VOCAB));
  else
    RUN("_gumbel_sample_kernel", ROWS, 1, P(best), P(value), I(0), P(logits), I(VOCAB), P(slots), P(seeds),
        P(positions), P(heat), I(VOCAB));
  int stride = newer ? 2 * ROOM : ROOM;
  if (newer)
    RUN("_topk_log_softmax_kernel", ROWS, 1, P(scores), P(logits), I(VOCAB), P(ids), I(stride), I(ROOM), I(VOCAB));
  else RUN("_topk_log_softmax_kernel", ROWS, 1, P(scores), P(logits), I(VOCAB), P(ids), I(ROOM), I(VOCAB));

  struct outcome out;
  OK(cudaMemcpy(out.seq_lens, seq_lens, sizeof out.seq_lens, D2H));
  OK(cudaMemcpy(out.tokens, best, sizeof out.tokens, D2H));
  OK(cudaMemcpy(out.logprobs, scores, sizeof out.logprobs, D2H));
  for (int i = 0; i < ROWS; i++) OK(cudaMemcpy(out.ids[i], (char *)ids + 8 * stride * i, sizeof out.ids[i], D2H));
  return out;
}

static void check(struct outcome o, const struct outcome *same) {
  CHECK(o.seq_lens[0] == 7 + 1 && o.seq_lens[1] == 7 + 2 && o.seq_lens[2] == 6 + 3 && o.seq_lens[3] == 0);
  CHECK(o.tokens[1] == 77 && o.tokens[0] != o.tokens[2]);
  for (int i = 0; i < ROWS; i++) {
    CHECK(o.tokens[i] > 0 && o.tokens[i] < VOCAB && o.ids[i][0] == o.tokens[i]);
    CHECK(o.ids[i][2] != o.tokens[i] && o.logprobs[i][2] < o.logprobs[i][0] && o.logprobs[i][0] < 0);
    CHECK(!same || o.tokens[i] == same->tokens[i]);
  }
}

int main(void) {
  /* In one buffer, so that each upload leaves known bytes of the one before behind it, and in the other order too. */
  void *slots = device(64);
  struct outcome older = step(0, slots);
  check(older, NULL);
  check(step(1, slots), &older);
  check(step(0, slots), &older);
  check(step(1, device(64)), &older);
  puts("passed");
}
