// One token through a whole stack of Mamba-2 layers: generation token by token with few samples at a time.
//
// Such a step reads every weight once and computes next to nothing, so memory bandwidth is the floor. One parallel region
// holds the whole step; threads share out the rows of the matrices, and compute the short vectors in between each for
// themselves rather than wait for one another.
#include "mamba2_decode.h"

#include <cmath>

#include "parallel.h"
#include "simd.h"

namespace decode {
namespace {

using simd::kLanes;
using simd::Vec;

constexpr int kSums = 4;      // running sums per product, so that additions do not wait for one another
constexpr int kSamples = 3;   // samples that share a row while it is in registers
constexpr int kTile = 4;      // rows and samples of a product of many samples
constexpr int kStates = 4;    // channels whose states advance side by side
constexpr int kAhead = 2048;  // bytes

KERNEL_INLINE float to_float(float x) { return x; }
KERNEL_INLINE float to_float(simd::BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

KERNEL_INLINE float sum_lanes(Vec v) {
  float sum = 0.f;
  for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
}

KERNEL_INLINE float silu(float x) { return x / (1.f + std::exp(-x)); }

// A stretch of a matrix row times the same stretch of a vector, both in the type of decoding.
KERNEL_INLINE void multiply_add(Vec& sum, const float* a, const float* x) { sum += simd::load(a) * simd::load(x); }

#if defined(SIMD_AVX512) && defined(__AVX512BF16__)
constexpr int kHalfLanes = 2 * kLanes;
KERNEL_INLINE void multiply_add(Vec& sum, const simd::BFloat16* a, const simd::BFloat16* x) {
  const __m512i left = _mm512_loadu_si512(a), right = _mm512_loadu_si512(x);
  sum = reinterpret_cast<Vec>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(left),
                                               reinterpret_cast<__m512bh>(right)));
}
using HalfInput = simd::BFloat16;
#else
constexpr int kHalfLanes = kLanes;
// Widened once and not for every row.
using HalfInput = float;
KERNEL_INLINE void multiply_add(Vec& sum, const simd::BFloat16* a, const float* x) {
  sum += simd::load(a, kLanes) * simd::load(x);
}
#endif

// What vectors are kept in that matrices of T multiply; the values are those of T.
template <class T>
using Input = std::conditional_t<std::is_same<T, float>::value, float, HalfInput>;

// The calling thread's share of `count` things. Cuts lie at multiples of kTile, so that a row is computed in the same way
// whatever the number of threads.
struct Share {
  int64_t first, last;
  Share(int64_t count, int64_t thread, int64_t threads) {
    const int64_t tiles = (count + kTile - 1) / kTile;
    first = std::min(count, tiles * thread / threads * kTile);
    last = std::min(count, tiles * (thread + 1) / threads * kTile);
  }
};

template <class T>
constexpr int kStretch = std::is_same<T, float>::value ? kLanes : kHalfLanes;

// <matrix row, sample> for kBatch samples from `x`. The row is read once, straight ahead: one stream of addresses is what
// the processor prefetches best; the hint runs ahead over the ends of rows and pages.
template <class T, int kBatch>
KERNEL_INLINE void products(const T* row, const Input<T>* x, int64_t length, float* result) {
  constexpr int64_t kStep = kStretch<T> * kSums;
  Vec sums[kBatch][kSums] = {};
  int64_t i = 0;
  for (; i + kStep <= length; i += kStep) {
    UNROLL for (int s = 0; s < kSums; ++s) {
      const int64_t at = i + s * kStretch<T>;
      __builtin_prefetch(reinterpret_cast<const char*>(row + at) + kAhead);
      UNROLL for (int b = 0; b < kBatch; ++b) multiply_add(sums[b][s], row + at, x + b * length + at);
    }
  }
  for (; i + kStretch<T> <= length; i += kStretch<T>)
    UNROLL for (int b = 0; b < kBatch; ++b) multiply_add(sums[b][0], row + i, x + b * length + i);
  UNROLL for (int b = 0; b < kBatch; ++b) {
    result[b] = sum_lanes((sums[b][0] + sums[b][1]) + (sums[b][2] + sums[b][3]));
    for (int64_t rest = i; rest < length; ++rest) result[b] += to_float(row[rest]) * to_float(x[b * length + rest]);
  }
}

// take(row, sample, value) for one row and the samples [first, last).
template <class T, class Take>
KERNEL_INLINE void few(const T* matrix, const Input<T>* inputs, int64_t length, int64_t row, int64_t first, int64_t last, Take take) {
  float result[kSamples] = {};
  for (int64_t b = first; b < last; b += kSamples) {
    const int count = static_cast<int>(std::min<int64_t>(kSamples, last - b));
    const T* a = matrix + row * length;
    const Input<T>* x = inputs + b * length;
    if (count == 1) products<T, 1>(a, x, length, result);
    else if (count == 2) products<T, 2>(a, x, length, result);
    else products<T, 3>(a, x, length, result);
    for (int j = 0; j < count; ++j) take(row, b + j, result[j]);
  }
}

// <matrix row, sample> for kTile rows and as many samples, enough of both that arithmetic is the limit and not loads.
template <class T>
KERNEL_INLINE void tile(const T* rows, const Input<T>* x, int64_t length, float (&result)[kTile][kTile]) {
  Vec sums[kTile][kTile] = {};
  int64_t i = 0;
  for (; i + kStretch<T> <= length; i += kStretch<T>)
    UNROLL for (int row = 0; row < kTile; ++row)
      UNROLL for (int b = 0; b < kTile; ++b) multiply_add(sums[row][b], rows + row * length + i, x + b * length + i);
  UNROLL for (int row = 0; row < kTile; ++row)
    UNROLL for (int b = 0; b < kTile; ++b) {
      float sum = sum_lanes(sums[row][b]);
      for (int64_t rest = i; rest < length; ++rest)
        sum += to_float(rows[row * length + rest]) * to_float(x[b * length + rest]);
      result[row][b] = sum;
    }
}

// take(row, sample, value) for the rows [first, last) of matrix (.., length) times inputs (batch, length).
template <class T, class Take>
KERNEL_INLINE void multiply(const T* matrix, const Input<T>* inputs, int64_t length, int64_t batch, Share rows, Take take) {
  int64_t row = rows.first;
  for (; batch >= kTile && row + kTile <= rows.last; row += kTile) {
    float result[kTile][kTile];
    int64_t b = 0;
    for (; b + kTile <= batch; b += kTile) {
      tile(matrix + row * length, inputs + b * length, length, result);
      for (int i = 0; i < kTile; ++i)
        for (int j = 0; j < kTile; ++j) take(row + i, b + j, result[i][j]);
    }
    for (int i = 0; i < kTile; ++i) few(matrix, inputs, length, row + i, b, batch, take);
  }
  for (; row < rows.last; ++row) few(matrix, inputs, length, row, int64_t{0}, batch, take);
}

// 1 / sqrt(mean of squares + epsilon)
float inverse_rms(const float* x, int64_t count, float epsilon) {
  Vec sum = simd::zeros();
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec value = simd::load(x + i, simd::lanes_at(count, i));
    sum += value * value;
  }
  return 1.f / std::sqrt(sum_lanes(sum) / static_cast<float>(count) + epsilon);
}

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
      normalise(p.residual + at, p.width, p.norm, nullptr, wide_);
      normalise(wide_, p.width, p.final_scale + at, p.final_shift + at, input_ + at, kRounds);
    }
    multiply(static_cast<const T*>(p.head), input_, p.width, p.batch, Share(p.vocabulary, thread_, threads_),
             [this](int64_t row, int64_t b, float value) { p.logits[b * p.vocabulary + row] = value; });
  }

 private:
  static constexpr bool kRounds = !std::is_same<T, Input<T>>::value;

  void layer(const Layer& w) {
    for (int64_t b = 0; b < p.batch; ++b) {
      const int64_t at = b * p.width;
      normalise(p.residual + at, p.width, w.scale + at, w.shift + at, input_ + at, kRounds);
    }
    multiply(static_cast<const T*>(w.in_proj), input_, p.width, p.batch, Share(rows_, thread_, threads_),
             [this](int64_t row, int64_t b, float value) { projected_[b * rows_ + row] = value; });
    wait();
    convolve(w);
    wait();
    const Share heads(p.batch * p.heads, thread_, threads_);
    for (int64_t i = heads.first; i < heads.last; ++i) advance(w, i / p.heads, i % p.heads);
    wait();
    for (int64_t b = 0; b < p.batch; ++b)
      normalise(mixed_ + b * p.inner, p.inner, w.norm, nullptr, input_ + b * p.inner, kRounds);
    multiply(static_cast<const T*>(w.out_proj), input_, p.inner, p.batch, Share(p.width, thread_, threads_),
             [this, &w](int64_t row, int64_t b, float value) {
               p.residual[b * p.width + row] += w.gate[b * p.width + row] * value;
             });
    wait();
  }

  // out = x / RMS(x) scale + shift, where there is one; rounded to the values of T where it is kept in a wider type.
  template <class Out>
  void normalise(const float* x, int64_t count, const float* scale, const float* shift, Out* out,
                 bool rounds = false) {
    const float inverse = inverse_rms(x, count, p.epsilon);
    for (int64_t i = 0; i < count; i += kLanes) {
      const int lanes = simd::lanes_at(count, i);
      Vec h = simd::load(x + i, lanes) * inverse * simd::load(scale + i, lanes);
      if (shift) h += simd::load(shift + i, lanes);
      if (rounds) h = simd::widen(simd::narrow(h));
      simd::store(out + i, h, lanes);
    }
  }

  // silu(conv(x, B, C)) of this thread's channels; their window moves on.
  void convolve(const Layer& w) {
    const Share blocks((convolved_width_ + kLanes - 1) / kLanes, thread_, threads_);
    for (int64_t b = 0; b < p.batch; ++b)
      for (int64_t block = blocks.first; block < blocks.last; ++block) {
        const int64_t channel = block * kLanes;
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
          const Vec s = decay * simd::load(at, lanes) + input * x[c + j];
          simd::store(at, s, lanes);
          sums[j] += s * output;
        }
      }
      for (int j = 0; j < count; ++j) y[c + j] = (sum_lanes(sums[j]) + w.skip[head] * x[c + j]) * silu(z[c + j]);
    }
  }

  void wait() {
#if defined(_OPENMP)
#pragma omp barrier
#endif
  }

  const Arguments& p;
  const int64_t convolved_width_, rows_, thread_, threads_;
  float *projected_, *convolved_, *mixed_;  // shared: (B, R), (B, W), (B, D)
  float* wide_;                             // own: max(M, D)
  Input<T>* input_;                                // own: (B, max(M, D))
};

template <class T>
void run(const Arguments& p) {
#if defined(_OPENMP)
#pragma omp parallel num_threads(static_cast<int>(p.threads))
  Step<T>(p, omp_get_thread_num(), omp_get_num_threads()).run();
#else
  Step<T>(p, 0, 1).run();
#endif
}

}  // namespace
}  // namespace decode

extern "C" void mamba2_decode_float32(const decode::Arguments* p) { decode::run<float>(*p); }
extern "C" void mamba2_decode_bfloat16(const decode::Arguments* p) { decode::run<simd::BFloat16>(*p); }
