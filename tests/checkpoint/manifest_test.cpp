#include "checkpoint/manifest.h"

#include <gtest/gtest.h>

#include "core/file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

void fill(const TemporaryFolder& folder) {
  folder.write("config.json", "{\"a\": 1}\n");
  folder.write("model.safetensors", std::string(10'000'000, 'w'));
  folder.write("training_state/state.json", "{\"step\": 30}\n");
  folder.write("empty", "");
}

TEST(Digest, IsXxh3With128Bits) {
  // The values of xxhsum -H2 (xxHash 0.8.1).
  EXPECT_EQ(Digest().hex(), "99aa06d3014798d86001c324468d497f");
  Digest digest;
  digest.add("deep", 4);
  digest.add("titan\n", 6);
  Digest whole;
  whole.add("deeptitan\n", 10);
  EXPECT_EQ(digest.hex(), whole.hex());
}

TEST(Manifest, ComesBackAndVerifies) {
  const TemporaryFolder folder;
  fill(folder);
  write_manifest(folder.path(), 30);
  const Manifest manifest = verify_directory(folder.path());
  EXPECT_EQ(manifest.step, 30);
  ASSERT_EQ(manifest.files.size(), 4u);
  EXPECT_EQ(manifest.files.at("training_state/state.json").bytes, 13u);
  EXPECT_EQ(foreign_entry(folder.path()), std::nullopt);
}

TEST(Manifest, AModelThatIsReadIsComparedWithIt) {
  const TemporaryFolder folder;
  fill(folder);
  const std::string weights = (folder / "model.safetensors").string();
  const auto found = [&] { return message_of([&] { check_model_directory(folder.path()); }); };
  EXPECT_EQ(found(), "no error");  // no manifest
  folder.write("manifest.json", "{\"of\": \"another program\"}");
  EXPECT_EQ(found(), "no error");
  fs::remove(folder / "manifest.json");
  write_manifest(folder.path(), 30);
  EXPECT_EQ(found(), "no error");
  folder.write("config.json", "{\"a\": 2}\n");  // which may have been edited
  fs::remove(folder / "empty");
  folder.write("training_state/state.json", "");
  EXPECT_EQ(found(), "no error");
  folder.write("model.safetensors", std::string(9'999'999, 'w') + "x");
  EXPECT_EQ(
      found(),
      weights +
          " is not as it was written (manifest.json knows its digest): it is damaged; use another copy or checkpoint");
  folder.write("model.safetensors", std::string(9'999'999, 'w'));
  EXPECT_EQ(found(),
            weights + " has 9999999 bytes, 10000000 were written: it is damaged; use another copy or checkpoint");
  fs::remove(weights);
  EXPECT_EQ(found(), weights + " is missing: it is damaged; use another copy or checkpoint");
  std::string manifest = read_file(folder / "manifest.json");
  manifest[manifest.find("10000000")] = '2';
  folder.write("manifest.json", manifest);
  EXPECT_EQ(found(),
            (folder / "manifest.json").string() + " is damaged: its last line is not the digest of the lines above");
}

TEST(Manifest, EveryFlippedBitOfASmallDirectoryIsFound) {
  const TemporaryFolder folder;
  folder.write("config.json", "{\"a\": 1}\n");
  folder.write("training_state/state.json", "{\"step\": 30}\n");
  write_manifest(folder.path(), 30);
  for (const char* name : {"config.json", "training_state/state.json", "manifest.json"}) {
    const std::string good = read_file(folder / name);
    for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
      std::string bad = good;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
      folder.write(name, bad);
      const std::string message = message_of([&] { verify_directory(folder.path()); });
      EXPECT_TRUE(message.starts_with((folder / name).string())) << name << " bit " << bit << ": " << message;
    }
    for (const std::string& bad : {good.substr(0, good.size() - 1), good + "\n", std::string(), "x" + good}) {
      folder.write(name, bad);
      EXPECT_NE(message_of([&] { verify_directory(folder.path()); }), "no error") << name;
    }
    folder.write(name, good);
  }
  verify_directory(folder.path());
}

TEST(Manifest, DamageOfALargeFileIsNamed) {
  const TemporaryFolder folder;
  fill(folder);
  write_manifest(folder.path(), 30);
  const std::string path = (folder / "model.safetensors").string();
  std::string bytes = read_file(path);
  std::fill(bytes.begin() + 5'000'000, bytes.end(), '\0');
  write_file(path, bytes);
  EXPECT_TRUE(message_of([&] { verify_directory(folder.path()); }).starts_with(path + " was altered: its digest is "));
  fs::resize_file(path, 9'999'999);
  EXPECT_EQ(message_of([&] { verify_directory(folder.path()); }), path + " has 9999999 bytes, 10000000 were written");
  fs::remove(path);
  EXPECT_EQ(message_of([&] { verify_directory(folder.path()); }), path + " is missing");
}

TEST(Manifest, TensorsThatItDoesNotListAreRefused) {
  const TemporaryFolder folder;
  fill(folder);
  write_manifest(folder.path(), 30);
  folder.write("notes.txt", "a reader does not look at it");
  verify_directory(folder.path());
  EXPECT_EQ(foreign_entry(folder.path()), folder / "notes.txt");
  const std::string index = folder.write("model.safetensors.index.json", "{}");
  EXPECT_EQ(message_of([&] { verify_directory(folder.path()); }),
            index + " is not in manifest.json: it does not belong to this directory");
}

TEST(Manifest, AnotherVersionIsNamed) {
  const TemporaryFolder folder;
  write_manifest(folder.path(), 1);
  std::string text = read_file(folder / "manifest.json");
  text.replace(text.find("\"version\": 1"), 12, "\"version\": 2");
  const size_t line = text.find("  \"digest of");
  Digest digest;
  digest.add(text.data(), line);
  text.replace(text.size() - 36, 32, digest.hex());
  write_file(folder / "manifest.json", text);
  EXPECT_NE(message_of([&] { read_manifest(folder.path()); }).find("format version 2, this program reads 1"),
            std::string::npos)
      << message_of([&] { read_manifest(folder.path()); });
}

}  // namespace
}  // namespace deeptitan
