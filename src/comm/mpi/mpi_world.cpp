#include "comm/mpi/mpi_world.h"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include <dlfcn.h>
#include <unistd.h>

#include "comm/mpi/mpi_interface.h"
#include "core/error.h"

namespace deeptitan {
namespace {

constexpr const char* kPluginName = "libdeeptitan_mpi.so";
constexpr const char* kPluginVariable = "DEEPTITAN_MPI";

/// The plug-in's functions, or why there are none.
struct OpenedPlugin {
  const DtMpiFunctions* functions = nullptr;
  std::string problem;
};

OpenedPlugin open_plugin() {
  const std::string path = find_mpi_plugin();
  if (path.empty()) {
    return {nullptr, fmt::format("there is no {} beside the program or in ../lib of its folder", kPluginName)};
  }
  // MPI's library looks for its own parts among the global symbols.
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    const char* reason = ::dlerror();
    return {nullptr, fmt::format("cannot open {}: {}", path, reason == nullptr ? "unknown error" : reason)};
  }
  const auto entry = reinterpret_cast<DtMpiEntry>(::dlsym(library, DT_MPI_ENTRY));
  const DtMpiFunctions* functions = entry == nullptr ? nullptr : entry();
  if (functions == nullptr || functions->interface_number != DT_MPI_INTERFACE) {
    return {nullptr, fmt::format("{} is of another version of deeptitan; build both together", path)};
  }
  return {functions, ""};
}

const DtMpiFunctions* needed_functions() {
  const auto [functions, problem] = open_plugin();
  DT_CHECK_USAGE(
      functions != nullptr,
      "many ranks talk over MPI, but {}; build deeptitan where MPI is installed (scripts/setup installs Open "
      "MPI), or name the plug-in's file in {}",
      problem, kPluginVariable);
  return functions;
}

// Ends the process where it is not destroyed within the deadline.
class Watch {
 public:
  Watch(double deadline, int rank)
      : thread_([this, deadline, rank] {
          std::unique_lock lock(mutex_);
          if (ended_.wait_for(lock, std::chrono::duration<double>(deadline), [this] { return over_; })) return;
          const std::string words = fmt::format(
              "deeptitan: rank {} has waited {:g} s for MPI to end: another rank does not, or hangs\n", rank, deadline);
          [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, words.data(), words.size());
          std::_Exit(1);
        }) {}
  ~Watch() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    ended_.notify_one();
    thread_.join();
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool over_ = false;
  std::thread thread_;
};

// What end_all_ranks needs, where it is called from anywhere.
const DtMpiFunctions* started = nullptr;

class MpiTransport final : public Transport {
 public:
  MpiTransport(const DtMpiFunctions* mpi, int rank, int size) : mpi_(mpi), rank_(rank), size_(size) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  // MPI moves a message on only while it is asked; who waits looks eagerly as long as one after the other comes.
  size_t max_message() const override { return size_t{4} << 20; }

  Message begin_send(const void* data, size_t bytes, int to, int channel) override {
    Message message = 0;
    check(mpi_->begin_send(data, static_cast<int64_t>(bytes), to, channel, &message), "send to", to);
    expected_[message] = {to, -1};
    return message;
  }

  Message begin_receive(void* data, size_t bytes, int from, int channel) override {
    Message message = 0;
    check(mpi_->begin_receive(data, static_cast<int64_t>(bytes), from, channel, &message), "receive from", from);
    expected_[message] = {from, static_cast<int64_t>(bytes)};
    return message;
  }

  bool done(Message message) override {
    int is_done = 0;
    int64_t bytes = 0;
    const auto [other, wanted] = expected_.at(message);
    check(mpi_->test(message, &is_done, &bytes), wanted < 0 ? "send to" : "receive from", other);
    if (is_done == 0) return false;
    expected_.erase(message);
    DT_CHECK(bytes == wanted, "rank {} expected {} bytes of rank {}, which sent {}", rank_, wanted, other, bytes);
    return true;
  }

  void give_up(Message message) noexcept override {
    if (expected_.erase(message) > 0) mpi_->give_up(message);
  }

 private:
  void check(int status, const char* what, int other) const {
    if (status == 0) return;
    char text[512] = "";
    mpi_->error_text(status, text, sizeof text);
    fail("rank {}: MPI could not {} rank {}: {}", rank_, what, other, text);
  }

  const DtMpiFunctions* mpi_;
  int rank_;
  int size_;
  std::map<Message, std::pair<int, int64_t>> expected_;  // the rank at the other end; bytes that come, -1: none
};

}  // namespace

std::string find_mpi_plugin() {
  if (const char* named = std::getenv(kPluginVariable)) return named;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  for (const char* folder : {".", "../lib"}) {
    const std::filesystem::path path = program.parent_path() / folder / kPluginName;
    if (!error && std::filesystem::exists(path, error)) return path.lexically_normal().string();
  }
  return "";
}

std::string mpi_in_words() {
  const auto [functions, problem] = open_plugin();
  return functions == nullptr ? "no MPI: " + problem : functions->library();
}

std::string check_mpi_plugin() {
  return needed_functions()->library();
}

class MpiWorld::Plugin {
 public:
  Plugin(const DtMpiFunctions* functions, const Launch& launch) : mpi(functions) {
    int rank = 0, size = 1;
    const int status = mpi->start(&rank, &size, &local_rank, &local_size);
    if (status != 0) {
      char text[512] = "";
      mpi->error_text(status, text, sizeof text);
      fail("{} started {} processes, but {} did not start: {}", launch.launcher, launch.size, mpi->library(), text);
    }
    started = mpi;
    DT_CHECK_USAGE(size == launch.size,
                   "{} started {} processes, but {} sees {}: it does not know this launcher. Use the mpirun of the MPI "
                   "that deeptitan --version names, or srun --mpi=pmix",
                   launch.launcher, launch.size, mpi->library(), size);
    transport = std::make_unique<MpiTransport>(mpi, rank, size);
  }

  const DtMpiFunctions* mpi;
  int local_rank = 0;
  int local_size = 1;
  std::unique_ptr<MpiTransport> transport;
};

MpiWorld::MpiWorld(const Launch& launch) {
  plugin_ = std::make_unique<Plugin>(needed_functions(), launch);
}

MpiWorld::~MpiWorld() = default;

void MpiWorld::finish(double deadline) {
  if (std::exchange(started, nullptr) == nullptr) return;
  const Watch watch(deadline, rank());
  DT_CHECK(plugin_->mpi->finish() == 0, "MPI did not end well");
}

Transport& MpiWorld::transport() {
  return *plugin_->transport;
}
int MpiWorld::rank() const {
  return plugin_->transport->rank();
}
int MpiWorld::size() const {
  return plugin_->transport->size();
}
int MpiWorld::local_rank() const {
  return plugin_->local_rank;
}
int MpiWorld::local_size() const {
  return plugin_->local_size;
}

void end_all_ranks(int exit_code) {
  if (started != nullptr) started->abort(exit_code);
}

}  // namespace deeptitan
