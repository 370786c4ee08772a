// Attention over pages for one instruction set. No include guard: attention.cc includes this file once for each,
// behind attention_inputs.h. VLLM_JAX_COLUMNS is the number of vectors across a tile of a matrix product.
//
// Knows how to attend over one piece of work. Does not know how a batch is cut into pieces, nor threads.
// Everything is float32 once it is read; features are padded to whole vectors with zeros in all scratch.

constexpr int kColumns = VLLM_JAX_COLUMNS;
constexpr int kRows = 6;          // of a tile of a matrix product: kRows * kColumns accumulators
constexpr int64_t kChunk = 128;   // keys of one turn of the online softmax; a multiple of kLanes

// ---------------------------------------------------------------- products

// c[M, N vectors] (+)= a[M, depth] x b[depth, N vectors]; all row-major, strides in numbers, b as stored.
template <Stored S, int M, int N>
INLINE void product_tile(const float* a, int64_t lda, const uint8_t* b, int64_t ldb, float* c, int64_t ldc,
                         int64_t depth, bool accumulate) {
  VecF sums[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[m][n] = accumulate ? load(c + m * ldc + n * kLanes) : splat(0.0f);
  }
  for (int64_t k = 0; k < depth; ++k) {
    VecF right[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) right[n] = stored_vector<S>(b + (k * ldb + n * kLanes) * kBytes<S>);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      VecF left = splat(a[m * lda + k]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sums[m][n] += left * right[n];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(c + m * ldc + n * kLanes, sums[m][n]);
  }
}

template <Stored S, int N>
void product_columns(const float* a, int64_t lda, const uint8_t* b, int64_t ldb, float* c, int64_t ldc,
                     int64_t rows, int64_t depth, bool accumulate) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    product_tile<S, kRows, N>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, depth, accumulate);
  }
  a += r * lda;
  c += r * ldc;
  switch (rows - r) {
    case 1: product_tile<S, 1, N>(a, lda, b, ldb, c, ldc, depth, accumulate); break;
    case 2: product_tile<S, 2, N>(a, lda, b, ldb, c, ldc, depth, accumulate); break;
    case 3: product_tile<S, 3, N>(a, lda, b, ldb, c, ldc, depth, accumulate); break;
    case 4: product_tile<S, 4, N>(a, lda, b, ldb, c, ldc, depth, accumulate); break;
    case 5: product_tile<S, 5, N>(a, lda, b, ldb, c, ldc, depth, accumulate); break;
    default: break;
  }
}

// As product_tile for any number of rows and of columns, the latter a multiple of kLanes.
template <Stored S>
INLINE void product(const float* a, int64_t lda, const uint8_t* b, int64_t ldb, float* c, int64_t ldc,
                    int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
  int64_t n = 0;
  for (; n + kColumns * kLanes <= columns; n += kColumns * kLanes, b += kColumns * kLanes * kBytes<S>) {
    product_columns<S, kColumns>(a, lda, b, ldb, c + n, ldc, rows, depth, accumulate);
  }
  if constexpr (kColumns > 2) {
    for (; n + 2 * kLanes <= columns; n += 2 * kLanes, b += 2 * kLanes * kBytes<S>) {
      product_columns<S, 2>(a, lda, b, ldb, c + n, ldc, rows, depth, accumulate);
    }
  }
  for (; n < columns; n += kLanes, b += kLanes * kBytes<S>) {
    product_columns<S, 1>(a, lda, b, ldb, c + n, ldc, rows, depth, accumulate);
  }
}
INLINE void product(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                    int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
  product<Stored::kFloat32>(a, lda, reinterpret_cast<const uint8_t*>(b), ldb, c, ldc, rows, columns, depth,
                            accumulate);
}

// ---------------------------------------------------------------- softmax

// Turns one row of products q . k into weights, and the running maximum and sum to those with them.
//
// scores [width] belong to the keys first_key, first_key + 1, ...; those with index in [low, high) are
// visible, of the others nothing is used and the weight is 0. Returns what older sums must be multiplied with.
float softmax_row(const AttentionProblem& p, float* scores, int64_t width, int64_t low, int64_t high,
                         int64_t head, int64_t query_minus_first_key, float* peak, float* total) {
  const VecI lane = iota();
  const VecF nothing = splat(kLowest);
  VecF most = nothing;
  for (int64_t i = 0; i < width; i += kLanes) {
    if (i + kLanes <= low || i >= high) {
      store(scores + i, nothing);
      continue;
    }
    VecF x = load(scores + i);
    if (p.soft_cap > 0) x = p.soft_cap * hyperbolic_tangent(x / p.soft_cap);
    if (p.slopes) {
      x = x + p.slopes[head] * __builtin_convertvector(lane + (int32_t)(i - query_minus_first_key), VecF);
    }
    if (i < low || i + kLanes > high) {
      x = (lane >= (int32_t)(low - i)) & (lane < (int32_t)(high - i)) ? x : nothing;
    }
    store(scores + i, x);
    most = larger(x, most);
  }
  const float new_peak = maximum(larger(most, splat(*peak)));
  VecF sums = splat(0.0f);
  for (int64_t i = 0; i < width; i += kLanes) {
    VecF x = load(scores + i);
    VecF weight = exponential(x - new_peak);
    weight = x == nothing ? splat(0.0f) : weight;
    store(scores + i, weight);
    sums += weight;
  }
  const float fade = *peak == new_peak ? 1.0f : exponential(splat(*peak - new_peak))[0];
  *peak = new_peak;
  *total = *total * fade + sum(sums);
  return fade;
}

INLINE void scale_row(float* row, int64_t width, float factor) {
  for (int64_t i = 0; i < width; i += kLanes) store(row + i, load(row + i) * factor);
}

// Divides the weighted values of one query head by the sum of the weights, and stores them.
void store_result(const AttentionProblem& p, int64_t token, int64_t head, float peak, float total,
                         float* acc) {
  if (p.sinks) {
    const float sink = p.sinks[head], top = sink > peak ? sink : peak;
    const float fade = exponential(splat(peak - top))[0];
    total = total * fade + exponential(splat(sink - top))[0];
    scale_row(acc, padded(p.head_dim), fade);
  }
  float factor = total > 0.0f || total != total ? 1.0f / total : 0.0f;
  if (p.scales_values) factor *= p.v_scale;
  scale_row(acc, padded(p.head_dim), factor);
  write_output(acc, p.out, (token * p.num_heads + head) * p.head_dim, p.bfloat16_io, p.head_dim);
}

// ---------------------------------------------------------------- decode: one query, kLanes keys at a time

int64_t decode_scratch(const AttentionProblem& p, int64_t num_rows, int64_t num_heads) {
  const int64_t queries = num_heads * p.group, width = padded(p.head_dim);
  return num_rows * queries * 2 * width + queries * (kChunk + kLanes) + kLanes * width;
}

// Rows [low, high) of stored numbers as float32, padded, at the same index in `scratch`.
template <Stored S>
INLINE const float* as_float(const uint8_t* rows, int64_t dim, int64_t low, int64_t high, float* scratch) {
  const int64_t width = padded(dim), bytes = dim * kBytes<S>;
  for (int64_t t = low; t < high; ++t) {
    for (int64_t j = 0; j < width / kLanes; ++j) {
      store(scratch + t * width + j * kLanes, stored_vector<S>(rows + t * bytes, j, dim));
    }
  }
  return scratch;
}

// The products of a query with kLanes keys that lie in a row.
INLINE VecF dots(const float* query, const float* keys, int64_t width) {
  VecF sums[kLanes];
#pragma GCC unroll 16
  for (int t = 0; t < kLanes; ++t) sums[t] = splat(0.0f);
  for (int64_t j = 0; j < width; j += kLanes) {
    const VecF x = load(query + j);
#pragma GCC unroll 16
    for (int t = 0; t < kLanes; ++t) sums[t] += x * load(keys + t * width + j);
  }
  return sums_of(sums);
}

#if VLLM_JAX_BF16_DOT
// The same in bfloat16, whose products are exact. Subnormal numbers count as zero.
INLINE VecF dots(const uint16_t* query, const uint16_t* keys, int64_t width) {
  VecF sums[kLanes];
#pragma GCC unroll 16
  for (int t = 0; t < kLanes; ++t) sums[t] = splat(0.0f);
  for (int64_t j = 0; j < width; j += 2 * kLanes) {
    const __m512bh x = (__m512bh)_mm512_loadu_si512(query + j);
#pragma GCC unroll 16
    for (int t = 0; t < kLanes; ++t) {
      sums[t] = (VecF)_mm512_dpbf16_ps((__m512)sums[t], x, (__m512bh)_mm512_loadu_si512(keys + t * width + j));
    }
  }
  return sums_of(sums);
}
#endif

// Products with kLanes keys for each query of a group; a constant width makes all addresses constants.
template <typename T, int64_t Width = 0>
INLINE void dots_of_group(const T* queries, const T* keys, int64_t group, int64_t width, float scale,
                          float* scores, int64_t stride) {
  if constexpr (Width > 0) width = Width;
  for (int64_t g = 0; g < group; ++g) store(scores + g * stride, dots(queries + g * width, keys, width) * scale);
}
template <typename T>
void all_dots(const T* queries, const T* keys, int64_t group, int64_t width, float scale, float* scores,
              int64_t stride) {
  switch (width) {
    case 64: return dots_of_group<T, 64>(queries, keys, group, width, scale, scores, stride);
    case 128: return dots_of_group<T, 128>(queries, keys, group, width, scale, scores, stride);
    default: return dots_of_group<T>(queries, keys, group, width, scale, scores, stride);
  }
}

INLINE void prefetch(const uint8_t* from, int64_t bytes) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}

// Some keys that lie together in a page, of the first head: those at rows + [low, high) of the kLanes from `rows` on.
struct Unit {
  const uint8_t* keys;
  int64_t low, high;
};

// One row's way through a part of its context. The heads go together, since they lie side by side in a page: memory
// is read in long stretches.
template <Stored S>
struct Decoder {
  const AttentionProblem& p;
  const Part& part;
  const int64_t width = padded(p.head_dim), group = p.group, stride = kChunk + kLanes;
  const int64_t row_bytes = p.head_dim * p.stored_bytes, head_bytes = p.page_size * row_bytes;
  const int64_t unit_bytes = kLanes * row_bytes, value_offset = p.value_offset();
  // What can be multiplied as it is stored: whole vectors that do not leave their page.
  const bool whole = p.head_dim % kLanes == 0 && p.page_size % kLanes == 0;
  const bool as_bfloat16 = VLLM_JAX_BF16_DOT && S == Stored::kBFloat16 && p.bfloat16_io && whole &&
                           p.head_dim % (2 * kLanes) == 0;
  float* scores;     // [heads, group, stride]
  float* converted;  // [kLanes, width]
  float* queries;    // [rows, heads, group, width], then the same in bfloat16
  uint16_t* narrow;

  Decoder(const AttentionProblem& problem, const Part& its_part, float* scratch)
      : p(problem), part(its_part), scores(scratch), converted(scores + part.num_heads * group * stride),
        queries(converted + kLanes * width),
        narrow(reinterpret_cast<uint16_t*>(queries + part.num_rows * row_numbers())) {}

  int64_t row_numbers() const { return part.num_heads * group * width; }

  void begin(int64_t r, const Partial* results) {
    const int64_t token = p.first_token(part.rows[r]);
    float* to = queries + r * row_numbers();
    for (int64_t h = 0; h < part.num_heads; ++h) {
      read_queries(p, token, token + 1, part.first_head + h, to + h * group * width);
      for (int64_t g = 0; g < group; ++g) {
        results[h].peak[g] = kLowest;
        results[h].total[g] = 0.0f;
        for (int64_t j = 0; j < width; j += kLanes) store(results[h].acc + g * width + j, splat(0.0f));
      }
    }
    if (as_bfloat16) write_output(to, narrow + r * row_numbers(), 0, true, row_numbers());
  }

  // Attends over a chunk of keys from `position` on; where it ends. With `fetch` memory is asked for a chunk ahead,
  // since neighbouring pages of a context lie anywhere: while keys are multiplied their values, while values are
  // multiplied the next keys, at the end those of the next part.
  int64_t chunk(int64_t r, int64_t position, const Partial* results, bool fetch, const Part* next) {
    const int64_t row = part.rows[r], first_head = part.first_head, num_heads = part.num_heads;
    const int64_t end = part.end_of(p, row), query_position = p.kv_lens[row] - 1;
    const bool first_chunk = position == part.begin;
    // Units start at multiples of kLanes in their page and never leave it. A chunk ends behind one that is not
    // full, so that its columns are consecutive positions.
    Unit units[kChunk / kLanes];
    const int64_t skipped = position % p.page_size % kLanes, first = position - skipped;
    int64_t num_units = 0, last = 0;
    do {
      const int64_t offset = position % p.page_size, low = offset % kLanes;
      last = p.page_size - (offset - low);
      last = last < kLanes ? last : kLanes;
      last = end - position + low < last ? end - position + low : last;
      units[num_units++] = {p.key_at(row, first_head, position) - low * row_bytes, low, last};
      position += last - low;
    } while (last == kLanes && position < end && num_units < kChunk / kLanes);
    const int64_t columns = num_units * kLanes;

    for (int64_t u = 0; u < num_units; ++u) {
      const Unit& unit = units[u];
      for (int64_t h = 0; h < num_heads; ++h) {
        const uint8_t* stored = unit.keys + h * head_bytes;
        float* to = scores + h * group * stride + u * kLanes;
        if (fetch) prefetch(stored + value_offset, unit_bytes);
        if (fetch && first_chunk && u + 1 < num_units) prefetch(units[u + 1].keys + h * head_bytes, unit_bytes);
        const int64_t query = r * row_numbers() + h * group * width;
        if (as_bfloat16) {
#if VLLM_JAX_BF16_DOT
          all_dots(narrow + query, reinterpret_cast<const uint16_t*>(stored), group, width, p.scale, to, stride);
#endif
        } else {
          const float* keys = S == Stored::kFloat32 && whole
                                  ? reinterpret_cast<const float*>(stored)
                                  : as_float<S>(stored, p.head_dim, unit.low, unit.high, converted);
          all_dots(queries + query, keys, group, width, p.scale, to, stride);
        }
      }
    }
    for (int64_t h = 0; h < num_heads; ++h) {
      for (int64_t g = 0; g < group; ++g) {
        const Partial& result = results[h];
        const float fade =
            softmax_row(p, scores + (h * group + g) * stride, columns, skipped, columns - kLanes + last,
                        (first_head + h) * group + g, query_position - first, result.peak + g, result.total + g);
        if (fade != 1.0f) scale_row(result.acc + g * width, width, fade);
      }
    }
    for (int64_t u = 0; u < num_units; ++u) {
      const Unit& unit = units[u];
      for (int64_t h = 0; h < num_heads; ++h) {
        if (fetch && position + u * kLanes < end) {
          prefetch(p.key_at(row, first_head + h, position + u * kLanes), unit_bytes);
        } else if (position == end && next != nullptr && h < next->num_heads) {
          constexpr int64_t kAll = kChunk / kLanes;
          const int64_t next_row = next->rows[0], next_end = next->end_of(p, next_row);
          for (int64_t i = u * kAll / num_units; i < (u + 1) * kAll / num_units; ++i) {
            const int64_t from = next->begin + i * kLanes;
            if (from < next_end) prefetch(p.key_at(next_row, next->first_head + h, from), unit_bytes);
          }
        }
        const float* weights = scores + h * group * stride + u * kLanes + unit.low;
        const uint8_t* values = unit.keys + h * head_bytes + value_offset;
        const int64_t count = unit.high - unit.low;
        bool direct = false;
        if constexpr (kBytes<S> > 1) direct = p.head_dim % kLanes == 0;
        if (direct) {
          constexpr Stored kDirect = kBytes<S> > 1 ? S : Stored::kFloat32;
          product<kDirect>(weights, stride, values + unit.low * row_bytes, width, results[h].acc, width, group, width,
                           count, true);
        } else {
          const float* rows = as_float<S>(values, p.head_dim, unit.low, unit.high, converted);
          product(weights, stride, rows + unit.low * width, width, results[h].acc, width, group, width, count, true);
        }
      }
    }
    return position;
  }
};

// Rows go through the pages they have in common chunk by chunk, one after the other: the chunk comes from memory for
// the first one and from the cache for the others. Then each goes its own way.
template <Stored S>
void decode_stored(const AttentionProblem& p, const Part& part, const Part* next, const Partial* results,
                   float* scratch) {
  Decoder<S> decoder(p, part, scratch);
  int64_t positions[kMostRows];
  for (int64_t r = 0; r < part.num_rows; ++r) {
    positions[r] = part.begin;
    decoder.begin(r, results + r * part.num_heads);
  }
  while (positions[0] < part.apart) {
    for (int64_t r = 0; r < part.num_rows; ++r) {
      positions[r] = decoder.chunk(r, positions[r], results + r * part.num_heads, r == 0, nullptr);
    }
  }
  for (int64_t r = 0; r < part.num_rows; ++r) {
    const int64_t end = part.end_of(p, part.rows[r]);
    const Part* last = r + 1 == part.num_rows ? next : nullptr;
    while (positions[r] < end) {
      positions[r] = decoder.chunk(r, positions[r], results + r * part.num_heads, true, last);
    }
  }
}

void decode(const AttentionProblem& p, const Part& part, const Part* next, const Partial* results, float* scratch) {
  const auto run = [&](auto function) { function(p, part, next, results, scratch); };
  switch (p.stored) {
    case Stored::kFloat32: return run(decode_stored<Stored::kFloat32>);
    case Stored::kBFloat16: return run(decode_stored<Stored::kBFloat16>);
    case Stored::kInt8: return run(decode_stored<Stored::kInt8>);
    case Stored::kFloat8: return run(decode_stored<Stored::kFloat8>);
  }
}

void finish(const AttentionProblem& p, int64_t row, int64_t kv_head, Partial* parts, int64_t num_parts) {
  const int64_t width = padded(p.head_dim);
  for (int64_t g = 0; g < p.group; ++g) {
    float* acc = parts[0].acc + g * width;
    float peak = parts[0].peak[g], total = parts[0].total[g];
    for (int64_t i = 1; i < num_parts; ++i) {
      const Partial& other = parts[i];
      const float top = peak > other.peak[g] ? peak : other.peak[g];
      const float ours = exponential(splat(peak - top))[0];
      const float theirs = exponential(splat(other.peak[g] - top))[0];
      for (int64_t j = 0; j < width; j += kLanes) {
        store(acc + j, load(acc + j) * ours + load(other.acc + g * width + j) * theirs);
      }
      total = total * ours + other.total[g] * theirs;
      peak = top;
    }
    store_result(p, p.first_token(row), kv_head * p.group + g, peak, total, acc);
  }
}

// ---------------------------------------------------------------- prefill: a tile of queries, kChunk keys a turn

int64_t prefill_scratch(const AttentionProblem& p, int64_t tile) {
  const int64_t rows = tile * p.group, width = padded(p.head_dim);
  return rows * (2 * width + kChunk + 2) + (2 * kChunk + kLanes) * width;
}

// keys [width, kChunk] transposed, values [kChunk, width], of the positions from `first` on; zeros outside
// [low, high), where pages may hold anything. Returns nothing behind the vector that `high` lies in.
template <Stored S>
void gather_stored(const AttentionProblem& p, int64_t row, int64_t kv_head, int64_t first, int64_t low,
                   int64_t high, float* keys, float* values, float* rows) {
  const int64_t width = padded(p.head_dim), value_offset = p.value_offset();
  for (int64_t c = 0; c < high; c += kLanes) {
    for (int64_t t = 0; t < kLanes; ++t) {
      const bool used = c + t >= low && c + t < high;
      const uint8_t* at = used ? p.key_at(row, kv_head, first + c + t) : nullptr;
      for (int64_t half = 0; half < 2; ++half) {
        float* to = half ? values + (c + t) * width : rows + t * width;
        if (used) {
          as_float<S>(at + half * value_offset, p.head_dim, 0, 1, to);
        } else {
          for (int64_t j = 0; j < width; j += kLanes) store(to + j, splat(0.0f));
        }
      }
    }
    for (int64_t j = 0; j < width; j += kLanes) {
      VecF block[kLanes];
#pragma GCC unroll 16
      for (int t = 0; t < kLanes; ++t) block[t] = load(rows + t * width + j);
      transpose(block);
#pragma GCC unroll 16
      for (int t = 0; t < kLanes; ++t) store(keys + (j + t) * kChunk + c, block[t]);
    }
  }
}

void gather(const AttentionProblem& p, int64_t row, int64_t kv_head, int64_t first, int64_t low, int64_t high,
            float* keys, float* values, float* rows) {
  switch (p.stored) {
    case Stored::kFloat32:
      return gather_stored<Stored::kFloat32>(p, row, kv_head, first, low, high, keys, values, rows);
    case Stored::kBFloat16:
      return gather_stored<Stored::kBFloat16>(p, row, kv_head, first, low, high, keys, values, rows);
    case Stored::kInt8:
      return gather_stored<Stored::kInt8>(p, row, kv_head, first, low, high, keys, values, rows);
    case Stored::kFloat8:
      return gather_stored<Stored::kFloat8>(p, row, kv_head, first, low, high, keys, values, rows);
  }
}

void prefill(const AttentionProblem& p, int64_t row, int64_t kv_head, int64_t begin, int64_t end,
             float* scratch) {
  const int64_t width = padded(p.head_dim), group = p.group, rows = (end - begin) * group;
  const int64_t first_query = p.kv_lens[row] - p.q_len(row) + begin - p.first_token(row);
  const int64_t keys_end = first_query + (end - begin), keys_begin = p.first_visible(first_query);
  float* queries = scratch;
  float* acc = queries + rows * width;
  float* keys = acc + rows * width;
  float* values = keys + kChunk * width;
  float* scores = values + kChunk * width;
  float* stored = scores + rows * kChunk;
  float* peak = stored + kLanes * width;
  float* total = peak + rows;
  read_queries(p, begin, end, kv_head, queries);
  scale_row(queries, rows * width, p.scale);
  for (int64_t i = 0; i < rows * width; i += kLanes) store(acc + i, splat(0.0f));
  for (int64_t r = 0; r < rows; ++r) {
    peak[r] = kLowest;
    total[r] = 0.0f;
  }

  for (int64_t first = keys_begin / kLanes * kLanes; first < keys_end; first += kChunk) {
    const int64_t low = keys_begin > first ? keys_begin - first : 0;
    const int64_t high = keys_end - first < kChunk ? keys_end - first : kChunk;
    const int64_t columns = padded(high);
    gather(p, row, kv_head, first, low, high, keys, values, stored);
    product(queries, width, keys, kChunk, scores, kChunk, rows, columns, width, false);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t query = first_query + r / group;
      int64_t from = p.first_visible(query) - first, to = query + 1 - first;
      from = from > 0 ? from : 0;
      to = to < high ? to : high;
      const float fade = softmax_row(p, scores + r * kChunk, columns, from, to, kv_head * group + r % group,
                                     query - first, peak + r, total + r);
      if (fade != 1.0f) scale_row(acc + r * width, width, fade);
    }
    product(scores, kChunk, values, width, acc, width, rows, width, high, true);
  }
  for (int64_t r = 0; r < rows; ++r) {
    store_result(p, begin + r / group, kv_head * group + r % group, peak[r], total[r], acc + r * width);
  }
}

const AttentionKernels kKernels = {kLanes, write, write_scratch, decode_scratch, prefill_scratch,
                                   decode, finish, prefill};
