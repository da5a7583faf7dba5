/* PyTorch's arithmetic on small integer tensors, as far as a sampler reads the result back: vLLM's and SGLang's own
 * top-k (without FlashInfer) compares k with the vocabulary, fills where it matches, and asks for the largest k.
 *
 * Parameters of vectorized and unrolled elementwise kernels: (int n, functor, array<char*> data). */
#include <string.h>

#include "device/semantics.h"

#define LIMIT 8192u /* elements: a tensor with more holds no control data */

/* int or long, by its letter in a mangled name behind `marker`; 0 = another type. */
static unsigned integer_bytes(const struct rvt_launch *l, const char *marker) {
  const char *at = strstr(l->kernel->name, marker);
  char type = at ? at[strlen(marker)] : 0;
  return type == 'i' ? 4 : type == 'l' ? 8 : 0;
}

static int64_t element(const void *values, unsigned bytes, size_t i) {
  if (bytes == 8) return ((const int64_t *)values)[i];
  return ((const int32_t *)values)[i];
}

static void set_element(void *values, unsigned bytes, size_t i, int64_t value) {
  if (bytes == 8) ((int64_t *)values)[i] = value;
  else ((int32_t *)values)[i] = (int32_t)value;
}

static uint32_t elements(const struct rvt_launch *l) {
  int32_t n = *(const int32_t *)l->params[0];
  return n > 0 && (uint32_t)n <= LIMIT ? (uint32_t)n : 0;
}

static enum rvt_semantic_result unknown(uint64_t output) {
  rvt_mem_forget_at(output);
  return RVT_SEM_DONE;
}

/* tensor == scalar, tensor != scalar. AUnaryFunctor<T, T, bool, CompareEqFunctor<T>>: {EqOpType op, T scalar} */
static enum rvt_semantic_result equals_scalar(const struct rvt_launch *l) {
  const uint64_t *data = l->params[2];
  unsigned bytes = integer_bytes(l, "AUnaryFunctorI");
  uint32_t n = elements(l);
  void *values = rvt_scratch(0, n * 8ull + 8);
  if (!bytes || !n || !rvt_mem_read(data[1], values, n * bytes)) return unknown(data[0]);
  const char *functor = l->params[1];
  bool negated = *(const int32_t *)(const void *)functor != 0;
  int64_t scalar = element(functor + bytes, bytes, 0);
  uint8_t *equal = rvt_scratch(1, n);
  for (uint32_t i = 0; i < n; i++) equal[i] = (element(values, bytes, i) == scalar) != negated;
  rvt_mem_write(data[0], equal, n);
  return RVT_SEM_DONE;
}

/* masked_fill, in place or not: {out, in, mask}, the lambda holds the value. Its arguments are (T, bool). */
static enum rvt_semantic_result masked_fill(const struct rvt_launch *l) {
  const uint64_t *data = l->params[2];
  unsigned bytes = strstr(l->kernel->name, "EUlibE_") ? 4 : strstr(l->kernel->name, "EUllbE_") ? 8 : 0;
  uint32_t n = elements(l);
  void *values = rvt_scratch(0, n * 8ull + 8);
  uint8_t *mask = rvt_scratch(1, n + 1);
  if (!bytes || !n || !rvt_mem_read(data[1], values, n * bytes) || !rvt_mem_read(data[2], mask, n))
    return unknown(data[0]);
  int64_t value = element(l->params[1], bytes, 0);
  for (uint32_t i = 0; i < n; i++) {
    if (mask[i]) set_element(values, bytes, i, value);
  }
  rvt_mem_write(data[0], values, n * bytes);
  return RVT_SEM_DONE;
}

/* tensor + scalar, tensor - scalar. CUDAFunctorOnSelf_add<T>: {T other, T alpha} */
static enum rvt_semantic_result add_scalar(const struct rvt_launch *l) {
  const uint64_t *data = l->params[2];
  unsigned bytes = integer_bytes(l, "CUDAFunctorOnSelf_addI");
  uint32_t n = elements(l);
  void *values = rvt_scratch(0, n * 8ull + 8);
  if (!bytes || !n || !rvt_mem_read(data[1], values, n * bytes)) return unknown(data[0]);
  uint64_t step = (uint64_t)element(l->params[1], bytes, 0) * (uint64_t)element(l->params[1], bytes, 1);
  for (uint32_t i = 0; i < n; i++) {
    set_element(values, bytes, i, (int64_t)((uint64_t)element(values, bytes, i) + step));
  }
  rvt_mem_write(data[0], values, n * bytes);
  return RVT_SEM_DONE;
}

/* max and min of a whole tensor, as far as it lies in one piece: what a sampler reduces is a fresh 1-d tensor. */
static enum rvt_semantic_result extreme(const struct rvt_launch *l) {
  struct rvt_reduction r;
  if (!rvt_torch_reduction(l->params[0], &r)) return RVT_SEM_DONE;
  bool least = strstr(l->kernel->name, "MinNanFunctor") != NULL;
  unsigned bytes = integer_bytes(l, least ? "MinNanFunctorI" : "MaxNanFunctorI");
  uint32_t n = (uint32_t)r.inputs;
  if (!bytes || r.outputs != 1 || n > LIMIT) return unknown(r.target);
  void *values = rvt_scratch(0, n * 8ull);
  if (!rvt_mem_read(r.source, values, n * bytes)) return unknown(r.target);
  int64_t found = element(values, bytes, 0);
  for (uint32_t i = 1; i < n; i++) {
    int64_t value = element(values, bytes, i);
    if (least ? value < found : value > found) found = value;
  }
  rvt_mem_write(r.target, &found, bytes); /* little endian: the low bytes are the narrow value */
  return RVT_SEM_DONE;
}

static const uint16_t n_f_data[] = {4, 16, 64};
static const uint16_t one_structure[] = {1088};

#define SIZES(array) .param_count = sizeof array / sizeof *array, .param_bytes = array

static bool contains(const struct rvt_kernel *kernel, const char *text) { return strstr(kernel->name, text) != NULL; }
static bool casts(const struct rvt_kernel *k) { return contains(k, "LoadWithCast") || contains(k, "StoreWithCast"); }
static bool is_equals(const struct rvt_kernel *k) {
  return contains(k, "AUnaryFunctorI") && contains(k, "CompareEqFunctorI") && !casts(k);
}
static bool is_masked_fill(const struct rvt_kernel *k) { return contains(k, "18masked_fill_kernel") && !casts(k); }
static bool is_add(const struct rvt_kernel *k) { return contains(k, "CUDAFunctorOnSelf_addI") && !casts(k); }
static bool is_extreme(const struct rvt_kernel *k) {
  return contains(k, "13MaxNanFunctorI") || contains(k, "13MinNanFunctorI");
}

#define ELEMENTWISE(does, is)                                                                                     \
  {.pattern = "29vectorized_elementwise_kernelI", .anywhere = true, .fn = does, .accept = is, SIZES(n_f_data)}, { \
    .pattern = "27unrolled_elementwise_kernelI", .anywhere = true, .fn = does, .accept = is, SIZES(n_f_data)      \
  }

const struct rvt_entry rvt_entries_torch_integers[] = {
    ELEMENTWISE(equals_scalar, is_equals),
    ELEMENTWISE(masked_fill, is_masked_fill),
    ELEMENTWISE(add_scalar, is_add),
    {.pattern = "13reduce_kernelI", .anywhere = true, .fn = extreme, .accept = is_extreme, SIZES(one_structure)},
    {0},
};
