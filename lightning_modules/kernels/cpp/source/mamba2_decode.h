// Arguments of mamba2_decode.cpp, filled in by ../mamba2_decode.py.
//
// Shapes: B samples, M model width, D inner width = H heads of P channels, N states, k taps, V vocabulary,
// W = D + 2N convolved channels, R = D + W + H rows of the input projection (z, x, B, C, dt).
#pragma once

#include <cstdint>

namespace mamba2 {

struct Layer {
  const void* in_proj;     // (R, M), like all matrices in the type of decoding
  const void* out_proj;    // (M, D)
  const float* taps;       // (k, W): the convolution's weight, channels last
  const float* conv_bias;  // (W)
  const float* dt_bias;    // (H)
  const float* A;          // (H)
  const float* skip;       // (H)
  const float* norm;       // (D)
  const float *shift, *scale, *gate;  // (B, M), the norm's weight inside the scale
  void* window;            // (B, k - 1, W), in the type of decoding, oldest first, moves on
  float* state;            // (B, H, P, N), moves on
};

struct Arguments {
  int64_t batch, width, inner, heads, states, taps, vocabulary, layers, threads;
  float epsilon;
  const Layer* layer;
  const float* norm;                        // (M)
  const float *final_shift, *final_scale;   // (B, M)
  const void* head;                         // (V, M)
  float* residual;                          // (B, M), overwritten
  float* scratch;                           // B (R + W + D) floats, and (B + 1) max(M, D) per thread
  float* logits;                            // (B, V)
};

}  // namespace mamba2
