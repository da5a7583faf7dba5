/* Kernels of 22 batches, every kernel twice in each: two sequences for 20 steps, then three for two. With an argument
 * in the opposite order, in which no batch follows from the one before. */
#include "device.h"

#define STEPS 22u
#define LONGER 20u

struct seq {
  uint32_t q_len, kv_len;
};
uint32_t revati_observe_model(const char *json);
int revati_observe_batch(const struct seq *, uint32_t n, uint32_t padded_tokens, const char *const *ids);

int main(int count, char **arguments) {
  static char sample_stub, attention_stub, unknown_stub;
  const void *kernels[] = {make_kernel("_gumbel_sample_kernel", &sample_stub),
                           make_kernel("flash_fwd_kernel", &attention_stub), make_kernel("unknown", &unknown_stub)};
  CHECK(revati_observe_model("{\"framework\": \"vllm\", \"version\": \"0.25.1\", \"dtype\": \"bfloat16\", \"layers\": 32, "
                             "\"hidden\": 4096, \"intermediate\": 14336, \"vocab\": 128256, \"heads_q\": 32, "
                             "\"heads_kv\": 8, \"head_dim\": 128, \"tp\": 1}"));
  for (uint32_t i = 0; i < STEPS; i++) {
    uint32_t step = count > 1 ? STEPS - 1 - i : i, grown = step % LONGER;
    const struct seq batch[] = {{1, 100 + grown}, {1, 200 + grown}, {1, 300 + grown}};
    OK(revati_observe_batch(batch, step < LONGER ? 2 : 3, 0, NULL));
    for (int k = 0; k < 3; k++) launch(kernels[k], NULL), launch(kernels[k], NULL);
  }
  OK(cudaDeviceSynchronize());
  puts("passed");
  return 0;
}
