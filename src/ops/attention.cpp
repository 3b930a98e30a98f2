#include "ops/attention.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace deeptitan {
namespace {

// Whether check_tensor would pass: names are put together only for a message.
bool fits(const Tensor& tensor, DType dtype, Tensor::Shape shape) {
  if (tensor.dtype() != dtype || tensor.rank() != static_cast<int>(shape.size())) return false;
  int i = 0;
  for (const int64_t extent : shape) {
    if (extent != -1 && tensor.size(i) != extent) return false;
    ++i;
  }
  return true;
}
void check(const char* op, const char* name, const Tensor& tensor, DType dtype, Tensor::Shape shape) {
  if (!fits(tensor, dtype, shape)) check_tensor(tensor, (std::string(op) + ": " + name).c_str(), dtype, shape);
}

// Two bf16 neighbours share a word of the products' operands.
void check_even_heads(const char* op, const Tensor& query, const AttentionShape& s) {
  DT_CHECK(query.dtype() != DType::kBF16 || (s.nope_dim % 2 == 0 && s.rope_dim % 2 == 0 && s.value_dim % 2 == 0),
           "{}: bf16 needs even head sizes, found nope {}, rope {}, value {}", op, s.nope_dim, s.rope_dim, s.value_dim);
}

void check_query_key_value(const char* op, bool gradients, const Tensor& query, const Tensor& key_value,
                           const Tensor& key_rope, int64_t tokens, DType dtype, const AttentionShape& s) {
  check(op, gradients ? "d_query" : "query", query, dtype, {tokens, s.heads * (s.nope_dim + s.rope_dim)});
  check(op, gradients ? "d_key_value" : "key_value", key_value, dtype, {tokens, s.heads * (s.nope_dim + s.value_dim)});
  check(op, gradients ? "d_key_rope" : "key_rope", key_rope, dtype, {tokens, s.rope_dim});
  check_contiguous(op, {query, key_value});
}

// Scores and values of the keys that tokens see, for documents of the longest length: half of them and the token
// itself.
double attention_flops(int64_t tokens, const Documents& documents, const AttentionShape& s) {
  return static_cast<double>(tokens * (documents.longest + 1) * s.heads * (s.nope_dim + s.rope_dim + s.value_dim));
}

struct HeadShape {
  int64_t heads, outputs, inputs;
};
void check_head_weight(const char* op, const char* name, const PreparedWeight& weight, const Tensor& packed,
                       const HeadShape& wanted) {
  DT_CHECK(weight.groups == wanted.heads && weight.outputs == wanted.outputs && weight.inputs == wanted.inputs,
           "{}: {}: expected {} matrices [{}, {}], found {} of [{}, {}]", op, name, wanted.heads, wanted.outputs,
           wanted.inputs, weight.groups, weight.outputs, weight.inputs);
  DT_CHECK(packed.defined(), "{}: {} was not prepared for it", op, name);
}

// `key` is what the form takes of the key's weight.
void check_cached_attention(const char* op, const Tensor& out, const Tensor& query, const Tensor& cache,
                            const CachedSequences& sequences, const PreparedWeight& key_weight, const Tensor& key,
                            const PreparedWeight& value_weight, const AttentionShape& s) {
  check_activation_type("a latent cache", cache);
  check(op, "cache", cache, cache.dtype(), {-1, -1, -1});
  const int64_t tokens = query.size(0);
  const int64_t count = sequences.cached_length.size(0);
  check(op, "query", query, cache.dtype(), {tokens, s.heads * (s.nope_dim + s.rope_dim)});
  check(op, "out", out, cache.dtype(), {tokens, s.heads * s.value_dim});
  check(op, "cached_length", sequences.cached_length, DType::kI32, {count});
  check(op, "query_offset", sequences.query_offset, DType::kI32, {count + 1});
  check(op, "page_table", sequences.page_table, DType::kI32, {count, -1});
  check_contiguous(op, {out, query, cache});
  DT_CHECK(sequences.max_visible <= sequences.page_table.size(1) * cache.size(1),
           "{}: {} entries can be seen, but {} pages of {} hold fewer", op, sequences.max_visible,
           sequences.page_table.size(1), cache.size(1));
  check_even_heads(op, query, s);
  DT_CHECK(cache.dtype() != DType::kBF16 || cache.size(2) % 2 == 0, "{}: bf16 needs an even cache entry, found {}", op,
           cache.size(2));
  const int64_t latent_dim = cache.size(2) - s.rope_dim;
  check_head_weight(op, "key_weight", key_weight, key, {s.heads, s.nope_dim, latent_dim});
  check_head_weight(op, "value_weight", value_weight, value_weight.forward, {s.heads, s.value_dim, latent_dim});
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
  const bool expands = sequences.max_query >= kExpandedRows && sequences.max_query <= tokens;
  const int64_t rows = expands ? tokens - sequences.max_query : tokens;
  return 2.0 * static_cast<double>(rows * s.heads) *
         static_cast<double>(latent_dim * (s.nope_dim + s.value_dim) +
                             sequences.max_visible * (2 * latent_dim + s.rope_dim));
}

// Queries and results, and the entries that one sequence of the longest kind sees, for each.
double cached_bytes(const Tensor& out, const Tensor& query, const Tensor& cache, const CachedSequences& sequences) {
  const auto entries = static_cast<double>(sequences.cached_length.size(0) * sequences.max_visible);
  return static_cast<double>(out.bytes() + query.bytes()) +
         entries * static_cast<double>(cache.size(2)) * static_cast<double>(dtype_size(cache.dtype()));
}

#ifdef DT_CUDA
void check_entries(const char* op, const LatentEntries& e, const Tensor& cache, const AttentionShape& s) {
  const int64_t tokens = e.query.size(0), latent_dim = cache.size(2) - s.rope_dim;
  check(op, "query", e.query, cache.dtype(), {tokens, s.heads * (s.nope_dim + s.rope_dim)});
  check(op, "kv_latent", e.kv_latent, cache.dtype(), {tokens, cache.size(2)});
  check(op, "norm_weight", e.norm_weight, DType::kF32, {latent_dim});
  check(op, "positions", e.positions, DType::kI32, {tokens});
  check(op, "slot", e.slot, DType::kI32, {tokens});
  check(op, "cos", e.cos, DType::kF32, {-1, s.rope_dim / 2});
  check(op, "sin", e.sin, DType::kF32, {-1, s.rope_dim / 2});
  check_contiguous(op, {cache});
}
#endif

}  // namespace

void rope_rotate(ExecutionContext& ctx, const Tensor& x, int64_t heads, int64_t first, const Tensor& cos,
                 const Tensor& sin, const Tensor& positions, bool halves, bool inverse) {
  check_activation_type("rope_rotate: x", x);
  check_tensor(cos, "rope_rotate: cos", DType::kF32, {-1, -1});
  check_tensor(sin, "rope_rotate: sin", DType::kF32, {cos.size(0), cos.size(1)});
  check_tensor(positions, "rope_rotate: positions", DType::kI32, {x.size(0)});
  const int64_t dim = 2 * cos.size(1);
  const int64_t width = x.size(1) / heads;
  DT_CHECK(first + dim <= width, "rope_rotate: columns {} to {} of heads of width {}", first, first + dim, width);
  OpScope op(ctx, "rope_rotate", {&x}, {&cos, &sin, &positions}, {.bytes = 2.0 * static_cast<double>(x.bytes())});
  op.run(on_cpu::rope_rotate, DT_ON_CUDA(rope_rotate), x, heads, first, cos, sin, positions, halves, inverse);
}

void attention(ExecutionContext& ctx, const Tensor& out, const Tensor& log_sum_exp, const Tensor& query,
               const Tensor& key_value, const Tensor& key_rope, const Documents& documents,
               const AttentionShape& shape) {
  check_activation_type("attention: query", query);
  const int64_t tokens = query.size(0);
  check_query_key_value("attention", false, query, key_value, key_rope, tokens, query.dtype(), shape);
  check("attention", "documents", documents.offset, DType::kI32, {-1});
  check_even_heads("attention", query, shape);
  check_tensor(out, "attention: out", query.dtype(), {tokens, shape.heads * shape.value_dim});
  if (log_sum_exp.defined()) check_tensor(log_sum_exp, "attention: log_sum_exp", DType::kF32, {tokens, shape.heads});
  check_contiguous("attention", {out, log_sum_exp});
  OpScope op(ctx, "attention", {&out, &log_sum_exp}, {&query, &key_value, &key_rope, &documents.offset},
             {.flops = attention_flops(tokens, documents, shape)});
  op.run_with_workspace(on_cpu::attention, DT_ON_CUDA(attention), out, log_sum_exp, query, key_value, key_rope,
                        documents, shape);
}

void attention_backward(ExecutionContext& ctx, const Tensor& d_query, const Tensor& d_key_value,
                        const Tensor& d_key_rope, const Tensor& d_out, const Tensor& out, const Tensor& log_sum_exp,
                        const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                        const Documents& documents, const AttentionShape& shape) {
  check_activation_type("attention_backward: query", query);
  const int64_t tokens = query.size(0);
  check_query_key_value("attention_backward", false, query, key_value, key_rope, tokens, query.dtype(), shape);
  check_query_key_value("attention_backward", true, d_query, d_key_value, d_key_rope, tokens, query.dtype(), shape);
  check("attention_backward", "documents", documents.offset, DType::kI32, {-1});
  check_even_heads("attention_backward", query, shape);
  check_tensor(d_out, "attention_backward: d_out", query.dtype(), {tokens, shape.heads * shape.value_dim});
  check_tensor(out, "attention_backward: out", query.dtype(), {tokens, shape.heads * shape.value_dim});
  check_tensor(log_sum_exp, "attention_backward: log_sum_exp", DType::kF32, {tokens, shape.heads});
  check_contiguous("attention_backward", {d_out, out, log_sum_exp});
  // Four products beside the forward's two; the scores are multiplied again, which is not counted.
  OpScope op(ctx, "attention_backward", {&d_query, &d_key_value, &d_key_rope},
             {&d_out, &out, &log_sum_exp, &query, &key_value, &key_rope, &documents.offset},
             {.flops = 2.0 * attention_flops(tokens, documents, shape)});
  op.run_with_workspace(on_cpu::attention_backward, DT_ON_CUDA(attention_backward), d_query, d_key_value, d_key_rope,
                        d_out, out, log_sum_exp, query, key_value, key_rope, documents, shape);
}

void expanded_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& s) {
  check_cached_attention("expanded_attention", out, query, cache, sequences, key_weight, key_weight.forward,
                         value_weight, s);
  OpScope op(ctx, "expanded_attention", {&out},
             {&query, &cache, &sequences.query_offset, &sequences.cached_length, &sequences.page_table},
             {.flops = expanded_flops(query.size(0), cache.size(2) - s.rope_dim, sequences, s),
              .bytes = cached_bytes(out, query, cache, sequences)});
  op.run_with_workspace(on_cpu::expanded_attention, DT_ON_CUDA(expanded_attention), out, query, cache, sequences,
                        key_weight, value_weight, s);
}

void absorbed_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& s) {
  check_cached_attention("absorbed_attention", out, query, cache, sequences, key_weight, key_weight.backward_input,
                         value_weight, s);
  OpScope op(ctx, "absorbed_attention", {&out},
             {&query, &cache, &sequences.query_offset, &sequences.cached_length, &sequences.page_table},
             {.flops = absorbed_flops(query.size(0), cache.size(2) - s.rope_dim, sequences, s),
              .bytes = cached_bytes(out, query, cache, sequences)});
  op.run_with_workspace(on_cpu::absorbed_attention, DT_ON_CUDA(absorbed_attention), out, query, cache, sequences,
                        key_weight, value_weight, s);
}

void write_latent_cache(ExecutionContext& ctx, const Tensor& cache, const Tensor& slot, const Tensor& latent,
                        const Tensor& key_rope) {
  check_activation_type("write_latent_cache: cache", cache);
  check_tensor(cache, "write_latent_cache: cache", cache.dtype(), {-1, -1, -1});
  const int64_t tokens = latent.size(0);
  check_tensor(key_rope, "write_latent_cache: key_rope", cache.dtype(), {tokens, -1});
  check_tensor(latent, "write_latent_cache: latent", cache.dtype(), {tokens, cache.size(2) - key_rope.size(1)});
  check_tensor(slot, "write_latent_cache: slot", DType::kI32, {tokens});
  check_contiguous("write_latent_cache", {cache});
  OpScope op(ctx, "write_latent_cache", {}, {&cache, &slot, &latent, &key_rope},
             {.bytes = 2.0 * static_cast<double>(latent.numel() + key_rope.numel()) *
                       static_cast<double>(dtype_size(cache.dtype()))});
  op.run(on_cpu::write_latent_cache, DT_ON_CUDA(write_latent_cache), cache, slot, latent, key_rope);
}

#ifdef DT_CUDA
bool enter_latents(ExecutionContext& ctx, const LatentEntries& e, const Tensor& cache, const AttentionShape& s) {
  if (ctx.device.kind != DeviceKind::kCuda || !on_cuda::enter_latents_fits(e, cache, s)) return false;
  check_entries("enter_latents", e, cache, s);
  OpScope op(ctx, "enter_latents", {&e.query}, {&e.kv_latent, &e.norm_weight, &e.positions, &e.slot, &cache},
             {.bytes = 2.0 * static_cast<double>(dtype_size(cache.dtype())) *
                       static_cast<double>(e.query.size(0) * (s.heads * s.rope_dim + cache.size(2)))});
  constexpr decltype(&on_cuda::enter_latents) kNoCpuForm = nullptr;  // the device is none
  op.run(kNoCpuForm, on_cuda::enter_latents, e, cache, s);
  return true;
}

bool attention_of_few(ExecutionContext& ctx, const Tensor& out, const LatentEntries& e, const Tensor& cache,
                      const CachedSequences& sequences, const PreparedWeight& key_weight,
                      const PreparedWeight& value_weight, const AttentionShape& s) {
  if (ctx.device.kind != DeviceKind::kCuda || !on_cuda::attention_of_few_fits(e, cache, key_weight, value_weight, s)) {
    return false;
  }
  check_cached_attention("attention_of_few", out, e.query, cache, sequences, key_weight, key_weight.backward_input,
                         value_weight, s);
  check_entries("attention_of_few", e, cache, s);
  const int64_t tokens = e.query.size(0), latent_dim = cache.size(2) - s.rope_dim;
  OpScope op(ctx, "attention_of_few", {&out},
             {&e.query, &e.kv_latent, &e.norm_weight, &e.positions, &e.slot, &cache, &sequences.query_offset,
              &sequences.cached_length, &sequences.page_table},
             {.flops = absorbed_flops(tokens, latent_dim, sequences, s),
              .bytes = cached_bytes(out, e.query, cache, sequences)});
  constexpr decltype(&on_cuda::attention_of_few) kNoCpuForm = nullptr;  // the device is none
  op.run_with_workspace(kNoCpuForm, on_cuda::attention_of_few, out, e, cache, sequences, key_weight, value_weight, s);
  return true;
}
#else
bool enter_latents(ExecutionContext& /*ctx*/, const LatentEntries& /*entries*/, const Tensor& /*cache*/,
                   const AttentionShape& /*shape*/) {
  return false;
}
bool attention_of_few(ExecutionContext& /*ctx*/, const Tensor& /*out*/, const LatentEntries& /*entries*/,
                      const Tensor& /*cache*/, const CachedSequences& /*sequences*/,
                      const PreparedWeight& /*key_weight*/, const PreparedWeight& /*value_weight*/,
                      const AttentionShape& /*shape*/) {
  return false;
}
#endif

}  // namespace deeptitan
