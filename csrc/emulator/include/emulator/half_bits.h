// Conversions between float, double and the two 16-bit formats, rounding to nearest even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace handgrad::emulator {

inline float float_from_bfloat16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
inline uint16_t bfloat16_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return static_cast<uint16_t>(0x7fc0u | (bits >> 16 & 0x8000u));
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float float_from_half(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, rest = (bits & 0x7fffu) << 13;
  // 2^112 corrects the exponent's bias, of subnormal numbers too.
  const float finite = std::bit_cast<float>(rest) * 0x1p112f;
  return std::bit_cast<float>(sign | (rest >= 0x0f800000u ? rest | 0x7f800000u : std::bit_cast<uint32_t>(finite)));
}
inline uint16_t half_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  uint32_t half;
  if (size > 0x7f800000u) {
    half = 0x7e00u;
  } else if (size >= 0x477ff000u) {  // rounds to more than the largest half, 65504
    half = 0x7c00u;
  } else if (size < 0x38800000u) {
    // Subnormal result: in the sum with 0.5 the last place is 2^-24, so that the addition rounds as it should.
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000u;
  } else {
    half = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

// A double rounded to float and then to 16 bits would be rounded twice. Rounded to odd first, it is not.
inline float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  if (value != value || static_cast<double>(nearest) == value || std::isinf(nearest)) return nearest;
  const uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (bits & 1u) return nearest;
  const bool beyond = std::fabs(static_cast<double>(nearest)) > std::fabs(value);
  return std::bit_cast<float>(beyond ? bits - 1 : bits + 1);
}

}  // namespace handgrad::emulator
