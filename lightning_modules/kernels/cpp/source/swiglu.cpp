// silu(gate) up, forward and backward, of gates and ups that lie side by side as one product left them.
#include "swiglu.h"

#include "parallel.h"
#include "simd.h"

namespace swiglu {
namespace {

using simd::kLanes;
using simd::Vec;

template <class T>
void forward(const Arguments& p, int64_t row) {
  const T *const gate = static_cast<const T*>(p.gate_up) + row * 2 * p.hidden, *const up = gate + p.hidden;
  T* const y = static_cast<T*>(p.y) + row * p.hidden;
  for (int64_t c = 0; c < p.hidden; c += kLanes) {
    const int lanes = simd::lanes_at(p.hidden, c);
    const Vec g = simd::load(gate + c, lanes);
    simd::store(y + c, g * simd::sigmoid(g) * simd::load(up + c, lanes), lanes);
  }
}

template <class T>
void backward(const Arguments& p, int64_t row) {
  const T *const gate = static_cast<const T*>(p.gate_up) + row * 2 * p.hidden, *const up = gate + p.hidden;
  const T* const grad_y = static_cast<const T*>(p.grad_y) + row * p.hidden;
  T *const grad_gate = static_cast<T*>(p.grad_gate_up) + row * 2 * p.hidden, *const grad_up = grad_gate + p.hidden;
  for (int64_t c = 0; c < p.hidden; c += kLanes) {
    const int lanes = simd::lanes_at(p.hidden, c);
    const Vec g = simd::load(gate + c, lanes), s = simd::sigmoid(g), grad = simd::load(grad_y + c, lanes);
    simd::store(grad_gate + c, grad * simd::load(up + c, lanes) * (s * (1.f + g * (1.f - s))), lanes);
    simd::store(grad_up + c, grad * g * s, lanes);
  }
}

template <class T>
void run(const Arguments& p) {
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(p.threads))
  for (int64_t row = 0; row < p.rows; ++row) {
    if (p.grad_y) {
      backward<T>(p, row);
    } else {
      forward<T>(p, row);
    }
  }
}

}  // namespace
}  // namespace swiglu

extern "C" void swiglu_float32(const swiglu::Arguments* p) { swiglu::run<float>(*p); }
extern "C" void swiglu_bfloat16(const swiglu::Arguments* p) { swiglu::run<simd::BFloat16>(*p); }
