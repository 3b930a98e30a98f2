#pragma once

#include <string>

#include <gtest/gtest.h>

#include "core/error.h"

namespace deeptitan {

/// The message of the Error that `action` throws, "no error" if it throws none.
template <typename Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// Expects that calling `action` throws Error of this kind with exactly this message.
template <typename Action>
void expect_error(const Action& action, ErrorKind kind, const std::string& message) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), message);
    EXPECT_TRUE(error.kind() == kind) << "wrong kind of error: " << error.what();
    return;
  }
  ADD_FAILURE() << "expected an error: " << message;
}

template <typename Action>
void expect_usage_error(const Action& action, const std::string& message) {
  expect_error(action, ErrorKind::kUsage, message);
}

template <typename Action>
void expect_runtime_error(const Action& action, const std::string& message) {
  expect_error(action, ErrorKind::kRuntime, message);
}

}  // namespace deeptitan
