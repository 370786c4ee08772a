// Vectors of kLanes floats, for one instruction set. No include guard: attention.cc includes this file once for
// each, inside a namespace and a region with that target. VLLM_JAX_WIDTH is the number of float32 lanes.

constexpr int kLanes = VLLM_JAX_WIDTH;
typedef float VecF __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef VecF LooseF __attribute__((aligned(1), may_alias));
typedef uint16_t Vec16 __attribute__((vector_size(kLanes * 2)));
typedef Vec16 Loose16 __attribute__((aligned(1), may_alias));
typedef int8_t Vec8 __attribute__((vector_size(kLanes)));
typedef Vec8 Loose8 __attribute__((aligned(1), may_alias));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));

#define INLINE static inline __attribute__((always_inline))

INLINE VecF load(const float* from) { return *reinterpret_cast<const LooseF*>(from); }
INLINE void store(float* to, VecF x) { *reinterpret_cast<LooseF*>(to) = x; }

template <int... I>
INLINE VecF splat_lanes(float x, std::integer_sequence<int, I...>) {
  return VecF{((void)I, x)...};
}
INLINE VecF splat(float x) { return splat_lanes(x, std::make_integer_sequence<int, kLanes>()); }

template <int... I>
INLINE VecI iota_lanes(std::integer_sequence<int, I...>) {
  return VecI{I...};
}
INLINE VecI iota() { return iota_lanes(std::make_integer_sequence<int, kLanes>()); }

// One step of a transposition of blocks of width W: lanes with bit W come from the other vector.
template <int W, int... I>
INLINE VecF low_of(VecF a, VecF b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, ((I & W) ? kLanes + (I ^ W) : I)...);
}
template <int W, int... I>
INLINE VecF high_of(VecF a, VecF b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, ((I & W) ? kLanes + I : (I ^ W))...);
}

template <int W>
INLINE void transpose_steps(VecF (&x)[kLanes]) {
  if constexpr (W < kLanes) {
    constexpr auto lanes = std::make_integer_sequence<int, kLanes>();
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & W) continue;
      VecF low = low_of<W>(x[i], x[i | W], lanes);
      x[i | W] = high_of<W>(x[i], x[i | W], lanes);
      x[i] = low;
    }
    transpose_steps<W * 2>(x);
  }
}
INLINE void transpose(VecF (&x)[kLanes]) { transpose_steps<1>(x); }

// Lane i of the result is the sum of x[i]'s lanes.
template <int W>
INLINE VecF sum_steps(VecF (&x)[kLanes]) {
  if constexpr (W < kLanes) {
    constexpr auto lanes = std::make_integer_sequence<int, kLanes>();
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i += 2 * W) {
      x[i] = low_of<W>(x[i], x[i + W], lanes) + high_of<W>(x[i], x[i + W], lanes);
    }
    return sum_steps<W * 2>(x);
  } else {
    return x[0];
  }
}
INLINE VecF sums_of(VecF (&x)[kLanes]) { return sum_steps<1>(x); }

template <int W>
INLINE VecF fold_sum(VecF x) {
  if constexpr (W < kLanes) {
    x = x + high_of<W>(x, x, std::make_integer_sequence<int, kLanes>());
    return fold_sum<W * 2>(x);
  } else {
    return x;
  }
}
INLINE float sum(VecF x) { return fold_sum<1>(x)[0]; }

INLINE VecF larger(VecF a, VecF b) { return a > b ? a : b; }
template <int W>
INLINE VecF fold_max(VecF x) {
  if constexpr (W < kLanes) {
    x = larger(x, high_of<W>(x, x, std::make_integer_sequence<int, kLanes>()));
    return fold_max<W * 2>(x);
  } else {
    return x;
  }
}
INLINE float maximum(VecF x) { return fold_max<1>(x)[0]; }

// e^x within 2 units in the last place for x in [-87, 88]; below it gives e^-87. NaN stays NaN.
INLINE VecF exponential(VecF x) {
  const VecF lowest = splat(-87.0f);
  x = x < lowest ? lowest : x;
  const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  VecF n = x * 1.44269504f + to_integer;
  VecI exponent = (VecI)n;  // the integer is in the low bits
  n = n - to_integer;
  VecF r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  VecF p = r * 1.9875691500e-4f + 1.3981999507e-3f;  // the polynomial of Cephes' expf
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * (VecF)((exponent << 23) + (127 << 23));
}

INLINE VecF hyperbolic_tangent(VecF x) {
  const VecF most = splat(20.0f);
  x = x > most ? most : x;
  x = x < -most ? -most : x;
  return 1.0f - 2.0f / (exponential(x + x) + 1.0f);
}
