// The threads that compute: the one that calls, and helpers that are kept awake from one call to the next.
//
// XLA's own pool would do, but for two things that cost a decode step a tenth of its time where cores are few.
// Its threads sleep between two kernels, and a thread that is woken is often put on the core of the one that
// woke it, which then stands still while the other core has nothing to do; a helper of this team stays awake
// for a while, and goes elsewhere when it finds itself on the caller's core. And the host has to work once a
// step, for which it takes a core away from a thread in the middle of its piece, and all others wait for that
// piece; so a program can leave a core to the host beforehand.
//
// Knows nothing about what is computed. One call at a time has the helpers; others compute alone.

#ifndef VLLM_JAX_TEAM_H_
#define VLLM_JAX_TEAM_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

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

inline int64_t now_ns() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Team {
 public:
  // The team of this process, of `threads` with the caller; the first call makes it, and it stays.
  static Team& of(int64_t threads) {
    static Team* team = new Team(threads);
    return *team;
  }

  // Calls body(i) once for each i in [0, count); returns when all are done. Every thread has a share of
  // neighbouring items and takes them in order, one by one; who is done takes from the others. The caller never
  // waits for a helper that has not begun.
  void run(int64_t count, void (*call)(const void* body, int64_t item), const void* body) {
    const bool host = now_ns() < left_until().load(std::memory_order_relaxed);
    const int64_t threads = std::min(size_ - host, count);
    if (threads <= 1 || taken_.test_and_set(std::memory_order_acquire)) {
      for (int64_t i = 0; i < count; ++i) call(body, i);
      return;
    }
    call_ = call;
    body_ = body;
    threads_ = threads;
    caller_core_.store(core(), std::memory_order_relaxed);
    for (int64_t t = 0; t < threads; ++t) {
      seats_[t].next.store(count * t / threads, std::memory_order_relaxed);
      seats_[t].end = count * (t + 1) / threads;
    }
    door_.store(0, std::memory_order_release);
    for (int64_t t = 1; t < threads; ++t) seats_[t].wake();
    work(0);
    // No helper enters any more; those inside have a piece left each.
    door_.fetch_or(kClosed, std::memory_order_acq_rel);
    while (door_.load(std::memory_order_acquire) != kClosed) relax();
    taken_.clear(std::memory_order_release);
  }

  // Leaves one core to others for so long from now on.
  static void leave_a_core(int64_t ns) { left_until().store(now_ns() + ns, std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kClosed = 1u << 31;
  static constexpr int64_t kAwakeNs = 50'000;  // after work; XLA's operations between two kernels are shorter
  static constexpr int64_t kMostThreads = 256;

  struct alignas(64) Seat {
    std::atomic<int64_t> next{0};  // items of its share: the next one, and their end
    int64_t end = 0;
    std::atomic<uint64_t> calls{0};
    std::atomic<bool> asleep{false};
    std::mutex mutex;
    std::condition_variable called;

    // Sequential consistency: either this sees that the helper sleeps, or the helper sees the call.
    void wake() {
      calls.fetch_add(1, std::memory_order_seq_cst);
      if (!asleep.load(std::memory_order_seq_cst)) return;
      { std::lock_guard<std::mutex> lock(mutex); }
      called.notify_one();
    }

    // Waits for a call after the `seen`th; how many there were.
    uint64_t wait(uint64_t seen) {
      int64_t until = 0;
      for (int64_t turn = 1; calls.load(std::memory_order_acquire) == seen; ++turn) {
        relax();
        if (turn % 64 != 0) continue;  // looking at the clock is slower
        const int64_t now = now_ns();
        if (until == 0) until = now + kAwakeNs;
        if (now < until) continue;
        std::unique_lock<std::mutex> lock(mutex);
        asleep.store(true, std::memory_order_seq_cst);
        called.wait(lock, [&] { return calls.load(std::memory_order_seq_cst) != seen; });
        asleep.store(false, std::memory_order_relaxed);
      }
      return calls.load(std::memory_order_acquire);
    }
  };

  explicit Team(int64_t threads)
      : size_(std::min(std::max<int64_t>(threads, 1), kMostThreads)), seats_(new Seat[size_]) {
#if defined(__linux__)
    if (sched_getaffinity(0, sizeof allowed_, &allowed_) != 0) CPU_ZERO(&allowed_);
#endif
    try {
      for (int64_t t = 1; t < size_; ++t) std::thread([this, t] { help(t); }).detach();
    } catch (const std::system_error&) {  // no more threads are to be had: others do the work of those
    }
  }

  static std::atomic<int64_t>& left_until() {
    static std::atomic<int64_t> time{0};
    return time;
  }

  static int core() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
  }

  void work(int64_t thread) {
    for (int64_t t = 0; t < threads_; ++t) {
      Seat& seat = seats_[(thread + t) % threads_];
      for (int64_t i; (i = seat.next.fetch_add(1, std::memory_order_relaxed)) < seat.end;) call_(body_, i);
    }
  }

  [[noreturn]] void help(int64_t thread) {
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "vllm-jax-kernel");
#endif
    for (uint64_t seen = 0;;) {
      seen = seats_[thread].wait(seen);
      leave_the_callers_core();
      uint32_t door = door_.load(std::memory_order_relaxed);
      while (!(door & kClosed) &&
             !door_.compare_exchange_weak(door, door + 1, std::memory_order_acquire, std::memory_order_relaxed)) {
      }
      if (door & kClosed) continue;
      if (thread < threads_) work(thread);  // else it is late, and the work is another one's
      door_.fetch_sub(1, std::memory_order_release);
    }
  }

  void leave_the_callers_core() {
#if defined(__linux__)
    const int mine = core();
    if (mine < 0 || mine != caller_core_.load(std::memory_order_relaxed)) return;
    cpu_set_t others = allowed_;
    CPU_CLR(mine, &others);
    sched_setaffinity(0, sizeof others, &others);  // where there are no others, nothing changes
#endif
  }

  const int64_t size_;
  const std::unique_ptr<Seat[]> seats_;  // the first is the caller's
#if defined(__linux__)
  cpu_set_t allowed_;  // the cores of this process
#endif
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
  // Of the present call; written while the door is closed.
  void (*call_)(const void*, int64_t) = nullptr;
  const void* body_ = nullptr;
  int64_t threads_ = 1;
  std::atomic<int> caller_core_{-1};
  alignas(64) std::atomic<uint32_t> door_{kClosed};  // and how many helpers are inside
};

}  // namespace vllm_jax

#endif  // VLLM_JAX_TEAM_H_
