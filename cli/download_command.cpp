#include "download_command.h"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include "core/file.h"
#include "core/log.h"
#include "hub/download.h"
#include "hub/progress_display.h"
#include "option_checks.h"

namespace deeptitan {
namespace {

struct DownloadArguments {
  std::string model;
  std::string directory;
  DownloadOptions options;
};

int terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void run_download(DownloadArguments arguments) {
  const std::string repository = repository_of(arguments.model);
  const HubSettings settings = HubSettings::from_environment();
  ProgressDisplay display(stderr, ::isatty(STDERR_FILENO) == 1, terminal_width());
  arguments.options.directory = arguments.directory;
  arguments.options.progress = [&](const std::vector<FileProgress>& files) { display.update(files); };
  const DownloadSummary summary = download_model(repository, settings, arguments.options);
  log_info(fmt::format("{} {}: {} files, {}, of which {} fetched now", repository, summary.commit, summary.files,
                       format_bytes(summary.bytes), format_bytes(summary.fetched_bytes)));
  fmt::print("{}\n", summary.directory.string());
}

}  // namespace

void add_download_command(CLI::App& app) {
  auto arguments = std::make_shared<DownloadArguments>();
  CLI::App* command = app.add_subcommand("download", "Fetch a model from the Hugging Face hub");
  std::string names;
  for (const KnownModel& known : known_models()) names += std::string(known.short_name) + ", ";
  command->add_option("MODEL", arguments->model, names + "or OWNER/NAME")->required()->type_name("NAME");
  command->add_option("--revision", arguments->options.revision, "Branch, tag or commit")
      ->type_name("NAME")
      ->capture_default_str();
  command
      ->add_option("--dir", arguments->directory,
                   "Directory for the files themselves; without it they go to the cache that the Python tools share "
                   "(HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub)")
      ->type_name("DIR");
  command
      ->add_option("--include", arguments->options.include,
                   "Fetch only files that match this pattern, as in '*.json'; may be given several times")
      ->allow_extra_args(false)
      ->type_name("PATTERN");
  whole_number(command->add_option("--parallel", arguments->options.parallel, "Files at a time")->capture_default_str(),
               "FILES", 1, 64);
  command->footer(
      "HF_ENDPOINT, HF_TOKEN, HF_HOME and HTTPS_PROXY are honoured. A broken download is resumed by the same "
      "command.");
  command->callback([arguments] { run_download(*arguments); });
}

}  // namespace deeptitan
