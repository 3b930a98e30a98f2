#include "data/synthetic_source.h"

#include "core/error.h"
#include "core/random.h"

namespace deeptitan {

namespace {

constexpr std::string_view kName = "synthetic";

}  // namespace

SyntheticSource::SyntheticSource(int64_t vocab_size, int64_t sequence_length, int64_t seed)
    : vocab_size_(vocab_size),
      sequence_length_(sequence_length),
      key_(random_key("data/synthetic", static_cast<uint64_t>(seed))) {
  DT_CHECK(vocab_size > 0 && sequence_length > 0, "{} tokens of vocabulary, sequences of {}; expected at least 1 each",
           vocab_size, sequence_length);
}

void SyntheticSource::next_batch(int64_t sequences, PackedBatch* batch) {
  batch->reset(sequences, sequence_length_);
  for (int64_t s = 0; s < sequences; ++s, ++drawn_) {
    const auto first = static_cast<uint64_t>(drawn_ * (sequence_length_ + 1));
    const auto token_at = [&](int64_t i) {
      const uint64_t bits = random_bits(key_, first + static_cast<uint64_t>(i));
      return static_cast<int32_t>((bits * static_cast<uint64_t>(vocab_size_)) >> 32);
    };
    int32_t token = token_at(0);
    for (int64_t i = 0; i < sequence_length_; ++i) {
      const int32_t next = token_at(i + 1);
      batch->tokens.push_back(token);
      batch->targets.push_back(next);
      batch->positions.push_back(static_cast<int32_t>(i));
      token = next;
    }
    batch->document_offsets.push_back(static_cast<int32_t>(batch->tokens.size()));
    ++batch->sequences;
  }
  batch->target_count = batch->tokens_count();
}

DataPosition SyntheticSource::position() const {
  return {{{std::string(kName), std::to_string(vocab_size_), 0, drawn_, drawn_}}};
}

void SyntheticSource::restore(const DataPosition& position) {
  DT_CHECK_USAGE(position.sources.size() == 1 && position.sources[0].name == kName,
                 "cannot resume: the checkpoint was trained on text, and data.synthetic = true now");
  drawn_ = position.sources[0].drawn;
}

}  // namespace deeptitan
