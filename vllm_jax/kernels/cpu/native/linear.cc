// Products of a few rows with weights as the checkpoints store them, y[rows, out] = x[rows, in] w[out, in]^T,
// with what comes before and after them in a decoder layer.
//
// The weights come from memory in order and are multiplied with as many rows as the cache has room for while
// they are there: a decode step takes the time of reading them once. Sums are float32 for both dtypes.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "isa.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace vllm_jax {
namespace {

namespace ffi = xla::ffi;

struct Norm {
  enum Kind : int64_t { kNone, kRms, kRmsScaledInFloat, kLayer } kind;
  const void* weight;  // or null
  const void* bias;    // or null
  float eps;
};

enum class Activation : int64_t { kNone, kGelu, kGeluTanh, kRelu, kSilu };

// The functions of linear_kernel.h and the files it includes, where they are explained.
struct Kernels {
  struct Products {
    using Product = void (*)(const void* x, const void* w, int64_t rows, int64_t outs, int64_t k, float* y,
                             int64_t ldy);
    Product few;     // x as it is
    Product blocks;  // x packed
    void (*pack)(const void* x, int64_t rows, int64_t k, void* out);
  };
  int64_t few_rows;    // more are packed
  int64_t block_rows;  // that are packed together
  Products f32;
  Products bf16;
  bool bf16_wants_float_x;  // x is given in float32 for bfloat16 weights
  void (*normalise)(const Norm& norm, const void* x, bool bf16, int64_t rows, int64_t k, void* out);
  void (*finish)(const float* sums, const void* bias, Activation activation, const void* residual, bool bf16,
                 bool y_bf16, int64_t n, void* y);
  void (*finish_gated)(const float* gate, const void* gate_bias, const float* up, const void* up_bias, bool bf16,
                       int64_t n, void* y);
};

float to_float(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float f;
  __builtin_memcpy(&f, &word, sizeof f);
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

const Kernels& kernels_for(Isa isa) {
  switch (isa) {
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

constexpr int64_t kOutsPerItem = 48;          // of the loop that the threads share: four tiles of twelve
constexpr int64_t kPassRows = 128;            // at most, of one pass over an item's weights; more passes find
constexpr int64_t kPassBytes = 512 * 1024;    // them in the second-level cache, beside that much of x

const void* at(const void* p, int64_t bytes) { return p == nullptr ? nullptr : static_cast<const char*>(p) + bytes; }

// How many rows there are without the zeros at the end: a step is padded to one of few shapes, with rows of
// zeros, and they stay zeros from layer to layer.
int64_t rows_before_zeros(const void* x, int64_t bytes, int64_t rows, bool bf16) {
  const uint32_t mask = bf16 ? 0x7fff7fff : 0x7fffffff;  // without signs
  for (; rows > 0; --rows) {
    auto* row = static_cast<const char*>(x) + (rows - 1) * bytes;
    uint32_t seen = 0;
    int64_t i = 0;
    for (; i + 4 <= bytes; i += 4) {
      uint32_t word;
      __builtin_memcpy(&word, row + i, 4);
      seen |= word & mask;
    }
    if (i < bytes) {
      uint16_t half;
      __builtin_memcpy(&half, row + i, 2);
      seen |= half & 0x7fff;
    }
    if (seen != 0) return rows;
  }
  return 0;
}

// Memory of cache lines, as it comes.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : data_(static_cast<char*>(::operator new(bytes, kLine))) {}
  char* data() { return data_.get(); }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Delete {
    void operator()(char* p) const { ::operator delete(p, kLine); }
  };
  std::unique_ptr<char, Delete> data_;
};

// Rows of x as the products want them: normalised, widened, packed.
class Rows {
 public:
  Rows(ffi::ThreadPool& pool, const Kernels& kernels, const Norm& norm, const void* x, bool bf16, int64_t rows,
       int64_t k)
      : kernels_(kernels), norm_(norm), x_(x), bf16_(bf16), rows_(rows), k_(k) {
    if (rows == 0 || (!packed() && !normed() && !widened())) return;
    const int64_t blocks = packed() ? (rows + kernels.block_rows - 1) / kernels.block_rows : 1;
    ready_.emplace_back(blocks * block_bytes());
    parallel_for(pool, blocks, [&](int64_t block) { prepare(block); });
  }

  const Kernels::Products& products() const { return bf16_ ? kernels_.bf16 : kernels_.f32; }
  Kernels::Products::Product product() const { return packed() ? products().blocks : products().few; }

  // Rows of one pass over the weights.
  int64_t pass() const {
    if (!packed()) return kPassRows;
    const int64_t block = kernels_.block_rows, blocks = std::min(kPassRows / block, kPassBytes / (block_bytes() + 1));
    return std::max<int64_t>(blocks, 1) * block;
  }

  // From row r on, a multiple of pass(), for product().
  const void* from(int64_t r) {
    if (ready_.empty()) return at(x_, r * k_ * size());
    return ready_[0].data() + r / block_rows() * block_bytes();
  }

 private:
  bool packed() const { return rows_ > kernels_.few_rows; }
  bool normed() const { return norm_.kind != Norm::kNone; }
  bool widened() const { return bf16_ && kernels_.bf16_wants_float_x; }
  int64_t size() const { return bf16_ ? 2 : 4; }
  int64_t block_rows() const { return packed() ? kernels_.block_rows : rows_; }

  // Of a row, an odd number of bfloat16 is followed by a zero.
  int64_t block_bytes() const {
    return block_rows() * (bf16_ && !widened() ? (k_ + 1) / 2 * 4 : k_ * 4);
  }

  void prepare(int64_t block) {
    const int64_t first = block * block_rows(), some = std::min(block_rows(), rows_ - first), n = some * k_;
    char* out = ready_[0].data() + block * block_bytes();
    const void* x = at(x_, first * k_ * size());
    std::vector<Scratch> steps;  // what a step leaves, the last one in place
    const auto room = [&](bool last, int64_t bytes) {
      if (last) return out;
      steps.emplace_back(bytes);
      return steps.back().data();
    };
    if (normed()) {
      char* to = room(!widened() && !packed(), n * size());
      kernels_.normalise(norm_, x, bf16_, some, k_, to);
      x = to;
    }
    if (widened()) {
      char* to = room(!packed(), n * 4);
      auto* bits = static_cast<const uint16_t*>(x);
      std::transform(bits, bits + n, reinterpret_cast<float*>(to), to_float);
      x = to;
    }
    if (packed()) products().pack(x, some, k_, out);
  }

  const Kernels& kernels_;
  const Norm& norm_;
  const void* x_;
  const bool bf16_;
  const int64_t rows_, k_;
  std::vector<Scratch> ready_;
};

// Takes the arguments one after the other and checks what they have in common.
class Arguments {
 public:
  Arguments(ffi::RemainingArgs args, ffi::DataType dtype) : args_(args), dtype_(dtype) {}

  // Data of the next argument of that shape, or nullptr after a mistake.
  const void* next(std::initializer_list<int64_t> shape) {
    if (at_ >= args_.size()) return fail();
    auto buffer = args_.get<ffi::AnyBuffer>(at_++).value();
    const auto sizes = buffer.dimensions();
    if (buffer.element_type() != dtype_ || !std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end())) {
      return fail();
    }
    return buffer.untyped_data();
  }

  bool all_fit() const { return fits_ && at_ == args_.size(); }

 private:
  const void* fail() {
    fits_ = false;
    return nullptr;
  }
  ffi::RemainingArgs args_;
  ffi::DataType dtype_;
  size_t at_ = 1;
  bool fits_ = true;
};

// Arguments, all float32 or all bfloat16, those in brackets if the attribute of that name says so:
//   x [rows, in], [norm: weight [in], for kind 4 and up also bias [in]], n weights [out_i, in],
//   [bias: n vectors [out_i]], [residual: [rows, out_0]].
// Results: n arrays [rows, out_i], float32 or in the dtype of x; with `gated` one array from two weights.
// `activation` is an Activation, of each result; not with `gated` or `residual`.
// `norm` is a Norm::Kind: 0 none, 1 RMS, 2 RMS scaled in float32, 3 layer norm with a weight, 4 with a bias too.
ffi::Error linear(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t norm_kind,
                  float eps, bool bias, bool gated, int64_t activation, bool residual) {
  const auto wrong = ffi::Error::InvalidArgument(
      "linear: x, weights, biases and residual must fit together, all float32 or all bfloat16");
  if (args.size() == 0 || rets.size() == 0 || (gated && rets.size() != 1)) return wrong;
  if (activation != 0 && (gated || residual)) return wrong;
  auto x = args.get<ffi::AnyBuffer>(0).value();
  const ffi::DataType dtype = x.element_type();
  if ((dtype != ffi::F32 && dtype != ffi::BF16) || x.dimensions().size() != 2) return wrong;
  const bool bf16 = dtype == ffi::BF16;
  const int64_t size = bf16 ? 2 : 4;
  const int64_t rows = x.dimensions()[0], k = x.dimensions()[1];

  struct Part {
    const void* weight;
    const void* bias;
    void* y;
    bool y_bf16;
    int64_t outs;
    int64_t first_item;
  };
  const int64_t n = gated ? 2 : rets.size();
  Arguments arguments(args, dtype);
  Norm norm = {static_cast<Norm::Kind>(std::min<int64_t>(norm_kind, Norm::kLayer)), nullptr, nullptr, eps};
  if (norm_kind > 0) norm.weight = arguments.next({k});
  if (norm_kind > 3) norm.bias = arguments.next({k});
  std::vector<Part> parts;
  int64_t items = 0;
  for (int64_t i = 0; i < n; ++i) {
    auto y = rets.get<ffi::AnyBuffer>(gated ? 0 : i).value();
    if (y->dimensions().size() != 2 || y->dimensions()[0] != rows ||
        (y->element_type() != ffi::F32 && y->element_type() != ffi::BF16) ||
        ((gated || residual) && y->element_type() != dtype)) {
      return wrong;
    }
    const int64_t outs = y->dimensions()[1];
    parts.push_back({arguments.next({outs, k}), nullptr, y->untyped_data(), y->element_type() == ffi::BF16, outs,
                     items});
    if (!gated || i == 0) items += (outs + kOutsPerItem - 1) / kOutsPerItem;
  }
  for (int64_t i = 0; bias && i < n; ++i) parts[i].bias = arguments.next({parts[i].outs});
  const void* added = residual ? arguments.next({rows, parts[0].outs}) : nullptr;
  if (!arguments.all_fit()) return wrong;
  if (rows == 0 || items == 0) return ffi::Error::Success();

  static const Kernels& kernels = kernels_for(cpu_isa());
  const void* x_data = x.untyped_data();
  const int64_t live = norm.bias == nullptr ? rows_before_zeros(x_data, k * size, rows, bf16) : rows;
  Rows prepared(pool, kernels, norm, x_data, bf16, live, k);
  const auto product = prepared.product();
  const int64_t pass = prepared.pass();

  parallel_for(pool, items, [&](int64_t item) {
    size_t p = gated ? 0 : parts.size() - 1;
    while (parts[p].first_item > item) --p;
    const Part& part = parts[p];
    const int64_t o = (item - part.first_item) * kOutsPerItem;
    const int64_t outs = std::min(kOutsPerItem, part.outs - o);
    const void* some_bias = at(part.bias, o * size);
    float sums[kPassRows * kOutsPerItem], up[kPassRows * kOutsPerItem];
    for (int64_t r = 0; r < rows; r += pass) {
      const int64_t some = std::min(pass, rows - r), factors = std::max<int64_t>(0, std::min(some, live - r));
      if (factors > 0) {
        const void* xs = prepared.from(r);
        product(xs, at(part.weight, o * k * size), factors, outs, k, sums, kOutsPerItem);
        if (gated) product(xs, at(parts[1].weight, o * k * size), factors, outs, k, up, kOutsPerItem);
      }
      std::fill_n(sums + factors * kOutsPerItem, (some - factors) * kOutsPerItem, 0.0f);
      if (gated) std::fill_n(up + factors * kOutsPerItem, (some - factors) * kOutsPerItem, 0.0f);
      for (int64_t i = 0; i < some; ++i) {
        const int64_t place = (r + i) * part.outs + o;
        void* y = static_cast<char*>(part.y) + place * (part.y_bf16 ? 2 : 4);
        const float* row = sums + i * kOutsPerItem;
        if (gated) {
          kernels.finish_gated(row, some_bias, up + i * kOutsPerItem, at(parts[1].bias, o * size), bf16, outs, y);
        } else {
          kernels.finish(row, some_bias, static_cast<Activation>(activation), at(added, place * size), bf16,
                         part.y_bf16, outs, y);
        }
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
                                  .Attr<int64_t>("norm")
                                  .Attr<float>("eps")
                                  .Attr<bool>("bias")
                                  .Attr<bool>("gated")
                                  .Attr<int64_t>("activation")
                                  .Attr<bool>("residual"));
