#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"

namespace deeptitan {

/// A part of what an optimizer keeps: elements [begin, end) of `slot` ("first_moment") for one tensor of the model,
/// which is named as in its files.
struct SlotSlice {
  std::string slot;
  std::string tensor;
  int64_t begin = 0;
  int64_t end = 0;
  DType dtype = DType::kF32;  // as it lies in memory: f32 or bf16

  /// Its name in a file: "first_moment:model.norm.weight[0:2048]".
  std::string name() const;
  bool operator==(const SlotSlice&) const = default;
};

/// Writes the slices that one rank holds, `optimizer-rank-00000.safetensors`. Many ranks write a file each; which
/// slices a rank has is its own affair.
class SlotWriter {
 public:
  SlotWriter(const std::filesystem::path& directory, int64_t rank, const std::vector<SlotSlice>& slices);

  const std::string& file_name() const { return file_name_; }
  /// Writes all of a slice, in its type.
  void write(const SlotSlice& slice, const void* values);
  FileDigest finish() { return writer_.finish(); }

 private:
  std::string file_name_;
  SafetensorsWriter writer_;
};

/// Reads any part of any slot out of the slices of however many ranks.
class SlotReader {
 public:
  /// Opens every rank's file in the directory. Throws Error, naming the file, where a tensor is not a slice.
  explicit SlotReader(const std::filesystem::path& directory);

  /// Throws Error unless the slices make up exactly these, whole: names the first slot of a tensor that is missing,
  /// that has a gap or an overlap, or that nobody asks for.
  void check(const std::vector<SlotSlice>& wanted) const;
  /// Copies elements [begin, end) from the slices that hold them, as elements of the type that is wanted: bf16 is
  /// widened, fp32 rounded to nearest.
  void read(const SlotSlice& wanted, void* values) const;

 private:
  struct Piece {
    int64_t begin;
    int64_t end;
    const SafetensorsFile* file;
    const TensorEntry* entry;
  };
  std::filesystem::path directory_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, std::vector<Piece>> pieces_;  // by "slot:tensor", sorted by begin
};

}  // namespace deeptitan
