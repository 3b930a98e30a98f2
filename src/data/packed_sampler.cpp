#include "data/packed_sampler.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/log.h"
#include "core/random.h"
#include "data/source_plan.h"

namespace deeptitan {
namespace {

constexpr int kManyPasses = 4;

// Passes that begin are said one by one at first, then at each doubling.
bool is_said(int64_t pass) {
  return pass <= kManyPasses || (pass & (pass - 1)) == 0;
}

}  // namespace

PackedSampler::PackedSampler(const std::vector<TokenDataset>& datasets, int64_t sequence_length, int64_t seed,
                             const TextEncoder& encoder, const RunLength& run)
    : sequence_length_(sequence_length), padding_token_(encoder.eos_token_id), token_bytes_(encoder.token_bytes) {
  DT_CHECK(!datasets.empty() && sequence_length > 0, "{} sources and sequences of {} tokens; expected at least 1 each",
           datasets.size(), sequence_length);
  for (const TokenDataset& dataset : datasets) {
    if (!dataset.training().is_chat()) check_windows(dataset);
    Source& source = sources_.emplace_back();
    source.dataset = &dataset;
    source.key = random_key("data/" + dataset.name(), static_cast<uint64_t>(seed));
    begin_pass(source);
    if (source.packing) check_packing(dataset, *source.packing);
  }
  plan_passes(run);
}

// Of a pass that begins at the most unfavourable token.
int64_t PackedSampler::least_sequences(const Source& source) const {
  if (source.packing) return source.sequences;
  const int64_t tokens = source.dataset->training().size() - 1;
  return std::max<int64_t>(1, (tokens - (sequence_length_ - 1)) / sequence_length_);
}

void PackedSampler::plan_passes(const RunLength& run) {
  std::vector<SourceDemand> demands;
  for (const Source& source : sources_) {
    demands.push_back(
        {source.dataset->name(), source.dataset->weight(), source.dataset->max_passes(), least_sequences(source)});
  }
  const int64_t total = run.steps * run.sequences_per_step;
  const std::vector<SourceShare> shares = divide_run(demands, total, run.sequences_per_step);
  for (size_t i = 0; i < sources_.size(); ++i) {
    Source& source = sources_[i];
    source.share = shares[i].share;
    source.planned_passes = shares[i].passes;
    if (total == 0) continue;
    log_info(fmt::format("{}: {} tokens to train on, {:.2f} passes over them are planned ({:.1f} % of the run)",
                         demands[i].name, source.dataset->training().size(), source.planned_passes,
                         100 * source.share));
    if (source.planned_passes > kManyPasses) {
      log_warning(fmt::format(
          "{}: the run reads it {:.0f} times; beyond about {} passes the same text teaches little more (arXiv "
          "2305.16264): set max_passes of the source, lower its weight or training.steps, or add text",
          demands[i].name, source.planned_passes, kManyPasses));
    }
  }
}

void PackedSampler::check_windows(const TokenDataset& dataset) const {
  DT_CHECK_USAGE(dataset.training().size() > sequence_length_,
                 "source '{}' has {} tokens to train on, but one sequence with its last target takes {}; use a longer "
                 "text or a smaller training.seq_len",
                 dataset.name(), dataset.training().size(), sequence_length_ + 1);
}

void PackedSampler::check_packing(const TokenDataset& dataset, const DocumentPacking& packing) const {
  const PackingStatistics& s = packing.statistics();
  DT_CHECK_USAGE(packing.sequences() > 0,
                 "source '{}' has no conversation whose first {} tokens hold a part of an answer (the longest has {}); "
                 "raise training.seq_len",
                 dataset.name(), sequence_length_, s.longest);
  const double places = static_cast<double>(packing.sequences() * sequence_length_);
  log_info(fmt::format(
      "{}: {} conversations packed whole into {} sequences of {} tokens, {:.1f} % of which are padding", dataset.name(),
      s.documents, packing.sequences(), sequence_length_, 100.0 * (1.0 - static_cast<double>(s.tokens) / places)));
  if (s.cut + s.left_out > 0) {
    log_warning(fmt::format(
        "{}: {} conversations are longer than training.seq_len = {} and are cut there, {} have no answer before it and "
        "are left out; the longest has {} tokens",
        dataset.name(), s.cut, sequence_length_, s.left_out, s.longest));
  }
}

void PackedSampler::begin_pass(Source& source) const {
  const TokenRange& range = source.dataset->training();
  const uint64_t pass_key = mix_bits(source.key + static_cast<uint64_t>(source.epoch));
  if (range.is_chat()) {
    source.packing.emplace(range, sequence_length_, pass_key);
    source.sequences = source.packing->sequences();
    return;
  }
  // A window needs the token behind it as its last target.
  const int64_t spare = range.size() - 1 - sequence_length_;
  const auto choices = static_cast<uint64_t>(std::min(spare + 1, sequence_length_));
  const auto offset = static_cast<int64_t>(random_bits_64(pass_key, 0) % choices);
  source.first_token = range.first + offset;
  source.sequences = (range.size() - 1 - offset) / sequence_length_;
  source.order.emplace(static_cast<uint64_t>(source.sequences), pass_key);
}

void PackedSampler::append_sequence_of(const Source& source, PackedBatch* batch) const {
  if (source.packing) {
    source.packing->append(source.index, padding_token_, token_bytes_, batch);
    return;
  }
  const auto window = static_cast<int64_t>((*source.order)[static_cast<uint64_t>(source.index)]);
  append_sequence(source.dataset->training(), source.first_token + window * sequence_length_, padding_token_,
                  token_bytes_, batch);
}

// Said with the first sequence that is taken of it: a run that ends with a pass begins no other.
void PackedSampler::say_pass(const Source& source) const {
  if (source.planned_passes <= 0 || !is_said(source.epoch + 1)) return;
  // The last is begun, if not finished.
  const auto passes = std::max(static_cast<int64_t>(std::ceil(source.planned_passes)), source.epoch + 1);
  log_info(fmt::format("{}: pass {} of {} begins", source.dataset->name(), source.epoch + 1, passes));
}

void PackedSampler::draw(PackedBatch* batch) {
  Source* behind = nullptr;
  double furthest = 0;
  for (Source& source : sources_) {
    const double lag = source.share * static_cast<double>(drawn_ + 1) - static_cast<double>(source.drawn);
    if (behind == nullptr || lag > furthest) {
      behind = &source;
      furthest = lag;
    }
  }
  if (batch != nullptr) {
    if (behind->index == 0 && behind->epoch > 0) say_pass(*behind);
    append_sequence_of(*behind, batch);
  }
  ++drawn_;
  ++behind->drawn;
  if (++behind->index == behind->sequences) {
    ++behind->epoch;
    behind->index = 0;
    begin_pass(*behind);
  }
}

void PackedSampler::next_batch(int64_t sequences, PackedBatch* batch) {
  batch->reset(sequences, sequence_length_);
  for (int64_t i = 0; i < sequences; ++i) draw(batch);
}

void PackedSampler::skip(int64_t sequences) {
  for (int64_t i = 0; i < sequences; ++i) draw(nullptr);
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
    DT_CHECK_USAGE(
        saved.fingerprint == dataset.fingerprint(),
        "cannot resume: the text, tokenizer or chat template of source '{}' has changed since the checkpoint; "
        "bring back what it was, or start a new run",
        saved.name);
  }
  drawn_ = 0;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const DataPosition::Source& saved = position.sources[i];
    Source& source = sources_[i];
    source.epoch = saved.epoch;
    source.drawn = saved.drawn;
    begin_pass(source);
    DT_CHECK(saved.epoch >= 0 && saved.drawn >= 0 && saved.index >= 0 && saved.index < source.sequences,
             "the checkpoint's position in source '{}' (epoch {}, sequence {}) is outside a pass of {} sequences",
             saved.name, saved.epoch, saved.index, source.sequences);
    source.index = saved.index;
    drawn_ += saved.drawn;
  }
}

}  // namespace deeptitan
