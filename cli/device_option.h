#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include "core/device_choice.h"

namespace deeptitan {

/// Adds --device to a command that runs a model.
CLI::Option* add_device_option(CLI::App& command, std::string& word);

/// Adds --dtype, of what parse_compute_dtype reads.
CLI::Option* add_dtype_option(CLI::App& command, std::string& word);

/// Adds --experts, of what parse_expert_products reads.
CLI::Option* add_experts_option(CLI::App& command, std::string& word);

/// Says in one line which device it is, where this build knows more than one: once the model is there.
void say_device(const DeviceChoice& choice);

}  // namespace deeptitan
