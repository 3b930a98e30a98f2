#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "data/batch_source.h"
#include "data/random_permutation.h"
#include "data/token_dataset.h"

namespace deeptitan {

/// Draws shuffled sequences from the training parts of several sources in proportion to their weights.
///
/// A pass over a source cuts it into windows of sequence_length tokens, from a random first token below that length on,
/// so that passes cut it in different places; the windows come in a random order. Sequence n of a run comes from the
/// source that is furthest behind its share, weight / sum of weights * (n + 1), the first such source where several
/// are.
class PackedSampler final : public BatchSource {
 public:
  /// The datasets must outlive the sampler. Throws a usage error where a source has too few tokens for one sequence.
  PackedSampler(const std::vector<TokenDataset>& datasets, int64_t sequence_length, int64_t seed,
                const TextEncoder& encoder);

  void next_batch(int64_t sequences, PackedBatch* batch) override;
  void skip(int64_t sequences) override;
  DataPosition position() const override;
  void restore(const DataPosition& position) override;

 private:
  struct Source {
    const TokenDataset* dataset;
    double share;
    uint64_t key;
    int64_t epoch = 0;
    int64_t index = 0;
    int64_t drawn = 0;
    int64_t first_token = 0;                 // of this pass
    std::optional<RandomPermutation> order;  // of this pass's windows
  };

  void begin_pass(Source& source) const;
  /// The next sequence's source and first token.
  std::pair<const Source*, int64_t> draw();

  int64_t sequence_length_;
  int32_t padding_token_;
  TokenBytes token_bytes_;
  std::vector<Source> sources_;
  int64_t drawn_ = 0;
};

}  // namespace deeptitan
