#include "checkpoint/safetensors.h"

#include <cstring>
#include <numeric>

#include <gtest/gtest.h>

#include "checkpoint/safetensors_writer.h"
#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

std::string file_with_header(const std::string& header, size_t data_bytes) {
  std::string text(8, '\0');
  for (size_t i = 0; i < 8; ++i) text[i] = static_cast<char>(header.size() >> (8 * i));
  return text + header + std::string(data_bytes, 'x');
}

/// The message, without the path, that a file with these contents is refused with.
std::string refusal(const std::string& contents) {
  const TemporaryFolder directory;
  const auto path = directory / "m.safetensors";
  write_file(path, contents);
  std::string message = message_of([&] { SafetensorsFile file(path); });
  const std::string prefix = path.string();
  if (message.starts_with(prefix)) message.erase(0, prefix.size());
  return message;
}

TEST(SafetensorsFile, ReadsWhatTheFormatDescribes) {
  const TemporaryFolder directory;
  const auto path = directory / "m.safetensors";
  write_file(path, file_with_header(R"({"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]},)"
                                    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                                    R"("none":{"dtype":"I64","shape":[3,0],"data_offsets":[4,4]},)"
                                    R"("__metadata__":{"format":"pt"}}   )",
                                    8));
  const SafetensorsFile file(path);
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(file.tensors()[0].shape, std::vector<int64_t>());
  EXPECT_EQ(file.tensors()[1].name, "none");
  EXPECT_EQ(file.tensors()[1].bytes, 0u);
  const TensorEntry* b = file.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, DType::kBF16);
  EXPECT_EQ(b->shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(b->bytes, 4u);
  EXPECT_EQ(b->data, file.tensors()[0].data + 4);
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(SafetensorsFile, RefusesTruncatedAndOversizedFiles) {
  EXPECT_EQ(refusal(""), ": 0 bytes are too few for a safetensors file; it is truncated, fetch it again");
  EXPECT_EQ(refusal("1234567"), ": 7 bytes are too few for a safetensors file; it is truncated, fetch it again");
  EXPECT_EQ(refusal(std::string("\x10\0\0\0\0\0\0\0{}", 10)),
            ": a header of 16 bytes is announced, the file has 10; it is truncated, fetch it again");
  EXPECT_EQ(
      refusal(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)),
      ": a header of 18446744073709551615 bytes is announced, the format allows 100000000; the file is damaged or "
      "not a safetensors file");
  const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(refusal(file_with_header(header, 8)), "no error");
  EXPECT_EQ(
      refusal(file_with_header(header, 7)),
      ": tensor a: data_offsets [0, 8] reach beyond the 7 bytes that follow the header; the file is truncated or its "
      "header lies; fetch it again");
  EXPECT_EQ(refusal(file_with_header(header, 9)),
            ": 1 bytes after the last tensor belong to no tensor; the header and the file do not match");
  EXPECT_EQ(refusal("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
            " is a Git LFS pointer, not the file itself; run git lfs pull in its repository or fetch it with deeptitan "
            "download");
}

TEST(SafetensorsFile, RefusesHeadersThatAreNotOne) {
  EXPECT_EQ(
      refusal(file_with_header("{\"a\":", 0)),
      ": the header: not valid JSON: it ends too early (byte 6, at a); the file is damaged or not a safetensors file");
  EXPECT_EQ(refusal(file_with_header("[]", 0)), ": the header must be a JSON object, found array");
  EXPECT_EQ(refusal(file_with_header(R"({"a":[1]})", 0)),
            ": tensor a: the header must describe it by an object, found array");
  EXPECT_EQ(refusal(file_with_header(R"({"a":{"b":[[[1]]]}})", 0)),
            ": the header: arrays and objects are nested more than 3 deep, at a.b[0]; the file is damaged or not a "
            "safetensors file");
  EXPECT_EQ(refusal(file_with_header(R"({"a":1e999})", 0)),
            ": tensor a: the header must describe it by an object, found 1e999, beyond what a number can hold");
  EXPECT_EQ(refusal(file_with_header(R"({"__metadata__":{"format":1}})", 0)),
            ": __metadata__.format must be text, found number");
  EXPECT_EQ(refusal(file_with_header(R"({"a":{"shape":[],"data_offsets":[0,0]}})", 0)),
            ": tensor a: the header must have \"dtype\" as text");
  EXPECT_EQ(refusal(file_with_header(R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,0]}})", 0)),
            ": tensor a: the header must have \"shape\" as an array");
  EXPECT_EQ(refusal(file_with_header(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}})", 0)),
            ": tensor a: shape must be made of whole numbers from 0 up, found -1");
  EXPECT_EQ(refusal(file_with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 8)),
            ": tensor a: data_offsets must be [begin, end], found 3 numbers");
}

TEST(SafetensorsFile, RefusesTensorsThatLie) {
  const auto one = [](const std::string& tensor, size_t bytes) {
    return refusal(file_with_header("{\"a\":" + tensor + "}", bytes));
  };
  EXPECT_EQ(
      one(R"({"dtype":"F8_E5M2","shape":[4],"data_offsets":[0,4]})", 4),
      ": tensor a: dtype F8_E5M2 is not one that can be read; those are F32, F16, BF16, F8_E4M3, F64, I32, I64, U8, "
      "I8 and BOOL");
  EXPECT_EQ(one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", 8),
            ": tensor a: shape [3] of F32 does not fill data_offsets [0, 8] (8 bytes)");
  EXPECT_EQ(one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", 8),
            ": tensor a: data_offsets [8, 0] end before they begin");
  // The product of the extents overflows 64 bits to exactly 8.
  EXPECT_EQ(one(R"({"dtype":"F64","shape":[4294967296,4294967296,1],"data_offsets":[0,8]})", 8),
            ": tensor a: shape [4294967296, 4294967296, 1] of F64 does not fill data_offsets [0, 8] (8 bytes)");
  EXPECT_EQ(one(R"({"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,8]})", 8),
            ": tensor a: 18446744073709551615 is too large for an extent");
}

TEST(SafetensorsFile, RefusesOverlapsGapsAndDuplicates) {
  const auto two = [](const std::string& first, const std::string& second, const std::string& name = "b") {
    return refusal(file_with_header("{\"a\":{\"dtype\":\"U8\",\"shape\":" + first + "},\"" + name +
                                        "\":{\"dtype\":\"U8\",\"shape\":" + second + "}}",
                                    8));
  };
  EXPECT_EQ(two(R"([4],"data_offsets":[0,4])", R"([4],"data_offsets":[4,8])"), "no error");
  EXPECT_EQ(two(R"([5],"data_offsets":[0,5])", R"([4],"data_offsets":[4,8])"),
            ": the bytes of tensor b overlap those of a");
  EXPECT_EQ(two(R"([8],"data_offsets":[0,8])", R"([0],"data_offsets":[4,4])"),
            ": the bytes of tensor b overlap those of a");
  EXPECT_EQ(two(R"([3],"data_offsets":[0,3])", R"([4],"data_offsets":[4,8])"),
            ": 1 bytes between a and tensor b belong to no tensor");
  EXPECT_EQ(two(R"([7],"data_offsets":[1,8])", R"([0],"data_offsets":[8,8])"),
            ": 1 bytes between the header and tensor a belong to no tensor");
  EXPECT_EQ(two(R"([4],"data_offsets":[0,4])", R"([4],"data_offsets":[4,8])", "a"),
            ": the header: \"a\" stands twice; the file is damaged or not a safetensors file");
  EXPECT_EQ(two(R"([4],"data_offsets":[0,4],"shape":[4])", R"([4],"data_offsets":[4,8])"),
            ": the header: \"shape\" stands twice in a; the file is damaged or not a safetensors file");
}

TEST(SafetensorsFile, ReleasedPagesAreReadAgain) {
  const TemporaryFolder directory;
  const auto path = directory / "m.safetensors";
  std::vector<int32_t> values(100'003);
  std::iota(values.begin(), values.end(), 7);
  SafetensorsWriter writer(path, {{"odd", DType::kU8, {3}}, {"values", DType::kI32, {100'003}}});
  writer.write("odd", "abc", 3);
  writer.write("values", values.data(), values.size() * 4);
  writer.finish();
  const SafetensorsFile file(path);
  const TensorEntry& entry = *file.find("values");
  file.prefetch(entry);
  for (int pass = 0; pass < 2; ++pass) {
    EXPECT_EQ(std::memcmp(entry.data, values.data(), entry.bytes), 0);
    file.release(entry);
  }
  EXPECT_EQ(std::memcmp(file.find("odd")->data, "abc", 3), 0);
}

TEST(SafetensorsWriter, StreamsInAnyOrderAndAligns) {
  const TemporaryFolder directory;
  const auto path = directory / "m.safetensors";
  const float floats[] = {1, 2, 3};
  SafetensorsWriter writer(
      path, {{"bytes", DType::kU8, {5}}, {"empty", DType::kF32, {0, 7}}, {"floats \"q\"", DType::kF32, {3}}},
      {{"step", "12"}});
  writer.write("floats \"q\"", floats, 4);
  writer.write("bytes", "hello", 5);
  EXPECT_FALSE(writer.complete());
  writer.write("floats \"q\"", floats + 1, 8);
  EXPECT_TRUE(writer.complete());
  writer.finish();
  const SafetensorsFile file(path);
  const TensorEntry* entry = file.find("floats \"q\"");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(entry->data) % 64, 0u);
  EXPECT_EQ(std::memcmp(entry->data, floats, sizeof floats), 0);
  EXPECT_EQ(std::memcmp(file.find("bytes")->data, "hello", 5), 0);
  EXPECT_EQ(file.find("empty")->shape, (std::vector<int64_t>{0, 7}));
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"step", "12"}}));
}

TEST(SafetensorsWriter, NamesWhatIsWrong) {
  const TemporaryFolder directory;
  const auto path = directory / "m.safetensors";
  const std::string prefix = path.string() + ": ";
  EXPECT_EQ(message_of([&] {
              SafetensorsWriter(path, {{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}});
            }),
            prefix + "tensor a is declared twice");
  SafetensorsWriter writer(path, {{"a", DType::kBF16, {2}}});
  EXPECT_EQ(message_of([&] { writer.write("b", "", 0); }), prefix + "tensor b was not declared");
  EXPECT_EQ(message_of([&] { writer.write("a", "123456", 6); }),
            prefix + "tensor a was declared with 4 bytes, 6 are written");
  writer.write("a", "12", 2);
  EXPECT_EQ(message_of([&] { writer.finish(); }), prefix + "tensor a was declared with 4 bytes, only 2 were written");
}

TEST(ShardedSafetensorsWriter, OneShardHasNoIndex) {
  const TemporaryFolder directory;
  ShardedSafetensorsWriter writer(directory.path(), {{"a", DType::kU8, {6}}, {"b", DType::kU8, {4}}}, 10);
  writer.write("b", "1234", 4);
  writer.write("a", "123456", 6);
  writer.finish();
  EXPECT_TRUE(std::filesystem::exists(directory / "model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(directory / "model.safetensors.index.json"));
}

TEST(ShardedSafetensorsWriter, SplitsInOrderAndWritesTheIndex) {
  const TemporaryFolder directory;
  ShardedSafetensorsWriter writer(directory.path(),
                                  {{"a", DType::kU8, {6}},
                                   {"b", DType::kU8, {5}},
                                   {"c", DType::kU8, {30}},
                                   {"d", DType::kU8, {0}},
                                   {"e", DType::kU8, {1}}},
                                  10);
  const std::string bytes(30, 'z');
  for (const auto& [name, size] :
       std::vector<std::pair<const char*, size_t>>{{"c", 30}, {"a", 6}, {"e", 1}, {"b", 5}}) {
    writer.write(name, bytes.data(), size);
  }
  writer.finish();
  EXPECT_EQ(read_file(directory / "model.safetensors.index.json"), R"({
  "metadata": {
    "total_size": 42
  },
  "weight_map": {
    "a": "model-00001-of-00004.safetensors",
    "b": "model-00002-of-00004.safetensors",
    "c": "model-00003-of-00004.safetensors",
    "d": "model-00004-of-00004.safetensors",
    "e": "model-00004-of-00004.safetensors"
  }
}
)");
  EXPECT_EQ(SafetensorsFile(directory / "model-00003-of-00004.safetensors").tensors().size(), 1u);
}

TEST(ShardedSafetensorsWriter, NothingToWriteIsAnEmptyFile) {
  const TemporaryFolder directory;
  ShardedSafetensorsWriter writer(directory.path(), {}, 10);
  writer.finish();
  EXPECT_TRUE(SafetensorsFile(directory / "model.safetensors").tensors().empty());
}

}  // namespace
}  // namespace deeptitan
