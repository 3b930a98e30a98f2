#pragma once

#include <cstdint>

namespace deeptitan {

/// The sizes of a sort of slots by expert.
struct SlotSortShape {
  int64_t slots = 0;         // T * K
  int experts = 0;           // E, 1 to 384
  int alignment = 1;         // of each expert's first row
  int64_t row_capacity = 0;  // rows that slot_of_row holds
};

/// The sizes of a sort of received rows.
struct ReceivedRowsShape {
  int64_t ranks = 0;    // W, that rows came from
  int64_t experts = 0;  // e, of this rank
  int64_t rows = 0;     // that there is room for
};

/// Where token rows lie in the expert-ordered buffer, as sort_slots leaves it. A slot is one choice of one token,
/// t * K + k.
struct RowMap {
  const int32_t* row_of_slot = nullptr;  // [T, K], -1: nowhere
  const int32_t* slot_of_row = nullptr;  // [rows], -1: padding; each slot at most once, and the inverse of row_of_slot
  int64_t tokens = 0;                    // T
  int64_t rows = 0;
  int top_k = 1;  // K
};

}  // namespace deeptitan
