#include "train/optimizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/ranges.h>

#include "core/error.h"

namespace deeptitan {
namespace {

struct BucketPlace {
  size_t bucket;
  int64_t offset;
};

// Where a parameter lies; nullopt: it is not trained.
std::optional<BucketPlace> place_in_buckets(const ParameterList& parameters, const Parameter& parameter) {
  for (size_t b = 0; b < parameters.buckets().size(); ++b) {
    for (const ParameterBucket::Member& member : parameters.buckets()[b].members) {
      if (&parameters.all()[member.parameter] == &parameter) return BucketPlace{b, member.offset};
    }
  }
  return std::nullopt;
}

// Elements of a piece, as one of its own.
OptimizerPiece elements(const OptimizerPiece& whole, int64_t begin, int64_t end) {
  OptimizerPiece piece{.value = whole.value.rows(begin, end), .gradient = whole.gradient.rows(begin, end), .slots = {}};
  piece.weight_decay = whole.weight_decay;
  for (const Tensor& slot : whole.slots) piece.slots.push_back(slot.rows(begin, end));
  return piece;
}

void as_matrices(OptimizerPiece& piece, int64_t columns) {
  const int64_t rows = piece.value.numel() / columns;
  piece.value = piece.value.reshape({rows, columns});
  piece.gradient = piece.gradient.reshape({rows, columns});
  for (Tensor& slot : piece.slots) slot = slot.reshape({rows, columns});
}

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(const RunConfig::Optimizer& optimizer) {
  switch (optimizer.name) {
    case OptimizerName::kAdamW:
      return std::make_unique<AdamW>(AdamWSettings{optimizer.beta1, optimizer.beta2, optimizer.eps},
                                     optimizer.moments_dtype == MomentsDtype::kBf16 ? DType::kBF16 : DType::kF32);
  }
  fail("optimizer.name has no update rule");
}

const std::vector<std::string>& AdamW::slots() const {
  static const std::vector<std::string> kSlots = {"first_moment", "second_moment"};
  return kSlots;
}

void AdamW::update(ExecutionContext& ctx, const OptimizerPiece& piece) const {
  adamw_update(ctx, piece.value, piece.slots[0], piece.slots[1], piece.gradient, piece.weight_decay, settings_,
               piece.place, piece.rounded);
}

void OptimizerState::plan(const ParameterList& parameters, const BucketShards& shards, Arena& arena) {
  parts_.clear();
  slots_.clear();
  for (const ParameterBucket& bucket : parameters.buckets()) {
    const BucketPart part = parts_.emplace_back(shards.part(bucket));
    DT_CHECK(optimizer_->unit() != Optimizer::Unit::kMatrix || part.end - part.begin == bucket.numel,
             "an optimizer of whole matrices cannot keep elements {} to {} of {}", part.begin, part.end, bucket.numel);
    std::vector<Tensor>& slots = slots_.emplace_back();
    for (size_t s = 0; s < optimizer_->slots().size(); ++s) {
      slots.push_back(arena.take(optimizer_->slot_dtype(), {part.end - part.begin}));
    }
  }
}

void OptimizerState::update(ExecutionContext& ctx, const ParameterList& parameters,
                            const std::function<void(const ParameterBucket&)>& updated) const {
  for (size_t b = 0; b < slots_.size(); ++b) {
    if (parts_[b].begin < parts_[b].end) update_bucket(ctx, parameters, b);
    updated(parameters.buckets()[b]);
  }
}

// What this rank keeps of it.
void OptimizerState::update_bucket(ExecutionContext& ctx, const ParameterList& parameters, size_t b) const {
  const ParameterBucket& bucket = parameters.buckets()[b];
  const auto [begin, end] = parts_[b];
  OptimizerPiece part{.value = bucket.value.rows(begin, end), .gradient = bucket.kept, .slots = slots_[b]};
  part.weight_decay = bucket.weight_decay ? weight_decay_ : 0.0;
  switch (optimizer_->unit()) {
    case Optimizer::Unit::kRange:
      if (std::any_of(bucket.members.begin(), bucket.members.end(), [&](const ParameterBucket::Member& member) {
            return rows_to_write(parameters, b, parameters.all()[member.parameter]).defined();
          })) {
        return update_parameters(ctx, parameters, b, part);
      }
      return optimizer_->update(ctx, part);
    case Optimizer::Unit::kParameterRange:
      return update_parameters(ctx, parameters, b, part);
    case Optimizer::Unit::kMatrix:
      return update_matrices(ctx, parameters, bucket, part);
  }
}

Tensor OptimizerState::rows_to_write(const ParameterList& parameters, size_t bucket, const Parameter& parameter) const {
  const bool whole = parts_[bucket].begin == 0 && parts_[bucket].end == parameters.buckets()[bucket].numel;
  return optimizer_->writes_rounded() && whole ? parameters.rows_in_order(parameter) : Tensor();
}

bool OptimizerState::writes_rows_of(const ParameterList& parameters, const Parameter& parameter) const {
  const std::optional<BucketPlace> place = place_in_buckets(parameters, parameter);
  return place && rows_to_write(parameters, place->bucket, parameter).defined();
}

// What this rank keeps of each parameter of the bucket.
void OptimizerState::update_parameters(ExecutionContext& ctx, const ParameterList& parameters, size_t bucket,
                                       const OptimizerPiece& part) const {
  const BucketPart kept = parts_[bucket];
  for (const ParameterBucket::Member& member : parameters.buckets()[bucket].members) {
    const int64_t begin = std::max(kept.begin, member.offset);
    const int64_t end = std::min(kept.end, member.offset + member.numel);
    if (begin >= end) continue;
    OptimizerPiece piece = elements(part, begin - kept.begin, end - kept.begin);
    const Parameter& parameter = parameters.all()[member.parameter];
    piece.place = {.key = rounding_key(parameter.spec.name), .first = member.first + begin - member.offset};
    piece.rounded = rows_to_write(parameters, bucket, parameter);
    optimizer_->update(ctx, piece);
  }
}

void OptimizerState::update_matrices(ExecutionContext& ctx, const ParameterList& parameters,
                                     const ParameterBucket& bucket, const OptimizerPiece& whole) const {
  for (const ParameterBucket::Member& member : bucket.members) {
    for (const FileTensor& tensor : parameters.all()[member.parameter].file_tensors()) {
      const int64_t begin = member.offset + tensor.offset;
      OptimizerPiece piece = elements(whole, begin, begin + tensor.numel());
      if (tensor.shape.size() == 2) as_matrices(piece, tensor.shape[1]);
      optimizer_->update(ctx, piece);
    }
  }
}

SlotPart OptimizerState::slot(const ParameterList& parameters, const Parameter& parameter,
                              std::string_view name) const {
  const std::vector<std::string>& names = optimizer_->slots();
  const auto found = std::find(names.begin(), names.end(), name);
  DT_CHECK(found != names.end(), "the optimizer has no slot {}; it has {}", name, fmt::join(names, ", "));
  const std::optional<BucketPlace> place = place_in_buckets(parameters, parameter);
  if (!place) return {};
  const auto [b, offset] = *place;
  const int64_t begin = std::clamp(parts_[b].begin, offset, offset + parameter.numel());
  const int64_t end = std::clamp(parts_[b].end, begin, offset + parameter.numel());
  const Tensor& memory = slots_[b][found - names.begin()];
  const int64_t first = std::min(begin - std::min(begin, parts_[b].begin), memory.size(0));
  return {begin - offset, memory.rows(first, first + end - begin)};
}

}  // namespace deeptitan
