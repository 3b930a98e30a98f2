#include "kernels/cpu/matmul/panel_kernel.h"

#include <cstdlib>
#include <string_view>

#include "core/error.h"

namespace deeptitan::cpu {
namespace {

std::vector<PanelIsa> available() {
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  std::vector<PanelIsa> isas;
  if (has_avx512 && __builtin_cpu_supports("avx512bf16")) {
    isas.push_back({"avx512_bf16", avx512_bf16::panel_product, avx512_bf16::peak_loop});
  }
  if (has_avx512) isas.push_back({"avx512", avx512::panel_product, avx512::peak_loop});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    isas.push_back({"avx2", avx2::panel_product, avx2::peak_loop});
  }
  DT_CHECK(!isas.empty(), "this processor has neither AVX2 with FMA nor AVX-512, one of which is needed");
  return isas;
}

const PanelIsa& choose() {
  const char* wanted = std::getenv("DEEPTITAN_CPU_ISA");
  for (const PanelIsa& isa : panel_isas()) {
    if (wanted == nullptr || std::string_view(wanted) == isa.name) return isa;
  }
  fail_usage("DEEPTITAN_CPU_ISA={} is not one of avx512_bf16, avx512, avx2 or not supported by this processor", wanted);
}

}  // namespace

const std::vector<PanelIsa>& panel_isas() {
  static const std::vector<PanelIsa> isas = available();
  return isas;
}

const PanelIsa& panel_isa() {
  static const PanelIsa isa = choose();
  return isa;
}

}  // namespace deeptitan::cpu
