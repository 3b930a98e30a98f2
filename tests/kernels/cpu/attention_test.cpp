#include "kernels/cpu/attention/attention.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "support/compare.h"

namespace deeptitan::cpu {
namespace {

using testing::random_normal;
using testing::relative_error;

struct Case {
  std::vector<int32_t> document_offset;
  int64_t heads, nope_dim, rope_dim, value_dim;
  double scale = 0.3;
  int64_t tokens() const { return document_offset.back(); }
  int64_t key_dim() const { return nope_dim + rope_dim; }
};

// A query over plain double arrays: the oracle of both passes.
struct Reference {
  std::vector<double> out, d_query, d_key_value, d_key_rope;
};

Reference reference(const Case& c, const std::vector<double>& q, const std::vector<double>& kv,
                    const std::vector<double>& rope, const std::vector<double>& d_out) {
  Reference r;
  const int64_t width = c.nope_dim + c.value_dim;
  r.out.assign(c.tokens() * c.heads * c.value_dim, 0.0);
  r.d_query.assign(q.size(), 0.0);
  r.d_key_value.assign(kv.size(), 0.0);
  r.d_key_rope.assign(rope.size(), 0.0);
  const auto key = [&](int64_t s, int64_t h, int64_t j) {
    return j < c.nope_dim ? kv[(s * c.heads + h) * width + j] : rope[s * c.rope_dim + j - c.nope_dim];
  };
  for (size_t d = 0; d + 1 < c.document_offset.size(); ++d) {
    const int64_t first = c.document_offset[d];
    for (int64_t t = first; t < c.document_offset[d + 1]; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t n = t - first + 1;
        std::vector<double> p(n), dp(n);
        double largest = -1e300;
        for (int64_t s = 0; s < n; ++s) {
          for (int64_t j = 0; j < c.key_dim(); ++j)
            p[s] += q[(t * c.heads + h) * c.key_dim() + j] * key(first + s, h, j);
          p[s] *= c.scale;
          largest = std::max(largest, p[s]);
        }
        double sum = 0;
        for (double& x : p) sum += x = std::exp(x - largest);
        double delta = 0;
        for (int64_t s = 0; s < n; ++s) {
          p[s] /= sum;
          for (int64_t j = 0; j < c.value_dim; ++j) {
            const double value = kv[((first + s) * c.heads + h) * width + c.nope_dim + j];
            const double upstream = d_out[(t * c.heads + h) * c.value_dim + j];
            r.out[(t * c.heads + h) * c.value_dim + j] += p[s] * value;
            r.d_key_value[((first + s) * c.heads + h) * width + c.nope_dim + j] += p[s] * upstream;
            dp[s] += upstream * value;
          }
          delta += p[s] * dp[s];
        }
        for (int64_t s = 0; s < n; ++s) {
          const double ds = p[s] * (dp[s] - delta) * c.scale;
          for (int64_t j = 0; j < c.key_dim(); ++j) {
            const double query = q[(t * c.heads + h) * c.key_dim() + j];
            r.d_query[(t * c.heads + h) * c.key_dim() + j] += ds * key(first + s, h, j);
            if (j < c.nope_dim) {
              r.d_key_value[((first + s) * c.heads + h) * width + j] += ds * query;
            } else {
              r.d_key_rope[(first + s) * c.rope_dim + j - c.nope_dim] += ds * query;
            }
          }
        }
      }
    }
  }
  return r;
}

template <typename T>
struct Tensors {
  std::vector<T> query, key_value, key_rope, d_out;
  explicit Tensors(const Case& c)
      : query(random_normal<T>(c.tokens() * c.heads * c.key_dim(), 1)),
        key_value(random_normal<T>(c.tokens() * c.heads * (c.nope_dim + c.value_dim), 2)),
        key_rope(random_normal<T>(c.tokens() * c.rope_dim, 3)),
        d_out(random_normal<T>(c.tokens() * c.heads * c.value_dim, 4)) {}
  AttentionInputs<T> inputs(const Case& c) const {
    int64_t longest = 0;
    for (size_t d = 0; d + 1 < c.document_offset.size(); ++d) {
      longest = std::max<int64_t>(longest, c.document_offset[d + 1] - c.document_offset[d]);
    }
    return {query.data(),
            key_value.data(),
            key_rope.data(),
            c.rope_dim,
            c.document_offset.data(),
            static_cast<int64_t>(c.document_offset.size()) - 1,
            longest,
            c.heads,
            c.nope_dim,
            c.rope_dim,
            c.value_dim,
            static_cast<float>(c.scale)};
  }
};

template <typename T>
struct Results {
  std::vector<T> out, d_query, d_key_value, d_key_rope;
  std::vector<float> log_sum_exp;
};

template <typename T>
Results<T> run(const Case& c, const Tensors<T>& t) {
  Results<T> r;
  r.out.resize(t.d_out.size());
  r.d_query.resize(t.query.size());
  r.d_key_value.resize(t.key_value.size());
  r.d_key_rope.resize(t.key_rope.size());
  r.log_sum_exp.resize(c.tokens() * c.heads);
  const auto in = t.inputs(c);
  std::vector<char> workspace(std::max(
      attention_forward_workspace(in.longest, c.nope_dim, c.rope_dim, c.value_dim, sizeof(T)),
      attention_backward_workspace(c.tokens(), in.longest, c.heads, c.nope_dim, c.rope_dim, c.value_dim, sizeof(T))));
  attention_forward(r.out.data(), r.log_sum_exp.data(), in, workspace.data());
  attention_backward(AttentionGradients<T>{r.d_query.data(), r.d_key_value.data(), r.d_key_rope.data(), c.rope_dim},
                     t.d_out.data(), r.out.data(), r.log_sum_exp.data(), in, workspace.data());
  return r;
}

// Documents of one token, just below, at and above the query block, and one empty.
const Case kCases[] = {
    {{0, 1}, 1, 2, 2, 2},
    {{0, 5, 6, 6, 71}, 3, 8, 4, 6},
    {{0, 64, 129}, 2, 16, 8, 32},
    {{0, 200}, 1, 64, 32, 64},
};

template <typename T>
class Attention : public ::testing::Test {};
using Types = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(Attention, Types);

TYPED_TEST(Attention, ForwardAndBackwardEqualTheReference) {
  // bf16 rounds the probabilities and score gradients once (2^-9) before their products, and the results again.
  const double tolerance = sizeof(TypeParam) == 4 ? 3e-6 : 1.2e-2;
  for (const Case& c : kCases) {
    const Tensors<TypeParam> t(c);
    const auto got = run(c, t);
    const auto want = reference(c, testing::to_double(t.query), testing::to_double(t.key_value),
                                testing::to_double(t.key_rope), testing::to_double(t.d_out));
    EXPECT_LT(relative_error(got.out, want.out), tolerance) << c.tokens();
    if (c.tokens() == 1) continue;  // one key: its gradient is an exact zero, of which no relative error exists
    EXPECT_LT(relative_error(got.d_query, want.d_query), tolerance) << c.tokens();
    EXPECT_LT(relative_error(got.d_key_value, want.d_key_value), tolerance) << c.tokens();
    EXPECT_LT(relative_error(got.d_key_rope, want.d_key_rope), tolerance) << c.tokens();
  }
}

TYPED_TEST(Attention, ADocumentDoesNotDependOnItsNeighboursNorOnThreads) {
  const Case packed{{0, 37, 107}, 2, 16, 8, 32};
  const Case alone{{0, 37}, 2, 16, 8, 32};
  const Tensors<TypeParam> both(packed);
  Tensors<TypeParam> first(alone);
  const auto take = [](std::vector<TypeParam>& to, const std::vector<TypeParam>& from) {
    std::copy_n(from.begin(), to.size(), to.begin());
  };
  take(first.query, both.query);
  take(first.key_value, both.key_value);
  take(first.key_rope, both.key_rope);
  take(first.d_out, both.d_out);
  const auto together = run(packed, both);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(3);
  const auto separate = run(alone, first);
  omp_set_num_threads(threads);
  const auto same_bits = [](const std::vector<TypeParam>& part, const std::vector<TypeParam>& whole) {
    return std::memcmp(part.data(), whole.data(), part.size() * sizeof(TypeParam)) == 0;
  };
  EXPECT_TRUE(same_bits(separate.out, together.out));
  EXPECT_TRUE(same_bits(separate.d_query, together.d_query));
  EXPECT_TRUE(same_bits(separate.d_key_value, together.d_key_value));
  EXPECT_TRUE(same_bits(separate.d_key_rope, together.d_key_rope));
}

TEST(Attention, BackwardEqualsCentralDifferences) {
  const Case c{{0, 3, 9}, 2, 4, 2, 4};
  const Tensors<double> point(c);
  const auto loss = [&](const std::vector<double>& q, const std::vector<double>& kv, const std::vector<double>& rope) {
    const auto r = reference(c, q, kv, rope, point.d_out);
    double sum = 0;
    for (size_t i = 0; i < r.out.size(); ++i) sum += r.out[i] * point.d_out[i];
    return sum;
  };
  const auto r = reference(c, point.query, point.key_value, point.key_rope, point.d_out);
  const auto differences = [&](const std::vector<double>& at, const auto& value) {
    std::vector<double> gradient(at.size());
    for (size_t i = 0; i < at.size(); ++i) {
      auto moved = at;
      moved[i] += 1e-5;
      const double above = value(moved);
      moved[i] -= 2e-5;
      gradient[i] = (above - value(moved)) / 2e-5;
    }
    return gradient;
  };
  EXPECT_LT(
      relative_error(r.d_query,
                     differences(point.query, [&](const auto& x) { return loss(x, point.key_value, point.key_rope); })),
      1e-8);
  EXPECT_LT(
      relative_error(r.d_key_value,
                     differences(point.key_value, [&](const auto& x) { return loss(point.query, x, point.key_rope); })),
      1e-8);
  EXPECT_LT(
      relative_error(r.d_key_rope,
                     differences(point.key_rope, [&](const auto& x) { return loss(point.query, point.key_value, x); })),
      1e-8);
}

TYPED_TEST(Attention, OverALatentCacheEqualsTheReference) {
  const int64_t heads = 5;
  const int64_t latent = 32;
  const int64_t rope = 8;
  const int64_t page_size = 16;
  const std::vector<int32_t> visible = {1, 16, 300, 513};
  const int64_t tokens = static_cast<int64_t>(visible.size());
  const int64_t pages = 40;
  const int64_t width = latent + rope;
  const double scale = 0.2;
  const auto query = random_normal<TypeParam>(tokens * heads * width, 1);
  const auto cache = random_normal<TypeParam>(pages * page_size * width, 2);
  std::vector<int32_t> page_table(tokens * pages);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t p = 0; p < pages; ++p) page_table[t * pages + p] = static_cast<int32_t>((p * 7 + t) % pages);
  }
  std::vector<double> want(tokens * heads * latent, 0.0);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<double> p(visible[t]);
      const auto entry = [&](int64_t i) {
        return (page_table[t * pages + i / page_size] * page_size + i % page_size) * width;
      };
      double largest = -1e300;
      for (int64_t i = 0; i < visible[t]; ++i) {
        for (int64_t j = 0; j < width; ++j) {
          p[i] += static_cast<double>(to_float(query[(t * heads + h) * width + j])) * to_float(cache[entry(i) + j]);
        }
        largest = std::max(largest, p[i] *= scale);
      }
      double sum = 0;
      for (double& x : p) sum += x = std::exp(x - largest);
      for (int64_t i = 0; i < visible[t]; ++i) {
        for (int64_t j = 0; j < latent; ++j) {
          want[(t * heads + h) * latent + j] += p[i] / sum * to_float(cache[entry(i) + j]);
        }
      }
    }
  }
  const std::vector<int32_t> table_row = {0, 1, 2, 3};
  LatentAttentionInputs<TypeParam> in{.query = query.data(),
                                      .cache = cache.data(),
                                      .page_table = page_table.data(),
                                      .page_table_stride = pages,
                                      .page_size = page_size,
                                      .table_row = table_row.data(),
                                      .visible = visible.data(),
                                      .tokens = tokens,
                                      .most_visible = 513,
                                      .heads = heads,
                                      .latent_dim = latent,
                                      .rope_dim = rope,
                                      .scale = static_cast<float>(scale)};
  std::vector<TypeParam> out(want.size());
  std::vector<char> workspace(latent_attention_workspace(tokens, 513, heads, latent, rope));
  latent_attention(out.data(), in, workspace.data());
  EXPECT_LT(relative_error(out, want), sizeof(TypeParam) == 4 ? 3e-6 : 1e-2);

  // One token alone gives the same bits as beside others.
  in.tokens = 1;
  in.query += 3 * heads * width;
  in.table_row += 3;
  in.visible += 3;
  std::vector<TypeParam> alone(heads * latent);
  latent_attention(alone.data(), in, workspace.data());
  EXPECT_EQ(0, std::memcmp(alone.data(), out.data() + 3 * heads * latent, alone.size() * sizeof(TypeParam)));
}

// Tokens of one sequence share tasks where the heads are few; each keeps the bits that it has alone, whatever comes
// behind what it sees, also where entries are paired and their number is odd.
TYPED_TEST(Attention, TokensOfASequenceOverALatentCacheKeepTheirBits) {
  const int64_t latent = 32, rope = 8, page_size = 16, pages = 40, width = latent + rope;
  for (const int64_t heads : {1, 4, 5, 16, 40}) {
    // Three sequences; the second begins at the end of a chunk.
    const std::vector<int32_t> table_row = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2};
    std::vector<int32_t> visible = {30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 255, 256, 257, 258, 259, 600};
    const auto tokens = std::ssize(visible);
    const auto query = random_normal<TypeParam>(tokens * heads * width, 1);
    const auto cache = random_normal<TypeParam>(pages * page_size * width, 2);
    std::vector<int32_t> page_table(3 * pages);
    for (int64_t i = 0; i < std::ssize(page_table); ++i) page_table[i] = static_cast<int32_t>((i * 7 + 3) % pages);
    LatentAttentionInputs<TypeParam> in{.query = query.data(),
                                        .cache = cache.data(),
                                        .page_table = page_table.data(),
                                        .page_table_stride = pages,
                                        .page_size = page_size,
                                        .table_row = table_row.data(),
                                        .visible = visible.data(),
                                        .tokens = tokens,
                                        .most_visible = 600,
                                        .heads = heads,
                                        .latent_dim = latent,
                                        .rope_dim = rope,
                                        .scale = 0.2f};
    std::vector<TypeParam> out(tokens * heads * latent);
    std::vector<char> workspace(latent_attention_workspace(tokens, 600, heads, latent, rope));
    latent_attention(out.data(), in, workspace.data());
    in.tokens = 1;
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<TypeParam> alone(heads * latent);
      latent_attention(alone.data(), in, workspace.data());
      EXPECT_EQ(0, std::memcmp(alone.data(), out.data() + t * heads * latent, alone.size() * sizeof(TypeParam)))
          << heads << " heads, token " << t;
      in.query += heads * width;
      ++in.table_row;
      ++in.visible;
    }
  }
}

}  // namespace
}  // namespace deeptitan::cpu
