// Times attention's forward in training on the current device: heads of 192 and 128, 16 of them, causal over documents
// packed behind one another. An argument is part of the names to run. attention_cudnn.py times cuDNN's on such shapes.

#include <random>
#include <string>
#include <vector>

#include "core/cuda_device.h"
#include "harness.h"
#include "kernels/cpu/attention/attention.h"
#include "kernels/cuda/attention/sm90_attention_forward.h"
#include "kernels/cuda/attention/tensor_core_attention.h"
#include "kernels/cuda/error.h"

namespace deeptitan::benchmark {
namespace {

constexpr int64_t kHeads = 16, kNope = 128, kRope = 64, kValue = 128;

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
  const int64_t tokens = offsets.back(), documents = static_cast<int64_t>(batch.lengths.size());
  const int64_t queries = tokens * kHeads * (kNope + kRope), keys = tokens * kHeads * (kNope + kValue);
  const int64_t values = tokens * kHeads * kValue;
  const DeviceMemory query(queries * 2), key_value(keys * 2), key_rope(tokens * kRope * 2), out(values * 2),
      log_sum_exp(tokens * kHeads * 4), offset(offsets.size() * 4),
      list(cuda::sm90_attention_forward_workspace(tokens, documents));
  fill_normal_bf16(query.as<void>(), queries, 1, session.stream());
  fill_normal_bf16(key_value.as<void>(), keys, 2, session.stream());
  fill_normal_bf16(key_rope.as<void>(), tokens * kRope, 3, session.stream());
  DT_CUDA_CHECK(cudaMemcpy(offset.as<void>(), offsets.data(), offsets.size() * 4, cudaMemcpyHostToDevice));
  const cpu::AttentionInputs<bfloat16> in{.query = query.as<bfloat16>(),
                                          .key_value = key_value.as<bfloat16>(),
                                          .key_rope = key_rope.as<bfloat16>(),
                                          .ld_key_rope = kRope,
                                          .document_offset = offset.as<int32_t>(),
                                          .documents = documents,
                                          .longest = 0,
                                          .heads = kHeads,
                                          .nope_dim = kNope,
                                          .rope_dim = kRope,
                                          .value_dim = kValue,
                                          .scale = 0.0721688f};
  const double forward_flops = 2 * pairs * kHeads * (kNope + kRope + kValue);
  const double forward_bytes = 2.0 * static_cast<double>(queries + keys + values + tokens * kRope);
  if (cuda::capability_major(0) == 9 && cuda::sm90_attention_fits(in)) {
    const Work work{"forward, sm90, " + batch.name, forward_bytes, forward_flops, [&](cudaStream_t stream) {
                      cuda::sm90_attention_forward(out.as<bfloat16>(), log_sum_exp.as<float>(), in, tokens,
                                                   list.as<void>(), stream);
                    }};
    session.run(work);
    session.run_in_graph(work);
  }
  session.run({"forward, mma.sync, " + batch.name, forward_bytes, forward_flops, [&](cudaStream_t stream) {
                 cuda::tensor_core_attention_forward(out.as<bfloat16>(), log_sum_exp.as<float>(), in, tokens, stream);
               }});
  DT_CUDA_CHECK(cudaStreamSynchronize(session.stream()));
}

/// Documents of 58 tokens in the middle, 16384 in all.
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
  benchmark_batch(session, {"512", {512}});
  benchmark_batch(session, short_documents());
  return 0;
}
