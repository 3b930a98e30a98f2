#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "data/token_file.h"

namespace deeptitan {

/// Sequences of equal length, one behind the other, each packed with (parts of) documents.
/// T = sequences * sequence_length tokens.
struct PackedBatch {
  int64_t sequences = 0;
  int64_t sequence_length = 0;
  std::vector<int32_t> tokens;  // [T]
  /// [T] The token that follows, or -1 where none counts: the next document's, padding, what nobody is to learn.
  std::vector<int32_t> targets;
  std::vector<int32_t> positions;  // [T] 0 where a document, or a sequence inside one, begins
  /// [parts + 1] Where each part of a document begins; the last is T. Attention stays inside a part; no part crosses
  /// from one sequence to the next.
  std::vector<int32_t> document_offsets;
  int64_t target_count = 0;  // targets that are not -1
  int64_t target_bytes = 0;  // bytes of text that those stand for

  int64_t tokens_count() const { return sequences * sequence_length; }

  /// Empties the batch and makes room, so that a batch that is filled again and again allocates once.
  void reset(int64_t sequence_count, int64_t length);
};

/// Bytes of text that a token stands for.
using TokenBytes = std::function<int64_t(int32_t)>;

/// Appends a sequence to `batch`: tokens [first, first + sequence_length) of `range`, where that is shorter padded with
/// `padding_token` without targets. The target of the last token is the token behind it, also where the next sequence
/// begins there; the last token of the range has none.
void append_sequence(const TokenRange& range, int64_t first, int32_t padding_token, const TokenBytes& token_bytes,
                     PackedBatch* batch);

/// What a next-token-prediction module reads and learns at each token: the id of the token behind it in the same part
/// (at the end of a part the token's target, or 0 without one), and that token's target (-1 at the end of a part).
/// Both are [T].
void shift_targets(const PackedBatch& batch, std::span<int32_t> next_ids, std::span<int32_t> next_targets);

/// Tokens [first, end) of a document.
struct DocumentPiece {
  int64_t first;
  int64_t end;
};

/// Appends a sequence of `pieces`, one behind the other and together at most sequence_length tokens, each a part of its
/// own; the rest is padded with `padding_token` without targets. The target of a piece's last token is the token behind
/// it in the same document.
void append_pieces(const TokenRange& range, std::span<const DocumentPiece> pieces, int32_t padding_token,
                   const TokenBytes& token_bytes, PackedBatch* batch);

/// Appends a sequence of `padding_token` alone, without a target.
void append_padding_sequence(int32_t padding_token, PackedBatch* batch);

}  // namespace deeptitan
