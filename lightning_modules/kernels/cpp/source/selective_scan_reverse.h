// Selective scan, backward: one group of states over one chunk of one block, in registers.
#pragma once

#include "selective_scan.h"

namespace scan {
namespace {

// What one chunk of one block keeps per position, in visiting order.
struct ChunkRows {
  alignas(64) float dt[kChunk * kLanes], x[kChunk * kLanes], u[kChunk * kLanes], grad_y[kChunk * kLanes];
  alignas(64) float softplus_slope[kChunk * kLanes];
  alignas(64) float grad_x[kChunk * kLanes];         // sum over states of grad_h B
  alignas(64) float grad_exponent[kChunk * kLanes];  // sum over states of (dL/d exponent) A log2(e)
  const float *B[kChunk], *C[kChunk];
  float *grad_B[kChunk], *grad_C[kChunk];
  int64_t position[kChunk];
};

// States (after each position; slot 0 before the first) and decays of one group of states over a chunk: 16 KiB.
struct Trace {
  alignas(64) float h[(kChunk + 1) * kGroup * kLanes];
  alignas(64) float a[kChunk * kGroup * kLanes];
};

template <int kStates, bool kWithinBounds>
void recompute(const float* rates, const float* state, const ChunkRows& rows, int64_t first, int count,
               Ahead::Cursor& ahead_of_task, Trace& trace) {
  Ahead::Cursor ahead = ahead_of_task;
  Vec h[kStates], rate[kStates];
  UNROLL for (int j = 0; j < kStates; ++j) {
    h[j] = simd::load(state + j * kLanes);
    rate[j] = simd::load(rates + j * kLanes);
    simd::store(trace.h + j * kLanes, h[j]);
  }
  for (int i = 0; i < count; ++i) {
    const Vec dt = simd::load(rows.dt + i * kLanes), x = simd::load(rows.x + i * kLanes);
    const float* B = rows.B[i] + first;
    ahead.step();
    Vec exponent[kStates], a[kStates];
    UNROLL for (int j = 0; j < kStates; ++j) exponent[j] = dt * rate[j];
    simd::exp2_each<kStates, kWithinBounds>(exponent, a);
    UNROLL for (int j = 0; j < kStates; ++j) {
      h[j] = a[j] * h[j] + x * B[j];
      simd::store(trace.a + (i * kStates + j) * kLanes, a[j]);
      simd::store(trace.h + ((i + 1) * kStates + j) * kLanes, h[j]);
    }
  }
  ahead_of_task = ahead;
}

// Gradients of one group of states over a chunk. `sums`: products whose sums over channels are the gradients of C and B,
// (position, C or B, kLanes), where a vector holds all states of the group (LaneSums::combine), so that those of a chunk
// stay in the L1 cache. They are added to block by block: adding up the lanes waits until all blocks are through.
// kFirst: this block's are the first, and take the place of what is there.
template <int kStates, bool kFirst>
void reverse(const float* rates, float* carries, float* grads_A, ChunkRows& rows, const Trace& trace, int64_t first, int count,
             float* sums) {
  Vec carry[kStates];   // dL/dh flowing back through the decay
  Vec grad_A[kStates];  // sum over positions of (dL/d exponent) dt
  Vec rate[kStates];
  Vec h[kStates];       // state after the position at hand
  UNROLL for (int j = 0; j < kStates; ++j) {
    carry[j] = simd::load(carries + j * kLanes);
    grad_A[j] = simd::load(grads_A + j * kLanes);
    rate[j] = simd::load(rates + j * kLanes);
    h[j] = simd::load(trace.h + (count * kStates + j) * kLanes);
  }
  for (int i = count - 1; i >= 0; --i) {
    const Vec dt = simd::load(rows.dt + i * kLanes), x = simd::load(rows.x + i * kLanes);
    const Vec grad_y = simd::load(rows.grad_y + i * kLanes);
    const float *B = rows.B[i] + first, *C = rows.C[i] + first;
    Vec grad_x = simd::load(rows.grad_x + i * kLanes), grad_exponent = simd::load(rows.grad_exponent + i * kLanes);
    Vec for_B[kStates], for_C[kStates];
    UNROLL for (int j = 0; j < kStates; ++j) for_C[j] = grad_y * h[j];
    const Vec sum_C = simd::LaneSums::combine<kStates>(for_C);
    UNROLL for (int j = 0; j < kStates; ++j) {
      const int at = (i * kStates + j) * kLanes;
      const Vec grad_h = carry[j] + grad_y * C[j];
      for_B[j] = grad_h * x;
      h[j] = simd::load(trace.h + at);
      grad_x += grad_h * B[j];
      carry[j] = grad_h * simd::load(trace.a + at);
      const Vec through_decay = carry[j] * h[j];
      grad_exponent += through_decay * rate[j];
      grad_A[j] += through_decay * dt;
    }
    const Vec sum_B = simd::LaneSums::combine<kStates>(for_B);
    float* const sum = sums + 2 * i * kLanes;
    simd::store(sum, kFirst ? sum_C : simd::load(sum) + sum_C);
    simd::store(sum + kLanes, kFirst ? sum_B : simd::load(sum + kLanes) + sum_B);
    simd::store(rows.grad_x + i * kLanes, grad_x);
    simd::store(rows.grad_exponent + i * kLanes, grad_exponent);
  }
  UNROLL for (int j = 0; j < kStates; ++j) {
    simd::store(carries + j * kLanes, carry[j]);
    simd::store(grads_A + j * kLanes, grad_A[j]);
  }
}

// The sums of kLanes (position, state) pairs, a vector per position, `step` floats apart, to one lane each.
template <int kStates, int kIndex = 0>
KERNEL_INLINE void add_lanes(simd::LaneSums& lanes, const float* sums, int step) {
  lanes.template push<kIndex, kStates>(simd::load(sums + kIndex / kStates * step));
  if constexpr (kIndex + kStates < kLanes) add_lanes<kStates, kIndex + kStates>(lanes, sums, step);
}

// Ends the sums of one group of states: lanes are added up into the rows' gradients.
template <int kStates>
void finish_sums(float* sums, const ChunkRows& rows, int64_t first, int count) {
  constexpr int kTile = kLanes / kStates;  // positions
  for (int start = 0; start < count; start += kTile) {
    float* products = sums + 2 * start * kLanes;
    simd::LaneSums sums_C, sums_B;
    add_lanes<kStates>(sums_C, products, 2 * kLanes);
    add_lanes<kStates>(sums_B, products + kLanes, 2 * kLanes);
    alignas(64) float totals_C[kLanes], totals_B[kLanes];
    simd::store(totals_C, sums_C.result);
    simd::store(totals_B, sums_B.result);
    for (int i = start, end = std::min(start + kTile, count); i < end; ++i) {
      std::copy_n(totals_C + (i - start) * kStates, kStates, rows.grad_C[i] + first);
      std::copy_n(totals_B + (i - start) * kStates, kStates, rows.grad_B[i] + first);
    }
  }
}

}  // namespace
}  // namespace scan
