// The end of a residual branch, x + gate dropout(h), forward and backward. Lanes are channels. What dropout keeps follows
// from the seed and the place of the element, so it is computed again in the backward, and no mask is stored.
#include "residual.h"

#include "parallel.h"
#include "simd.h"

namespace residual {
namespace {

using simd::IntVec;
using simd::kLanes;
using simd::UintVec;
using simd::Vec;

constexpr int64_t kAll = int64_t{1} << 24;

// Avalanche of 32 bits (multipliers and shifts: C. Wellons' search, "lowbias32").
KERNEL_INLINE UintVec scramble(UintVec x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

// Factors of a row's elements: 0 where dropped, else 2^24 / kept. A key of 64 bits per row, the column is the counter.
class Dropout {
 public:
  explicit Dropout(const Arguments& p)
      : seed_(static_cast<uint64_t>(p.seed)),
        kept_(static_cast<int32_t>(p.kept)),
        scale_(p.kept ? static_cast<float>(kAll) / static_cast<float>(p.kept) : 0.f) {
    for (int lane = 0; lane < kLanes; ++lane) lanes_[lane] = static_cast<uint32_t>(lane);
  }

  // The steps of SplitMix64 (Steele, Lea, Flood 2014).
  void begin(int64_t row) {
    uint64_t key = seed_ + (static_cast<uint64_t>(row) + 1) * 0x9e3779b97f4a7c15u;
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
    key ^= key >> 31;
    low_ = static_cast<uint32_t>(key), high_ = static_cast<uint32_t>(key >> 32);
  }

  KERNEL_MEMBER Vec factors(int64_t channel) const {
    const UintVec column = lanes_ + static_cast<uint32_t>(channel);
    const UintVec drawn = scramble(scramble(column ^ low_) + high_) >> 8;
    return reinterpret_cast<IntVec>(drawn) < kept_ ? simd::splat(scale_) : simd::zeros();
  }

 private:
  const uint64_t seed_;
  const int32_t kept_;
  const float scale_;
  UintVec lanes_{};
  uint32_t low_ = 0, high_ = 0;
};

template <class T>
T* row(void* to, const Arguments& p, int64_t b, int64_t l) {
  return static_cast<T*>(to) + (b * p.length + l) * p.channels;
}

// T: type of h, R: of x and y.
template <class T, class R, bool kDrops>
void forward(const Arguments& p, int64_t b, int64_t first, int64_t last) {
  Dropout dropout(p);
  const float* const gate = p.gate ? p.gate + b * p.gate_stride : nullptr;
  for (int64_t l = first; l < last; ++l) {
    if (kDrops) dropout.begin(b * p.length + l);
    const T* const h = static_cast<const T*>(p.h) + b * p.h_batch_stride + l * p.h_position_stride;
    const R* const x = p.x ? static_cast<const R*>(p.x) + b * p.x_batch_stride + l * p.x_position_stride : nullptr;
    R* const y = row<R>(p.y, p, b, l);
    for (int64_t c = 0; c < p.channels; c += kLanes) {
      const int lanes = simd::lanes_at(p.channels, c);
      Vec v = simd::load(h + c, lanes);
      if (kDrops) v *= dropout.factors(c);
      if (gate) v *= simd::load(gate + c, lanes);
      if (x) v += simd::load(x + c, lanes);
      simd::store(y + c, v, lanes);
    }
  }
}

// `chunk`: where the task's sums lie among all.
template <class T, class R, bool kDrops>
void backward(const Arguments& p, int64_t b, int64_t first, int64_t last, int64_t chunk) {
  Dropout dropout(p);
  const float* const gate = p.gate ? p.gate + b * p.gate_stride : nullptr;
  float* const sums = p.grad_gate ? p.grad_gate + chunk * p.channels : nullptr;
  if (sums) std::fill(sums, sums + p.channels, 0.f);
  for (int64_t l = first; l < last; ++l) {
    if (kDrops) dropout.begin(b * p.length + l);
    const R* const grad_y = static_cast<const R*>(p.grad_y) + b * p.grad_y_batch_stride + l * p.grad_y_position_stride;
    const T* const h = sums ? static_cast<const T*>(p.h) + b * p.h_batch_stride + l * p.h_position_stride : nullptr;
    T* const grad_h = row<T>(p.grad_h, p, b, l);
    for (int64_t c = 0; c < p.channels; c += kLanes) {
      const int lanes = simd::lanes_at(p.channels, c);
      Vec grad = simd::load(grad_y + c, lanes);
      if (kDrops) grad *= dropout.factors(c);
      if (sums) simd::store(sums + c, simd::load(sums + c, lanes) + grad * simd::load(h + c, lanes), lanes);
      if (gate) grad *= simd::load(gate + c, lanes);
      simd::store(grad_h + c, grad, lanes);
    }
  }
}

template <class T, class R, bool kDrops>
void run(const Arguments& p) {
  const parallel::Chunks chunks(p.batch, p.length);
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(p.threads))
  for (int64_t i = 0; i < chunks.count; ++i) {
    if (p.grad_y) {
      backward<T, R, kDrops>(p, chunks.batch(i), chunks.first(i), chunks.last(i), i);
    } else {
      forward<T, R, kDrops>(p, chunks.batch(i), chunks.first(i), chunks.last(i));
    }
  }
}

template <class T, class R>
void choose(const Arguments& p) {
  return p.kept == kAll ? run<T, R, false>(p) : run<T, R, true>(p);
}

}  // namespace
}  // namespace residual

extern "C" void residual_float32(const residual::Arguments* p) { residual::choose<float, float>(*p); }
extern "C" void residual_bfloat16(const residual::Arguments* p) {
  return p->wide ? residual::choose<simd::BFloat16, float>(*p) : residual::choose<simd::BFloat16, simd::BFloat16>(*p);
}
