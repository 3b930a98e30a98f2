#include "data/compressed_file.h"

#include <algorithm>
#include <cerrno>
#include <functional>
#include <limits>
#include <memory>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "core/error.h"
#include "core/file.h"

namespace deeptitan {
namespace {

constexpr size_t kBlock = size_t{1} << 18;

// Takes a piece of what comes out; returns false where no more is wanted.
using Sink = std::function<bool(std::string_view)>;

[[noreturn]] void fail_damaged(const std::filesystem::path& path, std::string_view kind, std::string_view reason) {
  fail("{}: the {} data is damaged ({}); make it anew or download it again", path.string(), kind, reason);
}

// Several members may follow one another (RFC 1952, section 2.2).
void inflate_to(const std::filesystem::path& path, std::string_view bytes, const Sink& sink) {
  z_stream stream = {};
  DT_CHECK(inflateInit2(&stream, 15 + 16) == Z_OK, "zlib cannot begin to read {}", path.string());
  const std::unique_ptr<z_stream, decltype(&inflateEnd)> ended(&stream, &inflateEnd);
  std::vector<unsigned char> block(kBlock);
  int status = Z_OK;
  while (true) {
    if (stream.avail_in == 0) {
      const size_t part = std::min<size_t>(bytes.size(), std::numeric_limits<uInt>::max() / 2);
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
      stream.avail_in = static_cast<uInt>(part);
      bytes.remove_prefix(part);
    }
    if (status == Z_STREAM_END) {
      // Zeros behind the last member are padding.
      if (stream.avail_in == 0 || *stream.next_in == 0) return;
      if (inflateReset(&stream) != Z_OK) fail_damaged(path, "gzip", "no further member");
    }
    stream.next_out = block.data();
    stream.avail_out = static_cast<uInt>(block.size());
    status = inflate(&stream, Z_NO_FLUSH);
    const size_t made = block.size() - stream.avail_out;
    if (made > 0 && !sink({reinterpret_cast<const char*>(block.data()), made})) return;
    if (status == Z_BUF_ERROR && bytes.empty()) fail_damaged(path, "gzip", "it is cut short");
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
      fail_damaged(path, "gzip", stream.msg != nullptr ? stream.msg : "no reason given");
    }
    if (status == Z_OK && stream.avail_in == 0 && bytes.empty() && made == 0)
      fail_damaged(path, "gzip", "it is cut short");
  }
}

void unzstd_to(const std::filesystem::path& path, std::string_view bytes, const Sink& sink) {
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(), &ZSTD_freeDCtx);
  DT_CHECK(context != nullptr, "libzstd cannot begin to read {}", path.string());
  std::vector<char> block(kBlock);
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  size_t status = 0;
  while (in.pos < in.size || status != 0) {
    ZSTD_outBuffer out{block.data(), block.size(), 0};
    const size_t before = in.pos;
    status = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(status) != 0) fail_damaged(path, "zstd", ZSTD_getErrorName(status));
    if (out.pos > 0 && !sink({block.data(), out.pos})) return;
    if (status != 0 && out.pos == 0 && in.pos == before) fail_damaged(path, "zstd", "it is cut short");
  }
}

void decompress_to(const std::filesystem::path& path, std::string_view bytes, const Sink& sink) {
  if (compression_of(bytes) == Compression::kGzip) return inflate_to(path, bytes, sink);
  unzstd_to(path, bytes, sink);
}

}  // namespace

Compression compression_of(std::string_view bytes) {
  if (bytes.starts_with("\x1f\x8b\x08")) return Compression::kGzip;
  if (bytes.starts_with("\x28\xb5\x2f\xfd")) return Compression::kZstd;
  return Compression::kNone;
}

std::string decompress_beginning(const std::filesystem::path& path, std::string_view bytes, size_t most) {
  std::string text;
  decompress_to(path, bytes, [&](std::string_view piece) {
    text += piece.substr(0, most - text.size());
    return text.size() < most;
  });
  return text;
}

MappedFile decompress(const std::filesystem::path& path, std::string_view bytes) {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::temp_directory_path(error);
  DT_CHECK(!error,
           "{} cannot be unpacked: TMPDIR names no folder ({}); let it name one with room for what the file holds",
           path.string(), error.message());
  std::string name = (folder / "deeptitan-XXXXXX").string();
  const int descriptor = ::mkostemp(name.data(), O_CLOEXEC);
  if (descriptor < 0) fail_file("create a file in", folder, errno);
  ::close(descriptor);
  File file = File::open_or_create(name);
  ::unlink(name.c_str());
  uint64_t size = 0;
  decompress_to(path, bytes, [&](std::string_view piece) {
    file.write_at(piece.data(), piece.size(), size);
    size += piece.size();
    return true;
  });
  return MappedFile(file);
}

}  // namespace deeptitan
