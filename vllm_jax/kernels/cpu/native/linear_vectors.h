// Vectors of VLLM_JAX_WIDTH floats for the kernels of linear.cc, and how bfloat16 gets in and out of them. No
// include guard: see linear_kernel.h.

using Floats = float __attribute__((vector_size(4 * VLLM_JAX_WIDTH)));
using Words = uint32_t __attribute__((vector_size(4 * VLLM_JAX_WIDTH)));
using Halves = uint16_t __attribute__((vector_size(2 * VLLM_JAX_WIDTH)));

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
static inline Floats floats(const float* p) { return load<Floats>(p); }
static inline Floats floats(const uint16_t* p) { return widen(load<Halves>(p)); }

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
  for (int o = 0; o < 4; ++o) y[o] = add_lanes(v[o]);
#endif
}

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
