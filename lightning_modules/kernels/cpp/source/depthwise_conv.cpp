// Depthwise convolution of k taps over positions, with bias and SiLU, forward and backward. Channel-last, lanes are channels.
// Parallel over batch x groups of channel blocks; a task walks its blocks side by side, a strip of positions at a time, so
// that it reads and writes whole stretches of rows.
#include "depthwise_conv.h"

#include "parallel.h"
#include "simd.h"

namespace conv {
namespace {

using parallel::Buffer;
using parallel::Grouping;
using simd::kLanes;
using simd::Vec;

// Positions of a strip: their chains of dependent steps interleave, and share the rows they read.
constexpr int kStrip = 4;
// Rows lie pages apart, which no hardware prefetcher follows.
constexpr int kAhead = 2 * kStrip;
constexpr int kMaxTaps = 9;

template <class T, int kTaps>
class Task {
 public:
  explicit Task(const Arguments& p) : p_(p), blocks_((p.channels + kLanes - 1) / kLanes) {}

  void forward(int64_t b, int64_t first, int64_t last) {
    begin(b, first, last);
    for_strips(p_.length, [&](auto rows, int64_t l) {
      for (int64_t block = first; block < last; ++block) forward_strip<decltype(rows)::value>(weights_[block - first], block, l);
    });
  }

  // Leaves grad_weight and grad_bias of this batch element in `sums` (blocks, kTaps + 1, kLanes).
  void backward(int64_t b, int64_t first, int64_t last, float* sums) {
    begin(b, first, last);
    for_strips(p_.length, [&](auto rows, int64_t l) {
      for (int64_t block = first; block < last; ++block)
        backward_strip<decltype(rows)::value>(weights_[block - first], gradients_[block - first], block, l);
    });
    for (int64_t block = first; block < last; ++block) {
      Gradients& g = gradients_[block - first];
      for (int64_t l = p_.length; l < p_.length + p_.pad_left; ++l) {
        const Vec none = simd::zeros();
        store_grad_x<1>(weights_[block - first], g, block, l, &none);
      }
      float* to = sums + (b * blocks_ + block) * (kTaps + 1) * kLanes;
      for (int k = 0; k < kTaps; ++k) simd::store(to + k * kLanes, g.weight[k]);
      simd::store(to + kTaps * kLanes, g.bias);
    }
  }

 private:
  struct Weights {
    Vec tap[kTaps], bias;
  };
  struct Gradients {
    Vec weight[kTaps], bias;
    Vec before[kTaps];  // of the convolution at the kTaps - 1 positions before the strip
  };
  const Arguments& p_;
  const int64_t blocks_;
  int64_t b_ = 0;
  Weights weights_[Grouping::kMaxBlocks];
  Gradients gradients_[Grouping::kMaxBlocks];

  // Calls strip(integral_constant<positions>, first) for strips, then single positions, that cover [0, length).
  template <class Strip>
  static KERNEL_MEMBER void for_strips(int64_t length, Strip&& strip) {
    int64_t l = 0;
    for (; l + kStrip <= length; l += kStrip) strip(std::integral_constant<int, kStrip>{}, l);
    for (; l < length; ++l) strip(std::integral_constant<int, 1>{}, l);
  }

  void begin(int64_t b, int64_t first, int64_t last) {
    b_ = b;
    for (int64_t block = first; block < last; ++block) {
      Weights& w = weights_[block - first];
      const int64_t channel = block * kLanes;
      const int lanes = simd::lanes_at(p_.channels, channel);
      for (int k = 0; k < kTaps; ++k) {
        w.tap[k] = simd::zeros();
        for (int lane = 0; lane < lanes; ++lane) w.tap[k][lane] = p_.weight[(channel + lane) * kTaps + k];
      }
      w.bias = p_.bias ? simd::load(p_.bias + channel, lanes) : simd::zeros();
      gradients_[block - first] = Gradients{};
    }
  }

  const T* x(int64_t position, int64_t channel) const {
    return static_cast<const T*>(p_.x) + b_ * p_.x_batch_stride + position * p_.x_position_stride + channel;
  }
  const T* grad_y(int64_t position, int64_t channel) const {
    return static_cast<const T*>(p_.grad_y) + b_ * p_.grad_y_batch_stride + position * p_.grad_y_position_stride + channel;
  }
  int64_t contiguous(int64_t position, int64_t channel) const {
    return (b_ * p_.length + position) * p_.channels + channel;
  }

  // Rows l - pad_left, l - pad_left + 1, ... of the input, as many as a strip at `l` needs; zeros outside.
  template <int kRows>
  KERNEL_MEMBER void load_rows(int64_t channel, int lanes, int64_t l, Vec* rows) const {
    constexpr int kCount = kRows + kTaps - 1;
    const int64_t first = l - p_.pad_left, stride = p_.x_position_stride;
    const T* from = x(first, channel);
    if (first >= 0 && first + kCount <= p_.length) {
      UNROLL for (int i = 0; i < kCount; ++i) rows[i] = simd::load(from + i * stride, lanes);
    } else {
      UNROLL for (int i = 0; i < kCount; ++i)
        rows[i] = first + i >= 0 && first + i < p_.length ? simd::load(from + i * stride, lanes) : simd::zeros();
    }
  }

  // The convolution before its activation.
  template <int kRows>
  KERNEL_MEMBER void convolve(const Weights& w, const Vec* rows, Vec* y) const {
    UNROLL for (int r = 0; r < kRows; ++r) y[r] = w.bias;
    UNROLL for (int k = 0; k < kTaps; ++k)
      UNROLL for (int r = 0; r < kRows; ++r) y[r] += rows[r + k] * w.tap[k];
  }

  template <int kRows>
  KERNEL_MEMBER void prefetch(const T* from, int64_t stride, int64_t l) const {
    if (l + kAhead + kRows <= p_.length)
      UNROLL for (int r = 0; r < kRows; ++r) __builtin_prefetch(from + (kAhead + r) * stride);
  }

  template <int kRows>
  KERNEL_MEMBER void forward_strip(const Weights& w, int64_t block, int64_t l) const {
    const int64_t channel = block * kLanes, channels = p_.channels;
    const int lanes = simd::lanes_at(channels, channel);
    T* const to = static_cast<T*>(p_.y) + contiguous(l, channel);
    prefetch<kRows>(x(l, channel), p_.x_position_stride, l);
    prefetch<kRows>(to, channels, l);
    Vec rows[kRows + kTaps - 1], y[kRows], s[kRows];
    load_rows<kRows>(channel, lanes, l, rows);
    convolve<kRows>(w, rows, y);
    if (p_.silu) {
      simd::sigmoid_each<kRows>(y, s);
      UNROLL for (int r = 0; r < kRows; ++r) y[r] *= s[r];
    }
    UNROLL for (int r = 0; r < kRows; ++r) simd::store(to + r * channels, y[r], lanes);
  }

  template <int kRows>
  KERNEL_MEMBER void backward_strip(const Weights& w, Gradients& g, int64_t block, int64_t l) const {
    const int64_t channel = block * kLanes, stride = p_.grad_y_position_stride;
    const int lanes = simd::lanes_at(p_.channels, channel);
    const T* const from = grad_y(l, channel);
    prefetch<kRows>(x(l, channel), p_.x_position_stride, l);
    prefetch<kRows>(from, stride, l);
    prefetch<kRows>(static_cast<T*>(p_.grad_x) + contiguous(l, channel), p_.channels, l);
    Vec rows[kRows + kTaps - 1], y[kRows], s[kRows], grad[kRows];
    load_rows<kRows>(channel, lanes, l, rows);
    UNROLL for (int r = 0; r < kRows; ++r) grad[r] = simd::load(from + r * stride, lanes);
    if (p_.silu) {
      convolve<kRows>(w, rows, y);
      simd::sigmoid_each<kRows>(y, s);
      UNROLL for (int r = 0; r < kRows; ++r) grad[r] *= s[r] * (1.f + y[r] * (1.f - s[r]));
    }
    UNROLL for (int r = 0; r < kRows; ++r) g.bias += grad[r];
    UNROLL for (int k = 0; k < kTaps; ++k)
      UNROLL for (int r = 0; r < kRows; ++r) g.weight[k] += grad[r] * rows[r + k];
    store_grad_x<kRows>(w, g, block, l, grad);
  }

  // Rows l - pad_left, ..., of the gradient of x: those that the convolution's gradients `grad` from position l on complete.
  template <int kRows>
  KERNEL_MEMBER void store_grad_x(const Weights& w, Gradients& g, int64_t block, int64_t l, const Vec* grad) const {
    const int64_t channel = block * kLanes, channels = p_.channels, first = l - p_.pad_left;
    const int lanes = simd::lanes_at(channels, channel);
    T* const to = static_cast<T*>(p_.grad_x) + contiguous(first, channel);
    Vec around[kTaps - 1 + kRows], grad_x[kRows];
    UNROLL for (int k = 0; k + 1 < kTaps; ++k) around[k] = g.before[k];
    UNROLL for (int r = 0; r < kRows; ++r) around[kTaps - 1 + r] = grad[r], grad_x[r] = simd::zeros();
    UNROLL for (int k = 0; k < kTaps; ++k)
      UNROLL for (int r = 0; r < kRows; ++r) grad_x[r] += around[kTaps - 1 + r - k] * w.tap[k];
    UNROLL for (int k = 0; k + 1 < kTaps; ++k) g.before[k] = around[k + kRows];
    UNROLL for (int r = 0; r < kRows; ++r)
      if (first + r >= 0) simd::store(to + r * channels, grad_x[r], lanes);
  }
};

// grad_weight and grad_bias: sums over the batch, in order.
void reduce_batch(const Arguments& p, int64_t blocks, float* sums) {
  const int64_t size = blocks * (p.taps + 1) * kLanes;
  for (int64_t b = 1; b < p.batch; ++b)
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[b * size + i];
  for (int64_t channel = 0; channel < p.channels; ++channel) {
    const float* from = sums + channel / kLanes * (p.taps + 1) * kLanes + channel % kLanes;
    for (int64_t k = 0; k < p.taps; ++k) p.grad_weight[channel * p.taps + k] = from[k * kLanes];
    if (p.grad_bias) p.grad_bias[channel] = from[p.taps * kLanes];
  }
}

template <class T, int kTaps>
int run(const Arguments& p, bool backward) {
  const int64_t blocks = (p.channels + kLanes - 1) / kLanes;
  const Grouping grouping(p.batch, blocks, p.threads);
  const Buffer sums = parallel::allocate(backward ? p.batch * blocks * (kTaps + 1) * kLanes : 0);
  if (!sums) return parallel::kOutOfMemory;
#pragma omp parallel num_threads(static_cast<int>(p.threads))
  {
    Task<T, kTaps> task(p);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p.batch * grouping.groups; ++i) {
      const int64_t first = i % grouping.groups * grouping.blocks_per_group;
      const int64_t last = std::min(first + grouping.blocks_per_group, blocks);
      if (backward) {
        task.backward(i / grouping.groups, first, last, sums.get());
      } else {
        task.forward(i / grouping.groups, first, last);
      }
    }
  }
  if (backward) reduce_batch(p, blocks, sums.get());
  return parallel::kDone;
}

// Picks the instantiation for the number of taps.
template <class T, int kTaps = 1>
int dispatch(const Arguments& p, bool backward) {
  if (p.taps == kTaps) return run<T, kTaps>(p, backward);
  if constexpr (kTaps < kMaxTaps) return dispatch<T, kTaps + 1>(p, backward);
  return parallel::kUnsupported;
}

}  // namespace
}  // namespace conv

extern "C" int depthwise_conv_forward_float32(const conv::Arguments* p) { return conv::dispatch<float>(*p, false); }
extern "C" int depthwise_conv_forward_bfloat16(const conv::Arguments* p) {
  return conv::dispatch<simd::BFloat16>(*p, false);
}
extern "C" int depthwise_conv_backward_float32(const conv::Arguments* p) { return conv::dispatch<float>(*p, true); }
extern "C" int depthwise_conv_backward_bfloat16(const conv::Arguments* p) {
  return conv::dispatch<simd::BFloat16>(*p, true);
}
