// Root-mean-square norm over the channels of a position, of an input that may be gated before it, times a factor, plus a
// shift. Lanes are channels; a row is read from memory once and then from the first cache.
#include "rms_norm.h"

#include <cmath>

#include "parallel.h"
#include "simd.h"

namespace rms {
namespace {

using parallel::Buffer;
using simd::kLanes;
using simd::Vec;

template <class T>
const T* row(const void* from, int64_t b, int64_t batch_stride, int64_t l, int64_t position_stride) {
  return static_cast<const T*>(from) + b * batch_stride + l * position_stride;
}

// The rows of one task. `scratch` has room for kRows rows of whole vectors.
template <class T>
class Rows {
 public:
  static constexpr int64_t kRows = 3;
  Rows(const Arguments& p, float* scratch)
      : p_(p), gated_(scratch), sigmoid_(scratch + padded(p)), wanted_(scratch + 2 * padded(p)) {}
  static int64_t padded(const Arguments& p) { return (p.channels + kLanes - 1) / kLanes * kLanes; }

  void forward(int64_t b, int64_t first, int64_t last) const {
    for (int64_t l = first; l < last; ++l) {
      const float r = static_cast<float>(1. / std::sqrt(gate(b, l) / static_cast<double>(p_.channels) + p_.eps));
      p_.rstd[b * p_.length + l] = r;
      T* const y = static_cast<T*>(p_.y) + (b * p_.length + l) * p_.channels;
      for (int64_t c = 0; c < p_.channels; c += kLanes) {
        const int lanes = simd::lanes_at(p_.channels, c);
        Vec v = simd::load(gated_ + c) * r;
        if (p_.factor) v *= simd::load(factor(b) + c, lanes);
        if (p_.shift) v += simd::load(p_.shift + b * p_.channels + c, lanes);
        simd::store(y + c, v, lanes);
      }
    }
  }

  // `chunk`: where the task's sums lie among all. With n = u r, r = 1 / rms(u) and e the gradient of n:
  // du = r (e - n mean(e n)).
  void backward(int64_t b, int64_t first, int64_t last, int64_t chunk) const {
    float* const sum_factor = p_.grad_factor ? p_.grad_factor + chunk * p_.channels : nullptr;
    float* const sum_shift = p_.grad_shift ? p_.grad_shift + chunk * p_.channels : nullptr;
    for (float* sums : {sum_factor, sum_shift})
      if (sums) std::fill(sums, sums + p_.channels, 0.f);
    for (int64_t l = first; l < last; ++l) {
      gate(b, l);
      const float r = p_.rstd[b * p_.length + l];
      const float mean = r * read_gradient(b, l, r, sum_factor, sum_shift) / static_cast<float>(p_.channels);
      write_gradient(b, l, r, mean);
    }
  }

 private:
  const Arguments& p_;
  float *const gated_, *const sigmoid_, *const wanted_;  // rows: the norm's input, its gate's sigmoid, e

  const float* factor(int64_t b) const { return p_.factor + b * p_.factor_stride; }
  const T* x(int64_t b, int64_t l) const { return row<T>(p_.x, b, p_.x_batch_stride, l, p_.x_position_stride); }
  const T* z(int64_t b, int64_t l) const { return row<T>(p_.gate, b, p_.gate_batch_stride, l, p_.gate_position_stride); }

  // Leaves the norm's input in `gated_`; the sum of its squares.
  float gate(int64_t b, int64_t l) const {
    const T *const from = x(b, l), *const by = p_.gate ? z(b, l) : nullptr;
    Vec squares = simd::zeros();
    for (int64_t c = 0; c < p_.channels; c += kLanes) {
      const int lanes = simd::lanes_at(p_.channels, c);
      Vec v = simd::load(from + c, lanes);
      if (by) {
        const Vec g = simd::load(by + c, lanes), s = simd::sigmoid(g);
        simd::store(sigmoid_ + c, s);
        v *= g * s;
      }
      simd::store(gated_ + c, v);
      squares += v * v;
    }
    return simd::sum_lanes(squares);
  }

  // Leaves e in `wanted_`, adds to the sums; <e, u>.
  float read_gradient(int64_t b, int64_t l, float r, float* sum_factor, float* sum_shift) const {
    const T* const from = row<T>(p_.grad_y, b, p_.grad_y_batch_stride, l, p_.grad_y_position_stride);
    Vec product = simd::zeros();
    for (int64_t c = 0; c < p_.channels; c += kLanes) {
      const int lanes = simd::lanes_at(p_.channels, c);
      const Vec g = simd::load(from + c, lanes), u = simd::load(gated_ + c);
      const Vec e = p_.factor ? g * simd::load(factor(b) + c, lanes) : g;
      if (sum_factor) simd::store(sum_factor + c, simd::load(sum_factor + c, lanes) + g * (u * r), lanes);
      if (sum_shift) simd::store(sum_shift + c, simd::load(sum_shift + c, lanes) + g, lanes);
      simd::store(wanted_ + c, e);
      product += e * u;
    }
    return simd::sum_lanes(product);
  }

  void write_gradient(int64_t b, int64_t l, float r, float mean) const {
    const int64_t at = (b * p_.length + l) * p_.channels;
    T* const to = static_cast<T*>(p_.grad_x) + at;
    T* const to_gate = p_.gate ? static_cast<T*>(p_.grad_gate) + at : nullptr;
    for (int64_t c = 0; c < p_.channels; c += kLanes) {
      const int lanes = simd::lanes_at(p_.channels, c);
      Vec grad = r * (simd::load(wanted_ + c) - simd::load(gated_ + c) * (r * mean));
      if (to_gate) {
        const Vec g = simd::load(z(b, l) + c, lanes), s = simd::load(sigmoid_ + c);
        simd::store(to_gate + c, grad * simd::load(x(b, l) + c, lanes) * (s * (1.f + g * (1.f - s))), lanes);
        grad *= g * s;
      }
      simd::store(to + c, grad, lanes);
    }
  }
};

template <class T>
int run(const Arguments& p, bool backward) {
  const parallel::Chunks chunks(p.batch, p.length);
  const int64_t scratch = Rows<T>::kRows * Rows<T>::padded(p);
  const Buffer rows = parallel::allocate(p.threads * scratch);
  if (!rows) return parallel::kOutOfMemory;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(p.threads))
  for (int64_t i = 0; i < chunks.count; ++i) {
    const Rows<T> task(p, rows.get() + parallel::thread_index() * scratch);
    if (backward) {
      task.backward(chunks.batch(i), chunks.first(i), chunks.last(i), i);
    } else {
      task.forward(chunks.batch(i), chunks.first(i), chunks.last(i));
    }
  }
  return parallel::kDone;
}

}  // namespace
}  // namespace rms

extern "C" int rms_norm_forward_float32(const rms::Arguments* p) { return rms::run<float>(*p, false); }
extern "C" int rms_norm_forward_bfloat16(const rms::Arguments* p) { return rms::run<simd::BFloat16>(*p, false); }
extern "C" int rms_norm_backward_float32(const rms::Arguments* p) { return rms::run<float>(*p, true); }
extern "C" int rms_norm_backward_bfloat16(const rms::Arguments* p) { return rms::run<simd::BFloat16>(*p, true); }
