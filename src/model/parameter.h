#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/arena.h"
#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/linear.h"

namespace deeptitan {

enum class Initialization { kNormal, kOnes, kZeros };

/// Which ranks hold a parameter: every rank, or the ranks of its experts.
enum class ParameterPlacement { kDense, kExpert };

/// What the model is bound for. Training keeps fp32 masters and gradients; inference keeps only what the kernels read.
enum class ModelUse { kTraining, kInference };

/// What a layer declares.
struct ParameterSpec {
  /// The tensor's name in a Hugging Face checkpoint. "{}" stands for the expert: the file has one tensor an expert,
  /// here they are stacked along a first dimension.
  std::string name;
  std::vector<int64_t> shape;
  Initialization initialization = Initialization::kNormal;
  ParameterPlacement placement = ParameterPlacement::kDense;
  bool weight_decay = true;
  bool trained = true;  // false: a buffer that the optimizer does not see, such as the router's bias
  bool direct = false;  // layers read it as it is (norms, embedding), not only through a PreparedWeight
};

/// The values of a new parameter, in fp32: element i depends on the seed, the name and i alone.
void draw_initial_values(const ParameterSpec& spec, uint64_t seed, double range, float* values);

/// A declared parameter and, once bound, where it lies.
struct Parameter {
  ParameterSpec spec;
  Tensor value;     // training: f32, all of it. Inference: only of direct ones (vectors f32, matrices in compute dtype)
  Tensor gradient;  // f32; undefined where it is not trained (inference, buffers, frozen)
  std::vector<Tensor>
      parts;  // the value as matrices, one an expert (one in all where not stacked); maybe in a file's memory
  bool frozen = false;

  int64_t numel() const;
  bool stacked() const { return spec.name.find("{}") != std::string::npos; }
  /// Names in a checkpoint, one an expert.
  std::vector<std::string> file_names() const;
  /// Shape of one of those.
  std::vector<int64_t> part_shape() const;
};

/// A contiguous band of a parameter's rows for each head: what absorbed projections are prepared from.
struct HeadRows {
  int64_t heads = 0;
  int64_t stride = 0;  // rows from head to head
  int64_t first = 0;   // first row of the band inside a head
  int64_t count = 0;   // rows of the band
};

/// All parameters of a model (or of a stage), in the order of declaration, and what is prepared from them. It owns
/// descriptions; memory comes from the arenas that it is planned into.
class ParameterList {
 public:
  ParameterList(ModelUse use, DType compute) : use_(use), compute_(compute) {}
  ParameterList(const ParameterList&) = delete;
  ParameterList& operator=(const ParameterList&) = delete;

  ModelUse use() const { return use_; }
  DType compute() const { return compute_; }

  Parameter* declare(ParameterSpec spec);

  /// Asks for a weight to be prepared: each matrix of the parameter for its own product.
  PreparedWeight* prepare(const Parameter* parameter, DType operand, bool for_backward_input);
  /// The same for a band of rows of each head.
  PreparedWeight* prepare_heads(const Parameter* parameter, DType operand, const HeadRows& rows, bool transposed);

  /// Takes the values' memory: all in fp32 for training, the direct ones for inference.
  void plan_values(Arena& arena);
  /// Takes the gradients' memory, of trained and not frozen parameters, in one piece from the front.
  void plan_gradients(Arena& arena);
  /// Takes the prepared weights' memory.
  void plan_prepared(Arena& arena);

  /// Fills the prepared weights from the values.
  void refresh(ExecutionContext& ctx);

  /// Fills those that are prepared from one parameter, whose parts a loader has just bound.
  void refresh(ExecutionContext& ctx, const Parameter& parameter);

  /// Draws the values of a new model: draw_initial_values of each parameter.
  void initialize(uint64_t seed, double range);

  std::deque<Parameter>& all() { return parameters_; }
  const std::deque<Parameter>& all() const { return parameters_; }
  Parameter* find(std::string_view name);
  int64_t total() const;

 private:
  struct Prepared {
    const Parameter* parameter;
    HeadRows rows;
    PreparedWeight weight;
  };
  static void bind(Prepared& prepared);

  ModelUse use_;
  DType compute_;
  std::deque<Parameter> parameters_;
  std::deque<Prepared> prepared_;
};

}  // namespace deeptitan
