// A model that is run by many processes, as a user runs it: the text of one process, who prints and reads, what ends
// them, and what is left.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <thread>

#include <gtest/gtest.h>
#include <unistd.h>

#include "cli/program.h"
#include "cli/terminal_program.h"
#include "cli/trained_model.h"
#include "core/clock.h"
#include "core/file.h"

namespace deeptitan {
namespace {

using testing::Outcome;
using testing::Program;
using testing::ProgramOptions;
using testing::run_program;
using testing::TerminalProgram;
using Words = std::vector<std::string>;

const std::string kTemplate = std::string(DT_TEST_DATA_DIR) + "/golden/chat_templates/deepseek_v3.jinja";

// Of a process, as /proc/PID/stat has it: fields from the third (the state) on.
Words status_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  Words words;
  if (text.empty()) return words;
  std::istringstream rest(text.substr(text.rfind(')') + 1));
  for (std::string word; rest >> word;) words.push_back(word);
  return words;
}

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid == 0) continue;
    const Words status = status_of(pid);
    if (status.size() > 1 && status[1] == std::to_string(parent)) found.push_back(pid);
  }
  std::sort(found.begin(), found.end());
  return found;
}

// The ranks behind the first, in their order, once they are there.
std::vector<pid_t> ranks_behind(pid_t first, size_t count) {
  std::vector<pid_t> found;
  for (int i = 0; i < 2000 && found.size() < count; ++i) {
    found = children_of(first);
    if (found.size() < count) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(found.size(), count);
  return found;
}

void expect_gone(const std::vector<pid_t>& pids) {
  const double until = monotonic_seconds() + 10;
  for (const pid_t pid : pids) {
    const auto alive = [&] {
      const Words status = status_of(pid);
      return !status.empty() && status[0] != "Z";
    };
    while (alive() && monotonic_seconds() < until) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_FALSE(alive()) << "process " << pid << " is left";
  }
}

// Seconds of a core that a process has taken.
double seconds_of(pid_t pid) {
  const Words status = status_of(pid);
  if (status.size() < 13) return 0;
  return (std::atof(status[11].c_str()) + std::atof(status[12].c_str())) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

class ModelRanks : public testing::TrainedModelTest {
 protected:
  void SetUp() override {
    ::setenv("DEEPTITAN_HISTORY", "", 1);
    ::setenv("TERM", "xterm-256color", 1);
  }
  static Words with(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static std::string model() { return (sample_->run("run") / "model").string(); }
  static Words on_model(const std::string& command, const Words& more) {
    return with({command, "--model", model(), "--dtype", "f32"}, more);
  }
  static const std::vector<Words>& layouts() {
    static const std::vector<Words> all = {
        {"--ranks", "2"}, {"--ranks", "2", "--pipeline-parallel", "2"}, {"--ranks", "4", "--expert-parallel", "2"}};
    return all;
  }
  // Each line without its times.
  static std::vector<nlohmann::json> answers(const Outcome& outcome) {
    std::vector<nlohmann::json> found = lines(outcome);
    for (nlohmann::json& line : found) {
      line.erase("prefill_seconds");
      line.erase("decode_seconds");
    }
    return found;
  }
};

TEST_F(ModelRanks, GenerateTheTextsOfOneProcess) {
  const std::string input = write("prompts.jsonl",
                                  "{\"prompt\": \"And the king\", \"max_new_tokens\": 9, \"temperature\": 0}\n"
                                  "{\"prompt\": \"a lion saw the river\", \"seed\": 4, \"max_new_tokens\": 20}\n"
                                  "{\"prompt\": [999]}\n{\"prompt\": \"a\"}\n");
  const std::string messages = write("messages.json", R"([{"role": "user", "content": "Who came?"}])");
  const Words text = {"--max-new-tokens", "20", "--seed", "3"};
  const std::vector<Words> asked = {
      with({"--prompt", "And the king"}, text),
      with({"--prompt", "And the king", "--temperature", "0"}, text),
      text,  // through the pipe
      with({"--messages", messages, "--chat-template", kTemplate}, text),
  };
  for (const Words& layout : layouts()) {
    for (const Words& words : asked) {
      const std::string piped = words == text ? "And a prophet" : "";
      const Outcome alone = run_on_model("generate", words, piped);
      ASSERT_EQ(alone.exit_code, 0) << alone.err;
      const Outcome ranks = run_on_model("generate", with(words, layout), piped);
      EXPECT_EQ(ranks.exit_code, 0) << ranks.err;
      EXPECT_EQ(ranks.out, alone.out) << layout.back();
      EXPECT_NE(ranks.err.find(layout[1] + " ranks: pp "), std::string::npos) << ranks.err;
    }
    const Outcome alone = run_on_model("generate", {"--prompt", "a", "--samples", "5", "--json"}, "");
    const Outcome ranks = run_on_model("generate", with({"--prompt", "a", "--samples", "5", "--json"}, layout), "");
    EXPECT_EQ(answers(ranks), answers(alone)) << layout.back();
    Outcome lines_alone = run_on_model("generate", {"--input", input}, "");
    Outcome lines_ranks = run_on_model("generate", with({"--input", input}, layout), "");
    EXPECT_EQ(lines_alone.exit_code, 1);
    EXPECT_EQ(lines_ranks.exit_code, 1) << lines_ranks.err;
    EXPECT_NE(lines_ranks.err.find("1 of 4 lines of " + input + " have no answer"), std::string::npos);
    lines_alone.exit_code = lines_ranks.exit_code = 0;
    EXPECT_EQ(answers(lines_ranks), answers(lines_alone)) << layout.back();
  }
}

// More sockets than a shell lets a program have files.
TEST_F(ModelRanks, ManyOfThemOpenManyFiles) {
  const Words words = on_model("generate", {"--prompt", "And the king", "--max-new-tokens", "6"});
  const auto with_files = [&](const std::string& limit) {
    ProgramOptions options;
    options.launcher = {"bash", "-c", "ulimit " + limit + " 40; exec \"$0\" \"$@\""};
    return run_program(with(words, {"--ranks", "8"}), options);
  };
  const Outcome eight = with_files("-S -n");
  EXPECT_EQ(eight.exit_code, 0) << eight.err;
  EXPECT_EQ(eight.out, run_program(words).out);
  const Outcome refused = with_files("-n");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_EQ(refused.err,
            "deeptitan: no sockets for 8 ranks: Too many open files; let a launcher (mpirun, srun) start so many, or "
            "raise the limit of open files (ulimit -n)\n");
}

TEST_F(ModelRanks, ScoreAsOneProcess) {
  const std::string text = write("score.txt", testing::sample_text(40));
  const std::string pairs = write("pairs.jsonl",
                                  "{\"context\": \"And the king\", \"continuation\": \" saw the river\"}\n"
                                  "{\"context\": \"And the king\", \"continuation\": \" saw a vineyard\"}\n"
                                  "{\"context\": \"a lion\", \"continuation\": \" heard bread\"}\n");
  const std::string requests =
      "{\"info\": true}\n{\"context\": \"And the king\", \"continuation\": \" saw\"}\n"
      "{\"text\": \"And the king saw a vineyard.\"}\n{\"prompt\": \"And the king\", \"stop\": [\".\"]}\n";
  for (const Words& layout : layouts()) {
    for (const Words& words : std::vector<Words>{{"--text", text},
                                                 {"--text", text, "--json", "--context", "20"},
                                                 {"--pairs", pairs},
                                                 {"--requests", "-"}}) {
      const std::string piped = words.front() == "--requests" ? requests : "";
      const Outcome alone = run_on_model("eval", words, piped);
      ASSERT_EQ(alone.exit_code, 0) << alone.err;
      const Outcome ranks = run_on_model("eval", with(words, layout), piped);
      EXPECT_EQ(ranks.exit_code, 0) << ranks.err;
      EXPECT_EQ(ranks.out, alone.out) << layout.back();
    }
  }
}

TEST_F(ModelRanks, ALauncherStartsThemToo) {
  const Words words = on_model("generate", {"--prompt", "And the king", "--max-new-tokens", "12"});
  const Outcome alone = run_program(words);
  ProgramOptions options;
  options.launcher = {"mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2"};
  const Outcome two = run_program(words, options);
  EXPECT_EQ(two.exit_code, 0) << two.err;
  EXPECT_EQ(two.out, alone.out);
  EXPECT_NE(two.err.find("2 ranks: pp 1 x ep 2; memory of each: "), std::string::npos) << two.err;
  options.input = "Who came?\n/exit\n";
  const Words talk = on_model("chat", {"--chat-template", kTemplate, "--max-new-tokens", "8"});
  const Outcome chat = run_program(talk, options);
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
  EXPECT_EQ(chat.out, run_program(talk, {.input = options.input}).out);
  const Outcome stages = run_program(with(words, {"--pipeline-parallel", "2"}), {.launcher = options.launcher});
  EXPECT_EQ(stages.out, alone.out) << stages.err;
  for (const char* number : {"1", "4"}) {
    const Outcome other = run_program(with(words, {"--ranks", number}), {.launcher = options.launcher});
    EXPECT_EQ(other.exit_code, 2);
    EXPECT_EQ(other.out, "");
    const std::string message = std::string("--ranks ") + number + ", but mpirun has started 2 processes; leave";
    EXPECT_NE(other.err.find(message), std::string::npos) << other.err;
  }
}

TEST_F(ModelRanks, ThoseOfALauncherThatAreNotAlikeAreNamed) {
  const std::filesystem::path other = sample_->run("other");
  std::filesystem::copy(model(), other);
  std::string config = read_file(other / "config.json");
  const size_t eps = config.find("1e-06");
  ASSERT_NE(eps, std::string::npos) << config;
  std::ofstream(other / "config.json") << config.replace(eps, 5, "1e-05");
  const auto started = [&](const Words& second) {
    const Words words = with(with(on_model("generate", {"--prompt", "a"}), {":", "-np", "1", DT_PROGRAM}), second);
    const Outcome outcome =
        run_program(words, {.launcher = {"mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "1"}});
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  };
  const std::string model_differs = started({"generate", "--model", other.string(), "--prompt", "a"});
  EXPECT_NE(model_differs.find("deeptitan: all ranks of a run must be alike; the model's config.json of rank 1 is not "
                               "that of rank 0: '  \"rms_norm_eps\": 1e-06"),
            std::string::npos)
      << model_differs;
  const std::string layout_differs = started(on_model("generate", {"--prompt", "a", "--pipeline-parallel", "2"}));
  EXPECT_NE(layout_differs.find("the layout of rank 1 is not that of rank 0: '2 ranks: pp 1 x ep 2"), std::string::npos)
      << layout_differs;
}

TEST_F(ModelRanks, ChatAsOneProcess) {
  const std::string saved = sample_->run("saved.json").string();
  const Words words = on_model("chat", {"--chat-template", kTemplate, "--max-new-tokens", "12", "--seed", "2"});
  const std::string talk =
      "Who came?\n/retry\n/set temperature 0\nAnd then?\n/undo\n/system Say no.\nWho came?\n/nothing\n/save " + saved +
      "\n/reset\n/load " + saved + "\nAnd?\n";
  const Outcome alone = run_program(words, {.input = talk});
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  for (const Words& layout : layouts()) {
    const Outcome ranks = run_program(with(words, layout), {.input = talk});
    EXPECT_EQ(ranks.exit_code, 0) << ranks.err;
    EXPECT_EQ(ranks.out, alone.out) << layout.back();
  }
}

TEST_F(ModelRanks, WhoTypesIsWaitedForWithoutEndAndWithoutACore) {
  if (!TerminalProgram::has_terminals()) GTEST_SKIP() << "no pseudo-terminal can be opened (is /dev/pts mounted?)";
  TerminalProgram program(on_model("chat", {"--chat-template", kTemplate, "--max-new-tokens", "100", "--ranks", "3",
                                            "--pipeline-parallel", "1", "--expert-parallel", "1"}));
  EXPECT_EQ(program.finish(), 2) << program.shown();
  TerminalProgram chat(
      on_model("chat", {"--chat-template", kTemplate, "--max-new-tokens", "8", "--ranks", "2", "--deadline", "2"}));
  const std::string prompt = "\033[1;32muser\033[0m: ";
  ASSERT_TRUE(chat.wait_for(prompt)) << chat.shown();
  const std::vector<pid_t> others = ranks_behind(chat.pid(), 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const double before = seconds_of(others.front());
  std::this_thread::sleep_for(std::chrono::seconds(3));
  EXPECT_LT(seconds_of(others.front()) - before, 0.15);
  chat.type("\x03");  // it leaves the line, and is no matter to the other rank
  ASSERT_TRUE(chat.wait_for(prompt)) << chat.shown();
  chat.type("Who came?\n");
  ASSERT_TRUE(chat.wait_for("tokens/s")) << chat.shown();
  ASSERT_TRUE(chat.wait_for(prompt)) << chat.shown();
  chat.type("\x04");
  EXPECT_EQ(chat.finish(), 0) << chat.shown();
  expect_gone(others);
}

TEST_F(ModelRanks, WhatCannotBeIsSaidOnceAndStartsNothing) {
  const auto refused = [&](const Words& more) {
    const Outcome outcome = run_program(on_model("generate", with({"--prompt", "a"}, more)));
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  };
  EXPECT_EQ(refused({"--ranks", "3"}),
            "deeptitan: 3 ranks cannot hold a model of 2 layers and 8 routed experts a layer as pipeline-parallel 1 x "
            "expert-parallel 3; no layout of 3 ranks can: take a number that divides the experts, or at most as many "
            "as layers\n");
  EXPECT_EQ(refused({"--expert-parallel", "2"}),
            "deeptitan: --expert-parallel and --pipeline-parallel lay out many ranks, and this is one process; give "
            "--ranks too, or start it by mpirun or srun\n");
  EXPECT_EQ(
      refused({"--ranks", "2", "--template-var", "a=b"}),
      "deeptitan: --template-var and --tools count with --chat, --messages or --input; give one of them, or leave "
      "them out\n");
  EXPECT_TRUE(refused({"--ranks", "0"}).starts_with("deeptitan: generate: --ranks: expected a whole number from 1 to"));
}

TEST_F(ModelRanks, WhatEndsTheFirstEndsAll) {
  for (const int signal : {SIGINT, SIGTERM, SIGKILL}) {
    Program program(on_model("generate", {"--prompt", "a", "--samples", "20000", "--json", "--ranks", "2"}));
    ASSERT_TRUE(program.wait_for_output("\n"));
    const std::vector<pid_t> others = ranks_behind(program.pid(), 1);
    program.send_signal(signal);
    const Outcome outcome = program.finish();
    EXPECT_EQ(outcome.exit_code, 128 + signal) << outcome.err;
    expect_gone(others);
  }
}

TEST_F(ModelRanks, OneThatDiesOrStopsIsNamedAndEndsAll) {
  if (!TerminalProgram::has_terminals()) GTEST_SKIP() << "no pseudo-terminal can be opened (is /dev/pts mounted?)";
  const auto after = [&](int signal, const Words& layout) {
    TerminalProgram chat(
        on_model("chat", with({"--chat-template", kTemplate, "--max-new-tokens", "8", "--deadline", "1"}, layout)));
    EXPECT_TRUE(chat.wait_for("\033[1;32muser\033[0m: ")) << chat.shown();
    const std::vector<pid_t> others = ranks_behind(chat.pid(), static_cast<size_t>(std::atoi(layout[1].c_str())) - 1);
    ::kill(others.front(), signal);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const double start = monotonic_seconds();
    chat.type("Who came?\n");
    EXPECT_EQ(chat.finish(), 1) << chat.shown();
    EXPECT_LT(monotonic_seconds() - start, 10);
    expect_gone(others);
    return chat.shown();
  };
  for (const Words& layout : {layouts()[0], layouts()[2]}) {
    const std::string killed = after(SIGKILL, layout);
    EXPECT_NE(killed.find("deeptitan: rank 1 was killed by signal 9 (Killed)"), std::string::npos) << killed;
    const std::string stopped = after(SIGSTOP, layout);
    // Whoever waits for it names it. That need not be the first, and not the one whose deadline comes first.
    EXPECT_TRUE(std::regex_search(
        stopped, std::regex("deeptitan: (rank [0-9]: )?rank [0-9] has waited [0-9.]+ s in [a-z_]+ of group [a-z]+, in "
                            "step 1, for rank 1: it has stopped, hangs, or ")))
        << stopped;
  }
}

// A file that goes while it is loaded is missed by all; it is said once.
TEST_F(ModelRanks, WhatBefallsAllIsSaidOnce) {
  const std::filesystem::path broken = sample_->run("broken");
  std::filesystem::copy(model(), broken);
  std::filesystem::remove(broken / "manifest.json");
  std::filesystem::resize_file(broken / "model.safetensors", 5000);
  const Outcome alone = run_program({"generate", "--model", broken.string(), "--prompt", "a"});
  const Outcome ranks = run_program({"generate", "--model", broken.string(), "--prompt", "a", "--ranks", "2"});
  EXPECT_EQ(ranks.exit_code, alone.exit_code);
  EXPECT_NE(alone.exit_code, 0);
  EXPECT_TRUE(ranks.err.ends_with(alone.err)) << ranks.err << alone.err;
}

// A weight that is not finite is met by the rank alone that holds it.
TEST_F(ModelRanks, WhatBefallsOneIsSaidByIt) {
  const std::filesystem::path broken = sample_->run("one-broken");
  std::filesystem::copy(model(), broken);
  std::filesystem::remove(broken / "manifest.json");
  const std::string name = "model.layers.1.mlp.experts.7.down_proj.weight";
  std::string file = read_file(broken / "model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, file.data(), sizeof header);
  const nlohmann::json entry = nlohmann::json::parse(file.substr(8, header)).at(name);
  const uint64_t bytes = entry.at("dtype") == "BF16" ? 2 : 4;
  // All bits set are a NaN.
  const uint64_t first = 8 + header + entry.at("data_offsets")[0].get<uint64_t>();
  std::fill_n(file.begin() + static_cast<std::ptrdiff_t>(first), bytes, '\xff');
  std::ofstream(broken / "model.safetensors", std::ios::binary) << file;
  const Words words = {"generate", "--model", broken.string(), "--prompt", "a"};
  const std::string message = broken.string() + ": tensor " + name + " is not finite: ";
  EXPECT_NE(run_program(words).err.find("deeptitan: " + message), std::string::npos);
  const Outcome two = run_program(with(words, {"--ranks", "2"}));
  EXPECT_EQ(two.exit_code, 1);
  EXPECT_NE(two.err.find("deeptitan: rank 1: " + message), std::string::npos) << two.err;
  EXPECT_TRUE(two.err.ends_with("\ndeeptitan: rank 1 has ended with exit code 1\n")) << two.err;
}

}  // namespace
}  // namespace deeptitan
