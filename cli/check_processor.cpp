#include "check_processor.h"

#include <cstdio>
#include <cstdlib>

namespace deeptitan {

void check_processor() {
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return;
  std::fputs(
      "deeptitan: this processor has no AVX2 with FMA, which deeptitan needs (Intel since 2013, AMD since 2015)\n",
      stderr);
  std::exit(1);
}

}  // namespace deeptitan
