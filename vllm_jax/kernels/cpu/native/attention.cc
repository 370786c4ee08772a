// Paged attention on a CPU as an XLA custom call. See ../attention.py for the operation.
//
// Knows how a ragged batch is cut into pieces of even size for the threads, and which instruction sets there
// are. What a piece computes is in attention_kernel.h, compiled once for each of them.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "attention_problem.h"
#include "isa.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace vllm_jax {
namespace {

namespace ffi = xla::ffi;

namespace portable {
#define VLLM_JAX_WIDTH 4
#define VLLM_JAX_COLUMNS 2
#define VLLM_JAX_BF16_DOT 0
#include "attention_vectors.h"
#include "attention_numbers.h"
#include "attention_inputs.h"
#include "attention_kernel.h"
#undef VLLM_JAX_WIDTH
#undef VLLM_JAX_COLUMNS
#undef VLLM_JAX_BF16_DOT
}  // namespace portable

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define VLLM_JAX_WIDTH 8
#define VLLM_JAX_COLUMNS 2
#define VLLM_JAX_BF16_DOT 0
#include "attention_vectors.h"
#include "attention_numbers.h"
#include "attention_inputs.h"
#include "attention_kernel.h"
#undef VLLM_JAX_WIDTH
#undef VLLM_JAX_COLUMNS
#undef VLLM_JAX_BF16_DOT
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
namespace avx512 {
#define VLLM_JAX_WIDTH 16
#define VLLM_JAX_COLUMNS 4
#define VLLM_JAX_BF16_DOT 0
#include "attention_vectors.h"
#include "attention_numbers.h"
#include "attention_inputs.h"
#include "attention_kernel.h"
#undef VLLM_JAX_WIDTH
#undef VLLM_JAX_COLUMNS
#undef VLLM_JAX_BF16_DOT
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,prefer-vector-width=512")
namespace avx512_bf16 {
#define VLLM_JAX_WIDTH 16
#define VLLM_JAX_COLUMNS 4
#define VLLM_JAX_BF16_DOT 1
#include "attention_vectors.h"
#include "attention_numbers.h"
#include "attention_inputs.h"
#include "attention_kernel.h"
#undef VLLM_JAX_WIDTH
#undef VLLM_JAX_COLUMNS
#undef VLLM_JAX_BF16_DOT
}  // namespace avx512_bf16
#pragma GCC pop_options
#endif

constexpr int64_t kPartKeys = 512;        // of a context in one part, rounded to pages
constexpr int64_t kTileRows = 96;         // query heads times tokens of a prefill tile
constexpr int64_t kSmallestTile = 8;      // query tokens
constexpr int64_t kPiecesAThread = 4;     // so that threads end at the same time
constexpr int64_t kTogether = 64;         // keys in common that make two rows go together
constexpr double kSerialWork = 2.0e4;     // multiply-adds that are done before another thread has begun
constexpr double kSerialBytes = 1 << 14;

// For what the processor runs, or for less where that is asked for; null for what it does not run.
const AttentionKernels* kernels_for(int64_t wanted) {
  const auto most = static_cast<int64_t>(cpu_isa());
  if (wanted > most) return nullptr;
  switch (static_cast<Isa>(wanted < 0 ? most : wanted)) {
#if defined(__x86_64__)
    case Isa::kAvx512Bf16: return &avx512_bf16::kKernels;
    case Isa::kAvx512: return &avx512::kKernels;
    case Isa::kAvx2: return &avx2::kKernels;
#endif
    default: return &portable::kKernels;
  }
}

// A thread's own memory for one piece; kept, because fresh pages from the system cost more than the piece.
float* scratch_of(int64_t floats) {
  thread_local std::vector<float> buffer;
  if (static_cast<int64_t>(buffer.size()) < floats + 16) buffer.resize(floats + 16);
  const auto address = reinterpret_cast<uintptr_t>(buffer.data());
  return buffer.data() + (-address % 64) / sizeof(float);
}

// Either a part of decoding rows' contexts, or a tile of queries: one row and KV head, flat tokens [begin, end).
struct Piece {
  Part part;
  int64_t number;  // of the part in its context; -1 for a tile of queries
  double cost;     // multiply-adds of one product

  bool decodes() const { return number >= 0; }
};

// The work of one call.
struct Work {
  const AttentionProblem& problem;
  const AttentionKernels& kernels;
  std::vector<Piece> pieces{};
  std::vector<int64_t> rows{};  // that pieces refer to: all, then the decoding ones in the order of their pieces
  std::vector<int64_t> num_parts{};  // [rows] of a decoding row's context
  std::vector<int64_t> first_partial{};  // [rows]
  std::unique_ptr<float[]> partials{};   // of every decoding row, KV head and part, in this order
  std::unique_ptr<std::atomic<int64_t>[]> unfinished{};  // [rows, KV heads] parts
  int64_t scratch = 0;

  int64_t partial_size() const {
    const int64_t width = (problem.head_dim + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
    return problem.group * (width + 2);
  }
  Partial partial(int64_t row, int64_t head, int64_t number) {
    float* at = partials.get() + (first_partial[row] + head * num_parts[row] + number) * partial_size();
    return {at, at + problem.group, at + 2 * problem.group};
  }

  void run(int64_t i) {
    float* memory = scratch_of(scratch);
    const Part& part = pieces[i].part;
    if (!pieces[i].decodes()) {
      kernels.prefill(problem, part.rows[0], part.first_head, part.begin, part.end, memory);
      return;
    }
    const auto after = static_cast<size_t>(i) + 1;
    const Part* next = after < pieces.size() && pieces[after].decodes() ? &pieces[after].part : nullptr;
    std::vector<Partial> results;
    results.reserve(part.num_rows * part.num_heads);
    for (int64_t r = 0; r < part.num_rows; ++r) {
      for (int64_t h = 0; h < part.num_heads; ++h) {
        results.push_back(partial(part.rows[r], part.first_head + h, pieces[i].number));
      }
    }
    kernels.decode(problem, part, next, results.data(), memory);
    for (int64_t r = 0; r < part.num_rows; ++r) {
      for (int64_t h = 0; h < part.num_heads; ++h) part_is_done(part.rows[r], part.first_head + h);
    }
  }

  void part_is_done(int64_t row, int64_t head) {
    if (unfinished[row * problem.num_kv_heads + head].fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    std::vector<Partial> all;
    all.reserve(num_parts[row]);
    for (int64_t number = 0; number < num_parts[row]; ++number) all.push_back(partial(row, head, number));
    kernels.finish(problem, row, head, all.data(), num_parts[row]);
  }
};

// A part of one row's context, before rows are put together.
struct RowPart {
  int64_t row, number, begin, end;
};

// Whether the part's pages come before those of another one, which may belong to another row.
bool before(const AttentionProblem& p, const RowPart& a, const RowPart& b) {
  if (a.begin != b.begin) return a.begin < b.begin;
  const auto pages = [&](const RowPart& part) {
    const int32_t* of_row = p.page_table + part.row * p.pages_per_row;
    return std::make_pair(of_row + part.begin / p.page_size,
                          of_row + std::min((part.end + p.page_size - 1) / p.page_size, p.pages_per_row));
  };
  const auto [first, last] = pages(a);
  const auto [others, others_last] = pages(b);
  const auto [mine, other] = std::mismatch(first, last, others, others_last);
  if (mine != last && other != others_last) return *mine < *other;
  return std::make_pair(a.end, a.row) < std::make_pair(b.end, b.row);
}

// Where the pages of two rows differ that have a part from `begin` on; at most `end`.
int64_t parting(const AttentionProblem& p, int64_t row, int64_t other, int64_t begin, int64_t end) {
  const int32_t *pages = p.page_table + row * p.pages_per_row, *others = p.page_table + other * p.pages_per_row;
  int64_t page = begin / p.page_size;
  while (page < p.pages_per_row && page * p.page_size < end && pages[page] == others[page]) ++page;
  return std::clamp(page * p.page_size, begin, end);
}

// Cuts the contexts of the rows with one query into parts, the same ones whatever else is in the batch, so that
// a row's numbers are. Rows whose parts begin with the same pages, a prefix that the cache has given to all of them,
// are in one piece, as far as there are pieces for all threads then: they need the same memory. So are the KV heads
// of a part: they are read in longer stretches.
void plan_decode(Work& work, int64_t threads) {
  const AttentionProblem& p = work.problem;
  const int64_t num_rows = p.num_rows, num_heads = p.num_kv_heads;
  const int64_t part_keys = (kPartKeys + p.page_size - 1) / p.page_size * p.page_size;
  std::vector<RowPart> parts;
  int64_t visible = 0, num_partials = 0;
  work.num_parts.assign(num_rows, 0);
  work.first_partial.assign(num_rows, 0);
  work.unfinished.reset(new std::atomic<int64_t>[num_rows * num_heads]);
  for (int64_t row = 0; row < num_rows; ++row) {
    if (p.q_len(row) != 1) continue;
    const int64_t last = p.kv_lens[row] - 1;
    int64_t number = 0;
    for (int64_t begin = p.first_visible(last), end; begin <= last; begin = end, ++number) {
      end = std::min(last + 1, (begin + part_keys) / p.page_size * p.page_size);
      parts.push_back({row, number, begin, end});
      visible += end - begin;
    }
    work.num_parts[row] = number;
    work.first_partial[row] = num_partials;
    num_partials += number * num_heads;
    for (int64_t head = 0; head < num_heads; ++head) work.unfinished[row * num_heads + head] = number;
  }
  if (parts.empty()) return;
  work.partials.reset(new float[num_partials * work.partial_size()]);
  work.rows.reserve(work.rows.size() + parts.size());
  std::sort(parts.begin(), parts.end(), [&](const RowPart& a, const RowPart& b) { return before(p, a, b); });

  const double share = static_cast<double>(visible * num_heads) / (threads * kPiecesAThread);  // keys of a piece
  const int64_t num_parts = parts.size();
  for (int64_t i = 0, end_of_piece; i < num_parts; i = end_of_piece) {
    const RowPart& first = parts[i];
    const int64_t fitting = std::max<int64_t>(1, share / static_cast<double>(first.end - first.begin));
    int64_t apart = first.end, keys = first.end - first.begin, end = first.end;
    for (end_of_piece = i + 1; end_of_piece < num_parts; ++end_of_piece) {
      const RowPart& other = parts[end_of_piece];
      if (other.begin != first.begin || end_of_piece - i >= std::min(fitting, kMostRows)) break;
      const int64_t common = parting(p, first.row, other.row, first.begin, std::min(apart, other.end));
      if (common - first.begin < std::max(kTogether, (apart - first.begin) / 2)) break;
      apart = common;
      keys += other.end - other.begin;
      end = std::max(end, other.end);
    }
    const int64_t rows = end_of_piece - i, heads = std::clamp<int64_t>(fitting / rows, 1, num_heads);
    const int64_t* its_rows = work.rows.data() + work.rows.size();
    for (int64_t j = i; j < end_of_piece; ++j) work.rows.push_back(parts[j].row);
    if (rows == 1) apart = first.begin;
    work.scratch = std::max(work.scratch, work.kernels.decode_scratch(p, rows, heads));
    for (int64_t head = 0; head < num_heads; head += heads) {
      const int64_t count = std::min(heads, num_heads - head);
      const double cost = static_cast<double>(keys * count * p.group * p.head_dim);
      work.pieces.push_back({{its_rows, rows, head, count, first.begin, end, apart}, first.number, cost});
    }
  }
}

// Cuts the queries of all other rows into tiles.
void plan_prefill(Work& work, int64_t threads) {
  const AttentionProblem& p = work.problem;
  int64_t longest = 0;
  for (int64_t row = 0; row < p.num_rows; ++row) {
    const int64_t q_len = p.q_len(row), first_token = p.first_token(row), start = p.kv_lens[row] - q_len;
    if (q_len <= 1) continue;
    const int64_t wanted = threads == 1 ? 1 : (threads * kPiecesAThread + p.num_kv_heads - 1) / p.num_kv_heads;
    int64_t tile = std::max<int64_t>((q_len + wanted - 1) / wanted, kSmallestTile);
    tile = std::min(tile, std::max<int64_t>(1, kTileRows / p.group));
    longest = std::max(longest, std::min(tile, q_len));
    for (int64_t begin = 0; begin < q_len; begin += tile) {
      const int64_t end = std::min(begin + tile, q_len), keys = start + end - p.first_visible(start + begin);
      const double cost = static_cast<double>((end - begin) * p.group * keys * p.head_dim);
      for (int64_t head = 0; head < p.num_kv_heads; ++head) {
        const int64_t from = first_token + begin;
        work.pieces.push_back({{&work.rows[row], 1, head, 1, from, first_token + end, from}, -1, cost});
      }
    }
  }
  if (longest > 0) work.scratch = std::max(work.scratch, work.kernels.prefill_scratch(p, longest));
}

template <typename Body>
void run(ffi::ThreadPool& pool, bool shared, int64_t count, const Body& body) {
  if (shared) return parallel_for(pool, count, body);
  for (int64_t i = 0; i < count; ++i) body(i);
}

ffi::Error paged_attention(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                           ffi::AnyBuffer pages, ffi::Buffer<ffi::S32> page_table, ffi::Buffer<ffi::S32> kv_lens,
                           ffi::Buffer<ffi::S32> cu_q_lens, ffi::Buffer<ffi::F32> cos,
                           ffi::Buffer<ffi::F32> sin, ffi::Buffer<ffi::F32> slopes,
                           ffi::Buffer<ffi::F32> sinks, ffi::Result<ffi::AnyBuffer> out,
                           ffi::Result<ffi::AnyBuffer> new_pages, bool decode_only, float scale, float soft_cap,
                           float k_scale, float v_scale, int64_t window, int64_t isa) {
  const AttentionKernels* kernels = kernels_for(isa);
  if (kernels == nullptr) return ffi::Error::InvalidArgument("this processor lacks the instruction set");
  if (pages.untyped_data() != new_pages->untyped_data()) {
    return ffi::Error::InvalidArgument("the pages must be updated in place: donate them");
  }
  AttentionProblem p{};
  p.num_tokens = q.dimensions()[0];
  p.num_heads = q.dimensions()[1];
  p.head_dim = q.dimensions()[2];
  p.num_kv_heads = k.dimensions()[1];
  p.group = p.num_heads / p.num_kv_heads;
  p.num_rows = page_table.dimensions()[0];
  p.pages_per_row = page_table.dimensions()[1];
  p.num_pages = pages.dimensions()[0];
  p.page_size = pages.dimensions()[3];
  p.q = q.untyped_data();
  p.k = k.untyped_data();
  p.v = v.untyped_data();
  p.out = out->untyped_data();
  p.bfloat16_io = q.element_type() == ffi::BF16;
  p.pages = static_cast<uint8_t*>(new_pages->untyped_data());
  switch (pages.element_type()) {
    case ffi::F32: p.stored = Stored::kFloat32; break;
    case ffi::U16: p.stored = Stored::kBFloat16; break;
    case ffi::S8: p.stored = Stored::kInt8; break;
    case ffi::U8: p.stored = Stored::kFloat8; break;
    default: return ffi::Error::InvalidArgument("pages of an unknown dtype");
  }
  p.stored_bytes = p.stored == Stored::kFloat32 ? 4 : p.stored == Stored::kBFloat16 ? 2 : 1;
  p.page_table = page_table.typed_data();
  p.kv_lens = kv_lens.typed_data();
  p.cu_q_lens = cu_q_lens.typed_data();
  p.decode_only = decode_only;
  p.cos = cos.element_count() ? cos.typed_data() : nullptr;
  p.sin = sin.element_count() ? sin.typed_data() : nullptr;
  p.slopes = slopes.element_count() ? slopes.typed_data() : nullptr;
  p.sinks = sinks.element_count() ? sinks.typed_data() : nullptr;
  p.scales_keys = k_scale > 0;
  p.scales_values = v_scale > 0;
  p.k_scale = k_scale;
  p.v_scale = v_scale;
  p.scale = scale;
  p.soft_cap = soft_cap;
  p.window = window;

  // Padding tokens get zeros.
  const int64_t token_bytes = p.num_heads * p.head_dim * (p.bfloat16_io ? 2 : 4);
  auto* out_bytes = static_cast<uint8_t*>(p.out);
  if (decode_only) {
    for (int64_t row = 0; row < p.num_rows; ++row) {
      if (p.q_len(row) <= 0) std::fill_n(out_bytes + row * token_bytes, token_bytes, 0);
    }
  } else {
    const int64_t used = p.cu_q_lens[p.num_rows];
    std::fill_n(out_bytes + used * token_bytes, (p.num_tokens - used) * token_bytes, 0);
  }

  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  Work work{p, *kernels};
  work.rows.resize(p.num_rows);
  std::iota(work.rows.begin(), work.rows.end(), 0);
  plan_decode(work, threads);
  plan_prefill(work, threads);
  double cost = 0;
  for (const Piece& piece : work.pieces) cost += piece.cost;
  if (threads > 1) {  // the most expensive first
    std::stable_sort(work.pieces.begin(), work.pieces.end(),
                     [](const Piece& a, const Piece& b) { return a.cost > b.cost; });
  }

  // All new keys lie in the pages before anyone attends.
  struct Stretch {
    int64_t row, begin, end;
  };
  std::vector<Stretch> stretches;
  constexpr int64_t kStretch = 32;
  for (int64_t row = 0; row < p.num_rows; ++row) {
    const int64_t first = p.first_token(row), end = first + std::max<int64_t>(p.q_len(row), 0);
    for (int64_t token = first; token < end; token += kStretch) {
      stretches.push_back({row, token, std::min(token + kStretch, end)});
    }
  }
  const double new_bytes = 2.0 * p.num_tokens * p.num_kv_heads * p.head_dim * p.stored_bytes;
  run(pool, new_bytes >= kSerialBytes, stretches.size(), [&](int64_t i) {
    const Stretch& stretch = stretches[i];
    kernels->write(p, stretch.row, stretch.begin, stretch.end, scratch_of(kernels->write_scratch(p)));
  });
  run(pool, cost >= kSerialWork, work.pieces.size(), [&](int64_t i) { work.run(i); });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace vllm_jax

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* vllm_jax_paged_attention(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(vllm_jax_paged_attention, vllm_jax::paged_attention,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()                // q [T, H, D]
                                  .Arg<xla::ffi::AnyBuffer>()                // k [T, KH, D]
                                  .Arg<xla::ffi::AnyBuffer>()                // v [T, KH, D]
                                  .Arg<xla::ffi::AnyBuffer>()                // pages
                                  .Arg<xla::ffi::Buffer<xla::ffi::S32>>()    // page_table [S, P]
                                  .Arg<xla::ffi::Buffer<xla::ffi::S32>>()    // kv_lens [S]
                                  .Arg<xla::ffi::Buffer<xla::ffi::S32>>()    // cu_q_lens [S + 1]
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()    // cos [T, D / 2] or [0]
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()    // sin, as cos
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()    // slopes [H] or [0]
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()    // sinks [H] or [0]
                                  .Ret<xla::ffi::AnyBuffer>()                // out [T, H, D]
                                  .Ret<xla::ffi::AnyBuffer>()                // pages, the same memory
                                  .Attr<bool>("decode_only")
                                  .Attr<float>("scale")
                                  .Attr<float>("soft_cap")                   // 0: none
                                  .Attr<float>("k_scale")                    // 0: none
                                  .Attr<float>("v_scale")                    // 0: none
                                  .Attr<int64_t>("window")                   // 0: none
                                  .Attr<int64_t>("isa"));                    // of isa.h; -1: the best
