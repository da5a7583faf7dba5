/* The step log: what the GPU did for each engine step. With REVATI_STEPS=DIR every process that announces batches
 * writes DIR/<pid>.steps, an array of struct rvt_step; the first with index 0 ends it. The file is a shared mapping,
 * so that a killed process leaves what it had. Also cffi input, so keep it to declarations.
 */
#ifndef RVT_STEPS_H
#define RVT_STEPS_H

#include <stdint.h>

#include "rvt_device_page.h"

#define RVT_STEP_STREAMS 4

struct rvt_step_stream {
  uint64_t id;               /* 1 + the stream's id; 0 = unused */
  int64_t first_ns, last_ns; /* start of its first and end of its last piece of work */
  int64_t busy_ns;
  uint64_t launches;
};

struct rvt_step {
  uint64_t index;      /* from 1 */
  int64_t observed_ns; /* virtual time at which the batch was announced: the framework is about to submit it */
  uint32_t nseq, decodes, tokens, padded;
  uint64_t launches; /* kernels, graph nodes, library calls and copies submitted until the next step */
  int64_t family_ns[RVT_MAX_FAMILIES];
  struct rvt_step_stream stream[RVT_STEP_STREAMS]; /* by first use; further streams are not kept */
};

#endif
