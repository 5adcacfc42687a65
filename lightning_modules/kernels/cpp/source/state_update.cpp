// One position of a selective scan and of the depthwise convolution, with the state kept by the caller: generation token by
// token. Lanes are states here, since the state of a channel is contiguous: (B, C, N).
#include "state_update.h"

#include "parallel.h"
#include "simd.h"

namespace step {
namespace {

using simd::kLanes;
using simd::to_float;
using simd::Vec;

// Below this many states a thread pool costs more than it brings.
constexpr int64_t kWorthThreads = 1 << 15;
constexpr int kChannels = 4;  // interleaved, see exp2_each

// Time step, scaled input and running output of one block of channels; lanes are channels.
struct Block {
  alignas(64) float dt[kLanes], x[kLanes], y[kLanes];
};

// h <- exp(dt A) h + x B and <C, h> for kChannels channels from `c`, all states.
void advance(const Arguments& p, int64_t b, int64_t c, int count, Block& block, int first) {
  const float *B = p.B + b * p.states, *C = p.C + b * p.states;
  Vec sums[kChannels] = {};
  for (int64_t n = 0; n < p.states; n += kLanes) {
    const int lanes = simd::lanes_at(p.states, n);
    const Vec input = simd::load(B + n, lanes), output = simd::load(C + n, lanes);
    Vec exponent[kChannels], a[kChannels];
    UNROLL for (int j = 0; j < kChannels; ++j)
      exponent[j] = j < count ? simd::load(p.A + (c + j) * p.states + n, lanes) * (block.dt[first + j] * simd::kLog2E)
                              : simd::zeros();
    simd::exp2_each<kChannels>(exponent, a);
    UNROLL for (int j = 0; j < kChannels; ++j) {
      if (j >= count) break;
      float* state = p.state + (b * p.channels + c + j) * p.states + n;
      const Vec h = a[j] * simd::load(state, lanes) + input * block.x[first + j];
      simd::store(state, h, lanes);
      sums[j] += h * output;
    }
  }
  for (int j = 0; j < count; ++j) block.y[first + j] = simd::sum_lanes(sums[j]);
}

template <class T>
void update_block(const Arguments& p, int64_t b, int64_t channel) {
  const int lanes = simd::lanes_at(p.channels, channel);
  const int64_t at = b * p.channels + channel;
  Block block;
  const Vec u = simd::load(static_cast<const T*>(p.u) + at, lanes);
  Vec dt = simd::load(static_cast<const T*>(p.delta) + at, lanes);
  if (p.delta_bias) dt += simd::load(p.delta_bias + channel, lanes);
  if (p.softplus) dt = simd::softplus(dt);
  simd::store(block.dt, dt);
  simd::store(block.x, dt * u);
  for (int first = 0; first < lanes; first += kChannels)
    advance(p, b, channel + first, std::min(kChannels, lanes - first), block, first);
  Vec y = simd::load(block.y, lanes);
  if (p.D) y += simd::load(p.D + channel, lanes) * u;
  if (p.z) {
    const Vec gate = simd::load(static_cast<const T*>(p.z) + at, lanes);
    y *= gate * simd::sigmoid(gate);
  }
  simd::store(static_cast<T*>(p.y) + at, y, lanes);
}

template <class T>
void update(const Arguments& p) {
  const int64_t blocks = (p.channels + kLanes - 1) / kLanes;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(p.threads)) \
    if (p.batch * p.channels * p.states >= kWorthThreads)
  for (int64_t i = 0; i < p.batch * blocks; ++i) update_block<T>(p, i / blocks, i % blocks * kLanes);
}

// window (B, k - 1, C) holds the inputs before x, oldest first; it moves on by one.
template <class T>
void convolve(const ConvArguments& p) {
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t channel = 0; channel < p.channels; ++channel) {
      T* window = static_cast<T*>(p.window) + b * (p.taps - 1) * p.channels + channel;
      const T newest = static_cast<const T*>(p.x)[b * p.channels + channel];
      const float* weight = p.weight + channel * p.taps;
      float sum = (p.bias ? p.bias[channel] : 0.f) + to_float(newest) * weight[p.taps - 1];
      for (int64_t k = 0; k + 1 < p.taps; ++k) {
        sum += to_float(window[k * p.channels]) * weight[k];
        window[k * p.channels] = k + 2 < p.taps ? window[(k + 1) * p.channels] : newest;
      }
      p.y[b * p.channels + channel] = sum;
    }
  if (!p.silu) return;
  const int64_t count = p.batch * p.channels;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int lanes = simd::lanes_at(count, i);
    const Vec y = simd::load(p.y + i, lanes);
    simd::store(p.y + i, y * simd::sigmoid(y), lanes);
  }
}

}  // namespace
}  // namespace step

extern "C" void selective_state_update_float32(const step::Arguments* p) { step::update<float>(*p); }
extern "C" void selective_state_update_bfloat16(const step::Arguments* p) { step::update<simd::BFloat16>(*p); }
extern "C" void depthwise_conv_update_float32(const step::ConvArguments* p) { step::convolve<float>(*p); }
extern "C" void depthwise_conv_update_bfloat16(const step::ConvArguments* p) { step::convolve<simd::BFloat16>(*p); }
