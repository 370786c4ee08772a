// What a call of paged attention consists of, and the four functions an instruction set implements for it.
//
// Layout of one layer's pages, as in kernels/pages.py: [pages, 2, KV heads, page, head dim], keys then values.

#ifndef VLLM_JAX_ATTENTION_PROBLEM_H_
#define VLLM_JAX_ATTENTION_PROBLEM_H_

#include <cstdint>

namespace vllm_jax {

enum class Stored : int32_t { kFloat32, kBFloat16, kInt8, kFloat8 };

constexpr float kLowest = -2.0e38f;  // a score that nothing visible has; finite, so that differences are

struct AttentionProblem {
  int64_t num_tokens, num_heads, num_kv_heads, head_dim;
  int64_t num_rows, pages_per_row, page_size, num_pages;
  int64_t group;  // query heads a KV head
  const void *q, *k, *v;
  void* out;
  bool bfloat16_io;  // dtype of q, k, v and out: bfloat16, else float32
  uint8_t* pages;
  Stored stored;
  int64_t stored_bytes;  // of a number
  const int32_t *page_table, *kv_lens, *cu_q_lens;
  bool decode_only;
  const float *cos, *sin;  // [T, head dim / 2] or null: queries and keys are rotated
  const float* slopes;  // [H] or null
  const float* sinks;   // [H] or null
  float scale;          // of q . k as stored: k_scale is in it
  float soft_cap;       // 0 for none
  float k_scale, v_scale;
  bool scales_keys, scales_values;  // whether stored numbers are divided at all
  int64_t window;                   // 0 for none

  int64_t q_len(int64_t row) const { return cu_q_lens[row + 1] - cu_q_lens[row]; }
  int64_t first_token(int64_t row) const { return decode_only ? row : cu_q_lens[row]; }

  // First position that a query at `position` sees.
  int64_t first_visible(int64_t position) const {
    int64_t first = window > 0 ? position - window + 1 : 0;
    return first > 0 ? first : 0;
  }

  // Where a token's keys of one head lie; its values lie value_offset() behind. A page number that does not
  // exist reads another page instead of foreign memory, as a clamped gather does.
  const uint8_t* key_at(int64_t row, int64_t kv_head, int64_t position) const {
    int64_t index = position / page_size;
    if (index >= pages_per_row) index = pages_per_row - 1;
    int64_t page = page_table[row * pages_per_row + index];
    page = page < 0 ? 0 : page >= num_pages ? num_pages - 1 : page;
    return pages + (((page * 2 * num_kv_heads) + kv_head) * page_size + position % page_size) * head_dim *
                       stored_bytes;
  }
  int64_t value_offset() const { return num_kv_heads * page_size * head_dim * stored_bytes; }
};

// What attention over a part of a context gives: softmax's maximum and sum, and the weighted values.
struct Partial {
  float* peak;   // [group]
  float* total;  // [group]
  float* acc;    // [group, padded head dim]
};

constexpr int64_t kMostRows = 32;  // of a part

// Some KV heads of decoding rows, over the positions from `begin` on to `end` or where a row's context ends. Rows
// that are together have the same pages before `apart`.
struct Part {
  const int64_t* rows;
  int64_t num_rows, first_head, num_heads, begin, end, apart;

  int64_t end_of(const AttentionProblem& p, int64_t row) const {
    return end < p.kv_lens[row] ? end : p.kv_lens[row];
  }
};

struct AttentionKernels {
  int64_t lanes;  // floats in a vector; scratch and partials have rows padded to it

  // Stores the keys and values of the flat tokens [begin, end) of a row at its positions.
  void (*write)(const AttentionProblem&, int64_t row, int64_t begin, int64_t end, float* scratch);
  // Floats that they need beside what they are given.
  int64_t (*write_scratch)(const AttentionProblem&);
  int64_t (*decode_scratch)(const AttentionProblem&, int64_t num_rows, int64_t num_heads);
  int64_t (*prefill_scratch)(const AttentionProblem&, int64_t tile);
  // The only query of each row over a part of the context -> a partial for each row and head. `next` is what this
  // thread will probably do then, or null: its first keys are fetched.
  void (*decode)(const AttentionProblem&, const Part&, const Part* next, const Partial* results, float* scratch);
  // Merges the partials of a whole context into the first, and stores the result.
  void (*finish)(const AttentionProblem&, int64_t row, int64_t kv_head, Partial* parts, int64_t num_parts);
  // One KV head of the query tokens [begin, end) of a row, over all they see; stores the result.
  void (*prefill)(const AttentionProblem&, int64_t row, int64_t kv_head, int64_t begin, int64_t end,
                  float* scratch);
};

}  // namespace vllm_jax

#endif  // VLLM_JAX_ATTENTION_PROBLEM_H_
