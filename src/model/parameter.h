#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "core/execution_context.h"
#include "core/tensor.h"
#include "model/parameter_buckets.h"
#include "ops/linear.h"

namespace deeptitan {

enum class Initialization { kNormal, kOnes, kZeros };

/// Which ranks hold a parameter: every rank, or the ranks of its experts.
enum class ParameterPlacement { kDense, kExpert };

/// What of a parameter lies in memory.
enum class Residency {
  kTrained,         // an fp32 master with a gradient; what products want is prepared from it after each update
  kFrozenPrepared,  // no master: prepared once, from the file; gradients pass through it to the layers below
  kPreparedOnly,    // the same where no gradients pass: a model that only runs
  kDirect,          // the values as layers read them, never trained: vectors in fp32, tables in the compute dtype
};

/// The experts that this rank owns, of each layer that has some.
struct ExpertRange {
  int64_t first = 0;
  int64_t count = -1;  // -1: all from the first on
};

/// Rows of a parameter's matrix (of each expert's, where they are stacked) that are one tensor of a checkpoint.
struct ParameterPiece {
  std::string name;  // in a Hugging Face checkpoint; "{}" stands for the expert
  int64_t rows = 0;
};

/// What a layer declares.
struct ParameterSpec {
  /// The parameter's name: that of its tensor in a checkpoint, where it is made of one. With "{}" for the expert: the
  /// file has tensors for each expert, here they are stacked along a first dimension.
  std::string name;
  std::vector<int64_t> shape;  // of the whole, whatever this rank owns
  /// What the file has, from the first row of the matrix on. Left empty: one tensor of the parameter's name.
  std::vector<ParameterPiece> pieces = {};
  Initialization initialization = Initialization::kNormal;
  ParameterPlacement placement = ParameterPlacement::kDense;
  bool weight_decay = true;
  bool trained = true;  // false: a buffer that the optimizer does not see, such as the router's bias
  bool direct = false;  // layers read it as it is (norms, embedding), not only through a PreparedWeight
};

/// One tensor of a checkpoint, and where it lies in a parameter's value.
struct FileTensor {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset = 0;       // of its first element in the value; its elements follow one another there
  std::string stream;       // its random numbers: the piece's name, "{}" for the expert
  int64_t first_index = 0;  // of its first element in that stream, where the tensors of all experts follow one another

  int64_t numel() const;
};

/// A declared parameter and, once bound, where it lies.
struct Parameter {
  ParameterSpec spec;
  ExpertRange owned;           // of a stacked parameter: the experts that lie here
  std::vector<int64_t> shape;  // of what lies here: spec.shape, or fewer experts
  Residency residency = Residency::kTrained;
  bool frozen = false;            // trained were it not for training.freeze; or a buffer that it holds
  Tensor value;                   // f32 where trained; undefined where only prepared
  Tensor gradient;                // f32; undefined where it is not trained
  bool gradient_written = false;  // in this step

  /// Whether the write to the gradient that the caller is about to make adds; the first of a step overwrites.
  bool accumulate_gradient() { return std::exchange(gradient_written, true); }

  /// Elements that lie here.
  int64_t numel() const;
  /// The place of the first of them among those of the whole, and how many that are.
  int64_t first_in_whole() const;
  int64_t whole_numel() const;
  bool stacked() const { return spec.name.find("{}") != std::string::npos; }
  /// The tensors of a checkpoint that what lies here is made of, expert by expert, in the order of their places.
  std::vector<FileTensor> file_tensors() const;
  /// The names of those of all experts, owned or not: expert by expert, the pieces of each in order.
  std::vector<std::string> file_names() const;
};

/// Where values come from: a checkpoint, a seed, another model. A parameter without a master asks again when a
/// checkpoint is written.
class ParameterSource {
 public:
  virtual ~ParameterSource() = default;
  /// Writes the tensor's values, rounded to `dtype` (f32 or bf16). Throws where there are none.
  virtual void read(const Parameter& parameter, const FileTensor& tensor, DType dtype, void* values) const = 0;
  /// The tensor where it lies, f32 or bf16 and contiguous, if it lies in memory so; else undefined. release() follows.
  virtual Tensor view(const Parameter& parameter, const FileTensor& tensor) const;
  /// The tensor where it lies in e4m3 with block scales, if it does; else undefined. release() follows.
  virtual BlockQuantized quantized(const Parameter& parameter, const FileTensor& tensor) const;
  virtual void release(const Parameter& parameter, const FileTensor& tensor) const;
  /// Whether it has read_rows: rows [first, first + rows) of the tensor (of a vector: elements), on the calling thread
  /// and beside others. `first` is a multiple of 128.
  virtual bool reads_rows() const { return false; }
  virtual void read_rows(const Parameter& parameter, const FileTensor& tensor, int64_t first, int64_t rows, DType dtype,
                         void* values) const;
};

/// The values of a new model: element i of a file tensor depends on the seed, the tensor's name and i alone.
class DrawnValues final : public ParameterSource {
 public:
  DrawnValues(uint64_t seed, double range) : seed_(seed), range_(range) {}
  void read(const Parameter& parameter, const FileTensor& tensor, DType dtype, void* values) const override;
  bool reads_rows() const override { return true; }
  void read_rows(const Parameter& parameter, const FileTensor& tensor, int64_t first, int64_t rows, DType dtype,
                 void* values) const override;

 private:
  void draw(const Parameter& parameter, const FileTensor& tensor, int64_t first, int64_t count, DType dtype,
            void* values) const;

  uint64_t seed_;
  double range_;
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
  /// `training`: gradients pass through the model, and its parameters are trained unless they are frozen.
  ParameterList(bool training, DType compute, ExpertRange experts = {})
      : training_(training), compute_(compute), experts_(experts) {}
  ParameterList(const ParameterList&) = delete;
  ParameterList& operator=(const ParameterList&) = delete;

  bool training() const { return training_; }
  DType compute() const { return compute_; }

  Parameter* declare(ParameterSpec spec);
  /// From now on the parameter is not trained. Before anything is planned.
  void freeze(Parameter& parameter);

  /// By which strategy a GPU multiplies experts in a model that only runs. Before anything is declared.
  void set_expert_products(std::optional<GroupedGemmStrategy> strategy) { expert_products_ = strategy; }

  /// Asks for a weight to be prepared for activations of this type: each matrix of the parameter for its own product.
  PreparedWeight* prepare(const Parameter* parameter, DType activations);
  /// The same for a band of rows of each head.
  PreparedWeight* prepare_heads(const Parameter* parameter, DType activations, const HeadRows& rows, bool transposed);

  /// Takes the values' memory, by residency: the masters bucket by bucket, then what is read directly.
  void plan_values(Arena& arena);
  /// Takes the gradients' memory, bucket by bucket.
  void plan_gradients(Arena& arena);
  /// The same for one bucket, whose memory (and that of what this rank keeps of it) somebody else has.
  void bind_gradient(size_t bucket, const Tensor& memory /* f32 [numel] */, const Tensor& kept);
  /// A bucket is closed when it holds so many elements. Before anything is planned.
  void set_bucket_elements(int64_t elements) { bucket_elements_ = elements; }
  /// By parameter: no bucket has members of two windows. Before anything is planned.
  void set_bucket_windows(std::vector<int64_t> windows) { bucket_windows_ = std::move(windows); }
  /// Takes the prepared weights' memory.
  void plan_prepared(Arena& arena);
  /// Takes from the workspace what filling them takes there, while planning.
  void plan_preparing(ExecutionContext& ctx) const;

  /// Fills all values and what is prepared from them, one expert at a time where there is no master. The source is
  /// kept where something is not in memory as it is in the source.
  void load(ExecutionContext& ctx, std::shared_ptr<const ParameterSource> source);
  /// The bf16 rows that products want of a parameter, where they are its elements in their order: what an update of the
  /// master can write as it goes. bf16 [numel]; undefined where products want something else, or nothing.
  Tensor rows_in_order(const Parameter& parameter) const;
  /// Fills the prepared weights from the masters, after these have changed: all but the rows_in_order of parameters of
  /// which `rows_are_written`.
  void refresh(ExecutionContext& ctx, const std::function<bool(const Parameter&)>& rows_are_written = {});
  /// Whether layers read the parameter's master in bf16 alone, once prepared. Once what is prepared has been planned.
  bool read_in_bf16(const Parameter& parameter) const;
  /// A file tensor's values in fp32, where they lie; or, where they do not lie in memory in fp32, read from the source
  /// once more into `staged`.
  const float* values(const Parameter& parameter, const FileTensor& tensor, std::vector<float>& staged) const;

  /// The trained parameters' pieces of memory, in the order in which the backward completes their gradients. Once they
  /// are planned.
  const std::vector<ParameterBucket>& buckets() const { return buckets_; }

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
  void cut_buckets(const Arena& arena);
  Tensor in_bucket(const Tensor& bucket, const ParameterBucket::Member& member) const;
  const Prepared* find_rows_in_order(const Parameter& parameter) const;
  void prepare_from_value(ExecutionContext& ctx, Prepared& prepared) const;
  void prepare_group(ExecutionContext& ctx, const Parameter& parameter, int64_t group,
                     std::span<const Tensor> matrices);
  void prepare_from_source(ExecutionContext& ctx, const Parameter& parameter, const ParameterSource& source);
  bool upload(ExecutionContext& ctx, const ParameterSource& source);
  void load_one_by_one(ExecutionContext& ctx, const ParameterSource& source);
  bool prepare_as_stored(ExecutionContext& ctx, const Parameter& parameter, const ParameterSource& source,
                         const std::vector<FileTensor>& tensors);

  bool training_;
  DType compute_;
  ExpertRange experts_;
  std::optional<GroupedGemmStrategy> expert_products_;
  int64_t bucket_elements_ = 1 << 24;  // enough to be reduced or updated at once: 64 MB in fp32
  std::vector<int64_t> bucket_windows_;
  std::deque<Parameter> parameters_;
  std::deque<Prepared> prepared_;
  std::vector<ParameterBucket> buckets_;
  std::shared_ptr<const ParameterSource> source_;
};

}  // namespace deeptitan
