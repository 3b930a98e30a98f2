#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/execution_context.h"
#include "core/tensor.h"
#include "model/batch_layout.h"

namespace deeptitan {

/// One stream of cached values of a layer: `width` values a token, in the model's compute dtype.
struct CacheStream {
  std::string name;
  int64_t width = 0;
};

/// A layer's cache as the kernels see it: one tensor a stream, [pages, page_size, width].
using LayerCache = std::vector<Tensor>;

/// Where layers leave what is not their output: losses besides the main one, and how loaded the experts were.
class AuxiliarySink {
 public:
  virtual ~AuxiliarySink() = default;
  /// A loss of layer `layer`, summed over tokens, already weighted: where the ops run.
  virtual double* balance_loss(int64_t layer) = 0;
  /// Tokens that each expert of layer `layer` has got in this step: i32 [E].
  virtual Tensor expert_load(int64_t layer) = 0;
};

/// The expert choices of a forward, to be recorded or replayed: i32 [T, K] for each layer with experts.
struct RouteRecord {
  bool replay = false;
  std::vector<Tensor> expert_index;  // by layer; undefined for layers without experts
};

/// Is told in a backward as gradients become complete, so that they can be reduced beside it.
class GradientObserver {
 public:
  virtual ~GradientObserver() = default;
  /// Those are complete whose GradientTime says so.
  virtual void completed(ExecutionContext& ctx, int64_t time) = 0;
};

/// What a forward saves for its backward. Each kind of layer has its own.
struct Record {
  virtual ~Record() = default;
};

/// Of two microbatches whose weights' backward follow one another: the first leaves its experts' weights to the second,
/// which adds both up at once. By layer, the first's record.
struct PairedWeights {
  bool first = false;  // whether this is the first of the two
  std::map<int64_t, const Record*>* waiting = nullptr;
};

/// What travels with a forward and its backward through every layer.
struct ForwardContext {
  const BatchLayout& batch;
  AuxiliarySink* auxiliary = nullptr;  // nullptr: nothing is counted (validation, recomputation, inference)
  std::span<LayerCache> cache = {};    // by layer; empty: none
  RouteRecord* routes = nullptr;
  /// The experts take as many tokens at once as surely fit: a step whose rows overflowed is run again so.
  bool experts_in_slices = false;
  GradientObserver* gradients = nullptr;  // told as a backward completes gradients
  PairedWeights paired = {};              // in a backward of weights
};

/// What a backward computes again rather than finds in the record.
enum class Recomputation {
  kNothing,
  kCheap,   // what costs no product: norms, SwiGLU, the rows in the order of their experts
  kLayers,  // the whole inside of each decoder layer, from its input
};

/// Where a record's tensors come from: `saved` until the layer's backward is over, `gradients` from backward_input
/// until backward_weights, `recomputed` (nullptr: nothing is apart) within a forward, and from recompute until
/// backward_weights. Of whole layers it is what all records share; nullptr: the layers of one share what is `saved`.
struct RecordArenas {
  Arena& saved;
  Arena& gradients;
  Arena* recomputed = nullptr;

  /// For what recompute makes again.
  Arena& cheap() const { return recomputed == nullptr ? saved : *recomputed; }
};

/// What stands between two residual additions: an attention kind or a feed-forward kind. T tokens, D hidden.
class Sublayer {
 public:
  virtual ~Sublayer() = default;

  /// A record for `tokens` tokens.
  virtual std::unique_ptr<Record> make_record(const RecordArenas& arenas, int64_t tokens) const = 0;

  /// out = f(x). `record` is nullptr for inference: then everything else lives in the workspace.
  virtual void forward(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out /* [T, D] */,
                       const Tensor& x /* [T, D] */, Record* record) const = 0;

  /// out = residual + f(x), for inference: both are rounded, the sum last.
  virtual void forward_onto(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& out /* [T, D] */,
                            const Tensor& x /* [T, D] */, const Tensor& residual /* [T, D] */) const;

  /// Makes again what the record took from RecordArenas::cheap() and the forward wrote there, bit for bit.
  virtual void recompute(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& x /* [T, D] */,
                         Record& record) const = 0;

  /// d_x = the gradient of the input. Keeps in the record what backward_weights needs.
  virtual void backward_input(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_x /* [T, D] */,
                              const Tensor& d_out /* [T, D] */, const Tensor& x /* [T, D] */, Record& record) const = 0;

  /// Adds to the gradients of the sublayer's parameters.
  virtual void backward_weights(ExecutionContext& ctx, const ForwardContext& forward, const Tensor& d_out /* [T, D] */,
                                const Tensor& x /* [T, D] */, Record& record) const = 0;

  /// What it caches for each token while generating.
  virtual std::vector<CacheStream> cache_streams() const { return {}; }
};

}  // namespace deeptitan
