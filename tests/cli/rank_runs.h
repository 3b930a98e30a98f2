#pragma once

// Runs of many ranks as a user starts them: their run files, what they leave, and their processes.

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "core/clock.h"
#include "support/sample_run.h"

namespace deeptitan::testing {

// A run file for the folder `name`; 12 sequences a step in microbatches of 2, so that 1, 2, 3 and 6 ranks share them.
inline std::string run_file(const std::string& name, const std::string& more = "") {
  const std::filesystem::path path = sample().run(name + ".toml");
  std::string text = sample().toml(name, "steps = 8\ndtype = \"fp32\"\n", more);
  const std::string batch = "global_batch_size = 4";
  text.replace(text.find(batch), batch.size(), "global_batch_size = 12");
  std::ofstream(path) << text;
  return path.string();
}

inline std::vector<std::string> mpirun(int ranks) {
  return {"mpirun", "--allow-run-as-root", "--oversubscribe", "-np", std::to_string(ranks)};
}

inline size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// The losses of a run's metrics.jsonl by step.
inline std::map<int64_t, double> losses(const std::string& name) {
  std::map<int64_t, double> result;
  std::ifstream file(sample().run(name) / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json json = nlohmann::json::parse(line);
    result[json.at("step")] = json.at("loss");
  }
  return result;
}

inline void expect_close(const std::map<int64_t, double>& losses, const std::map<int64_t, double>& expected) {
  ASSERT_EQ(losses.size(), expected.size());
  for (const auto& [step, loss] : expected) EXPECT_NEAR(losses.at(step), loss, 1e-5 * loss) << "step " << step;
}

inline std::string whole(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Processes whose command line holds `text`, with the rank that their environment says (-1: none).
inline std::map<pid_t, int> processes_with(const std::string& text) {
  std::map<pid_t, int> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid == 0 || pid == ::getpid()) continue;
    const std::string words = whole(entry.path() / "cmdline"), environment = whole(entry.path() / "environ");
    if (words.find(text) == std::string::npos) continue;
    const std::string variable = "OMPI_COMM_WORLD_RANK=";
    const size_t at = environment.find(variable);
    found[pid] = at == std::string::npos ? -1 : std::atoi(environment.c_str() + at + variable.size());
  }
  return found;
}

inline pid_t process_of_rank(const std::string& file, int rank) {
  for (const auto& [pid, of] : processes_with(file)) {
    if (of == rank) return pid;
  }
  ADD_FAILURE() << "no process is rank " << rank;
  return 0;
}

inline void expect_none_left(const std::string& file, double since) {
  while (!processes_with(file).empty() && monotonic_seconds() - since < 10) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_TRUE(processes_with(file).empty()) << "processes are left after 10 s";
}

}  // namespace deeptitan::testing
