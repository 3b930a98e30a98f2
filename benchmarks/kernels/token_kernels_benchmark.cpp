// What every layer does to its tokens' rows between products: each is bound by the bytes that it moves.

#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "kernels/cuda/activation/swiglu.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/embedding/embedding.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/loss/cross_entropy.h"
#include "kernels/cuda/norm/rms_norm.h"
#include "kernels/cuda/rope/rope.h"
#include "kernels/cuda/router/balance.h"
#include "kernels/cuda/sampling/choose_tokens.h"
#include "moe_kernels_benchmark.h"

namespace deeptitan::benchmark {
namespace {

DeviceMemory normal_bf16(Session& session, int64_t count, uint64_t seed) {
  DeviceMemory memory(static_cast<size_t>(count) * 2);
  fill_normal_bf16(memory.as<void>(), count, seed, session.stream());
  return memory;
}

DeviceMemory normal_f32(Session& session, int64_t count, uint64_t seed) {
  DeviceMemory memory(static_cast<size_t>(count) * 4);
  fill_normal_f32(memory.as<void>(), count, seed, session.stream());
  return memory;
}

void benchmark_norm(Session& session, int64_t rows, int64_t dim) {
  const DeviceMemory x = normal_bf16(session, rows * dim, 1), d_out = normal_bf16(session, rows * dim, 2),
                     out = normal_bf16(session, rows * dim, 3), sum = normal_bf16(session, rows * dim, 4),
                     weight = normal_f32(session, dim, 5), rstd = normal_f32(session, rows, 6),
                     d_weight = normal_f32(session, dim, 7),
                     workspace = normal_f32(session, cuda::rms_norm_backward_weight_workspace(rows, dim), 8);
  const double bytes = 2.0 * static_cast<double>(rows * dim);
  const std::string name = fmt::format(" {} x {}", rows, dim);
  session.run({"norm" + name, 2 * bytes, 0, [&](cudaStream_t stream) {
                 cuda::rms_norm(out.as<bfloat16>(), dim, rstd.as<float>(), x.as<bfloat16>(), dim, weight.as<float>(),
                                rows, dim, 1e-6f, stream);
               }});
  session.run({"add and norm" + name, 4 * bytes, 0, [&](cudaStream_t stream) {
                 cuda::add_rms_norm(sum.as<bfloat16>(), out.as<bfloat16>(), rstd.as<float>(), x.as<bfloat16>(),
                                    d_out.as<bfloat16>(), weight.as<float>(), rows, dim, 1e-6f, stream);
               }});
  session.run({"norm backward, input, adding" + name, 4 * bytes, 0, [&](cudaStream_t stream) {
                 cuda::rms_norm_backward_input(out.as<bfloat16>(), dim, d_out.as<bfloat16>(), dim, x.as<bfloat16>(),
                                               dim, rstd.as<float>(), weight.as<float>(), rows, dim, true, stream);
               }});
  session.run({"norm backward, weight" + name, 2 * bytes, 0, [&](cudaStream_t stream) {
                 cuda::rms_norm_backward_weight(d_weight.as<float>(), d_out.as<bfloat16>(), dim, x.as<bfloat16>(), dim,
                                                rstd.as<float>(), rows, dim, workspace.as<float>(), stream);
               }});
  session.run({"add" + name, 3 * bytes, 0, [&](cudaStream_t stream) {
                 cuda::add(out.as<bfloat16>(), x.as<bfloat16>(), d_out.as<bfloat16>(), rows * dim, stream);
               }});
}

void benchmark_swiglu(Session& session, int64_t rows, int64_t width) {
  const DeviceMemory gate_up = normal_bf16(session, 2 * rows * width, 1), d_out = normal_bf16(session, rows * width, 2),
                     out = normal_bf16(session, rows * width, 3), d = normal_bf16(session, 2 * rows * width, 4);
  const auto* gate = gate_up.as<bfloat16>();
  const double bytes = 2.0 * static_cast<double>(rows * width);
  const std::string name = fmt::format(" {} x {}", rows, width);
  session.run({"swiglu" + name, 3 * bytes, 0, [&](cudaStream_t stream) {
                 cuda::swiglu(out.as<bfloat16>(), gate, gate + width, 2 * width, rows, width, stream);
               }});
  session.run({"swiglu backward" + name, 5 * bytes, 0, [&](cudaStream_t stream) {
                 cuda::swiglu_backward(d.as<bfloat16>(), d.as<bfloat16>() + width, 2 * width, d_out.as<bfloat16>(),
                                       gate, gate + width, 2 * width, rows, width, stream);
               }});
}

// Rows of experts, as many of each.
void benchmark_grouped_swiglu(Session& session, int64_t rows, int experts, int64_t width) {
  const DeviceMemory gate_up = normal_bf16(session, 2 * rows * width, 1), d_out = normal_bf16(session, rows * width, 2),
                     out = normal_bf16(session, rows * width, 3), d = normal_bf16(session, 2 * rows * width, 4),
                     first(static_cast<size_t>(experts) * 4), count(static_cast<size_t>(experts) * 4);
  std::vector<int32_t> firsts, counts(static_cast<size_t>(experts), static_cast<int32_t>(rows / experts));
  for (int e = 0; e < experts; ++e) firsts.push_back(e * counts[0]);
  DT_CUDA_CHECK(cudaMemcpy(first.as<void>(), firsts.data(), firsts.size() * 4, cudaMemcpyHostToDevice));
  DT_CUDA_CHECK(cudaMemcpy(count.as<void>(), counts.data(), counts.size() * 4, cudaMemcpyHostToDevice));
  const GroupRows groups{first.as<int32_t>(), count.as<int32_t>(), experts};
  const int64_t capacity = rows + 127 * experts;  // as a dispatcher says it, with room for padding
  const auto* gate = gate_up.as<bfloat16>();
  const double bytes = 2.0 * static_cast<double>(rows * width);
  const std::string name = fmt::format(" {} experts, {} x {}", experts, rows, width);
  session.run({"swiglu," + name, 3 * bytes, 0, [&](cudaStream_t stream) {
                 cuda::grouped_swiglu(out.as<bfloat16>(), gate, gate + width, 2 * width, groups, capacity, width,
                                      stream);
               }});
  session.run({"swiglu backward," + name, 5 * bytes, 0, [&](cudaStream_t stream) {
                 cuda::grouped_swiglu_backward(d.as<bfloat16>(), d.as<bfloat16>() + width, 2 * width,
                                               d_out.as<bfloat16>(), gate, gate + width, 2 * width, groups, capacity,
                                               width, stream);
               }});
}

// The rotated part of each head of the queries.
void benchmark_rope(Session& session, int64_t tokens, int64_t heads) {
  constexpr int64_t kHead = 192, kRotated = 64;
  const DeviceMemory q = normal_bf16(session, tokens * heads * kHead, 1),
                     cos = normal_f32(session, tokens * kRotated / 2, 2),
                     sin = normal_f32(session, tokens * kRotated / 2, 3), positions(static_cast<size_t>(tokens) * 4);
  std::vector<int32_t> place(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t) place[static_cast<size_t>(t)] = static_cast<int32_t>(t % 4096);
  DT_CUDA_CHECK(cudaMemcpy(positions.as<void>(), place.data(), place.size() * 4, cudaMemcpyHostToDevice));
  session.run({fmt::format("rope {} x {} heads of {}", tokens, heads, kRotated),
               4.0 * static_cast<double>(tokens * heads * kRotated), 0, [&](cudaStream_t stream) {
                 cuda::rope_rotate(q.as<bfloat16>() + kHead - kRotated, heads * kHead, heads, kHead, kRotated,
                                   cos.as<float>(), sin.as<float>(), positions.as<int32_t>(), tokens, false, false,
                                   stream);
               }});
}

void benchmark_embedding(Session& session, int64_t tokens, int64_t vocab, int64_t dim) {
  const DeviceMemory table = normal_f32(session, vocab * dim, 1), out = normal_bf16(session, tokens * dim, 2),
                     ids(static_cast<size_t>(tokens) * 4);
  std::mt19937 random(1);
  std::vector<int32_t> drawn(static_cast<size_t>(tokens));
  for (int32_t& id : drawn) id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab));
  DT_CUDA_CHECK(cudaMemcpy(ids.as<void>(), drawn.data(), drawn.size() * 4, cudaMemcpyHostToDevice));
  const double elements = static_cast<double>(tokens * dim);
  const std::string name = fmt::format(" {} x {} of {}", tokens, dim, vocab);
  session.run({"embedding" + name, 6 * elements, 0, [&](cudaStream_t stream) {
                 cuda::embedding_gather(out.as<bfloat16>(), table.as<float>(), ids.as<int32_t>(), tokens, vocab, dim,
                                        stream);
               }});
  session.run({"embedding backward" + name, 10 * elements, 0, [&](cudaStream_t stream) {
                 cuda::embedding_scatter_add(table.as<float>(), out.as<bfloat16>(), ids.as<int32_t>(), tokens, vocab,
                                             dim, stream);
               }});
}

void benchmark_rounding(Session& session, int64_t rows, int64_t columns) {
  const DeviceMemory from = normal_f32(session, rows * columns, 1), to = normal_bf16(session, rows * columns, 2);
  session.run({fmt::format("weights to bf16 {} x {}", rows, columns), 6.0 * static_cast<double>(rows * columns), 0,
               [&](cudaStream_t stream) {
                 cuda::convert(to.as<bfloat16>(), columns, from.as<float>(), columns, rows, columns, stream);
               }});
}

void benchmark_cross_entropy(Session& session, int64_t rows, int64_t vocab) {
  const DeviceMemory logits = normal_f32(session, rows * vocab, 1), d_logits = normal_bf16(session, rows * vocab, 2),
                     loss = normal_f32(session, rows, 3), targets(static_cast<size_t>(rows) * 4), scale(8);
  std::vector<int32_t> target(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) target[static_cast<size_t>(r)] = static_cast<int32_t>(r * 37 % vocab);
  const double one = 1;
  DT_CUDA_CHECK(cudaMemcpy(targets.as<void>(), target.data(), target.size() * 4, cudaMemcpyHostToDevice));
  DT_CUDA_CHECK(cudaMemcpy(scale.as<void>(), &one, sizeof one, cudaMemcpyHostToDevice));
  session.run({fmt::format("cross-entropy {} x {}", rows, vocab), 6.0 * static_cast<double>(rows * vocab), 0,
               [&](cudaStream_t stream) {
                 cuda::softmax_cross_entropy(loss.as<float>(), d_logits.as<bfloat16>(), vocab, logits.as<float>(),
                                             vocab, targets.as<int32_t>(), scale.as<double>(), rows, vocab, stream);
               }});
}

// The loss alone of the balance of choices, of sequences of 4096.
void benchmark_balance(Session& session, int64_t sequences, int experts) {
  constexpr int64_t kLength = 4096;
  const int64_t tokens = sequences * kLength;
  RouterOptions options;
  options.experts = experts, options.top_k = 6;
  const DeviceMemory scores = normal_f32(session, tokens * experts, 1), loss(8),
                     index(static_cast<size_t>(tokens) * 4 * 6), offsets(static_cast<size_t>(sequences + 1) * 4),
                     workspace(
                         static_cast<size_t>(cuda::sequence_auxiliary_loss_workspace(sequences, tokens, experts)));
  std::vector<int32_t> chosen(static_cast<size_t>(tokens * 6)), begins;
  for (size_t i = 0; i < chosen.size(); ++i) chosen[i] = static_cast<int32_t>(i * 37 % static_cast<size_t>(experts));
  for (int64_t s = 0; s <= sequences; ++s) begins.push_back(static_cast<int32_t>(s * kLength));
  DT_CUDA_CHECK(cudaMemset(loss.as<void>(), 0, 8));
  DT_CUDA_CHECK(cudaMemcpy(index.as<void>(), chosen.data(), chosen.size() * 4, cudaMemcpyHostToDevice));
  DT_CUDA_CHECK(cudaMemcpy(offsets.as<void>(), begins.data(), begins.size() * 4, cudaMemcpyHostToDevice));
  session.run({fmt::format("balance loss {} x 4096 of {} experts", sequences, experts),
               4.0 * static_cast<double>(tokens * experts), 0, [&](cudaStream_t stream) {
                 cuda::sequence_auxiliary_loss(loss.as<double>(), nullptr, scores.as<float>(), index.as<int32_t>(),
                                               {offsets.as<int32_t>(), sequences}, tokens, options, 0.001f, nullptr,
                                               workspace.as<void>(), stream);
               }});
}

// Of standard normal logits: at temperature 0.7 the part 0.9 are most of the tokens, at 0.2 some dozens.
void benchmark_choice(Session& session, int64_t rows, int64_t vocab) {
  const DeviceMemory logits = normal_f32(session, rows * vocab, 1), chosen(static_cast<size_t>(rows) * 4),
                     choices(static_cast<size_t>(rows) * sizeof(TokenChoice)),
                     allowed(static_cast<size_t>(choice_words(vocab)) * 4),
                     earlier(static_cast<size_t>(rows * choice_words(vocab)) * 4),
                     workspace(static_cast<size_t>(cuda::choose_tokens_workspace(rows, vocab)));
  DT_CUDA_CHECK(cudaMemset(allowed.as<void>(), 0xff, static_cast<size_t>(choice_words(vocab)) * 4));
  DT_CUDA_CHECK(cudaMemset(earlier.as<void>(), 0x11, static_cast<size_t>(rows * choice_words(vocab)) * 4));
  const auto run = [&](const char* name, const TokenChoice& choice) {
    std::vector<TokenChoice> of_rows(static_cast<size_t>(rows), choice);
    for (size_t r = 0; r < of_rows.size(); ++r) of_rows[r].bits = r * 0x9e3779b97f4a7c15;
    DT_CUDA_CHECK(
        cudaMemcpy(choices.as<void>(), of_rows.data(), of_rows.size() * sizeof(TokenChoice), cudaMemcpyHostToDevice));
    session.run({fmt::format("choice {} x {}, {}", rows, vocab, name), 4.0 * static_cast<double>(rows * vocab), 0,
                 [&](cudaStream_t stream) {
                   cuda::choose_tokens(chosen.as<int32_t>(),
                                       {.logits = logits.as<float>(),
                                        .stride = vocab,
                                        .choices = choices.as<TokenChoice>(),
                                        .allowed = allowed.as<uint32_t>(),
                                        .earlier = earlier.as<uint32_t>(),
                                        .vocab = vocab},
                                       rows, workspace.as<void>(), stream);
                 }});
  };
  run("the likeliest", {});
  run("temperature 0.7", {.temperature = 0.7});
  run("temperature 0.7, top-k 50, top-p 0.9", {.temperature = 0.7, .top_p = 0.9, .top_k = 50});
  run("temperature 0.2, top-p 0.9", {.temperature = 0.2, .top_p = 0.9});
  run("temperature 0.7, top-p 0.9", {.temperature = 0.7, .top_p = 0.9});
  run("temperature 0.7, penalty", {.temperature = 0.7, .penalty = 1.1f});
}

}  // namespace

void benchmark_token_kernels(Session& session) {
  constexpr int64_t kTokens = 16384;  // 4 x 4096, at DeepSeek-V2-Lite's widths
  benchmark_norm(session, kTokens, 2048);
  benchmark_norm(session, 4096, 2048);
  benchmark_swiglu(session, kTokens, 2816);
  benchmark_grouped_swiglu(session, kTokens * 6, 64, 1408);
  benchmark_rope(session, kTokens, 16);
  benchmark_embedding(session, kTokens, 102400, 2048);
  benchmark_rounding(session, 64 * 2816, 2048);
  benchmark_cross_entropy(session, 2048, 102400);
  benchmark_balance(session, 1, 64);
  benchmark_balance(session, 4, 64);
  for (const int64_t rows : {1, 32, 256}) benchmark_choice(session, rows, 102400);
}

}  // namespace deeptitan::benchmark
