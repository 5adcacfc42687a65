// Selective scan: what the forward and the backward kernel share.
//
// Sizes: B batch, K directions, L positions, C channels, N states. Channel-last: channels are contiguous, lanes of vectors.
// A "block" is simd::kLanes channels, a "chunk" kChunk positions of one direction in visiting order. Inside a chunk the
// loop nest is: groups of up to 4 states outside, positions inside, so that a group's states, decays and gradients live in
// registers, and whatever is per position (time step, input, output) waits in a small L1-resident array.
#pragma once

#include "parallel.h"
#include "simd.h"

namespace scan {

using simd::Vec;
using simd::kLanes;
using parallel::Buffer;
using parallel::Grouping;

// Strides in elements; the channel stride is 1. `direction` is 0 where the directions share a tensor.
struct Strides {
  int64_t batch, direction, position;
  int64_t offset(int64_t b, int64_t k, int64_t position_index) const {
    return b * batch + k * direction + position_index * position;
  }
};

// Filled field by field by _call in selective_scan.py.
struct Arguments {
  int64_t batch, directions, length, channels, states;
  int64_t threads;
  int64_t softplus;        // 1: dt = softplus(delta + delta_bias)
  int64_t stack;           // 1: y is (B, K, L, C); 0: y is (B, L, C), the sum over directions
  int64_t shared_input;    // 1: u is (B, L, C), one for all directions
  Strides u_strides, delta_strides, B_strides, C_strides, z_strides, grad_y_strides;
  // Inputs. Elements of type T (float or bfloat16): u, delta, z, grad_y, and of outputs y, ungated, grad_delta.
  const void *u, *delta;
  const float *A, *B, *C;
  const float *D;              // (K, C) or null
  const void *z;               // or null
  const float *delta_bias;     // (K, C) or null
  const float *initial_state;  // (B, K, C, N) or null
  const int32_t *order;        // (K, L) permutations, or null
  const uint8_t *reverse;      // (K), read where order is null
  // Forward results, contiguous.
  void *y;
  float *final_state;  // (B, K, C, N) or null
  void *ungated;       // y before the gate, wanted for the backward of z; or null
  float *checkpoints;  // state at the start of every chunk: (B, K, chunks, blocks, N, kLanes), or null
  // Backward: gradients in, gradients out (contiguous; where the matching input is null, so is its gradient).
  const void *grad_y;
  const float *grad_final_state;
  float *grad_u;  // (B, 1 or K, L, C)
  void *grad_delta;
  float *grad_A, *grad_B, *grad_C, *grad_D, *grad_z, *grad_delta_bias, *grad_initial_state;
};

// A multiple of kLanes, so that the backward's tiles of kLanes (position, state) pairs fill it. Longer chunks store fewer
// checkpoints but leave the L1 cache.
constexpr int kChunk = 32;
// States held in registers at once; 4 interleaved exponentials saturate the multipliers.
constexpr int kGroup = 4;

struct Extent {
  int64_t blocks, chunks;
  explicit Extent(const Arguments& p)
      : blocks((p.channels + kLanes - 1) / kLanes), chunks((p.length + kChunk - 1) / kChunk) {}
};

// Lanes in use by the block that starts at `channel`.
inline int lanes_at(const Arguments& p, int64_t channel) { return simd::lanes_at(p.channels, channel); }

// Storage position that direction k visits at a step.
KERNEL_INLINE int64_t visited(const Arguments& p, int64_t k, int64_t step) {
  if (p.order) return p.order[k * p.length + step];
  return p.reverse[k] ? p.length - 1 - step : step;
}

inline int64_t checkpoint_offset(const Arguments& p, const Extent& e, int64_t b, int64_t k, int64_t chunk, int64_t block) {
  return (((b * p.directions + k) * e.chunks + chunk) * e.blocks + block) * p.states * kLanes;
}

// A log2(e), packed (K, blocks, N + 1, kLanes): exp(dt A) = 2^(dt A log2(e)), and one load serves a whole block. Behind a
// block's N states stands the largest magnitude among them.
struct Rates {
  Buffer packed;
  int64_t vectors;  // per block
  explicit Rates(const Arguments& p, const Extent& e)
      : packed(parallel::allocate(p.directions * e.blocks * (p.states + 1) * kLanes)), vectors((p.states + 1) * kLanes) {}
  const float* of(int64_t row) const { return packed.get() + row * vectors; }
};

inline void pack_decay_rates(const Arguments& p, const Extent& e, const Rates& rates) {
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(p.threads)) \
    if (p.directions * p.channels * p.states > 65536)
  for (int64_t row = 0; row < p.directions * e.blocks; ++row) {
    const int64_t k = row / e.blocks, channel = row % e.blocks * kLanes;
    const int lanes = lanes_at(p, channel);
    float* to = rates.packed.get() + row * rates.vectors;
    std::fill(to, to + rates.vectors, 0.f);
    for (int lane = 0; lane < lanes; ++lane)
      for (int64_t n = 0; n < p.states; ++n)
        to[n * kLanes + lane] = p.A[(k * p.channels + channel + lane) * p.states + n] * simd::kLog2E;
    Vec largest = simd::zeros();
    for (int64_t n = 0; n < p.states; ++n) largest = simd::larger_magnitude(largest, simd::load(to + n * kLanes));
    simd::store(to + p.states * kLanes, largest);
  }
}

// One block's states between (C, N) rows of an outside tensor and (N, kLanes) vectors.
inline void gather_states(const float* rows, int64_t states, int lanes, float* vectors) {
  std::fill(vectors, vectors + states * kLanes, 0.f);
  if (!rows) return;
  for (int lane = 0; lane < lanes; ++lane)
    for (int64_t n = 0; n < states; ++n) vectors[n * kLanes + lane] = rows[lane * states + n];
}
inline void scatter_states(const float* vectors, int64_t states, int lanes, float* rows) {
  for (int lane = 0; lane < lanes; ++lane)
    for (int64_t n = 0; n < states; ++n) rows[lane * states + n] = vectors[n * kLanes + lane];
}

// Calls run(integral_constant<count>, bool_constant<bounded>, first) for groups of 4, then 2, then 1 states that cover
// [0, states).
template <bool kWithinBounds, class Run>
KERNEL_INLINE void for_state_groups(int64_t states, Run&& run) {
  const std::bool_constant<kWithinBounds> bounded;
  int64_t first = 0;
  for (; first + kGroup <= states; first += kGroup) run(std::integral_constant<int, kGroup>{}, bounded, first);
  if (first + 2 <= states) run(std::integral_constant<int, 2>{}, bounded, first), first += 2;
  if (first < states) run(std::integral_constant<int, 1>{}, bounded, first);
}
// bounded: whether every exponent of the chunk is within simd::kBounded.
template <class Run>
KERNEL_INLINE void for_state_groups(int64_t states, bool bounded, Run&& run) {
  if (simd::kBoundsHelp && bounded)
    for_state_groups<simd::kBoundsHelp>(states, run);
  else
    for_state_groups<false>(states, run);
}

inline int64_t state_groups(const Arguments& p) { return (p.states + kGroup - 1) / kGroup; }

// Calls run(integral_constant<rows>, first) for interleaved rows, then single ones, that cover [0, count).
template <class Run>
KERNEL_INLINE void for_rows(int count, Run&& run) {
  int first = 0;
  for (; first + simd::kInterleaved <= count; first += simd::kInterleaved)
    run(std::integral_constant<int, simd::kInterleaved>{}, first);
  for (; first < count; ++first) run(std::integral_constant<int, 1>{}, first);
}

// Whether every row of `order` visits every position exactly once: anything else would read or write outside.
inline bool is_permutation(const Arguments& p) {
  if (!p.order) return true;
  std::unique_ptr<uint8_t[]> seen(new uint8_t[p.length]);
  for (int64_t k = 0; k < p.directions; ++k) {
    std::memset(seen.get(), 0, p.length);
    for (int64_t i = 0; i < p.length; ++i) {
      const int64_t position = p.order[k * p.length + i];
      if (position < 0 || position >= p.length || seen[position]++) return false;
    }
  }
  return true;
}

// The rows of the chunk that a task comes to next, for all blocks of its group, fetched line by line during the arithmetic
// of the chunk at hand, which leaves the load units idle. Row after row, since a hardware prefetcher that sees a row's first
// lines joins in: blocks side by side would ask for one line per row, pages apart, and a core waits for few of its own
// misses at once. Where there is a power of two between rows they share few sets of the L1 cache, so that they wait in the
// next one.
class Ahead {
  static constexpr int kSecondLevel = 2;  // of __builtin_prefetch
  static constexpr int kMostTensors = 8, kLine = 64;
  struct Row {
    const char* from;
    int64_t bytes;
  };

 public:
  // How far the fetching has come. Copied to registers while a group of states is at work.
  class Cursor {
   public:
    // At every step of a group of states.
    KERNEL_MEMBER void step() {
      for (int line = 0; line < lines_per_step_ && row_ < end_; ++line) {
        __builtin_prefetch(row_->from + at_, 0, kSecondLevel);
        at_ += kLine;
        if (at_ >= row_->bytes) at_ = 0, ++row_;
      }
    }

   private:
    friend class Ahead;
    const Row *row_ = nullptr, *end_ = nullptr;
    int64_t at_ = 0;
    int lines_per_step_ = 0;
  };

  // Forgets the rows and takes up others: `count` (at most kChunk) storage positions, valid while tensors are added.
  void point_to(const int64_t* positions, int count) {
    positions_ = positions, positions_count_ = count;
    rows_count_ = 0, lines_ = 0;
  }
  // One more tensor: its row of the group at storage position 0, its elements in a row and those between rows.
  template <class T>
  void add(const T* first, int64_t elements, int64_t stride) {
    const int64_t bytes = elements * static_cast<int64_t>(sizeof(T));
    for (int i = 0; i < positions_count_; ++i)
      rows_[rows_count_++] = {reinterpret_cast<const char*>(first + positions_[i] * stride), bytes};
    lines_ += positions_count_ * ((bytes + kLine - 1) / kLine);
  }
  // Spreads the lines over `steps` steps.
  void spread(int64_t steps) {
    cursor.row_ = rows_, cursor.end_ = rows_ + rows_count_, cursor.at_ = 0;
    cursor.lines_per_step_ = static_cast<int>((lines_ + steps - 1) / steps);
  }

  Cursor cursor;

 private:
  Row rows_[kChunk * kMostTensors];
  const int64_t* positions_ = nullptr;
  int positions_count_ = 0, rows_count_ = 0;
  int64_t lines_ = 0;
};

// The states of one group in a checkpoint, for reading or for writing.
template <int kStates, bool kWrite>
KERNEL_INLINE void prefetch_states(const float* states) {
  UNROLL for (int j = 0; j < kStates; ++j) __builtin_prefetch(states + j * kLanes, kWrite);
}

// Where one batch element's rows of one direction lie. T: element type of u, delta, z.
template <class T>
class Rows {
 protected:
  const Arguments& p_;
  int64_t b_ = 0, k_ = 0;

  explicit Rows(const Arguments& p) : p_(p) {}

  const T* u(int64_t position, int64_t channel) const {
    return static_cast<const T*>(p_.u) + p_.u_strides.offset(b_, k_, position) + channel;
  }
  const T* delta(int64_t position, int64_t channel) const {
    return static_cast<const T*>(p_.delta) + p_.delta_strides.offset(b_, k_, position) + channel;
  }
  const T* z(int64_t position, int64_t channel) const {
    return static_cast<const T*>(p_.z) + p_.z_strides.offset(b_, 0, position) + channel;
  }
  // Offset of a row of a contiguous (B, K, L, C) tensor, or of a (B, L, C) one.
  int64_t contiguous(bool per_direction, int64_t position, int64_t channel) const {
    return ((per_direction ? b_ * p_.directions + k_ : b_) * p_.length + position) * p_.channels + channel;
  }
  int64_t state_row(int64_t channel) const { return ((b_ * p_.directions + k_) * p_.channels + channel) * p_.states; }
};

}  // namespace scan
