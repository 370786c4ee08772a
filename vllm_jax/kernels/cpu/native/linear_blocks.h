// Products of more rows, a block of rows at a time. No include guard: see linear_kernel.h.
//
// Rows lie in the lanes: x is packed so that a register holds one number of K for each row of a block (a pair
// of them in bfloat16), and one number of a weight, in all lanes, meets all rows at once:
//
//            packed x, one block                      weight [out, k], as it is stored
//     k = 0  | r0 r1 r2 ... r15 | r16 ... r31 |       o = 0 | w00 w01 w02 ...   -> times the line of k
//     k = 1  | r0 r1 r2 ... r15 | r16 ... r31 |       o = 1 | w10 w11 w12 ...      into sums[.][o]
//
// Nothing is added across lanes, so K may be long: a tile takes one line of a block and kBlockOuts numbers of
// the weight at each step, and both come in order. Compared with dot products (linear_dots.h), fewer numbers
// of x pass through the caches for each that is multiplied, and it is lanes that lie idle in a partial block.

constexpr int kBlockVectors = VLLM_JAX_WIDTH == 16 ? 2 : 1;
constexpr int kBlockRows = kBlockVectors * VLLM_JAX_WIDTH;

// Vectors a line has in a block of that many rows.
static inline int block_vectors(int64_t rows) { return rows > VLLM_JAX_WIDTH ? kBlockVectors : 1; }

// Lines of a block with k numbers a row.
template <typename T>
static inline int64_t block_lines(int64_t k) {
  return (k + T::kPair - 1) / T::kPair;
}

#if VLLM_JAX_WIDTH == 16
// The first (high = 0) or the second halves of a and b, taken in turns.
template <int high>
static inline Floats in_turns(Floats a, Floats b) {
  constexpr int h = 8 * high;
  const __m512i from = _mm512_setr_epi32(h, h + 16, h + 1, h + 17, h + 2, h + 18, h + 3, h + 19, h + 4, h + 20,
                                         h + 5, h + 21, h + 6, h + 22, h + 7, h + 23);
  return (Floats)_mm512_permutex2var_ps((__m512)a, from, (__m512)b);
}

// v[N] becomes the memory in which lane 0 of all N comes first, then lane 1 of all, and so on.
template <int N>
static inline void transpose(Floats* v) {
#pragma GCC unroll 4
  for (int step = 1; step < N; step *= 2) {
    Floats to[N];
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) {
      to[2 * i] = in_turns<0>(v[i], v[i + N / 2]);
      to[2 * i + 1] = in_turns<1>(v[i], v[i + N / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) v[i] = to[i];
  }
}
#endif

// Packs x [rows, k], rows <= kBlockRows, to [lines][block_vectors(rows)][VLLM_JAX_WIDTH]; rows that are not
// there, and what a last pair lacks, are zero.
template <typename T>
static void pack(const void* x_, int64_t rows, int64_t k, void* out_) {
  constexpr int kWords = 4 / sizeof(typename T::X);  // numbers of x in a lane: a pair, or one
  static_assert(kWords == T::kPair);
  auto* x = static_cast<const typename T::X*>(x_);
  auto* out = static_cast<float*>(out_);
  const int vectors = block_vectors(rows);
  const int64_t lines = block_lines<T>(k);
  for (int v = 0; v < vectors; ++v) {
    const int64_t first = v * VLLM_JAX_WIDTH;
    const int64_t some = rows - first < VLLM_JAX_WIDTH ? rows - first : VLLM_JAX_WIDTH;
    int64_t i = 0;
#if VLLM_JAX_WIDTH == 16
    for (; (i + 16) * kWords <= k; i += 16) {
      Floats square[16] = {};
      for (int64_t r = 0; r < some; ++r) square[r] = load<Floats>(x + (first + r) * k + i * kWords);
      transpose<16>(square);
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) __builtin_memcpy(out + ((i + j) * vectors + v) * 16, &square[j], 64);
    }
#endif
    for (; i < lines; ++i) {
      float* line = out + (i * vectors + v) * VLLM_JAX_WIDTH;
      __builtin_memset(line, 0, 4 * VLLM_JAX_WIDTH);
      const int64_t left = k - i * kWords < kWords ? k - i * kWords : kWords;
      for (int64_t r = 0; r < some; ++r) {
        __builtin_memcpy(line + r, x + (first + r) * k + i * kWords, left * sizeof(typename T::X));
      }
    }
  }
}

// y[r * ldy + o] = dot(x[r], w[o]) for the rows of a packed block with V vectors a line and O outputs. It
// prefetches the cache lines from `ahead` on, as many as it reads of the weight, unless that is null.
template <typename T, int V, int O>
static inline void block_tile(const float* x, const typename T::W* w, int64_t k, int64_t rows, float* y, int64_t ldy,
                              const char* ahead) {
  typename T::Sum sums[V][O] = {};
  const auto step = [&](int64_t line) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const auto xv = load<typename T::V>(x + (line * V + v) * VLLM_JAX_WIDTH);
#pragma GCC unroll 16
      for (int o = 0; o < O; ++o) {
        sums[v][o] = T::add_all(sums[v][o], xv, w + o * k + line * T::kPair, T::kPair);
      }
    }
  };
  constexpr int kTurn = 64 / (T::kPair * sizeof(typename T::W));  // lines in a cache line of the weight
  const int64_t whole = k / T::kPair;
  int64_t i = 0;
  for (; i + kTurn <= whole; i += kTurn) {
    if (ahead != nullptr) {
#pragma GCC unroll 16
      for (int o = 0; o < O; ++o) __builtin_prefetch(ahead + 64 * o);
      ahead += 64 * O;
    }
#pragma GCC unroll 32
    for (int j = 0; j < kTurn; ++j) step(i + j);
  }
  for (; i < whole; ++i) step(i);
  if (whole * T::kPair < k) {
    for (int v = 0; v < V; ++v) {
      const auto xv = load<typename T::V>(x + (whole * V + v) * VLLM_JAX_WIDTH);
      for (int o = 0; o < O; ++o) sums[v][o] = T::add_all(sums[v][o], xv, w + o * k + k - 1, 1);
    }
  }
  for (int v = 0; v < V; ++v) {
    constexpr int kWidth = VLLM_JAX_WIDTH == 16 ? O > 8 ? 16 : O > 4 ? 8 : O : O;  // of what is transposed
    Floats square[kWidth] = {};
    for (int o = 0; o < O; ++o) square[o] = sums[v][o];
#if VLLM_JAX_WIDTH == 16
    if constexpr (kWidth > 1) transpose<kWidth>(square);
#endif
    alignas(64) float lanes[kWidth * VLLM_JAX_WIDTH];
    __builtin_memcpy(lanes, square, sizeof lanes);
    for (int64_t r = 0; r < VLLM_JAX_WIDTH && v * VLLM_JAX_WIDTH + r < rows; ++r) {
      float* to = y + (v * VLLM_JAX_WIDTH + r) * ldy;
      if (VLLM_JAX_WIDTH == 16) {
        __builtin_memcpy(to, lanes + r * kWidth, sizeof(float) * O);
      } else {
        for (int o = 0; o < O; ++o) to[o] = lanes[o * VLLM_JAX_WIDTH + r];
      }
    }
  }
}

// All rows of packed blocks, for O outputs.
template <typename T, int O>
static inline void block_column(const float* x, const typename T::W* w, int64_t rows, int64_t k, float* y, int64_t ldy,
                                const char* ahead) {
  const int64_t stride = block_lines<T>(k) * kBlockRows;
  for (int64_t r = 0; r < rows; r += kBlockRows, x += stride, y += kBlockRows * ldy, ahead = nullptr) {
    const int64_t some = rows - r < kBlockRows ? rows - r : kBlockRows;
    if (kBlockVectors > 1 && block_vectors(some) > 1) {
      block_tile<T, kBlockVectors, O>(x, w, k, some, y, ldy, ahead);
    } else {
      block_tile<T, 1, O>(x, w, k, some, y, ldy, ahead);
    }
  }
}

// Outputs from o on, O at a time, as long as there are so many; returns where that ends.
template <typename T, int O>
static inline int64_t block_columns(const float* x, const typename T::W* w, int64_t rows, int64_t outs, int64_t k,
                                    float* y, int64_t ldy, int64_t o) {
  for (; o + O <= outs; o += O) {
    // The next outputs' weights come in while these are multiplied with the first block.
    const typename T::W* here = w + o * k;
    block_column<T, O>(x, here, rows, k, y + o, ldy, reinterpret_cast<const char*>(here + O * k));
  }
  return o;
}

// y[rows, outs] float32 = x[rows, k] times w[outs, k] transposed, x as `pack` leaves it, a block of kBlockRows
// rows every block_lines(k) * kBlockRows words; y has row stride ldy.
template <typename T>
static void block_product(const void* x_, const void* w_, int64_t rows, int64_t outs, int64_t k, float* y,
                          int64_t ldy) {
  auto* x = static_cast<const float*>(x_);
  auto* w = static_cast<const typename T::W*>(w_);
  // Rows of a weight that are a multiple of 4 KiB apart meet in a few lines of the first-level cache: twelve of them,
  // those of the next tile and x are more than it holds there.
  const bool collide = k * sizeof(typename T::W) % 4096 == 0;
  int64_t o = 0;
  if (VLLM_JAX_WIDTH == 16 && block_vectors(rows) == 1 && !collide) {
    o = block_columns<T, 12>(x, w, rows, outs, k, y, ldy, o);
  }
  o = block_columns<T, 8>(x, w, rows, outs, k, y, ldy, o);
  o = block_columns<T, 4>(x, w, rows, outs, k, y, ldy, o);
  block_columns<T, 1>(x, w, rows, outs, k, y, ldy, o);
}
