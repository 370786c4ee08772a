// Which of the compiled variants of a kernel this CPU runs.

#ifndef VLLM_JAX_ISA_H_
#define VLLM_JAX_ISA_H_

namespace vllm_jax {

enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16 };

inline Isa detect_isa() {
#if defined(VLLM_JAX_ISA)  // the tests build every variant
  return Isa::VLLM_JAX_ISA;
#endif
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::kAvx512Bf16;
  if (avx512) return Isa::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

inline Isa cpu_isa() {
  static const Isa isa = detect_isa();
  return isa;
}

}  // namespace vllm_jax

#endif  // VLLM_JAX_ISA_H_
