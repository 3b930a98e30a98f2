// Times a token's way through a layer of DeepSeek-V2-Lite's shape in bf16, as decoding launches it: as a whole, and
// without each of its launches in turn, which is what that one costs where it stands. Layers follow one another in one
// graph, each with weights of its own. An argument is part of the names to run.

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "harness.h"
#include "kernels/cuda/attention/few_latent.h"
#include "kernels/cuda/attention/latent_tiles.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/experts/few_tokens.h"
#include "kernels/cuda/matmul/few_rows.h"
#include "kernels/cuda/norm/rms_norm.h"
#include "kernels/cuda/router/router.h"

namespace deeptitan::benchmark {
namespace {

constexpr int64_t kHidden = 2048, kHeads = 16, kNope = 128, kRope = 64, kValue = 128, kLatent = 512;
constexpr int64_t kWidth = kLatent + kRope, kQuery = kHeads * (kNope + kRope), kAttended = kHeads * kValue;
constexpr int64_t kExperts = 64, kTopK = 6, kExpertWidth = 1408, kSharedWidth = 2816;
constexpr int64_t kCached = 512, kCapacity = 640, kPageSize = 64;
constexpr size_t kLayers = 6;  // of which each has its own weights: more than the second-level cache holds

/// Device memory with standard normal values, a hundredth of them for weights.
struct Values {
  DeviceMemory memory;
  Values(Session& session, int64_t count) : memory(count * 2) {
    fill_normal_bf16(memory.as<void>(), count, 1, session.stream());
  }
  bfloat16* get() const { return memory.as<bfloat16>(); }
};

struct Layer {
  Values query, latent, key, value, out, gate_up, down, shared_gate_up, shared_down, cache;
  DeviceMemory router;
  explicit Layer(Session& s)
      : query(s, kQuery * kHidden),
        latent(s, kWidth * kHidden),
        key(s, kHeads * kNope * kLatent),
        value(s, kHeads * kValue * kLatent),
        out(s, kHidden * kAttended),
        gate_up(s, kExperts * 2 * kExpertWidth * kHidden),
        down(s, kExperts * kHidden * kExpertWidth),
        shared_gate_up(s, 2 * kSharedWidth * kHidden),
        shared_down(s, kHidden * kSharedWidth),
        cache(s, kCapacity * kWidth),
        router(kExperts * kHidden * 4) {
    fill_normal_f32(router.as<void>(), kExperts * kHidden, 2, s.stream());
  }
};

template <typename T>
DeviceMemory upload(const std::vector<T>& values) {
  DeviceMemory memory(values.size() * sizeof(T));
  DT_CUDA_CHECK(cudaMemcpy(memory.as<void>(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return memory;
}

class Token {
 public:
  explicit Token(Session& s)
      : x_(s, kHidden),
        normed_(s, kHidden),
        query_(s, kQuery),
        latent_(s, kWidth),
        latent_query_(s, kHeads * kWidth),
        attended_(s, kAttended),
        branch_(s, kHidden),
        middle_(s, kHidden),
        activated_(s, kTopK * kExpertWidth),
        shared_(s, kSharedWidth),
        shared_result_(s, kHidden),
        norm_(upload(std::vector<float>(kHidden, 1.0f))),
        angles_(upload(std::vector<float>(kCapacity * kRope, 0.5f))),
        logits_(kExperts * 4),
        index_(upload(std::vector<int32_t>{3, 17, 22, 40, 41, 63})),
        weight_(upload(std::vector<float>(kTopK, 0.1f))),
        counts_(kExperts * 4),
        integers_(upload(std::vector<int32_t>{0, 1, kCached, kCached, kCached})),
        table_(upload(std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})),
        splits_(cuda::latent_tiles_workspace(1, kHeads, kLatent, kCapacity) * static_cast<int64_t>(sizeof(float))) {}

  /// A layer's launches, by name.
  std::vector<std::pair<std::string, std::function<void(cudaStream_t)>>> launches(const Layer& l) const {
    const cuda::FewLatentTokens attention = attention_of(l);
    const cuda::FewTokensMixture mixture = mixture_of(l);
    return {
        {"norm",
         [this](cudaStream_t stream) {
           cuda::rms_norm(normed_.get(), kHidden, nullptr, x_.get(), kHidden, norm_.as<float>(), 1, kHidden, 1e-6f,
                          stream);
         }},
        {"query and latent",
         [this, &l](cudaStream_t stream) {
           cuda::multiply_few_rows_twice(
               {query_.get(), kQuery, normed_.get(), kHidden, l.query.get(), 1, kQuery, kHidden},
               {latent_.get(), kWidth, normed_.get(), kHidden, l.latent.get(), 1, kWidth, kHidden}, stream);
         }},
        {"attention (three launches)",
         [this, attention](cudaStream_t stream) {
           cuda::few_latent_attention(attention, kCapacity, splits_.as<float>(), stream);
         }},
        {"out",
         [this, &l](cudaStream_t stream) {
           cuda::multiply_few_rows<bfloat16>(
               {branch_.get(), kHidden, attended_.get(), kAttended, l.out.get(), 1, kHidden, kAttended}, stream);
         }},
        {"add and norm",
         [this](cudaStream_t stream) {
           cuda::add_rms_norm(middle_.get(), normed_.get(), nullptr, x_.get(), branch_.get(), norm_.as<float>(), 1,
                              kHidden, 1e-6f, stream);
         }},
        {"router, shared gate and up", [mixture](cudaStream_t stream) { cuda::few_tokens_logits(mixture, stream); }},
        {"routing",
         [this](cudaStream_t stream) {
           RouterOptions options;
           options.experts = kExperts, options.top_k = kTopK;
           cuda::route_tokens(index_.as<int32_t>(), weight_.as<float>(), nullptr, counts_.as<int32_t>(),
                              logits_.as<float>(), nullptr, 1, options, nullptr, stream);
         }},
        {"experts (two launches)", [mixture](cudaStream_t stream) { cuda::few_tokens_experts(mixture, stream); }}};
  }

 private:
  cuda::FewLatentTokens attention_of(const Layer& l) const {
    const auto* integers = integers_.as<int32_t>();
    return {.out = attended_.get(),
            .query = query_.get(),
            .ld_query = kQuery,
            .key_weight = l.key.get(),
            .value_weight = l.value.get(),
            .nope_dim = kNope,
            .value_dim = kValue,
            .latent_query = latent_query_.get(),
            .entries = {.query = latent_query_.get(),
                        .cache = l.cache.get(),
                        .rows = {integers, 1, 0, 63},
                        .cached_length = integers + 2,
                        .page_table = table_.as<int32_t>(),
                        .page_table_stride = kCapacity / kPageSize,
                        .page_size = kPageSize,
                        .tokens = 1,
                        .heads = kHeads,
                        .latent_dim = kLatent,
                        .rope_dim = kRope,
                        .scale = 0.05f},
            .entered = {.cache = l.cache.get(),
                        .entries = kCapacity,
                        .slot = integers + 3,
                        .kv_latent = latent_.get(),
                        .ld_latent = kWidth,
                        .norm_weight = norm_.as<float>(),
                        .epsilon = 1e-6f,
                        .cos = angles_.as<float>(),
                        .sin = angles_.as<float>(),
                        .positions = integers + 4}};
  }
  cuda::FewTokensMixture mixture_of(const Layer& l) const {
    return {.out = x_.get(),
            .residual = middle_.get(),
            .x = normed_.get(),
            .tokens = 1,
            .hidden = kHidden,
            .router = l.router.as<float>(),
            .logits = logits_.as<float>(),
            .experts = kExperts,
            .expert_index = index_.as<int32_t>(),
            .expert_weight = weight_.as<float>(),
            .top_k = kTopK,
            .gate_up = l.gate_up.get(),
            .down = l.down.get(),
            .width = kExpertWidth,
            .shared_gate_up = l.shared_gate_up.get(),
            .shared_down = l.shared_down.get(),
            .shared_width = kSharedWidth,
            .activated = activated_.get(),
            .shared_activated = shared_.get(),
            .shared_result = shared_result_.get()};
  }

  Values x_, normed_, query_, latent_, latent_query_, attended_, branch_, middle_, activated_, shared_, shared_result_;
  DeviceMemory norm_, angles_, logits_, index_, weight_, counts_, integers_, table_, splits_;
};

void benchmark_layers(Session& session) {
  std::vector<std::unique_ptr<Layer>> layers;
  while (layers.size() < kLayers) layers.push_back(std::make_unique<Layer>(session));
  const Token token(session);
  const double bytes =
      2.0 * static_cast<double>(kHidden * (kQuery + kWidth + kAttended + 3 * kSharedWidth + 3 * kTopK * kExpertWidth) +
                                kHeads * (kNope + kValue) * kLatent + kCached * kWidth) +
      4.0 * kExperts * kHidden;
  size_t next = 0;
  const auto run = [&](const std::string& name, size_t without) {
    session.run_in_graph({name, bytes, 0, [&, without](cudaStream_t stream) {
                            const auto launches = token.launches(*layers[next++ % kLayers]);
                            for (size_t i = 0; i < launches.size(); ++i) {
                              if (i != without) launches[i].second(stream);
                            }
                          }});
  };
  const size_t count = token.launches(*layers.front()).size();
  run("layer of one token", count);
  for (size_t i = 0; i < count; ++i) run("  without " + token.launches(*layers.front())[i].first, i);
  DT_CUDA_CHECK(cudaStreamSynchronize(session.stream()));
}

}  // namespace
}  // namespace deeptitan::benchmark

int main(int argument_count, char** arguments) {
  using namespace deeptitan::benchmark;
  Session session(argument_count > 1 ? arguments[1] : "");
  benchmark_layers(session);
  return 0;
}
