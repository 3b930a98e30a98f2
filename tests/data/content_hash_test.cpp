#include "data/content_hash.h"

#include <set>

#include <gtest/gtest.h>

namespace deeptitan {
namespace {

std::string hash_of(std::initializer_list<std::string_view> parts) {
  ContentHash hash;
  for (const std::string_view part : parts) hash.add(part);
  return hash.hex();
}

TEST(ContentHash, TellsApartWhatIsNearlyTheSame) {
  std::set<std::string> seen;
  std::string text(40, 'x');
  EXPECT_TRUE(seen.insert(hash_of({text})).second);
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = 'y';
    EXPECT_TRUE(seen.insert(hash_of({changed})).second) << i;
    EXPECT_TRUE(seen.insert(hash_of({text.substr(0, i)})).second) << i;
    EXPECT_TRUE(seen.insert(hash_of({text.substr(0, i), text.substr(i)})).second) << i;
  }
  EXPECT_TRUE(seen.insert(hash_of({std::string(1, '\0')})).second);
  EXPECT_TRUE(seen.insert(hash_of({})).second);
}

TEST(ContentHash, StaysAsItIs) {
  // Cached token files are found by it: another value would tokenise every text again.
  EXPECT_EQ(hash_of({"deeptitan", ""}), "54fdbbfda295c7b84b311bebabde0d52");
}

}  // namespace
}  // namespace deeptitan
