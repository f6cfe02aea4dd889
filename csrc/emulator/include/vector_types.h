// CUDA's vector types: float4, int2, …, uint3 and dim3, with the device's sizes and alignments.
#pragma once
#if defined(__CUDACC__)
#include_next <vector_types.h>
#else

// The alignment is part of the type, as on the device: a float4 that is loaded from an address that 16 does not divide
// is a fault there, and -fsanitize=alignment sees it here.
#define HANDGRAD_VECTORS(type, name, align2, align4)                             \
  struct name##1 { type x; };                                                    \
  struct alignas(align2) name##2 { type x, y; };                                 \
  struct name##3 { type x, y, z; };                                              \
  struct alignas(align4) name##4 { type x, y, z, w; };                           \
  constexpr name##1 make_##name##1(type x) { return {x}; }                       \
  constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }            \
  constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
  constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

HANDGRAD_VECTORS(signed char, char, 2, 4)
HANDGRAD_VECTORS(unsigned char, uchar, 2, 4)
HANDGRAD_VECTORS(short, short, 4, 8)
HANDGRAD_VECTORS(unsigned short, ushort, 4, 8)
HANDGRAD_VECTORS(int, int, 8, 16)
HANDGRAD_VECTORS(unsigned int, uint, 8, 16)
HANDGRAD_VECTORS(long long, longlong, 16, 16)
HANDGRAD_VECTORS(unsigned long long, ulonglong, 16, 16)
HANDGRAD_VECTORS(float, float, 8, 16)
HANDGRAD_VECTORS(double, double, 16, 16)
#undef HANDGRAD_VECTORS

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 from) : x(from.x), y(from.y), z(from.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};

#endif
