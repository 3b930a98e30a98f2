#include "data/packed_sampler.h"

#include <algorithm>

#include "core/error.h"
#include "core/random.h"

namespace deeptitan {

PackedSampler::PackedSampler(const std::vector<TokenDataset>& datasets, int64_t sequence_length, int64_t seed,
                             const TextEncoder& encoder)
    : sequence_length_(sequence_length), padding_token_(encoder.eos_token_id), token_bytes_(encoder.token_bytes) {
  DT_CHECK(!datasets.empty() && sequence_length > 0, "{} sources and sequences of {} tokens; expected at least 1 each",
           datasets.size(), sequence_length);
  double sum_of_weights = 0;
  for (const TokenDataset& dataset : datasets) sum_of_weights += dataset.weight();
  for (const TokenDataset& dataset : datasets) {
    DT_CHECK_USAGE(
        dataset.training().size() > sequence_length,
        "source '{}' has {} tokens to train on, but one sequence with its last target takes {}; use a longer "
        "text or a smaller training.seq_len",
        dataset.name(), dataset.training().size(), sequence_length + 1);
    Source& source = sources_.emplace_back();
    source.dataset = &dataset;
    source.share = dataset.weight() / sum_of_weights;
    source.key = random_key("data/" + dataset.name(), static_cast<uint64_t>(seed));
    begin_pass(source);
  }
}

void PackedSampler::begin_pass(Source& source) const {
  // A window needs the token behind it as its last target.
  const TokenRange& range = source.dataset->training();
  const int64_t spare = range.size() - 1 - sequence_length_;
  const uint64_t pass_key = mix_bits(source.key + static_cast<uint64_t>(source.epoch));
  const auto choices = static_cast<uint64_t>(std::min(spare + 1, sequence_length_));
  const auto offset = static_cast<int64_t>(random_bits_64(pass_key, 0) % choices);
  source.first_token = range.first + offset;
  source.order.emplace(static_cast<uint64_t>((range.size() - 1 - offset) / sequence_length_), pass_key);
}

std::pair<const PackedSampler::Source*, int64_t> PackedSampler::draw() {
  Source* behind = nullptr;
  double furthest = 0;
  for (Source& source : sources_) {
    const double lag = source.share * static_cast<double>(drawn_ + 1) - static_cast<double>(source.drawn);
    if (behind == nullptr || lag > furthest) {
      behind = &source;
      furthest = lag;
    }
  }
  const auto window = static_cast<int64_t>((*behind->order)[static_cast<uint64_t>(behind->index)]);
  const int64_t first = behind->first_token + window * sequence_length_;
  ++drawn_;
  ++behind->drawn;
  if (++behind->index == static_cast<int64_t>(behind->order->size())) {
    ++behind->epoch;
    behind->index = 0;
    begin_pass(*behind);
  }
  return {behind, first};
}

void PackedSampler::next_batch(int64_t sequences, PackedBatch* batch) {
  batch->reset(sequences, sequence_length_);
  for (int64_t i = 0; i < sequences; ++i) {
    const auto [source, first] = draw();
    append_sequence(source->dataset->training(), first, padding_token_, token_bytes_, batch);
  }
}

void PackedSampler::skip(int64_t sequences) {
  for (int64_t i = 0; i < sequences; ++i) draw();
}

DataPosition PackedSampler::position() const {
  DataPosition position;
  for (const Source& source : sources_) {
    position.sources.push_back(
        {source.dataset->name(), source.dataset->fingerprint(), source.epoch, source.index, source.drawn});
  }
  return position;
}

void PackedSampler::restore(const DataPosition& position) {
  DT_CHECK_USAGE(position.sources.size() == sources_.size(),
                 "cannot resume: the checkpoint has read {} sources of text, data.sources names {}",
                 position.sources.size(), sources_.size());
  for (size_t i = 0; i < sources_.size(); ++i) {
    const DataPosition::Source& saved = position.sources[i];
    const TokenDataset& dataset = *sources_[i].dataset;
    DT_CHECK_USAGE(saved.name == dataset.name(), "cannot resume: source {} was '{}' in the checkpoint and is '{}' now",
                   i + 1, saved.name, dataset.name());
    DT_CHECK_USAGE(saved.fingerprint == dataset.fingerprint(),
                   "cannot resume: the text or tokenizer of source '{}' has changed since the checkpoint; bring back "
                   "what it was, or start a new run",
                   saved.name);
  }
  drawn_ = 0;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const DataPosition::Source& saved = position.sources[i];
    Source& source = sources_[i];
    source.epoch = saved.epoch;
    source.drawn = saved.drawn;
    begin_pass(source);
    DT_CHECK(saved.epoch >= 0 && saved.drawn >= 0 && saved.index >= 0 &&
                 saved.index < static_cast<int64_t>(source.order->size()),
             "the checkpoint's position in source '{}' (epoch {}, sequence {}) is outside a pass of {} sequences",
             saved.name, saved.epoch, saved.index, source.order->size());
    source.index = saved.index;
    drawn_ += saved.drawn;
  }
}

}  // namespace deeptitan
