#include "kernels/cpu/optimizer/adamw.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer/adamw.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

/// What an update needs besides the elements; every factor is computed in double and rounded once.
struct AdamWFactors {
  FloatVec scale, decay, one_minus_beta1, beta2, one_minus_beta2, correction2_root, epsilon, minus_step_size;
};

HWY_INLINE AdamWFactors adamw_factors(double learning_rate, double weight_decay, float gradient_scale, int64_t step,
                                      const AdamWOptions& options) {
  const auto set = [](double value) HWY_ATTR { return hn::Set(FloatTag(), static_cast<float>(value)); };
  const double correction1 = 1.0 - std::pow(options.beta1, static_cast<double>(step));
  const double correction2 = 1.0 - std::pow(options.beta2, static_cast<double>(step));
  return {set(gradient_scale),      set(1.0 - learning_rate * weight_decay),
          set(1.0 - options.beta1), set(options.beta2),
          set(1.0 - options.beta2), set(std::sqrt(correction2)),
          set(options.epsilon),     set(-(learning_rate / correction1))};
}

/// Updates a vector of the parameter's elements and its moments' values.
template <typename Lanes>
HWY_INLINE void adamw_vector(const AdamWFactors& f, float* parameter, const float* gradient, Lanes lanes, FloatVec& m,
                             FloatVec& v) {
  const FloatVec g = hn::Mul(load(gradient, lanes), f.scale);
  m = hn::MulAdd(f.one_minus_beta1, hn::Sub(g, m), m);
  v = hn::Add(hn::Mul(v, f.beta2), hn::Mul(hn::Mul(f.one_minus_beta2, g), g));
  const FloatVec denominator = hn::Add(hn::Div(hn::Sqrt(v), f.correction2_root), f.epsilon);
  const FloatVec decayed = hn::Mul(load(parameter, lanes), f.decay);
  store(hn::Add(decayed, hn::Div(hn::Mul(f.minus_step_size, m), denominator)), parameter, lanes);
}

void adamw_range(float* parameter, float* m, float* v, const float* gradient, int64_t n, double learning_rate,
                 double weight_decay, float gradient_scale, int64_t step, const AdamWOptions& options) {
  const AdamWFactors factors = adamw_factors(learning_rate, weight_decay, gradient_scale, step, options);
  for_vectors(0, n, [=, &factors](int64_t i, auto lanes) HWY_ATTR {
    FloatVec m_i = load(m + i, lanes), v_i = load(v + i, lanes);
    adamw_vector(factors, parameter + i, gradient + i, lanes, m_i, v_i);
    store(m_i, m + i, lanes);
    store(v_i, v + i, lanes);
  });
}

/// Each lane as round_randomly of it and the lower half of its word.
HWY_INLINE FloatVec rounded_randomly(FloatVec x, Uint32Vec words) {
  const Uint32Tag tag;
  const Uint32Vec bits = hn::BitCast(tag, x);
  const Uint32Vec rounded = hn::Add(bits, hn::And(words, hn::Set(tag, 0xffff)));
  const Uint32Vec quiet = hn::Or(bits, hn::Set(tag, 0x400000));
  const Uint32Vec kept = hn::IfThenElse(hn::RebindMask(tag, hn::IsNaN(x)), quiet, rounded);
  return hn::BitCast(FloatTag(), hn::And(kept, hn::Set(tag, 0xffff0000u)));
}

// A lane of 64 bits for each word of a block, of which the lower half counts.
using BlockTag = hn::ScalableTag<uint64_t>;
using BlockVec = hn::Vec<BlockTag>;
constexpr int64_t kBlocks = hn::MaxLanes(BlockTag());

/// words [4 * kBlocks] = those of rounding_words for kBlocks blocks from the first on.
HWY_INLINE void store_rounding_words(uint64_t key, uint64_t first_block, uint64_t update, uint64_t* words) {
  const BlockTag tag;
  const hn::Repartition<uint32_t, BlockTag> halves;
  const auto multiply = [&](BlockVec counter, uint32_t by)
                            HWY_ATTR { return hn::MulEven(hn::BitCast(halves, counter), hn::Set(halves, by)); };
  const BlockVec block = hn::Add(hn::Set(tag, first_block), hn::Iota(tag, 0));
  BlockVec counter0 = block, counter1 = hn::ShiftRight<32>(block);
  BlockVec counter2 = hn::Set(tag, update), counter3 = hn::Set(tag, update >> 32);
  auto key_low = static_cast<uint32_t>(key), key_high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {  // as philox4x32_10
    const BlockVec product0 = multiply(counter0, 0xD2511F53u), product1 = multiply(counter2, 0xCD9E8D57u);
    counter0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product1), counter1), hn::Set(tag, uint64_t{key_low}));
    counter1 = product1;
    counter2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product0), counter3), hn::Set(tag, uint64_t{key_high}));
    counter3 = product0;
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  const BlockVec lower = hn::Set(tag, 0xffffffffu);
  hn::StoreInterleaved2(hn::Or(hn::And(counter0, lower), hn::ShiftLeft<32>(counter1)),
                        hn::Or(hn::And(counter2, lower), hn::ShiftLeft<32>(counter3)), tag, words);
}

// Elements whose random words are made at once.
constexpr int64_t kRoundedTogether = 1024;

void adamw_rounded_range(float* parameter, bfloat16* m, bfloat16* v, const float* gradient, int64_t n,
                         double learning_rate, double weight_decay, float gradient_scale, int64_t step,
                         const AdamWOptions& options, const RoundingPlace& place) {
  const AdamWFactors factors = adamw_factors(learning_rate, weight_decay, gradient_scale, step, options);
  // Two words of 32 bits each. Blocks are made together, and a vector may read past the last word that is used.
  HWY_ALIGN uint64_t words[kRoundedTogether / 2 + 2 * kBlocks + kLanes] = {};
  for (int64_t begin = 0; begin < n; begin += kRoundedTogether) {
    const int64_t end = HWY_MIN(n, begin + kRoundedTogether);
    const int64_t first_block = (place.first + begin) / 4;
    for (int64_t block = first_block; block * 4 < place.first + end; block += kBlocks) {
      store_rounding_words(place.key, static_cast<uint64_t>(block), static_cast<uint64_t>(step),
                           words + (block - first_block) * 2);
    }
    const uint32_t* of_begin = reinterpret_cast<const uint32_t*>(words) + (place.first + begin) % 4;
    for_vectors(begin, end, [=, &factors](int64_t i, auto lanes) HWY_ATTR {
      FloatVec m_i = load(m + i, lanes), v_i = load(v + i, lanes);
      adamw_vector(factors, parameter + i, gradient + i, lanes, m_i, v_i);
      const Uint32Vec random = hn::LoadU(Uint32Tag(), of_begin + (i - begin));
      store(rounded_randomly(m_i, random), m + i, lanes);
      store(rounded_randomly(v_i, hn::ShiftRight<16>(random)), v + i, lanes);
    });
  }
}

/// The sum of x[i]^2: float within blocks short enough to keep its precision, double between them.
double sum_of_squares_range(const float* x, int64_t n) {
  constexpr int64_t kBlock = 2048;
  double sum = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const float* block = x + begin;
    sum += sum_vectors(HWY_MIN(kBlock, n - begin), [=](FloatVec total, int64_t i, auto lanes) HWY_ATTR {
      const FloatVec value = load(block + i, lanes);
      return hn::MulAdd(value, value, total);
    });
  }
  return sum;
}

template <typename T>
bool all_finite_range(const T* x, int64_t n) {
  // Infinity and NaN alone give NaN when multiplied by zero, and a NaN stays in the sum.
  const FloatVec zero = hn::Zero(FloatTag());
  const float sum = sum_vectors(
      n, [=](FloatVec total, int64_t i, auto lanes) HWY_ATTR { return hn::MulAdd(load(x + i, lanes), zero, total); });
  return !std::isnan(sum);
}

// Dispatch tables are made by name: one for each element type.
constexpr auto& all_finite_f32 = all_finite_range<float>;
constexpr auto& all_finite_bf16 = all_finite_range<bfloat16>;

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/parallel.h"

namespace deeptitan::cpu {
namespace {

HWY_EXPORT(adamw_range);
HWY_EXPORT(adamw_rounded_range);
HWY_EXPORT(sum_of_squares_range);
HWY_EXPORT(all_finite_f32);
HWY_EXPORT(all_finite_bf16);

// Threads meet at multiples of this many elements, so that no cache line is written by two.
constexpr int64_t kGrain = 1024;

template <typename T, typename Kernel>
bool all_finite_parallel(Kernel kernel, const T* x, int64_t n) {
  std::atomic<bool> finite = true;
  parallel_ranges(n, n, kGrain, [&](int64_t begin, int64_t end) {
    if (!kernel(x + begin, end - begin)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace

void adamw_update(float* parameter, float* m, float* v, const float* gradient, int64_t n, double learning_rate,
                  double weight_decay, float gradient_scale, int64_t step, const AdamWOptions& options) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(adamw_range);
  parallel_ranges(n, 8 * n, kGrain, [=](int64_t begin, int64_t end) {
    kernel(parameter + begin, m + begin, v + begin, gradient + begin, end - begin, learning_rate, weight_decay,
           gradient_scale, step, options);
  });
}

void adamw_update(float* parameter, bfloat16* m, bfloat16* v, const float* gradient, int64_t n, double learning_rate,
                  double weight_decay, float gradient_scale, int64_t step, const AdamWOptions& options,
                  const RoundingPlace& place) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(adamw_rounded_range);
  parallel_ranges(n, 16 * n, kGrain, [=](int64_t begin, int64_t end) {
    kernel(parameter + begin, m + begin, v + begin, gradient + begin, end - begin, learning_rate, weight_decay,
           gradient_scale, step, options, {place.key, place.first + begin});
  });
}

void square_sums(double* sums, const float* x, int64_t n, int64_t first, int64_t whole) {
  const int64_t chunk = square_block_elements(whole);
  const auto kernel = HWY_DYNAMIC_DISPATCH(sum_of_squares_range);
  parallel_ranges(kSquareBlocks, n, 1, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t from = std::clamp(i * chunk - first, int64_t{0}, n);
      const int64_t to = std::clamp((i + 1) * chunk - first, int64_t{0}, n);
      sums[i] = kernel(x + from, to - from);
    }
  });
}

double sum_of_squares(const float* x, int64_t n) {
  std::array<double, kSquareBlocks> sums = {};
  square_sums(sums.data(), x, n, 0, n);
  double sum = 0.0;
  for (const double term : sums) sum += term;
  return sum;
}

bool all_finite(const float* x, int64_t n) {
  return all_finite_parallel(HWY_DYNAMIC_DISPATCH(all_finite_f32), x, n);
}

bool all_finite(const bfloat16* x, int64_t n) {
  return all_finite_parallel(HWY_DYNAMIC_DISPATCH(all_finite_bf16), x, n);
}

}  // namespace deeptitan::cpu
#endif  // HWY_ONCE
