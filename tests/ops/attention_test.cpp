#include "ops/attention.h"

#include <gtest/gtest.h>

#include "ops/op_case.h"

namespace deeptitan {
namespace {

// Two heads of 4 + 2 and value 6; 10 rows.
constexpr AttentionShape kShape{.heads = 2, .nope_dim = 4, .rope_dim = 2, .value_dim = 6, .scale = 1.0};

TEST(AttentionOp, RefusesWhatDoesNotFit) {
  OpCase c;
  const Tensor query = c.f32({10, 12});
  const Tensor key_value = c.f32({10, 20});
  const Tensor key_rope = c.f32({10, 2});
  const Tensor out = c.f32({10, 12});
  const Documents documents{c.i32({3}), 10};
  const auto run = [&](const Tensor& o, const Tensor& statistic, const Tensor& q, const Tensor& kv, const Tensor& kr) {
    return [=, &c] { attention(c.ctx, o, statistic, q, kv, kr, documents, kShape); };
  };
  run(out, {}, query, key_value, key_rope)();
  expect_runtime_error(run(c.f32({10, 11}), {}, query, key_value, key_rope),
                       "attention: out: expected f32 [10, 12], found f32 [10, 11]");
  expect_runtime_error(run(out, c.f32({10, 3}), query, key_value, key_rope),
                       "attention: log_sum_exp: expected f32 [10, 2], found f32 [10, 3]");
  expect_runtime_error(run(out, {}, query, c.f32({9, 20}), key_rope),
                       "attention: key_value: expected f32 [10, 20], found f32 [9, 20]");
  expect_runtime_error(run(out, {}, query, key_value, c.bf16({10, 2})),
                       "attention: key_rope: expected f32 [10, 2], found bf16 [10, 2]");
  expect_runtime_error(run(out, {}, c.i32({10, 12}), key_value, key_rope),
                       "attention: query: expected f32 or bf16, found i32 [10, 12]");
  const AttentionShape odd{.heads = 2, .nope_dim = 3, .rope_dim = 2, .value_dim = 6, .scale = 1.0};
  expect_runtime_error(
      [&] {
        attention(c.ctx, c.bf16({10, 12}), {}, c.bf16({10, 10}), c.bf16({10, 18}), c.bf16({10, 2}), documents, odd);
      },
      "attention: bf16 needs even head sizes, found nope 3, rope 2, value 6");
}

TEST(AttentionOp, BackwardRefusesGradientsOfOtherShapes) {
  OpCase c;
  const Tensor query = c.f32({10, 12});
  const Tensor key_value = c.f32({10, 20});
  const Tensor key_rope = c.f32({10, 2});
  const Tensor statistic = c.f32({10, 2});
  const Documents documents{c.i32({3}), 10};
  const auto run = [&](const Tensor& d_query, const Tensor& d_out) {
    return [=, &c] {
      attention_backward(c.ctx, d_query, key_value, key_rope, d_out, query, statistic, query, key_value, key_rope,
                         documents, kShape);
    };
  };
  run(query, query)();
  expect_runtime_error(run(c.f32({10, 10}), query),
                       "attention_backward: d_query: expected f32 [10, 12], found f32 [10, 10]");
  expect_runtime_error(run(query, c.f32({9, 12})),
                       "attention_backward: d_out: expected f32 [10, 12], found f32 [9, 12]");
}

class CachedAttentionOp : public ::testing::Test {
 protected:
  PreparedWeight weight(int64_t outputs, bool forward, bool backward_input) {
    PreparedWeight w;
    w.groups = 2;
    w.outputs = outputs;
    w.inputs = 8;
    if (forward) w.forward = c_.i32({2, 64});
    if (backward_input) w.backward_input = c_.i32({2, 64});
    return w;
  }

  OpCase c_;
  const Tensor query_ = c_.f32({70, 12});
  const Tensor out_ = c_.f32({70, 12});
  const Tensor cache_ = c_.f32({6, 16, 10});
  CachedSequences sequences_{c_.i32({4}), c_.i32({3}), c_.i32({3, 5}), 64, 80};
};

TEST_F(CachedAttentionOp, BothFormsRefuseWhatDoesNotFit) {
  const PreparedWeight key = weight(4, true, true);
  const PreparedWeight value = weight(6, true, false);
  for (const bool expanded : {true, false}) {
    const std::string name = expanded ? "expanded_attention" : "absorbed_attention";
    const auto run = [&](const Tensor& out, const Tensor& cache, const CachedSequences& s, const PreparedWeight& k,
                         const PreparedWeight& v) {
      return [&, out, cache, s, k, v] {
        expanded ? expanded_attention(c_.ctx, out, query_, cache, s, k, v, kShape)
                 : absorbed_attention(c_.ctx, out, query_, cache, s, k, v, kShape);
      };
    };
    run(out_, cache_, sequences_, key, value)();
    expect_runtime_error(run(c_.f32({70, 13}), cache_, sequences_, key, value),
                         name + ": out: expected f32 [70, 12], found f32 [70, 13]");
    expect_runtime_error(run(out_, c_.bf16({6, 16, 10}), sequences_, key, value),
                         name + ": query: expected bf16 [70, 12], found f32 [70, 12]");
    CachedSequences wrong = sequences_;
    wrong.query_offset = c_.i32({3});
    expect_runtime_error(run(out_, cache_, wrong, key, value),
                         name + ": query_offset: expected i32 [4], found i32 [3]");
    wrong = sequences_;
    wrong.max_visible = 81;
    expect_runtime_error(run(out_, cache_, wrong, key, value),
                         name + ": 81 entries can be seen, but 5 pages of 16 hold fewer");
    expect_runtime_error(run(out_, cache_, sequences_, weight(5, true, true), value),
                         name + ": key_weight: expected 2 matrices [4, 8], found 2 of [5, 8]");
    expect_runtime_error(run(out_, cache_, sequences_, weight(4, !expanded, expanded), value),
                         name + ": key_weight was not prepared for it");
  }
}

TEST_F(CachedAttentionOp, WritingRefusesRowsOfOtherWidths) {
  const auto write = [&](const Tensor& slot, const Tensor& latent, const Tensor& rope) {
    return [=, this] { write_latent_cache(c_.ctx, cache_, slot, latent, rope); };
  };
  write(c_.i32({7}), c_.f32({7, 8}), c_.f32({7, 2}))();
  expect_runtime_error(write(c_.i32({7}), c_.f32({7, 9}), c_.f32({7, 2})),
                       "write_latent_cache: latent: expected f32 [7, 8], found f32 [7, 9]");
  expect_runtime_error(write(c_.i32({6}), c_.f32({7, 8}), c_.f32({7, 2})),
                       "write_latent_cache: slot: expected i32 [7], found i32 [6]");
}

TEST(RopeOp, RefusesWhatDoesNotFit) {
  OpCase c;
  const Tensor table = c.f32({9, 3});
  const auto rotate = [&](const Tensor& x, int64_t first, const Tensor& sin, const Tensor& positions) {
    return [=, &c] { rope_rotate(c.ctx, x, 2, first, table, sin, positions, false, false); };
  };
  rotate(c.f32({5, 20}), 4, table, c.i32({5}))();
  expect_runtime_error(rotate(c.f32({5, 20}), 5, table, c.i32({5})),
                       "rope_rotate: columns 5 to 11 of heads of width 10");
  expect_runtime_error(rotate(c.f32({5, 20}), 4, c.f32({9, 2}), c.i32({5})),
                       "rope_rotate: sin: expected f32 [9, 3], found f32 [9, 2]");
  expect_runtime_error(rotate(c.f32({5, 20}), 4, table, c.i32({4})),
                       "rope_rotate: positions: expected i32 [5], found i32 [4]");
  expect_runtime_error(rotate(c.i32({5, 20}), 4, table, c.i32({5})),
                       "rope_rotate: x: expected f32 or bf16, found i32 [5, 20]");
}

}  // namespace
}  // namespace deeptitan
