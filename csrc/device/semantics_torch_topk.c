/* PyTorch's topk and cat (ATen/native/cuda: TensorTopK.cu, Shape.cu), as samplers use them for logprobs: the best ids
 * of a row of logits are made up, and joined with the chosen one. */
#include <string.h>

#include "device/semantics.h"

/* TensorInfo<T, index>: {T *data; index sizes[25], strides[25]; int dims} */
static const uint16_t topk_narrow[] = {216, 4, 4, 1, 4, 4, 216, 4, 216, 4};
static const uint16_t topk_wide[] = {416, 8, 8, 1, 4, 8, 416, 8, 416, 8};

/* gatherTopK(input, slice, k, largest, slices, stride, values, stride, indices, stride, ..). Only topk over something
 * as wide as a vocabulary is known to be about tokens. Values fall off like log-probabilities. */
static enum rvt_semantic_result topk(const struct rvt_launch *l) {
  enum { INPUT, SLICE, K, LARGEST, SLICES, STRIDE, VALUES, VALUES_STRIDE, INDICES };
  bool wide = l->kernel->params[SLICE].bytes == 8;
  uint64_t slice = wide ? *(const uint64_t *)l->params[SLICE] : *(const uint32_t *)l->params[SLICE];
  uint64_t k = wide ? *(const uint64_t *)l->params[K] : *(const uint32_t *)l->params[K];
  uint32_t rows = *(const uint32_t *)l->params[SLICES];
  uint64_t values, indices;
  memcpy(&values, l->params[VALUES], 8);
  memcpy(&indices, l->params[INDICES], 8);
  if (slice < 1024 || k > 1024 || rows * k > 1 << 16) {
    rvt_mem_forget_at(values);
    rvt_mem_forget_at(indices);
    return RVT_SEM_DONE;
  }
  const struct rvt_sampled *chosen = rvt_sampled();
  int64_t *ids = rvt_scratch(1, k * 8);
  float *numbers = rvt_scratch(2, k * 4);
  bool single = strstr(l->kernel->name, "gatherTopKIf") != NULL;
  for (uint32_t row = 0; row < rows; row++) {
    struct rvt_choice choice = rvt_row_choice(row, (uint32_t)slice);
    bool sampled = rows == chosen->rows && slice == chosen->vocab;
    int32_t best = sampled ? chosen->tokens[row] : rvt_oracle_token(&choice);
    for (uint32_t i = 0; i < k; i++) {
      ids[i] = i ? rvt_oracle_alternative(&choice, i - 1, best) : best;
      numbers[i] = rvt_oracle_logprob(i);
    }
    rvt_mem_write(indices + 8ull * row * k, ids, k * 8);
    if (single) rvt_mem_write(values + 4ull * row * k, numbers, k * 4);
  }
  if (!single) rvt_mem_forget_at(values);
  return RVT_SEM_DONE;
}

/* Sorts what topk gathered; it was made up in order. */
static enum rvt_semantic_result sorted_already(const struct rvt_launch *l) { return RVT_SEM_DONE; }

/* --- cat ----------------------------------------------------------------------------------------------- */

#define CAT_DIMS 4
struct size_stride {
  uint32_t size[CAT_DIMS], stride[CAT_DIMS];
};

/* CatArrayBatchedCopy<OpaqueType<bytes>, unsigned, dims, n, strides>(T *out, {T *in[n]; unsigned offset[n],
 * dim_size[n], elements[n]; bool contiguous[n]; size_stride strides[]}, size_stride out, int dim, unsigned dim_stride);
 * one grid row per input. */
static bool cat_numbers(const char *name, unsigned *bytes, unsigned *dims, unsigned *n) {
  const char *at = strstr(name, "OpaqueTypeILj");
  if (!at) return false;
  *bytes = (unsigned)at[13] - '0';
  if (at[14] >= '0' && at[14] <= '9') *bytes = *bytes * 10 + (unsigned)at[14] - '0';
  at = strstr(at, "EEjLi");
  if (!at) return false;
  *dims = (unsigned)at[5] - '0';
  at = strstr(at + 5, "ELi");
  if (!at) return false;
  *n = 0;
  for (at += 3; *at >= '0' && *at <= '9'; at++) *n = *n * 10 + (unsigned)(*at - '0');
  return *bytes <= 16 && *dims >= 1 && *dims <= CAT_DIMS && *n >= 1 && *n <= 128;
}

static uint32_t offset_in(uint32_t linear, const struct size_stride *s, unsigned dims, int cat_dim, uint32_t cat_size) {
  uint32_t offset = 0;
  for (unsigned d = dims - 1; d >= 1; d--) {
    uint32_t size = (int)d == cat_dim ? cat_size : s->size[d];
    if (!size) return 0;
    offset += linear % size * s->stride[d];
    linear /= size;
  }
  return offset + linear * s->stride[0];
}

static enum rvt_semantic_result cat(const struct rvt_launch *l) {
  unsigned bytes, dims, n;
  uint64_t out;
  memcpy(&out, l->params[0], 8);
  const char *inputs = l->params[1];
  const struct size_stride *shape = l->params[2];
  int dim = *(const int32_t *)l->params[3];
  uint32_t dim_stride = *(const uint32_t *)l->params[4];
  if (!cat_numbers(l->kernel->name, &bytes, &dims, &n) || l->grid[1] > n || bytes > 8) {
    rvt_mem_forget_at(out);
    return RVT_SEM_DONE;
  }
  const uint32_t *offset = (const uint32_t *)(const void *)(inputs + 8ull * n), *dim_size = offset + n,
                 *elements = dim_size + n;
  const uint8_t *contiguous = (const uint8_t *)(elements + n);
  const struct size_stride *strides = (const struct size_stride *)(const void *)(contiguous + n);
  for (uint32_t j = 0; j < l->grid[1]; j++) {
    uint64_t in;
    memcpy(&in, inputs + 8ull * j, 8);
    if (elements[j] > 1 << 13) { /* no control data */
      rvt_mem_forget_at(out);
      continue;
    }
    for (uint32_t i = 0; i < elements[j]; i++) {
      uint64_t value, from = i;
      if (!contiguous[j] && n > 1) from = offset_in(i, &strides[j], dims, -1, 0);
      uint64_t to = out + (uint64_t)bytes * (offset[j] * dim_stride + offset_in(i, shape, dims, dim, dim_size[j]));
      if (rvt_mem_read(in + from * bytes, &value, bytes)) rvt_mem_write(to, &value, bytes);
      else rvt_mem_forget(to, bytes);
    }
  }
  return RVT_SEM_DONE;
}

/* CatArrayBatchedCopy_vectorized: all tensors contiguous, so the result is made of rows (one per index of the
 * dimensions before the joined one) that hold a row of each input in turn. */
static enum rvt_semantic_result cat_contiguous(const struct rvt_launch *l) {
  unsigned bytes, dims, n;
  uint64_t out, row_bytes = 0, rows = 1, done = 0;
  memcpy(&out, l->params[0], 8);
  const char *inputs = l->params[1];
  const struct size_stride *shape = l->params[2];
  int dim = *(const int32_t *)l->params[3];
  bool parsed = cat_numbers(l->kernel->name, &bytes, &dims, &n) && l->grid[1] <= n && dim < CAT_DIMS;
  const uint32_t *elements = (const uint32_t *)(const void *)(inputs + 8ull * n) + 2 * n;
  for (int d = 0; parsed && d < dim; d++) rows *= shape->size[d];
  for (uint32_t j = 0; parsed && j < l->grid[1]; j++) row_bytes += elements[j] / rows * bytes;
  if (!parsed || rows * row_bytes > 1 << 18) { /* no control data */
    rvt_mem_forget_at(out);
    return RVT_SEM_DONE;
  }
  for (uint32_t j = 0; j < l->grid[1]; j++) {
    uint64_t in, piece = elements[j] / rows * bytes;
    unsigned char *values = rvt_scratch(0, piece + 8);
    memcpy(&in, inputs + 8ull * j, 8);
    for (uint64_t row = 0; row < rows; row++) {
      uint64_t to = out + row * row_bytes + done;
      if (rvt_mem_read(in + row * piece, values, piece)) rvt_mem_write(to, values, piece);
      else rvt_mem_forget(to, piece);
    }
    done += piece;
  }
  return RVT_SEM_DONE;
}

static const uint16_t cat_bytes[] = {8, 3968, sizeof(struct size_stride), 4, 4};

#define SIZES(array) .param_count = sizeof array / sizeof *array, .param_bytes = array

const struct rvt_entry rvt_entries_torch_topk[] = {
    {.pattern = "10gatherTopKIfm", .anywhere = true, .fn = topk, SIZES(topk_wide)},
    {.pattern = "10gatherTopKI", .anywhere = true, .fn = topk, SIZES(topk_narrow)},
    {.pattern = "6mbtopk", .anywhere = true}, /* its passes before: scratch memory, which only they read */
    {.pattern = "bitonicSortKVInPlace", .anywhere = true, .fn = sorted_already},
    {.pattern = "19CatArrayBatchedCopyI", .anywhere = true, .fn = cat, SIZES(cat_bytes)},
    {.pattern = "26CatArrayBatchedCopy_contigI", .anywhere = true, .fn = cat, SIZES(cat_bytes)},
    {.pattern = "30CatArrayBatchedCopy_vectorizedI", .anywhere = true, .fn = cat_contiguous, SIZES(cat_bytes)},
    {.pattern = "35CatArrayBatchedCopy_alignedK_contigI", .anywhere = true, .fn = cat, SIZES(cat_bytes)},
    {0},
};
