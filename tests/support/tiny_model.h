#pragma once

#include <cstdint>

#include "config/model_config.h"
#include "core/random.h"
#include "data/packed_batch.h"

namespace deeptitan::testing {

/// A few thousand parameters with every part that a DeepSeek-V3 has: a dense and two MoE layers, q_lora, groups,
/// shared experts, one next-token-prediction module. Widths are ragged against the kernels' panels.
inline ModelConfig tiny_v3() {
  ModelConfig c;
  c.architecture = Architecture::kDeepseekV3;
  c.vocab_size = 70;
  c.hidden_size = 24;
  c.intermediate_size = 40;
  c.moe_intermediate_size = 18;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 3;
  c.max_position_embeddings = 64;
  c.q_lora_rank = 10;
  c.kv_lora_rank = 14;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 6;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 3;
  c.n_group = 4;
  c.topk_group = 2;
  c.topk_method = TopkMethod::kNoauxTc;
  c.scoring_func = ScoringFunc::kSigmoid;
  c.norm_topk_prob = true;
  c.routed_scaling_factor = 2.5;
  c.first_k_dense_replace = 1;
  c.num_nextn_predict_layers = 1;
  c.initializer_range = 0.15;  // large, so that every part of the model matters to the loss
  c.eos_token_ids = {0};
  return c;
}

/// The same with experts that 1, 2, 3, 4 and 6 ranks share out.
inline ModelConfig twelve_experts() {
  ModelConfig c = tiny_v3();
  c.n_routed_experts = 12;
  return c;
}

/// tiny_v3 with a softmax router over groups, no query bottleneck, biases, a tied embedding and YaRN.
inline ModelConfig tiny_v2() {
  ModelConfig c = tiny_v3();
  c.architecture = Architecture::kDeepseekV2;
  c.topk_method = TopkMethod::kGroupLimitedGreedy;
  c.scoring_func = ScoringFunc::kSoftmax;
  c.norm_topk_prob = false;
  c.routed_scaling_factor = 4.0;
  c.q_lora_rank = 0;
  c.attention_bias = true;
  c.tie_word_embeddings = true;
  c.num_nextn_predict_layers = 0;
  c.rope.kind = RopeKind::kYarn;
  c.rope.factor = 4.0;
  c.rope.original_max_position_embeddings = 16;
  c.rope.mscale = 0.707;
  c.rope.mscale_all_dim = 0.707;
  return c;
}

/// Random tokens in sequences that hold documents of uneven lengths.
inline PackedBatch random_batch(const ModelConfig& config, int64_t sequences, int64_t length, uint64_t seed) {
  PackedBatch batch;
  batch.sequences = sequences;
  batch.sequence_length = length;
  const uint64_t key = random_key("test/batch", seed);
  uint64_t next = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    int64_t left = 0;
    for (int64_t t = 0; t < length; ++t, --left) {
      if (left == 0) {
        left = 1 + random_bits(key, next++) % length;
        batch.document_offsets.push_back(static_cast<int32_t>(s * length + t));
      }
      const bool begins = batch.document_offsets.back() == s * length + t;
      batch.positions.push_back(begins ? 0 : batch.positions.back() + 1);
      batch.tokens.push_back(static_cast<int32_t>(random_bits(key, next++) % config.vocab_size));
      const bool last = left == 1 || t + 1 == length;
      batch.targets.push_back(last ? -1 : 0);
    }
  }
  for (size_t t = 0; t < batch.tokens.size(); ++t) {
    if (batch.targets[t] < 0) continue;
    batch.targets[t] = batch.tokens[t + 1];
    ++batch.target_count;
  }
  batch.document_offsets.push_back(static_cast<int32_t>(sequences * length));
  return batch;
}

}  // namespace deeptitan::testing
