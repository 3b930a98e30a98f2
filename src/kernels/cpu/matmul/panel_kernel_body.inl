// The register tile of a panel product, written against a small vector vocabulary that each instruction set's file
// defines before including this one: Vec (kLanes floats), zero(), load(), broadcast_word(), multiply_add<kBf16>(),
// kMultipliesBfloat16 (it takes one instruction for bf16), kPeakSums (independent sums that keep the multiply-add units
// busy), and where the chip rounds to bf16 itself, store_bfloat16() of a panel's row.
// Only these files are compiled for wider instruction sets; they define nothing that other files could link to.

namespace {

constexpr int kVectors = kPanelColumns / kLanes;

inline float bits_to_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t round_to_bfloat16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline void store_row_bfloat16(uint16_t* c, const float* values, bool accumulate, int columns) {
  if (accumulate) {
    for (int j = 0; j < columns; ++j) {
      c[j] = round_to_bfloat16(bits_to_float(static_cast<uint32_t>(c[j]) << 16) + values[j]);
    }
  } else {
    for (int j = 0; j < columns; ++j) c[j] = round_to_bfloat16(values[j]);
  }
}

inline void store_row_float(float* c, const float* values, bool accumulate, int columns) {
  if (accumulate) {
    for (int j = 0; j < columns; ++j) c[j] += values[j];
  } else {
    for (int j = 0; j < columns; ++j) c[j] = values[j];
  }
}

// Tiles of kRows rows and kPanels panels; the accumulators stay in registers over all steps.
template <bool kBf16, int kRows, int kPanels>
inline void tile(const PanelProduct& p, int64_t row, int64_t panel) {
  constexpr int kWidth = kVectors * kPanels;
  Vec sum[kRows][kWidth];
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kWidth; ++v) sum[i][v] = zero();
  }
  if constexpr (kRows == kRegisterRows) {
    // The tile of C is wanted when the steps are done: by then it has come from memory.
    const int64_t element = p.c_is_bfloat16 ? 2 : 4;
    for (int i = 0; i < kRows; ++i) {
      const char* c = static_cast<const char*>(p.c) + ((row + i) * p.c_row_stride + panel * kPanelColumns) * element;
      __builtin_prefetch(c, 1);
      __builtin_prefetch(c + kPanelColumns * element - 1, 1);
    }
  }
  const uint32_t* a = p.a + row * p.a_row_stride;
  const uint32_t* b = p.b + panel * p.b_panel_stride;
  for (int64_t step = 0; step < p.steps; ++step) {
    Operand right[kWidth];
    for (int q = 0; q < kPanels; ++q) {
      for (int v = 0; v < kVectors; ++v) {
        right[q * kVectors + v] = load(b + q * p.b_panel_stride + v * kLanes);
      }
    }
    for (int i = 0; i < kRows; ++i) {
      const Operand left = broadcast_word(a + i * p.a_row_stride);
      for (int v = 0; v < kWidth; ++v) sum[i][v] = multiply_add<kBf16>(sum[i][v], left, right[v]);
    }
    a += p.a_step_stride;
    b += kPanelColumns;
  }
  for (int q = 0; q < kPanels; ++q) {
    const int64_t first = (panel + q) * kPanelColumns;
    const int64_t left_over = p.columns - first;
    const int columns = left_over < kPanelColumns ? static_cast<int>(left_over) : kPanelColumns;
    for (int i = 0; i < kRows; ++i) {
      const int64_t offset = (row + i) * p.c_row_stride + first;
      if (columns == kPanelColumns && !p.c_is_bfloat16) {
        float* c = static_cast<float*>(p.c) + offset;
        for (int v = 0; v < kVectors; ++v) {
          const Vec value = sum[i][q * kVectors + v];
          store(c + v * kLanes, p.accumulate ? add(load_float(c + v * kLanes), value) : value);
        }
        continue;
      }
      if constexpr (kStoresBfloat16) {
        if (columns == kPanelColumns && p.c_is_bfloat16 && !p.accumulate) {
          store_bfloat16(static_cast<uint16_t*>(p.c) + offset, &sum[i][q * kVectors]);
          continue;
        }
      }
      alignas(64) float values[kPanelColumns];
      for (int v = 0; v < kVectors; ++v) store(values + v * kLanes, sum[i][q * kVectors + v]);
      if (p.c_is_bfloat16) {
        uint16_t* c = static_cast<uint16_t*>(p.c) + offset;
        if (columns == kPanelColumns) {
          store_row_bfloat16(c, values, p.accumulate, kPanelColumns);
        } else {
          store_row_bfloat16(c, values, p.accumulate, columns);
        }
      } else {
        store_row_float(static_cast<float*>(p.c) + offset, values, p.accumulate, columns);
      }
    }
  }
}

template <bool kBf16, int kRows>
inline void last_rows(const PanelProduct& p, int64_t row, int64_t panel) {
  if constexpr (kRows > 0) {
    if (p.rows - row == kRows) return tile<kBf16, kRows, 1>(p, row, panel);
    last_rows<kBf16, kRows - 1>(p, row, panel);
  }
}

template <bool kBf16>
inline void run(const PanelProduct& p) {
  int64_t panel = 0;
  if (p.rows == 1) {
    // One row is bound by the stream of weights: two panels at once keep enough loads in flight.
    for (; panel + 1 < p.panels; panel += 2) tile<kBf16, 1, 2>(p, 0, panel);
  }
  for (; panel < p.panels; ++panel) {
    int64_t row = 0;
    for (; row + kRegisterRows <= p.rows; row += kRegisterRows) tile<kBf16, kRegisterRows, 1>(p, row, panel);
    last_rows<kBf16, kRegisterRows - 1>(p, row, panel);
  }
}

template <bool kBf16>
inline int64_t peak_loop(int64_t steps, float* sink) {
  // Read from memory, so that nothing is known of the operands while compiling.
  uint32_t words[kLanes];
  for (int i = 0; i < kLanes; ++i) __builtin_memcpy(words + i, sink + i, sizeof words[i]);
  const Operand left = broadcast_word(words);
  const Operand right = load(words);
  Vec sum[kPeakSums];
  for (Vec& s : sum) s = zero();
  for (int64_t step = 0; step < steps; ++step) {
    for (Vec& s : sum) s = multiply_add<kBf16>(s, left, right);
  }
  for (int i = 1; i < kPeakSums; ++i) sum[0] = add(sum[0], sum[i]);
  store(sink, sum[0]);
  return steps * kPeakSums * kLanes * (kBf16 ? 4 : 2);
}

}  // namespace

int64_t peak_loop(OperandType operands, int64_t steps, float* sink) {
  // Without an instruction of its own, bf16 is multiplied as fp32: that is the peak of both.
  if constexpr (kMultipliesBfloat16) {
    if (operands == OperandType::kBfloat16) return peak_loop<true>(steps, sink);
  }
  return peak_loop<false>(steps, sink);
}

void panel_product(const PanelProduct& product) {
  if (product.operands == OperandType::kBfloat16) {
    run<true>(product);
  } else {
    run<false>(product);
  }
}
