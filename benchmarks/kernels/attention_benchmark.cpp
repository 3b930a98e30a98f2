// Times attention's forward in training on the current device. An argument is part of the names to run.
// attention_cudnn.py times cuDNN's on such shapes.

#include "attention_batch.h"
#include "core/cuda_device.h"
#include "kernels/cuda/attention/sm90_attention_forward.h"
#include "kernels/cuda/attention/tensor_core_attention.h"

namespace deeptitan::benchmark {
namespace {

void benchmark_batch(Session& session, const PackedDocuments& documents) {
  const AttentionBatch batch(documents, session.stream());
  const int64_t tokens = batch.tokens();
  const cpu::AttentionInputs<bfloat16> in = batch.inputs();
  const DeviceMemory out(batch.values() * 2), log_sum_exp(tokens * AttentionBatch::kHeads * 4),
      list(cuda::sm90_attention_forward_workspace(tokens, batch.documents()));
  const double flops = 2 * batch.pairs() * AttentionBatch::kHeads * (AttentionBatch::kKey + AttentionBatch::kValue);
  const double bytes = 2.0 * static_cast<double>(batch.elements());
  if (cuda::capability_major(0) == 9 && cuda::sm90_attention_fits(in)) {
    const Work work{"forward, sm90, " + documents.name, bytes, flops, [&](cudaStream_t stream) {
                      cuda::sm90_attention_forward(out.as<bfloat16>(), log_sum_exp.as<float>(), in, tokens,
                                                   list.as<void>(), stream);
                    }};
    session.run(work);
    session.run_in_graph(work);
  }
  session.run({"forward, mma.sync, " + documents.name, bytes, flops, [&](cudaStream_t stream) {
                 cuda::tensor_core_attention_forward(out.as<bfloat16>(), log_sum_exp.as<float>(), in, tokens, stream);
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
