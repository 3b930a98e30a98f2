#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "generate/model_runner.h"

namespace deeptitan {

/// Which sequences run in the next batch, and how many tokens of each. It knows lengths and pages, no model. Sequences
/// are admitted in the order they came, while a batch has a place for them and the cache the pages of all that they may
/// grow to: what was admitted is never put back. Each admitted sequence runs in every batch: one that has one token
/// pending decodes; one with more runs the next chunk of its prompt, as long as the batch has room. How a prompt is cut
/// depends on the prompt alone (next_chunk).
class Scheduler {
 public:
  struct Limits {
    int64_t sequences = 1;      // of one batch
    int64_t batch_tokens = 1;   // of one batch
    int64_t prefill_chunk = 1;  // of one prompt in a batch
    int64_t pages = 1;          // of the cache
    int64_t page_size = 1;
  };
  explicit Scheduler(const Limits& limits) : limits_(limits) {}
  explicit Scheduler(const ModelRunner& runner);

  /// Queues a sequence that will hold `most_tokens` entries at most, before those of a later `arrival`. Throws a usage
  /// error where the whole cache is too small for it.
  void add(Sequence* sequence, int64_t most_tokens, int64_t arrival);
  /// Whether a sequence could run now, past those that wait.
  bool can_admit(int64_t most_tokens) const;
  /// Lets it run now; can_admit says that it may.
  void admit(Sequence* sequence, int64_t most_tokens);
  /// A sequence has ended, waits no longer, or is given up.
  void remove(const Sequence* sequence);

  /// Keeps pages from being promised to sequences, where can_reserve says that they are left.
  bool can_reserve(int64_t pages) const { return reserved_ + pages <= limits_.pages; }
  void reserve(int64_t pages) { reserved_ += pages; }
  void unreserve(int64_t pages) { reserved_ -= pages; }

  /// Admits what can be admitted, and says what runs next: decoding sequences first. Empty where nothing is left.
  std::vector<ModelRunner::Rows> next();

 private:
  struct Entry {
    Sequence* sequence;
    int64_t pages;    // reserved for it
    int64_t arrival;  // counts while it waits
  };
  int64_t pages_for(int64_t tokens) const { return (tokens + limits_.page_size - 1) / limits_.page_size; }

  Limits limits_;
  std::deque<Entry> waiting_;   // by arrival
  std::vector<Entry> running_;  // in the order of admission
  int64_t reserved_ = 0;
};

}  // namespace deeptitan
