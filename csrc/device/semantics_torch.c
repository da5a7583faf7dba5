/* PyTorch's own kernels (at::native): fills, ranges, copies with conversion, argmax and gather of tokens.
 *
 * They are C++ templates whose parameters are structures passed by value, which no metadata describes: what is
 * read here is the order of fields in the public headers (ATen/cuda/detail/OffsetCalculator.cuh and
 * IntegerDivider.cuh, ATen/native/cuda: Loops.cuh, MemoryAccess.cuh, Reduce.cuh, ScatterGatherKernel.cu). Scanning
 * a structure for addresses does not work: its unused dimensions hold whatever the caller's stack held.
 *
 * At graph capture parameters are copied by the sizes below. A structure may be shorter than its size here: the
 * copy then takes a few bytes more of the caller's stack, which are never looked at.
 */
#include <string.h>

#include "device/semantics.h"

#define LAMBDA_BYTES 1088

/* OffsetCalculator<args, uint32_t>: {int dims; {divisor, m1, shift} sizes[25]; uint32_t strides[25][args]}; what a
 * lambda captures after it starts at the next multiple of 8. Strides are in bytes. */
#define MAX_DIMS 25
#define CALCULATOR_BYTES(args) (4 + MAX_DIMS * 12 + MAX_DIMS * 4 * (args))
#define AFTER_CALCULATOR(args) ((CALCULATOR_BYTES(args) + 7) & ~7)

/* c10::ScalarType */
enum { BYTE = 0, CHAR = 1, SHORT = 2, INT = 3, LONG = 4, HALF = 5, FLOAT = 6, DOUBLE = 7, BOOL = 11, BFLOAT16 = 15 };

static unsigned scalar_bytes(int type) {
  switch (type) {
  case BYTE:
  case CHAR:
  case BOOL: return 1;
  case SHORT:
  case HALF:
  case BFLOAT16: return 2;
  case INT:
  case FLOAT: return 4;
  case LONG:
  case DOUBLE: return 8;
  default: return 0;
  }
}

/* ScalarType of a mangled C++ type; -1 = another. */
static int scalar_of(const char *mangled) {
  switch (*mangled) {
  case 'h': return BYTE;
  case 'a': return CHAR;
  case 's': return SHORT;
  case 'i':
  case 'j': return INT;
  case 'l':
  case 'm': return LONG;
  case 'f': return FLOAT;
  case 'd': return DOUBLE;
  case 'b': return BOOL;
  default: break;
  }
  if (!strncmp(mangled, "N3c108BFloat16E", 15)) return BFLOAT16;
  if (!strncmp(mangled, "N3c104HalfE", 11)) return HALF;
  return -1;
}

static int scalar_after(const char *name, const char *marker) {
  const char *at = strstr(name, marker);
  return at ? scalar_of(at + strlen(marker)) : -1;
}

static double to_number(const void *value, int type) {
  switch (type) {
  case BYTE:
  case BOOL: return *(const uint8_t *)value;
  case CHAR: return *(const int8_t *)value;
  case SHORT: return *(const int16_t *)value;
  case INT: return *(const int32_t *)value;
  case FLOAT: {
    float f;
    memcpy(&f, value, 4);
    return f;
  }
  case DOUBLE: {
    double d;
    memcpy(&d, value, 8);
    return d;
  }
  default: return 0;
  }
}

static void convert(const unsigned char *from, int from_type, unsigned char *to, int to_type, size_t n) {
  unsigned from_bytes = scalar_bytes(from_type), to_bytes = scalar_bytes(to_type);
  for (size_t i = 0; i < n; i++, from += from_bytes, to += to_bytes) {
    int64_t whole;
    if (from_type == LONG) memcpy(&whole, from, 8);
    else whole = (int64_t)to_number(from, from_type);
    double number = from_type == LONG ? (double)whole : to_number(from, from_type);
    switch (to_type) {
    case BYTE:
    case CHAR: *to = (unsigned char)whole; break;
    case BOOL: *to = number != 0; break;
    case SHORT: {
      int16_t v = (int16_t)whole;
      memcpy(to, &v, 2);
      break;
    }
    case INT: {
      int32_t v = (int32_t)whole;
      memcpy(to, &v, 4);
      break;
    }
    case LONG: memcpy(to, &whole, 8); break;
    case FLOAT: {
      float v = (float)number;
      memcpy(to, &v, 4);
      break;
    }
    case DOUBLE: memcpy(to, &number, 8); break;
    }
  }
}

static uint64_t address_at(const void *structure, size_t offset) {
  uint64_t address;
  memcpy(&address, (const char *)structure + offset, 8);
  return address;
}

/* --- fills and ranges ---------------------------------------------------------------------------------- */

/* (int n, FillFunctor<T>{value}, array<char*, 1>) */
static enum rvt_semantic_result fill(const struct rvt_launch *l) {
  int type = scalar_after(l->kernel->name, "FillFunctorI");
  uint64_t to = *(const uint64_t *)l->params[2];
  int64_t n = *(const int32_t *)l->params[0];
  if (type < 0 || n < 0) {
    rvt_mem_forget_at(to);
    return RVT_SEM_DONE;
  }
  unsigned bytes = scalar_bytes(type);
  rvt_mem_fill(to, l->params[1], bytes, (size_t)n * bytes);
  return RVT_SEM_DONE;
}

/* elementwise_kernel_with_index<index_t, lambda of arange>(index_t n, {start, step}, T *out). The lambda's number
 * within arange_cuda_out is the position of T in AT_ALL_TYPES: byte, char, int, long, short, double, float. */
static enum rvt_semantic_result arange(const struct rvt_launch *l) {
  static const int types[] = {BYTE, CHAR, INT, LONG, SHORT, DOUBLE, FLOAT};
  const char *name = l->kernel->name;
  const char *at = strstr(name, "ENKUlvE_clEvENKUlvE");
  uint64_t to = *(const uint64_t *)l->params[2];
  unsigned number = 7;
  if (at) {
    at += strlen("ENKUlvE_clEvENKUlvE");
    number = *at == '_' ? 0 : (unsigned)(*at - '0') + 1;
  }
  bool wide = strstr(name, "with_indexIl") != NULL;
  int64_t n = wide ? *(const int64_t *)l->params[0] : *(const int32_t *)l->params[0];
  if (number >= sizeof types / sizeof *types || n <= 0 || n > 1 << 17) {
    if (n > 0) rvt_mem_forget_at(to);
    return RVT_SEM_DONE;
  }
  int type = types[number];
  unsigned bytes = scalar_bytes(type);
  unsigned char *values = rvt_scratch(0, (size_t)n * bytes);
  for (int64_t i = 0; i < n; i++) {
    if (type == DOUBLE || type == FLOAT) { /* computed in the accumulation type: float for float, double for double */
      double value = type == FLOAT ? ((const float *)l->params[1])[0] + (double)i * ((const float *)l->params[1])[1]
                                   : ((const double *)l->params[1])[0] + (double)i * ((const double *)l->params[1])[1];
      convert((unsigned char *)&value, DOUBLE, values + (size_t)i * bytes, type, 1);
    } else {
      int64_t value = ((const int64_t *)l->params[1])[0] + i * ((const int64_t *)l->params[1])[1];
      convert((unsigned char *)&value, LONG, values + (size_t)i * bytes, type, 1);
    }
  }
  rvt_mem_write(to, values, (size_t)n * bytes);
  return RVT_SEM_DONE;
}

/* --- copies -------------------------------------------------------------------------------------------- */

#define COPY_LIMIT (1 << 13) /* elements: larger tensors are no control data, and neither are half precision ones */

static bool control_data(int type, int64_t n) { return type != HALF && type != BFLOAT16 && n <= COPY_LIMIT; }

static bool is_known(uint64_t addr) {
  uint8_t byte;
  return rvt_mem_read(addr, &byte, 1);
}

static enum rvt_semantic_result copy_elements(uint64_t to, int to_type, uint64_t from, int from_type, int64_t n) {
  unsigned from_bytes = scalar_bytes(from_type), to_bytes = scalar_bytes(to_type);
  if (n <= 0) return RVT_SEM_DONE;
  if (!from_bytes || !to_bytes || !control_data(from_type, n) || !control_data(to_type, n) || !is_known(from)) {
    if (to_bytes) rvt_mem_forget(to, (uint64_t)n * to_bytes);
    else rvt_mem_forget_at(to);
    return RVT_SEM_DONE;
  }
  unsigned char *source = rvt_scratch(0, (size_t)n * from_bytes), *target = source;
  if (!rvt_mem_read(from, source, (size_t)n * from_bytes)) {
    rvt_mem_forget(to, (uint64_t)n * to_bytes);
    return RVT_SEM_DONE;
  }
  if (from_type != to_type) {
    target = rvt_scratch(1, (size_t)n * to_bytes);
    convert(source, from_type, target, to_type, (size_t)n);
  }
  rvt_mem_write(to, target, (size_t)n * to_bytes);
  return RVT_SEM_DONE;
}

/* The element type of direct_copy_kernel_cuda is the argument of its innermost lambda: ...EUl<T>E_. */
static int copy_type(const char *name) {
  const char *at = strstr(name, "direct_copy_kernel_cuda");
  const char *last = NULL;
  for (const char *p = at; p && (p = strstr(p, "EUl")); p += 3) {
    if (p[3] != 'v') {
      last = p;
      break;
    }
  }
  return last ? scalar_of(last + 3) : -1;
}

/* vectorized_elementwise_kernel<.., direct_copy, array<char*, 2>>(int n, lambda, {out, in}) */
static enum rvt_semantic_result copy_plain(const struct rvt_launch *l) {
  const uint64_t *data = l->params[2];
  int type = copy_type(l->kernel->name);
  return copy_elements(data[0], type, data[1], type, *(const int32_t *)l->params[0]);
}

/* unrolled_elementwise_kernel<direct_copy, .., LoadWithCast<1>, StoreWithCast<1>>(n, lambda, {out, in}, .., ..,
 * {type, size}, {type, size}) */
static enum rvt_semantic_result copy_cast(const struct rvt_launch *l) {
  const uint64_t *data = l->params[2];
  int type = copy_type(l->kernel->name);
  bool cast = strstr(l->kernel->name, "LoadWithCast") != NULL;
  int from_type = cast ? *(const int8_t *)l->params[5] : type, to_type = cast ? *(const int8_t *)l->params[6] : type;
  return copy_elements(data[0], to_type, data[1], from_type, *(const int32_t *)l->params[0]);
}

/* elementwise_kernel<.., gpu_kernel_impl_nocast<direct_copy>::lambda>(n, {calculator<2>, {out, in}, f}) */
static enum rvt_semantic_result copy_strided(const struct rvt_launch *l) {
  const char *closure = l->params[1];
  const uint32_t *words = l->params[1];
  uint64_t to = address_at(closure, AFTER_CALCULATOR(2)), from = address_at(closure, AFTER_CALCULATOR(2) + 8);
  int type = copy_type(l->kernel->name);
  unsigned bytes = scalar_bytes(type);
  int32_t n = *(const int32_t *)l->params[0];
  uint32_t dims = words[0];
  if (!bytes || n <= 0 || !control_data(type, n) || dims > MAX_DIMS || !is_known(from)) {
    rvt_mem_forget_at(to);
    return RVT_SEM_DONE;
  }
  const uint32_t *strides = words + 1 + MAX_DIMS * 3;
  for (int32_t i = 0; i < n; i++) {
    uint32_t rest = (uint32_t)i, to_offset = 0, from_offset = 0;
    for (uint32_t d = 0; d < dims; d++) {
      uint32_t size = words[1 + d * 3], at = size ? rest % size : 0;
      rest = size ? rest / size : 0;
      to_offset += at * strides[d * 2];
      from_offset += at * strides[d * 2 + 1];
    }
    uint64_t value;
    if (rvt_mem_read(from + from_offset, &value, bytes)) rvt_mem_write(to + to_offset, &value, bytes);
    else rvt_mem_forget(to + to_offset, bytes);
  }
  return RVT_SEM_DONE;
}

/* --- tokens -------------------------------------------------------------------------------------------- */

static void write_tokens(uint64_t to, const struct rvt_sampled *chosen) {
  int64_t *wide = rvt_scratch(0, chosen->rows * 8ull + 8);
  for (uint32_t i = 0; i < chosen->rows; i++) wide[i] = chosen->tokens[i];
  rvt_mem_write(to, wide, chosen->rows * 8ull);
}

static enum rvt_semantic_result gathered(uint64_t out, uint64_t in) {
  const struct rvt_sampled *chosen = rvt_sampled();
  if (chosen->where && in == chosen->where) write_tokens(out, chosen);
  else rvt_mem_forget_at(out);
  return RVT_SEM_DONE;
}

/* gather(dim, index) of the buffer that a sampling kernel left its local winners in. The lambda captures in order of
 * use: (n, {calculator<3>, index, index size, reference to the functor, out, index stride, elements, in, ..}). */
static enum rvt_semantic_result gather(const struct rvt_launch *l) {
  const char *captured = (const char *)l->params[1] + AFTER_CALCULATOR(3);
  return gathered(address_at(captured, 24), address_at(captured, 48));
}

/* vectorized_gather_kernel(char *out, char *in, index_t *, ...) */
static enum rvt_semantic_result gather_rows(const struct rvt_launch *l) {
  return gathered(address_at(l->params[0], 0), address_at(l->params[1], 0));
}

/* reduce_kernel's only parameter, a ReduceOp: {ops, identity, ReduceConfig, calculator<1>, calculator<2>, src, dst[2],
 * ..}. The sizes of ops and identity depend on the operation; the configuration is found by its own consistency. */
bool rvt_torch_reduction(const void *op, struct rvt_reduction *out) {
  enum { ELEMENT, INPUTS, OUTPUTS, STEP_IN, STEP_OUT, CTAS, IN_MULT, OUT_MULT = 9, WIDTH = 11, HEIGHT, THREADS };
  for (size_t at = 4; at <= 64; at += 4) {
    int32_t c[16];
    memcpy(c, (const char *)op + at, sizeof c);
    bool sound = c[ELEMENT] > 0 && c[ELEMENT] <= 16 && c[INPUTS] > 0 && c[OUTPUTS] > 0 && c[CTAS] >= 1 &&
                 c[WIDTH] > 0 && c[HEIGHT] > 0 && c[THREADS] == c[WIDTH] * c[HEIGHT] && c[THREADS] <= 1024;
    size_t pointers = (at + 64 + CALCULATOR_BYTES(1) + CALCULATOR_BYTES(2) + 7) & ~(size_t)7;
    if (!sound || pointers + 16 > LAMBDA_BYTES) continue;
    *out = (struct rvt_reduction){address_at(op, pointers), address_at(op, pointers + 8), c[INPUTS], c[OUTPUTS]};
    if (rvt_is_device_address(out->source) && rvt_is_device_address(out->target)) return true;
  }
  return false;
}

/* An argmax over thousands of columns is greedy sampling over the vocabulary; a narrower one belongs to another
 * kernel's scheme. */
static enum rvt_semantic_result argmax(const struct rvt_launch *l) {
  struct rvt_reduction r;
  if (!rvt_torch_reduction(l->params[0], &r)) return RVT_SEM_DONE;
  if (r.inputs < 1024 || r.outputs > 8192) {
    rvt_mem_forget_at(r.target);
    return RVT_SEM_DONE;
  }
  rvt_sample_rows((uint32_t)r.outputs, (uint32_t)r.inputs, 0);
  write_tokens(r.target, rvt_sampled());
  return RVT_SEM_DONE;
}

/* --- everything else ----------------------------------------------------------------------------------- */

static enum rvt_semantic_result forget_reduction(const struct rvt_launch *l) {
  struct rvt_reduction r;
  if (rvt_torch_reduction(l->params[0], &r)) rvt_mem_forget_at(r.target);
  return RVT_SEM_DONE;
}

/* (n, functor, {out, ..}): the output is unknown now, the inputs are as they were. */
static enum rvt_semantic_result forget_first(const struct rvt_launch *l) {
  rvt_mem_forget_at(address_at(l->params[2], 0));
  return RVT_SEM_DONE;
}

/* Tensors behind an elementwise functor, by its mangled name; 0 = not known. */
static int tensors_of(const char *name) {
  static const struct {
    const char *text;
    int tensors;
  } known[] = {
      {"FillFunctorI", 1},   {"AUnaryFunctorI", 2},   {"BUnaryFunctorI", 2},  {"CUDAFunctorOnSelf", 2},
      {"BinaryFunctorI", 3}, {"CUDAFunctor_addI", 3}, {"CompareFunctorI", 3}, {"where_kernel_impl", 4},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (strstr(name, known[i].text)) return known[i].tensors;
  }
  /* A lambda: one output and as many inputs as it has arguments, EUl<arguments>E_. */
  for (const char *p = strstr(name, "EUl"); p; p = strstr(p, "EUl")) {
    p += 3;
    if (*p == 'v') continue;
    int arguments = 0;
    while (*p && *p != 'E') {
      if (*p == 'N') {
        p = strchr(p, 'E');
      } else if (*p == 'S') {
        p = strchr(p, '_');
      } else if (!strchr("hasitjlmfdb", *p)) {
        return 0;
      }
      if (!p) return 0;
      p++;
      arguments++;
    }
    return *p == 'E' && arguments <= 3 ? arguments + 1 : 0;
  }
  return 0;
}

/* elementwise_kernel<.., lambda>(n, {calculator<tensors>, {out, ..}, f}) */
static enum rvt_semantic_result forget_strided(const struct rvt_launch *l) {
  int tensors = tensors_of(l->kernel->name);
  if (tensors) rvt_mem_forget_at(address_at(l->params[1], (size_t)AFTER_CALCULATOR(tensors)));
  return RVT_SEM_DONE;
}

/* index_elementwise_kernel(n, {calculator<3>, out, in, number of indices, index pointers[], sizes[], strides[]}): what
 * tensor[indices] reads, one index of 8 bytes each; assignments to tensor[indices] forget the tensor. */
static enum rvt_semantic_result indexed(const struct rvt_launch *l) {
  enum { IN = 8, COUNT = 16, INDEX = 24, SIZE = INDEX + MAX_DIMS * 8, STRIDE = SIZE + MAX_DIMS * 8 };
  const char *captured = (const char *)l->params[1] + AFTER_CALCULATOR(3);
  const uint32_t *words = l->params[1];
  const char *type = strstr(l->kernel->name, "index_kernel_impl");
  const char *opaque = type ? strstr(type, "OpaqueTypeILi") : NULL;
  unsigned bytes = opaque ? (unsigned)opaque[strlen("OpaqueTypeILi")] - '0' : 0;
  uint64_t out = address_at(captured, 0), in = address_at(captured, IN), index_addr = address_at(captured, INDEX);
  int64_t n = *(const int32_t *)l->params[0];
  uint32_t dims = words[0];
  bool plain = (bytes == 4 || bytes == 8) && address_at(captured, COUNT) == 1 && dims <= MAX_DIMS;
  if (!plain || n <= 0 || n > COPY_LIMIT || !is_known(index_addr)) {
    rvt_mem_forget_at(out);
    return RVT_SEM_DONE;
  }
  int64_t size = (int64_t)address_at(captured, SIZE), stride = (int64_t)address_at(captured, STRIDE);
  const uint32_t *strides = words + 1 + MAX_DIMS * 3;
  for (int64_t i = 0; i < n; i++) {
    uint32_t rest = (uint32_t)i, to = 0, from = 0, which = 0;
    for (uint32_t d = 0; d < dims; d++) {
      uint32_t extent = words[1 + d * 3], at = extent ? rest % extent : 0;
      rest = extent ? rest / extent : 0;
      to += at * strides[d * 3];
      from += at * strides[d * 3 + 1];
      which += at * strides[d * 3 + 2];
    }
    int64_t index;
    uint64_t value;
    bool known = rvt_mem_read(index_addr + which, &index, 8) && index >= -size && index < size;
    if (known && index < 0) index += size;
    if (known && rvt_mem_read(in + from + (uint64_t)(index * stride), &value, bytes))
      rvt_mem_write(out + to, &value, bytes);
    else rvt_mem_forget(out + to, bytes);
  }
  return RVT_SEM_DONE;
}

static const uint16_t n_f_data[] = {4, 16, 64};
static const uint16_t n_f_data_casts[] = {4, 16, 64, 1, 1, 32, 8};
static const uint16_t index_range_out[] = {8, 16, 8};
static const uint16_t n_lambda[] = {8, LAMBDA_BYTES};
static const uint16_t n_index[] = {8, AFTER_CALCULATOR(3) + 24 + 3 * MAX_DIMS * 8 + 8};
static const uint16_t one_structure[] = {LAMBDA_BYTES};
static const uint16_t gather_params[] = {8, 8, 8, 4, 8, 8, 8, 8, 1};

#define SIZES(array) .param_count = sizeof array / sizeof *array, .param_bytes = array

static bool contains(const struct rvt_kernel *kernel, const char *text) { return strstr(kernel->name, text) != NULL; }
static bool is_fill(const struct rvt_kernel *k) { return contains(k, "FillFunctorI"); }
static bool is_copy(const struct rvt_kernel *k) { return contains(k, "direct_copy_kernel_cuda"); }
static bool is_arange(const struct rvt_kernel *k) { return contains(k, "arange_cuda_out"); }
static bool is_plain_copy(const struct rvt_kernel *k) { return is_copy(k) && contains(k, "gpu_kernel_impl_nocast"); }
static bool is_argmax(const struct rvt_kernel *k) { return contains(k, "9ArgMaxOpsI"); }

const struct rvt_entry rvt_entries_torch[] = {
    {.pattern = "29vectorized_elementwise_kernelI", .anywhere = true, .fn = fill, .accept = is_fill, SIZES(n_f_data)},
    {.pattern = "27unrolled_elementwise_kernelI",
     .anywhere = true,
     .fn = fill,
     .accept = is_fill,
     SIZES(n_f_data_casts)},
    {.pattern = "29elementwise_kernel_with_indexI",
     .anywhere = true,
     .fn = arange,
     .accept = is_arange,
     SIZES(index_range_out)},
    {.pattern = "29vectorized_elementwise_kernelI",
     .anywhere = true,
     .fn = copy_plain,
     .accept = is_copy,
     SIZES(n_f_data)},
    {.pattern = "27unrolled_elementwise_kernelI",
     .anywhere = true,
     .fn = copy_cast,
     .accept = is_copy,
     SIZES(n_f_data_casts)},
    {.pattern = "34_scatter_gather_elementwise_kernelI", .anywhere = true, .fn = gather, SIZES(n_lambda)},
    {.pattern = "24vectorized_gather_kernelI", .anywhere = true, .fn = gather_rows, SIZES(gather_params)},
    {.pattern = "13reduce_kernelI", .anywhere = true, .fn = argmax, .accept = is_argmax, SIZES(one_structure)},
    {.pattern = "13reduce_kernelI", .anywhere = true, .fn = forget_reduction, SIZES(one_structure)},
    {.pattern = "29vectorized_elementwise_kernelI", .anywhere = true, .fn = forget_first, SIZES(n_f_data)},
    {.pattern = "27unrolled_elementwise_kernelI", .anywhere = true, .fn = forget_first, SIZES(n_f_data_casts)},
    {.pattern = "18elementwise_kernelI",
     .anywhere = true,
     .fn = copy_strided,
     .accept = is_plain_copy,
     SIZES(n_lambda)},
    {.pattern = "18elementwise_kernelI", .anywhere = true, .fn = forget_strided, SIZES(n_lambda)},
    {.pattern = "24index_elementwise_kernelI", .anywhere = true, .fn = indexed, SIZES(n_index)},
    {0},
};
