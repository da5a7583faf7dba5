/* Modules: kernel names, parameter layouts and symbols from the ELF metadata of a cubin.
 *
 * Only section names, the symbol table and the .nv.info attribute lists are read; code is not looked at. Other
 * images (fat binaries, PTX, LTO) are accepted without metadata: their kernels are made by name when asked for.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "device/core.h"
#include "device/module.h"

/* Attributes of .nv.info: byte format, byte attribute, u16 size or value, then `size` bytes for format 4. */
enum {
  INFO_FORMAT_SIZED = 4,
  INFO_MAX_THREADS = 0x05,
  INFO_REQUIRED_THREADS = 0x10,
  INFO_FRAME_SIZE = 0x11,
  INFO_KPARAM = 0x17,
  INFO_PARAM_BYTES = 0x19,
  INFO_REGISTERS = 0x2f,
};

struct elf {
  const char *base;
  size_t bytes;
  const Elf64_Shdr *sections;
  uint32_t count;
  const char *names;
};

static bool open_elf(struct elf *e, const void *image, size_t bytes) {
  const Elf64_Ehdr *h = image;
  if (memcmp(h->e_ident, ELFMAG, SELFMAG) || h->e_ident[EI_CLASS] != ELFCLASS64) return false;
  e->base = image;
  e->bytes = bytes ? bytes : h->e_shoff + (size_t)h->e_shnum * h->e_shentsize;
  if (h->e_shoff + (size_t)h->e_shnum * sizeof(Elf64_Shdr) > e->bytes || h->e_shstrndx >= h->e_shnum) return false;
  e->sections = (const Elf64_Shdr *)(e->base + h->e_shoff);
  e->count = h->e_shnum;
  e->names = e->base + e->sections[h->e_shstrndx].sh_offset;
  return true;
}

static const char *section_name(const struct elf *e, uint32_t i) { return e->names + e->sections[i].sh_name; }

size_t rvt_elf_bytes(const void *image) {
  const Elf64_Ehdr *h = image;
  if (memcmp(h->e_ident, ELFMAG, SELFMAG)) return 0;
  size_t end = h->e_shoff + (size_t)h->e_shnum * sizeof(Elf64_Shdr);
  const Elf64_Shdr *s = (const Elf64_Shdr *)((const char *)image + h->e_shoff);
  for (uint32_t i = 0; i < h->e_shnum; i++)
    if (s[i].sh_type != SHT_NOBITS && s[i].sh_offset + s[i].sh_size > end) end = s[i].sh_offset + s[i].sh_size;
  return end;
}

struct info {
  uint8_t attribute;
  const unsigned char *data;
  uint16_t bytes;
};

static bool next_info(const unsigned char **at, const unsigned char *end, struct info *out) {
  if (*at + 4 > end) return false;
  uint8_t format = (*at)[0];
  out->attribute = (*at)[1];
  uint16_t value;
  memcpy(&value, *at + 2, 2);
  out->data = *at + 4;
  out->bytes = format == INFO_FORMAT_SIZED ? value : 0;
  *at += 4 + out->bytes;
  return *at <= end;
}

static void parse_params(struct rvt_kernel *k, const unsigned char *at, const unsigned char *end) {
  struct rvt_param params[RVT_MAX_KERNEL_PARAMS] = {{0, 0}};
  int count = 0;
  struct info info;
  while (next_info(&at, end, &info)) {
    uint32_t w[3];
    if (info.attribute == INFO_KPARAM && info.bytes >= 12) {
      /* index u32, ordinal u16, offset u16, then packed bits with the size from bit 18 on */
      memcpy(w, info.data, 12);
      uint32_t ordinal = w[1] & 0xFFFF, offset = w[1] >> 16, bytes = w[2] >> 18;
      if (ordinal >= RVT_MAX_KERNEL_PARAMS) return;
      params[ordinal] = (struct rvt_param){(uint16_t)offset, (uint16_t)bytes};
      if ((int)ordinal + 1 > count) count = (int)ordinal + 1;
    } else if (info.attribute == INFO_PARAM_BYTES) {
      k->param_total_bytes = (uint16_t)(info.data[-2] | info.data[-1] << 8);
    } else if ((info.attribute == INFO_MAX_THREADS || info.attribute == INFO_REQUIRED_THREADS) && info.bytes >= 12) {
      memcpy(w, info.data, 12);
      k->max_threads = (int32_t)(w[0] * w[1] * w[2]);
    }
  }
  struct rvt_param *kept = rvt_persist(((size_t)count + 1) * sizeof *kept);
  if (!kept) return;
  memcpy(kept, params, (size_t)count * sizeof *kept);
  k->params = kept;
  k->param_count = (int16_t)count;
  k->layout_is_cubin = true;
  if (!k->param_total_bytes && count) k->param_total_bytes = (uint16_t)(kept[count - 1].offset + kept[count - 1].bytes);
}

static const Elf64_Shdr *section_for(const struct elf *e, const char *prefix, const char *kernel, uint32_t *index) {
  size_t n = strlen(prefix);
  for (uint32_t i = 0; i < e->count; i++) {
    const char *name = section_name(e, i);
    if (strncmp(name, prefix, n) == 0 && strcmp(name + n, kernel) == 0) {
      if (index) *index = i;
      return &e->sections[i];
    }
  }
  return NULL;
}

/* Registers and stack sizes are listed for all kernels by symbol index in the plain .nv.info section. */
static void parse_common_info(struct rvt_module *m, const struct elf *e, const Elf64_Sym *symbols,
                              uint32_t symbol_count, const char *names) {
  for (uint32_t i = 0; i < e->count; i++) {
    if (strcmp(section_name(e, i), ".nv.info")) continue;
    const unsigned char *at = (const unsigned char *)e->base + e->sections[i].sh_offset;
    const unsigned char *end = at + e->sections[i].sh_size;
    struct info info;
    while (next_info(&at, end, &info)) {
      uint32_t w[2];
      if ((info.attribute != INFO_REGISTERS && info.attribute != INFO_FRAME_SIZE) || info.bytes < 8) continue;
      memcpy(w, info.data, 8);
      if (w[0] >= symbol_count) continue;
      const char *name = names + symbols[w[0]].st_name;
      for (struct rvt_kernel *k = m->kernels; k; k = (struct rvt_kernel *)k->next)
        if (strcmp(k->name, name) == 0)
          *(info.attribute == INFO_REGISTERS ? &k->registers : &k->local_bytes) = (int32_t)w[1];
    }
  }
}

static void parse_symbols(struct rvt_module *m, const struct elf *e) {
  for (uint32_t i = 0; i < e->count; i++) {
    if (e->sections[i].sh_type != SHT_SYMTAB || e->sections[i].sh_link >= e->count) continue;
    const Elf64_Sym *symbols = (const Elf64_Sym *)(e->base + e->sections[i].sh_offset);
    uint32_t n = (uint32_t)(e->sections[i].sh_size / sizeof *symbols);
    const char *names = e->base + e->sections[e->sections[i].sh_link].sh_offset;
    parse_common_info(m, e, symbols, n, names);
    for (uint32_t s = 0; s < n; s++) {
      if (ELF64_ST_TYPE(symbols[s].st_info) != STT_OBJECT || symbols[s].st_shndx == SHN_UNDEF) continue;
      const char *name = names + symbols[s].st_name;
      struct rvt_symbol *symbol = rvt_persist(sizeof *symbol);
      if (!symbol) return;
      symbol->name = rvt_persist_string(name, strlen(name));
      symbol->bytes = symbols[s].st_size;
      symbol->next = m->symbols;
      m->symbols = symbol;
    }
  }
}

bool rvt_module_parse_elf(struct rvt_module *m, const void *image, size_t bytes) {
  struct elf e;
  if (!open_elf(&e, image, bytes)) return false;
  for (uint32_t i = 0; i < e.count; i++) {
    const char *name = section_name(&e, i);
    if (strncmp(name, ".text.", 6)) continue;
    /* Device functions have a .text section of their own, but no parameter information. */
    const Elf64_Shdr *info = section_for(&e, ".nv.info.", name + 6, NULL);
    if (!info) continue;
    struct rvt_kernel *k = rvt_kernel_make(rvt_persist_string(name + 6, strlen(name + 6)), strlen(name + 6), m);
    if (!k) return false;
    parse_params(k, (const unsigned char *)e.base + info->sh_offset,
                 (const unsigned char *)e.base + info->sh_offset + info->sh_size);
    const Elf64_Shdr *shared = section_for(&e, ".nv.shared.", name + 6, NULL);
    if (shared) k->static_shared_bytes = (int32_t)shared->sh_size;
    const Elf64_Shdr *constant = section_for(&e, ".nv.constant0.", name + 6, NULL);
    if (constant) k->const_bytes = (int32_t)constant->sh_size;
  }
  parse_symbols(m, &e);
  return true;
}

/* ---- module objects -------------------------------------------------------------------------------------- */

int rvt_module_load(const void *image, bool is_library, struct rvt_module **out) {
  if (!image || !out) return RVT_E_INVALID_VALUE;
  struct rvt_module *m = rvt_persist(sizeof *m);
  if (!m) return RVT_E_OUT_OF_MEMORY;
  m->magic = RVT_MAGIC_MODULE;
  m->is_library = is_library;
  m->device = rvt_t.device;
  m->has_metadata = rvt_module_parse_elf(m, image, 0);
  size_t bytes = rvt_elf_bytes(image);
  m->charged = (bytes + 65535) & ~65535ull;
  if (!rvt_charge_bytes(m->device, m->charged)) return RVT_E_OUT_OF_MEMORY;
  *out = m;
  return RVT_OK;
}

int rvt_module_unload(struct rvt_module *m) {
  if (!m || m->magic != RVT_MAGIC_MODULE || m->unloaded) return RVT_E_INVALID_HANDLE;
  m->unloaded = true;
  rvt_release_bytes(m->device, m->charged);
  return RVT_OK;
}

int rvt_module_kernel(struct rvt_module *m, const char *name, struct rvt_kernel **out) {
  if (!m || m->magic != RVT_MAGIC_MODULE || m->unloaded) return RVT_E_INVALID_HANDLE;
  if (!name || !out) return RVT_E_INVALID_VALUE;
  for (struct rvt_kernel *k = m->kernels; k; k = (struct rvt_kernel *)k->next)
    if (strcmp(k->name, name) == 0) {
      *out = k;
      return RVT_OK;
    }
  /* An image without metadata: whoever asks for a kernel by name knows that it is there. */
  if (m->has_metadata) return RVT_E_NOT_FOUND;
  *out = rvt_kernel_make(rvt_persist_string(name, strlen(name)), strlen(name), m);
  return *out ? RVT_OK : RVT_E_OUT_OF_MEMORY;
}

int rvt_module_symbol(struct rvt_module *m, const char *name, struct rvt_symbol **out) {
  if (!m || m->magic != RVT_MAGIC_MODULE || m->unloaded) return RVT_E_INVALID_HANDLE;
  for (struct rvt_symbol *s = m->symbols; s; s = s->next)
    if (name && strcmp(s->name, name) == 0) {
      *out = s;
      return RVT_OK;
    }
  return RVT_E_NOT_FOUND;
}

int rvt_symbol_address(struct rvt_symbol *s, int ordinal, uint64_t *addr) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  int rc = RVT_OK;
  pthread_mutex_lock(&lock);
  if (!atomic_load(&s->addr[ordinal])) {
    uint64_t made;
    rc = rvt_alloc_device(ordinal, s->bytes, RVT_ALLOC_SYMBOL, &made);
    if (rc == RVT_OK) atomic_store(&s->addr[ordinal], made);
  }
  *addr = atomic_load(&s->addr[ordinal]);
  pthread_mutex_unlock(&lock);
  return rc;
}
