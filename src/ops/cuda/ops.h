#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/moe.h"

// The ops on a GPU, after ops/<op>.cpp has checked their tensors: each takes its workspace, and launches its kernels
// unless the context only plans. Arguments as in ops/<op>.h.

namespace deeptitan::on_cuda {

// attention
void rope_rotate(ExecutionContext& ctx, const Tensor& x, int64_t heads, int64_t first, const Tensor& cos,
                 const Tensor& sin, const Tensor& positions, bool halves, bool inverse);
void attention(ExecutionContext& ctx, const Tensor& out, const Tensor& log_sum_exp, const Tensor& query,
               const Tensor& key_value, const Tensor& key_rope, const Documents& documents,
               const AttentionShape& shape);
void attention_backward(ExecutionContext& ctx, const Tensor& d_query, const Tensor& d_key_value,
                        const Tensor& d_key_rope, const Tensor& d_out, const Tensor& out, const Tensor& log_sum_exp,
                        const Tensor& query, const Tensor& key_value, const Tensor& key_rope,
                        const Documents& documents, const AttentionShape& shape);
void expanded_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& shape);
void absorbed_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                        const CachedSequences& sequences, const PreparedWeight& key_weight,
                        const PreparedWeight& value_weight, const AttentionShape& shape);
void write_latent_cache(ExecutionContext& ctx, const Tensor& cache, const Tensor& slot, const Tensor& latent,
                        const Tensor& key_rope);

// elementwise; the other ops of this folder are declared by DT_OP_FORMS in ops/<op>.h
void copy(ExecutionContext& ctx, const Tensor& out, const Tensor& x);
/// Whether no element is infinite or NaN; waits for the device.
bool all_finite(const ExecutionContext& ctx, const Tensor& x);

// moe
void route(ExecutionContext& ctx, const Routing& routing, const Tensor& logits, const Tensor& bias,
           const RouterOptions& options);
void route_as_recorded(ExecutionContext& ctx, const Routing& routing, const Tensor& logits,
                       const RouterOptions& options);
void route_backward(ExecutionContext& ctx, const Tensor& d_logits, const Tensor& d_weight, const Tensor& d_scores,
                    const Routing& routing, const RouterOptions& options);
void sequence_auxiliary_loss(ExecutionContext& ctx, double* loss_sum, const Tensor& d_scores, const Routing& routing,
                             const Tensor& sequence_offset, const RouterOptions& options, double alpha,
                             const double* gradient_scale);
void accumulate_counts(ExecutionContext& ctx, const Tensor& load, const Tensor& counts);
void update_router_bias(ExecutionContext& ctx, const Tensor& bias, const Tensor& load, double speed);
void sort_slots(ExecutionContext& ctx, const SlotOrder& order, const Routing& routing, int alignment);
void permute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const SlotOrder& order);
void unpermute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& y, const Tensor& weight,
                    const Tensor& addend, const SlotOrder& order);
void unpermute_rows_backward(ExecutionContext& ctx, const Tensor& d_y, const Tensor& d_weight, const Tensor& d_out,
                             const Tensor& y, const Tensor& weight, const SlotOrder& order);

}  // namespace deeptitan::on_cuda
