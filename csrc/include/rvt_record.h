/* What the recorder leaves on disk, and `revati record` reads: revati/recording/spool.py is the mirror, a test
 * compares.
 *
 * One folder per recording. Every thread of every process writes `PID-THREAD-N.seg` files: a header, then records of
 * 64 bytes; `count` in the header says how many are valid, so a file is whole whenever its process dies. Longer things
 * (names, sequence lengths) follow their record as RVT_REC_TEXT records. `PID-THREAD.hist` is the histogram of host
 * time by call, `sites` names the calls by number.
 */
#ifndef RVT_RECORD_FORMAT_H
#define RVT_RECORD_FORMAT_H

#include <stdint.h>

#define RVT_RECORD_VERSION 1
#define RVT_SEGMENT_RECORDS 65536

enum rvt_record_type {
  RVT_REC_CALL = 1,  /* a call that submitted work; begin, end: host time of the call */
  RVT_REC_WORK = 2,  /* GPU work, times on the GPU; op: of a graph's node, else 0; see below */
  RVT_REC_OP = 3,    /* text: struct rvt_op, then its name */
  RVT_REC_STEP = 4,  /* a batch begins at `begin`; value: padded tokens; text: struct rvt_seq each */
  RVT_REC_MODEL = 5, /* text: facts of the model as JSON; op: its number */
  RVT_REC_GRAPH = 6, /* an executable graph; graph: its number; text: u32 operator of each node */
  RVT_REC_START = 7, /* a process begins; method; value: 1 with node events; text: why this method */
  RVT_REC_LINK = 8,  /* correlation is the call that CUPTI gave the id `value` */
  RVT_REC_TEXT = 15,
};

/* WORK by events carries the correlation of its call. By CUPTI it carries CUPTI's own number of the call in `value`,
 * which a LINK explains, and in `step` the number of the operator as CUPTI describes it.
 */
enum rvt_method { RVT_METHOD_NONE = 0, RVT_METHOD_EVENT = 1, RVT_METHOD_CUPTI = 2 };

enum rvt_record_flags {
  RVT_CALL_FAILED = 1,    /* the call answered an error */
  RVT_CALL_CAPTURED = 2,  /* went into the graph `graph` (number of the capture) instead of running */
  RVT_CALL_GRAPH = 4,     /* launched the executable `graph` */
  RVT_CALL_UNTIMED = 8,   /* could not be timed: the stream must not be touched during a capture */
  RVT_CALL_PAGEABLE = 16, /* a copy whose host side is not pinned */
};

struct rvt_record {
  uint8_t type;         /* enum rvt_record_type */
  uint8_t method;       /* enum rvt_method, of RVT_REC_WORK */
  uint16_t site;        /* API call, line of the file `sites` */
  uint32_t op;          /* number of the operator */
  uint64_t correlation; /* joins CALL and WORK; unique in a process */
  int64_t begin_ns, end_ns;
  uint64_t stream;
  uint64_t graph;
  uint32_t step; /* number of the last STEP of the process */
  uint32_t value;
  uint16_t flags;
  uint16_t device;
  uint32_t node; /* of a graph, not 0: equal for the nodes of one captured call */
};

struct rvt_text_record {
  uint8_t type; /* RVT_REC_TEXT */
  uint8_t bytes;
  char text[62];
};

struct rvt_segment {
  char magic[8]; /* "RVTREC\0\0" */
  uint32_t version, pid, thread, number;
  uint64_t count; /* atomic: valid records */
  uint64_t padding[4];
};

/* Histogram of host time. Four buckets an octave from 2^RVT_HIST_FIRST ns on; the first also holds what is shorter. */
#define RVT_HIST_BUCKETS 96
#define RVT_HIST_FIRST 5
struct rvt_histogram {
  uint64_t calls, total_ns;
  uint32_t bucket[RVT_HIST_BUCKETS];
};

_Static_assert(sizeof(struct rvt_record) == 64 && sizeof(struct rvt_text_record) == 64, "records are 64 bytes");
_Static_assert(sizeof(struct rvt_segment) == 64, "so is the header");

#endif
