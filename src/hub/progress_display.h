#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "hub/download.h"

namespace deeptitan {

/// "name  [#####-----]  50 %  4.3 GB of 8.6 GB" in exactly `width` columns (60 at least); the name is cut where it is
/// too long.
std::string progress_bar_line(const FileProgress& file, int width);

/// Shows a download: on a terminal a bar for each file under way, a line for each that is done, and the total with its
/// rate below them; elsewhere plain lines, one when a file begins, one when it ends, and one for each tenth of the
/// whole.
class ProgressDisplay {
 public:
  ProgressDisplay(std::FILE* output, bool terminal, int width = 80);

  void update(const std::vector<FileProgress>& files);

 private:
  void update_terminal(const std::vector<FileProgress>& files);
  void update_plain(const std::vector<FileProgress>& files);

  std::FILE* output_;
  bool terminal_;
  int width_;
  int bars_drawn_ = 0;
  int tenths_shown_ = 0;
  uint64_t first_received_ = 0;
  bool first_ = true;
  std::vector<bool> announced_;
  std::vector<bool> finished_;
  std::chrono::steady_clock::time_point began_;
};

}  // namespace deeptitan
