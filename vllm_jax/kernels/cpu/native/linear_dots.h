// Products of a few rows, one output after the other: dot products along K. No include guard: see
// linear_kernel.h. VLLM_JAX_BF16_DOT says whether there is an instruction for the dot product of bfloat16 pairs.
//
// A product is cut into tiles of kOuts outputs x up to kRows rows. Both operands are contiguous along K, so
// each (row, output) of a tile owns a register of partial sums, and every register that is loaded is used
// kOuts or kRows times. Lanes are added up once, at the end.

constexpr int kOuts = 4;
constexpr int kRows = VLLM_JAX_WIDTH == 16 ? 6 : 2;  // 32 registers, or 16

// What is left at the end of K, fewer than a register holds.
template <typename X, typename W>
static inline float short_dot(const X* x, const W* w, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += value(x[i]) * value(w[i]);
  return sum;
}

// What the products are made of, for each pair of dtypes. add() multiplies lane by lane; add_all() multiplies every
// lane of x with the same kPair numbers of the weight, or with the n that are left of them (linear_blocks.h).

// x in float32, weight in float32 or in bfloat16, which is widened.
template <typename Weight>
struct InFloats {
  using X = float;
  using W = Weight;
  using V = Floats;
  using Sum = Floats;
  static constexpr int kStep = VLLM_JAX_WIDTH;
  static constexpr int kPair = 1;
  static inline V x(const X* p) { return load<V>(p); }
  static inline V w(const W* p) { return floats(p); }
  static inline Sum add(Sum sum, V x, V w) { return sum + x * w; }
  static inline Sum add_all(Sum sum, V x, const W* w, int64_t) { return sum + x * value(*w); }
};
using F32 = InFloats<float>;
using Widened = InFloats<uint16_t>;

#if VLLM_JAX_BF16_DOT
// x and weight in bfloat16. The instruction takes subnormal numbers for zero.
struct Bf16 {
  using X = uint16_t;
  using W = uint16_t;
  using V = __m512bh;
  using Sum = Floats;
  static constexpr int kStep = 32;
  static constexpr int kPair = 2;
  static inline V x(const X* p) { return load<V>(p); }
  static inline V w(const W* p) { return load<V>(p); }
  static inline Sum add(Sum sum, V x, V w) { return (Sum)_mm512_dpbf16_ps((__m512)sum, x, w); }
  static inline Sum add_all(Sum sum, V x, const W* w, int64_t n) {
    int32_t pair = 0;
    n >= 2 ? __builtin_memcpy(&pair, w, 4) : __builtin_memcpy(&pair, w, 2);
    return add(sum, x, (V)_mm512_set1_epi32(pair));
  }
};
#endif

// y[r * ldy + o] = dot(x[r], w[o]) for R rows and O outputs, both with row stride k. With every step along K
// it prefetches P lines of `ahead`.
template <typename T, int R, int O, int P>
static inline void tile(const typename T::X* x, const typename T::W* w, int64_t k, float* y, int64_t ldy,
                        const char* ahead) {
  typename T::Sum sums[R][O] = {};
  int64_t i = 0;
  for (; i + T::kStep <= k; i += T::kStep) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) __builtin_prefetch(ahead + 64 * p);
    ahead += 64 * P;
    typename T::V wv[O];
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o) wv[o] = T::w(w + o * k + i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      typename T::V xv = T::x(x + r * k + i);
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) sums[r][o] = T::add(sums[r][o], xv, wv[o]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    if constexpr (O == kOuts) {
      add_lanes(sums[r], y + r * ldy);
    } else {
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) y[r * ldy + o] = add_lanes(sums[r][o]);
    }
  }
  if (i < k) {
    for (int r = 0; r < R; ++r) {
      for (int o = 0; o < O; ++o) y[r * ldy + o] += short_dot(x + r * k + i, w + o * k + i, k - i);
    }
  }
}

// The tile of `rows` <= kRows rows: every count is a function of its own.
template <typename T, int O, int P, int R = kRows>
static inline void tile_of(int64_t rows, const typename T::X* x, const typename T::W* w, int64_t k, float* y,
                           int64_t ldy, const char* ahead) {
  if constexpr (R > 1) {
    if (rows < R) return tile_of<T, O, P, R - 1>(rows, x, w, k, y, ldy, ahead);
  }
  tile<T, R, O, P>(x, w, k, y, ldy, ahead);
}

// y[rows, outs] float32 = x[rows, k] times w[outs, k] transposed; y has row stride ldy.
template <typename T>
static void product(const void* x_, const void* w_, int64_t rows, int64_t outs, int64_t k, float* y,
                    int64_t ldy) {
  auto* x = static_cast<const typename T::X*>(x_);
  auto* w = static_cast<const typename T::W*>(w_);
  const int64_t turns = (rows + kRows - 1) / kRows;
  int64_t o = 0;
  for (; o + kOuts <= outs; o += kOuts) {
    const typename T::W* here = w + o * k;
    // The next tile comes in while this one is computed, in equal parts with each turn: demand and hardware
    // prefetch alone leave the memory idle in all turns but the first. A single row is fast enough without.
    const char* next = reinterpret_cast<const char*>(here + kOuts * k);
    const int64_t bytes = kOuts * k * sizeof(typename T::W);
    for (int64_t t = 0; t < turns; ++t) {  // the same number of rows in each turn, but for one
      const int64_t first = rows * t / turns, some = rows * (t + 1) / turns - first;
      const typename T::X* xs = x + first * k;
      float* out = y + first * ldy + o;
      if (turns == 1) {
        tile_of<T, kOuts, 4>(some, xs, here, k, out, ldy, next);
      } else if (rows > 1 && turns <= 3 && t < 2) {
        tile_of<T, kOuts, 2>(some, xs, here, k, out, ldy, next + t * bytes / 2);
      } else if (rows > 1 && turns > 3 && t < 4) {
        tile_of<T, kOuts, 1>(some, xs, here, k, out, ldy, next + t * bytes / 4);
      } else {
        tile_of<T, kOuts, 0>(some, xs, here, k, out, ldy, next);
      }
    }
  }
  for (; o < outs; ++o) {
    for (int64_t t = 0; t < turns; ++t) {
      const int64_t first = rows * t / turns, end = rows * (t + 1) / turns;
      tile_of<T, 1, 0>(end - first, x + first * k, w + o * k, k, y + first * ldy + o, ldy, nullptr);
    }
  }
}
