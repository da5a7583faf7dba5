/* Finds the registry entry of a kernel and binds its parameters. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "device/semantics.h"

static const struct rvt_entry *const tables[] = {
    rvt_entries_vllm,       rvt_entries_vllm_sample,    rvt_entries_vllm_drafts, rvt_entries_flashinfer,
    rvt_entries_torch_topk, rvt_entries_torch_integers, /* before torch's, which takes whatever is elementwise */
    rvt_entries_torch,      rvt_entries_readers,
};

/* Matches the remaining letters against the remaining parameters; prefers what is present over what is left
 * out. Signatures are short, the search is small. */
static bool bind(const char *signature, const struct rvt_param *params, int count, int next, int8_t *at, bool wide) {
  if (!*signature) return next == count;
  bool pointer = *signature == 'P' || *signature == 'Q';
  if (next < count) {
    uint16_t bytes = params[next].bytes;
    if ((bytes == 8 && (pointer || wide)) || (bytes == 4 && !pointer)) {
      *at = (int8_t)next;
      if (bind(signature + 1, params, count, next + 1, at + 1, wide)) return true;
    }
  }
  if (*signature == 'P' || *signature == 'J') return false;
  *at = -1;
  return bind(signature + 1, params, count, next, at + 1, wide);
}

/* Triton passes an integer in 4 bytes unless it does not fit. One of 8 bytes looks like a pointer, so a reading with
 * 4-byte integers only is tried first. */
static bool bind_signature(struct rvt_bound *bound, const char *signature, const struct rvt_kernel *kernel) {
  if (!signature) return false;
  bound->args = (uint8_t)strlen(signature);
  /* Triton appends two scratch pointers; older releases one or none. */
  for (int wide = 0; wide <= 1; wide++) {
    for (int scratch = 2; scratch >= 0; scratch--) {
      int count = kernel->param_count - scratch;
      if (count > 0 && bind(signature, kernel->params, count, 0, bound->at, wide)) return true;
    }
  }
  return false;
}

static bool matches(const struct rvt_entry *entry, const struct rvt_kernel *kernel) {
  bool named = entry->anywhere ? strstr(kernel->name, entry->pattern) != NULL : !strcmp(kernel->name, entry->pattern);
  return named && (!entry->accept || entry->accept(kernel));
}

static bool bind_entry(struct rvt_bound *bound, const struct rvt_entry *entry, const struct rvt_kernel *kernel) {
  *bound = (struct rvt_bound){.entry = entry,
                              .semantic = {.fn = entry->fn,
                                           .read_only = !entry->fn,
                                           .param_count = entry->param_count,
                                           .param_bytes = entry->param_bytes}};
  if (!entry->signature) return true;
  if (kernel->param_count < 0) return false;
  bound->matched = bind_signature(bound, entry->signature, kernel);
  if (!bound->matched) bound->matched = bound->second = bind_signature(bound, entry->second, kernel);
  return bound->matched;
}

/* The first entry of the kernel's name that its parameters fit: vLLM has kernels of one name in several modules. */
const struct rvt_semantic *rvt_registry_find(const struct rvt_kernel *kernel) {
  struct rvt_bound found;
  bool named = false;
  for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
    for (const struct rvt_entry *entry = tables[t]; entry->pattern; entry++) {
      if (!matches(entry, kernel)) continue;
      named = true;
      if (!bind_entry(&found, entry, kernel)) continue;
      struct rvt_bound *bound = malloc(sizeof *bound);
      if (!bound) return NULL;
      *bound = found;
      return &bound->semantic;
    }
  }
  if (named) {
    char what[512];
    snprintf(what, sizeof what,
             "kernel %s has another parameter list than the one known, and its effect is not emulated", kernel->name);
    rvt_lacking(what);
  }
  return NULL;
}

/* Grows only; mapped directly, because emulation runs inside launches, where malloc may be the caller's. */
void *rvt_scratch(int slot, size_t n) {
  static __thread struct {
    void *p;
    size_t n;
  } scratch[8];
  if (RVT_UNLIKELY(scratch[slot].n < n)) {
    size_t bytes = (n * 2 + 0xFFFF) & ~(size_t)0xFFFF;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort(); /* out of address space: nothing sensible can follow */
    if (scratch[slot].p) munmap(scratch[slot].p, scratch[slot].n);
    scratch[slot].p = p;
    scratch[slot].n = bytes;
  }
  return scratch[slot].p;
}

uint32_t rvt_read_slots(const struct rvt_launch *l, int arg, int32_t *slots, uint32_t rows) {
  uint64_t addr = rvt_arg_ptr(l, arg);
  if (rvt_mem_written_at_once(addr, 8ull * rows)) {
    int64_t *wide = rvt_scratch(6, 8ull * rows);
    rvt_mem_read(addr, wide, 8ull * rows);
    uint32_t fits = 0;
    while (fits < rows && wide[fits] == (int32_t)wide[fits]) fits++;
    if (fits == rows) {
      for (uint32_t i = 0; i < rows; i++) slots[i] = (int32_t)wide[i];
      return 8;
    }
  }
  return rvt_read_i32(addr, slots, rows) ? 4 : 0;
}
