#include "generate/page_pool.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

TEST(PagePool, APageIsFreeAgainWithItsLastReference) {
  PagePool pool(2);
  EXPECT_EQ(pool.acquire(), 0);
  EXPECT_EQ(pool.acquire(), 1);
  EXPECT_EQ(pool.available(), 0);
  expect_runtime_error([&] { pool.acquire(); },
                       "all 2 cache pages are in use; release a sequence first, or plan for more pages");
  pool.share(0);
  EXPECT_EQ(pool.references(0), 2);
  pool.release(0);
  EXPECT_EQ(pool.available(), 0);
  pool.release(0);
  EXPECT_EQ(pool.available(), 1);
  EXPECT_EQ(pool.acquire(), 0);
}

TEST(PagePool, RefusesReferencesToPagesThatNobodyHolds) {
  PagePool pool(1);
  expect_runtime_error([&] { pool.share(0); }, "cache page 0 is shared, but nobody holds it");
  expect_runtime_error([&] { pool.release(0); }, "cache page 0 is released, but nobody holds it");
}

}  // namespace
}  // namespace deeptitan
