/* Memory pools of the stream-ordered allocator. */
#ifndef RVT_POOL_H
#define RVT_POOL_H

#include "device/core.h"

struct rvt_pool *rvt_pool_create(int ordinal);
bool rvt_pool_valid(const struct rvt_pool *p);
struct rvt_pool *rvt_pool_default(int ordinal);
struct rvt_pool *rvt_pool_current(int ordinal);
int rvt_pool_alloc(struct rvt_pool *p, uint64_t bytes, uint64_t *addr);
int rvt_pool_free(struct rvt_alloc *a);
void rvt_pool_trim(struct rvt_pool *p, uint64_t keep);
int rvt_pool_get(struct rvt_pool *p, int attribute, void *value);
int rvt_pool_set(struct rvt_pool *p, int attribute, const void *value);

#endif
