#include "parallel/schedule_simulator.h"

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <tuple>

#include "core/error.h"

namespace deeptitan {
namespace {

// What has become of one microbatch in one stage.
struct Progress {
  bool forward = false;
  bool input = false;
  bool weights = false;
  bool sent = false;  // the input's gradient, to another rank
};

class Simulation {
 public:
  Simulation(const Schedule& schedule, const ActionTimes& times)
      : schedule_(schedule),
        times_(times),
        clock_(schedule.ranks, 0.0),
        busy_(schedule.ranks, 0.0),
        next_(schedule.ranks, 0),
        free_(schedule.stages),
        next_weights_(schedule.stages, 0),
        progress_(schedule.stages, std::vector<Progress>(schedule.microbatches)) {
    result_.live_records.assign(schedule.stages, 0);
    result_.timeline.resize(schedule.ranks);
  }

  SimulatedSchedule run() {
    DT_CHECK(static_cast<int>(schedule_.actions.size()) == schedule_.ranks, "{}: actions of {} ranks, expected {}",
             schedule_.name, schedule_.actions.size(), schedule_.ranks);
    for (bool moved = true; moved;) {
      moved = false;
      for (int rank = 0; rank < schedule_.ranks; ++rank) {
        while (next_[rank] < schedule_.actions[rank].size() && advance(rank, schedule_.actions[rank][next_[rank]])) {
          ++next_[rank];
          moved = true;
        }
      }
    }
    check_ended();
    result_.time = *std::max_element(clock_.begin(), clock_.end());
    double busy = 0;
    for (const double time : busy_) busy += time;
    result_.bubble = 1.0 - busy / (result_.time * schedule_.ranks);
    return result_;
  }

 private:
  using Message = std::tuple<bool, int, int>;  // forward, the receiving stage, the microbatch

  // Does one action; false where it waits for a message.
  bool advance(int rank, const Action& a) {
    DT_CHECK(0 <= a.stage && a.stage < schedule_.stages && 0 <= a.microbatch && a.microbatch < schedule_.microbatches,
             "{}: {}: there are {} stages and {} microbatches", schedule_.name, describe(a), schedule_.stages,
             schedule_.microbatches);
    DT_CHECK(schedule_.rank_of(a.stage) == rank, "{}: {} on rank {}; the stage lies on rank {}", schedule_.name,
             describe(a), rank, schedule_.rank_of(a.stage));
    switch (a.kind) {
      case ActionKind::kSendForward:
        send(rank, {true, a.stage + 1, a.microbatch});
        return true;
      case ActionKind::kSendBackward:
        send(rank, {false, a.stage - 1, a.microbatch});
        sent_from_[{a.stage, record_of(a)}] = {false, a.stage - 1, a.microbatch};
        progress_[a.stage][a.microbatch].sent = true;
        end_if_over(a);
        return true;
      case ActionKind::kReceiveForward:
      case ActionKind::kReceiveBackward: {
        const bool forward = a.kind == ActionKind::kReceiveForward;
        const int from = schedule_.rank_of(forward ? a.stage - 1 : a.stage + 1);
        std::deque<Message>& way = on_the_way_[{from, rank, forward}];
        if (forward) begin(a);
        if (way.empty() || (!forward && still_sends(a))) return false;
        check(way.front() == Message{forward, a.stage, a.microbatch}, a,
              "another message was sent before it on the same way, and messages arrive in order");
        clock_[rank] = std::max(clock_[rank], sent_.at(way.front()));
        way.pop_front();
        return true;
      }
      case ActionKind::kReduce:
        check(next_weights_[a.stage] == schedule_.microbatches, a, "its gradients are not whole");
        return true;
      default:
        if (ends_input(a) && (still_sends(a) || (hands_over(a) && still_sends({a.kind, a.stage - 1, a.microbatch}))))
          return false;
        compute(rank, a);
        return true;
    }
  }

  void send(int rank, const Message& message) {
    const auto [forward, stage, microbatch] = message;
    on_the_way_[{rank, schedule_.rank_of(stage), forward}].push_back(message);
    sent_[message] = clock_[rank];
  }

  static bool ends_input(const Action& a) {
    return a.kind == ActionKind::kBackward || a.kind == ActionKind::kBackwardInput;
  }

  // Whether the stage before lies on the same rank, and takes the gradient there.
  bool hands_over(const Action& a) const { return a.stage > 0 && !schedule_.comes_from_afar(a.stage); }

  // A microbatch takes the record that was given back last, or a new one.
  void begin(const Action& a) {
    const auto [place, is_new] = records_.emplace(std::pair(a.stage, a.microbatch), 0);
    if (!is_new) return;
    std::vector<int>& free = free_[a.stage];
    int& made = result_.live_records[a.stage];
    place->second = free.empty() ? made++ : free.back();
    if (!free.empty()) free.pop_back();
  }

  int record_of(const Action& a) const {
    const auto found = records_.find({a.stage, a.microbatch});
    check(found != records_.end(), a, "the microbatch has not been forward");
    return found->second;
  }

  // Whether an earlier microbatch's gradient, which lies in the same record, is not received yet.
  bool still_sends(const Action& a) const {
    const auto sent = sent_from_.find({a.stage, record_of(a)});
    if (sent == sent_from_.end()) return false;
    const auto& [forward, stage, microbatch] = sent->second;
    const auto way = on_the_way_.find({schedule_.rank_of(a.stage), schedule_.rank_of(stage), forward});
    return way != on_the_way_.end() &&
           std::find(way->second.begin(), way->second.end(), sent->second) != way->second.end();
  }

  // A record is free again once its weights' gradients are added and its input's gradient is sent.
  void end_if_over(const Action& a) {
    const Progress& p = progress_[a.stage][a.microbatch];
    if (p.weights && (p.sent || !schedule_.comes_from_afar(a.stage))) free_[a.stage].push_back(record_of(a));
  }

  void compute(int rank, const Action& a) {
    Progress& p = progress_[a.stage][a.microbatch];
    double time = 0;
    const bool to_here = a.stage + 1 < schedule_.stages && !schedule_.comes_from_afar(a.stage + 1);
    if (a.kind == ActionKind::kForward) {
      check(!p.forward, a, "it was done before");
      check(!hands_over(a) || progress_[a.stage - 1][a.microbatch].forward, a, "its input is not there yet");
      p.forward = true;
      begin(a);
      time = times_.forward;
    }
    if (a.kind == ActionKind::kBackward || a.kind == ActionKind::kBackwardInput) {
      check(p.forward && !p.input, a, p.forward ? "it was done before" : "the microbatch has not been forward");
      check(!to_here || progress_[a.stage + 1][a.microbatch].input, a, "its output's gradient is not there yet");
      p.input = true;
      time += times_.backward_input;
    }
    if (a.kind == ActionKind::kBackward || a.kind == ActionKind::kBackwardWeights) {
      check(p.input && !p.weights, a, p.input ? "it was done before" : "the backward of its input comes first");
      check(a.microbatch == next_weights_[a.stage]++, a,
            "weights' gradients are added in the order of the microbatches");
      p.weights = true;
      end_if_over(a);
      time += times_.backward_weights;
    }
    result_.timeline[rank].push_back({a, clock_[rank], clock_[rank] + time});
    clock_[rank] += time;
    busy_[rank] += time;
  }

  void check(bool holds, const Action& a, const char* problem) const {
    DT_CHECK(holds, "{}: {}: {}", schedule_.name, describe(a), problem);
  }

  void check_ended() const {
    std::string waiting;
    for (int rank = 0; rank < schedule_.ranks; ++rank) {
      if (next_[rank] == schedule_.actions[rank].size()) continue;
      waiting += fmt::format("{}rank {} waits in {}", waiting.empty() ? "" : ", ", rank,
                             describe(schedule_.actions[rank][next_[rank]]));
    }
    DT_CHECK(waiting.empty(), "{}: the ranks wait for one another: {}", schedule_.name, waiting);
    for (int stage = 0; stage < schedule_.stages; ++stage) {
      DT_CHECK(next_weights_[stage] == schedule_.microbatches, "{}: stage {} ends {} of {} microbatches",
               schedule_.name, stage, next_weights_[stage], schedule_.microbatches);
    }
  }

  const Schedule& schedule_;
  ActionTimes times_;
  std::vector<double> clock_;  // by rank
  std::vector<double> busy_;
  std::vector<size_t> next_;
  // Records: by stage those that are free, and that of each microbatch that has begun; what was last sent from each.
  std::vector<std::vector<int>> free_;
  std::map<std::pair<int, int>, int> records_;
  std::map<std::pair<int, int>, Message> sent_from_;
  std::vector<int> next_weights_;
  std::vector<std::vector<Progress>> progress_;
  std::map<Message, double> sent_;                                        // when
  std::map<std::tuple<int, int, bool>, std::deque<Message>> on_the_way_;  // by the ranks from and to, and forward
  SimulatedSchedule result_;
};

}  // namespace

SimulatedSchedule simulate(const Schedule& schedule, const ActionTimes& times) {
  return Simulation(schedule, times).run();
}

}  // namespace deeptitan
