#include "core/shared_library.h"

#include <cmath>

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace deeptitan {
namespace {

TEST(SharedLibrary, IsOpenedByItsNameOrInAFolder) {
  const SharedLibrary library("libm.so.6", "");
  EXPECT_EQ(library.problem(), "");
  const auto cosine = reinterpret_cast<double (*)(double)>(library.function("cos"));
  EXPECT_EQ(cosine(0.0), 1.0);
  expect_runtime_error([&] { library.function("cosinus"); },
                       "libm.so.6 has no function cosinus: it is of another version than this build needs");
}

TEST(SharedLibrary, OneThatIsMissingIsNamedWithWhereToPutIt) {
  const SharedLibrary library("libcublasLt.so.0", "/nowhere");
  EXPECT_EQ(library.problem(),
            "cannot open libcublasLt.so.0 (libcublasLt.so.0: cannot open shared object file: No such file or "
            "directory); put it beside the program, or its folder into LD_LIBRARY_PATH");
  expect_runtime_error([&] { library.function("cublasLtCreate"); }, library.problem());
}

}  // namespace
}  // namespace deeptitan
