// Times the backward of attention in training on the current device: heads of 192 and 128, 16 of them, causal over
// documents packed behind one another. TFLOP/s count the five products that the gradients need. An argument is part of
// the names to run. attention_cudnn.py times cuDNN's on such shapes.

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "harness.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/sm90_attention_backward.h"
#include "kernels/cuda/attention/tensor_core_attention.h"
#include "kernels/cuda/error.h"

namespace deeptitan::benchmark {
namespace {

constexpr int64_t kHeads = 16, kNope = 128, kRope = 64, kValue = 128, kKey = kNope + kRope;

struct Batch {
  std::string name;
  std::vector<int32_t> lengths;
};

void benchmark_batch(Session& session, const Batch& batch) {
  std::vector<int32_t> offsets = {0};
  double pairs = 0;
  for (const int32_t length : batch.lengths) {
    offsets.push_back(offsets.back() + length);
    pairs += 0.5 * length * (length + 1.0);
  }
  const int64_t tokens = offsets.back();
  const int64_t queries = tokens * kHeads * kKey, keys = tokens * kHeads * (kNope + kValue);
  const int64_t values = tokens * kHeads * kValue;
  const DeviceMemory query(queries * 2), key_value(keys * 2), key_rope(tokens * kRope * 2), out(values * 2),
      d_out(values * 2), log_sum_exp(tokens * kHeads * 4), offset(offsets.size() * 4), d_query(queries * 2),
      d_key_value(keys * 2), d_key_rope(tokens * kRope * 2),
      two_pass_workspace(cuda::attention_backward_workspace(tokens, kHeads, kRope)),
      workspace(cuda::sm90_attention_backward_workspace(tokens, kHeads));
  fill_normal_bf16(query.as<void>(), queries, 1, session.stream());
  fill_normal_bf16(key_value.as<void>(), keys, 2, session.stream());
  fill_normal_bf16(key_rope.as<void>(), tokens * kRope, 3, session.stream());
  fill_normal_bf16(d_out.as<void>(), values, 4, session.stream());
  DT_CUDA_CHECK(cudaMemcpy(offset.as<void>(), offsets.data(), offsets.size() * 4, cudaMemcpyHostToDevice));
  const cpu::AttentionInputs<bfloat16> in{.query = query.as<bfloat16>(),
                                          .key_value = key_value.as<bfloat16>(),
                                          .key_rope = key_rope.as<bfloat16>(),
                                          .ld_key_rope = kRope,
                                          .document_offset = offset.as<int32_t>(),
                                          .documents = static_cast<int64_t>(batch.lengths.size()),
                                          .longest = 0,
                                          .heads = kHeads,
                                          .nope_dim = kNope,
                                          .rope_dim = kRope,
                                          .value_dim = kValue,
                                          .scale = 1.0f / std::sqrt(static_cast<float>(kKey))};
  cuda::tensor_core_attention_forward(out.as<bfloat16>(), log_sum_exp.as<float>(), in, tokens, session.stream());
  const cpu::AttentionGradients<bfloat16> gradients{d_query.as<bfloat16>(), d_key_value.as<bfloat16>(),
                                                    d_key_rope.as<bfloat16>(), kRope};
  const double flops = 2 * pairs * kHeads * (3 * kKey + 2 * kValue);
  const double bytes = 4.0 * static_cast<double>(queries + keys + values + tokens * kRope);
  if (cuda::sm90_attention_backward_fits(in)) {
    const Work work{"backward, sm90, " + batch.name, bytes, flops, [&](cudaStream_t stream) {
                      cuda::sm90_attention_backward(gradients, d_out.as<bfloat16>(), out.as<bfloat16>(),
                                                    log_sum_exp.as<float>(), in, tokens, workspace.as<void>(), stream);
                    }};
    session.run(work);
    session.run_in_graph(work);
  }
  session.run({"backward, mma.sync, " + batch.name, bytes, flops, [&](cudaStream_t stream) {
                 cuda::tensor_core_attention_backward(gradients, d_out.as<bfloat16>(), out.as<bfloat16>(),
                                                      log_sum_exp.as<float>(), in, tokens,
                                                      two_pass_workspace.as<void>(), stream);
               }});
  DT_CUDA_CHECK(cudaStreamSynchronize(session.stream()));
}

/// Documents of 58 tokens on average.
Batch short_documents() {
  Batch batch{"281 documents of about 58", {}};
  std::mt19937 random(58);
  for (int i = 0; i < 281; ++i) batch.lengths.push_back(8 + static_cast<int32_t>(random() % 102));
  return batch;
}

}  // namespace
}  // namespace deeptitan::benchmark

int main(int argument_count, char** arguments) {
  using namespace deeptitan::benchmark;
  Session session(argument_count > 1 ? arguments[1] : "");
  benchmark_batch(session, {"4 x 4096", {4096, 4096, 4096, 4096}});
  benchmark_batch(session, {"8192 + 4680 + 3000 + 512", {8192, 4680, 3000, 512}});
  benchmark_batch(session, {"16384", {16384}});
  benchmark_batch(session, short_documents());
  return 0;
}
