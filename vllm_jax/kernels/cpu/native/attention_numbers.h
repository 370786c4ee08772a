// How pages and activations hold numbers, for one instruction set: bits to vectors of float32, and back. No include
// guard: attention.cc includes this file once for each, behind attention_vectors.h.
//
// What is stored is what kernels/pages.py stores, bit for bit.

INLINE VecU widen16(const uint8_t* at) {
#if VLLM_JAX_WIDTH == 16  // Clang and GCC make two halves of what is one instruction
  return (VecU)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
#else
  return __builtin_convertvector(*reinterpret_cast<const Loose16*>(at), VecU);
#endif
}
INLINE VecI widen8(const uint8_t* at) {
#if VLLM_JAX_WIDTH == 16
  return (VecI)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
#else
  return __builtin_convertvector(*reinterpret_cast<const Loose8*>(at), VecI);
#endif
}
INLINE VecF from_bfloat16(const uint8_t* at) { return (VecF)(widen16(at) << 16); }
INLINE VecF from_int8(const uint8_t* at) { return __builtin_convertvector(widen8(at), VecF); }
INLINE VecF from_float8(const uint8_t* at) {
  const VecI bits = widen8(at);
  VecI magnitude = bits & 0x7f;
  VecI normal = (magnitude << 20) + ((127 - 7) << 23);
  VecF x = magnitude < 8 ? __builtin_convertvector(magnitude, VecF) * 0.001953125f : (VecF)normal;
  x = magnitude == 0x7f ? splat(__builtin_nanf("")) : x;
  return (VecF)((VecI)x | (bits & (int32_t)0x80000000));
}

// float32 -> bfloat16, to nearest even, as bits. NaN stays one.
INLINE uint16_t to_bfloat16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return value != value ? (uint16_t)(bits >> 16 | 0x40) : (uint16_t)rounded;
}
// float32 -> float8_e4m3fn, to nearest even, saturating at 448. NaN stays one.
INLINE uint8_t to_float8(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  uint32_t sign = bits >> 24 & 0x80;
  float size = __builtin_fabsf(value);
  if (size != size) return (uint8_t)(sign | 0x7f);
  if (size >= 448.0f) return (uint8_t)(sign | 0x7e);
  // Below 2^-6 numbers are multiples of 2^-9: adding 2^23 rounds to an integer. 8 is the smallest normal.
  if (size < 0.015625f) return (uint8_t)(sign | (uint32_t)((size * 512.0f + 8388608.0f) - 8388608.0f));
  bits &= 0x7fffffff;
  return (uint8_t)(sign | (((bits + 0x7ffff + ((bits >> 20) & 1)) >> 20) - ((127 - 7) << 3)));
}
INLINE int8_t to_int8(float value) {
  if (value != value) return 0;
  return (int8_t)(value >= 127.0f ? 127.0f : value <= -127.0f ? -127.0f : __builtin_rintf(value));
}

// `count` numbers of q, k or v as float32.
INLINE void read_input(const void* from, int64_t index, bool bfloat16, int64_t count, float* to) {
  if (!bfloat16) {
    __builtin_memcpy(to, static_cast<const float*>(from) + index, count * 4);
    return;
  }
  const uint8_t* at = static_cast<const uint8_t*>(from) + index * 2;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, from_bfloat16(at + 2 * i));
  for (; i < count; ++i) {
    uint32_t bits = (uint32_t)at[2 * i] << 16 | (uint32_t)at[2 * i + 1] << 24;
    __builtin_memcpy(to + i, &bits, 4);
  }
}

INLINE void write_output(const float* from, void* out, int64_t index, bool bfloat16, int64_t count) {
  if (!bfloat16) {
    __builtin_memcpy(static_cast<float*>(out) + index, from, count * 4);
    return;
  }
  uint16_t* to = static_cast<uint16_t*>(out) + index;
  for (int64_t i = 0; i < count; ++i) to[i] = to_bfloat16(from[i]);
}

template <Stored S>
constexpr int64_t kBytes = S == Stored::kFloat32 ? 4 : S == Stored::kBFloat16 ? 2 : 1;

template <Stored S>
INLINE VecF stored_vector(const uint8_t* at) {
  if constexpr (S == Stored::kFloat32) return *reinterpret_cast<const LooseF*>(at);
  if constexpr (S == Stored::kBFloat16) return from_bfloat16(at);
  if constexpr (S == Stored::kInt8) return from_int8(at);
  return from_float8(at);
}

// Vector `j` of a stored row of `dim` numbers; lanes behind the row's end are 0.
template <Stored S>
INLINE VecF stored_vector(const uint8_t* row, int64_t j, int64_t dim) {
  constexpr int64_t bytes = kBytes<S>;
  uint8_t tail[kLanes * 4];
  const uint8_t* at = row + j * kLanes * bytes;
  int64_t left = dim - j * kLanes;
  if (left < kLanes) {
    __builtin_memset(tail, 0, sizeof tail);
    for (int64_t i = 0; i < left * bytes; ++i) tail[i] = at[i];
    at = tail;
  }
  return stored_vector<S>(at);
}
