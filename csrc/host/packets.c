/* Packets under way. Over the loopback they are delivered inside the sender's call, unless the kernel defers them to
 * ksoftirqd: then a message is under way although every thread waits, and it may wake a thread that a proof has just
 * seen asleep. So a proof also needs that ksoftirqd sleeps when all threads have been looked at, and did not run
 * meanwhile. */
#include "host.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Proofs in a row that fail only because ksoftirqd ran: a machine full of strangers' packets. */
#define RVT_SPOILT_MOST 16

/* Its wchan is as good as its state and half as dear, where it may be read. */
static bool reads_as_asleep(int wchan_fd) {
  char text[64] = "0";
  for (int i = 0; i < 5 && text[0] == '0'; i++, usleep(200)) {
    ssize_t n = pread(wchan_fd, text, sizeof(text) - 1, 0);
    if (n <= 0) return false;
  }
  return text[0] != '0';
}

static void watch_softirq(struct rvt_host *host, int pid) {
  struct rvt_softirq *softirq = &host->softirq[host->softirq_count];
  softirq->fd = rvt_open_task(pid, pid, "wchan");
  softirq->by_wchan = softirq->fd >= 0 && reads_as_asleep(softirq->fd);
  if (!softirq->by_wchan) {
    if (softirq->fd >= 0) close(softirq->fd);
    softirq->fd = rvt_open_task(pid, pid, "stat");
  }
  if (softirq->fd < 0) return;
  softirq->schedstat_fd = rvt_open_task(pid, pid, "schedstat");
  host->softirq_count++;
}

void rvt_packets_find(struct rvt_host *host) {
  host->softnet_fd = open("/proc/net/softnet_stat", O_RDONLY | O_CLOEXEC);
  DIR *proc = opendir("/proc");
  if (!proc) return;
  struct dirent *entry;
  while ((entry = readdir(proc)) && host->softirq_count < RVT_MAX_SOFTIRQ) {
    if (!isdigit((unsigned char)entry->d_name[0])) continue;
    int pid = atoi(entry->d_name);
    char name[32];
    rvt_kernel_name(pid, pid, name, sizeof(name));
    if (!strncmp(name, "ksoftirqd/", 10)) watch_softirq(host, pid);
  }
  closedir(proc);
}

void rvt_packets_close(struct rvt_host *host) {
  for (int i = 0; i < host->softirq_count; i++) {
    close(host->softirq[i].fd);
    if (host->softirq[i].schedstat_fd >= 0) close(host->softirq[i].schedstat_fd);
  }
  if (host->softnet_fd >= 0) close(host->softnet_fd);
}

static bool awake(const struct rvt_softirq *softirq) {
  char text[256];
  ssize_t n = pread(softirq->fd, text, sizeof(text) - 1, 0);
  if (n <= 0) return false;
  text[n] = 0;
  if (softirq->by_wchan) return text[0] == '0';
  char *end = strrchr(text, ')');
  return end && end[1] == ' ' && end[2] == 'R';
}

/* Has it run since the last question? */
static bool ran(struct rvt_softirq *softirq) {
  char text[96];
  ssize_t n = softirq->schedstat_fd < 0 ? 0 : pread(softirq->schedstat_fd, text, sizeof(text) - 1, 0);
  if (n <= 0) return false;
  text[n] = 0;
  char *field = strrchr(text, ' ');
  uint64_t runs = field ? strtoull(field, NULL, 10) : 0, before = softirq->runs;
  softirq->runs = runs;
  return runs != before;
}

/* Where kernel threads are hidden (a container): field 1, hexadecimal, of every CPU's line counts the packets that were
 * delivered, field 12 those that wait. They are the whole machine's, and a packet that is just being delivered is in
 * neither: this makes a hole in a proof unlikely, not impossible. */
static enum rvt_packets by_queues(struct rvt_host *host) {
  static char text[1 << 18]; /* some 135 bytes a CPU; a read gives a page */
  size_t filled = 0;
  for (ssize_t n; filled < sizeof(text) - 1; filled += (size_t)n) {
    n = pread(host->softnet_fd, text + filled, sizeof(text) - 1 - filled, (off_t)filled);
    if (n <= 0) break;
  }
  text[filled] = 0;
  uint64_t delivered = 0, waiting = 0;
  for (char *line = text; *line;) {
    char *at = line;
    delivered += strtoul(at, NULL, 16);
    for (int field = 1; field < 12 && at; field++) at = strchr(at, ' ') ? strchr(at, ' ') + 1 : NULL;
    if (at) waiting += strtoul(at, NULL, 16);
    line += strcspn(line, "\n");
    line += *line == '\n';
  }
  bool moved = delivered != host->delivered;
  host->delivered = delivered;
  return waiting ? RVT_PACKETS_WAIT : moved ? RVT_PACKETS_MOVED : RVT_PACKETS_NONE;
}

enum rvt_packets rvt_packets_look(struct rvt_host *host) {
  if (!host->softirq_count) return host->softnet_fd >= 0 ? by_queues(host) : RVT_PACKETS_NONE;
  bool moved = false;
  for (int i = 0; i < host->softirq_count; i++) {
    struct rvt_softirq *softirq = &host->softirq[i];
    if (awake(softirq)) return RVT_PACKETS_WAIT;
    if (!ran(softirq)) continue;
    if (awake(softirq)) return RVT_PACKETS_WAIT; /* it began between the two questions */
    moved = true;
  }
  return moved ? RVT_PACKETS_MOVED : RVT_PACKETS_NONE;
}

bool rvt_packets_strangers(struct rvt_host *host, enum rvt_packets packets) {
  host->spoilt = packets == RVT_PACKETS_MOVED ? host->spoilt + 1 : 0;
  return host->spoilt && (!host->softirq_count || host->spoilt > RVT_SPOILT_MOST);
}
