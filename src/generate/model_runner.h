#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "core/arena.h"
#include "core/captured_graph.h"
#include "core/execution_context.h"
#include "core/memory_plan.h"
#include "core/upload_ring.h"
#include "generate/page_pool.h"
#include "generate/sequence.h"
#include "model/deepseek/deepseek_model.h"

namespace deeptitan {

class ModelDirectory;

struct RunnerOptions {
  Device device = {};
  DType compute = DType::kF32;   // of weights, activations and the cache: f32 or bf16
  int64_t context_length = 0;    // most tokens of a sequence; 0: the model's max_position_embeddings
  int64_t sequences = 1;         // most sequences of one batch
  int64_t prefill_chunk = 1024;  // most tokens of one prompt in a batch
  int64_t batch_tokens = 0;      // most tokens of a batch; at least (0: exactly) room for one such chunk and for one
                                 // token of each other sequence
  int64_t page_size = 64;        // tokens of a cache page
  bool graphs = true;            // on a GPU a batch of one token a sequence is captured when it runs a second time
  int64_t pages = 0;             // of the cache; 0: as many as `sequences` sequences of the context's length need
  /// The ranks that share out each layer's experts; nullptr: all are here. All make the same calls with the same
  /// tokens, and have the logits of one rank with all experts, bit for bit. The group outlives the runner.
  Communicator* ep = nullptr;
};

/// "bf16", "fp32" (in any spelling), or "auto" (bf16 on a GPU and where this processor multiplies it natively, else
/// fp32) as a dtype. Throws a usage error for any other word.
DType parse_compute_dtype(std::string_view word, Device device = {});

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
  ~ModelRunner();

  const ModelConfig& config() const { return model_.config(); }
  const RunnerOptions& options() const { return options_; }
  const MemoryPlan& plan() const { return plan_; }

  /// Takes the planned memory. Throws a usage error that lists the largest arenas where less is available.
  void allocate();

  // One of these fills the weights, after allocate(). ---------------------------------------------------------------
  void load(const ModelDirectory& directory);
  /// From the values of a model in training.
  void load(const DeepseekModel& trained);
  /// Draws a new model, as TrainingEngine::initialize does: for measuring without a checkpoint.
  void initialize(uint64_t seed);

  // Batches. --------------------------------------------------------------------------------------------------------
  /// Most sequences of a batch, and most tokens of all of them.
  int64_t batch_sequences() const { return options_.sequences; }
  int64_t batch_tokens() const { return options_.batch_tokens; }
  const PagePool& pages() const { return pool_; }
  /// Pages that hold the entries of `tokens` tokens.
  int64_t pages_for(int64_t tokens) const { return (tokens + options_.page_size - 1) / options_.page_size; }

  /// The next `count` pending tokens of a sequence.
  struct Rows {
    Sequence* sequence = nullptr;
    int64_t count = 0;
  };
  /// Runs them, gives the sequences the pages that this takes, and returns the logits behind the last token of each:
  /// row i, of config().vocab_size, belongs to rows[i]; valid until the next call. Throws Error, with nothing changed,
  /// where tokens do not fit in the context, the batch or the cache, or an id is outside the embedding.
  std::span<const float> run(std::span<const Rows> rows);
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
  void set_profile(OpProfile* profile) { ctx_.profile = profile; }
  /// While true, the first op whose output is not finite throws Error that names it.
  void set_check_finite(bool on) { ctx_.check_finite = on; }

 private:
  void take_memory();
  BatchLayout lay_out(const BatchCapacity& capacity, int64_t longest_position) const;
  bool writes_shared_page(const Sequence& sequence) const;
  int32_t last_page(const Sequence& sequence) const;
  void own_last_page(Sequence& sequence);
  void check_runnable(std::span<const Rows> rows) const;
  BatchLayout prepare(std::span<const Rows> rows);
  void forward(const BatchLayout& batch);
  void forward_logprobs(const BatchLayout& batch, int64_t scored);
  Tensor forward_hidden(const BatchLayout& batch);
  void run_batch(const BatchLayout& batch);

  RunnerOptions options_;
  DeepseekModel model_;
  PagePool pool_;
  std::vector<std::unique_ptr<Arena>> arenas_;
  Arena* parameters_;
  Arena* prepared_;
  Arena* cache_;
  Arena* inputs_;
  Arena* workspace_;
  MemoryPlan plan_;

  ExecutionContext ctx_;
  std::vector<LayerCache> layer_cache_;
  Tensor token_ids_, positions_, cache_slot_, query_offset_, cached_length_, page_table_, logit_rows_;
  Tensor scored_rows_, targets_, logprobs_, likeliest_;
  Tensor logits_;
  UploadRing uploads_;
  MemoryBlock host_logits_;  // pinned
  struct DecodeGraph {
    BatchCapacity capacity;
    std::unique_ptr<CapturedGraph> graph;  // nullptr: has run once
  };
  std::vector<DecodeGraph> decode_graphs_;
};

}  // namespace deeptitan
