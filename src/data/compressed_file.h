#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/mapped_file.h"

namespace deeptitan {

/// How a file is compressed, by its first bytes (RFC 1952, RFC 8878).
enum class Compression { kNone, kGzip, kZstd };
Compression compression_of(std::string_view bytes);

/// At most the first `most` bytes of what a compressed file holds. Throws Error that names the file where it is damaged
/// before that.
std::string decompress_beginning(const std::filesystem::path& path, std::string_view bytes, size_t most);

/// All of what a compressed file holds, in a file without a name in the system's folder for temporary files, so that it
/// may be larger than memory. Throws Error that names the file where it is damaged or cut short.
MappedFile decompress(const std::filesystem::path& path, std::string_view bytes);

}  // namespace deeptitan
