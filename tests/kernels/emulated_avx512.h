// The AVX-512 intrinsics that the kernels use, lane by lane in plain C++, so that their code for AVX-512 runs on any
// processor. Included ahead of all else in place of the compiler's own header.
#pragma once
#define _IMMINTRIN_H_INCLUDED

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#define __AVX512F__ 1
#define __AVX512DQ__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512BF16__ 1

typedef float __m512 __attribute__((vector_size(64)));
typedef int64_t __m512i __attribute__((vector_size(64)));
typedef uint16_t __m512bh __attribute__((vector_size(64)));
typedef int64_t __m256i __attribute__((vector_size(32)));
typedef uint16_t __mmask16;

namespace emulated {

typedef uint16_t Halves __attribute__((vector_size(32)));

template <class Vector, class Lane>
Vector masked_load(__mmask16 mask, const void* from) {
  Vector value{};
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) value[i] = static_cast<const Lane*>(from)[i];
  return value;
}

template <class Vector, class Lane>
void masked_store(void* to, __mmask16 mask, Vector value) {
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) static_cast<Lane*>(to)[i] = value[i];
}

inline float widened(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

}  // namespace emulated

inline __m512 _mm512_setzero_ps() { return __m512{}; }
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* from) {
  return emulated::masked_load<__m512, float>(mask, from);
}
inline void _mm512_mask_storeu_ps(void* to, __mmask16 mask, __m512 value) {
  emulated::masked_store<__m512, float>(to, mask, value);
}
inline __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void* from) {
  return reinterpret_cast<__m256i>(emulated::masked_load<emulated::Halves, uint16_t>(mask, from));
}
inline void _mm256_mask_storeu_epi16(void* to, __mmask16 mask, __m256i value) {
  emulated::masked_store<emulated::Halves, uint16_t>(to, mask, reinterpret_cast<emulated::Halves>(value));
}

// The second operand where one is a NaN.
inline __m512 _mm512_max_ps(__m512 a, __m512 b) {
  for (int i = 0; i < 16; ++i) a[i] = a[i] > b[i] ? a[i] : b[i];
  return a;
}

// x - floor(x); 0 for an infinity.
inline __m512 _mm512_reduce_ps(__m512 x, int /* rounding: down */) {
  for (int i = 0; i < 16; ++i) x[i] = std::isinf(x[i]) ? 0.f : x[i] - std::floor(x[i]);
  return x;
}

// a 2^floor(b)
inline __m512 _mm512_scalef_ps(__m512 a, __m512 b) {
  for (int i = 0; i < 16; ++i) {
    const float bounded = b[i] < -1000.f ? -1000.f : b[i] > 1000.f ? 1000.f : b[i];
    a[i] = std::isnan(b[i]) ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(a[i], static_cast<int>(std::floor(bounded)));
  }
  return a;
}

inline __m512i _mm512_loadu_si512(const void* from) {
  __m512i value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// sum + pairs of products
inline __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  for (int i = 0; i < 16; ++i)
    for (int half = 1; half >= 0; --half) sum[i] += emulated::widened(a[2 * i + half]) * emulated::widened(b[2 * i + half]);
  return sum;
}
