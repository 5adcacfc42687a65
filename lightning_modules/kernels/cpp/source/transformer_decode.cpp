// One token through a whole Llama-style Transformer with its key-value cache, few samples at a time: pre-norm RMSNorm,
// attention with rotary positions, SwiGLU, no biases.
#include "transformer_decode.h"

#include <limits>

#include "decode.h"

namespace transformer {
namespace {

using namespace decode;

constexpr int kChannels = 4;  // vectors of channels that are summed over the positions side by side

// <q, key> of a head of E channels.
template <class T>
KERNEL_INLINE Vec lane_products(const float* q, const T* key, int64_t channels) {
  Vec sum = simd::zeros();
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    fetch_ahead(key + c);
    sum += simd::load(key + c, kLanes) * simd::load(q + c);
  }
  if (c < channels) {
    const int lanes = simd::lanes_at(channels, c);
    sum += simd::load(key + c, lanes) * simd::load(q + c, lanes);
  }
  return sum;
}

// Products with kLanes keys in a row, the first `count` of which are there.
template <int kIndex = 0, class T>
KERNEL_INLINE void push_keys(simd::LaneSums& sums, const float* q, const T* keys, int64_t channels, int64_t count) {
  sums.template push<kIndex>(kIndex < count ? lane_products(q, keys + kIndex * channels, channels) : simd::zeros());
  if constexpr (kIndex + 1 < kLanes) push_keys<kIndex + 1>(sums, q, keys, channels, count);
}

// out = scale sum_i weights[i] values[i] for kVectors vectors of channels, each of `lanes`.
template <int kVectors, class T>
KERNEL_INLINE void add_up(const float* weights, const T* values, int64_t channels, int64_t count, float scale,
                          Input<T>* out, int lanes = kLanes) {
  Vec sums[kVectors] = {};
  for (int64_t i = 0; i < count; ++i)
    UNROLL for (int j = 0; j < kVectors; ++j) {
      const T* value = values + i * channels + j * kLanes;
      fetch_ahead(value);
      sums[j] += weights[i] * simd::load(value, lanes);
    }
  UNROLL for (int j = 0; j < kVectors; ++j) keep<T>(out + j * kLanes, sums[j] * scale, lanes);
}

template <class T>
class Step {
 public:
  Step(const Arguments& arguments, int64_t thread, int64_t threads)
      : p(arguments),
        channels_(p.width / p.heads),
        projected_width_(std::max(3 * p.width, 2 * p.hidden)),
        thread_(thread),
        threads_(threads),
        projected_(p.scratch) {
    // Float-sized slots also for narrower types, so that one formula gives the scratch that is needed.
    float* shared = projected_ + p.batch * projected_width_;
    mixed_ = reinterpret_cast<Input<T>*>(shared);
    const int64_t longest = (p.positions + 15) / 16 * 16;
    float* own = shared + p.batch * std::max(p.width, p.hidden) + thread * (p.batch * p.width + longest);
    input_ = reinterpret_cast<Input<T>*>(own);
    weights_ = own + p.batch * p.width;
  }

  void run() {
    for (int64_t l = 0; l < p.layers; ++l) layer(p.layer[l]);
    normalise_all(p.norm);
    multiply(static_cast<const T*>(p.head), input_, p.width, p.batch, Share(p.vocabulary, thread_, threads_),
             [this](int64_t row, int64_t b, float value) { p.logits[b * p.vocabulary + row] = value; });
  }

 private:
  void layer(const Layer& w) {
    normalise_all(w.norm);
    project(w.qkv, 3 * p.width, 0);
    wait();
    const Share heads(p.batch * p.heads, thread_, threads_, 1);
    for (int64_t i = heads.first; i < heads.last; ++i) attend(w, i / p.heads, i % p.heads);
    wait();
    add_product(w.out_proj, p.width);
    wait();
    normalise_all(w.mlp_norm);
    // A thread has both rows of its hidden channels, so it gates them without waiting.
    const Share hidden = project(w.gate_up, p.hidden, 0);
    project(static_cast<const T*>(w.gate_up) + p.hidden * p.width, p.hidden, p.hidden);
    for (int64_t b = 0; b < p.batch; ++b) gate(b, hidden);
    wait();
    add_product(w.down, p.hidden);
    wait();
  }

  // input = norm(residual) of all samples
  void normalise_all(const float* norm) {
    for (int64_t at = 0; at < p.batch * p.width; at += p.width)
      normalise<T>(p.residual + at, p.width, p.epsilon, norm, nullptr, input_ + at);
  }

  // This thread's rows of matrix (count, M) times the input, into the projected channels from `offset` on.
  Share project(const void* matrix, int64_t count, int64_t offset) {
    const Share rows(count, thread_, threads_);
    multiply(static_cast<const T*>(matrix), input_, p.width, p.batch, rows,
             [this, offset](int64_t row, int64_t b, float value) {
               projected_[b * projected_width_ + offset + row] = value;
             });
    return rows;
  }

  // residual += matrix (M, length) times what was mixed
  void add_product(const void* matrix, int64_t length) {
    multiply(static_cast<const T*>(matrix), mixed_, length, p.batch, Share(p.width, thread_, threads_),
             [this](int64_t row, int64_t b, float value) { p.residual[b * p.width + row] += value; });
  }

  // One head of one sample: its key and value go into the cache, then softmax(q k^T / sqrt(E)) v over what is visible.
  void attend(const Layer& w, int64_t b, int64_t head) {
    const int64_t count = p.position + 1, cached = (b * p.heads + head) * p.positions * channels_;
    T *keys = static_cast<T*>(w.keys) + cached, *values = static_cast<T*>(w.values) + cached;
    float *q = projected_ + b * projected_width_ + head * channels_, *k = q + p.width, *v = k + p.width;
    rotate(q);
    rotate(k);
    for (int64_t c = 0; c < channels_; c += kLanes) {
      const int lanes = simd::lanes_at(channels_, c);
      simd::store(q + c, rounded<T>(simd::load(q + c, lanes)), lanes);
      simd::store(keys + p.position * channels_ + c, simd::load(k + c, lanes), lanes);
      simd::store(values + p.position * channels_ + c, simd::load(v + c, lanes), lanes);
    }
    const float scale = 1.f / weigh_positions(q, keys, p.visible + b * p.positions, count);
    Input<T>* out = mixed_ + b * p.width + head * channels_;
    int64_t c = 0;
    for (; c + kChannels * kLanes <= channels_; c += kChannels * kLanes)
      add_up<kChannels>(weights_, values + c, channels_, count, scale, out + c);
    for (; c < channels_; c += kLanes)
      add_up<1>(weights_, values + c, channels_, count, scale, out + c, simd::lanes_at(channels_, c));
  }

  // Weights of the positions, exp(score - largest score), and their sum.
  float weigh_positions(const float* q, const T* keys, const uint8_t* visible, int64_t count) {
    const int64_t end = (count + kLanes - 1) / kLanes * kLanes;
    for (int64_t i = 0; i < count; i += kLanes) {
      simd::LaneSums sums;
      push_keys(sums, q, keys + i * channels_, channels_, count - i);
      simd::store(weights_ + i, sums.result);
    }
    for (int64_t i = 0; i < end; ++i)
      if (i >= count || !visible[i]) weights_[i] = -std::numeric_limits<float>::infinity();
    Vec most = simd::load(weights_);
    for (int64_t i = kLanes; i < end; i += kLanes) {
      const Vec score = simd::load(weights_ + i);
      most = score > most ? score : most;
    }
    float largest = most[0];
    for (int lane = 1; lane < kLanes; ++lane) largest = std::max(largest, most[lane]);
    const float scale = simd::kLog2E / std::sqrt(static_cast<float>(channels_));
    Vec sum = simd::zeros();
    for (int64_t i = 0; i < end; i += kLanes) {
      Vec weight, exponent = (simd::load(weights_ + i) - largest) * scale;
      simd::exp2_each<1>(&exponent, &weight);
      simd::store(weights_ + i, weight);
      sum += weight;
    }
    return sum_lanes(sum);
  }

  // Channels 2j and 2j + 1 turn as a pair.
  void rotate(float* x) {
    for (int64_t c = 0; c < channels_; c += 2) {
      const float even = x[c], odd = x[c + 1], cosine = p.rotation[c], sine = p.rotation[c + 1];
      x[c] = even * cosine - odd * sine;
      x[c + 1] = even * sine + odd * cosine;
    }
  }

  // silu(gate) * up of this thread's hidden channels of one sample
  void gate(int64_t b, Share hidden) {
    const float *gates = projected_ + b * projected_width_, *ups = gates + p.hidden;
    for (int64_t i = hidden.first; i < hidden.last; i += kLanes) {
      const int lanes = simd::lanes_at(hidden.last, i);
      const Vec x = simd::load(gates + i, lanes);
      keep<T>(mixed_ + b * p.hidden + i, x * simd::sigmoid(x) * simd::load(ups + i, lanes), lanes);
    }
  }

  const Arguments& p;
  const int64_t channels_, projected_width_, thread_, threads_;
  float* projected_;  // shared: (B, max(3M, 2F))
  Input<T>* mixed_;   // shared: (B, max(M, F))
  Input<T>* input_;   // own: (B, M)
  float* weights_;    // own: (S), of the positions
};

}  // namespace
}  // namespace transformer

extern "C" void transformer_decode_float32(const transformer::Arguments* p) {
  decode::run<transformer::Step<float>>(*p);
}
extern "C" void transformer_decode_bfloat16(const transformer::Arguments* p) {
  decode::run<transformer::Step<simd::BFloat16>>(*p);
}
