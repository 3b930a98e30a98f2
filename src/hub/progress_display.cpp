#include "hub/progress_display.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/file.h"

namespace deeptitan {
namespace {

constexpr int kBarColumns = 20;
constexpr int kDetailColumns = 28;  // "100 %  999.9 GB of 999.9 GB" and a blank

/// The text in exactly `columns` columns: padded, or cut before a whole UTF-8 character with "..." in its place.
std::string fitted(const std::string& text, size_t columns) {
  size_t length = 0;
  for (const char c : text) length += (static_cast<unsigned char>(c) & 0xc0u) != 0x80u ? 1 : 0;
  if (length <= columns) return text + std::string(columns - length, ' ');
  std::string cut;
  size_t kept = 0;
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) & 0xc0u) != 0x80u && ++kept > columns - 3) break;
    cut += c;
  }
  return cut + "...";
}

int percent(uint64_t part, uint64_t whole) {
  return whole == 0 ? 100 : static_cast<int>(static_cast<double>(part) / static_cast<double>(whole) * 100);
}

std::string done_line(const FileProgress& file) {
  const bool present = file.resumed_from == file.size && file.size > 0;
  return fmt::format("{}: {}{}", file.name, format_bytes(file.size), present ? " (already there)" : "");
}

}  // namespace

std::string progress_bar_line(const FileProgress& file, int width) {
  const int part = percent(file.received, file.size);
  const int filled = part * kBarColumns / 100;
  const std::string detail =
      fmt::format("{:>3} %  {} of {}", part, format_bytes(file.received), format_bytes(file.size));
  const auto name_columns = static_cast<size_t>(std::max(width, 60) - kBarColumns - 5 - kDetailColumns);
  return fmt::format("{}  [{}{}] {}", fitted(file.name, name_columns), std::string(static_cast<size_t>(filled), '#'),
                     std::string(static_cast<size_t>(kBarColumns - filled), '-'), fitted(detail, kDetailColumns));
}

ProgressDisplay::ProgressDisplay(std::FILE* output, bool terminal, int width)
    : output_(output), terminal_(terminal), width_(width), began_(std::chrono::steady_clock::now()) {}

void ProgressDisplay::update(const std::vector<FileProgress>& files) {
  if (first_) {
    announced_.assign(files.size(), false);
    finished_.assign(files.size(), false);
    for (const FileProgress& file : files) first_received_ += file.received;
    first_ = false;
  }
  if (terminal_) {
    update_terminal(files);
  } else {
    update_plain(files);
  }
  std::fflush(output_);
}

void ProgressDisplay::update_terminal(const std::vector<FileProgress>& files) {
  // The bars of the last time are overwritten; lines of finished files stay above them.
  std::string text;
  if (bars_drawn_ > 0) text += fmt::format("\x1b[{}F\x1b[J", bars_drawn_);
  bars_drawn_ = 0;
  std::string bars;
  uint64_t received = 0, size = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    received += files[i].received;
    size += files[i].size;
    if (files[i].done) {
      if (!finished_[i]) text += done_line(files[i]) + "\n";
      finished_[i] = true;
    } else if (files[i].started) {
      bars += progress_bar_line(files[i], width_) + "\n";
      ++bars_drawn_;
    }
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - began_;
  const double rate =
      static_cast<double>(received - std::min(received, first_received_)) / std::max(elapsed.count(), 1e-3);
  text += bars;
  text += fmt::format("{} of {}, {} %, {}/s\n", format_bytes(received), format_bytes(size), percent(received, size),
                      format_bytes(static_cast<uint64_t>(rate)));
  ++bars_drawn_;
  std::fwrite(text.data(), 1, text.size(), output_);
}

void ProgressDisplay::update_plain(const std::vector<FileProgress>& files) {
  uint64_t received = 0, size = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    const FileProgress& file = files[i];
    received += file.received;
    size += file.size;
    if (file.started && !file.done && !announced_[i]) {
      announced_[i] = true;
      if (file.resumed_from > 0) {
        fmt::print(output_, "{}: going on at {} of {}\n", file.name, format_bytes(file.resumed_from),
                   format_bytes(file.size));
      } else {
        fmt::print(output_, "{}: fetching {}\n", file.name, format_bytes(file.size));
      }
    }
    if (file.done && !finished_[i]) {
      finished_[i] = true;
      fmt::print(output_, "{}\n", done_line(file));
    }
  }
  const int tenths = percent(received, size) / 10;
  if (tenths > tenths_shown_) {
    fmt::print(output_, "{} % of {}\n", tenths * 10, format_bytes(size));
    tenths_shown_ = tenths;
  }
}

}  // namespace deeptitan
