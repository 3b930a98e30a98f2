#include "kernels/cuda/attention/sm90_attention_forward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/cuda_device.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/sm90_expanded_attention.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

struct HeadSize {
  int64_t nope, rope, value;
};
constexpr HeadSize kLarge{128, 64, 128}, kSmall{64, 32, 64};

struct Case {
  std::vector<int32_t> offset;
  int64_t tokens;  // of the batch; those from offset.back() on are no document's
  int64_t heads;
  HeadSize size;
  int64_t ld_rope() const { return size.rope + 8; }
  std::string text() const {
    std::string offsets;
    for (const int32_t o : offset) offsets += std::to_string(o) + " ";
    return std::to_string(tokens) + " tokens, " + std::to_string(heads) + " heads of " +
           std::to_string(size.nope + size.rope) + ", documents at " + offsets;
  }
};

struct Values {
  std::vector<bfloat16> query, key_value, key_rope;
};

Values random_values(const Case& c) {
  return {random_elements<bfloat16>(c.tokens * c.heads * (c.size.nope + c.size.rope), 60),
          random_elements<bfloat16>(c.tokens * c.heads * (c.size.nope + c.size.value), 61),
          random_elements<bfloat16>(c.tokens * c.ld_rope(), 62)};
}

template <typename T>
cpu::AttentionInputs<T> inputs_of(const Case& c, const T* query, const T* key_value, const T* key_rope,
                                  const int32_t* offset) {
  return {.query = query,
          .key_value = key_value,
          .key_rope = key_rope,
          .ld_key_rope = c.ld_rope(),
          .document_offset = offset,
          .documents = static_cast<int64_t>(c.offset.size()) - 1,
          .longest = 0,
          .heads = c.heads,
          .nope_dim = c.size.nope,
          .rope_dim = c.size.rope,
          .value_dim = c.size.value,
          .scale = 0.08f};
}

struct Result {
  std::vector<bfloat16> out;
  std::vector<float> log_sum_exp;
};

Result run(const Case& c, const Values& values) {
  DeviceBuffer<bfloat16> query(values.query), key_value(values.key_value), key_rope(values.key_rope);
  DeviceBuffer<bfloat16> out(c.tokens * c.heads * c.size.value);
  DeviceBuffer<float> log_sum_exp(c.tokens * c.heads);
  DeviceBuffer<int32_t> offset(c.offset);
  DeviceBuffer<char> workspace(sm90_attention_forward_workspace(c.tokens, static_cast<int64_t>(c.offset.size()) - 1));
  const auto in = inputs_of<bfloat16>(c, query.get(), key_value.get(), key_rope.get(), offset.get());
  sm90_attention_forward(out.get(), log_sum_exp.get(), in, c.tokens, workspace.get(), nullptr);
  return {out.download(), log_sum_exp.download()};
}

std::vector<float> widen(const std::vector<bfloat16>& x) {
  std::vector<float> wide(x.size());
  for (size_t i = 0; i < x.size(); ++i) wide[i] = to_float(x[i]);
  return wide;
}

/// The plain kernel in fp32 over the same values is the reference: what is left is the rounding of weights and results.
void expect_the_plain_kernels(const Case& c) {
  SCOPED_TRACE(c.text());
  const Values values = random_values(c);
  DeviceBuffer<float> query(widen(values.query)), key_value(widen(values.key_value)), key_rope(widen(values.key_rope));
  DeviceBuffer<float> out(c.tokens * c.heads * c.size.value), log_sum_exp(c.tokens * c.heads);
  DeviceBuffer<int32_t> offset(c.offset);
  attention_forward(out.get(), log_sum_exp.get(),
                    inputs_of<float>(c, query.get(), key_value.get(), key_rope.get(), offset.get()), c.tokens, nullptr);
  const Result result = run(c, values);
  EXPECT_LT(relative_difference(widen(result.out), out.download()), 4e-3);
  EXPECT_LT(relative_difference(result.log_sum_exp, log_sum_exp.download()), 3e-6);
  const int64_t held = c.offset.back();
  for (int64_t i = held * c.heads * c.size.value; i < c.tokens * c.heads * c.size.value; ++i) {
    ASSERT_EQ(result.out[i].bits, 0) << "element " << i << " of no document";
  }
  for (int64_t i = held * c.heads; i < c.tokens * c.heads; ++i) ASSERT_EQ(result.log_sum_exp[i], 0.0f) << i;
}

class Sm90Attention : public testing::Test {
 protected:
  void SetUp() override {
    DT_SKIP_WITHOUT_GPU();
    if (capability_major(0) != 9) GTEST_SKIP() << "needs a Hopper GPU";
  }
};

// Documents that end inside tiles of 64 and 128 and at their ends, empty ones, and rows of none.
TEST_F(Sm90Attention, IsThePlainKernel) {
  for (const HeadSize& size : {kLarge, kSmall}) {
    for (const Case& c :
         {Case{{0, 1}, 1, 1, size}, Case{{0, 64}, 64, 2, size}, Case{{0, 65}, 66, 1, size},
          Case{{0, 128}, 128, 3, size}, Case{{0, 129}, 129, 2, size}, Case{{0, 5, 6, 6, 71, 300, 300}, 310, 3, size},
          Case{{0, 128, 192, 511}, 511, 2, size}, Case{{0, 700}, 700, 2, size}, Case{{0, 0}, 3, 2, size},
          Case{{0, 90, 91, 257, 257, 1500}, 1500, 4, size}}) {
      expect_the_plain_kernels(c);
    }
  }
}

TEST_F(Sm90Attention, RandomDocuments) {
  std::mt19937 random(90);
  for (int round = 0; round < 24; ++round) {
    Case c{{0}, 0, 1 + static_cast<int64_t>(random() % 5), round % 3 == 0 ? kSmall : kLarge};
    const int64_t documents = 1 + random() % 40;
    const int64_t longest = std::vector<int64_t>{20, 70, 200, 900}[random() % 4];
    for (int64_t d = 0; d < documents; ++d) {
      c.offset.push_back(c.offset.back() + static_cast<int32_t>(random() % (longest + 1)));
    }
    c.tokens = c.offset.back() + random() % 70 + 1;
    expect_the_plain_kernels(c);
  }
}

// More sections and more documents than one of anything: blocks take many tiles, in another order each run.
TEST_F(Sm90Attention, ManyDocumentsOverSections) {
  std::mt19937 random(91);
  Case c{{0}, 0, 3, kLarge};
  while (c.offset.back() < 40000) {
    const int64_t longest = random() % 50 == 0 ? 3000 : 120;
    c.offset.push_back(c.offset.back() + static_cast<int32_t>(random() % longest));
  }
  c.tokens = c.offset.back() + 100;
  expect_the_plain_kernels(c);
}

TEST_F(Sm90Attention, ADocumentsBitsDoNotDependOnWhatItIsPackedWith) {
  for (const HeadSize& size : {kLarge, kSmall}) {
    const Case packed{{0, 37, 101, 101, 329, 400, 1301, 1310}, 1340, 3, size};
    const Values values = random_values(packed);
    const Result whole = run(packed, values);
    for (size_t d = 0; d + 1 < packed.offset.size(); ++d) {
      const int64_t first = packed.offset[d], end = packed.offset[d + 1];
      if (first == end) continue;
      const Case alone{{0, static_cast<int32_t>(end - first)}, end - first, packed.heads, size};
      const auto cut = [&](const auto& rows, int64_t width) {
        return std::vector(rows.begin() + first * width, rows.begin() + end * width);
      };
      const Result own = run(alone, {cut(values.query, packed.heads * (size.nope + size.rope)),
                                     cut(values.key_value, packed.heads * (size.nope + size.value)),
                                     cut(values.key_rope, packed.ld_rope())});
      EXPECT_TRUE(same_bytes(own.out, cut(whole.out, packed.heads * size.value))) << "document " << d;
      EXPECT_TRUE(same_bytes(own.log_sum_exp, cut(whole.log_sum_exp, packed.heads))) << "document " << d;
    }
    const Result again = run(packed, values);
    EXPECT_TRUE(same_bytes(again.out, whole.out));
    EXPECT_TRUE(same_bytes(again.log_sum_exp, whole.log_sum_exp));
  }
}

TEST_F(Sm90Attention, ANotANumberStaysInItsDocument) {
  const Case c{{0, 30, 130, 330, 470, 500}, 520, 2, kLarge};
  Values values = random_values(c);
  const Result before = run(c, values);
  bfloat16 nan;
  nan.bits = 0x7fc0;
  const auto spoil = [&](std::vector<bfloat16>& rows, int64_t width) {
    for (const auto& [first, end] : {std::pair<int64_t, int64_t>{30, 130}, {330, 470}, {500, 520}}) {
      std::fill(rows.begin() + first * width, rows.begin() + end * width, nan);
    }
  };
  spoil(values.query, c.heads * 192);
  spoil(values.key_value, c.heads * 256);
  spoil(values.key_rope, c.ld_rope());
  const Result after = run(c, values);
  const int64_t width = c.heads * 128;
  for (const auto& [first, end] : {std::pair<int64_t, int64_t>{0, 30}, {130, 330}, {470, 500}}) {
    for (int64_t i = first * width; i < end * width; ++i) ASSERT_EQ(after.out[i].bits, before.out[i].bits) << i;
  }
  for (int64_t i = 30 * width; i < 130 * width; ++i) ASSERT_TRUE(std::isnan(to_float(after.out[i]))) << i;
}

// The launch knows capacities only: replayed over other documents it computes those.
TEST_F(Sm90Attention, AGraphServesOtherDocuments) {
  const Case captured{{0, 300, 600, 600, 600}, 600, 2, kLarge}, other{{0, 20, 90, 420, 555}, 600, 2, kLarge};
  const Values values = random_values(captured);
  DeviceBuffer<bfloat16> query(values.query), key_value(values.key_value), key_rope(values.key_rope);
  DeviceBuffer<bfloat16> out(600 * 2 * 128);
  DeviceBuffer<int32_t> offset(captured.offset);
  DeviceBuffer<char> workspace(sm90_attention_forward_workspace(600, 4));
  cudaStream_t stream;
  DT_CUDA_CHECK(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  DT_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  sm90_attention_forward(out.get(), nullptr,
                         inputs_of<bfloat16>(captured, query.get(), key_value.get(), key_rope.get(), offset.get()), 600,
                         workspace.get(), stream);
  DT_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  DT_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  for (const Case* c : {&captured, &other, &captured}) {
    offset.upload(c->offset);
    DT_CUDA_CHECK(cudaGraphLaunch(executable, stream));
    DT_CUDA_CHECK(cudaStreamSynchronize(stream));
    EXPECT_TRUE(same_bytes(out.download(), run(*c, values).out)) << c->text();
  }
  DT_CUDA_CHECK(cudaGraphExecDestroy(executable));
  DT_CUDA_CHECK(cudaGraphDestroy(graph));
  DT_CUDA_CHECK(cudaStreamDestroy(stream));
}

// Sequences over pages, each with `cached` entries behind it and `rows` new rows.
struct CachedCase {
  std::vector<int32_t> cached, rows;
  HeadSize size;
  int64_t most_visible;
  int64_t padding = 0;  // rows of no sequence behind the last
};
constexpr int64_t kCachedHeads = 3, kLatent = 64, kPageSize = 16;

class Sm90ExpandedAttention : public Sm90Attention {
 protected:
  /// The rows' results. Queries and entries are those of a sequence's positions, whatever comes in this batch.
  std::vector<bfloat16> run_cached(const CachedCase& c) {
    const int64_t sequences = std::ssize(c.rows), width = kLatent + c.size.rope;
    const int64_t key = c.size.nope + c.size.rope;
    const int64_t pages = (c.most_visible + kPageSize - 1) / kPageSize;
    std::vector<int32_t> offset = {0}, table(sequences * pages);
    std::vector<bfloat16> cache(sequences * pages * kPageSize * width), query;
    for (int64_t s = 0; s < sequences; ++s) {
      offset.push_back(offset.back() + c.rows[s]);
      const auto entries = random_elements<bfloat16>(pages * kPageSize * width, 200 + s);
      const auto queries = random_elements<bfloat16>(c.most_visible * kCachedHeads * key, 300 + s);
      for (int64_t page = 0; page < pages; ++page) {
        const int64_t at = (pages - 1 - page) * sequences + s;  // pages of all sequences in turn, backwards
        table[s * pages + page] = static_cast<int32_t>(at);
        std::copy_n(entries.begin() + page * kPageSize * width, kPageSize * width,
                    cache.begin() + at * kPageSize * width);
      }
      query.insert(query.end(), queries.begin() + c.cached[s] * kCachedHeads * key,
                   queries.begin() + (c.cached[s] + c.rows[s]) * kCachedHeads * key);
    }
    const int64_t tokens = offset.back() + c.padding;
    query.resize(tokens * kCachedHeads * key);
    key_weight_ = random_elements<bfloat16>(kCachedHeads * c.size.nope * kLatent, 400, 0.125f);
    value_weight_ = random_elements<bfloat16>(kCachedHeads * c.size.value * kLatent, 401, 0.125f);
    DeviceBuffer<bfloat16> device_query(query), device_cache(cache), key_weight(key_weight_),
        value_weight(value_weight_), out(tokens * kCachedHeads * c.size.value);
    DeviceBuffer<int32_t> device_offset(offset), cached(c.cached), device_table(table);
    const ExpandedAttention in{.query = device_query.get(),
                               .cache = device_cache.get(),
                               .key_weight = key_weight.get(),
                               .value_weight = value_weight.get(),
                               .rows = {.query_offset = device_offset.get(), .sequences = sequences, .least = 64},
                               .cached_length = cached.get(),
                               .page_table = device_table.get(),
                               .page_table_stride = pages,
                               .page_size = kPageSize,
                               .most_visible = c.most_visible,
                               .tokens = tokens,
                               .heads = kCachedHeads,
                               .nope_dim = c.size.nope,
                               .rope_dim = c.size.rope,
                               .value_dim = c.size.value,
                               .latent_dim = kLatent,
                               .scale = 0.08f};
    EXPECT_TRUE(sm90_expanded_attention_fits(in));
    DeviceBuffer<char> workspace(sm90_expanded_attention_workspace(in));
    sm90_expanded_attention(out.get(), in, workspace.get(), nullptr);
    return out.download();
  }

  /// One sequence's results from its first position on, in fp32 by the plain kernel over keys and values that are
  /// multiplied in double here and rounded to bf16.
  std::vector<float> expected(const CachedCase& c, int64_t sequence, int64_t length) {
    const int64_t width = kLatent + c.size.rope, key = c.size.nope + c.size.rope;
    const int64_t pages = (c.most_visible + kPageSize - 1) / kPageSize;
    const auto entries = widen(random_elements<bfloat16>(pages * kPageSize * width, 200 + sequence));
    auto query = widen(random_elements<bfloat16>(c.most_visible * kCachedHeads * key, 300 + sequence));
    query.resize(length * kCachedHeads * key);
    const int64_t head = c.size.nope + c.size.value;
    const auto key_weight = widen(key_weight_), value_weight = widen(value_weight_);
    std::vector<float> key_value(length * kCachedHeads * head), key_rope(length * (c.size.rope + 8));
    for (int64_t t = 0; t < length; ++t) {
      const float* entry = &entries[t * width];
      for (int64_t h = 0; h < kCachedHeads; ++h) {
        for (int64_t j = 0; j < head; ++j) {
          const float* weight = j < c.size.nope ? &key_weight[(h * c.size.nope + j) * kLatent]
                                                : &value_weight[(h * c.size.value + j - c.size.nope) * kLatent];
          double sum = 0;
          for (int64_t l = 0; l < kLatent; ++l) sum += static_cast<double>(weight[l]) * entry[l];
          key_value[(t * kCachedHeads + h) * head + j] = to_float(to_bfloat16(static_cast<float>(sum)));
        }
      }
      std::copy_n(entry + kLatent, c.size.rope, &key_rope[t * (c.size.rope + 8)]);
    }
    const Case document{{0, static_cast<int32_t>(length)}, length, kCachedHeads, c.size};
    DeviceBuffer<float> device_query(query), device_key_value(key_value), device_key_rope(key_rope);
    DeviceBuffer<float> out(length * kCachedHeads * c.size.value);
    DeviceBuffer<int32_t> offset(document.offset);
    attention_forward(
        out.get(), static_cast<float*>(nullptr),
        inputs_of<float>(document, device_query.get(), device_key_value.get(), device_key_rope.get(), offset.get()),
        length, nullptr);
    return out.download();
  }

  std::vector<bfloat16> key_weight_, value_weight_;
};

// Fresh sequences and ones behind entries, at tiles' ends and inside; with too few rows; without any.
TEST_F(Sm90ExpandedAttention, IsAttentionOverExpandedEntries) {
  for (const HeadSize& size : {kLarge, kSmall}) {
    const CachedCase c{{0, 7, 128, 300, 5, 90}, {200, 64, 130, 70, 63, 0}, size, 400, 20};
    const std::vector<bfloat16> found = run_cached(c);
    const int64_t width = kCachedHeads * size.value;
    int64_t first = 0;
    for (size_t s = 0; s < c.rows.size(); ++s) {
      const std::vector<bfloat16> rows(found.begin() + first * width, found.begin() + (first + c.rows[s]) * width);
      first += c.rows[s];
      if (c.rows[s] < 64) {
        for (const bfloat16 x : rows) ASSERT_EQ(x.bits, 0xffff) << "rows that are not meant are left alone";
        continue;
      }
      const std::vector<float> whole = expected(c, static_cast<int64_t>(s), c.cached[s] + c.rows[s]);
      EXPECT_LT(relative_difference(widen(rows), std::vector(whole.begin() + c.cached[s] * width, whole.end())), 5e-3)
          << "sequence " << s << ", values of " << size.value;
    }
    for (size_t i = first * width; i < found.size(); ++i) ASSERT_EQ(found[i].bits, 0xffff) << "padding";
  }
}

TEST_F(Sm90ExpandedAttention, APromptInChunksHasTheBitsOfTheWhole) {
  const int64_t width = kCachedHeads * 128;
  const std::vector<bfloat16> whole = run_cached({{0}, {700}, kLarge, 704});
  int32_t begin = 0;
  for (const int32_t end : {64, 200, 270, 512, 700}) {
    // Beside another sequence.
    const auto chunk = run_cached({{begin, 11}, {end - begin, 100}, kLarge, 704});
    EXPECT_TRUE(same_bytes(std::vector(chunk.begin(), chunk.begin() + (end - begin) * width),
                           std::vector(whole.begin() + begin * width, whole.begin() + end * width)))
        << "rows " << begin << " to " << end;
    begin = end;
  }
}

}  // namespace
}  // namespace deeptitan::cuda
