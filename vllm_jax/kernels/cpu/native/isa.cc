// The name of the instruction set the kernels use on this CPU, for people.

#include "isa.h"

extern "C" __attribute__((visibility("default"))) const char* vllm_jax_isa() {
  switch (vllm_jax::cpu_isa()) {
    case vllm_jax::Isa::kAvx512Bf16:
      return "AVX-512 with bfloat16";
    case vllm_jax::Isa::kAvx512:
      return "AVX-512";
    case vllm_jax::Isa::kAvx2:
      return "AVX2";
    default:
      return "portable";
  }
}
