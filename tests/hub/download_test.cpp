#include "hub/download.h"

#include <csignal>
#include <random>
#include <set>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <thread>

#include "core/file.h"
#include "hub/fake_hub.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;
using test::FakeHub;
using test::Fault;
using test::SeenRequest;

std::string random_bytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(count, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

/// A hub with a model of small and large files, a client's settings, and a cache of its own.
class Download : public testing::Test {
 protected:
  Download() {
    for (const char* name : {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}) ::unsetenv(name);
    settings_.endpoint = hub_.endpoint();
    settings_.cache_directory = home_ / "hub";
    options_.patience.delay = std::chrono::milliseconds(1);
    options_.patience.attempts = 3;
    hub_.add_small("config.json", "{\"a\": 1}");
    hub_.add_small("sub dir/empty%.txt", "");
    hub_.add_large("model.safetensors", large_);
  }

  DownloadSummary download() { return download_model(FakeHub::kRepository, settings_, options_); }
  std::string refusal() {
    return message_of([&] { download(); });
  }
  fs::path repository() const { return settings_.cache_directory / "models--owner--model.v1"; }
  fs::path blob(const std::string& name) const {
    return repository() / "blobs" / fs::read_symlink(snapshot() / name).filename();
  }
  fs::path snapshot() const { return repository() / "snapshots" / FakeHub::kCommit; }
  /// The blob under way, as an earlier run left it.
  void leave_incomplete(const std::string& bytes) {
    fs::create_directories(repository() / "blobs");
    write_file(incomplete(), bytes);
  }
  fs::path incomplete() const { return repository() / "blobs" / (kLargeHash + ".incomplete"); }
  std::string last_range() const {
    std::string range;
    for (const SeenRequest& request : hub_.requests()) {
      if (request.store) range = request.range;
    }
    return range;
  }

  const std::string large_ = random_bytes(300'000, 1);
  // sha256sum of those bytes, so that the hash itself is checked against another program's.
  const std::string kLargeHash = "f8727989cfd4fabc1769e6e9bac73053aafa04a9fbcc79804874c6cf5a1dbd84";
  TemporaryFolder home_;
  FakeHub hub_;
  HubSettings settings_;
  DownloadOptions options_;
};

TEST_F(Download, LeavesTheCacheLayoutOfThePythonTools) {
  const DownloadSummary summary = download();
  EXPECT_EQ(summary.directory, snapshot());
  EXPECT_EQ(summary.commit, FakeHub::kCommit);
  EXPECT_EQ(summary.files, 3);
  EXPECT_EQ(summary.bytes, 300'008u);
  EXPECT_EQ(summary.fetched_bytes, 300'008u);

  EXPECT_EQ(read_file(repository() / "refs" / "main"), FakeHub::kCommit);
  // git hash-object of the same bytes
  EXPECT_EQ(fs::read_symlink(snapshot() / "config.json"), "../../blobs/4a036f56bb619924ec4189bd84ed716c766971ae");
  EXPECT_EQ(fs::read_symlink(snapshot() / "sub dir" / "empty%.txt"),
            "../../../blobs/e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  EXPECT_EQ(fs::read_symlink(snapshot() / "model.safetensors"), "../../blobs/" + kLargeHash);
  EXPECT_EQ(read_file(snapshot() / "config.json"), "{\"a\": 1}");
  EXPECT_EQ(read_file(snapshot() / "sub dir" / "empty%.txt"), "");
  EXPECT_EQ(read_file(snapshot() / "model.safetensors"), large_);
  EXPECT_FALSE(fs::exists(incomplete()));
  EXPECT_TRUE(fs::exists(settings_.cache_directory / ".locks" / "models--owner--model.v1" / (kLargeHash + ".lock")));

  hub_.forget_requests();
  EXPECT_EQ(download().fetched_bytes, 0u);
  EXPECT_EQ(hub_.requests().size(), 1u);  // the listing alone
}

TEST_F(Download, ACommitAsRevisionNeedsNoRef) {
  options_.revision = FakeHub::kCommit;
  download();
  EXPECT_FALSE(fs::exists(repository() / "refs"));
  EXPECT_EQ(read_file(snapshot() / "config.json"), "{\"a\": 1}");
}

TEST_F(Download, RevisionsWithSlashesAreOneName) {
  hub_.branch = "refs/pr/1";
  options_.revision = "refs/pr/1";
  download();
  EXPECT_EQ(read_file(repository() / "refs" / "refs" / "pr" / "1"), FakeHub::kCommit);
  EXPECT_EQ(message_of([&] {
              options_.revision = "../../x";
              download();
            }),
            "\"../../x\" is not the name of a branch, tag or commit");
}

TEST_F(Download, TheTokenGoesToTheHubAlone) {
  settings_.token = "secret";
  hub_.required_token = "secret";
  download();
  bool store_seen = false;
  for (const SeenRequest& request : hub_.requests()) {
    EXPECT_EQ(request.authorization, request.store ? "" : "Bearer secret") << request.path;
    store_seen = store_seen || request.store;
  }
  EXPECT_TRUE(store_seen);
}

TEST_F(Download, IncludePatternsChooseFiles) {
  options_.include = {"*.txt", "conf?g.*"};
  EXPECT_EQ(download().files, 2);
  EXPECT_FALSE(fs::exists(snapshot() / "model.safetensors"));
  options_.include = {"*.gguf"};
  EXPECT_EQ(refusal(),
            "no file of owner/model.v1 main matches --include; it has config.json, model.safetensors, sub "
            "dir/empty%.txt");
}

TEST_F(Download, AListingWithoutSizesIsCompletedFileByFile) {
  hub_.describe_files = false;
  EXPECT_EQ(download().bytes, 300'008u);
  EXPECT_EQ(read_file(snapshot() / "model.safetensors"), large_);
}

TEST_F(Download, AServerWithoutHashesIsRefused) {
  hub_.describe_files = false;
  hub_.send_hashes = false;
  EXPECT_EQ(refusal(), "127.0.0.1" + hub_.endpoint().substr(16) +
                           " gives no size or hash for config.json, so it could not be checked; HF_ENDPOINT must be a "
                           "Hugging Face hub or a mirror that passes X-Linked-Size and X-Linked-Etag on");
}

TEST_F(Download, EqualFilesShareABlob) {
  hub_.add_large("copy.safetensors", large_);
  const DownloadSummary summary = download();
  EXPECT_EQ(summary.bytes, 600'008u);
  EXPECT_EQ(summary.fetched_bytes, 300'008u);
  EXPECT_EQ(blob("copy.safetensors"), blob("model.safetensors"));
}

TEST_F(Download, ResumesWhatAnEarlierRunLeft) {
  leave_incomplete(large_.substr(0, 123'456));
  EXPECT_EQ(download().fetched_bytes, 300'008u - 123'456u);
  EXPECT_EQ(last_range(), "bytes=123456-");
  EXPECT_EQ(read_file(snapshot() / "model.safetensors"), large_);
}

TEST_F(Download, AWholeFileUnderWayIsOnlyChecked) {
  leave_incomplete(large_);
  EXPECT_EQ(download().fetched_bytes, 8u);
  EXPECT_EQ(hub_.count_of("model.safetensors"), 0);
  EXPECT_EQ(read_file(snapshot() / "model.safetensors"), large_);
}

TEST_F(Download, WhatDoesNotBelongIsFetchedAgain) {
  for (const std::string& left : {random_bytes(300'000, 2), random_bytes(1000, 3), large_ + "more"}) {
    fs::remove_all(settings_.cache_directory);
    leave_incomplete(left);
    download();
    EXPECT_EQ(read_file(snapshot() / "model.safetensors"), large_);
  }
}

TEST_F(Download, AServerThatIgnoresRangesStartsOver) {
  leave_incomplete(large_.substr(0, 1000));
  hub_.set_fault("model.safetensors", {.times = 1, .ignore_range = true, .instead = ""});
  EXPECT_EQ(download().fetched_bytes, 300'008u);
  EXPECT_EQ(read_file(snapshot() / "model.safetensors"), large_);
}

TEST_F(Download, BrokenConnectionsAreTakenUpAgain) {
  // Seven cuts, more than the attempts allowed in a row: progress resets the count.
  hub_.set_fault("model.safetensors", {.times = 7, .cut_after = 40'000, .instead = ""});
  EXPECT_EQ(download().fetched_bytes, 300'008u);
  EXPECT_EQ(last_range(), "bytes=280000-");
  EXPECT_EQ(read_file(snapshot() / "model.safetensors"), large_);
}

TEST_F(Download, AConnectionThatStaysBrokenKeepsWhatCame) {
  leave_incomplete(large_.substr(0, 100'000));
  hub_.set_fault("model.safetensors", {.times = 100, .cut_after = 0, .instead = ""});
  const std::string message = refusal();
  EXPECT_TRUE(message.starts_with("model.safetensors: the connection to localhost:")) << message;
  EXPECT_TRUE(
      message.ends_with(" after 100.0 kB of 300.0 kB; what has come is kept, run the same command again to go on"))
      << message;
  EXPECT_EQ(hub_.count_of("model.safetensors"), 3);
  EXPECT_EQ(read_file(incomplete()), large_.substr(0, 100'000));
  EXPECT_FALSE(fs::exists(repository() / "refs"));

  hub_.set_fault("model.safetensors", {});
  download();
  EXPECT_EQ(last_range(), "bytes=100000-");
  EXPECT_EQ(read_file(snapshot() / "model.safetensors"), large_);
}

TEST_F(Download, ServersThatAreBusyAreAskedAgain) {
  hub_.failing_listings = 2;
  hub_.set_fault("config.json", {.times = 2, .status = 503, .instead = ""});
  hub_.set_fault("model.safetensors", {.times = 2, .status = 429, .instead = ""});
  EXPECT_EQ(download().files, 3);
  hub_.failing_listings = 3;
  EXPECT_EQ(refusal(), hub_.endpoint() + " answers 503 for owner/model.v1; run the same command again later");
}

// Sizes that lie, servers that start over and cut, and drips: each is given up after a bounded number of requests.
TEST_F(Download, AFileShorterThanListedIsGivenUp) {
  hub_.listed_beyond = 5;
  options_.include = {"model.safetensors"};
  const std::string message = refusal();
  EXPECT_NE(message.find("model.safetensors: "), std::string::npos) << message;
  EXPECT_LE(hub_.count_of("model.safetensors"), 6);
}

TEST_F(Download, BytesThatAreThrownAwayAreNoProgress) {
  hub_.set_fault("model.safetensors", {.times = 1000, .cut_after = 100'000, .ignore_range = true, .instead = ""});
  const std::string message = refusal();
  EXPECT_TRUE(message.starts_with("model.safetensors: the connection to localhost:")) << message;
  EXPECT_LE(hub_.count_of("model.safetensors"), 4);
}

TEST_F(Download, AServerThatStartsOverAFewBytesFurtherIsGivenUp) {
  const auto patient = options_;
  options_.patience.least_progress_bytes = 1;
  options_.patience.attempts = 1000;
  hub_.set_fault("model.safetensors", {.times = 1000, .cut_after = 250'000, .ignore_range = true, .instead = ""});
  const std::string message = refusal();
  EXPECT_NE(message.find("it does not go on where it was broken off, and "), std::string::npos) << message;
  EXPECT_LE(hub_.count_of("model.safetensors"), 10);
  options_ = patient;
}

TEST_F(Download, ATransferBelowTheRateFloorIsGivenUp) {
  options_.patience.stall_timeout = std::chrono::seconds(1);
  options_.patience.attempts = 2;
  options_.include = {"model.safetensors"};
  hub_.set_fault("model.safetensors", {.times = 1000, .milliseconds_a_byte = 100, .instead = ""});
  const std::string message = refusal();
  EXPECT_TRUE(message.starts_with("model.safetensors: the connection to localhost:")) << message;
  EXPECT_EQ(hub_.count_of("model.safetensors"), 2);
}

TEST_F(Download, AWaitThatIsAskedForIsBounded) {
  options_.include = {"config.json"};
  for (const char* wait : {"100000", "99999999999999999999999", "Fri, 01 Jan 2100 00:00:00 GMT"}) {
    hub_.set_fault("config.json", {.times = 9, .status = 429, .retry_after = wait, .instead = ""});
    const std::string message = refusal();
    EXPECT_TRUE(message.starts_with(hub_.endpoint().substr(7) + " asks to wait ")) << message;
    EXPECT_NE(message.find(std::string("(Retry-After: ") + wait + "); run the same command again then"),
              std::string::npos)
        << message;
  }
  for (const char* wait : {"soon", "Mon, 01 Jan 2001 00:00:00 GMT"}) {
    hub_.set_fault("config.json", {.times = 1, .status = 429, .retry_after = wait, .instead = ""});
    EXPECT_EQ(download().files, 1);
    fs::remove_all(settings_.cache_directory);
  }
}

TEST_F(Download, SizesBeyondAnyDiskAreRefused) {
  for (const int64_t beyond : {INT64_MAX - 300'008, int64_t{1} << 62, int64_t{1} << 51}) {
    hub_.listed_beyond = beyond;
    const std::string message = refusal();
    EXPECT_NE(message.find("more than any disk holds; nothing was downloaded"), std::string::npos) << message;
  }
}

TEST_F(Download, AnExpiredAddressOfTheStoreIsAskedForAgain) {
  hub_.set_fault("model.safetensors", {.times = 2, .status = 403, .at_store = true, .instead = ""});
  download();
  EXPECT_EQ(hub_.count_of("model.safetensors"), 3);
}

TEST_F(Download, WrongBytesAreFetchedOnceMoreAndThenRefused) {
  std::string wrong = large_;
  wrong[299'999] = static_cast<char>(wrong[299'999] ^ 1);
  hub_.set_fault("model.safetensors", {.times = 1, .instead = wrong});
  download();
  EXPECT_EQ(read_file(snapshot() / "model.safetensors"), large_);

  fs::remove_all(settings_.cache_directory);
  hub_.set_fault("model.safetensors", {.times = 9, .instead = wrong});
  const std::string message = refusal();
  EXPECT_TRUE(message.starts_with("model.safetensors: the bytes have SHA-256 ")) << message;
  EXPECT_TRUE(message.ends_with(", the hub says " + kLargeHash + "; they were thrown away, run the same command again"))
      << message;
  EXPECT_EQ(fs::file_size(incomplete()), 0u);
  EXPECT_FALSE(fs::exists(repository() / "blobs" / kLargeHash));
}

TEST_F(Download, MoreBytesThanAnnouncedAreRefused) {
  hub_.set_fault("config.json", {.times = 9, .instead = "{\"a\": 1}, and more"});
  EXPECT_EQ(refusal(), hub_.endpoint().substr(7) + " sends more than the 8 bytes of config.json that it announced");
}

TEST_F(Download, SaysWhyTheHubRefuses) {
  const std::string page = hub_.endpoint() + "/owner/model.v1";
  hub_.listing_status = 401;
  EXPECT_EQ(refusal(),
            "the hub does not show owner/model.v1 (401): it does not exist, or it is private and HF_TOKEN is not "
            "set; check the name, or set HF_TOKEN to a token that may read it");
  settings_.token = "old";
  EXPECT_EQ(refusal(),
            "the hub does not show owner/model.v1 (401): it does not exist, or it is private and HF_TOKEN is not "
            "accepted; check the name, or set HF_TOKEN to a token that may read it");
  hub_.listing_status = 403;
  hub_.error_code = "GatedRepo";
  EXPECT_EQ(refusal(), "owner/model.v1 is gated or not open to you (403): accept its conditions at " + page +
                           " and set HF_TOKEN to a token of the account that did");
  hub_.listing_status = 404;
  hub_.error_code = "RepoNotFound";
  EXPECT_EQ(refusal(), "there is no model owner/model.v1 at " + hub_.endpoint() + " (404); check the name");
  hub_.listing_status = 200;
  options_.revision = "v9";
  EXPECT_EQ(refusal(),
            "owner/model.v1 has no revision v9 (404); its branches and tags stand at " + page + "/tree/main");
}

TEST_F(Download, SaysWhyAFileIsRefused) {
  hub_.set_fault("model.safetensors", {.times = 1, .status = 403, .instead = ""});
  EXPECT_EQ(refusal(), "owner/model.v1 is gated or not open to you (403): accept its conditions at " + hub_.endpoint() +
                           "/owner/model.v1 and set HF_TOKEN to a token of the account that did; HF_TOKEN is not set");
  hub_.set_fault("model.safetensors", {.times = 1, .status = 404, .instead = ""});
  EXPECT_EQ(refusal(), std::string("owner/model.v1 has no file model.safetensors at ") + FakeHub::kCommit + " (404)");
}

TEST_F(Download, NamesThatLeaveTheDirectoryAreRefused) {
  for (const char* name :
       {"../evil", "/etc/evil", "a/../../evil", "a//b", "./a", "a/.", "a\\\\b", "a\\u0000b", "a\\nb", ""}) {
    hub_.listing_text =
        std::string(R"({"sha":")") + FakeHub::kCommit + R"(","siblings":[{"rfilename":")" + name + "\"}]}";
    const std::string message = refusal();
    EXPECT_TRUE(message.starts_with(hub_.endpoint() + " lists a file \"")) << message;
    EXPECT_TRUE(message.ends_with("\" that would leave its directory; nothing was downloaded")) << message;
  }
  EXPECT_FALSE(fs::exists(settings_.cache_directory));
}

TEST_F(Download, AnswersThatAreNoListingAreRefused) {
  for (const char* text : {"<html>", "[]", "{}", R"({"sha":1,"siblings":[]})", R"({"sha":"x"})"}) {
    hub_.listing_text = text;
    EXPECT_EQ(refusal(), hub_.endpoint() + " does not answer as a Hugging Face hub; check HF_ENDPOINT") << text;
  }
  hub_.listing_text = R"({"sha":"../../x","siblings":[]})";
  EXPECT_EQ(refusal(), hub_.endpoint() + " names no commit for owner/model.v1 main, found \"../../x\"");
}

TEST_F(Download, ARedirectToAFileIsRefused) {
  hub_.redirect_to = "file:///etc/hostname";
  EXPECT_EQ(refusal(),
            "no connection to " + hub_.endpoint().substr(7) +
                ": Unsupported protocol; check the network, HF_ENDPOINT and HTTPS_PROXY, then run the same command "
                "again to go on");
}

TEST_F(Download, NobodyThereIsSaidOnce) {
  settings_.endpoint = "http://127.0.0.1:1";
  EXPECT_EQ(refusal(),
            "no connection to 127.0.0.1:1: Couldn't connect to server; check the network, HF_ENDPOINT and "
            "HTTPS_PROXY, then run the same command again");
}

TEST_F(Download, AFileThatSomebodyElseFetchesIsLeftAlone) {
  const fs::path lock = settings_.cache_directory / ".locks" / "models--owner--model.v1" / (kLargeHash + ".lock");
  fs::create_directories(lock.parent_path());
  const int descriptor = ::open(lock.c_str(), O_RDWR | O_CREAT, 0666);
  ASSERT_EQ(::flock(descriptor, LOCK_EX), 0);
  EXPECT_EQ(refusal(),
            "owner/model.v1: model.safetensors is being downloaded by another process; wait until it is done, or "
            "stop it");
  ::close(descriptor);
  EXPECT_EQ(download().files, 3);
}

TEST_F(Download, AFullDiskKeepsWhatCame) {
  const fs::path report = home_ / "report";
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit = {200'000, 200'000};  // the kernel refuses to write further, as a full disk does
    ::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &limit);
    write_file(report, refusal());
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
  const std::string message = read_file(report);
  EXPECT_TRUE(message.starts_with("cannot write " + incomplete().string() + ": File too large: ")) << message;
  EXPECT_TRUE(message.ends_with("raise it, or choose a directory on another disk")) << message;
  const std::string kept = read_file(incomplete());
  EXPECT_EQ(kept, large_.substr(0, kept.size()));
  EXPECT_GT(kept.size(), 100'000u);
  download();
  EXPECT_EQ(last_range(), "bytes=" + std::to_string(kept.size()) + "-");
  EXPECT_EQ(read_file(snapshot() / "model.safetensors"), large_);
}

TEST_F(Download, ADirectoryGetsPlainFiles) {
  options_.directory = home_ / "here";
  EXPECT_EQ(download().directory, home_ / "here");
  EXPECT_EQ(read_file(home_ / "here" / "model.safetensors"), large_);
  EXPECT_FALSE(fs::is_symlink(home_ / "here" / "model.safetensors"));
  EXPECT_TRUE(fs::is_regular_file(home_ / "here" / "sub dir" / "empty%.txt"));
  EXPECT_FALSE(fs::exists(settings_.cache_directory));
  EXPECT_EQ(download().fetched_bytes, 0u);

  // A file of the right size with other bytes is not taken for the right one.
  std::string wrong = large_;
  wrong[7] = static_cast<char>(wrong[7] ^ 1);
  write_file(home_ / "here" / "model.safetensors", wrong);
  EXPECT_EQ(download().fetched_bytes, 300'000u);
  EXPECT_EQ(read_file(home_ / "here" / "model.safetensors"), large_);
}

TEST_F(Download, ProgressGrowsToTheWhole) {
  leave_incomplete(large_.substr(0, 50'000));
  std::vector<FileProgress> last;
  options_.progress = [&](const std::vector<FileProgress>& files) {
    for (size_t i = 0; i < last.size(); ++i) EXPECT_GE(files[i].received, last[i].received);
    last = files;
  };
  download();
  ASSERT_EQ(last.size(), 3u);
  EXPECT_EQ(last[1].name, "model.safetensors");
  EXPECT_EQ(last[1].resumed_from, 50'000u);
  for (const FileProgress& file : last) {
    EXPECT_TRUE(file.done);
    EXPECT_EQ(file.received, file.size);
  }
}

TEST_F(Download, HttpsProxyIsAsked) {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(::listen(listener, 1), 0);
  ASSERT_EQ(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length), 0);
  std::string asked;
  std::thread proxy([&] {
    const int connection = ::accept(listener, nullptr, nullptr);
    char buffer[4096];
    const ssize_t count = ::read(connection, buffer, sizeof buffer);
    asked.assign(buffer, static_cast<size_t>(std::max<ssize_t>(count, 0)));
    const std::string answer = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
    EXPECT_EQ(::write(connection, answer.data(), answer.size()), static_cast<ssize_t>(answer.size()));
    ::close(connection);
  });
  ::setenv("HTTPS_PROXY", ("http://127.0.0.1:" + std::to_string(ntohs(address.sin_port))).c_str(), 1);
  settings_.endpoint = "https://hub.invalid";
  options_.patience.attempts = 1;
  EXPECT_TRUE(refusal().starts_with("no connection to hub.invalid: ")) << refusal();
  proxy.join();
  ::close(listener);
  ::unsetenv("HTTPS_PROXY");
  EXPECT_TRUE(asked.starts_with("CONNECT hub.invalid:443 HTTP/1.1\r\n")) << asked;
}

}  // namespace
}  // namespace deeptitan
