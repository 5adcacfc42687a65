// Single-step updates: the arguments of their C functions, filled field by field in state_update.py.
#pragma once

#include <cstdint>

namespace step {

// All tensors contiguous. Elements of type T: u, delta, z, y.
struct Arguments {
  int64_t batch, channels, states, threads, softplus;
  float* state;  // (B, C, N), updated in place
  const void *u, *delta;
  const float *A, *B, *C, *D;  // (C, N), (B, N), (B, N), (C) or null
  const void* z;               // (B, C) or null
  const float* delta_bias;     // (C) or null
  void* y;                     // (B, C)
};

// Elements of type T: window, x.
struct ConvArguments {
  int64_t batch, channels, taps, silu;
  void* window;  // (B, k - 1, C), updated in place
  const void* x;
  const float *weight, *bias;  // (C, k), (C) or null
  float* y;                    // (B, C)
};

}  // namespace step
