#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "model/moe/token_dispatcher.h"
#include "model/parameter.h"

namespace deeptitan {

/// The experts of a layer with `experts` that this rank of the group has: the rank-th of equal parts. Throws a usage
/// error where the ranks cannot share them out equally.
ExpertRange experts_of_rank(int64_t experts, int rank, int ranks);
inline ExpertRange experts_of_rank(int64_t experts, const Communicator& ep) {
  return experts_of_rank(experts, ep.rank(), ep.size());
}

/// Rows that may come to a rank with `experts` when each of `ranks` dispatches `tokens` tokens.
int64_t most_rows_of_ranks(int64_t ranks, int64_t tokens, int64_t top_k, int64_t experts);
/// Rows that a rank has room for: `room` times the `mean` that comes to it, at most what may come; 0: that.
int64_t rows_with_room(double room, int64_t mean, int64_t most);

/// What one dispatch sends and receives. W ranks, e experts of each, R rows that there is room for.
struct RankExchange {
  SlotOrder received;  // of what came, rank by rank and of each expert by expert: where it lies by expert
  Tensor counts;       // i32 [W, e]: rows that each rank has sent to each expert here
  std::vector<int64_t> send_rows, receive_rows;  // by rank; to and from
  Tensor overflow;                               // i32 [1]: ranks that more would come to than they have room for
};

/// The experts are shared out to the ranks of a group, and each token's row goes to those that have its experts: sorted
/// by expert here, all to all, sorted by expert there, where an expert's rows follow one another in the order of the
/// ranks and of their tokens. There is room for the worst case, that all tokens of all ranks choose experts here, or
/// for `room` times the mean; where more would come to any rank, the ranks agree on it, none sends, and the step
/// overflows. Each row is multiplied, weighted and added as LocalDispatcher does it, in the order of k, so that a
/// rank's activations have the bits of one rank with all experts.
class AllToAllDispatcher final : public TokenDispatcher {
 public:
  /// `room`: 0 is the worst case.
  AllToAllDispatcher(Communicator& ep, const RouterOptions& router, double room = 0);

  int64_t most_rows(int64_t tokens) const override;
  int64_t capacity(int64_t tokens) const override;
  /// The host must know how many rows come.
  bool can_be_captured(int64_t /*tokens*/) const override { return false; }
  RowGroups groups(const Routing& routing, const Route& route) const override;
  Route make_route(Arena& arena, int64_t tokens, int64_t rows) const override;
  void dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Routing& routing,
                const Route& route) const override;
  void dispatch_backward(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_rows, const Tensor& addend,
                         const Route& route) const override;
  void combine(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight, const Tensor& addend,
               const Route& route) const override;
  void combine_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight, const Tensor& d_out,
                        const Tensor& rows, const Tensor& weight, const Route& route) const override;

 private:
  void count(ExecutionContext& ctx, const Routing& routing, RankExchange& exchange) const;
  void give_up_if_any_overflows(ExecutionContext& ctx, RankExchange& exchange) const;
  void send_there(ExecutionContext& ctx, const Tensor& received, const Tensor& sent, const RankExchange& e) const;
  void send_back(ExecutionContext& ctx, const Tensor& returned, const Tensor& rows, const Route& route) const;

  Communicator& ep_;
  int64_t experts_;  // of this rank
  int64_t top_k_;
  double room_;
};

/// Makes such dispatchers; the group outlives them.
MakeDispatcher make_all_to_all_dispatcher(Communicator& ep, double room = 0);

}  // namespace deeptitan
