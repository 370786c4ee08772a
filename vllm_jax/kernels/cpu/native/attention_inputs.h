// What a step brings: queries as the products want them, keys and values into their pages. For one instruction
// set; no include guard: attention.cc includes this file once for each, behind attention_numbers.h.

INLINE int64_t padded(int64_t features) { return (features + kLanes - 1) / kLanes * kLanes; }

// One head of a token of q or k [T, heads, D] as float32, rotated where the model does: feature i of the first
// half and of the second are a point that is turned by the token's angle i.
INLINE void read_rotated(const AttentionProblem& p, const void* from, int64_t token, int64_t head, int64_t heads,
                         float* to) {
  read_input(from, (token * heads + head) * p.head_dim, p.bfloat16_io, p.head_dim, to);
  if (!p.cos) return;
  const int64_t half = p.head_dim / 2;
  const float *cos = p.cos + token * half, *sin = p.sin + token * half;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const VecF x = load(to + i), y = load(to + half + i), c = load(cos + i), s = load(sin + i);
    store(to + i, x * c - y * s);
    store(to + half + i, y * c + x * s);
  }
  for (; i < half; ++i) {
    const float x = to[i], y = to[half + i];
    to[i] = x * cos[i] - y * sin[i];
    to[half + i] = y * cos[i] + x * sin[i];
  }
}

// The queries of one KV head of the tokens [begin, end): [(end - begin) * group, padded head dim].
void read_queries(const AttentionProblem& p, int64_t begin, int64_t end, int64_t kv_head, float* to) {
  const int64_t width = padded(p.head_dim);
  for (int64_t token = begin; token < end; ++token) {
    for (int64_t g = 0; g < p.group; ++g, to += width) {
      store(to + width - kLanes, splat(0.0f));
      read_rotated(p, p.q, token, kv_head * p.group + g, p.num_heads, to);
    }
  }
}

int64_t write_scratch(const AttentionProblem& p) { return p.head_dim; }

void write(const AttentionProblem& p, int64_t row, int64_t begin, int64_t end, float* x) {
  const int64_t dim = p.head_dim, start = p.kv_lens[row] - p.q_len(row) - p.first_token(row);
  const bool same_dtype = p.stored == (p.bfloat16_io ? Stored::kBFloat16 : Stored::kFloat32);
  for (int64_t token = begin; token < end; ++token) {
    const int64_t position = start + token, index = position / p.page_size;
    if (position < 0 || index >= p.pages_per_row) continue;
    const int64_t page = p.page_table[row * p.pages_per_row + index];
    if (page < 0 || page >= p.num_pages) continue;  // as a dropped scatter
    for (int half = 0; half < 2; ++half) {
      const void* source = half ? p.v : p.k;
      const bool scales = half ? p.scales_values : p.scales_keys, rotates = !half && p.cos;
      const float scale = half ? p.v_scale : p.k_scale;
      for (int64_t head = 0; head < p.num_kv_heads; ++head) {
        const int64_t from = (token * p.num_kv_heads + head) * dim;
        uint8_t* to = p.pages + (((page * 2 + half) * p.num_kv_heads + head) * p.page_size +
                                 position % p.page_size) * dim * p.stored_bytes;
        if (same_dtype && !scales && !rotates) {
          __builtin_memcpy(to, static_cast<const uint8_t*>(source) + from * p.stored_bytes, dim * p.stored_bytes);
          continue;
        }
        if (rotates) {
          read_rotated(p, source, token, head, p.num_kv_heads, x);
        } else {
          read_input(source, from, p.bfloat16_io, dim, x);
        }
        if (scales) {
          for (int64_t i = 0; i < dim; ++i) x[i] = x[i] / scale;
        }
        switch (p.stored) {
          case Stored::kFloat32:
            __builtin_memcpy(to, x, dim * 4);
            break;
          case Stored::kBFloat16:
            for (int64_t i = 0; i < dim; ++i) {
              const uint16_t bits = to_bfloat16(x[i]);
              __builtin_memcpy(to + 2 * i, &bits, 2);
            }
            break;
          case Stored::kInt8:
            for (int64_t i = 0; i < dim; ++i) to[i] = (uint8_t)to_int8(x[i]);
            break;
          case Stored::kFloat8:
            for (int64_t i = 0; i < dim; ++i) to[i] = to_float8(x[i]);
            break;
        }
      }
    }
  }
}
