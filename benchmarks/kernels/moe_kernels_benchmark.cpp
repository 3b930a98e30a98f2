// Times the MoE kernels on the current device at DeepSeek's shapes. An argument is part of the names to run.

#include "moe_kernels_benchmark.h"

int main(int argument_count, char** arguments) {
  using namespace deeptitan::benchmark;
  Session session(argument_count > 1 ? arguments[1] : "");
  benchmark_router(session);
  benchmark_permute(session);
  benchmark_token_kernels(session);
  benchmark_quantization(session);
  return 0;
}
