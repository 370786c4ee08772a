// The inner loops of linear.cc, for one instruction set. No include guard: linear.cc includes this file once
// for each, inside a namespace and a region with that target. VLLM_JAX_WIDTH is the number of float32 lanes,
// VLLM_JAX_BF16_DOT says whether there is an instruction for the dot product of bfloat16 pairs.

#include "linear_vectors.h"

#include "linear_dots.h"

#include "linear_blocks.h"

#include "linear_around.h"

#if VLLM_JAX_BF16_DOT
using ForBf16 = Bf16;
#else
using ForBf16 = Widened;
#endif

static constexpr Kernels kKernels = {
    kRows,
    kBlockRows,
    {&product<F32>, &block_product<F32>, &pack<F32>},
    {&product<ForBf16>, &block_product<ForBf16>, &pack<ForBf16>},
    !VLLM_JAX_BF16_DOT,
    &normalise,
    &finish,
    &finish_gated,
};
