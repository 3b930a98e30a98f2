#include "device_option.h"

#include <fmt/format.h>

#include "core/log.h"
#include "option_checks.h"

namespace deeptitan {

CLI::Option* add_device_option(CLI::App& command, std::string& word) {
  CLI::Option* option = command.add_option("--device", word,
                                           "Where it runs: cpu, cuda, cuda:N, or auto: a GPU where one is usable, else "
                                           "the CPU");
  return device_word(option->capture_default_str());
}

CLI::Option* add_dtype_option(CLI::App& command, std::string& word) {
  return one_of(
      command.add_option("--dtype", word, "auto: bf16 where the chip multiplies it, else fp32")->capture_default_str(),
      {"auto", "bf16", "fp32"});
}

CLI::Option* add_experts_option(CLI::App& command, std::string& word) {
  return one_of(
      command.add_option("--experts", word, "How a GPU multiplies experts, on Hopper also in fp8; auto: in bf16")
          ->capture_default_str(),
      {"auto", "bf16", "fp8_blockwise", "fp8_rowwise", "loop"});
}

void say_device(const DeviceChoice& choice) {
  if (built_with_cuda()) log_info(fmt::format("on {}", choice.description));
}

}  // namespace deeptitan
