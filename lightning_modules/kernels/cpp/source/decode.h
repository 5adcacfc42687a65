// What mamba2_decode.cpp and transformer_decode.cpp share: products of whole matrices with few vectors, norms, threads.
//
// Such a step reads every weight once and computes next to nothing, so memory bandwidth is the floor. One parallel region
// holds the whole step; threads share out the rows of the matrices, and compute the short vectors in between each for
// themselves rather than wait for one another.
#pragma once

#include <cmath>

#include "parallel.h"
#include "simd.h"

namespace decode {

using simd::kLanes;
using simd::sum_lanes;
using simd::to_float;
using simd::Vec;

constexpr int kSums = 4;      // running sums per product, so that additions do not wait for one another
constexpr int kSamples = 3;   // samples that share a row while it is in registers
constexpr int kTile = 4;      // rows and samples of a product of many samples
constexpr int kAhead = 2048;  // bytes

// What lies kAhead bytes on is fetched, and kept.
KERNEL_INLINE void fetch_ahead(const void* at) { __builtin_prefetch(static_cast<const char*>(at) + kAhead); }
// The same for weights, which are not read again before the next token: kept out of the outer caches, so that what is
// remembered of the tokens before may stay there.
KERNEL_INLINE void fetch_once_ahead(const void* at) { __builtin_prefetch(static_cast<const char*>(at) + kAhead, 0, 0); }

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

// The calling thread's share of `count` things. Cuts lie at multiples of `unit`: of rows they come as tiles, so that a row
// is computed in the same way whatever the number of threads.
struct Share {
  int64_t first, last;
  Share(int64_t count, int64_t thread, int64_t threads, int64_t unit = kTile) {
    const int64_t units = (count + unit - 1) / unit;
    first = std::min(count, units * thread / threads * unit);
    last = std::min(count, units * (thread + 1) / threads * unit);
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
      fetch_once_ahead(row + at);
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
KERNEL_INLINE void few(const T* matrix, const Input<T>* inputs, int64_t length, int64_t row, int64_t first, int64_t last,
                       Take take) {
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
KERNEL_INLINE void multiply(const T* matrix, const Input<T>* inputs, int64_t length, int64_t batch, Share rows,
                            Take take) {
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

// The nearest values of T.
template <class T>
KERNEL_INLINE Vec rounded(Vec value) {
  if constexpr (std::is_same<T, float>::value) return value;
  else return simd::widen(simd::narrow(value));
}

// Keeps lanes as input of a product with matrices of T.
template <class T>
KERNEL_INLINE void keep(Input<T>* to, Vec value, int lanes) {
  simd::store(to, std::is_same<T, Input<T>>::value ? value : rounded<T>(value), lanes);
}

// 1 / sqrt(mean of squares + epsilon)
inline float inverse_rms(const float* x, int64_t count, float epsilon) {
  Vec sum = simd::zeros();
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec value = simd::load(x + i, simd::lanes_at(count, i));
    sum += value * value;
  }
  return 1.f / std::sqrt(sum_lanes(sum) / static_cast<float>(count) + epsilon);
}

// out = x / RMS(x) scale + shift, where there is one.
template <class T>
void normalise(const float* x, int64_t count, float epsilon, const float* scale, const float* shift, Input<T>* out) {
  const float inverse = inverse_rms(x, count, epsilon);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int lanes = simd::lanes_at(count, i);
    Vec h = simd::load(x + i, lanes) * inverse * simd::load(scale + i, lanes);
    if (shift) h += simd::load(shift + i, lanes);
    keep<T>(out + i, h, lanes);
  }
}

// Until all threads of the step are here.
inline void wait() {
#if defined(_OPENMP)
#pragma omp barrier
#endif
}

// Step(arguments, thread, threads).run() on every thread.
template <class Step, class Arguments>
void run(const Arguments& p) {
#if defined(_OPENMP)
#pragma omp parallel num_threads(static_cast<int>(p.threads))
  Step(p, omp_get_thread_num(), omp_get_num_threads()).run();
#else
  Step(p, 0, 1).run();
#endif
}

}  // namespace decode
