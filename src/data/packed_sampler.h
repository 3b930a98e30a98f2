#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "data/batch_source.h"
#include "data/document_packing.h"
#include "data/random_permutation.h"
#include "data/token_dataset.h"

namespace deeptitan {

/// How long a run is: what passes are planned for.
struct RunLength {
  int64_t steps = 0;  // 0: not known
  int64_t sequences_per_step = 1;
};

/// Draws shuffled sequences from the training parts of several sources in proportion to their weights, within their
/// max_passes (divide_run).
///
/// A pass over a source cuts it into windows of sequence_length tokens, from a random first token below that length on,
/// so that passes cut it in different places; the windows come in a random order. A pass over conversations packs them
/// whole in a random order (DocumentPacking). Sequence n of a run comes from the source that is furthest behind its
/// share of n + 1, the first such source where several are.
class PackedSampler final : public BatchSource {
 public:
  /// The datasets must outlive the sampler. Says on the log how conversations are packed, how often a run of this
  /// length reads each source, and later when a further pass begins. Throws a usage error where a source has too few
  /// tokens for one sequence, or no conversation with an answer in its first sequence_length tokens, or where the
  /// sources' max_passes do not suffice for the run.
  PackedSampler(const std::vector<TokenDataset>& datasets, int64_t sequence_length, int64_t seed,
                const TextEncoder& encoder, const RunLength& run = {});

  void next_batch(int64_t sequences, PackedBatch* batch) override;
  void skip(int64_t sequences) override;
  DataPosition position() const override;
  void restore(const DataPosition& position) override;

 private:
  struct Source {
    const TokenDataset* dataset;
    double share;
    double planned_passes;
    uint64_t key;
    int64_t epoch = 0;
    int64_t index = 0;
    int64_t drawn = 0;
    int64_t sequences = 0;                   // of this pass
    int64_t first_token = 0;                 // of this pass's windows
    std::optional<RandomPermutation> order;  // of this pass's windows
    std::optional<DocumentPacking> packing;  // of this pass's conversations
  };

  void begin_pass(Source& source) const;
  void plan_passes(const RunLength& run);
  int64_t least_sequences(const Source& source) const;
  void check_windows(const TokenDataset& dataset) const;
  void check_packing(const TokenDataset& dataset, const DocumentPacking& packing) const;
  void append_sequence_of(const Source& source, PackedBatch* batch) const;
  void say_pass(const Source& source) const;
  /// Draws the next sequence, and appends it to `batch` where there is one.
  void draw(PackedBatch* batch);

  int64_t sequence_length_;
  int32_t padding_token_;
  TokenBytes token_bytes_;
  std::vector<Source> sources_;
  int64_t drawn_ = 0;
};

}  // namespace deeptitan
