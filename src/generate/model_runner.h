#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/memory_plan.h"
#include "generate/batch_executor.h"
#include "generate/batch_tables.h"
#include "generate/page_pool.h"
#include "generate/runner_options.h"
#include "generate/sequence.h"

namespace deeptitan {

class ModelDirectory;

/// A model with its cache: runs the next tokens of several sequences in one batch. Which sequences these are, and how
/// many tokens of each, is the caller's choice (Scheduler); each sequence's logits have the same bits whatever else is
/// in the batch. Nothing is allocated after allocate().
///
/// Dynamic NTK positions follow the longest length in use, as in transformers: entries cached at a shorter length keep
/// the rotation they were written with, and a batch has one sequence.
class ModelRunner {
 public:
  /// Plans by running the largest batches without their kernels. Throws a usage error where context_length is beyond
  /// the model's max_position_embeddings.
  ModelRunner(const ModelConfig& config, const RunnerOptions& options);

  const ModelConfig& config() const { return executor_->config(); }
  const RunnerOptions& options() const { return executor_->options(); }
  /// Of what lies here.
  const MemoryPlan& plan() const { return executor_->plan(); }
  /// What each rank takes; one where all is here.
  const std::vector<RankMemory>& memory() const { return memory_; }

  /// Whether there is memory for what is planned, on every rank.
  bool fits() const { return rank_without_memory(memory_) < 0; }
  /// Takes it. Throws a usage error that lists the largest arenas where less is available.
  void allocate();

  // One of these fills the weights, after allocate(). ---------------------------------------------------------------
  void load(const ModelDirectory& directory);
  /// From the values of a model in training, which lies in this process.
  void load(const DeepseekModel& trained);
  /// Draws a new model, as TrainingEngine::initialize does: for measuring without a checkpoint.
  void initialize(uint64_t seed);

  // Batches. --------------------------------------------------------------------------------------------------------
  /// Most sequences of a batch, and most tokens of all of them.
  int64_t batch_sequences() const { return options().sequences; }
  int64_t batch_tokens() const { return options().batch_tokens; }
  const PagePool& pages() const { return pool_; }
  /// Pages that hold the entries of `tokens` tokens.
  int64_t pages_for(int64_t tokens) const { return (tokens + options().page_size - 1) / options().page_size; }

  /// The next `count` pending tokens of a sequence.
  struct Rows {
    Sequence* sequence = nullptr;
    int64_t count = 0;
  };
  /// Runs them, gives the sequences the pages that this takes, and returns the logits behind the last token of each:
  /// row i, of config().vocab_size, belongs to rows[i]; valid until the next call. Throws Error, with nothing changed,
  /// where tokens do not fit in the context, the batch or the cache, or an id is outside the embedding.
  std::span<const float> run(std::span<const Rows> rows);
  /// The same, but brings what next[i] wants behind rows[i]: a token that is chosen where the logits lie, or its
  /// logits.
  void run(std::span<const Rows> rows, std::span<NextToken> next);
  /// The logits behind a row of that batch that wanted them, or whose token could not be chosen; valid until the next
  /// call.
  std::span<const float> logits(int64_t row) const { return executor_->logits_of(row); }
  /// Which tokens run() may choose, those from the end of `tokens` on excepted; before it is called, all.
  void allow(const std::vector<bool>& tokens) { executor_->allow(tokens); }
  /// Runs them, and gives for each row the log-probability of targets[row] behind it (natural logarithm) and the
  /// likeliest follower. A target of -1 asks for nothing and gets 0 and -1; what it would cost is left out.
  void score(std::span<const Rows> rows, std::span<const int32_t> targets, std::span<float> logprobs,
             std::span<int32_t> likeliest);
  /// A follower whose log-probability is asked for: that behind a row, counted over all of a batch.
  struct Wanted {
    int32_t row = 0;
    int32_t target = 0;
  };
  /// The same for what is wanted alone: result i belongs to wanted[i]. A row may have several followers, or none; there
  /// are at most batch_tokens() of them.
  void score(std::span<const Rows> rows, std::span<const Wanted> wanted, std::span<float> logprobs,
             std::span<int32_t> likeliest);

  /// Forgets the entries and tokens from place `length` on.
  void truncate(Sequence& sequence, int64_t length);
  /// Gives back all pages.
  void release(Sequence& sequence) { truncate(sequence, 0); }
  /// A sequence with the same tokens and entries, as if it had been run itself. Pages are shared; one that is not full
  /// is copied by the first sequence that writes into it.
  Sequence fork(const Sequence& sequence);

  /// While set, time and floating-point operations are kept by op; nullptr ends it.
  void set_profile(OpProfile* profile) { executor_->set_profile(profile); }
  /// While true, the first op whose output is not finite throws Error that names it.
  void set_check_finite(bool on) { executor_->set_check_finite(on); }

 private:
  bool writes_shared_page(const Sequence& sequence) const;
  int32_t last_page(const Sequence& sequence) const;
  BatchTables::PageCopy own_last_page(Sequence& sequence);
  void check_runnable(std::span<const Rows> rows) const;
  BatchTables lay_out(std::span<const Rows> rows);

  std::unique_ptr<BatchExecutor> executor_;
  PagePool pool_;
  std::vector<RankMemory> memory_;
};

}  // namespace deeptitan
