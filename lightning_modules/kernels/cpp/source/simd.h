// Vectors of channels: one lane is one channel, as wide as the instruction set allows, on GCC/Clang vector extensions.
// Only the range reduction of exp2 and max use intrinsics, because compilers do not find those instructions.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SIMD_AVX512
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define KERNEL_INLINE static inline __attribute__((always_inline))
#define KERNEL_MEMBER inline __attribute__((always_inline))
// Fully unrolls the loop that follows; every such loop has a small constant trip count over registers.
#define UNROLL _Pragma("GCC unroll 16")

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, ::simd::IntVec{__VA_ARGS__})
#endif

namespace simd {

// Wider than the registers would be emulated through memory, 15 times slower: the lane count follows the target.
#if defined(SIMD_AVX512)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t UintVec __attribute__((vector_size(kLanes * 4)));
typedef uint16_t HalfVec __attribute__((vector_size(kLanes * 2)));
// Half as many lanes, for sums that must not round.
typedef double DoubleVec __attribute__((vector_size(kLanes * 4)));
typedef double UnalignedDoubleVec __attribute__((vector_size(kLanes * 4), aligned(8), may_alias));
typedef float HalfOfVec __attribute__((vector_size(kLanes * 2), aligned(4), may_alias));
constexpr int kDoubleLanes = kLanes / 2;

// Lanes in use by the block that starts at `channel`.
inline int lanes_at(int64_t channels, int64_t channel) {
  return static_cast<int>(channels - channel < kLanes ? channels - channel : kLanes);
}

struct BFloat16 {
  uint16_t bits;
};

KERNEL_INLINE float to_float(float x) { return x; }
KERNEL_INLINE float to_float(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

KERNEL_INLINE Vec zeros() { return Vec{}; }
// Less a zero: plus one would turn a negative zero around, so compilers would have to add.
KERNEL_INLINE Vec splat(float value) { return value - Vec{}; }

KERNEL_INLINE Vec load(const float* from) { return *reinterpret_cast<const UnalignedVec*>(from); }
KERNEL_INLINE void store(float* to, Vec value) { *reinterpret_cast<UnalignedVec*>(to) = value; }

// Lane by lane to another type of number.
template <typename To, typename From>
KERNEL_INLINE To convert(From value) {
#if (defined(__clang__) || __GNUC__ >= 9) && !defined(SIMD_LANE_BY_LANE)
  return __builtin_convertvector(value, To);
#else
  To result;
  for (unsigned i = 0; i < sizeof(result) / sizeof(result[0]); ++i) result[i] = value[i];
  return result;
#endif
}

// kDoubleLanes numbers.
KERNEL_INLINE DoubleVec load_doubles(const float* from) {
  return convert<DoubleVec>(*reinterpret_cast<const HalfOfVec*>(from));
}
KERNEL_INLINE DoubleVec load(const double* from) { return *reinterpret_cast<const UnalignedDoubleVec*>(from); }
KERNEL_INLINE void store(double* to, DoubleVec value) { *reinterpret_cast<UnalignedDoubleVec*>(to) = value; }

KERNEL_INLINE Vec widen(HalfVec bits) { return reinterpret_cast<Vec>(convert<UintVec>(bits) << 16); }

// Round to nearest even; a NaN stays a NaN.
KERNEL_INLINE HalfVec narrow(Vec value) {
  const UintVec bits = reinterpret_cast<UintVec>(value);
  const UintVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const UintVec quiet_nan = (bits >> 16) | 0x40u;
  return convert<HalfVec>(value == value ? rounded : quiet_nan);
}

// First `count` lanes; the others read as zero and are not written. No branch to memcpy: a call in a loop, even one never
// taken, would cost the registers around it.
#if defined(SIMD_AVX512)
KERNEL_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

KERNEL_INLINE Vec load(const float* from, int count) {
  return reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(first_lanes(count), from));
}
KERNEL_INLINE Vec load(const BFloat16* from, int count) {
  return widen(reinterpret_cast<HalfVec>(_mm256_maskz_loadu_epi16(first_lanes(count), from)));
}
KERNEL_INLINE void store(float* to, Vec value, int count) {
  _mm512_mask_storeu_ps(to, first_lanes(count), reinterpret_cast<__m512>(value));
}
KERNEL_INLINE void store(BFloat16* to, Vec value, int count) {
  _mm256_mask_storeu_epi16(to, first_lanes(count), reinterpret_cast<__m256i>(narrow(value)));
}
#else
KERNEL_INLINE Vec load(const float* from, int count) {
  if (count == kLanes) return load(from);
  Vec value = zeros();
  UNROLL for (int lane = 0; lane < kLanes; ++lane)
    if (lane < count) value[lane] = from[lane];
  return value;
}
KERNEL_INLINE Vec load(const BFloat16* from, int count) {
  HalfVec bits{};
  UNROLL for (int lane = 0; lane < kLanes; ++lane)
    if (lane < count) bits[lane] = from[lane].bits;
  return widen(bits);
}
KERNEL_INLINE void store(float* to, Vec value, int count) {
  if (count == kLanes) return store(to, value);
  UNROLL for (int lane = 0; lane < kLanes; ++lane)
    if (lane < count) to[lane] = value[lane];
}
KERNEL_INLINE void store(BFloat16* to, Vec value, int count) {
  const HalfVec bits = narrow(value);
  UNROLL for (int lane = 0; lane < kLanes; ++lane)
    if (lane < count) to[lane].bits = bits[lane];
}
#endif

KERNEL_INLINE Vec absolute(Vec x) { return reinterpret_cast<Vec>(reinterpret_cast<IntVec>(x) & 0x7fffffff); }

// max(x, 0); 0 for a NaN.
KERNEL_INLINE Vec positive_part(Vec x) {
#if defined(SIMD_AVX512)
  return reinterpret_cast<Vec>(_mm512_max_ps(reinterpret_cast<__m512>(x), _mm512_setzero_ps()));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec>(_mm256_max_ps(reinterpret_cast<__m256>(x), _mm256_setzero_ps()));
#else
  return x > 0.f ? x : zeros();
#endif
}

// x within bounds; a NaN passes, as the instructions return their second operand for one.
KERNEL_INLINE Vec clamp(Vec x, float least, float most) {
#if defined(__AVX2__) && !defined(SIMD_AVX512)
  const __m256 raised = _mm256_max_ps(reinterpret_cast<__m256>(splat(least)), reinterpret_cast<__m256>(x));
  return reinterpret_cast<Vec>(_mm256_min_ps(reinterpret_cast<__m256>(splat(most)), raised));
#elif defined(__SSE2__) && !defined(SIMD_AVX512)
  const __m128 raised = _mm_max_ps(reinterpret_cast<__m128>(splat(least)), reinterpret_cast<__m128>(x));
  return reinterpret_cast<Vec>(_mm_min_ps(reinterpret_cast<__m128>(splat(most)), raised));
#else
  x = x < least ? splat(least) : x;
  return x > most ? splat(most) : x;
#endif
}

// Whether 2^x for |x| up to kBounded, and no NaN, is cheaper than for any x.
#if defined(SIMD_AVX512)
constexpr bool kBoundsHelp = false;
#else
constexpr bool kBoundsHelp = true;
#endif
constexpr float kBounded = 126.f;

// a[j] = 2^x[j]. Several vectors at once: their dependent steps interleave, which keeps the multipliers busy (an
// out-of-order core's scheduler is too small to find that by itself).
// 2^x = 2^n 2^f with a degree-5 polynomial for 2^f, exact at f = 0 so that a decay close to 1 carries no bias through
// thousands of steps. AVX-512 has instructions for n = floor(x) and for the scaling; elsewhere n is the nearest integer,
// to which adding a large number rounds x, leaving n in the last bits, from where a shift takes it to the exponent's.
template <int kCount, bool kWithinBounds = false>
KERNEL_INLINE void exp2_each(const Vec* x, Vec* a) {
#if defined(SIMD_AVX512)
  // On [0, 1), relative error 9e-8, exact at both ends.
  constexpr float kHead[2] = {0.001879318747f, 0.008990994817f};
  constexpr float kTail[4] = {0.05581867624f, 0.2401592714f, 0.6931517388f, 1.0f};
  Vec fraction[kCount], p[kCount];
  UNROLL for (int j = 0; j < kCount; ++j)
    fraction[j] = reinterpret_cast<Vec>(_mm512_reduce_ps(reinterpret_cast<__m512>(x[j]), 1));  // x - floor(x)
#else
  // On [-1/2, 1/2], relative error 9e-8.
  constexpr float kHead[2] = {0.001326472714f, 0.00967151264f};
  constexpr float kTail[4] = {0.05550733743f, 0.2402224209f, 0.6931469776f, 1.0f};
  // 1.5 * 2^23, in units of the last bit; where 2^n is a factor of its own, also the exponent of 1.
  constexpr float kRound = 12582912.f + (kWithinBounds ? 0.f : 127.f);
  Vec shifted[kCount], fraction[kCount], p[kCount];
  UNROLL for (int j = 0; j < kCount; ++j) fraction[j] = kWithinBounds ? x[j] : clamp(x[j], -126.f, 127.f);
  UNROLL for (int j = 0; j < kCount; ++j) shifted[j] = fraction[j] + kRound;
  UNROLL for (int j = 0; j < kCount; ++j) fraction[j] = fraction[j] - (shifted[j] - kRound);
#endif
  UNROLL for (int j = 0; j < kCount; ++j) p[j] = kHead[0] * fraction[j] + kHead[1];
  UNROLL for (int i = 0; i < 4; ++i)
    UNROLL for (int j = 0; j < kCount; ++j) p[j] = p[j] * fraction[j] + kTail[i];
#if defined(SIMD_AVX512)
  UNROLL for (int j = 0; j < kCount; ++j)
    a[j] = reinterpret_cast<Vec>(_mm512_scalef_ps(reinterpret_cast<__m512>(p[j]), reinterpret_cast<__m512>(x[j])));
#else
  UNROLL for (int j = 0; j < kCount; ++j) {
    const IntVec exponent = reinterpret_cast<IntVec>(shifted[j]) << 23;
    a[j] = kWithinBounds ? reinterpret_cast<Vec>(reinterpret_cast<IntVec>(p[j]) + exponent)
                         : p[j] * reinterpret_cast<Vec>(exponent);  // keeps a NaN
  }
#endif
}

// The larger of |x| and `largest`, lane by lane; infinity and NaN count as larger than any number.
KERNEL_INLINE Vec larger_magnitude(Vec largest, Vec x) {
  const IntVec a = reinterpret_cast<IntVec>(largest), b = reinterpret_cast<IntVec>(absolute(x));
  return reinterpret_cast<Vec>(a > b ? a : b);
}

// Whether all lanes of x are at most kBounded; false with a NaN.
KERNEL_INLINE bool within_bounds(Vec x) {
  bool all = true;
  UNROLL for (int lane = 0; lane < kLanes; ++lane) all &= x[lane] <= kBounded;
  return all;
}

constexpr float kLog2E = 1.44269504088896f, kLn2 = 0.693147180559945f;

// Rows worked on at once where each is a long chain of dependent steps, as many as the registers hold.
#if defined(SIMD_AVX512)
constexpr int kInterleaved = 4;
#else
constexpr int kInterleaved = 2;
#endif

// y[j] = 1 / (1 + exp(-x[j]))
template <int kCount>
KERNEL_INLINE void sigmoid_each(const Vec* x, Vec* y) {
  Vec scaled[kCount], e[kCount];
  UNROLL for (int j = 0; j < kCount; ++j) scaled[j] = x[j] * -kLog2E;
  exp2_each<kCount>(scaled, e);
  UNROLL for (int j = 0; j < kCount; ++j) y[j] = 1.f / (1.f + e[j]);
}
KERNEL_INLINE Vec sigmoid(Vec x) {
  Vec y;
  sigmoid_each<1>(&x, &y);
  return y;
}

// softplus(x) = max(x, 0) + log(1 + e), e = exp(-|x|); also e.
// log(1 + e) on [0, 1] is e times a degree-8 minimax polynomial: full relative precision, no division.
template <int kCount>
KERNEL_INLINE void softplus_each(const Vec* x, Vec* y, Vec* e) {
  constexpr float kCoefficients[9] = {0.00523269411f,  -0.02950523728f, 0.07822594782f, -0.136632453f, 0.1910600644f,
                                      -0.2484298211f, 0.3331909679f,  -0.4999949314f, 0.9999999699f};
  Vec scaled[kCount], p[kCount];
  UNROLL for (int j = 0; j < kCount; ++j) scaled[j] = absolute(x[j]) * -kLog2E;
  exp2_each<kCount>(scaled, e);
  UNROLL for (int j = 0; j < kCount; ++j) p[j] = kCoefficients[0] * e[j] + kCoefficients[1];
  UNROLL for (int i = 2; i < 9; ++i)
    UNROLL for (int j = 0; j < kCount; ++j) p[j] = p[j] * e[j] + kCoefficients[i];
  UNROLL for (int j = 0; j < kCount; ++j) y[j] = p[j] * e[j] + positive_part(x[j]);
}
KERNEL_INLINE Vec softplus(Vec x) {
  Vec y, e;
  softplus_each<1>(&x, &y, &e);
  return y;
}

// Derivative of softplus, the sigmoid of x, from e = exp(-|x|).
KERNEL_INLINE Vec softplus_slope(Vec x, Vec e) {
  const Vec r = 1.f / (1.f + e);
  return x < 0.f ? e * r : r;
}

// Sum of the lanes, by halves, which wait for one another least.
template <class T, int kCount>
struct Pack {
  typedef T Type __attribute__((vector_size(kCount * sizeof(T))));
};
template <class T, int kCount>
KERNEL_INLINE T sum_pack(typename Pack<T, kCount>::Type v) {
  if constexpr (kCount == 2) {
    return v[0] + v[1];
  } else if constexpr (kCount * sizeof(T) == 16) {
    return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    typename Pack<T, kCount / 2>::Type low, high;
    std::memcpy(&low, &v, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    return sum_pack<T, kCount / 2>(low + high);
  }
}
KERNEL_INLINE float sum_lanes(Vec v) { return sum_pack<float, kLanes>(v); }
KERNEL_INLINE double sum_lanes(DoubleVec v) { return sum_pack<double, kDoubleLanes>(v); }

// The lanes as doubles, those of the second half added to those of the first.
KERNEL_INLINE DoubleVec fold(Vec v) {
  HalfOfVec halves[2];
  std::memcpy(halves, &v, sizeof v);
  return convert<DoubleVec>(halves[0]) + convert<DoubleVec>(halves[1]);
}

// rows[i][j] <- rows[j][i]. Dealing the lanes of the upper half of the rows between those of the lower half makes a lane's
// lowest bit of a row's highest; as many times as there are bits, and lanes are rows.
template <int kBit = 1>
KERNEL_INLINE void turn(Vec (&rows)[kLanes]) {
  Vec dealt[kLanes];
  UNROLL for (int i = 0; i < kLanes / 2; ++i) {
    const Vec a = rows[i], b = rows[i + kLanes / 2];
#if defined(SIMD_AVX512)
    dealt[2 * i] = SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    dealt[2 * i + 1] = SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
    dealt[2 * i] = SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    dealt[2 * i + 1] = SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
    dealt[2 * i] = SHUFFLE(a, b, 0, 4, 1, 5);
    dealt[2 * i + 1] = SHUFFLE(a, b, 2, 6, 3, 7);
#endif
  }
  UNROLL for (int i = 0; i < kLanes; ++i) rows[i] = dealt[i];
  if constexpr (2 * kBit < kLanes) turn<2 * kBit>(rows);
}

// Horizontal sums of kLanes vectors pushed one after the other: lane q of the result is the sum over vector q's lanes.
// A binary tree of pairwise shuffle-and-add steps, 2 shuffles and 1 addition per vector, no memory.
class LaneSums {
 public:
  // The first steps of the tree alone, for 1, 2 or 4 vectors: adding up many such vectors before `push` is as good as
  // adding up what they were combined from.
  template <int kCount>
  static __attribute__((always_inline)) Vec combine(const Vec* values) {
    if constexpr (kCount == 4)
      return add_pairs<1>(add_pairs<0>(values[0], values[1]), add_pairs<0>(values[2], values[3]));
    else if constexpr (kCount == 2)
      return add_pairs<0>(values[0], values[1]);
    else
      return values[0];
  }

  // The vectors from number kIndex (0 at first) on, kCount of them combined; the last ones leave the sums in `result`.
  template <int kIndex, int kCount = 1>
  __attribute__((always_inline)) void push(Vec combined) {
    push_level<kIndex, kCount / 2>(combined);
  }
  Vec result;

 private:
  static constexpr int kLevels = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;
  Vec waiting_[kLevels];

  template <int kIndex, int kLevel>
  __attribute__((always_inline)) void push_level(Vec value) {
    if constexpr (kLevel == kLevels) {
      result = value;
    } else if constexpr (((kIndex >> kLevel) & 1) == 0) {
      waiting_[kLevel] = value;
    } else {
      push_level<kIndex, kLevel + 1>(add_pairs<kLevel>(waiting_[kLevel], value));
    }
  }

  template <int kLevel>
  static __attribute__((always_inline)) Vec add_pairs(Vec a, Vec b) {
#if defined(SIMD_AVX512)
    if constexpr (kLevel == 0)
      return SHUFFLE(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
             SHUFFLE(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    else if constexpr (kLevel == 1)
      return SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
             SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    else
      return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
             SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#elif defined(__AVX2__)
    if constexpr (kLevel == 0)
      return SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13) + SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    else if constexpr (kLevel == 1)
      return SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    else
      return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
#else
    if constexpr (kLevel == 0)
      return SHUFFLE(a, b, 0, 4, 1, 5) + SHUFFLE(a, b, 2, 6, 3, 7);
    else
      return SHUFFLE(a, b, 0, 1, 4, 5) + SHUFFLE(a, b, 2, 3, 6, 7);
#endif
  }
};

}  // namespace simd
