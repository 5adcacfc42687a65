// Arguments of transformer_decode.cpp, filled in by ../transformer_decode.py.
//
// Shapes: B samples, M model width = H heads of E channels, F hidden width, S positions of the cache, V vocabulary.
#pragma once

#include <cstdint>

namespace transformer {

struct Layer {
  const void* qkv;                // (3M, M), like all matrices in the type of decoding
  const void* out_proj;           // (M, M)
  const void* gate_up;            // (2F, M)
  const void* down;               // (M, F)
  const float *norm, *mlp_norm;   // (M)
  void *keys, *values;            // (B, H, S, E), in the type of decoding; row `position` is written
};

struct Arguments {
  int64_t batch, width, heads, hidden, positions, vocabulary, layers, threads, position;
  float epsilon;
  const Layer* layer;
  const float* norm;       // (M)
  const void* head;        // (V, M)
  const uint8_t* visible;  // (B, S): nonzero where a position up to `position` is seen
  const float* rotation;   // (E / 2, 2): cosine and sine for each channel pair of this position
  float* residual;         // (B, M), overwritten
  float* scratch;          // B (max(3M, 2F) + max(M, F)) floats, and B M + S per thread, S up to a multiple of 16
  float* logits;           // (B, V)
};

}  // namespace transformer
