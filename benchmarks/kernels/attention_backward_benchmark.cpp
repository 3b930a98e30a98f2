// Times the backward of attention in training on the current device. TFLOP/s count the five products that the gradients
// need. An argument is part of the names to run. attention_cudnn.py times cuDNN's on such shapes.

#include "attention_batch.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/sm90_attention_backward.h"
#include "kernels/cuda/attention/tensor_core_attention.h"

namespace deeptitan::benchmark {
namespace {

void benchmark_batch(Session& session, const PackedDocuments& documents) {
  constexpr int64_t kHeads = AttentionBatch::kHeads, kRope = AttentionBatch::kRope;
  const AttentionBatch batch(documents, session.stream());
  const int64_t tokens = batch.tokens();
  const cpu::AttentionInputs<bfloat16> in = batch.inputs();
  const DeviceMemory out(batch.values() * 2), d_out(batch.values() * 2), log_sum_exp(tokens * kHeads * 4),
      d_query(batch.queries() * 2), d_key_value(batch.keys() * 2), d_key_rope(tokens * kRope * 2),
      two_pass_workspace(cuda::attention_backward_workspace(tokens, kHeads, kRope)),
      workspace(cuda::sm90_attention_backward_workspace(tokens, kHeads));
  fill_normal_bf16(d_out.as<void>(), batch.values(), 4, session.stream());
  cuda::tensor_core_attention_forward(out.as<bfloat16>(), log_sum_exp.as<float>(), in, tokens, session.stream());
  const cpu::AttentionGradients<bfloat16> gradients{d_query.as<bfloat16>(), d_key_value.as<bfloat16>(),
                                                    d_key_rope.as<bfloat16>(), kRope};
  const double flops = 2 * batch.pairs() * kHeads * (3 * AttentionBatch::kKey + 2 * AttentionBatch::kValue);
  const double bytes = 4.0 * static_cast<double>(batch.elements());
  if (cuda::sm90_attention_backward_fits(in)) {
    const Work work{"backward, sm90, " + documents.name, bytes, flops, [&](cudaStream_t stream) {
                      cuda::sm90_attention_backward(gradients, d_out.as<bfloat16>(), out.as<bfloat16>(),
                                                    log_sum_exp.as<float>(), in, tokens, workspace.as<void>(), stream);
                    }};
    session.run(work);
    session.run_in_graph(work);
  }
  session.run({"backward, mma.sync, " + documents.name, bytes, flops, [&](cudaStream_t stream) {
                 cuda::tensor_core_attention_backward(gradients, d_out.as<bfloat16>(), out.as<bfloat16>(),
                                                      log_sum_exp.as<float>(), in, tokens,
                                                      two_pass_workspace.as<void>(), stream);
               }});
  DT_CUDA_CHECK(cudaStreamSynchronize(session.stream()));
}

}  // namespace
}  // namespace deeptitan::benchmark

int main(int argument_count, char** arguments) {
  using namespace deeptitan::benchmark;
  Session session(argument_count > 1 ? arguments[1] : "");
  for (const PackedDocuments& documents : packed_documents()) benchmark_batch(session, documents);
  return 0;
}
