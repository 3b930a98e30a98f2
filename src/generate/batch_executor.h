#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/captured_graph.h"
#include "core/execution_context.h"
#include "core/memory_plan.h"
#include "core/upload_ring.h"
#include "generate/batch_tables.h"
#include "generate/next_token.h"
#include "generate/runner_options.h"
#include "generate/runner_ranks.h"
#include "model/deepseek/deepseek_model.h"

namespace deeptitan {

class ModelDirectory;

/// The part of a model that lies here, with its cache: runs batches as they are laid out. Which sequences these are is
/// known to ModelRunner, which on many ranks is the first one's. Nothing is allocated after allocate().
class BatchExecutor {
 public:
  /// Plans by running the largest batches without their kernels. The options are complete.
  BatchExecutor(const ModelConfig& config, const RunnerOptions& options);
  ~BatchExecutor();

  const ModelConfig& config() const { return model_.config(); }
  const RunnerOptions& options() const { return options_; }
  const MemoryPlan& plan() const { return plan_; }

  /// Takes the planned memory.
  void allocate();

  // One of these fills the weights, after allocate(). ---------------------------------------------------------------
  void load(const ModelDirectory& directory);
  void load(const DeepseekModel& trained);
  void initialize(uint64_t seed);

  // Batches. On many ranks all are told, and the first alone gets results. -----------------------------------------
  /// The logits behind the last token of each sequence: [S, V], valid until the next call.
  std::span<const float> logits(BatchTables& tables);
  /// The same, but brings what next[i] wants of sequence i: a token that is chosen where the logits lie, or its logits.
  void choose(BatchTables& tables, std::span<NextToken> next);
  /// Those of a sequence of that batch; valid until the next call.
  std::span<const float> logits_of(int64_t sequence) const;
  /// Which tokens may be chosen: those whose bit is set; before it is called, all.
  void allow(const std::vector<bool>& tokens);
  /// For each scored row the log-probability of its target (natural logarithm), and the likeliest.
  void logprobs(BatchTables& tables, std::span<float> found, std::span<int32_t> likeliest);
  /// Runs what another rank's call has told.
  void run(const BatchTables& tables);

  void set_profile(OpProfile* profile) { ctx_.profile = profile; }
  void set_check_finite(bool on) { check_finite_ = on; }

 private:
  void take_memory();
  bool gives_results() const { return options_.ranks == nullptr || options_.ranks->gives_results(); }
  bool gets_results() const { return options_.ranks == nullptr || options_.ranks->first(); }
  BatchLayout lay_out(const BatchCapacity& capacity, int64_t longest_position) const;
  BatchLayout upload(const BatchTables& tables);
  void copy_page(const BatchTables::PageCopy& copy);
  void run_and_share(BatchTables& tables);
  Tensor forward_hidden(const BatchLayout& batch);
  void forward(const BatchLayout& batch);
  void forward_logprobs(const BatchLayout& batch, int64_t scored);
  void run_batch(const BatchLayout& batch);
  void hand_over(const Tensor& result);
  void bring_logits(int64_t first, int64_t end);
  void upload_choices(std::span<const NextToken> next);
  void report_not_finite();

  RunnerOptions options_;
  Stage stage_;  // that lies here
  DeepseekModel model_;
  std::vector<std::unique_ptr<Arena>> arenas_;
  Arena* parameters_;
  Arena* prepared_;
  Arena* cache_;
  Arena* inputs_;
  Arena* workspace_;
  MemoryPlan plan_;

  ExecutionContext ctx_;
  bool check_finite_ = false;
  FirstNotFinite not_finite_;
  std::vector<LayerCache> layer_cache_;
  Tensor token_ids_, positions_, cache_slot_, query_offset_, cached_length_, page_table_, logit_rows_;
  Tensor scored_rows_, targets_, logprobs_, likeliest_;
  Tensor logits_, choices_, allowed_, earlier_, chosen_;
  std::vector<uint32_t> allowed_words_;
  int64_t allowed_count_ = 0;
  std::vector<uint32_t> earlier_words_;
  bool allowed_is_there_ = false;
  UploadRing uploads_;
  MemoryBlock host_logits_;  // pinned
  MemoryBlock host_chosen_;  // pinned
  struct BatchGraph {
    BatchCapacity capacity;
    std::unique_ptr<CapturedGraph> graph;  // nullptr: has run once
  };
  BatchGraph* graph_of(const BatchCapacity& capacity, bool* known);
  std::vector<BatchGraph> decode_graphs_;  // of one token a sequence
  std::vector<BatchGraph> prompt_graphs_;  // of more; the latest behind
};

/// What a rank behind the first does: plans, loads from `directory` and runs what the first tells it, until that ends.
void follow_first_rank(RunnerRanks& ranks, const ModelConfig& config, const std::filesystem::path& directory);

}  // namespace deeptitan
