#include "ops/attention.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/attention/cached_attention.h"
#include "kernels/cpu/rope/rope.h"
#include "ops/op_scope.h"
#ifdef DT_CUDA
#include "ops/cuda/ops.h"
#endif

namespace deeptitan {

static_assert(kExpandedRows == cpu::kExpandedRows);

namespace {

template <typename T>
cpu::AttentionInputs<T> inputs_of(const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                                  const Documents& documents, const AttentionShape& shape) {
  return {.query = query.host<T>(),
          .key_value = key_value.host<T>(),
          .key_rope = key_rope.host<T>(),
          .ld_key_rope = key_rope.stride(),
          .document_offset = documents.offset.host<int32_t>(),
          .documents = documents.offset.size(0) - 1,
          .longest = documents.longest,
          .heads = shape.heads,
          .nope_dim = shape.nope_dim,
          .rope_dim = shape.rope_dim,
          .value_dim = shape.value_dim,
          .scale = static_cast<float>(shape.scale)};
}

void check_inputs(const Tensor& query, const Tensor& key_value, const Tensor& key_rope, const AttentionShape& s) {
  const int64_t tokens = query.size(0);
  check_tensor(query, "query", query.dtype(), {tokens, s.heads * (s.nope_dim + s.rope_dim)});
  check_tensor(key_value, "key_value", query.dtype(), {tokens, s.heads * (s.nope_dim + s.value_dim)});
  check_tensor(key_rope, "key_rope", query.dtype(), {tokens, s.rope_dim});
  check_contiguous("attention", {query, key_value});
  // Two bf16 neighbours share a word of the products' operands.
  DT_CHECK(query.dtype() != DType::kBF16 || (s.nope_dim % 2 == 0 && s.rope_dim % 2 == 0 && s.value_dim % 2 == 0),
           "attention in bf16 needs even head sizes, found nope {}, rope {}, value {}", s.nope_dim, s.rope_dim,
           s.value_dim);
}

// Scores and values of the keys that tokens see, for documents of the longest length: half of them and the token
// itself.
double attention_flops(int64_t tokens, const Documents& documents, const AttentionShape& s) {
  return static_cast<double>(tokens * (documents.longest + 1) * s.heads * (s.nope_dim + s.rope_dim + s.value_dim));
}

void check_cached_attention(const char* op, const Tensor& out, const Tensor& query, const Tensor& cache,
                            const CachedSequences& sequences, const AttentionShape& s) {
  const int64_t tokens = query.size(0);
  const int64_t count = sequences.cached_length.size(0);
  check_tensor(cache, "cache", cache.dtype(), {-1, -1, -1});
  check_tensor(query, "query", cache.dtype(), {tokens, s.heads * (s.nope_dim + s.rope_dim)});
  check_tensor(out, "out", cache.dtype(), {tokens, s.heads * s.value_dim});
  check_tensor(sequences.cached_length, "cached_length", DType::kI32, {count});
  check_tensor(sequences.query_offset, "query_offset", DType::kI32, {count + 1});
  check_tensor(sequences.page_table, "page_table", DType::kI32, {count, -1});
  check_contiguous(op, {out, query, cache});
  DT_CHECK(sequences.max_visible <= sequences.page_table.size(1) * cache.size(1),
           "{}: {} entries can be seen, but {} pages of {} hold fewer", op, sequences.max_visible,
           sequences.page_table.size(1), cache.size(1));
  // Two bf16 neighbours share a word of the products' operands.
  DT_CHECK(cache.dtype() != DType::kBF16 ||
               (s.nope_dim % 2 == 0 && s.rope_dim % 2 == 0 && s.value_dim % 2 == 0 && cache.size(2) % 2 == 0),
           "{} in bf16 needs even sizes, found nope {}, rope {}, value {}, entry {}", op, s.nope_dim, s.rope_dim,
           s.value_dim, cache.size(2));
}

// Keys, values and causal pairs of as many sequences of the longest kind as the rows make.
double expanded_flops(int64_t tokens, int64_t latent_dim, const CachedSequences& sequences, const AttentionShape& s) {
  const int64_t rows = std::min(tokens, sequences.max_query);
  const int64_t count = std::max<int64_t>(1, tokens / std::max<int64_t>(1, rows));
  const auto pairs = static_cast<double>(rows * sequences.max_visible) - static_cast<double>(rows * (rows - 1)) / 2;
  return 2.0 * static_cast<double>(count * s.heads) *
         (static_cast<double>(sequences.max_visible * latent_dim * (s.nope_dim + s.value_dim)) +
          pairs * static_cast<double>(s.nope_dim + s.rope_dim + s.value_dim));
}

// Projections and latent attention of the rows that do not expand.
double absorbed_flops(int64_t tokens, int64_t latent_dim, const CachedSequences& sequences, const AttentionShape& s) {
  const bool expands = sequences.max_query >= kExpandedRows;
  const int64_t rows = expands ? std::max<int64_t>(0, tokens - sequences.max_query) : tokens;
  return 2.0 * static_cast<double>(rows * s.heads) *
         static_cast<double>(latent_dim * (s.nope_dim + s.value_dim) +
                             sequences.max_visible * (2 * latent_dim + s.rope_dim));
}

struct HeadShape {
  int64_t heads, outputs, inputs;
};
void check_head_weight(const char* op, const char* name, const PreparedWeight& weight, const Tensor& packed,
                       const HeadShape& wanted) {
  DT_CHECK(weight.groups == wanted.heads && weight.outputs == wanted.outputs && weight.inputs == wanted.inputs,
           "{}: {} is {} matrices [{}, {}]; expected {} of [{}, {}]", op, name, weight.groups, weight.outputs,
           weight.inputs, wanted.heads, wanted.outputs, wanted.inputs);
  DT_CHECK(packed.defined(), "{}: {} was not prepared for it", op, name);
}

cpu::HeadWeights head_weights(const Tensor& packed) {
  return {packed.host<uint32_t>(), packed.stride()};
}

template <typename T>
cpu::CachedAttention<T> cached_inputs(const Tensor& query, const Tensor& cache, const CachedSequences& sequences,
                                      const AttentionShape& s) {
  return {.query = query.host<T>(),
          .cache = cache.host<T>(),
          .sequences = {.query_offset = sequences.query_offset.host<int32_t>(),
                        .cached_length = sequences.cached_length.host<int32_t>(),
                        .page_table = sequences.page_table.host<int32_t>(),
                        .page_table_stride = sequences.page_table.stride(),
                        .page_size = cache.size(1),
                        .sequences = sequences.cached_length.size(0),
                        .tokens = query.size(0),
                        .max_query = sequences.max_query,
                        .max_visible = sequences.max_visible},
          .heads = s.heads,
          .nope_dim = s.nope_dim,
          .rope_dim = s.rope_dim,
          .value_dim = s.value_dim,
          .latent_dim = cache.size(2) - s.rope_dim,
          .scale = static_cast<float>(s.scale)};
}

}  // namespace

void rope_rotate(ExecutionContext& ctx, const Tensor& x, int64_t heads, int64_t first, const Tensor& cos,
                 const Tensor& sin, const Tensor& positions, bool halves, bool inverse) {
  const int64_t dim = 2 * cos.size(1);
  const int64_t width = x.size(1) / heads;
  DT_CHECK(first + dim <= width, "rope_rotate: columns {} to {} of heads of width {}", first, first + dim, width);
  check_tensor(sin, "sin", DType::kF32, {cos.size(0), cos.size(1)});
  check_tensor(positions, "positions", DType::kI32, {x.size(0)});
  OpScope op(ctx, "rope_rotate", 0);
  DT_LEAVE_FOR_CUDA(rope_rotate, x, heads, first, cos, sin, positions, halves, inverse);
  if (!op.launch()) return;
  for_activation_type("rope_rotate", x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::rope_rotate(x.host<T>() + first, x.stride(), heads, width, dim, cos.host<float>(), sin.host<float>(),
                     positions.host<int32_t>(), x.size(0), inverse,
                     halves ? cpu::RopePairs::kHalves : cpu::RopePairs::kNeighbours);
  });
  op.check({x});
}

void attention(ExecutionContext& ctx, const Tensor& out, const Tensor& log_sum_exp, const Tensor& query,
               const Tensor& key_value, const Tensor& key_rope, const Documents& documents,
               const AttentionShape& shape) {
  check_inputs(query, key_value, key_rope, shape);
  check_tensor(out, "out", query.dtype(), {query.size(0), shape.heads * shape.value_dim});
  check_contiguous("attention", {out, log_sum_exp});
  OpScope op(ctx, "attention", attention_flops(query.size(0), documents, shape));
  DT_LEAVE_FOR_CUDA(attention, out, log_sum_exp, query, key_value, key_rope, documents, shape);
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(
      cpu::attention_forward_workspace(documents.longest, shape.nope_dim, shape.rope_dim, shape.value_dim,
                                       static_cast<int64_t>(dtype_size(query.dtype()))));
  if (!op.launch()) return;
  for_activation_type("attention", query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::attention_forward(out.host<T>(), log_sum_exp.defined() ? log_sum_exp.host<float>() : nullptr,
                           inputs_of<T>(query, key_value, key_rope, documents, shape), scratch);
  });
  op.check({out});
}

void attention_backward(ExecutionContext& ctx, const Tensor& d_query, const Tensor& d_key_value,
                        const Tensor& d_key_rope, const Tensor& d_out, const Tensor& out, const Tensor& log_sum_exp,
                        const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                        const Documents& documents, const AttentionShape& shape) {
  check_inputs(query, key_value, key_rope, shape);
  check_inputs(d_query, d_key_value, d_key_rope, shape);
  check_contiguous("attention_backward", {d_out, out, log_sum_exp});
  // Four products beside the forward's two; the scores are multiplied again, which is not counted.
  OpScope op(ctx, "attention_backward", 2.0 * attention_flops(query.size(0), documents, shape));
  DT_LEAVE_FOR_CUDA(attention_backward, d_query, d_key_value, d_key_rope, d_out, out, log_sum_exp, query, key_value,
                    key_rope, documents, shape);
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(
      cpu::attention_backward_workspace(query.size(0), documents.longest, shape.heads, shape.nope_dim, shape.rope_dim,
                                        shape.value_dim, static_cast<int64_t>(dtype_size(query.dtype()))));
  if (!op.launch()) return;
  for_activation_type("attention_backward", query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::attention_backward(
        cpu::AttentionGradients<T>{d_query.host<T>(), d_key_value.host<T>(), d_key_rope.host<T>(), d_key_rope.stride()},
        d_out.host<T>(), out.host<T>(), log_sum_exp.host<float>(),
        inputs_of<T>(query, key_value, key_rope, documents, shape), scratch);
  });
  op.check({d_query, d_key_value, d_key_rope});
}

void expanded_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& s) {
  const int64_t latent_dim = cache.size(2) - s.rope_dim;
  check_cached_attention("expanded_attention", out, query, cache, sequences, s);
  check_head_weight("expanded_attention", "key_weight", key_weight, key_weight.forward,
                    {s.heads, s.nope_dim, latent_dim});
  check_head_weight("expanded_attention", "value_weight", value_weight, value_weight.forward,
                    {s.heads, s.value_dim, latent_dim});
  OpScope op(ctx, "expanded_attention", expanded_flops(query.size(0), latent_dim, sequences, s));
  DT_LEAVE_FOR_CUDA(expanded_attention, out, query, cache, sequences, key_weight, value_weight, s);
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(cpu::expanded_attention_workspace(
      cpu::ExpandedSize{sequences.max_query, sequences.max_visible, s.nope_dim + s.rope_dim, s.value_dim},
      static_cast<int64_t>(dtype_size(query.dtype()))));
  if (!op.launch()) return;
  for_activation_type("expanded_attention", query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::expanded_attention(out.host<T>(), cached_inputs<T>(query, cache, sequences, s),
                            head_weights(key_weight.forward), head_weights(value_weight.forward), scratch);
  });
  op.check({out});
}

void absorbed_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& s) {
  const int64_t latent_dim = cache.size(2) - s.rope_dim;
  check_cached_attention("absorbed_attention", out, query, cache, sequences, s);
  check_head_weight("absorbed_attention", "key_weight", key_weight, key_weight.backward_input,
                    {s.heads, s.nope_dim, latent_dim});
  check_head_weight("absorbed_attention", "value_weight", value_weight, value_weight.forward,
                    {s.heads, s.value_dim, latent_dim});
  const int64_t count = sequences.cached_length.size(0);
  OpScope op(ctx, "absorbed_attention", absorbed_flops(query.size(0), latent_dim, sequences, s));
  DT_LEAVE_FOR_CUDA(absorbed_attention, out, query, cache, sequences, key_weight, value_weight, s);
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(
      cpu::absorbed_attention_workspace(query.size(0), count, sequences.max_visible, s.heads, latent_dim, s.rope_dim,
                                        static_cast<int64_t>(dtype_size(query.dtype()))));
  if (!op.launch()) return;
  for_activation_type("absorbed_attention", query, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::absorbed_attention(out.host<T>(), cached_inputs<T>(query, cache, sequences, s),
                            head_weights(key_weight.backward_input), head_weights(value_weight.forward), scratch);
  });
  op.check({out});
}

void write_latent_cache(ExecutionContext& ctx, const Tensor& cache, const Tensor& slot, const Tensor& latent,
                        const Tensor& key_rope) {
  const int64_t tokens = latent.size(0);
  check_tensor(latent, "latent", cache.dtype(), {tokens, cache.size(2) - key_rope.size(1)});
  check_tensor(key_rope, "key_rope", cache.dtype(), {tokens, -1});
  check_tensor(slot, "slot", DType::kI32, {tokens});
  OpScope op(ctx, "write_latent_cache", 0);
  DT_LEAVE_FOR_CUDA(write_latent_cache, cache, slot, latent, key_rope);
  if (!op.launch()) return;
  for_activation_type("write_latent_cache", cache, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::write_latent_cache(cache.host<T>(), slot.host<int32_t>(), latent.host<T>(), latent.stride(),
                            key_rope.host<T>(), key_rope.stride(), tokens, latent.size(1), key_rope.size(1),
                            cache.size(0) * cache.size(1));
  });
}

}  // namespace deeptitan
