// Selective scan, backward: one group of states over one chunk of one block, in registers.
#pragma once

#include "selective_scan.h"

namespace scan {
namespace {

// What one chunk of one block keeps per position, in visiting order. Rows beyond the last position, up to a whole tile,
// are the identity: no input, no gradient, decay 1.
struct ChunkRows {
  alignas(64) float dt[kChunk * kLanes], x[kChunk * kLanes], u[kChunk * kLanes], grad_y[kChunk * kLanes];
  alignas(64) float softplus_slope[kChunk * kLanes];
  alignas(64) float grad_x[kChunk * kLanes];         // sum over states of grad_h B
  alignas(64) float grad_exponent[kChunk * kLanes];  // sum over states of (dL/d exponent) A log2(e)
  const float *B[kChunk], *C[kChunk];
  float *grad_B[kChunk], *grad_C[kChunk];
  bool add;  // to these, rather than begin them
  int64_t position[kChunk], following[kChunk];  // of this chunk and of the one before, which is next
};

// States (after each position; slot 0 before the first) and decays of one group of states over a chunk: 16 KiB.
struct Trace {
  alignas(64) float h[(kChunk + 1) * kGroup * kLanes];
  alignas(64) float a[kChunk * kGroup * kLanes];
};

template <int kStates, bool kWithinBounds>
void recompute(const float* rates, const float* state, const ChunkRows& rows, int64_t first, int count, Trace& trace) {
  Vec h[kStates], rate[kStates];
  UNROLL for (int j = 0; j < kStates; ++j) {
    h[j] = simd::load(state + j * kLanes);
    rate[j] = simd::load(rates + j * kLanes);
    simd::store(trace.h + j * kLanes, h[j]);
  }
  for (int i = 0; i < count; ++i) {
    const Vec dt = simd::load(rows.dt + i * kLanes), x = simd::load(rows.x + i * kLanes);
    const float* B = rows.B[i] + first;
    Vec exponent[kStates], a[kStates];
    UNROLL for (int j = 0; j < kStates; ++j) exponent[j] = dt * rate[j];
    simd::exp2_each<kStates, kWithinBounds>(exponent, a);
    UNROLL for (int j = 0; j < kStates; ++j) {
      h[j] = a[j] * h[j] + x * B[j];
      simd::store(trace.a + (i * kStates + j) * kLanes, a[j]);
      simd::store(trace.h + ((i + 1) * kStates + j) * kLanes, h[j]);
    }
  }
}

// Gradient of one group of states, registers only.
template <int kStates>
struct Gradients {
  Vec carry[kStates];   // dL/dh flowing back through the decay
  Vec grad_A[kStates];  // sum over positions of (dL/d exponent) dt
  Vec rate[kStates];
  Vec h[kStates];       // state after the position at hand
};

// kLanes (position, state) pairs: as many as one LaneSums tree holds. Positions kTile - 1 - kPair / kStates of the tile at
// `start`, states kPair % kStates; kPair counts up from 0.
template <int kStates, int kPair>
KERNEL_INLINE void reverse_pairs(Gradients<kStates>& g, ChunkRows& rows, const Trace& trace, int64_t first, int start,
                                 simd::LaneSums& sums_B, simd::LaneSums& sums_C, Vec grad_x, Vec grad_exponent) {
  constexpr int kTile = kLanes / kStates, j = kPair % kStates;
  const int i = start + kTile - 1 - kPair / kStates;
  const Vec dt = simd::load(rows.dt + i * kLanes), grad_y = simd::load(rows.grad_y + i * kLanes);
  const Vec grad_h = g.carry[j] + grad_y * rows.C[i][first + j];
  sums_C.template push<kPair>(grad_y * g.h[j]);
  g.h[j] = simd::load(trace.h + (i * kStates + j) * kLanes);
  sums_B.template push<kPair>(grad_h * simd::load(rows.x + i * kLanes));
  grad_x += grad_h * rows.B[i][first + j];
  g.carry[j] = grad_h * simd::load(trace.a + (i * kStates + j) * kLanes);
  const Vec through_decay = g.carry[j] * g.h[j];
  grad_exponent += through_decay * g.rate[j];
  g.grad_A[j] += through_decay * dt;
  if constexpr (j == kStates - 1) {
    simd::store(rows.grad_x + i * kLanes, simd::load(rows.grad_x + i * kLanes) + grad_x);
    simd::store(rows.grad_exponent + i * kLanes, simd::load(rows.grad_exponent + i * kLanes) + grad_exponent);
    grad_x = grad_exponent = simd::zeros();
  }
  if constexpr (kPair + 1 < kLanes)
    reverse_pairs<kStates, kPair + 1>(g, rows, trace, first, start, sums_B, sums_C, grad_x, grad_exponent);
}

// The first block of a group leaves its sums, the others add theirs.
template <int kStates>
KERNEL_INLINE void put_row(float* row, const float* sums, bool add) {
  typedef float Part __attribute__((vector_size(kStates * 4), aligned(4), may_alias));
  Part sum = *reinterpret_cast<const Part*>(sums);
  if (add) sum += *reinterpret_cast<const Part*>(row);
  *reinterpret_cast<Part*>(row) = sum;
}

template <int kStates>
void reverse(const float* rates, float* carry, float* grad_A, ChunkRows& rows, const Trace& trace, int64_t first, int count) {
  constexpr int kTile = kLanes / kStates;
  Gradients<kStates> g;
  UNROLL for (int j = 0; j < kStates; ++j) {
    g.carry[j] = simd::load(carry + j * kLanes);
    g.grad_A[j] = simd::load(grad_A + j * kLanes);
    g.rate[j] = simd::load(rates + j * kLanes);
  }
  const int padded = (count + kTile - 1) / kTile * kTile;
  UNROLL for (int j = 0; j < kStates; ++j) g.h[j] = simd::load(trace.h + (padded * kStates + j) * kLanes);
  for (int start = padded - kTile; start >= 0; start -= kTile) {
    simd::LaneSums sums_B, sums_C;
    reverse_pairs<kStates, 0>(g, rows, trace, first, start, sums_B, sums_C, simd::zeros(), simd::zeros());
    alignas(64) float pairs_B[kLanes], pairs_C[kLanes];
    simd::store(pairs_B, sums_B.result);
    simd::store(pairs_C, sums_C.result);
    for (int i = start, end = std::min(start + kTile, count); i < end; ++i) {
      const int pair = (kTile - 1 - (i - start)) * kStates;
      put_row<kStates>(rows.grad_B[i] + first, pairs_B + pair, rows.add);
      put_row<kStates>(rows.grad_C[i] + first, pairs_C + pair, rows.add);
    }
  }
  UNROLL for (int j = 0; j < kStates; ++j) {
    simd::store(carry + j * kLanes, g.carry[j]);
    simd::store(grad_A + j * kLanes, g.grad_A[j]);
  }
}

}  // namespace
}  // namespace scan
