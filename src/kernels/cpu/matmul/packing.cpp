#include "kernels/cpu/matmul/packing.h"

#include <algorithm>
#include <cstring>

#include <immintrin.h>

namespace deeptitan::cpu {
namespace {

uint32_t as_word(float x) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  return word;
}
uint32_t as_word(bfloat16 x) {
  return static_cast<uint32_t>(x.bits) << 16;
}
uint32_t low_half(float x) {
  return to_bfloat16(x).bits;
}
uint32_t low_half(bfloat16 x) {
  return x.bits;
}

// Eight fp32 (as bits) rounded to bf16, each in the low half of its lane; NaNs stay NaNs.
__m256i round_to_bfloat16(__m256i bits) {
  const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(lsb, _mm256_set1_epi32(0x7fff))), 16);
  const __m256 value = _mm256_castsi256_ps(bits);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40)), nan);
}

// Eight words of one row along the contracted dimension, starting at element 8 (fp32) or 16 (bf16) times `block`.
template <OperandType kType>
__m256i load_words(const float* row) {
  const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
  if constexpr (kType == OperandType::kFloat) return first;
  const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 8));
  // packus interleaves 128-bit halves: the permutation puts the sixteen values back in order.
  const __m256i packed = _mm256_packus_epi32(round_to_bfloat16(first), round_to_bfloat16(second));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}
template <OperandType kType>
__m256i load_words(const bfloat16* row) {
  if constexpr (kType == OperandType::kBfloat16) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
  return _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row))), 16);
}

// Transposes 8 rows of 8 words; output row s goes to out + s * 32.
void store_transposed_8x8(uint32_t* out, const __m256i (&r)[8]) {
  __m256i t[8];
  __m256i u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    const __m256i low = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
    const __m256i high = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * kPanelColumns), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (i + 4) * kPanelColumns), high);
  }
}

template <OperandType kType, typename Source>
void pack_transposed_panel(uint32_t* panel, const Source* source, int64_t ld, int64_t contracted, int64_t columns) {
  constexpr int64_t kPerWord = kType == OperandType::kBfloat16 ? 2 : 1;
  const int64_t steps = packed_steps(kType, contracted);
  const int64_t full_steps = contracted / kPerWord / 8 * 8;
  const int64_t full_columns = columns / 8 * 8;
  for (int64_t j = 0; j < full_columns; j += 8) {
    for (int64_t step = 0; step < full_steps; step += 8) {
      __m256i rows[8];
      for (int i = 0; i < 8; ++i) rows[i] = load_words<kType>(source + (j + i) * ld + step * kPerWord);
      store_transposed_8x8(panel + step * kPanelColumns + j, rows);
    }
  }
  const auto word = [&](int64_t step, int64_t j) -> uint32_t {
    if (j >= columns) return 0;
    const Source* row = source + j * ld;
    if constexpr (kType == OperandType::kFloat) return as_word(row[step]);
    const uint32_t low = low_half(row[2 * step]);
    return 2 * step + 1 < contracted ? low | low_half(row[2 * step + 1]) << 16 : low;
  };
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t j = step < full_steps ? full_columns : 0; j < kPanelColumns; ++j) {
      panel[step * kPanelColumns + j] = word(step, j);
    }
  }
}

// One step of a whole panel: the words of one source row (fp32), or of two neighbouring ones interleaved (bf16).
template <OperandType kType, typename Source>
void pack_direct_step(uint32_t* out, const Source* low, const Source* high) {
  if constexpr (kType == OperandType::kFloat) {
    for (int j = 0; j < kPanelColumns; j += 8) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j), load_words<kType>(low + j));
    }
  } else {
    for (int j = 0; j < kPanelColumns; j += 16) {
      const __m256i below = load_words<kType>(low + j);
      const __m256i above = load_words<kType>(high + j);
      // The unpacking works within 128-bit halves: the permutation puts the sixteen words in order.
      const __m256i first = _mm256_unpacklo_epi16(below, above);
      const __m256i second = _mm256_unpackhi_epi16(below, above);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j), _mm256_permute2x128_si256(first, second, 0x20));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j + 8), _mm256_permute2x128_si256(first, second, 0x31));
    }
  }
}

// Steps [first_step, first_step + count) of one panel, which holds `columns` columns; `source` is the first step's row.
template <OperandType kType, typename Source>
void pack_direct_steps(uint32_t* panel, const Source* source, int64_t ld, int64_t contracted, int64_t columns,
                       int64_t first_step, int64_t count) {
  constexpr int64_t kPerWord = kType == OperandType::kBfloat16 ? 2 : 1;
  const int64_t end = first_step + count;
  const int64_t full_end = columns == kPanelColumns ? std::min(end, contracted / kPerWord) : first_step;
  for (int64_t step = first_step; step < full_end; ++step) {
    const Source* row = source + (step - first_step) * kPerWord * ld;
    pack_direct_step<kType>(panel + step * kPanelColumns, row, row + ld);
  }
  // What is left: a last row without a neighbour, or a panel that is not full.
  for (int64_t step = full_end; step < end; ++step) {
    uint32_t* out = panel + step * kPanelColumns;
    const Source* row = source + (step - first_step) * kPerWord * ld;
    for (int64_t j = 0; j < kPanelColumns; ++j) {
      if (j >= columns) {
        out[j] = 0;
      } else if constexpr (kType == OperandType::kFloat) {
        out[j] = as_word(row[j]);
      } else {
        out[j] = low_half(row[j]) | (step * 2 + 1 < contracted ? low_half(row[ld + j]) << 16 : 0u);
      }
    }
  }
}

// A block of W in both layouts: its words pair neighbours along W's rows in one, along its columns in the other.
// Transposes 8 steps of pack_transposed, 8 columns each, to 8 rows.
void repack_block(OperandType type, uint32_t* out, const uint32_t* in) {
  __m256i rows[8];
  if (type == OperandType::kFloat) {
    for (int i = 0; i < 8; ++i) rows[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i * kPanelColumns));
    store_transposed_8x8(out, rows);
    return;
  }
  // A pair of columns of one step is W[n][k], W[n][k+1], W[n+1][k], W[n+1][k+1]: swapping the middle two gives the
  // words (n, n+1) of k and of k+1. Then 4 by 4 such pairs are transposed.
  const __m256i swap_middle = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2, 3,
                                               6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 4; ++i) {
      const uint32_t* step = in + (4 * half + i) * kPanelColumns;
      rows[i] = _mm256_shuffle_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(step)), swap_middle);
    }
    const __m256i low_01 = _mm256_unpacklo_epi64(rows[0], rows[1]);
    const __m256i high_01 = _mm256_unpackhi_epi64(rows[0], rows[1]);
    const __m256i low_23 = _mm256_unpacklo_epi64(rows[2], rows[3]);
    const __m256i high_23 = _mm256_unpackhi_epi64(rows[2], rows[3]);
    const auto store = [&](int row, __m256i words) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + row * kPanelColumns + 8 * half), words);
    };
    store(0, _mm256_permute2x128_si256(low_01, low_23, 0x20));
    store(1, _mm256_permute2x128_si256(high_01, high_23, 0x20));
    store(2, _mm256_permute2x128_si256(low_01, low_23, 0x31));
    store(3, _mm256_permute2x128_si256(high_01, high_23, 0x31));
  }
}

// All panels of a block of steps before the next block: the source is read row by row.
template <OperandType kType, typename Source>
void pack_block(uint32_t* packed, const Source* source, int64_t ld, int64_t contracted, int64_t columns,
                int64_t block) {
  const int64_t steps = packed_steps(kType, contracted);
  const int64_t first_step = block * kPackBlock;
  const int64_t count = std::min(kPackBlock, steps - first_step);
  for (int64_t column = 0; column < columns; column += kPanelColumns) {
    pack_direct_steps<kType>(packed + column * steps, source + column, ld, contracted,
                             std::min<int64_t>(kPanelColumns, columns - column), first_step, count);
  }
}

}  // namespace

template <typename Source>
void pack_direct_block(uint32_t* packed, const Source* source, int64_t ld, int64_t contracted, int64_t columns,
                       OperandType type, int64_t block) {
  if (type == OperandType::kBfloat16) {
    pack_block<OperandType::kBfloat16>(packed, source, ld, contracted, columns, block);
  } else {
    pack_block<OperandType::kFloat>(packed, source, ld, contracted, columns, block);
  }
}
template void pack_direct_block(uint32_t*, const float*, int64_t, int64_t, int64_t, OperandType, int64_t);
template void pack_direct_block(uint32_t*, const bfloat16*, int64_t, int64_t, int64_t, OperandType, int64_t);

template <typename Source>
void pack_direct(uint32_t* packed, const Source* source, int64_t ld, int64_t contracted, int64_t columns,
                 OperandType type) {
  for (int64_t block = 0; block < pack_direct_blocks(type, contracted); ++block) {
    pack_direct_block(packed, source + block * pack_block_rows(type) * ld, ld, contracted, columns, type, block);
  }
}
template void pack_direct(uint32_t*, const float*, int64_t, int64_t, int64_t, OperandType);
template void pack_direct(uint32_t*, const bfloat16*, int64_t, int64_t, int64_t, OperandType);

void repack_transposed(uint32_t* packed, const uint32_t* transposed, int64_t contracted, int64_t columns,
                       int64_t first_panel, int64_t panels, OperandType type) {
  // Steps go along W's columns in the source and along its rows in the result.
  const int64_t per_word = type == OperandType::kBfloat16 ? 2 : 1;
  const int64_t source_steps = packed_steps(type, columns);
  const int64_t steps = packed_steps(type, contracted);
  const int64_t block_rows = 8 / per_word;  // steps of the result that a block of 8 source columns gives
  const int64_t block_columns = 8 * per_word;
  for (int64_t p = 0; p < panels; ++p) {
    uint32_t* panel = packed + p * steps * kPanelColumns;
    const int64_t first_step = (first_panel + p) * kPanelColumns / per_word;
    for (int64_t row = 0; row < contracted; row += 8) {
      const uint32_t* source = transposed + row / kPanelColumns * source_steps * kPanelColumns + row % kPanelColumns;
      uint32_t* out = panel + row / per_word * kPanelColumns;
      const int64_t rows = std::min(block_rows, steps - row / per_word);
      for (int64_t column = 0; column < kPanelColumns; column += block_columns) {
        const int64_t step = first_step + column / per_word;
        const int64_t count = std::clamp<int64_t>(source_steps - step, 0, 8);
        if (count == 8 && rows == block_rows) {
          repack_block(type, out + column, source + step * kPanelColumns);
          continue;
        }
        // At an edge, through blocks padded with zeros.
        alignas(32) uint32_t in_block[8 * kPanelColumns] = {};
        alignas(32) uint32_t out_block[8 * kPanelColumns];
        for (int64_t s = 0; s < count; ++s) {
          std::memcpy(in_block + s * kPanelColumns, source + (step + s) * kPanelColumns, 8 * sizeof(uint32_t));
        }
        repack_block(type, out_block, in_block);
        for (int64_t r = 0; r < rows; ++r) {
          std::memcpy(out + r * kPanelColumns + column, out_block + r * kPanelColumns,
                      block_columns * sizeof(uint32_t));
        }
      }
    }
  }
}

template <typename Source>
void pack_transposed(uint32_t* packed, const Source* source, int64_t ld, int64_t contracted, int64_t columns,
                     OperandType type) {
  const int64_t panel_words = packed_steps(type, contracted) * kPanelColumns;
  for (int64_t p = 0; p < packed_panels(columns); ++p) {
    const int64_t first = p * kPanelColumns;
    const int64_t count = std::min<int64_t>(kPanelColumns, columns - first);
    if (type == OperandType::kBfloat16) {
      pack_transposed_panel<OperandType::kBfloat16>(packed + p * panel_words, source + first * ld, ld, contracted,
                                                    count);
    } else {
      pack_transposed_panel<OperandType::kFloat>(packed + p * panel_words, source + first * ld, ld, contracted, count);
    }
  }
}
template void pack_transposed(uint32_t*, const float*, int64_t, int64_t, int64_t, OperandType);
template void pack_transposed(uint32_t*, const bfloat16*, int64_t, int64_t, int64_t, OperandType);

}  // namespace deeptitan::cpu
