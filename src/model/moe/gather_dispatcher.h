#pragma once

#include <cstdint>

#include "comm/communicator.h"
#include "model/moe/token_dispatcher.h"
#include "model/parameter.h"

namespace deeptitan {

/// For a model that only runs: the experts are shared out to the ranks of a group, and all ranks run the same tokens. A
/// rank multiplies the rows of its experts and gathers the others' from the ranks that have them; rows lie by expert,
/// so each rank's are one part. Every rank then has what one rank with all experts has, bit for bit.
///
/// Of few tokens, rank after rank sends its rows among zeros in the places of all the others', which are added up as
/// whole numbers: the bits of each row beside those of zeros. More goes over the links than its rows, but the host need
/// not know how many these are, so that it is captured.
class GatherDispatcher final : public TokenDispatcher {
 public:
  /// `few`: the most tokens whose rows are added up.
  GatherDispatcher(Communicator& ep, const RouterOptions& router, int64_t few);

  int64_t most_rows(int64_t tokens) const override { return tokens * top_k_; }
  /// Of more tokens the host must know how many rows each rank has.
  bool can_be_captured(int64_t tokens) const override { return tokens <= few_; }
  RowGroups groups(const Routing& routing, const Route& route) const override;
  Route make_route(Arena& arena, int64_t tokens, int64_t rows) const override;
  void dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Routing& routing,
                const Route& route) const override;
  void combine(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight, const Tensor& addend,
               const Route& route) const override;
  /// Both throw: no gradient passes through.
  void dispatch_backward(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_rows, const Tensor& addend,
                         const Route& route) const override;
  void combine_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight, const Tensor& d_out,
                        const Tensor& rows, const Tensor& weight, const Route& route) const override;

 private:
  void add_up(ExecutionContext& ctx, const Tensor& rows, const Route& route) const;
  void gather_by_counts(ExecutionContext& ctx, const Tensor& rows, const Route& route) const;

  Communicator& ep_;
  ExpertRange own_;
  int64_t experts_;
  int64_t top_k_;
  int64_t few_;
};

/// Makes such dispatchers; the group outlives them.
MakeDispatcher make_gather_dispatcher(Communicator& ep, int64_t few = 0);

}  // namespace deeptitan
