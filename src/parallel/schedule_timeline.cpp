#include "parallel/schedule_timeline.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "parallel/schedule_simulator.h"

namespace deeptitan {
namespace {

// Every half of a backward takes as long as a forward; of several stages a rank each takes its part of that.
constexpr double kSlot = 1.0;

std::string summary(const Schedule& schedule, const SimulatedSchedule& simulated) {
  std::vector<int> kept(schedule.ranks, 0);
  for (int stage = 0; stage < schedule.stages; ++stage) kept[schedule.rank_of(stage)] += simulated.live_records[stage];
  return fmt::format(
      "{}: {} ranks, {} stages, {} microbatches; the bubble is {:.1f} % of the ranks' time; at most {} microbatches' "
      "activations on a rank",
      schedule.name, schedule.ranks, schedule.stages, schedule.microbatches, 100 * simulated.bubble,
      *std::max_element(kept.begin(), kept.end()));
}

// What stands in the slots of one action: 12, [12], [12------], w12.
std::string cells(const Schedule& schedule, const Action& action, int slots, int width) {
  std::string label = std::to_string(action.microbatch);
  if (schedule.stages > schedule.ranks) label += static_cast<char>('a' + schedule.place_on_rank(action.stage) % 26);
  if (action.kind == ActionKind::kBackward || action.kind == ActionKind::kBackwardInput) {
    label = slots == 1 ? "[" + label + "]" : fmt::format("[{:-<{}}]", label, slots * width - 3);
  }
  if (action.kind == ActionKind::kBackwardWeights) label = "w" + label;
  return fmt::format("{:<{}}", label, slots * width);
}

}  // namespace

std::string timeline_text(const Schedule& schedule, int columns) {
  const SimulatedSchedule simulated = simulate(schedule);
  const int digits = static_cast<int>(std::to_string(schedule.microbatches - 1).size());
  const int width = digits + 3 + (schedule.stages > schedule.ranks ? 1 : 0);
  const int name_width = 8 + static_cast<int>(std::to_string(schedule.ranks - 1).size());
  const auto all_slots = static_cast<int>(std::lround(simulated.time / kSlot));
  const int slots = std::clamp((columns - name_width) / width, 1, all_slots);
  std::string text;
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    text += fmt::format("{:<{}}", fmt::format("rank {}", rank), name_width);
    int at = 0;
    for (const TimedAction& timed : simulated.timeline[rank]) {
      const auto begin = static_cast<int>(std::lround(timed.begin / kSlot));
      const auto end = static_cast<int>(std::lround(timed.end / kSlot));
      for (; at < std::min(begin, slots); ++at) text += fmt::format("{:<{}}", ".", width);
      if (begin >= slots) break;
      text += cells(schedule, timed.action, std::min(end, slots) - begin, width);
      at = end;
    }
    for (; at < slots; ++at) text += fmt::format("{:<{}}", ".", width);
    text.erase(text.find_last_not_of(' ') + 1);
    text += slots < all_slots ? " ...\n" : "\n";
  }
  return text + summary(schedule, simulated) + "\n";
}

std::string timeline_svg(const Schedule& schedule) {
  constexpr double kSlotWidth = 26, kRow = 30, kLeft = 74, kTop = 48, kRight = 16, kBottom = 20;
  const SimulatedSchedule simulated = simulate(schedule);
  const double width = kLeft + simulated.time / kSlot * kSlotWidth + kRight;
  const double height = kTop + schedule.ranks * kRow + kBottom;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\">\n"
      "<style>\n"
      "  text {{ font: 12px system-ui, sans-serif; fill: #1f2933 }}\n"
      "  .ground {{ fill: #ffffff }} .bubble {{ fill: #eef1f4 }}\n"
      "  .forward {{ fill: #9ec5fe }} .backward {{ fill: #a3cfbb }} .weights {{ fill: #ffe08a }}\n"
      "  rect {{ stroke: #ffffff }}\n"
      "</style>\n<rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n<text x=\"{2:.0f}\" y=\"26\">{3}</text>\n",
      width, height, kLeft, summary(schedule, simulated));
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    const double y = kTop + rank * kRow;
    svg += fmt::format("<text x=\"12\" y=\"{:.0f}\">rank {}</text>\n", y + 18, rank);
    svg += fmt::format("<rect class=\"bubble\" x=\"{:.0f}\" y=\"{:.0f}\" width=\"{:.1f}\" height=\"{:.0f}\"/>\n", kLeft,
                       y, simulated.time / kSlot * kSlotWidth, kRow - 4);
    for (const TimedAction& timed : simulated.timeline[rank]) {
      const char* kind = timed.action.kind == ActionKind::kForward           ? "forward"
                         : timed.action.kind == ActionKind::kBackwardWeights ? "weights"
                                                                             : "backward";
      const double x = kLeft + timed.begin / kSlot * kSlotWidth;
      svg += fmt::format(
          "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.0f}\" width=\"{:.1f}\" height=\"{:.0f}\"><title>{}</title></rect>"
          "<text x=\"{:.1f}\" y=\"{:.0f}\">{}</text>\n",
          kind, x, y, (timed.end - timed.begin) / kSlot * kSlotWidth, kRow - 4, describe(timed.action), x + 4, y + 18,
          timed.action.microbatch);
    }
  }
  return svg + "</svg>\n";
}

}  // namespace deeptitan
