/* Parameter sizes of a kernel from its mangled C++ name (Itanium ABI), as far as they follow from it.
 *
 * A runtime launch hands over pointers without sizes. The name lists the parameter types: scalars and pointers
 * have known sizes, pointers to const are only read, classes stay unknown (0 bytes: not looked at). Anything that
 * this parser does not know makes it give up; a wrong guess would read beyond a parameter.
 */
#include <string.h>

#include "device/core.h"

#define MAX_SUBSTITUTIONS 256
#define MAX_ARGUMENTS 32

struct type {
  uint16_t bytes; /* 0: unknown */
  bool constant;  /* the type itself is const */
  bool pointer, to_const;
  bool void_type;
  const char *id; /* last identifier of a class */
  uint16_t id_len;
  long value; /* of a literal template argument */
};

struct parser {
  const char *at;
  bool failed;
  bool last_was_template, no_return; /* about the name just parsed */
  int depth, substitution_count, argument_count;
  struct type substitutions[MAX_SUBSTITUTIONS];
  struct type arguments[MAX_ARGUMENTS]; /* of the innermost function template */
};

static struct type parse_type(struct parser *p);
static struct type parse_name(struct parser *p, bool is_type);
static void parse_encoding(struct parser *p, struct type *params, int max, int *count);

static struct type fail(struct parser *p) {
  p->failed = true;
  return (struct type){0};
}

static struct type remember(struct parser *p, struct type t) {
  if (p->substitution_count == MAX_SUBSTITUTIONS) return fail(p);
  p->substitutions[p->substitution_count++] = t;
  return t;
}

static bool accept(struct parser *p, char c) {
  if (*p->at != c) return false;
  p->at++;
  return true;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static long parse_number(struct parser *p) {
  long v = 0;
  bool negative = accept(p, 'n');
  while (is_digit(*p->at) && v < (1L << 40)) v = v * 10 + (*p->at++ - '0');
  return negative ? -v : v;
}

/* "_" = 0, "0_" = 1, "A_" = 11 ... (base 36 for substitutions, decimal for template parameters). */
static int parse_sequence(struct parser *p, int base) {
  if (accept(p, '_')) return 0;
  int v = 0;
  for (; *p->at && *p->at != '_'; p->at++) {
    char c = *p->at;
    int digit = is_digit(c) ? c - '0' : base == 36 && c >= 'A' && c <= 'Z' ? c - 'A' + 10 : -1;
    if (digit < 0 || v > 10000) break;
    v = v * base + digit;
  }
  if (!accept(p, '_')) p->failed = true;
  return v + 1;
}

static struct type parse_source_name(struct parser *p) {
  long n = parse_number(p);
  struct type t = {0};
  if (n <= 0 || strnlen(p->at, (size_t)n) < (size_t)n) return fail(p);
  t.id = p->at;
  t.id_len = (uint16_t)n;
  p->at += n;
  while (accept(p, 'B')) parse_source_name(p); /* ABI tags */
  static const struct {
    const char *id;
    uint16_t bytes;
  } known[] = {
      {"BFloat16", 2},
      {"Half", 2},
      {"__half", 2},
      {"__nv_bfloat16", 2},
      {"__nv_bfloat162", 4},
      {"half", 2},
      {"Float8_e4m3fn", 1},
      {"Float8_e5m2", 1},
      {"__nv_fp8_e4m3", 1},
      {"__nv_fp8_e5m2", 1},
      {"TrivialOffsetCalculator", 1},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strlen(known[i].id) == t.id_len && !memcmp(known[i].id, t.id, t.id_len)) t.bytes = known[i].bytes;
  return t;
}

static struct type parse_argument(struct parser *p) {
  if (accept(p, 'L')) { /* literal: type, value; or an external name */
    struct type t = {0};
    if (p->at[0] == '_' && p->at[1] == 'Z') {
      p->at += 2;
      parse_encoding(p, NULL, 0, NULL);
    } else {
      t = parse_type(p);
      if (is_digit(*p->at) || *p->at == 'n') t.value = parse_number(p);
    }
    if (!accept(p, 'E')) return fail(p);
    return t;
  }
  if (*p->at == 'X' || *p->at == 'J') return fail(p); /* expressions and packs */
  return parse_type(p);
}

/* "I" has been seen but not taken. `keep`: these are the arguments that T_ refers to from now on. */
static struct type parse_template(struct parser *p, struct type base, bool keep) {
  struct type arguments[MAX_ARGUMENTS];
  int n = 0;
  p->at++;
  while (!p->failed && *p->at && *p->at != 'E') {
    if (*p->at == 'J') { /* an empty pack says nothing; others are not followed */
      if (p->at[1] != 'E') return fail(p);
      p->at += 2;
      continue;
    }
    struct type t = parse_argument(p);
    if (n == MAX_ARGUMENTS) return fail(p);
    arguments[n++] = t;
  }
  if (!accept(p, 'E')) return fail(p);
  struct type result = {.id = base.id, .id_len = base.id_len, .bytes = base.bytes};
  if (base.id_len == 5 && !memcmp(base.id, "array", 5) && n == 2) {
    result.bytes = (uint16_t)(arguments[0].bytes * arguments[1].value);
    /* ATen's kernels get their tensors as array<char*, N>, the output first. */
    if (arguments[0].pointer && arguments[1].value > 0) result.bytes = 8;
  }
  if (base.id_len == 7 && !memcmp(base.id, "complex", 7) && n == 1) result.bytes = (uint16_t)(arguments[0].bytes * 2);
  if (keep) {
    memcpy(p->arguments, arguments, (size_t)n * sizeof *arguments);
    p->argument_count = n;
  }
  return result;
}

static struct type parse_unqualified(struct parser *p) {
  accept(p, 'L'); /* internal linkage */
  p->no_return = false;
  if (is_digit(*p->at)) return parse_source_name(p);
  if (*p->at == 'U' && p->at[1] == 'l') { /* lambda: parameter types, E, number, _ */
    p->at += 2;
    while (!p->failed && *p->at && *p->at != 'E') parse_type(p);
    if (!accept(p, 'E')) return fail(p);
    parse_number(p);
    return accept(p, '_') ? (struct type){0} : fail(p);
  }
  if (*p->at == 'U' && p->at[1] == 't') {
    p->at += 2;
    parse_number(p);
    return accept(p, '_') ? (struct type){0} : fail(p);
  }
  if ((*p->at == 'C' || *p->at == 'D') && is_digit(p->at[1])) {
    p->at += 2;
    p->no_return = true;
    return (struct type){0};
  }
  if (p->at[0] == 'c' && p->at[1] == 'v') return fail(p); /* conversion operators */
  if (*p->at >= 'a' && *p->at <= 'z' && p->at[1] >= 'a' && p->at[1] <= 'z') {
    p->at += 2;
    return (struct type){0};
  }
  return fail(p);
}

static struct type parse_substitution(struct parser *p, bool *is_std) {
  p->at++; /* S */
  *is_std = false;
  if (accept(p, 't')) {
    *is_std = true;
    return (struct type){0};
  }
  if (*p->at >= 'a' && *p->at <= 'z') {
    p->at++;
    return (struct type){0};
  }
  int i = parse_sequence(p, 36);
  return i < p->substitution_count ? p->substitutions[i] : fail(p);
}

static struct type parse_template_parameter(struct parser *p) {
  p->at++; /* T */
  int i = parse_sequence(p, 10);
  return i < p->argument_count ? p->arguments[i] : (struct type){0};
}

static struct type parse_nested(struct parser *p, bool is_type) {
  struct type current = {0};
  bool is_std, template_last = false;
  p->at++; /* N */
  while (*p->at == 'K' || *p->at == 'V' || *p->at == 'r' || *p->at == 'R' || *p->at == 'O') p->at++;
  while (!p->failed && *p->at && *p->at != 'E') {
    bool candidate = true;
    if (*p->at == 'S') {
      current = parse_substitution(p, &is_std);
      candidate = false;
      template_last = false;
    } else if (*p->at == 'T') {
      current = parse_template_parameter(p);
      template_last = false;
    } else if (*p->at == 'I') {
      current = parse_template(p, current, !is_type);
      template_last = true;
    } else {
      current = parse_unqualified(p);
      template_last = false;
    }
    if (candidate && (is_type || *p->at != 'E')) remember(p, current);
  }
  if (!accept(p, 'E')) return fail(p);
  p->last_was_template = template_last;
  return current;
}

static struct type parse_local(struct parser *p, bool is_type) {
  struct type saved[MAX_ARGUMENTS];
  int saved_count = p->argument_count;
  memcpy(saved, p->arguments, sizeof saved);
  p->at++; /* Z */
  parse_encoding(p, NULL, 0, NULL);
  if (!accept(p, 'E')) return fail(p);
  struct type t = {0};
  if (accept(p, 's')) p->last_was_template = false;
  else t = parse_name(p, is_type);
  if (*p->at == '_' && is_digit(p->at[1])) p->at += 2;
  else if (p->at[0] == '_' && p->at[1] == '_') {
    p->at += 2;
    parse_number(p);
    if (!accept(p, '_')) return fail(p);
  }
  if (is_type) {
    memcpy(p->arguments, saved, sizeof saved);
    p->argument_count = saved_count;
  }
  return t;
}

static struct type parse_name(struct parser *p, bool is_type) {
  if (*p->at == 'N') return parse_nested(p, is_type);
  if (*p->at == 'Z') return parse_local(p, is_type);
  struct type t;
  bool is_std = false, known = false;
  if (*p->at == 'S' && p->at[1] != 't') {
    t = parse_substitution(p, &is_std);
    known = true;
  } else {
    if (*p->at == 'S') p->at += 2; /* St */
    t = parse_unqualified(p);
  }
  p->last_was_template = false;
  if (!known && (is_type || *p->at == 'I')) remember(p, t);
  if (*p->at == 'I') {
    t = parse_template(p, t, !is_type);
    if (is_type) remember(p, t);
    p->last_was_template = true;
  }
  return t;
}

static bool builtin(char c, struct type *out) {
  static const struct {
    char c;
    uint8_t bytes;
  } sizes[] = {
      {'b', 1}, {'c', 1}, {'a', 1}, {'h', 1}, {'s', 2}, {'t', 2},  {'w', 4},  {'i', 4},  {'j', 4},  {'f', 4},
      {'l', 8}, {'m', 8}, {'x', 8}, {'y', 8}, {'d', 8}, {'n', 16}, {'o', 16}, {'e', 16}, {'g', 16},
  };
  *out = (struct type){.void_type = c == 'v'};
  if (c == 'v' || c == 'z') return true;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    if (sizes[i].c == c) {
      out->bytes = sizes[i].bytes;
      return true;
    }
  return false;
}

static struct type parse_compound(struct parser *p) {
  char c = *p->at++;
  struct type inner;
  switch (c) {
  case 'P':
  case 'R':
  case 'O':
    inner = parse_type(p);
    return remember(p, (struct type){.bytes = 8, .pointer = true, .to_const = inner.constant});
  case 'F': /* return type, parameters */
    accept(p, 'Y');
    while (!p->failed && *p->at && *p->at != 'E') parse_type(p);
    return accept(p, 'E') ? remember(p, (struct type){0}) : fail(p);
  case 'A':
    parse_number(p);
    if (!accept(p, '_')) return fail(p);
    parse_type(p);
    return remember(p, (struct type){0});
  case 'M':
    parse_type(p);
    parse_type(p);
    return remember(p, (struct type){.bytes = 16});
  default: return fail(p);
  }
}

static struct type parse_type(struct parser *p) {
  struct type t;
  if (p->failed || ++p->depth > 200) return fail(p);
  char c = *p->at;
  if (c == 'K' || c == 'V' || c == 'r') {
    bool constant = false;
    while (*p->at == 'K' || *p->at == 'V' || *p->at == 'r') constant |= *p->at++ == 'K';
    t = parse_type(p);
    t.constant = constant;
    remember(p, t);
  } else if (builtin(c, &t)) {
    p->at++;
  } else if (strchr("PROFAM", c) && c) {
    t = parse_compound(p);
  } else if (c == 'D' && p->at[1] == 'n') {
    p->at += 2;
    t = (struct type){.bytes = 8};
  } else if (c == 'D' && (p->at[1] == 'h' || !strncmp(p->at, "DF16", 4))) {
    p->at += p->at[1] == 'h' ? 2 : 4;
    if (*p->at == 'b' || *p->at == '_') p->at++;
    t = (struct type){.bytes = 2};
  } else if (c == 'T') {
    t = remember(p, parse_template_parameter(p));
    if (*p->at == 'I') t = remember(p, parse_template(p, t, false));
  } else if (c == 'S' && p->at[1] != 't') {
    bool is_std;
    t = parse_substitution(p, &is_std);
    if (*p->at == 'I') t = remember(p, parse_template(p, t, false));
  } else if (c == 'N' || c == 'Z' || c == 'S' || is_digit(c)) {
    t = parse_name(p, true);
    if (c == 'Z') remember(p, t);
  } else {
    t = fail(p);
  }
  p->depth--;
  return t;
}

static void parse_encoding(struct parser *p, struct type *params, int max, int *count) {
  parse_name(p, false);
  bool has_return = p->last_was_template && !p->no_return;
  int n = 0;
  if (p->failed) return;
  if (has_return) parse_type(p);
  while (!p->failed && *p->at && *p->at != 'E' && *p->at != '.') {
    struct type t = parse_type(p);
    if (t.void_type) break;
    if (params && n < max) params[n] = t;
    n++;
  }
  if (count) *count = n;
}

int rvt_layout_from_name(const char *name, struct rvt_param *out, int max, uint16_t *total, uint64_t *reads) {
  static struct parser p; /* too large for a stack; callers hold the resolve lock */
  struct type params[RVT_MAX_KERNEL_PARAMS];
  int count = -1;
  if (strncmp(name, "_Z", 2) || max > RVT_MAX_KERNEL_PARAMS) return -1;
  memset(&p, 0, sizeof p);
  p.at = name + 2;
  parse_encoding(&p, params, max, &count);
  if (p.failed || count < 0 || count > max) return -1;
  *total = 0;
  *reads = 0;
  for (int i = 0; i < count; i++) {
    out[i] = (struct rvt_param){*total, params[i].bytes};
    *total = (uint16_t)(*total + ((params[i].bytes + 7) & ~7));
    if (params[i].pointer && params[i].to_const) *reads |= 1ull << i;
  }
  return count;
}
