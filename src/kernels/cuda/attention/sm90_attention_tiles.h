#pragma once

// The order in which Hopper's attention takes its tiles, worked out on the device from the documents' offsets. A tile
// is the rows of one document at 128 positions, counted from the document's first: what a document is packed with, and
// in what pieces its rows come, does not show in its sums.
//
// Work is handed out in units by one counter, the most expensive first, so that blocks end together. What runs at one
// time should read few keys: the batch is cut into sections of documents, each section goes through the heads two at a
// time, and the longest comes first within a section's two heads. A document of at most 64 rows is a short tile: one
// unit takes it for both heads.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace deeptitan::cuda {

inline constexpr int kAttentionTileRows = 128;
inline constexpr int kShortAttentionTileRows = 64;

/// Rows and what they see: document d holds the rows offset[d] up to offset[d + 1]. Row i of it stands at position
/// cached_length[d] + i and sees the positions up to its own, of which the first is row first_key[d] of the keys.
struct AttentionRows {
  const int32_t* offset = nullptr;  // [documents + 1]
  int64_t documents = 0;
  const int32_t* cached_length = nullptr;  // [documents]; null: 0
  const int32_t* first_key = nullptr;      // [documents], negative: the document is not meant; null: offset
};

struct AttentionTile {
  int32_t first_row;   // of the tile's first position; before rows_first where that position is not the document's
  int32_t rows_first;  // rows_first.. rows_end are the document's
  int32_t rows_end;
  int32_t first_key;  // row of the keys at the tile's first position
  int32_t older;      // tiles of keys before that
  int32_t is_short;   // 1: one unit takes two heads
  int32_t unused[2];
};

/// One section's tiles, and how many units lie before it.
struct AttentionSection {
  int32_t first_unit;
  int32_t first_tile;  // the long tiles, then the short ones
  int32_t long_tiles;
  int32_t short_tiles;
};

inline constexpr int kMostAttentionSections = 32;

struct AttentionTiles {
  AttentionTile* tiles = nullptr;
  AttentionSection* sections = nullptr;  // [kMostAttentionSections], empty ones last
  int32_t* next_unit = nullptr;          // the counter, 0
};

/// Most tiles that `tokens` rows in `documents` documents make, wherever their positions begin.
int64_t most_attention_tiles(int64_t tokens, int64_t documents);

/// Bytes of workspace that order_attention_tiles fills.
int64_t attention_tiles_bytes(int64_t tokens, int64_t documents);

/// What a list's workspace holds.
AttentionTiles attention_tiles_at(void* workspace);

/// Fills the workspace. No row sees more than `most_visible` positions. Clears the rows of out [tokens, width] (bf16,
/// width a multiple of 8) and of log_sum_exp [tokens, heads] (or null) that no document holds, unless out is null. One
/// launch; which tile of equal cost comes first differs from run to run.
void order_attention_tiles(void* workspace, void* out, int64_t width, float* log_sum_exp, int64_t heads,
                           const AttentionRows& rows, int64_t most_visible, int64_t tokens, cudaStream_t stream);

}  // namespace deeptitan::cuda
