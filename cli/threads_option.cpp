#include "threads_option.h"

#include <omp.h>
#include <CLI/CLI.hpp>

#include "option_checks.h"

namespace deeptitan {

void add_threads_option(CLI::App& command) {
  CLI::Option* option = command.add_option_function<int>(
      "--threads", [](int threads) { omp_set_num_threads(threads); },
      "Threads of the processor (default: all cores, or OMP_NUM_THREADS)");
  whole_number(option, "THREADS", 1, kMostThreads);
}

}  // namespace deeptitan
