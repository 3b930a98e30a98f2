#include "kernels/cpu/matmul/panel_kernel.h"

#include <cstdlib>
#include <string_view>

#include "core/error.h"

namespace deeptitan::cpu {
namespace {

struct Isa {
  const char* name;
  PanelProductFunction function;
  bool available;
};

Isa choose() {
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const Isa table[] = {
      {"avx512_bf16", avx512_bf16::panel_product, has_avx512 && __builtin_cpu_supports("avx512bf16")},
      {"avx512", avx512::panel_product, has_avx512},
      {"avx2", avx2::panel_product, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
  };
  const char* wanted = std::getenv("DEEPTITAN_CPU_ISA");
  for (const Isa& isa : table) {
    if (!isa.available) continue;
    if (wanted == nullptr || std::string_view(wanted) == isa.name) return isa;
  }
  DT_CHECK_USAGE(wanted == nullptr,
                 "DEEPTITAN_CPU_ISA={} is not one of avx512_bf16, avx512, avx2 or not supported by this processor",
                 wanted);
  fail("this processor has neither AVX2 with FMA nor AVX-512, one of which is needed");
}

const Isa& chosen() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace

PanelProductFunction panel_product() {
  return chosen().function;
}

const char* panel_product_isa() {
  return chosen().name;
}

}  // namespace deeptitan::cpu
