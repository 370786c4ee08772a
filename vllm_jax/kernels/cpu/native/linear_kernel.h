// The inner loops of linear.cc, for one instruction set. No include guard: linear.cc includes this file once
// for each, inside a namespace and a region with that target. VLLM_JAX_WIDTH is the number of float32 lanes,
// VLLM_JAX_BF16_DOT says whether there is an instruction for the dot product of bfloat16 pairs.
//
// A product is cut into tiles of kOuts outputs x up to kRows rows. Both operands are contiguous along K, so
// each (row, output) of a tile owns a register of partial sums, and every register that is loaded is used
// kOuts or kRows times. Lanes are added up once, at the end.

using Floats = float __attribute__((vector_size(4 * VLLM_JAX_WIDTH)));
using Words = uint32_t __attribute__((vector_size(4 * VLLM_JAX_WIDTH)));
using Halves = uint16_t __attribute__((vector_size(2 * VLLM_JAX_WIDTH)));

constexpr int kOuts = 4;
constexpr int kRows = VLLM_JAX_WIDTH == 16 ? 6 : 2;  // 32 registers, or 16

template <typename V, typename T>
static inline V load(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <typename V, typename T>
static inline V load_part(const T* p, int64_t n) {
  V v = {};
  __builtin_memcpy(&v, p, n * sizeof(T));
  return v;
}

static inline Floats widen(Halves h) {
  Words w = __builtin_convertvector(h, Words) << 16;
  Floats f;
  __builtin_memcpy(&f, &w, sizeof f);
  return f;
}

static inline float value(float f) { return f; }
static inline float value(uint16_t bits) { return to_float(bits); }

// What is left at the end of K, fewer than a register holds.
template <typename X, typename W>
static inline float short_dot(const X* x, const W* w, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += value(x[i]) * value(w[i]);
  return sum;
}

// x and weight in float32.
struct F32 {
  using X = float;
  using W = float;
  using V = Floats;
  using Sum = Floats;
  static constexpr int kStep = VLLM_JAX_WIDTH;
  static inline V x(const X* p) { return load<V>(p); }
  static inline V w(const W* p) { return load<V>(p); }
  static inline float dot(const X* x, const W* w, int64_t n) { return short_dot(x, w, n); }
  static inline Sum add(Sum sum, V x, V w) { return sum + x * w; }
};

// x in float32, weight in bfloat16.
struct Widened {
  using X = float;
  using W = uint16_t;
  using V = Floats;
  using Sum = Floats;
  static constexpr int kStep = VLLM_JAX_WIDTH;
  static inline V x(const X* p) { return load<V>(p); }
  static inline V w(const W* p) { return widen(load<Halves>(p)); }
  static inline float dot(const X* x, const W* w, int64_t n) { return short_dot(x, w, n); }
  static inline Sum add(Sum sum, V x, V w) { return sum + x * w; }
};

#if VLLM_JAX_BF16_DOT
// x and weight in bfloat16. The instruction takes subnormal numbers for zero.
struct Bf16 {
  using X = uint16_t;
  using W = uint16_t;
  using V = __m512bh;
  using Sum = Floats;
  static constexpr int kStep = 32;
  static inline V x(const X* p) { return load<V>(p); }
  static inline V w(const W* p) { return load<V>(p); }
  static inline float dot(const X* x, const W* w, int64_t n) { return short_dot(x, w, n); }
  static inline Sum add(Sum sum, V x, V w) { return (Sum)_mm512_dpbf16_ps((__m512)sum, x, w); }
};
#endif

static inline float add_lanes(Floats v) {
  float sum = 0;
  for (int i = 0; i < VLLM_JAX_WIDTH; ++i) sum += v[i];
  return sum;
}

// y[0..3] = the sums of the lanes of a, b, c and d.
static inline void add_lanes(const Floats* v, float* y) {
#if VLLM_JAX_WIDTH == 16
  __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
  __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  __m512d ab2 = _mm512_castps_pd(ab), cd2 = _mm512_castps_pd(cd);
  __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab2, cd2)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(ab2, cd2)));
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif VLLM_JAX_WIDTH == 8
  __m256 ab = _mm256_hadd_ps((__m256)v[0], (__m256)v[1]);
  __m256 cd = _mm256_hadd_ps((__m256)v[2], (__m256)v[3]);
  __m256 all = _mm256_hadd_ps(ab, cd);
  _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
  for (int o = 0; o < kOuts; ++o) y[o] = add_lanes(v[o]);
#endif
}

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
      for (int o = 0; o < O; ++o) y[r * ldy + o] += T::dot(x + r * k + i, w + o * k + i, k - i);
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
      if (rows > 1 && turns == 1) {
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

// --- what surrounds a product: vectors of float32 or bfloat16, with a part of a register at their end ------

// Rounds to nearest, ties to even; NaN stays NaN.
static inline Halves narrow(Floats f) {
  Words w;
  __builtin_memcpy(&w, &f, sizeof w);
  const Words is_nan = (Words)((w & 0x7fffffff) > 0x7f800000);
  const Words rounded = (w + 0x7fff + ((w >> 16) & 1)) >> 16, quiet = (w >> 16) | 0x40;
  return __builtin_convertvector((is_nan & quiet) | (~is_nan & rounded), Halves);
}

static inline Floats read(const void* p, bool bf16, int64_t i, int64_t n) {
  if (bf16) {
    auto* h = static_cast<const uint16_t*>(p) + i;
    return widen(n - i >= VLLM_JAX_WIDTH ? load<Halves>(h) : load_part<Halves>(h, n - i));
  }
  auto* f = static_cast<const float*>(p) + i;
  return n - i >= VLLM_JAX_WIDTH ? load<Floats>(f) : load_part<Floats>(f, n - i);
}

static inline void write(void* p, bool bf16, int64_t i, int64_t n, Floats v) {
  const int64_t count = n - i >= VLLM_JAX_WIDTH ? VLLM_JAX_WIDTH : n - i;
  if (bf16) {
    const Halves h = narrow(v);
    auto* y = static_cast<uint16_t*>(p) + i;
    count == VLLM_JAX_WIDTH ? __builtin_memcpy(y, &h, sizeof h) : __builtin_memcpy(y, &h, count * sizeof *y);
  } else {
    auto* y = static_cast<float*>(p) + i;
    count == VLLM_JAX_WIDTH ? __builtin_memcpy(y, &v, sizeof v) : __builtin_memcpy(y, &v, count * sizeof *y);
  }
}

static inline Floats rounded(Floats v, bool bf16) { return bf16 ? widen(narrow(v)) : v; }

// exp of x <= 0 after Cephes: e^x = 2^n e^r with |r| <= ln(2) / 2 and a polynomial in r; 0 below -87.
static inline Floats exp_of(Floats x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  const Floats shifted = x * 1.44269504f + kShift;
  const Floats n = shifted - kShift;
  const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Floats e = p * r * r + r + 1.0f;
  Words bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4b400000 + 127) << 23;
  Floats scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  const Floats zero = {};
  return x < -87.0f ? zero : e * scale;
}

// x / (1 + e^-x), without an overflow.
static inline Floats silu(Floats x) {
  const Floats e = exp_of(x < 0.0f ? x : -x);
  return x * ((x < 0.0f ? e : 1.0f + (e - e)) / (1.0f + e));
}

// out[rows, k] = the norm of x[rows, k], rounded as layers/norm.py rounds.
static void normalise(const Norm& norm, const void* x, bool bf16, int64_t rows, int64_t k, void* out) {
  const int64_t size = bf16 ? 2 : 4;
  for (int64_t r = 0; r < rows; ++r) {
    const char* from = static_cast<const char*>(x) + r * k * size;
    char* to = static_cast<char*>(out) + r * k * size;
    float mean = 0;
    if (norm.kind == Norm::kLayer) {
      Floats sum = {};
      for (int64_t i = 0; i < k; i += VLLM_JAX_WIDTH) sum += read(from, bf16, i, k);
      mean = add_lanes(sum) / k;
    }
    Floats squares = {};
    int64_t i = 0;
    for (; i + VLLM_JAX_WIDTH <= k; i += VLLM_JAX_WIDTH) {
      const Floats v = read(from, bf16, i, k) - mean;
      squares += v * v;
    }
    float sum = add_lanes(squares);
    for (; i < k; ++i) {
      const float v = read(from, bf16, i, i + 1)[0] - mean;
      sum += v * v;
    }
    const float scale = 1.0f / __builtin_sqrtf(sum / k + norm.eps);
    for (i = 0; i < k; i += VLLM_JAX_WIDTH) {
      Floats v = (read(from, bf16, i, k) - mean) * scale;
      if (norm.kind == Norm::kRms) v = rounded(v, bf16);
      if (norm.weight != nullptr) v *= read(norm.weight, bf16, i, k);
      if (norm.bias != nullptr) v += read(norm.bias, bf16, i, k);
      write(to, bf16, i, k, v);
    }
  }
}

static inline Floats finished(const float* sums, const void* bias, bool bf16, int64_t i, int64_t n) {
  Floats v = read(sums, false, i, n);
  return bias == nullptr ? v : v + read(bias, bf16, i, n);
}

// y[n] = sums + bias, rounded, then + residual; bias and residual may be null. bf16 is the dtype of bias and
// residual, y_bf16 that of y.
static void finish(const float* sums, const void* bias, const void* residual, bool bf16, bool y_bf16, int64_t n,
                   void* y) {
  for (int64_t i = 0; i < n; i += VLLM_JAX_WIDTH) {
    Floats v = finished(sums, bias, bf16, i, n);
    if (residual != nullptr) v = rounded(v, y_bf16) + read(residual, bf16, i, n);
    write(y, y_bf16, i, n, v);
  }
}

// y[n] = silu(gate + gate_bias) * (up + up_bias), with a rounding after each step.
static void finish_gated(const float* gate, const void* gate_bias, const float* up, const void* up_bias, bool bf16,
                         int64_t n, void* y) {
  for (int64_t i = 0; i < n; i += VLLM_JAX_WIDTH) {
    const Floats g = rounded(finished(gate, gate_bias, bf16, i, n), bf16);
    const Floats u = rounded(finished(up, up_bias, bf16, i, n), bf16);
    write(y, bf16, i, n, rounded(silu(g), bf16) * u);
  }
}

static constexpr Kernels kKernels = {
    &product<F32>,
#if VLLM_JAX_BF16_DOT
    &product<Bf16>,
    false,
#else
    &product<Widened>,
    true,
#endif
    &normalise,
    &finish,
    &finish_gated,
};
