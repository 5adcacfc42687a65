// What this processor can do at best: the yardsticks the benchmarks measure the kernels against.
#include "parallel.h"
#include "simd.h"

namespace {

using simd::kLanes;
using simd::Vec;

// Enough independent chains to cover the latency of two multiply-add units.
constexpr int kChains = 12;

}  // namespace

// Runs `repeats` rounds of kChains vector multiply-adds on each thread; returns a value that depends on all of them, so that
// none is optimised away.
extern "C" float machine_multiply_add(int64_t repeats, int64_t threads) {
  float total = 0.f;
#pragma omp parallel num_threads(static_cast<int>(threads)) reduction(+ : total)
  {
    Vec chain[kChains];
    UNROLL for (int i = 0; i < kChains; ++i) chain[i] = simd::splat(static_cast<float>(i));
    const Vec scale = simd::splat(0.999f), shift = simd::splat(0.001f);
    for (int64_t r = 0; r < repeats; ++r) {
      UNROLL for (int i = 0; i < kChains; ++i) chain[i] = chain[i] * scale + shift;
#if defined(__GNUC__) && defined(__x86_64__)
      // Keeps the compiler from merging rounds, with every chain in its register.
      asm volatile("" : "+v"(chain[0]), "+v"(chain[1]), "+v"(chain[2]), "+v"(chain[3]), "+v"(chain[4]), "+v"(chain[5]));
      asm volatile("" : "+v"(chain[6]), "+v"(chain[7]), "+v"(chain[8]), "+v"(chain[9]), "+v"(chain[10]), "+v"(chain[11]));
#endif
    }
    UNROLL for (int i = 0; i < kChains; ++i) total += chain[i][0];
  }
  return total;
}

// Multiply-adds per repeat, thread and lane.
extern "C" int machine_chains() { return kChains; }

// Sum of `count` floats, read once from memory by all threads.
extern "C" float machine_read(const float* data, int64_t count, int64_t threads) {
  float total = 0.f;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads)) reduction(+ : total)
  for (int64_t block = 0; block < count / 4096; ++block) {
    Vec sums[8] = {};
    for (int64_t i = 0; i < 4096; i += 8 * kLanes)
      UNROLL for (int j = 0; j < 8; ++j) sums[j] += simd::load(data + block * 4096 + i + j * kLanes);
    UNROLL for (int j = 0; j < 8; ++j) total += sums[j][0];
  }
  return total;
}
