#include "data/token_dataset.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace deeptitan {

int64_t validation_cut(const TokenRange& all, double fraction) {
  if (all.is_chat()) {
    const auto conversations = static_cast<double>(all.document_starts.size() - 1);
    return all
        .document_starts[all.document_starts.size() - 1 - static_cast<size_t>(std::llround(conversations * fraction))];
  }
  const int64_t held_out = std::llround(static_cast<double>(all.size()) * fraction);
  const int64_t cut = all.end - held_out;
  const auto next = std::lower_bound(all.document_starts.begin(), all.document_starts.end(), cut);
  const bool near = next != all.document_starts.end() && *next < all.end && *next - cut <= held_out / 10;
  return near ? *next : cut;
}

TokenDataset::TokenDataset(const TextSource& source, double validation_fraction, const TextEncoder& encoder,
                           const std::filesystem::path& cache_folder)
    : name_(source.display_name()),
      weight_(source.weight),
      max_passes_(source.max_passes),
      file_(open_token_file(source, source.path, encoder, cache_folder)) {
  training_ = file_.all();
  if (!source.validation_path.empty()) {
    validation_file_ = open_token_file(source, source.validation_path, encoder, cache_folder);
    validation_ = validation_file_->all();
    return;
  }
  validation_ = training_;
  validation_.first = validation_cut(training_, validation_fraction);
  training_.end = validation_.first;
}

int32_t TokenDataset::largest_token() const {
  return std::max(file_.largest_token(), validation_file_ ? validation_file_->largest_token() : 0);
}

std::string TokenDataset::fingerprint() const {
  return fmt::format("{}:{}", file_.content_hash(), training_.end);
}

std::vector<TokenDataset> open_datasets(const RunConfig& config, const TextEncoder& encoder, int64_t vocab_size) {
  std::vector<TokenDataset> datasets;
  for (const TextSource& source : config.data.sources) {
    datasets.emplace_back(source, config.validation.fraction, encoder, config.data.cache_folder);
    DT_CHECK_USAGE(datasets.back().largest_token() < vocab_size,
                   "the tokenizer gives token {} but the model's vocab_size is {}; set model.shape.vocab_size to at "
                   "least {}, or use the model's own tokenizer",
                   datasets.back().largest_token(), vocab_size, datasets.back().largest_token() + 1);
  }
  return datasets;
}

}  // namespace deeptitan
