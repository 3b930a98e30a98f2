#include "core/arena.h"

#include <algorithm>
#include <utility>

#include "core/address_sanitizer.h"
#include "core/error.h"

namespace deeptitan {
namespace {

// Bytes that nobody owns behind each piece.
constexpr int64_t kRedZone = kAddressSanitizer ? 64 : 0;

}  // namespace

// Views of an arena that only counts start at the first aligned address: it is never mapped, so that a touch is caught
// at once.
Arena::Arena(std::string name, Device device, MemoryKind kind)
    : name_(std::move(name)),
      device_(device),
      kind_(kind),
      alignment_(memory_alignment(device)),
      base_(reinterpret_cast<char*>(alignment_)) {}

Arena::~Arena() {
  if (watched()) unpoison_memory(base_, capacity_);
}

// AddressSanitizer knows the host's memory alone.
bool Arena::watched() const {
  return kAddressSanitizer && allocated_ && device().kind == DeviceKind::kCpu;
}

Tensor Arena::take(DType dtype, Tensor::Shape shape) {
  const Tensor piece(base_ + used_, dtype, shape, device());
  const int64_t bytes = (piece.bytes() + kRedZone + alignment_ - 1) / alignment_ * alignment_;
  DT_CHECK(!allocated_ || used_ + bytes <= capacity_,
           "the {} arena was planned for {} bytes; {} bytes more were asked for with {} in use", name_, capacity_,
           bytes, used_);
  if (watched()) unpoison_memory(base_ + used_, piece.bytes());
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return piece;
}

void Arena::allocate(int64_t bytes) {
  DT_CHECK(!allocated_, "the {} arena is already allocated", name_);
  block_ = MemoryBlock(name_, device_, kind_, bytes);
  start(block_.data(), bytes);
}

void Arena::adopt(void* block, int64_t bytes) {
  DT_CHECK(!allocated_, "the {} arena is already allocated", name_);
  DT_CHECK(reinterpret_cast<uintptr_t>(block) % static_cast<uintptr_t>(alignment_) == 0,
           "the {} arena wants a block aligned to {} bytes, found {}", name_, alignment_, block);
  start(static_cast<char*>(block), bytes);
}

void Arena::start(char* base, int64_t bytes) {
  if (bytes > 0) base_ = base;
  capacity_ = bytes;
  used_ = 0;
  allocated_ = true;
  if (watched()) poison_memory(base_, capacity_);
}

void Arena::release(int64_t mark) {
  if (watched()) poison_memory(base_ + mark, used_ - mark);
  used_ = mark;
}

void Arena::share_from(int64_t mark) {
  // Pieces that share memory end at different places: there is no red zone between them.
  if (watched()) unpoison_memory(base_ + mark, used_ - mark);
  used_ = mark;
}

}  // namespace deeptitan
