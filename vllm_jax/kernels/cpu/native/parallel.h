// Splits a loop between the calling thread and the team's helpers.

#ifndef VLLM_JAX_PARALLEL_H_
#define VLLM_JAX_PARALLEL_H_

#include <cstdint>

#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace vllm_jax {

// Calls body(i) once for each i in [0, count), on as many threads as XLA would take; returns when all are done.
// Make items large enough (10 microseconds are plenty). body must not throw.
template <typename Body>
void parallel_for(xla::ffi::ThreadPool& pool, int64_t count, const Body& body) {
  if (count == 1) return body(0);
  Team::of(pool.num_threads())
      .run(count, [](const void* some, int64_t i) { (*static_cast<const Body*>(some))(i); }, &body);
}

}  // namespace vllm_jax

#endif  // VLLM_JAX_PARALLEL_H_
