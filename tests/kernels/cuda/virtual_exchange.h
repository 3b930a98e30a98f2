#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/all_to_all/pad_layout.h"
#include "kernels/cuda/barrier/wait_error.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/exchange_case.h"
#include "kernels/cuda/virtual_ranks.h"

namespace deeptitan::cuda {

/// The memory of several ranks on one device: for each a window (pad, rows to send, outputs) and counters.
class VirtualExchange {
 public:
  /// Room for at most max_rows rows to send and capacity_rows to receive per rank.
  VirtualExchange(int n_ranks, int max_groups, int64_t mailbox_bytes, std::vector<int64_t> row_bytes, int64_t max_rows,
                  int64_t capacity_rows)
      : n_ranks_(n_ranks), row_bytes_(std::move(row_bytes)), capacity_rows_(capacity_rows) {
    const AllToAllPad pad{128, max_groups, mailbox_bytes};
    int64_t end = pad.offset + all_to_all_pad_bytes(pad, n_ranks);
    std::vector<int64_t> input_offsets;
    for (const int64_t bytes : row_bytes_) {
      end = (end + 127) / 128 * 128;
      input_offsets.push_back(end);
      end += max_rows * bytes;
    }
    std::vector<int64_t> output_offsets;
    for (const int64_t bytes : row_bytes_) {
      end = (end + 127) / 128 * 128;
      output_offsets.push_back(end);
      end += capacity_rows * bytes;
    }
    rows_end_ = output_offsets[0];
    arguments_.resize(n_ranks);
    for (int r = 0; r < n_ranks; ++r) {
      windows_.push_back(std::make_unique<DeviceBuffer<char>>(end));
      DT_CUDA_CHECK(cudaMemset(windows_[r]->get(), 0, input_offsets[0]));
      states_.push_back(std::make_unique<DeviceBuffer<AllToAllState>>(std::vector<AllToAllState>(1)));
      statuses_.push_back(std::make_unique<DeviceBuffer<AllToAllStatus>>(std::vector<AllToAllStatus>(1)));
      errors_.push_back(std::make_unique<DeviceBuffer<uint64_t>>(std::vector<uint64_t>(1)));
      splits_.push_back(std::make_unique<DeviceBuffer<int64_t>>(n_ranks * max_groups));
      output_splits_.push_back(std::make_unique<DeviceBuffer<int64_t>>(n_ranks * max_groups));
    }
    for (int r = 0; r < n_ranks; ++r) {
      AllToAllArguments& a = arguments_[r];
      for (int p = 0; p < n_ranks; ++p) a.window.base[p] = windows_[p]->get();
      a.window.rank = r;
      a.window.n_ranks = n_ranks;
      a.pad = pad;
      a.n_payloads = static_cast<int32_t>(row_bytes_.size());
      for (int k = 0; k < a.n_payloads; ++k) {
        a.payloads[k] = {input_offsets[k], windows_[r]->get() + output_offsets[k], row_bytes_[k]};
      }
      a.n_groups = max_groups;
      a.split_type = SplitType::kInt64;
      a.splits = splits_[r]->get();
      a.output_splits = output_splits_[r]->get();
      a.capacity_rows = capacity_rows;
      a.direction = MoveDirection::kPull;
      a.source_reuse = SourceReuse::kAfterExchange;
      a.status = statuses_[r]->get();
      a.state = states_[r]->get();
      a.error = errors_[r]->get();
      a.timeout_ns = 20'000'000'000;
    }
  }

  AllToAllArguments& arguments(int rank) { return arguments_[rank]; }

  /// Puts the case's splits and rows in place and fills outputs and output splits with 0xff.
  void upload(const ExchangeCase& c) {
    for (int r = 0; r < n_ranks_; ++r) {
      AllToAllArguments& a = arguments_[r];
      a.n_groups = c.n_groups;
      if (a.split_type == SplitType::kInt64) {
        splits_[r]->upload(c.splits[r]);
      } else {
        const std::vector<int32_t> narrow(c.splits[r].begin(), c.splits[r].end());
        DT_CUDA_CHECK(cudaMemcpy(splits_[r]->get(), narrow.data(), narrow.size() * 4, cudaMemcpyHostToDevice));
      }
      DT_CUDA_CHECK(cudaMemset(output_splits_[r]->get(), 0xff, output_splits_[r]->bytes()));
      for (int k = 0; k < a.n_payloads; ++k) {
        const auto& rows = c.rows[r][k];
        DT_CUDA_CHECK(cudaMemcpy(windows_[r]->get() + a.payloads[k].input_offset, rows.data(), rows.size(),
                                 cudaMemcpyHostToDevice));
        DT_CUDA_CHECK(cudaMemset(a.payloads[k].output, 0xff, capacity_rows_ * row_bytes_[k]));
      }
    }
  }

  void set_split_type(SplitType type) {
    for (AllToAllArguments& a : arguments_) a.split_type = type;
  }
  void set_direction(MoveDirection direction) {
    for (AllToAllArguments& a : arguments_) a.direction = direction;
  }
  void set_source_reuse(SourceReuse reuse) {
    for (AllToAllArguments& a : arguments_) a.source_reuse = reuse;
  }
  void set_timeout(int64_t timeout_ns) {
    for (AllToAllArguments& a : arguments_) a.timeout_ns = timeout_ns;
  }
  /// As if `epoch` exchanges had been done over the pads.
  void set_epoch(uint32_t epoch) {
    for (auto& state : states_) state->upload({AllToAllState{epoch, 0}});
  }

  /// One exchange of all ranks, or of the first `n_launched` alone.
  void run(int blocks, bool bulk, int n_launched = -1) {
    DeviceBuffer<AllToAllArguments> on_device(arguments_);
    launch_virtual_all_to_all(on_device.get(), n_launched < 0 ? n_ranks_ : n_launched, blocks, bulk, nullptr);
    DT_CUDA_CHECK(cudaDeviceSynchronize());
  }

  std::vector<int64_t> output_splits(int rank) {
    const size_t count = static_cast<size_t>(n_ranks_ * arguments_[rank].n_groups);
    std::vector<int64_t> wide(count);
    if (arguments_[rank].split_type == SplitType::kInt64) {
      DT_CUDA_CHECK(cudaMemcpy(wide.data(), output_splits_[rank]->get(), count * 8, cudaMemcpyDeviceToHost));
      return wide;
    }
    std::vector<int32_t> narrow(count);
    DT_CUDA_CHECK(cudaMemcpy(narrow.data(), output_splits_[rank]->get(), count * 4, cudaMemcpyDeviceToHost));
    return {narrow.begin(), narrow.end()};
  }
  std::vector<uint8_t> output(int rank, int payload) {
    std::vector<uint8_t> bytes(static_cast<size_t>(capacity_rows_ * row_bytes_[payload]));
    DT_CUDA_CHECK(
        cudaMemcpy(bytes.data(), arguments_[rank].payloads[payload].output, bytes.size(), cudaMemcpyDeviceToHost));
    return bytes;
  }
  /// The rows that a rank sends, as they lie in its window.
  std::vector<char> sent_rows(int rank) {
    const std::vector<char> window = windows_[rank]->download();
    return {window.begin() + arguments_[rank].payloads[0].input_offset, window.begin() + rows_end_};
  }
  char* window_data(int rank) { return windows_[rank]->get(); }
  AllToAllStatus status(int rank) { return statuses_[rank]->download()[0]; }
  AllToAllState state(int rank) { return states_[rank]->download()[0]; }
  uint64_t error(int rank) { return errors_[rank]->download()[0]; }

  /// Outputs, output splits and status are the case's, no byte beyond the rows received was written, no wait failed.
  void expect(const ExchangeCase& c) {
    for (int r = 0; r < n_ranks_; ++r) {
      EXPECT_EQ(error(r), 0u) << describe_wait_error(error(r), arguments_[r].timeout_ns);
      EXPECT_EQ(output_splits(r), c.output_splits[r]) << "rank " << r;
      EXPECT_EQ(status(r).rows_received, c.received(r));
      EXPECT_EQ(status(r).overflowed, 0);
      EXPECT_EQ(state(r).blocks_started, 0u);
      for (size_t k = 0; k < row_bytes_.size(); ++k) {
        std::vector<uint8_t> expected = c.outputs[r][k];
        expected.resize(capacity_rows_ * row_bytes_[k], 0xff);
        EXPECT_TRUE(output(r, static_cast<int>(k)) == expected) << "rank " << r << ", payload " << k;
      }
    }
  }

 private:
  int n_ranks_;
  std::vector<int64_t> row_bytes_;
  int64_t capacity_rows_;
  int64_t rows_end_ = 0;
  std::vector<AllToAllArguments> arguments_;
  std::vector<std::unique_ptr<DeviceBuffer<char>>> windows_;
  std::vector<std::unique_ptr<DeviceBuffer<AllToAllState>>> states_;
  std::vector<std::unique_ptr<DeviceBuffer<AllToAllStatus>>> statuses_;
  std::vector<std::unique_ptr<DeviceBuffer<uint64_t>>> errors_;
  std::vector<std::unique_ptr<DeviceBuffer<int64_t>>> splits_;
  std::vector<std::unique_ptr<DeviceBuffer<int64_t>>> output_splits_;
};

}  // namespace deeptitan::cuda
