/* Kernels of three batches, two of which differ in their lengths alone; every kernel twice in each. */
#include "device.h"

struct seq {
  uint32_t q_len, kv_len;
};
uint32_t revati_observe_model(const char *json);
int revati_observe_batch(const struct seq *, uint32_t n, uint32_t padded_tokens, const char *const *ids);

int main(void) {
  static char sample_stub, attention_stub, unknown_stub;
  const void *kernels[] = {make_kernel("_gumbel_sample_kernel", &sample_stub),
                           make_kernel("flash_fwd_kernel", &attention_stub), make_kernel("unknown", &unknown_stub)};
  CHECK(revati_observe_model("{\"framework\": \"vllm\", \"version\": \"0.25.1\", \"dtype\": \"bfloat16\", \"layers\": 32, "
                             "\"hidden\": 4096, \"intermediate\": 14336, \"vocab\": 128256, \"heads_q\": 32, "
                             "\"heads_kv\": 8, \"head_dim\": 128, \"tp\": 1}"));
  const struct seq batches[3][3] = {{{1, 100}, {1, 200}}, {{1, 101}, {1, 201}}, {{1, 100}, {1, 200}, {1, 300}}};
  for (int b = 0; b < 3; b++) {
    OK(revati_observe_batch(batches[b], b == 2 ? 3 : 2, 0, NULL));
    for (int k = 0; k < 3; k++) launch(kernels[k], NULL), launch(kernels[k], NULL);
  }
  OK(cudaDeviceSynchronize());
  puts("passed");
  return 0;
}
