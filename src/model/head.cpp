#include "model/head.h"

#include <algorithm>
#include <bit>

#include "ops/loss.h"

namespace deeptitan {
namespace {

// fp32 logits of a chunk take about this many bytes. On the CPU they should stay in the last-level cache between the
// product, the softmax and the two products of the backward; on a GPU each chunk reads the weight and adds to its whole
// gradient, so that chunks should be few.
int64_t chunk_bytes(const ExecutionContext& ctx) {
  return ctx.device.kind == DeviceKind::kCpu ? int64_t{8} << 20 : int64_t{1} << 30;
}

}  // namespace

int64_t LanguageModelHead::chunk_rows(const ExecutionContext& ctx, int64_t tokens) const {
  int64_t rows = std::max<int64_t>(64, chunk_bytes(ctx) / static_cast<int64_t>(sizeof(float)) / vocab() / 64 * 64);
  // The tiles of a power of two rows leave fewer of a GPU's multiprocessors without one in the last round.
  if (ctx.device.kind != DeviceKind::kCpu) rows = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(rows)));
  return std::min(tokens, rows);
}

void LanguageModelHead::logits(ExecutionContext& ctx, const Tensor& out, const Tensor& hidden) const {
  projection_.forward(ctx, out, hidden);
}

void LanguageModelHead::loss(ExecutionContext& ctx, const Tensor& loss, const Tensor& d_hidden, const Tensor& hidden,
                             const Tensor& targets, const double* gradient_scale, bool accumulate) const {
  const int64_t tokens = hidden.size(0);
  const int64_t rows = chunk_rows(ctx, tokens);
  ArenaScope workspace(*ctx.workspace);
  const Tensor all_logits = workspace.take(DType::kF32, {rows, vocab()});
  Tensor all_d_logits;
  if (d_hidden.defined()) {
    all_d_logits = dtype_ == DType::kF32 ? all_logits : workspace.take(dtype_, {rows, vocab()});
  }
  for (int64_t begin = 0; begin < tokens; begin += rows) {
    const int64_t end = std::min(tokens, begin + rows);
    const Tensor chunk = hidden.rows(begin, end);
    const Tensor logits = all_logits.rows(0, end - begin);
    const Tensor d_logits = d_hidden.defined() ? all_d_logits.rows(0, end - begin) : Tensor();
    projection_.forward(ctx, logits, chunk);
    softmax_cross_entropy(ctx, loss.rows(begin, end), d_logits, logits, targets.rows(begin, end), gradient_scale);
    if (!d_hidden.defined()) continue;
    projection_.backward_input(ctx, d_hidden.rows(begin, end), d_logits, accumulate);
    projection_.backward_weights(ctx, d_logits, chunk);
  }
}

void LanguageModelHead::logprobs(ExecutionContext& ctx, const Tensor& logprob, const Tensor& argmax,
                                 const Tensor& hidden, const Tensor& targets) const {
  const int64_t tokens = hidden.size(0);
  const int64_t rows = chunk_rows(ctx, tokens);
  ArenaScope workspace(*ctx.workspace);
  const Tensor all_logits = workspace.take(DType::kF32, {rows, vocab()});
  for (int64_t begin = 0; begin < tokens; begin += rows) {
    const int64_t end = std::min(tokens, begin + rows);
    const Tensor logits = all_logits.rows(0, end - begin);
    projection_.forward(ctx, logits, hidden.rows(begin, end));
    token_logprobs(ctx, logprob.rows(begin, end), argmax.defined() ? argmax.rows(begin, end) : Tensor(), logits,
                   targets.rows(begin, end));
  }
}

}  // namespace deeptitan
