// One token through a whole stack of Mamba-2 layers: generation token by token with few samples at a time.
#include "mamba2_decode.h"

#include "decode.h"

namespace mamba2 {
namespace {

using namespace decode;

constexpr int kStates = 4;          // channels whose states advance side by side
constexpr int kStatesAhead = 8192;  // bytes, of a few reads and writes per state

template <class T>
class Step {
 public:
  Step(const Arguments& arguments, int64_t thread, int64_t threads)
      : p(arguments),
        convolved_width_(p.inner + 2 * p.states),
        rows_(p.inner + convolved_width_ + p.heads),
        thread_(thread),
        threads_(threads),
        projected_(p.scratch),
        convolved_(projected_ + p.batch * rows_),
        mixed_(convolved_ + p.batch * convolved_width_) {
    // Float-sized slots also for narrower types, so that one formula gives the scratch that is needed.
    const int64_t longest = std::max(p.width, p.inner);
    wide_ = mixed_ + p.batch * p.inner + thread * (p.batch + 1) * longest;
    input_ = reinterpret_cast<Input<T>*>(wide_ + longest);
  }

  void run() {
    for (int64_t l = 0; l < p.layers; ++l) layer(p.layer[l]);
    for (int64_t b = 0; b < p.batch; ++b) {
      const int64_t at = b * p.width;
      normalise<float>(p.residual + at, p.width, p.epsilon, p.norm, nullptr, wide_);
      normalise<T>(wide_, p.width, p.epsilon, p.final_scale + at, p.final_shift + at, input_ + at);
    }
    multiply(static_cast<const T*>(p.head), input_, p.width, p.batch, Share(p.vocabulary, thread_, threads_),
             [this](int64_t row, int64_t b, float value) { p.logits[b * p.vocabulary + row] = value; });
  }

 private:
  void layer(const Layer& w) {
    for (int64_t b = 0; b < p.batch; ++b) {
      const int64_t at = b * p.width;
      normalise<T>(p.residual + at, p.width, p.epsilon, w.scale + at, w.shift + at, input_ + at);
    }
    project(w, 0, Share(p.inner, thread_, threads_));
    const Share convolved(convolved_width_, thread_, threads_, kLanes);
    project(w, p.inner, convolved);
    convolve(w, convolved);
    project(w, p.inner + convolved_width_, Share(p.heads, thread_, threads_));
    wait();
    const Share heads(p.batch * p.heads, thread_, threads_);
    for (int64_t i = heads.first; i < heads.last; ++i) advance(w, i / p.heads, i % p.heads);
    wait();
    for (int64_t b = 0; b < p.batch; ++b)
      normalise<T>(mixed_ + b * p.inner, p.inner, p.epsilon, w.norm, nullptr, input_ + b * p.inner);
    multiply(static_cast<const T*>(w.out_proj), input_, p.inner, p.batch, Share(p.width, thread_, threads_),
             [this, &w](int64_t row, int64_t b, float value) {
               p.residual[b * p.width + row] += w.gate[b * p.width + row] * value;
             });
    wait();
  }

  // Rows of the input's projection: those of z, of what is convolved or of dt, which begin at `offset`.
  void project(const Layer& w, int64_t offset, Share rows) {
    multiply(static_cast<const T*>(w.in_proj) + offset * p.width, input_, p.width, p.batch, rows,
             [this, offset](int64_t row, int64_t b, float value) { projected_[b * rows_ + offset + row] = value; });
  }

  // silu(conv(x, B, C)) of the channels that this thread has projected; their window moves on.
  void convolve(const Layer& w, Share channels) {
    for (int64_t b = 0; b < p.batch; ++b)
      for (int64_t channel = channels.first; channel < channels.last; channel += kLanes) {
        const int lanes = simd::lanes_at(convolved_width_, channel);
        T* window = static_cast<T*>(w.window) + b * (p.taps - 1) * convolved_width_ + channel;
        T newest[kLanes] = {};
        simd::store(newest, simd::load(projected_ + b * rows_ + p.inner + channel, lanes), lanes);
        Vec sum = simd::load(w.conv_bias + channel, lanes);
        for (int64_t k = 0; k < p.taps; ++k) {
          const bool last = k + 1 == p.taps;
          const Vec value = simd::load(last ? newest : window + k * convolved_width_, lanes);
          sum += value * simd::load(w.taps + k * convolved_width_ + channel, lanes);
          if (k > 0) simd::store(window + (k - 1) * convolved_width_, value, lanes);
        }
        simd::store(convolved_ + b * convolved_width_ + channel, sum * simd::sigmoid(sum), lanes);
      }
  }

  // State, output and gate of one head: S <- exp(dt A) S + dt x B^T; y = (S C + D x) silu(z).
  void advance(const Layer& w, int64_t b, int64_t head) {
    const int64_t channels = p.inner / p.heads, first = head * channels;
    const float *x = convolved_ + b * convolved_width_ + first, *z = projected_ + b * rows_ + first;
    const float *B = convolved_ + b * convolved_width_ + p.inner, *C = B + p.states;
    const float raw = projected_[b * rows_ + rows_ - p.heads + head] + w.dt_bias[head];
    const float dt = std::max(raw, 0.f) + std::log1p(std::exp(-std::abs(raw)));
    const float decay = std::exp(dt * w.A[head]);
    float* state = w.state + (b * p.heads + head) * channels * p.states;
    float* y = mixed_ + b * p.inner + first;
    for (int64_t c = 0; c < channels; c += kStates) {
      const int count = static_cast<int>(std::min<int64_t>(kStates, channels - c));
      Vec sums[kStates] = {};
      for (int64_t n = 0; n < p.states; n += kLanes) {
        const int lanes = simd::lanes_at(p.states, n);
        const Vec input = simd::load(B + n, lanes) * dt, output = simd::load(C + n, lanes);
        UNROLL for (int j = 0; j < kStates; ++j) {
          if (j >= count) break;
          float* at = state + (c + j) * p.states + n;
          __builtin_prefetch(reinterpret_cast<const char*>(at) + kStatesAhead, 1);  // to be written
          const Vec s = decay * simd::load(at, lanes) + input * x[c + j];
          simd::store(at, s, lanes);
          sums[j] += s * output;
        }
      }
      for (int j = 0; j < count; ++j) y[c + j] = sum_lanes(sums[j]);
    }
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int lanes = simd::lanes_at(channels, c);
      const Vec gate = simd::load(z + c, lanes), skipped = w.skip[head] * simd::load(x + c, lanes);
      simd::store(y + c, (simd::load(y + c, lanes) + skipped) * gate * simd::sigmoid(gate), lanes);
    }
  }

  const Arguments& p;
  const int64_t convolved_width_, rows_, thread_, threads_;
  float *projected_, *convolved_, *mixed_;  // shared: (B, R), (B, W), (B, D)
  float* wide_;                             // own: max(M, D)
  Input<T>* input_;                         // own: (B, max(M, D))
};

}  // namespace
}  // namespace mamba2

extern "C" void mamba2_decode_float32(const mamba2::Arguments* p) { decode::run<mamba2::Step<float>>(*p); }
extern "C" void mamba2_decode_bfloat16(const mamba2::Arguments* p) { decode::run<mamba2::Step<simd::BFloat16>>(*p); }
