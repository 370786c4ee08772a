// Splits a loop between the calling thread and XLA's own threads.
//
// The caller takes part and never waits for a helper that has not started: a helper that comes late finds
// nothing left to do. So calls from several threads at once cannot block each other, and a busy machine
// loses the help but not the result.

#ifndef VLLM_JAX_PARALLEL_H_
#define VLLM_JAX_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace vllm_jax {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Calls body(i) once for each i in [0, count), on several threads, in no particular order; returns when all
// are done. Items are handed out one by one: make them large enough (20 microseconds are plenty) and enough
// of them (a few a thread) that the threads end together. body must not throw.
template <typename Body>
void parallel_for(xla::ffi::ThreadPool& pool, int64_t count, const Body& body) {
  int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  struct Shared {
    alignas(64) std::atomic<int64_t> next{0};
    alignas(64) std::atomic<int64_t> done{0};
    int64_t count;
    const Body* body;  // alive for as long as items are left: the caller waits for them
    void work() {
      int64_t mine = 0;
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count; ++mine) (*body)(i);
      if (mine != 0) done.fetch_add(mine, std::memory_order_release);
    }
  };
  auto shared = std::make_shared<Shared>();
  shared->count = count;
  shared->body = &body;
  for (int64_t h = 0; h < helpers; ++h) pool.Schedule([shared] { shared->work(); });
  shared->work();
  while (shared->done.load(std::memory_order_acquire) != count) relax();
}

}  // namespace vllm_jax

#endif  // VLLM_JAX_PARALLEL_H_
