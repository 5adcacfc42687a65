// Depthwise convolution of k taps over positions, with bias and SiLU, forward and backward. Channel-last, lanes are channels.
// Parallel over batch x groups of channel blocks; a task walks its blocks side by side, a tile of positions at a time.
#include "depthwise_conv.h"

#include "parallel.h"
#include "simd.h"

namespace conv {
namespace {

using parallel::Buffer;
using parallel::Grouping;
using simd::kLanes;
using simd::Vec;

constexpr int kTile = 32;
constexpr int kMaxTaps = 9;

// One block's sliding window while other blocks have their turn.
template <int kTaps>
struct Window {
  Vec weight[kTaps], bias;
  Vec x[kTaps];            // rows l - pad_left .. l - pad_left + kTaps - 1 of the input; the last one is read next
  Vec grad_x[kTaps];       // unfinished gradients of those rows
  Vec grad_weight[kTaps], grad_bias;
};

template <class T, int kTaps>
class Task {
 public:
  explicit Task(const Arguments& p) : p_(p), blocks_((p.channels + kLanes - 1) / kLanes) {}

  void forward(int64_t b, int64_t first, int64_t last) {
    run(b, first, last, [this](Window<kTaps>& w, int64_t block, int64_t from, int64_t to) { forward_tile(w, block, from, to); });
  }

  // Leaves grad_weight and grad_bias of this batch element in `sums` (blocks, kTaps + 1, kLanes).
  void backward(int64_t b, int64_t first, int64_t last, float* sums) {
    run(b, first, last, [this](Window<kTaps>& w, int64_t block, int64_t from, int64_t to) { backward_tile(w, block, from, to); });
    for (int64_t block = first; block < last; ++block) {
      const Window<kTaps>& w = windows_[block - first];
      const int lanes = simd::lanes_at(p_.channels, block * kLanes);
      for (int k = 0; k + 1 < kTaps; ++k) store_grad_x(block, lanes, p_.length - p_.pad_left + k, w.grad_x[k]);
      float* to = sums + (b * blocks_ + block) * (kTaps + 1) * kLanes;
      for (int k = 0; k < kTaps; ++k) simd::store(to + k * kLanes, w.grad_weight[k]);
      simd::store(to + kTaps * kLanes, w.grad_bias);
    }
  }

 private:
  const Arguments& p_;
  const int64_t blocks_;
  int64_t b_ = 0;
  Window<kTaps> windows_[Grouping::kMaxBlocks];

  template <class Tile>
  void run(int64_t b, int64_t first, int64_t last, Tile&& tile) {
    b_ = b;
    for (int64_t block = first; block < last; ++block) begin(windows_[block - first], block);
    for (int64_t from = 0; from < p_.length; from += kTile)
      for (int64_t block = first; block < last; ++block)
        tile(windows_[block - first], block, from, std::min(from + kTile, p_.length));
  }

  void begin(Window<kTaps>& w, int64_t block) {
    const int64_t channel = block * kLanes;
    const int lanes = simd::lanes_at(p_.channels, channel);
    for (int k = 0; k < kTaps; ++k) {
      w.weight[k] = w.grad_weight[k] = w.grad_x[k] = simd::zeros();
      for (int lane = 0; lane < lanes; ++lane) w.weight[k][lane] = p_.weight[(channel + lane) * kTaps + k];
    }
    w.bias = p_.bias ? simd::load(p_.bias + channel, lanes) : simd::zeros();
    w.grad_bias = simd::zeros();
    for (int k = 0; k + 1 < kTaps; ++k) w.x[k] = load_x(channel, lanes, k - p_.pad_left);
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
  Vec load_x(int64_t channel, int lanes, int64_t position) const {
    return position >= 0 && position < p_.length ? simd::load(x(position, channel), lanes) : simd::zeros();
  }
  void store_grad_x(int64_t block, int lanes, int64_t position, Vec value) const {
    if (position < 0 || position >= p_.length) return;
    simd::store(static_cast<T*>(p_.grad_x) + contiguous(position, block * kLanes), value, lanes);
  }

  // The convolution before its activation, at the position whose newest row is `newest`.
  KERNEL_MEMBER Vec convolve(Window<kTaps>& w, int64_t channel, int lanes, int64_t newest) const {
    w.x[kTaps - 1] = load_x(channel, lanes, newest);
    Vec sum = w.bias;
    UNROLL for (int k = 0; k < kTaps; ++k) sum += w.x[k] * w.weight[k];
    return sum;
  }

  void forward_tile(Window<kTaps>& window, int64_t block, int64_t from, int64_t to) {
    Window<kTaps> w = window;  // a copy the compiler may keep in registers
    const int64_t channel = block * kLanes;
    const int lanes = simd::lanes_at(p_.channels, channel);
    for (int64_t l = from; l < to; ++l) {
      const int64_t newest = l - p_.pad_left + kTaps - 1;
      __builtin_prefetch(x(std::min(newest + kTile, p_.length - 1), channel));
      Vec y = convolve(w, channel, lanes, newest);
      if (p_.silu) y *= simd::sigmoid(y);
      simd::store(static_cast<T*>(p_.y) + contiguous(l, channel), y, lanes);
      UNROLL for (int k = 0; k + 1 < kTaps; ++k) w.x[k] = w.x[k + 1];
    }
    for (int k = 0; k < kTaps; ++k) window.x[k] = w.x[k];
  }

  void backward_tile(Window<kTaps>& window, int64_t block, int64_t from, int64_t to) {
    Window<kTaps> w = window;
    const int64_t channel = block * kLanes;
    const int lanes = simd::lanes_at(p_.channels, channel);
    for (int64_t l = from; l < to; ++l) {
      const int64_t newest = l - p_.pad_left + kTaps - 1;
      __builtin_prefetch(x(std::min(newest + kTile, p_.length - 1), channel));
      __builtin_prefetch(grad_y(std::min(l + kTile, p_.length - 1), channel));
      const Vec y = convolve(w, channel, lanes, newest);
      Vec grad = simd::load(grad_y(l, channel), lanes);
      if (p_.silu) {
        const Vec s = simd::sigmoid(y);
        grad *= s * (1.f + y * (1.f - s));
      }
      w.grad_bias += grad;
      UNROLL for (int k = 0; k < kTaps; ++k) {
        w.grad_weight[k] += grad * w.x[k];
        w.grad_x[k] += grad * w.weight[k];
      }
      store_grad_x(block, lanes, l - p_.pad_left, w.grad_x[0]);
      UNROLL for (int k = 0; k + 1 < kTaps; ++k) {
        w.x[k] = w.x[k + 1];
        w.grad_x[k] = w.grad_x[k + 1];
      }
      w.grad_x[kTaps - 1] = simd::zeros();
    }
    window = w;
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
