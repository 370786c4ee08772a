// What surrounds a product in a decoder layer: the norm before it; bias, activation, residual and gate after it.
// Vectors of float32 or bfloat16, with a part of a register at their end. No include guard: see linear_kernel.h.

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

// 1 / (1 + e^-x), without an overflow.
static inline Floats sigmoid(Floats x) {
  const Floats e = exp_of(x < 0.0f ? x : -x);
  return (x < 0.0f ? e : 1.0f + (e - e)) / (1.0f + e);
}

static inline Floats silu(Floats x) { return x * sigmoid(x); }

// x / 2 erfc(-x / sqrt(2)). erfc(z) = t e^(p(t) - z^2) with t = 1 / (1 + z / 2), z >= 0, to 1.2e-7 of itself: the
// Chebyshev fit of Press et al., Numerical Recipes, 6.2.
static inline Floats gelu(Floats x) {
  const Floats z = (x < 0.0f ? -x : x) * 0.707106781f;
  const Floats t = 1.0f / (1.0f + 0.5f * z);
  Floats p = t * 0.17087277f - 0.82215223f;
  p = p * t + 1.48851587f;
  p = p * t - 1.13520398f;
  p = p * t + 0.27886807f;
  p = p * t - 0.18628806f;
  p = p * t + 0.09678418f;
  p = p * t + 0.37409196f;
  p = p * t + 1.00002368f;
  p = p * t - 1.26551223f;
  const Floats tail = t * exp_of(p - z * z);
  return 0.5f * x * (x < 0.0f ? tail : 2.0f - tail);
}

// x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x times the sigmoid of 2 u.
static inline Floats gelu_tanh(Floats x) { return x * sigmoid(1.595769122f * (x + 0.044715f * x * x * x)); }

static inline Floats activate(Floats x, Activation activation) {
  const Floats zero = {};
  switch (activation) {
    case Activation::kGelu: return gelu(x);
    case Activation::kGeluTanh: return gelu_tanh(x);
    case Activation::kRelu: return x < 0.0f ? zero : x;
    case Activation::kSilu: return silu(x);
    default: return x;
  }
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

// y[n] = sums + bias, rounded, then its activation, or + residual; bias and residual may be null. bf16 is the dtype
// of bias and residual, y_bf16 that of y.
static void finish(const float* sums, const void* bias, Activation activation, const void* residual, bool bf16,
                   bool y_bf16, int64_t n, void* y) {
  for (int64_t i = 0; i < n; i += VLLM_JAX_WIDTH) {
    Floats v = finished(sums, bias, bf16, i, n);
    if (activation != Activation::kNone) v = activate(rounded(v, y_bf16), activation);
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
