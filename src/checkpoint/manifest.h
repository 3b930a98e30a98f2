#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "core/digest.h"

namespace deeptitan {

/// What a directory written by this program holds: every file with its size and digest. It is written last, as
/// `manifest.json`, and its own last line is the digest of the lines above.
struct Manifest {
  int64_t step = 0;
  std::map<std::string, FileDigest> files;  // by path relative to the directory
};

inline constexpr std::string_view kManifestFile = "manifest.json";

/// Writes the manifest of all files below `directory`. `known` are the digests of files that were hashed while they
/// were written; the others are read.
void write_manifest(const std::filesystem::path& directory, int64_t step, std::map<std::string, FileDigest> known = {});

/// Throws Error, naming the manifest, if it is missing, altered or of another format version.
Manifest read_manifest(const std::filesystem::path& directory);

/// Reads the manifest and every file it lists. Throws Error that names the first file which is missing, of another size
/// or of another digest, and any file of tensors that it does not list (a reader would take it for the model's).
Manifest verify_directory(const std::filesystem::path& directory);

/// Looks whether a model's directory is as this program wrote it, where it has a manifest: the sizes of its files, and
/// the digests of those of up to 1 GiB. Throws Error that names a file of tensors which is missing or altered, and
/// warns of another file, which someone may have edited. Does nothing for directories of other programs.
void check_model_directory(const std::filesystem::path& directory);

/// The first thing in the directory that the program did not write there, or that was changed since: not in the
/// manifest, or of another size or (files up to 16 MB) digest. Everything is, where there is no whole manifest. Nothing
/// for an empty directory and for one that does not exist.
std::optional<std::filesystem::path> foreign_entry(const std::filesystem::path& directory);

/// The first file below a directory in the order of names, for messages; the directory itself where there is none.
std::filesystem::path first_file_in(std::filesystem::path directory);

}  // namespace deeptitan
