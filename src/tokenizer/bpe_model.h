#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace deeptitan {

/// A byte-level byte-pair encoding (Sennrich et al. 2016; byte level as in GPT-2): a piece of text starts as one token
/// a byte, and the pair that comes first in the list of merges, leftmost first, is replaced by its merged token until
/// no pair is in the list.
class BpeModel {
 public:
  /// Ids are below this, so that a hostile file cannot ask for a table of any size.
  static constexpr int32_t kMaxIds = 1 << 22;

  /// What one thread needs to encode: working memory, and the pieces seen lately with their tokens.
  class Scratch {
   public:
    Scratch();

   private:
    friend class BpeModel;
    struct Symbol {
      int32_t id;
      int32_t previous;
      int32_t next;
    };
    struct Candidate {
      uint32_t rank;
      uint32_t position;
      int32_t left;
      int32_t right;
    };
    struct CachedPiece {
      uint64_t hash = 0;
      uint32_t bytes_at = 0;
      uint32_t ids_at = 0;
      uint16_t length = 0;  // 0: the slot is free
      uint16_t id_count = 0;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
    std::vector<int32_t> short_ids;
    std::vector<uint32_t> short_ranks;
    std::vector<CachedPiece> cache;
    size_t cached_pieces = 0;
    std::string cached_bytes;
    std::vector<int32_t> cached_ids;
  };

  BpeModel() = default;

  /// What decides which of two pairs merges first: its place in the list of merges, or the id of what it makes.
  enum class Ranks { kByPlace, kByResult };

  /// `vocabulary`: each token as tokenizer.json spells it (byte-level characters) and its id. `merges`: pairs of such
  /// tokens, first come first merged. `ignore_merges`: a piece that is a token is that token, whatever the merges give.
  /// Throws Error if an id is negative, too large or used twice, or a merge names a token that is not in the
  /// vocabulary.
  BpeModel(const std::vector<std::pair<std::string, int32_t>>& vocabulary,
           const std::vector<std::pair<std::string, std::string>>& merges, bool ignore_merges,
           Ranks ranks = Ranks::kByPlace);

  /// True if each of the 256 bytes has a token of its own, so that any text can be encoded and got back.
  bool covers_all_bytes() const;

  /// Appends the tokens of one piece of text. A byte without a token of its own is left out, as PyPI tokenizers does.
  /// Time is n log n in the length of the piece.
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    uint64_t pair = kNoPair;
    uint32_t rank = 0;
    int32_t id = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static constexpr uint32_t kNoRank = ~uint32_t{0};

  const Merge* find_merge(int32_t left, int32_t right) const;
  void insert_merge(uint64_t pair, uint32_t rank, int32_t id);
  void merge_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  void merge_short(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  void merge_long(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

  std::array<int32_t, 256> id_of_byte_{};
  // A hash table with open addressing; its size is a power of two.
  std::vector<Merge> merges_ = std::vector<Merge>(1);
  bool ignore_merges_ = false;
  std::unordered_map<std::string, int32_t> id_of_piece_;  // filled if ignore_merges
};

}  // namespace deeptitan
