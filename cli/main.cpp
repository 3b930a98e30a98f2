#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "bench_command.h"
#include "chat_command.h"
#include "check_processor.h"
#include "config/nearest_name.h"
#include "convert_command.h"
#include "core/error.h"
#include "download_command.h"
#include "eval_command.h"
#include "generate_command.h"
#include "inspect_command.h"
#include "plan_command.h"
#include "tokenizer_command.h"
#include "train_command.h"

namespace deeptitan {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

// The innermost command that was named on the command line.
const CLI::App* innermost(const CLI::App* app) {
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return app;
}

// The name nearest to an argument that nobody knows: a flag of the command, or a command.
std::string suggestion(const CLI::App& root, const CLI::ExtrasError& /*error*/) {
  const CLI::App* command = innermost(&root);
  const std::vector<std::string> extras = root.remaining(true);
  if (extras.empty()) return "";
  const std::string& unknown = extras.front();
  std::vector<std::string> known;
  if (unknown.starts_with("-")) {
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
  } else {
    for (const CLI::App* sub : command->get_subcommands([](const CLI::App*) { return true; })) known.push_back(sub->get_name());
  }
  const std::string nearest = nearest_name(unknown, known);
  return fmt::format("{}: unknown {} \"{}\"{}", command->get_name(), unknown.starts_with("-") ? "option" : "command or argument",
                     unknown, nearest.empty() ? "" : "; did you mean " + nearest + "?");
}

int run(int argc, char** argv) {
  CLI::App app("deeptitan trains and runs DeepSeek-V2 and V3 Mixture-of-Experts language models.", "deeptitan");
  app.set_version_flag("--version", "deeptitan " DT_VERSION);
  app.require_subcommand(1);
  add_train_command(app);
  add_generate_command(app);
  add_chat_command(app);
  add_eval_command(app);
  add_tokenizer_command(app);
  add_inspect_command(app);
  add_plan_command(app);
  add_bench_command(app);
  add_convert_command(app);
  add_download_command(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::RuntimeError& ended) {  // a command chose its exit code and has said why
    return ended.get_exit_code();
  } catch (const CLI::ExtrasError& error) {
    fmt::print(stderr, "deeptitan: {}\n", suggestion(app, error));
    return kExitUsage;
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "deeptitan: {} (--help lists what there is)\n", error.what());
    return kExitUsage;
  } catch (const Error& error) {
    fmt::print(stderr, "deeptitan: {}\n", error.what());
    return error.kind() == ErrorKind::kUsage ? kExitUsage : kExitFailure;
  } catch (const std::exception& error) {
    fmt::print(stderr, "deeptitan: {}\n", error.what());
    return kExitFailure;
  }
}

}  // namespace
}  // namespace deeptitan

int main(int argc, char** argv) {
  deeptitan::check_processor();
  return deeptitan::run(argc, argv);
}
