// A checkpoint that one layout of ranks has written goes on on any other.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/manifest.h"
#include "checkpoint/run_checkpoints.h"
#include "support/compare.h"
#include "support/expect_error.h"
#include "support/rank_layout.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"
#include "train/training_checkpoint.h"

namespace deeptitan {
namespace {

using testing::random_batch;
using testing::run_on_mesh;
using testing::twelve_experts;

constexpr int64_t kSavedLength = 11;

std::unique_ptr<TrainingEngine> saved_engine(const RankGroups& groups, MomentsDtype moments = MomentsDtype::kFp32) {
  TrainingEngineOptions options;
  options.seq_len = kSavedLength;
  options.sequences = 1;
  options.groups = groups;
  options.optimizer.moments_dtype = moments;
  if (groups.pipelined()) options.schedule = one_f_one_b_schedule(groups.pipeline->size(), 1);
  auto engine = std::make_unique<TrainingEngine>(twelve_experts(), options);
  engine->allocate();
  return engine;
}

double train_one_step(TrainingEngine& engine, int64_t step) {
  const int rank = rank_in(engine.options().groups.data);
  const int64_t targets = kSavedLength * ranks_in(engine.options().groups.data);
  engine.begin_step(step, 0.01, targets, 1);
  engine.add_microbatch(random_batch(twelve_experts(), 1, kSavedLength, static_cast<uint64_t>(100 * step + rank)));
  return engine.finish_step().gradient_norm;
}

// Every value, and every element of the optimizer's slots that lies here, by their names in files.
std::vector<std::string> contents(TrainingEngine& engine) {
  std::vector<std::string> all;
  const ParameterList& list = engine.model().parameters();
  for (const Parameter& p : list.all()) {
    for (const FileTensor& t : p.file_tensors()) {
      const float* values = p.value.host<float>() + t.offset;
      for (int64_t i = 0; i < t.numel(); ++i) all.push_back(fmt::format("{} {} {:a}", t.name, i, values[i]));
      if (!p.gradient.defined()) continue;
      for (const std::string& slot : engine.optimizer_slots()) {
        const SlotPart part = engine.optimizer_slot(p, slot);
        for (int64_t i = t.offset; i < t.offset + t.numel(); ++i) {
          if (i < part.begin || i >= part.begin + part.memory.size(0)) continue;
          const int64_t at = i - part.begin;
          const float element = part.memory.dtype() == DType::kF32 ? part.memory.host<float>()[at]
                                                                   : to_float(part.memory.host<bfloat16>()[at]);
          all.push_back(fmt::format("{} {} {} {:a}", slot, t.name, i - t.offset, element));
        }
      }
    }
  }
  return all;
}

// What all ranks of a mesh have, once each.
std::vector<std::string> contents_of_all(const Mesh& mesh, const std::function<void(TrainingEngine&)>& fill,
                                         MomentsDtype moments = MomentsDtype::kFp32) {
  std::vector<std::vector<std::string>> by_rank(mesh.world());
  run_on_mesh(mesh, [&](const RankGroups& groups) {
    const auto engine = saved_engine(groups, moments);
    fill(*engine);
    by_rank[rank_in(groups.world)] = contents(*engine);
  });
  std::vector<std::string> all;
  for (const auto& of_rank : by_rank) all.insert(all.end(), of_rank.begin(), of_rank.end());
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

TEST(RankCheckpoint, AnyLayoutReadsAnyOthers) {
  const std::vector<Mesh> writers = {
      {}, {.ep = 3}, {.ep = 2, .dp_shard = 2}, {.ep = 2, .dp_replicate = 2}, {.pp = 2}, {.pp = 2, .ep = 2}};
  const std::vector<Mesh> readers = {{},        {.ep = 2},         {.dp_shard = 3}, {.ep = 2, .dp_shard = 2},
                                     {.pp = 3}, {.pp = 2, .ep = 2}};
  for (const Mesh& writer : writers) {
    const TemporaryFolder folder;
    const std::vector<std::string> written = contents_of_all(writer, [&](TrainingEngine& engine) {
      engine.initialize(3);
      for (int64_t step = 1; step <= 2; ++step) train_one_step(engine, step);
      save_checkpoint(folder.path(), {.step = 2, .tokens = 7, .data = {}, .config = "x"}, engine, {}, 1);
    });
    const CheckpointEntry entry = list_checkpoints(folder.path()).at(0);
    verify_checkpoint(entry);
    for (const Mesh& reader : readers) {
      SCOPED_TRACE(writer.describe() + " read by " + reader.describe());
      const std::vector<std::string> found = contents_of_all(reader, [&](TrainingEngine& engine) {
        load_checkpoint(entry.path, engine);
        EXPECT_EQ(engine.updates(), 2);
      });
      EXPECT_TRUE(found == written);
    }
  }
}

TrainingProgress progress_at(int64_t step) {
  return {.step = step, .tokens = 7, .data = {}, .config = "x"};
}

TEST(RankCheckpoint, MomentsInBf16LieThereAsTheyAre) {
  for (const auto& [writer, reader] :
       {std::pair{Mesh{}, Mesh{}}, {Mesh{.dp_shard = 2}, Mesh{.ep = 3}}, {Mesh{.ep = 2, .dp_shard = 2}, Mesh{}}}) {
    SCOPED_TRACE(writer.describe() + " read by " + reader.describe());
    const TemporaryFolder folder;
    const auto written = contents_of_all(
        writer,
        [&](TrainingEngine& engine) {
          engine.initialize(3);
          for (int64_t step = 1; step <= 2; ++step) train_one_step(engine, step);
          save_checkpoint(folder.path(), progress_at(2), engine, {}, 1);
        },
        MomentsDtype::kBf16);
    const std::filesystem::path saved = list_checkpoints(folder.path()).at(0).path;
    const auto load = [&](TrainingEngine& engine) { load_checkpoint(saved, engine); };
    EXPECT_TRUE(contents_of_all(reader, load, MomentsDtype::kBf16) == written);
    EXPECT_TRUE(contents_of_all(reader, load, MomentsDtype::kFp32) == written) << "widened";
  }
}

TEST(RankCheckpoint, MomentsInBf16GoOnWithTheSameBits) {
  const TemporaryFolder folder;
  for (const Mesh& mesh : {Mesh{}, Mesh{.dp_shard = 2}}) {
    const auto train = [&](TrainingEngine& engine, int64_t first, int64_t last) {
      for (int64_t step = first; step <= last; ++step) train_one_step(engine, step);
    };
    const auto never_stopped = contents_of_all(
        mesh,
        [&](TrainingEngine& engine) {
          engine.initialize(3);
          train(engine, 1, 2);
          save_checkpoint(folder.path(), progress_at(2), engine, {}, 1);
          train(engine, 3, 5);
        },
        MomentsDtype::kBf16);
    const auto gone_on = contents_of_all(
        mesh,
        [&](TrainingEngine& engine) {
          load_checkpoint(list_checkpoints(folder.path()).at(0).path, engine);
          train(engine, 3, 5);
        },
        MomentsDtype::kBf16);
    EXPECT_TRUE(gone_on == never_stopped) << mesh.describe();
    std::filesystem::remove_all(folder.path() / checkpoint_name(2));
  }
}

TEST(RankCheckpoint, MomentsInFp32AreRoundedToNearestWhereBf16IsWanted) {
  const TemporaryFolder folder;
  const auto from = saved_engine({});
  from->initialize(3);
  for (int64_t step = 1; step <= 2; ++step) train_one_step(*from, step);
  save_checkpoint(folder.path(), progress_at(2), *from, {}, 1);
  const auto to = saved_engine({}, MomentsDtype::kBf16);
  load_checkpoint(list_checkpoints(folder.path()).at(0).path, *to);
  for (const std::string& slot : from->optimizer_slots()) {
    for (size_t i = 0; i < from->model().parameters().all().size(); ++i) {
      const Parameter& p = from->model().parameters().all()[i];
      if (!p.gradient.defined()) continue;
      const Tensor wide = from->optimizer_slot(p, slot).memory;
      const Tensor narrow = to->optimizer_slot(to->model().parameters().all()[i], slot).memory;
      for (int64_t e = 0; e < wide.numel(); ++e) {
        ASSERT_EQ(narrow.host<bfloat16>()[e].bits, to_bfloat16(wide.host<float>()[e]).bits) << slot << p.spec.name;
      }
    }
  }
}

TEST(RankCheckpoint, ARankThatCannotMakeTheDirectoryEndsAll) {
  const TemporaryFolder folder;
  folder.write("file", "x");
  std::vector<std::string> messages(2);
  run_on_mesh({.dp_shard = 2}, [&](const RankGroups& groups) {
    const auto engine = saved_engine(groups);
    engine->initialize(3);
    messages[rank_in(groups.world)] = message_of([&] {
      save_checkpoint(folder.path() / "file", {.step = 2, .tokens = 7, .data = {}, .config = "x"}, *engine, {}, 1);
    });
  });
  EXPECT_NE(messages[0], "no error");
  EXPECT_EQ(messages[0], messages[1]);
}

}  // namespace
}  // namespace deeptitan
