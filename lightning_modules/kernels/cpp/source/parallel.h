// Threads, scratch memory and how channels are cut into tasks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "simd.h"

namespace parallel {

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
typedef std::unique_ptr<float, FreeDeleter> Buffer;

// `count` floats on a cache line boundary; null where memory ran out.
inline Buffer allocate(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
  return Buffer(static_cast<float*>(std::aligned_alloc(64, bytes > 0 ? bytes : 64)));
}

// Consecutive channel blocks that one task walks side by side, so that it reads whole stretches of a row: as many as leave
// every thread some tasks, up to 256 channels. Blocks come in units of `unit`, which a task does not cut.
struct Grouping {
  static constexpr int64_t kMaxBlocks = 256 / simd::kLanes, kTasksPerThread = 2;
  int64_t blocks_per_group, groups;
  Grouping(int64_t batch, int64_t blocks, int64_t threads, int64_t unit = 1) {
    const int64_t most = std::clamp<int64_t>(batch * blocks / (kTasksPerThread * threads), 1, kMaxBlocks);
    blocks_per_group = std::max(most / unit, int64_t{1}) * unit;
    groups = (blocks + blocks_per_group - 1) / blocks_per_group;
  }
};

// Positions in chunks of a size of their own, so that sums over a chunk are the same for any number of threads.
struct Chunks {
  static constexpr int64_t kPositions = 32;
  const int64_t length, per_sequence, count;
  Chunks(int64_t batch, int64_t length)
      : length(length), per_sequence((length + kPositions - 1) / kPositions), count(batch * per_sequence) {}
  int64_t batch(int64_t chunk) const { return chunk / per_sequence; }
  int64_t first(int64_t chunk) const { return chunk % per_sequence * kPositions; }
  int64_t last(int64_t chunk) const { return std::min(first(chunk) + kPositions, length); }
};

inline int64_t thread_index() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// What the C functions return; Python turns it into an exception.
enum Status : int { kDone = 0, kBadOrder = 1, kOutOfMemory = 2, kUnsupported = 3 };

}  // namespace parallel
