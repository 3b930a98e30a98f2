#include "core/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace deeptitan {
namespace {

constexpr int64_t kAlignment = 64;

// Views of an arena that only counts start here: an address that is never mapped, so that a touch is caught at once.
char* const kNowhere = reinterpret_cast<char*>(kAlignment);

}  // namespace

Arena::Arena(std::string name, Device device) : name_(std::move(name)), device_(device), base_(kNowhere) {}

Arena::~Arena() {
  if (allocated_ && capacity_ > 0) munmap(base_, capacity_);
}

Tensor Arena::take(DType dtype, Tensor::Shape shape) {
  const Tensor piece(base_ + used_, dtype, shape, device_);
  const int64_t bytes = (piece.bytes() + kAlignment - 1) / kAlignment * kAlignment;
  DT_CHECK(!allocated_ || used_ + bytes <= capacity_,
           "the {} arena was planned for {} bytes; {} bytes more were asked for with {} in use", name_, capacity_,
           bytes, used_);
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return piece;
}

void Arena::allocate(int64_t bytes) {
  DT_CHECK(!allocated_, "the {} arena is already allocated", name_);
  if (bytes > 0) {
    // Anonymous pages are zero, and cost nothing until they are touched.
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    DT_CHECK(memory != MAP_FAILED, "the {} arena needs {} bytes, which the system does not give", name_, bytes);
    madvise(memory, bytes, MADV_HUGEPAGE);
    base_ = static_cast<char*>(memory);
  }
  capacity_ = bytes;
  used_ = 0;
  allocated_ = true;
}

Tensor Arena::all() const {
  return Tensor(base_, DType::kU8, {used_}, device_);
}

}  // namespace deeptitan
