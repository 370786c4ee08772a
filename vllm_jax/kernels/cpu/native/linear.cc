// Products of a few rows with weights as the checkpoints store them: y[rows, out] = x[rows, in] w[out, in]^T.
//
// Made for decode steps, where the time is that of reading the weights once: they come from memory in order,
// each exactly once, and are multiplied with all rows while they are there. Sums are float32 for both dtypes.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "isa.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace vllm_jax {
namespace {

namespace ffi = xla::ffi;

// y[rows, outs] float32 (row stride ldy) = x[rows, k] times w[outs, k] transposed.
using Product = void (*)(const void* x, const void* w, int64_t rows, int64_t outs, int64_t k, float* y,
                         int64_t ldy);

struct Kernels {
  Product f32;
  Product bf16;
  bool bf16_wants_float_x;  // x is given in float32 for bfloat16 weights
};

float to_float(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float f;
  std::memcpy(&f, &word, sizeof f);
  return f;
}

namespace portable {
#define VLLM_JAX_WIDTH 4
#define VLLM_JAX_BF16_DOT 0
#include "linear_kernel.h"
#undef VLLM_JAX_WIDTH
#undef VLLM_JAX_BF16_DOT
}  // namespace portable

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define VLLM_JAX_WIDTH 8
#define VLLM_JAX_BF16_DOT 0
#include "linear_kernel.h"
#undef VLLM_JAX_WIDTH
#undef VLLM_JAX_BF16_DOT
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
namespace avx512 {
#define VLLM_JAX_WIDTH 16
#define VLLM_JAX_BF16_DOT 0
#include "linear_kernel.h"
#undef VLLM_JAX_WIDTH
#undef VLLM_JAX_BF16_DOT
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,prefer-vector-width=512")
namespace avx512_bf16 {
#define VLLM_JAX_WIDTH 16
#define VLLM_JAX_BF16_DOT 1
#include "linear_kernel.h"
#undef VLLM_JAX_WIDTH
#undef VLLM_JAX_BF16_DOT
}  // namespace avx512_bf16
#pragma GCC pop_options
#endif  // __x86_64__

const Kernels& kernels() {
  switch (cpu_isa()) {
#if defined(__x86_64__)
    case Isa::kAvx512Bf16:
      return avx512_bf16::kKernels;
    case Isa::kAvx512:
      return avx512::kKernels;
    case Isa::kAvx2:
      return avx2::kKernels;
#endif
    default:
      return portable::kKernels;
  }
}

// Rounds to nearest, ties to even; NaN stays NaN.
uint16_t to_bf16(float f) {
  uint32_t word;
  std::memcpy(&word, &f, sizeof word);
  if ((word & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((word >> 16) | 0x40);
  return static_cast<uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

void store(const float* sums, ffi::AnyBuffer* bias, int64_t offset, int64_t n, ffi::DataType dtype, void* y) {
  for (int64_t i = 0; i < n; ++i) {
    float sum = sums[i];
    if (bias != nullptr) {
      sum += bias->element_type() == ffi::F32 ? bias->typed_data<float>()[offset + i]
                                              : to_float(static_cast<uint16_t*>(bias->untyped_data())[offset + i]);
    }
    if (dtype == ffi::F32) {
      static_cast<float*>(y)[i] = sum;
    } else {
      static_cast<uint16_t*>(y)[i] = to_bf16(sum);
    }
  }
}

constexpr int64_t kMaxRows = 64;
constexpr int64_t kOutsPerItem = 32;

// Arguments: x [rows, in], then n weights [out_i, in], then with `bias` n vectors [out_i]; x and weights in
// one dtype, float32 or bfloat16. Results: n arrays [rows, out_i], float32 or bfloat16.
ffi::Error linear(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, bool bias) {
  const int64_t n = rets.size();
  if (static_cast<int64_t>(args.size()) != 1 + (bias ? 2 : 1) * n) {
    return ffi::Error::InvalidArgument("linear: wrong number of arguments");
  }
  auto x = args.get<ffi::AnyBuffer>(0).value();
  const ffi::DataType dtype = x.element_type();
  if ((dtype != ffi::F32 && dtype != ffi::BF16) || x.dimensions().size() != 2) {
    return ffi::Error::InvalidArgument("linear: x must be float32 or bfloat16 [rows, in]");
  }
  const int64_t rows = x.dimensions()[0], k = x.dimensions()[1];

  struct Part {
    ffi::AnyBuffer weight;
    ffi::Result<ffi::AnyBuffer> y;
    int64_t outs;
    int64_t first_item;
  };
  std::vector<Part> parts;
  std::vector<ffi::AnyBuffer> biases;
  int64_t items = 0;
  for (int64_t i = 0; i < n; ++i) {
    auto weight = args.get<ffi::AnyBuffer>(1 + i).value();
    auto y = rets.get<ffi::AnyBuffer>(i).value();
    if (weight.element_type() != dtype || weight.dimensions().size() != 2 || weight.dimensions()[1] != k) {
      return ffi::Error::InvalidArgument("linear: the weights must be [out, in] in the dtype of x");
    }
    const int64_t outs = weight.dimensions()[0];
    if (y->dimensions().size() != 2 || y->dimensions()[0] != rows || y->dimensions()[1] != outs ||
        (y->element_type() != ffi::F32 && y->element_type() != ffi::BF16)) {
      return ffi::Error::InvalidArgument("linear: the results must be float32 or bfloat16 [rows, out]");
    }
    if (bias) biases.push_back(args.get<ffi::AnyBuffer>(1 + n + i).value());
    parts.push_back({weight, y, outs, items});
    items += (outs + kOutsPerItem - 1) / kOutsPerItem;
  }
  if (rows == 0 || items == 0) return ffi::Error::Success();

  const Kernels& kernel = kernels();
  const Product product = dtype == ffi::F32 ? kernel.f32 : kernel.bf16;
  std::vector<float> widened;
  const char* x_data = static_cast<const char*>(x.untyped_data());
  int64_t x_row = k * (dtype == ffi::F32 ? 4 : 2);
  if (dtype == ffi::BF16 && kernel.bf16_wants_float_x) {
    widened.resize(rows * k);
    auto* bits = static_cast<const uint16_t*>(x.untyped_data());
    for (int64_t i = 0; i < rows * k; ++i) widened[i] = to_float(bits[i]);
    x_data = reinterpret_cast<const char*>(widened.data());
    x_row = k * 4;
  }
  const int64_t w_size = dtype == ffi::F32 ? 4 : 2;

  parallel_for(pool, items, [&](int64_t item) {
    size_t p = parts.size() - 1;
    while (parts[p].first_item > item) --p;
    Part& part = parts[p];
    const int64_t o = (item - part.first_item) * kOutsPerItem;
    const int64_t outs = std::min(kOutsPerItem, part.outs - o);
    auto* w = static_cast<const char*>(part.weight.untyped_data()) + o * k * w_size;
    const ffi::DataType y_dtype = part.y->element_type();
    const int64_t y_size = y_dtype == ffi::F32 ? 4 : 2;
    auto* y = static_cast<char*>(part.y->untyped_data());
    float sums[kMaxRows * kOutsPerItem];
    for (int64_t r = 0; r < rows; r += kMaxRows) {
      const int64_t some = std::min(kMaxRows, rows - r);
      product(x_data + r * x_row, w, some, outs, k, sums, kOutsPerItem);
      for (int64_t i = 0; i < some; ++i) {
        store(sums + i * kOutsPerItem, bias ? &biases[p] : nullptr, o, outs, y_dtype,
              y + ((r + i) * part.outs + o) * y_size);
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace vllm_jax

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* vllm_jax_linear(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(vllm_jax_linear, vllm_jax::linear,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<bool>("bias"));
