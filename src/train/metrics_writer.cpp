#include "train/metrics_writer.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/json_reader.h"
#include "core/log.h"

namespace deeptitan {

namespace {

namespace fs = std::filesystem;

struct ReadableLines {
  std::string text;
  int64_t last_step = 0;
  int64_t left_out = 0;  // lines that cannot be read
};

/// The lines of increasing steps up to `last_step`.
ReadableLines readable_lines(std::string_view text, int64_t last_step) {
  ReadableLines lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    at = end + 1;
    const nlohmann::json json = try_read_json(line).value_or(nlohmann::json());
    const bool readable = json.is_object() && json.contains("step") && json["step"].is_number_integer();
    const int64_t step = readable ? json["step"].get<int64_t>() : 0;
    if (!readable) ++lines.left_out;
    if (step > last_step) break;
    if (step <= lines.last_step) continue;
    lines.text += std::string(line) + "\n";
    lines.last_step = step;
  }
  return lines;
}

fs::path free_name(const fs::path& path) {
  for (int i = 1;; ++i) {
    fs::path name =
        path.parent_path() / fmt::format("{}-damaged-{}{}", path.stem().string(), i, path.extension().string());
    if (!fs::exists(fs::symlink_status(name))) return name;
  }
}

/// What the file is to begin with: nothing, what it held at the checkpoint, or what is readable of that.
std::string kept_text(const fs::path& path, int64_t resumed_step, const FileDigest& saved) {
  if (resumed_step == 0) return "";
  const std::string text = fs::exists(path) ? read_file(path) : "";
  Digest digest;
  digest.add(text.data(), std::min<size_t>(text.size(), saved.bytes));
  if (text.size() >= saved.bytes && digest.hex() == saved.digest) return text.substr(0, saved.bytes);
  ReadableLines lines = readable_lines(text, resumed_step);
  if (text.empty()) {
    log_warning(fmt::format("{} is lost; it begins again behind step {}", path.string(), resumed_step));
    return "";
  }
  const fs::path aside = free_name(path);
  fs::rename(path, aside);
  log_warning(fmt::format(
      "{} is not what it was when step {} was saved; {} lines cannot be read and are left out, the others up "
      "to step {} are kept. The file as it was is {}",
      path.string(), resumed_step, lines.left_out, lines.last_step, aside.string()));
  return lines.text;
}

}  // namespace

MetricsWriter::MetricsWriter(const fs::path& path, int64_t resumed_step, const FileDigest& saved)
    : file_([&] {
        const std::string text = kept_text(path, resumed_step, saved);
        File file = File::open_or_create(path);
        // What is kept already stands there, or the file is new.
        if (file.size() < text.size()) file.write_at(text.data(), text.size(), 0);
        file.resize(text.size());
        end_ = text.size();
        digest_.add(text.data(), text.size());
        return file;
      }()) {}

void MetricsWriter::write(const StepMetrics& metrics) {
  const std::string line = to_json_line(metrics) + "\n";
  file_.write_at(line.data(), line.size(), end_);
  digest_.add(line.data(), line.size());
  end_ += line.size();
}

FileDigest MetricsWriter::synced() {
  file_.sync();
  return {end_, digest_.hex()};
}

}  // namespace deeptitan
