// What this library was built with.
#include "simd.h"

extern "C" const char* build_compiler() { return __VERSION__; }

// The flags that not every compiler takes.
extern "C" const char* build_flags() {
#if defined(BUILD_FLAGS)
  return BUILD_FLAGS;
#else
  return "";
#endif
}

extern "C" int simd_lanes() { return simd::kLanes; }

extern "C" int build_has_threads() {
#if defined(_OPENMP)
  return 1;
#else
  return 0;
#endif
}
