#include "model/upload_parameters.h"

#include <algorithm>
#include <cstddef>

#include "core/upload_in_pieces.h"

namespace deeptitan {
namespace {

// Of the device's memory: as little as still lets a bus run at its speed, so that what is read stays in caches.
constexpr int64_t kPieceBytes = 4 << 20;
// Rows of a piece are a multiple of those that share scales in fp8 files.
constexpr int64_t kBlockRows = 128;

struct Piece {
  const ParameterUpload* upload;
  int64_t first;  // row; of a vector: element
  int64_t rows;
  int64_t row_bytes;
};

void cut(const ParameterUpload& upload, std::vector<Piece>& pieces) {
  const int64_t rows = upload.tensor.shape[0];
  if (rows == 0) return;
  const int64_t row_bytes = upload.tensor.numel() / rows * static_cast<int64_t>(dtype_size(upload.dtype));
  if (row_bytes == 0) return;
  const int64_t of_piece = std::max<int64_t>(1, kPieceBytes / row_bytes / kBlockRows) * kBlockRows;
  for (int64_t first = 0; first < rows; first += of_piece) {
    pieces.push_back({&upload, first, std::min(of_piece, rows - first), row_bytes});
  }
}

void copy_rows(const Piece& piece, const UploadRoom& room) {
  const HeadRows& heads = piece.upload->heads;
  if (heads.heads == 0) {
    room.copy(piece.upload->to + piece.first * piece.row_bytes, 0, piece.rows * piece.row_bytes);
    return;
  }
  for (int64_t h = 0; h < heads.heads; ++h) {
    const int64_t band = h * heads.stride + heads.first;
    const int64_t begin = std::max(band, piece.first);
    const int64_t end = std::min(band + heads.count, piece.first + piece.rows);
    if (begin >= end) continue;
    room.copy(piece.upload->to + (h * heads.count + begin - band) * piece.row_bytes,
              (begin - piece.first) * piece.row_bytes, (end - begin) * piece.row_bytes);
  }
}

}  // namespace

void upload_parameters(Device device, const ParameterSource& source, const std::vector<ParameterUpload>& uploads) {
  std::vector<Piece> pieces;
  for (const ParameterUpload& upload : uploads) cut(upload, pieces);
  int64_t largest = 0;
  for (const Piece& piece : pieces) largest = std::max(largest, piece.rows * piece.row_bytes);
  upload_in_pieces(device, std::ssize(pieces), largest, [&](int64_t i, const UploadRoom& room) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    const ParameterUpload& upload = *piece.upload;
    source.read_rows(*upload.parameter, upload.tensor, piece.first, piece.rows, upload.dtype, room.memory());
    copy_rows(piece, room);
  });
}

}  // namespace deeptitan
