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

// Calls body(i) once for each i in [0, count), on several threads; returns when all are done. Every thread has
// a share of neighbouring items and takes them in order, one by one; who is done takes from the others. Make
// items large enough (10 microseconds are plenty). body must not throw.
template <typename Body>
void parallel_for(xla::ffi::ThreadPool& pool, int64_t count, const Body& body) {
  constexpr int64_t kMaxThreads = 64;
  const int64_t threads = std::min({pool.num_threads(), count, kMaxThreads});
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  struct Shared {
    Share shares[kMaxThreads];
    alignas(64) std::atomic<int64_t> done{0};
    int64_t threads;
    const Body* body;  // alive for as long as items are left: the caller waits for them
    void work(int64_t thread) {
      int64_t mine = 0;
      for (int64_t t = 0; t < threads; ++t) {
        Share& share = shares[(thread + t) % threads];
        for (int64_t i; (i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end; ++mine) (*body)(i);
      }
      if (mine != 0) done.fetch_add(mine, std::memory_order_release);
    }
  };
  auto shared = std::make_shared<Shared>();
  shared->threads = threads;
  shared->body = &body;
  for (int64_t t = 0; t < threads; ++t) {
    shared->shares[t].next.store(count * t / threads, std::memory_order_relaxed);
    shared->shares[t].end = count * (t + 1) / threads;
  }
  for (int64_t t = 1; t < threads; ++t) pool.Schedule([shared, t] { shared->work(t); });
  shared->work(0);
  while (shared->done.load(std::memory_order_acquire) != count) relax();
}

}  // namespace vllm_jax

#endif  // VLLM_JAX_PARALLEL_H_
