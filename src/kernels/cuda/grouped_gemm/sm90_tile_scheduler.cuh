#pragma once

// Which tile a cluster of two blocks computes next, found on the device from the groups' offsets and sizes.
//
// A unit is what one cluster computes at a time: two tiles of kTileM x kTileN that share an operand.
//   shares_b: tiles (m, n) and (m + 1, n); each block loads half of the weights' tile and the TMA writes it to both.
//   otherwise (the last tile row of a group with an odd number of them): tiles (m, n) and (m, n + 1) share A.
// So a group never costs more than one idle tile. Units are numbered group by group; cluster c takes units c,
// c + clusters, ... Within a group the walk goes down a band of tile rows, then to the next tile column, so that the
// clusters running at one time read few distinct rows of both operands:
//   5 tile rows, 3 tile columns, bands of 2 pairs: (0,0)+(1,0) (2,0)+(3,0) (0,1)+(1,1) (2,1)+(3,1) (0,2)+(1,2)
//   (2,2)+(3,2), then (4,0)+(4,1), then (4,2) and an idle tile.

#include <cstdint>

namespace deeptitan::cuda::sm90 {

inline constexpr int kTileM = 128;
inline constexpr int kTileN = 256;

/// One block's part of a unit.
struct Tile {
  int group;
  int m;        // first row of the output (of the whole buffer, or of the group's weight gradient)
  int m_valid;  // rows of the output this block computes, 0 if its tile is idle
  int a_rows;   // rows of A's tile that are loaded (as m_valid, but also for an idle tile that shares A)
  int n;        // first column of the output
  int n_valid;  // columns of the output, 0 if its tile is idle
  int k_begin;  // first row of the contraction: the group's first token row for the weight gradient, else 0
  int k_size;   // length of the contraction
  bool shares_b;
};

/// The groups of one product. Group g holds rows offsets[g] .. offsets[g] + sizes[g] - 1.
struct GroupTable {
  const int32_t* offsets;
  const int32_t* sizes;
  int groups;
  int rows;  // of the whole buffer: a group is cut there
};

/// Walks the units in increasing order; all 32 lanes of a warp together. kGroupsAlongK: the groups cut the contraction
/// (weight gradient, output [groups, m, n]), else the output's rows. A band is kBandPairs pairs of tile rows, a tile
/// kColumns of the output wide.
/// empty_too: groups without rows have their tiles too, of zeros.
template <bool kGroupsAlongK, int kBandPairs, int kColumns>
class TileWalker {
 public:
  __device__ TileWalker(const GroupTable& table, int m, int n, int k, bool empty_too, int lane)
      : table_(table),
        m_(m),
        n_(n),
        k_(k),
        empty_too_(empty_too),
        lane_(lane),
        n_tiles_((n + kColumns - 1) / kColumns) {
    fetch_window();
    enter_window();
  }

  /// Finds the tile of block `rank` in `unit`; false when the units are used up.
  __device__ bool find(int unit, int rank, Tile& tile) {
    while (unit - base_ >= window_units_) {
      base_ += window_units_;
      window_ += 32;
      if (window_ >= table_.groups) return false;
      enter_window();
    }
    const int local = unit - base_;
    const int source = __ffs(__ballot_sync(~0u, end_ > local)) - 1;
    const int units = __shfl_sync(~0u, units_, source);
    const int end = __shfl_sync(~0u, end_, source);
    const int begin = __shfl_sync(~0u, begin_, source);
    const int size = __shfl_sync(~0u, size_, source);
    place(local - (end - units), rank, begin, size, tile);
    tile.group = window_ + source;
    return true;
  }

  /// Units of the current window of 32 groups.
  __device__ int window_units() const { return window_units_; }

 private:
  /// Loads the next window of 32 groups ahead of its use.
  __device__ void fetch_window() {
    const int group = next_window_ + lane_;
    next_begin_ = group < table_.groups ? table_.offsets[group] : 0;
    next_size_ = group < table_.groups ? table_.sizes[group] : 0;
    next_window_ += 32;
  }

  __device__ void enter_window() {
    begin_ = next_begin_;
    size_ = max(0, min(next_size_, table_.rows - begin_));
    fetch_window();
    const int m_tiles = ((kGroupsAlongK ? m_ : size_) + kTileM - 1) / kTileM;
    const bool counts = window_ + lane_ < table_.groups && (size_ > 0 || empty_too_);
    units_ = !counts ? 0 : (m_tiles / 2) * n_tiles_ + (m_tiles % 2) * ((n_tiles_ + 1) / 2);
    end_ = units_;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int below = __shfl_up_sync(~0u, end_, step);
      if (lane_ >= step) end_ += below;
    }
    window_units_ = __shfl_sync(~0u, end_, 31);
  }

  __device__ void place(int unit, int rank, int begin, int size, Tile& tile) const {
    const int m_extent = kGroupsAlongK ? m_ : size;
    const int pairs = (m_extent + kTileM - 1) / kTileM / 2;
    tile.shares_b = unit < pairs * n_tiles_;
    int m_tile, n_tile;
    if (tile.shares_b) {
      const int band = unit / (kBandPairs * n_tiles_);
      const int height = min(kBandPairs, pairs - band * kBandPairs);
      const int rest = unit - band * kBandPairs * n_tiles_;
      n_tile = rest / height;
      m_tile = 2 * (band * kBandPairs + rest % height) + rank;
    } else {
      m_tile = 2 * pairs;
      n_tile = 2 * (unit - pairs * n_tiles_) + rank;
    }
    tile.n = n_tile * kColumns;
    tile.n_valid = max(0, min(kColumns, n_ - tile.n));
    tile.a_rows = min(kTileM, m_extent - m_tile * kTileM);
    tile.m_valid = tile.n_valid == 0 ? 0 : tile.a_rows;
    tile.m = m_tile * kTileM + (kGroupsAlongK ? 0 : begin);
    tile.k_begin = kGroupsAlongK ? begin : 0;
    tile.k_size = kGroupsAlongK ? size : k_;
  }

  GroupTable table_;
  int m_, n_, k_;
  bool empty_too_;
  int lane_;
  int n_tiles_;
  int window_ = 0;  // first group of the window
  int base_ = 0;    // units before the window
  int window_units_ = 0;
  int begin_ = 0, size_ = 0, units_ = 0, end_ = 0;  // this lane's group: rows, units, and units up to its end
  int next_window_ = 0, next_begin_ = 0, next_size_ = 0;
};

}  // namespace deeptitan::cuda::sm90
