#include "train/metrics_writer.h"

#include <string>

#include "core/error.h"
#include "core/json_reader.h"

namespace deeptitan {

namespace {

/// Bytes of the whole lines at the beginning of `text` whose steps are at most `last_step`.
size_t length_up_to(std::string_view text, int64_t last_step, const std::filesystem::path& path) {
  size_t at = 0;
  for (int64_t line_number = 1;; ++line_number) {
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos) return at;
    const nlohmann::json line = try_read_json(text.substr(at, end - at)).value_or(nlohmann::json());
    const bool readable = line.is_object() && line.contains("step") && line["step"].is_number_integer();
    DT_CHECK(readable, "{}:{}: expected a JSON object with a step; move the file away, or correct the line",
             path.string(), line_number);
    if (line["step"].get<int64_t>() > last_step) return at;
    at = end + 1;
  }
}

}  // namespace

MetricsWriter::MetricsWriter(const std::filesystem::path& path, int64_t resumed_step)
    : file_(File::open_or_create(path)) {
  if (resumed_step > 0) {
    std::string text(file_.size(), '\0');
    file_.read_at(text.data(), text.size(), 0);
    end_ = length_up_to(text, resumed_step, path);
  }
  file_.resize(end_);
}

void MetricsWriter::write(const StepMetrics& metrics) {
  const std::string line = to_json_line(metrics) + "\n";
  file_.write_at(line.data(), line.size(), end_);
  end_ += line.size();
}

}  // namespace deeptitan
