/* Start of a process: find the real functions, map the page, take a slot. Everything here must be cheap and must
 * work in any program: sh, gcc and ptxas load this library too. */
#include "internal.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct rvt_reals rvt_real;
int rvt_mode;
struct rvt_page *rvt_the_page;
int rvt_pid;
char rvt_page_path[100];
__thread struct rvt_self rvt_self_tls;

#define RVT_EXIT_BROKEN 70

long rvt_raw(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
#else
#error "revati: only x86-64 and aarch64 are supported"
#endif
}

void rvt_fail(const char *format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  int n = snprintf(text, sizeof(text), "revati: ");
  n += vsnprintf(text + n, sizeof(text) - (size_t)n - 1, format, list);
  va_end(list);
  if (n > (int)sizeof(text) - 2) n = sizeof(text) - 2;
  text[n++] = '\n';
  rvt_raw(SYS_write, 2, (long)text, n, 0, 0, 0);
  rvt_raw(SYS_exit_group, RVT_EXIT_BROKEN, 0, 0, 0, 0, 0);
  __builtin_unreachable();
}

static void find_reals(void) {
#define X(ret, name, args) rvt_real.name = (ret(*) args)dlsym(RTLD_NEXT, #name);
  RVT_REALS(X)
#undef X
}

static void map_page(const char *path) {
  int fd = (int)rvt_raw(SYS_openat, AT_FDCWD, (long)path, O_RDWR | O_CLOEXEC, 0, 0, 0);
  if (fd < 0)
    rvt_fail("REVATI_PAGE=%s cannot be opened (%s): the coordinator of this run is gone", path, strerror(-fd));
  struct stat st;
  if (fstat(fd, &st) || st.st_size < 64) rvt_fail("REVATI_PAGE=%s is no page of a coordinator", path);
  void *page = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  rvt_raw(SYS_close, fd, 0, 0, 0, 0, 0);
  if (page == MAP_FAILED) rvt_fail("the page of the coordinator cannot be mapped: %s", strerror(errno));
  rvt_the_page = page;
  if (rvt_the_page->magic != RVT_PAGE_MAGIC) rvt_fail("REVATI_PAGE=%s is no page of a coordinator", path);
  if (rvt_the_page->abi_version != RVT_ABI_VERSION || rvt_the_page->page_bytes != sizeof(struct rvt_page))
    rvt_fail("the preload library speaks page version %u (%zu bytes), the coordinator %u (%u bytes): "
             "install matching versions",
             RVT_ABI_VERSION, sizeof(struct rvt_page), rvt_the_page->abi_version, rvt_the_page->page_bytes);
}

/* The kernel kills this process when the coordinator dies, whatever state its threads are in: the read end of a
 * pipe whose only writer is the coordinator sends SIGKILL on hang-up. No thread and no real-time timer needed. */
static void watch_coordinator(void) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d/fd/%u", rvt_the_page->coordinator_pid, rvt_the_page->lost_fd);
  int low = (int)rvt_raw(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0, 0, 0);
  if (low < 0) rvt_fail("the coordinator of this run is gone");
  struct rlimit limit;
  long base = getrlimit(RLIMIT_NOFILE, &limit) ? 512 : (long)(limit.rlim_cur / 4 * 3);
  if (base > 60000) base = 60000;
  int fd = (int)rvt_raw(SYS_fcntl, low, F_DUPFD_CLOEXEC, base, 0, 0, 0);
  if (fd < 0) fd = low;
  else rvt_raw(SYS_close, low, 0, 0, 0, 0, 0);
  rvt_raw(SYS_fcntl, fd, F_SETOWN, rvt_pid, 0, 0, 0);
  rvt_raw(SYS_fcntl, fd, F_SETSIG, SIGKILL, 0, 0, 0);
  rvt_raw(SYS_fcntl, fd, F_SETFL, O_RDONLY | O_NONBLOCK | O_ASYNC, 0, 0, 0);
  if (rvt_raw(SYS_kill, rvt_the_page->coordinator_pid, 0, 0, 0, 0, 0) == -ESRCH)
    rvt_fail("the coordinator of this run is gone");
}

/* Which slot is ours: one that our creator took for us, else (nobody announced us) a new one. */
static struct rvt_slot *claim_slot(void) {
  struct rvt_page *page = rvt_the_page;
  uint32_t high = rvt_load(&page->slots_high);
  struct rvt_slot *mine = NULL;
  for (uint32_t i = 0; i < high; i++) {
    struct rvt_slot *slot = &page->slots[i];
    if (rvt_load(&slot->pid) != rvt_pid) continue;
    uint32_t state = rvt_state_of(rvt_load(&slot->owner));
    if (state == RVT_SLOT_STARTING || state == RVT_SLOT_SPAWNING) return slot; /* announced, or kept over exec */
    if (state == RVT_SLOT_LIVE && slot->tid == rvt_pid) mine = slot;           /* exec that nobody saw */
  }
  if (mine) return mine;
  int parent = (int)rvt_raw(SYS_getppid, 0, 0, 0, 0, 0, 0);
  for (uint32_t i = 0; i < high; i++) {
    struct rvt_slot *slot = &page->slots[i];
    if (rvt_state_of(rvt_load(&slot->owner)) != RVT_SLOT_SPAWNING || slot->parent_pid != parent) continue;
    int32_t unknown = 0;
    if (__atomic_compare_exchange_n(&slot->pid, &unknown, rvt_pid, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
      return slot;
  }
  return rvt_slot_take(RVT_SLOT_STARTING, (uint64_t)parent * 0x9E3779B97F4A7C15ull);
}

static void before_fork(void);
static void after_fork_parent(void);
static void after_fork_child(void);

void rvt_init(void) {
  if (rvt_mode != RVT_MODE_UNKNOWN) return;
  rvt_mode = RVT_MODE_STARTING;
  find_reals();
  const char *path = getenv("REVATI_PAGE");
  if (!path || !*path) {
    rvt_mode = RVT_MODE_INERT;
    return;
  }
  if (strlen(path) >= sizeof(rvt_page_path)) rvt_fail("REVATI_PAGE is too long");
  strcpy(rvt_page_path, path);
  map_page(path);
  rvt_pid = (int)rvt_raw(SYS_getpid, 0, 0, 0, 0, 0, 0);
  /* Needed where Yama restricts ptrace access to descendants: the coordinator reads our threads' states. */
  rvt_raw(SYS_prctl, PR_SET_PTRACER, rvt_the_page->coordinator_pid, 0, 0, 0, 0);
  watch_coordinator();
  rvt_slot_adopt(claim_slot(), rvt_pid, RVT_FLAG_MAIN);
  pthread_atfork(before_fork, after_fork_parent, after_fork_child);
  rvt_mode = RVT_MODE_MANAGED;
  rvt_turn(); /* beside us whoever started this program runs */
}

__attribute__((constructor(101))) static void start(void) { rvt_init(); }

/* exit() runs this late; what still comes is quick, and the coordinator waits until the kernel has buried us. */
__attribute__((destructor(101))) static void leave(void) {
  if (rvt_mode != RVT_MODE_MANAGED || rvt_vforked()) return;
  rvt_settle();
  rvt_slot_leave();
}

/* fork: registered first, so the prepare handler runs last and no other handler can wait for the coordinator
 * while the child's slot already forbids jumps. */
static __thread struct rvt_slot *forked_slot;

static void before_fork(void) {
  forked_slot = NULL;
  if (rvt_mode != RVT_MODE_MANAGED) return;
  forked_slot = rvt_slot_take(RVT_SLOT_STARTING, rvt_child_order());
  rvt_store(&forked_slot->parent_pid, rvt_pid);
}

static void after_fork_parent(void) {}

static void after_fork_child(void) {
  if (!forked_slot) return;
  rvt_pid = (int)rvt_raw(SYS_getpid, 0, 0, 0, 0, 0, 0);
  struct rvt_self *self = &rvt_self_tls;
  self->evfd = -1; /* the number is the parent's eventfd: closed at exec, never used here */
  self->children = 0;
  rvt_slot_adopt(forked_slot, rvt_pid, RVT_FLAG_MAIN);
  watch_coordinator();
  rvt_turn();
}

RVT_EXPORT pid_t fork(void) {
  if (!rvt_on()) return rvt_real.fork();
  rvt_settle();
  pid_t child = rvt_real.fork();
  if (child == 0) return 0;
  struct rvt_slot *slot = forked_slot;
  if (child < 0) {
    int error = errno;
    if (slot) rvt_slot_drop(slot);
    errno = error;
  } else if (slot) { /* a child that dies before it reports itself must be known by pid */
    int32_t unknown = 0;
    __atomic_compare_exchange_n(&slot->pid, &unknown, child, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  }
  return child;
}

RVT_EXPORT pid_t _Fork(void) { /* no atfork handlers here */
  if (!rvt_on()) return rvt_real._Fork();
  before_fork();
  pid_t child = rvt_real._Fork();
  if (child == 0) after_fork_child();
  else if (child < 0) rvt_slot_drop(forked_slot);
  else {
    int32_t unknown = 0;
    __atomic_compare_exchange_n(&forked_slot->pid, &unknown, child, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  }
  return child;
}

/* A child of vfork shares our memory until it execs: it must not touch our slot as if it were us. */
bool rvt_vforked(void) { return (int)rvt_raw(SYS_getpid, 0, 0, 0, 0, 0, 0) != rvt_pid; }
