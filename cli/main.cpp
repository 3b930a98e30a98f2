#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <system_error>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "bench_command.h"
#include "chat_command.h"
#include "check_processor.h"
#include "comm/late_rank.h"
#include "comm/mpi/mpi_world.h"
#include "convert_command.h"
#include "core/error.h"
#include "core/shown_text.h"
#include "download_command.h"
#include "eval_command.h"
#include "generate_command.h"
#include "help_formatter.h"
#include "init_command.h"
#include "inspect_command.h"
#include "plan_command.h"
#include "process_start.h"
#include "rank_session.h"
#include "standard_output.h"
#include "tokenizer_command.h"
#include "train_command.h"
#include "usage_message.h"
#include "version.h"

namespace deeptitan {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

bool runs_over_ranks(const std::string& command) {
  return command == "train" || command == "generate" || command == "chat" || command == "eval";
}

// The exit code of --help and --version, which are results as others are.
int end_help(int exit_code) {
  try {
    flush_output();
    return exit_code;
  } catch (const Error& error) {
    report_error(printable_message(error.what()));
    return kExitFailure;
  }
}

int run(int argc, char** argv) {
  CLI::App app("deeptitan trains and runs DeepSeek-V2 and V3 Mixture-of-Experts language models.", "deeptitan");
  app.set_version_flag("--version", version_line);
  app.require_subcommand(1);
  app.formatter(std::make_shared<HelpFormatter>());  // commands inherit it
  add_train_command(app);
  add_init_command(app);
  add_generate_command(app);
  add_chat_command(app);
  add_eval_command(app);
  add_tokenizer_command(app);
  add_inspect_command(app);
  add_plan_command(app);
  add_bench_command(app);
  add_convert_command(app);
  add_download_command(app);
  for (CLI::App* command : app.get_subcommands({})) {
    if (runs_over_ranks(command->get_name())) continue;
    command->parse_complete_callback([command] { refuse_many_ranks(command->get_name().c_str()); });
  }
  try {
    app.parse(argc, argv);
    flush_output();
    return 0;
  } catch (const CLI::Success& success) {  // --help, --version
    return end_help(app.exit(success));
  } catch (const CLI::RuntimeError& ended) {  // a command chose its exit code and has said why
    return ended.get_exit_code();
  } catch (const CLI::ParseError& error) {
    report_error(printable_message(usage_message(app, error)));
    return kExitUsage;
  } catch (const Error& error) {
    report_error(printable_message(error.what()));
    if (dynamic_cast<const LateRank*>(&error) != nullptr) let_other_ranks_speak();
    return error.kind() == ErrorKind::kUsage ? kExitUsage : kExitFailure;
  } catch (const std::filesystem::filesystem_error& error) {
    report_error(fmt::format("cannot use {}: {}", shown(error.path1().string(), 400), error.code().message()));
    return kExitFailure;
  } catch (const std::system_error& error) {  // a result that cannot be written, among others
    report_error(printable_message(error.what()));
    return kExitFailure;
  } catch (const std::bad_alloc&) {
    report_error("there is no memory left; deeptitan plan says what a run takes");
    return kExitFailure;
  } catch (const std::exception& error) {
    report_error(fmt::format("an error that has no message of its own ({}); please report it", error.what()));
    return kExitFailure;
  }
}

}  // namespace
}  // namespace deeptitan

int main(int argc, char** argv) {
  deeptitan::check_processor();
  deeptitan::prepare_process();
  const int exit_code = deeptitan::run(argc, argv);
  deeptitan::end_all_ranks(exit_code);  // where they have not ended together
  return exit_code;
}
