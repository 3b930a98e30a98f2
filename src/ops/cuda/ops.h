#pragma once

#include <span>

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/moe.h"
#include "ops/optimizer.h"

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
void latent_attention(ExecutionContext& ctx, const Tensor& out, const Tensor& query, const Tensor& cache,
                      const CachedEntries& entries, int64_t heads, int64_t rope_dim, double scale);
void write_latent_cache(ExecutionContext& ctx, const Tensor& cache, const Tensor& slot, const Tensor& latent,
                        const Tensor& key_rope);

// elementwise
void add(ExecutionContext& ctx, const Tensor& out, const Tensor& a, const Tensor& b);
void convert(ExecutionContext& ctx, const Tensor& out, const Tensor& x);
void fill_zero(ExecutionContext& ctx, const Tensor& x);
void copy(ExecutionContext& ctx, const Tensor& out, const Tensor& x);
void swiglu(ExecutionContext& ctx, const Tensor& out, const Tensor& gate, const Tensor& up);
void swiglu_backward(ExecutionContext& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& d_out,
                     const Tensor& gate, const Tensor& up);
void embedding(ExecutionContext& ctx, const Tensor& out, const Tensor& table, const Tensor& ids);
void embedding_backward(ExecutionContext& ctx, const Tensor& d_table, const Tensor& d_out, const Tensor& ids);
/// Whether no element is infinite or NaN; waits for the device.
bool all_finite(const ExecutionContext& ctx, const Tensor& x);

// linear
void plan_prepared_weight(PreparedWeight& weight, Arena& arena);
void prepare_weight(ExecutionContext& ctx, PreparedWeight& weight, int64_t first_group, std::span<const Tensor> rows);
/// out (+)= x W^T, or backward x W; over groups of rows where there are offsets.
void product(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight, bool backward,
             const Tensor& group_offset, bool accumulate);
void linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x);
void grouped_linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out, const Tensor& x,
                                    const Tensor& group_offset);
void linear_by_head(ExecutionContext& ctx, const Tensor& out, int64_t out_head_stride, const Tensor& x,
                    int64_t x_head_stride, const PreparedWeight& weight, bool transposed);
void add_bias(ExecutionContext& ctx, const Tensor& out, const Tensor& bias);
void add_bias_backward(ExecutionContext& ctx, const Tensor& d_bias, const Tensor& d_out);

// loss
void softmax_cross_entropy(ExecutionContext& ctx, const Tensor& loss, const Tensor& d_logits, const Tensor& logits,
                           const Tensor& targets, double gradient_scale);
void token_logprobs(ExecutionContext& ctx, const Tensor& logprob, const Tensor& argmax, const Tensor& logits,
                    const Tensor& targets);

// moe
void route(ExecutionContext& ctx, const Routing& routing, const Tensor& logits, const Tensor& bias,
           const RouterOptions& options);
void route_as_recorded(ExecutionContext& ctx, const Routing& routing, const Tensor& logits,
                       const RouterOptions& options);
void route_backward(ExecutionContext& ctx, const Tensor& d_logits, const Tensor& d_weight, const Tensor& d_scores,
                    const Routing& routing, const RouterOptions& options);
void sequence_auxiliary_loss(ExecutionContext& ctx, double* loss_sum, const Tensor& d_scores, const Routing& routing,
                             const Tensor& sequence_offset, const RouterOptions& options, double alpha,
                             double gradient_scale);
void accumulate_counts(ExecutionContext& ctx, const Tensor& load, const Tensor& counts);
void update_router_bias(ExecutionContext& ctx, const Tensor& bias, const Tensor& load, double speed);
void sort_slots(ExecutionContext& ctx, const SlotOrder& order, const Routing& routing);
void permute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const SlotOrder& order);
void unpermute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& y, const Tensor& weight,
                    const Tensor& addend, const SlotOrder& order);
void unpermute_rows_backward(ExecutionContext& ctx, const Tensor& d_y, const Tensor& d_weight, const Tensor& d_out,
                             const Tensor& y, const Tensor& weight, const SlotOrder& order);

// optimizer
void adamw_update(ExecutionContext& ctx, const Tensor& parameter, const Tensor& first_moment,
                  const Tensor& second_moment, const Tensor& gradient, double weight_decay,
                  const AdamWSettings& settings);
/// Waits for the device: the sums are the host's.
double sum_of_squares(ExecutionContext& ctx, const Tensor& x);
double sum_fixed_order(ExecutionContext& ctx, const Tensor& x);

}  // namespace deeptitan::on_cuda
