#include "model/mlp.h"

#include <optional>

#include "ops/elementwise.h"

// T tokens, I width.

namespace deeptitan {

struct GatedMlp::Saved final : Record {
  Tensor gate_up;    // [T, 2 I]
  Tensor activated;  // [T, I]
  Tensor d_gate_up;  // [T, 2 I]

  Saved(const GatedMlp& mlp, Arena& saved, Arena& cheap, int64_t tokens)
      : gate_up(saved.take(mlp.dtype_, {tokens, 2 * mlp.width_})),
        activated(cheap.take(mlp.dtype_, {tokens, mlp.width_})) {}
};

GatedMlp::GatedMlp(ParameterList& parameters, const GatedMlpPlan& plan, int64_t hidden)
    : width_(plan.width),
      dtype_(parameters.compute()),
      gate_up_(parameters, plan.gate_up, 2 * width_, hidden,
               {.pieces = gate_up_pieces(plan.gate, plan.up, width_), .operand = dtype_}),
      down_(parameters, plan.down, hidden, width_, {.operand = dtype_}) {}

std::vector<ParameterPiece> gate_up_pieces(const std::string& gate, const std::string& up, int64_t width) {
  return {{gate + ".weight", width}, {up + ".weight", width}};
}

std::unique_ptr<Record> GatedMlp::make_record(const RecordArenas& arenas, int64_t tokens) const {
  auto saved = std::make_unique<Saved>(*this, arenas.saved, arenas.cheap(), tokens);
  saved->d_gate_up = arenas.gradients.take(dtype_, {tokens, 2 * width_});
  return saved;
}

void GatedMlp::forward(ExecutionContext& ctx, const ForwardContext& /*forward*/, const Tensor& out, const Tensor& x,
                       Record* record) const {
  ArenaScope workspace(*ctx.workspace);
  std::optional<Saved> temporary;
  if (record == nullptr) temporary.emplace(*this, *ctx.workspace, *ctx.workspace, x.size(0));
  Saved& s = record == nullptr ? *temporary : static_cast<Saved&>(*record);
  gate_up_.forward(ctx, s.gate_up, x);
  swiglu(ctx, s.activated, s.gate_up.columns(0, width_), s.gate_up.columns(width_, 2 * width_));
  down_.forward(ctx, out, s.activated);
}

void GatedMlp::recompute(ExecutionContext& ctx, const ForwardContext& /*forward*/, const Tensor& /*x*/,
                         Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  swiglu(ctx, s.activated, s.gate_up.columns(0, width_), s.gate_up.columns(width_, 2 * width_));
}

void GatedMlp::backward_input(ExecutionContext& ctx, const ForwardContext& /*forward*/, const Tensor& d_x,
                              const Tensor& d_out, const Tensor& x, Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  const Tensor d_gate = s.d_gate_up.columns(0, width_);
  const Tensor d_up = s.d_gate_up.columns(width_, 2 * width_);
  ArenaScope workspace(*ctx.workspace);
  const Tensor d_activated = workspace.take(dtype_, {x.size(0), width_});
  down_.backward_input(ctx, d_activated, d_out, false);
  swiglu_backward(ctx, d_gate, d_up, d_activated, s.gate_up.columns(0, width_), s.gate_up.columns(width_, 2 * width_));
  gate_up_.backward_input(ctx, d_x, s.d_gate_up, false);
}

void GatedMlp::backward_weights(ExecutionContext& ctx, const ForwardContext& /*forward*/, const Tensor& d_out,
                                const Tensor& x, Record& record) const {
  Saved& s = static_cast<Saved&>(record);
  down_.backward_weights(ctx, d_out, s.activated);
  gate_up_.backward_weights(ctx, s.d_gate_up, x);
}

}  // namespace deeptitan
