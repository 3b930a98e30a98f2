#include "kernels/cuda/attention/sm90_latent_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/cuda_device.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/latent_batch.h"
#include "kernels/cuda/test_sizes.h"
#include "kernels/cuda/typed_elements.h"

namespace deeptitan::cuda {
namespace {

constexpr int64_t kLatent = LatentBatch::kLatent, kRope = LatentBatch::kRope, kWidth = LatentBatch::kWidth;

/// A batch of decoding: sequences with a few rows each behind what they have cached.
struct Batch {
  std::vector<int32_t> rows;    // of each sequence
  std::vector<int32_t> cached;  // entries before them
  int64_t heads;
  int64_t page_size;
  int64_t capacity;
  int64_t padding = 0;  // rows that no sequence holds

  int64_t sequences() const { return std::ssize(rows); }
  int64_t tokens() const { return std::accumulate(rows.begin(), rows.end(), int64_t{0}) + padding; }
  /// Entries that the sequence's last row sees.
  int64_t seen(int64_t sequence) const { return rows[sequence] == 0 ? 0 : cached[sequence] + rows[sequence]; }
  std::string text() const {
    std::string all;
    for (size_t s = 0; s < rows.size() && s < 8; ++s) {
      all.append(1, ' ').append(std::to_string(cached[s])).append(1, '+').append(std::to_string(rows[s]));
    }
    return std::to_string(heads) + " heads, pages of " + std::to_string(page_size) + ", capacity " +
           std::to_string(capacity) + ", sequences" + all;
  }
};

/// A batch on the device. Entries that nobody sees are NaN, and pages that nobody sees are no pages.
class Device {
 public:
  explicit Device(const Batch& batch) : Device(batch, table_of(batch)) {}

  LatentRows<bfloat16> rows() { return batch_.rows(); }
  std::vector<bfloat16> by_warpgroups(int64_t tokens, cudaStream_t stream = nullptr) {
    DeviceBuffer<bfloat16> out(tokens * batch_.shape.heads * kLatent);
    launch(out.get(), tokens, stream);
    return out.download();
  }
  void launch(bfloat16* out, int64_t tokens, cudaStream_t stream) {
    LatentRows<bfloat16> in = rows();
    in.tokens = tokens;
    sm90_latent_attention(out, in, batch_.shape.capacity, workspace_.get(), stream);
  }
  std::vector<bfloat16> plain() {
    DeviceBuffer<bfloat16> out(batch_.shape.tokens * batch_.shape.heads * kLatent);
    latent_attention(out.get(), rows(), nullptr);
    return out.download();
  }

 private:
  Device(const Batch& batch, const std::vector<int32_t>& table)
      : batch_(shape_of(batch), table, cache_of(batch, table), 91),
        workspace_(sm90_latent_attention_workspace(batch.tokens(), batch.heads, batch.capacity)) {}

  static LatentShape shape_of(const Batch& batch) {
    std::vector<int32_t> offset(1, 0);
    for (const int32_t rows : batch.rows) offset.push_back(offset.back() + rows);
    return {.query_offset = offset,
            .cached_length = batch.cached,
            .tokens = batch.tokens(),
            .heads = batch.heads,
            .page_size = batch.page_size,
            .pages = pages_of(batch),
            .capacity = batch.capacity};
  }
  /// Pages in a random order, one after another; page 0 is nobody's.
  static std::vector<int32_t> table_of(const Batch& batch) {
    std::vector<int32_t> order(pages_of(batch) - 1);
    std::iota(order.begin(), order.end(), 1);
    std::shuffle(order.begin(), order.end(), std::mt19937(7));
    const int64_t width = shape_of(batch).table_width();
    std::vector<int32_t> table(batch.sequences() * width, std::numeric_limits<int32_t>::max());
    size_t next = 0;
    for (int64_t s = 0; s < batch.sequences(); ++s) {
      for (int64_t page = 0; page * batch.page_size < batch.seen(s); ++page) table[s * width + page] = order[next++];
    }
    return table;
  }
  static int64_t pages_of(const Batch& batch) {
    int64_t pages = 1;
    for (int64_t s = 0; s < batch.sequences(); ++s) {
      pages += (batch.cached[s] + batch.rows[s] + batch.page_size - 1) / batch.page_size;
    }
    return pages;
  }
  static std::vector<bfloat16> cache_of(const Batch& batch, const std::vector<int32_t>& table) {
    const int64_t entries = pages_of(batch) * batch.page_size, width = shape_of(batch).table_width();
    std::vector<bfloat16> cache(entries * kWidth, to_bfloat16(NAN));
    const std::vector<bfloat16> values = random_elements<bfloat16>(entries * kWidth, 92);
    for (int64_t s = 0; s < batch.sequences(); ++s) {
      for (int64_t i = 0; i < batch.seen(s); ++i) {
        const int64_t at = table[s * width + i / batch.page_size] * batch.page_size + i % batch.page_size;
        std::copy_n(&values[at * kWidth], kWidth, &cache[at * kWidth]);
      }
    }
    return cache;
  }

  LatentBatch batch_;
  DeviceBuffer<float> workspace_;
};

#define DT_SKIP_WITHOUT_HOPPER() \
  DT_SKIP_WITHOUT_GPU();         \
  if (capability_major(0) != 9) GTEST_SKIP() << "needs a Hopper GPU"

std::vector<int32_t> random_counts(int64_t n, int least, int most, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> counts(n);
  for (int32_t& count : counts) count = std::uniform_int_distribution<int>(least, most)(random);
  return counts;
}

std::vector<Batch> batches() {
  std::vector<Batch> all = {
      // Tiles that are whole, begun, and one entry long; a sequence without rows; rows of one sequence see one more
      // each.
      {{1, 1, 0, 2, 3, 1, 1}, {0, 63, 9, 64, 301, 380, 127}, 128, 64, 400, 2},
      {{1, 1, 1}, {640, 5, 1000}, 64, 16, 1100},
      {{1}, {8999}, 128, 64, 9000},          // splits of several tiles
      {{1, 2}, {130, 77}, 100, 48, 200},     // heads that fill one and a half blocks, pages of no power of 2
      {{1, 1}, {700, 90}, 48, 128, 800, 1},  // pages larger than a tile
      {{1, 1}, {200, 90}, 192, 8, 256},      // the smallest pages
  };
  for (const auto& [sequences, heads] :
       {std::pair<int64_t, int64_t>{20, 128}, {40, 128}, {100, 64}, {80, 16}, {70, 20}}) {
    all.push_back({random_counts(sequences, 0, 2, 5), random_counts(sequences, 0, 700, 6), heads, 64, 1024, 3});
  }
  return all;
}

TEST(Sm90LatentAttention, IsThePlainKernel) {
  DT_SKIP_WITHOUT_HOPPER();
  for (const Batch& batch : batches()) {
    if (only_small_sizes() && batch.tokens() * batch.heads > 2000) continue;
    SCOPED_TRACE(batch.text());
    Device device(batch);
    ASSERT_TRUE(sm90_latent_attention_fits(device.rows()));
    const std::vector<bfloat16> found = device.by_warpgroups(batch.tokens());
    EXPECT_LT(relative_difference(found, device.plain()), 6e-3);  // weights are rounded to bf16
    const int64_t width = batch.heads * kLatent;
    for (int64_t i = (batch.tokens() - batch.padding) * width; i < batch.tokens() * width; ++i) {
      ASSERT_EQ(found[i].bits, 0) << "padding";
    }
  }
}

TEST(Sm90LatentAttention, ATokensBitsAreItsOwnWithinAClass) {
  DT_SKIP_WITHOUT_HOPPER();
  for (const int64_t sequences : {12, 60, 150}) {
    if (only_small_sizes() && sequences > 12) continue;
    const Batch batch{random_counts(sequences, 1, 1, 1), random_counts(sequences, 0, 900, 8), 64, 64, 1024};
    Device device(batch);
    const std::vector<bfloat16> found = device.by_warpgroups(batch.tokens());
    const int64_t fewer = sequences * 2 / 3;
    const std::vector<bfloat16> beside_fewer = device.by_warpgroups(fewer);
    EXPECT_TRUE(same_first_rows(beside_fewer, found, std::ssize(beside_fewer))) << sequences;
  }
}

TEST(Sm90LatentAttention, AGraphAndEveryRunHaveTheSameBits) {
  DT_SKIP_WITHOUT_HOPPER();
  for (const int64_t sequences : {3, 70}) {
    if (only_small_sizes() && sequences > 3) continue;
    const Batch batch{random_counts(sequences, 1, 2, 1), random_counts(sequences, 0, 3000, 9), 128, 64, 3002};
    Device device(batch);
    const std::vector<bfloat16> found = device.by_warpgroups(batch.tokens());
    DeviceBuffer<bfloat16> out(found.size());
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t captured = nullptr;
    DT_CUDA_CHECK(cudaStreamCreate(&stream));
    DT_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    device.launch(out.get(), batch.tokens(), stream);
    DT_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    DT_CUDA_CHECK(cudaGraphInstantiate(&captured, graph, 0));
    for (int run = 0; run < 5; ++run) {
      DT_CUDA_CHECK(cudaMemsetAsync(out.get(), 0xff, out.bytes(), stream));
      DT_CUDA_CHECK(cudaGraphLaunch(captured, stream));
      DT_CUDA_CHECK(cudaStreamSynchronize(stream));
      EXPECT_TRUE(same_bytes(out.download(), found)) << "run " << run << " of " << sequences << " sequences";
    }
    DT_CUDA_CHECK(cudaGraphExecDestroy(captured));
    DT_CUDA_CHECK(cudaGraphDestroy(graph));
    DT_CUDA_CHECK(cudaStreamDestroy(stream));
  }
}

TEST(Sm90LatentAttention, RefusesWhatItDoesNotTake) {
  LatentRows<bfloat16> rows{.page_size = 64, .heads = 64, .latent_dim = kLatent, .rope_dim = kRope};
  EXPECT_TRUE(sm90_latent_attention_fits(rows));
  LatentRows<bfloat16> few = rows, narrow = rows, pages = rows;
  few.heads = 16;
  narrow.latent_dim = 256;
  pages.page_size = 20;
  EXPECT_FALSE(sm90_latent_attention_fits(few));
  few.tokens = 65;
  EXPECT_TRUE(sm90_latent_attention_fits(few));
  EXPECT_FALSE(sm90_latent_attention_fits(narrow));
  EXPECT_FALSE(sm90_latent_attention_fits(pages));
}

}  // namespace
}  // namespace deeptitan::cuda
