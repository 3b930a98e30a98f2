#include "train/run_folder.h"

#include <algorithm>
#include <vector>

#include "checkpoint/atomic_directory.h"
#include "checkpoint/manifest.h"
#include "checkpoint/run_checkpoints.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockFile = "run.lock";

bool there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

std::vector<fs::path> sorted_entries(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());
  return entries;
}

[[noreturn]] void refuse(const fs::path& path) {
  fail_usage(
      "{} is in the way: the run would replace it, and no run wrote it, or it was changed since; move it away, or name "
      "another folder (--job.dump_folder)",
      path.string());
}

void refuse_foreign_entry(const fs::path& directory) {
  if (const auto foreign = foreign_entry(directory)) refuse(*foreign);
}

bool lies_in(const fs::path& path, const fs::path& folder) {
  std::error_code ignored;
  const fs::path inner = fs::weakly_canonical(path, ignored), outer = fs::weakly_canonical(folder, ignored);
  return !outer.empty() && std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

}  // namespace

bool RunFolder::holds_a_run() const {
  return there(record_file());
}

void RunFolder::lock() {
  if (lock_ || !there(root_)) return;
  DT_CHECK_USAGE(fs::is_directory(root_), "job.dump_folder = {} is no folder; name another", root_.string());
  lock_.emplace(root_ / kLockFile, root_.string());
}

bool RunFolder::in_place() const {
  return held() && there(checkpoints());
}

void RunFolder::check_free(bool resuming) const {
  const bool own = resuming || holds_a_run();
  const std::set<std::string> recorded = resuming ? std::set<std::string>() : read_record();
  for (const fs::path& file : {config(), metrics(), loss_svg()}) {
    if (!there(file)) continue;
    const bool listed = resuming || recorded.contains(file.filename().string());
    if (!listed || !fs::is_regular_file(fs::symlink_status(file))) refuse(file);
  }
  for (const fs::path& folder : {checkpoints(), tensorboard()}) {
    if (there(folder) && !fs::is_directory(folder)) refuse(folder);
  }
  if (own) {
    refuse_foreign_entry(model());
  } else if (there(model())) {
    const bool empty = fs::is_directory(fs::symlink_status(model())) && fs::is_empty(model());
    if (!empty) refuse(first_file_in(model()));
  }
}

void RunFolder::check_clearable() const {
  if (!holds_a_run()) {
    for (const fs::path& entry : sorted_entries(root_)) {
      DT_CHECK_USAGE(entry.filename() == kLockFile,
                     "{} holds no run that --overwrite could replace, but it holds {}; name another folder "
                     "(--job.dump_folder)",
                     root_.string(), first_file_in(entry).string());
    }
    return;
  }
  check_free(/*resuming=*/false);
  for (const std::string& name : read_record()) {
    const fs::path file = root_ / name;
    if (there(file) && !fs::is_regular_file(fs::symlink_status(file))) refuse(file);
  }
  for (const CheckpointEntry& checkpoint : list_checkpoints(checkpoints())) refuse_foreign_entry(checkpoint.path);
}

void RunFolder::check_inputs(const RunConfig& config) const {
  std::vector<std::pair<const char*, std::string>> inputs = {
      {"model.initial_checkpoint", config.model.initial_checkpoint},
      {"model.config", config.model.config},
      {"model.tokenizer", config.model.tokenizer},
      {"model.chat_template", config.model.chat_template},
      {"data.cache_folder", config.data.cache_folder}};
  for (const TextSource& source : config.data.sources) {
    inputs.emplace_back("data.sources.path", source.path);
    inputs.emplace_back("data.sources.validation_path", source.validation_path);
  }
  for (const auto& [key, value] : inputs) {
    if (value.empty()) continue;
    for (const fs::path& replaced : {model(), checkpoints(), tensorboard(), metrics(), loss_svg()}) {
      DT_CHECK_USAGE(!lies_in(value, replaced),
                     "{} = {} lies in {}, which the run replaces; copy it to another place, or name another folder "
                     "(--job.dump_folder)",
                     key, value, replaced.string());
    }
  }
}

void RunFolder::clear() {
  if (!holds_a_run()) return;
  check_clearable();
  for (const CheckpointEntry& checkpoint : list_checkpoints(checkpoints())) remove_directory(checkpoint.path);
  if (there(model())) remove_directory(model());
  // The record goes last: until then a killed clearing can be gone on with.
  std::error_code ignored;
  for (const std::string& name : read_record()) fs::remove(root_ / name, ignored);
  for (const fs::path& folder : {checkpoints(), tensorboard()}) fs::remove(folder, ignored);  // where they are empty
  fs::remove(record_file(), ignored);
}

void RunFolder::claim(bool resuming) {
  std::error_code error;
  fs::create_directories(checkpoints(), error);
  if (error) fail_file("create", checkpoints(), error.value());
  const bool looked_at = lock_.has_value();
  lock();
  DT_CHECK_USAGE(looked_at || !holds_a_run(), "another run has begun in {}; name another folder (--job.dump_folder)",
                 root_.string());
  remove_unfinished_files();
  try {
    files_ = read_record();
  } catch (const Error&) {
    if (!resuming) throw;  // beside a good checkpoint the record can be made anew
  }
  for (const fs::path& file : {config(), metrics(), loss_svg()}) files_.insert(file.filename().string());
  write_record();
}

// ".config.toml.PID-N.tmp": what write_file left where it was killed. Nobody else writes here: the folder is locked.
void RunFolder::remove_unfinished_files() const {
  for (const fs::path& entry : sorted_entries(root_)) {
    const std::string name = entry.filename().string();
    for (const fs::path& file : {config(), loss_svg(), record_file(), metrics()}) {
      const std::string prefix = "." + file.filename().string() + ".";
      const bool unfinished = name.starts_with(prefix) && name.ends_with(".tmp") &&
                              name.find_first_not_of("0123456789-", prefix.size()) == name.size() - 4;
      std::error_code ignored;
      if (unfinished && fs::is_regular_file(fs::symlink_status(entry))) fs::remove(entry, ignored);
    }
  }
}

void RunFolder::record(const fs::path& file) {
  if (files_.insert(fs::relative(file, root_).string()).second) write_record();
}

std::set<std::string> RunFolder::read_record() const {
  if (!holds_a_run()) return {};
  const nlohmann::json json = try_read_json(read_file(record_file())).value_or(nlohmann::json());
  std::set<std::string> files;
  bool whole = json.is_object() && json.contains("format") && json.at("format") == "deeptitan run" &&
               json.contains("files") && json.at("files").is_array();
  for (size_t i = 0; whole && i < json.at("files").size(); ++i) {
    const nlohmann::json& name = json.at("files")[i];
    whole = name.is_string() && lies_in(root_ / name.get<std::string>(), root_);
    if (whole) files.insert(name.get<std::string>());
  }
  DT_CHECK(whole,
           "{} is damaged, and it is the record of what the run has written; move it away, or name another folder",
           record_file().string());
  return files;
}

void RunFolder::write_record() const {
  const nlohmann::ordered_json json = {{"format", "deeptitan run"}, {"version", 1}, {"files", files_}};
  write_file(record_file(), json.dump(2) + "\n");
}

}  // namespace deeptitan
