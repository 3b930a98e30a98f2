#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels/router_options.h"
#include "ops/attention.h"

// What a model consists of, as data: an architecture turns its config.json into these once (model/deepseek/
// deepseek_plan.cpp), and the layers are built from them. Every name is a tensor's in a checkpoint, without ".weight"
// and ".bias"; "{}" stands for the expert.

namespace deeptitan {

/// Multi-head latent attention.
struct LatentAttentionPlan {
  AttentionShape shape;
  int64_t latent_dim = 0;              // kv_lora_rank
  int64_t query_rank = 0;              // q_lora_rank; 0: queries come straight from x
  bool bias = false;                   // on query_down, latent_down and out
  bool rotate_halves = false;          // elements i and i + Dr / 2 are rotated together, not neighbours
  std::string query_down, query_norm;  // with a query rank
  std::string query;                   // from the bottleneck, or from x
  std::string latent_down, latent_norm, key_value, out;
};

/// down(silu(gate(x)) * up(x)).
struct GatedMlpPlan {
  int64_t width = 0;
  std::string gate_up;  // both projections as one parameter, made of the file's gate and up
  std::string gate, up, down;
};

/// A router over routed experts, and shared experts that see every token.
struct ExpertsPlan {
  RouterOptions router;
  int64_t width = 0;  // of one expert
  std::string router_weight;
  std::string router_bias;  // the whole name; only where router.bias is set
  std::string gate_up, gate, up, down;
  std::optional<GatedMlpPlan> shared;
};

/// The attention kinds, the feed-forward kinds, and how both join the residual stream.
using AttentionPlan = std::variant<LatentAttentionPlan>;
using FeedForwardPlan = std::variant<GatedMlpPlan, ExpertsPlan>;
enum class ResidualKind {
  kPreNorm,  // h = in + attention(norm(in)), out = h + feed_forward(norm(h))
};

struct LayerPlan {
  int64_t index = 0;  // of its cache, statistics and recorded routes
  ResidualKind residual = ResidualKind::kPreNorm;
  int64_t hidden = 0;
  double norm_epsilon = 0;
  std::string attention_norm, feed_forward_norm;
  AttentionPlan attention;
  FeedForwardPlan feed_forward;
};

/// A next-token-prediction module: what stands around its layer.
struct NextTokenPredictionPlan {
  LayerPlan layer;
  std::string embedding_norm, hidden_norm, join, out_norm;
};

struct ModelPlan {
  std::string embedding;
  std::vector<LayerPlan> layers;
  std::string final_norm;
  std::string head;  // empty: tied to the embedding
  std::vector<NextTokenPredictionPlan> next_token_prediction;
};

}  // namespace deeptitan
