#pragma once

#include "support/tiny_model.h"

namespace deeptitan::testing {

/// tiny_v3 in widths that every fast kernel takes: tensor cores, the library's products, and the small ones.
inline ModelConfig wide_v3() {
  ModelConfig c = tiny_v3();
  c.vocab_size = 96;
  c.hidden_size = 64;
  c.intermediate_size = 96;
  c.moe_intermediate_size = 40;
  c.q_lora_rank = 32;
  c.kv_lora_rank = 48;
  c.qk_nope_head_dim = 64;
  c.qk_rope_head_dim = 32;
  c.v_head_dim = 64;
  return c;
}

}  // namespace deeptitan::testing
