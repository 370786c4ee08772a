// The end of a step: what it has computed goes on as it is, and one core is left to the host, which is about to
// be woken by it.

#include <cstdint>
#include <cstring>

#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace vllm_jax {
namespace {

namespace ffi = xla::ffi;

ffi::Error host_turn(ffi::AnyBuffer x, ffi::Result<ffi::AnyBuffer> y, int64_t microseconds) {
  if (x.size_bytes() != y->size_bytes()) return ffi::Error::InvalidArgument("host_turn: x and y must be alike");
  if (y->untyped_data() != x.untyped_data()) std::memcpy(y->untyped_data(), x.untyped_data(), x.size_bytes());
  Team::leave_a_core(microseconds * 1000);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace vllm_jax

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* vllm_jax_host_turn(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(vllm_jax_host_turn, vllm_jax::host_turn,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("microseconds"));
