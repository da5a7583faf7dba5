/* Operators by number, kernel names by handle: tables that are read without a lock. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "device/describe.h"
#include "record/record.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- operators ------------------------------------------------------------------------------------------------ */

#define OP_SLOTS (1u << 20)

struct op_slot {
  _Atomic uint64_t key; /* 0 = free */
  _Atomic uint32_t number;
};
static struct op_slot ops[OP_SLOTS]; /* 16 MiB of zero pages until used */
static uint32_t last_op;

static uint32_t known_op(uint64_t key) {
  for (uint32_t i = (uint32_t)key & (OP_SLOTS - 1);; i = (i + 1) & (OP_SLOTS - 1)) {
    uint64_t there = atomic_load_explicit(&ops[i].key, memory_order_acquire);
    if (there == key) return atomic_load_explicit(&ops[i].number, memory_order_relaxed);
    if (!there) return 0;
  }
}

static void write_op(uint32_t number, const struct rvt_op *op, const struct rvt_name *name) {
  uint32_t length = name ? name->length : 0;
  char *text = malloc(sizeof *op + length);
  if (!text) return;
  memcpy(text, op, sizeof *op);
  if (length) memcpy(text + sizeof *op, name->text, length);
  struct rvt_record head = {.type = RVT_REC_OP, .op = number};
  rvt_put_text(&head, text, sizeof *op + length);
  free(text);
}

uint32_t rvt_op_number(const struct rvt_op *op, const struct rvt_name *name) {
  uint64_t key = rvt_op_key(op, name ? name->hash : 0);
  uint32_t number = known_op(key);
  if (RVT_LIKELY(number)) return number;
  pthread_mutex_lock(&lock);
  number = known_op(key);
  if (!number) {
    number = ++last_op;
    write_op(number, op, name);
    /* A full table only means that operators are written again under new numbers. */
    uint32_t i = (uint32_t)key & (OP_SLOTS - 1);
    while (atomic_load_explicit(&ops[i].key, memory_order_relaxed)) i = (i + 1) & (OP_SLOTS - 1);
    if (last_op < OP_SLOTS / 2) {
      atomic_store_explicit(&ops[i].number, number, memory_order_relaxed);
      atomic_store_explicit(&ops[i].key, key, memory_order_release);
    }
  }
  pthread_mutex_unlock(&lock);
  return number;
}

void rvt_forget_ops(void) {
  pthread_mutex_init(&lock, NULL);
  if (last_op) memset(ops, 0, sizeof ops);
}

/* ---- names ----------------------------------------------------------------------------------------------------- */

#define NAME_SLOTS (1u << 17)

struct name_slot {
  _Atomic(const void *) handle;
  _Atomic(const struct rvt_name *) name;
};
static struct name_slot names[NAME_SLOTS];
static uint32_t name_count;
static const struct rvt_name no_name = {.text = ""};

static uint32_t name_slot(const void *handle) {
  return (uint32_t)((uint64_t)(uintptr_t)handle * 0x9E3779B97F4A7C15ull >> 40) & (NAME_SLOTS - 1);
}

typedef int (*name_fn)(const char **, const void *);

/* The functions that tell names came with CUDA 12.3. */
static const char *ask_name(const void *handle, enum rvt_handle_kind kind) {
  if (kind == RVT_NAME_ITSELF) return handle;
  static const char *const asked[] = {"cudaFuncGetName", "cuFuncGetName", "cuKernelGetName"};
  name_fn ask = (name_fn)rvt_find_real(asked[kind]);
  const char *text = NULL;
  if (!ask || ask(&text, handle) || !text) {
    static atomic_flag said;
    if (!atomic_flag_test_and_set(&said))
      rvt_say("%s does not tell the name of a kernel: CUDA 12.3 or newer is needed", asked[kind]);
    return NULL;
  }
  return text;
}

static const struct rvt_name *new_name(const void *handle, enum rvt_handle_kind kind) {
  const char *text = ask_name(handle, kind);
  struct rvt_name *name = text ? malloc(sizeof *name) : NULL;
  if (!name) return &no_name;
  uint32_t length = (uint32_t)strlen(text);
  *name = (struct rvt_name){.text = strdup(text), .length = length, .hash = rvt_hash_bytes(text, length)};
  if (!name->text) return &no_name;
  pthread_mutex_lock(&lock);
  uint32_t i = name_slot(handle);
  while (atomic_load(&names[i].handle) && atomic_load(&names[i].handle) != handle) i = (i + 1) & (NAME_SLOTS - 1);
  if (name_count < NAME_SLOTS / 2) {
    name_count += !atomic_load(&names[i].handle);
    atomic_store_explicit(&names[i].name, name, memory_order_release);
    atomic_store_explicit(&names[i].handle, handle, memory_order_release);
  }
  pthread_mutex_unlock(&lock);
  return name;
}

const struct rvt_name *rvt_kernel_name(const void *handle, enum rvt_handle_kind kind) {
  for (uint32_t i = name_slot(handle);; i = (i + 1) & (NAME_SLOTS - 1)) {
    const void *there = atomic_load_explicit(&names[i].handle, memory_order_acquire);
    if (!there) return new_name(handle, kind);
    if (there != handle) continue;
    const struct rvt_name *name = atomic_load_explicit(&names[i].name, memory_order_acquire);
    return name ? name : new_name(handle, kind);
  }
}

/* Rare, so all are asked for again; the old texts stay, since another thread may just be using one. */
void rvt_forget_names(void) {
  pthread_mutex_lock(&lock);
  for (uint32_t i = 0; i < NAME_SLOTS; i++) atomic_store_explicit(&names[i].name, NULL, memory_order_release);
  pthread_mutex_unlock(&lock);
}
