// Images of levels or of floating-point numbers, (batch, channels, height, width), and what a transform makes of them
// in the end: another type, numbers that are normalised, another order in memory.
#pragma once

#include <utility>

#include "abi/check.h"
#include "abi/layout.h"

namespace handgrad {

inline void check_image(const char* op, const Tensor& image) {
  const ScalarType dtype = image.scalar_type();
  HANDGRAD_CHECK(dtype == ScalarType::Byte || is_floating(dtype), op,
                 ": image must be uint8, float32, float64, bfloat16 or float16; got ", dtype_text(dtype));
  check_rank(op, "image", image, 4, "(batch, channels, height, width)");
}

// As schemas have them. mean and std: one number a channel, or one, or none. memory_format: 0 the image's, 1
// contiguous, 2 channels_last. scaling: a LevelScaling.
struct Finish {
  ScalarType dtype;
  const std::vector<double>&mean, &std;
  int64_t memory_format, scaling;
};

inline void check_finish(const char* op, const Tensor& image, const Finish& finish) {
  const ScalarType dtype = image.scalar_type();
  const bool is_level = dtype == ScalarType::Byte;
  HANDGRAD_CHECK(finish.dtype == dtype || (is_level && is_floating(finish.dtype)), op, ": dtype must be the image's, ",
                 dtype_text(dtype), is_level ? ", or a floating-point one" : "", "; got ", dtype_text(finish.dtype));
  for (const auto& [name, values] : {std::pair{"mean", &finish.mean}, std::pair{"std", &finish.std}}) {
    HANDGRAD_CHECK(values->size() == 1 || static_cast<int64_t>(values->size()) == image.sizes()[1] ||
                       (finish.mean.empty() && finish.std.empty()),
                   op, ": ", name, " must be a list of one number a channel, ", image.sizes()[1],
                   ", or of one for all; got ", values->size());
  }
  HANDGRAD_CHECK(finish.mean.empty() || is_floating(finish.dtype), op,
                 ": dtype must be a floating-point one where there is a mean; got ", dtype_text(finish.dtype));
  HANDGRAD_CHECK(finish.memory_format >= 0 && finish.memory_format <= 2, op,
                 ": memory_format must be 0 (the image's), 1 (contiguous) or 2 (channels_last); got ",
                 finish.memory_format);
  HANDGRAD_CHECK(finish.scaling >= 0 && finish.scaling <= 2, op,
                 ": scaling must be 0 (a product), 1 (a quotient) or 2 (none); got ", finish.scaling);
}

// A number for each channel, of those or of the one that are given.
inline std::vector<double> per_channel(const std::vector<double>& values, int64_t channels) {
  if (values.empty()) return {};
  return values.size() > 1 ? values : std::vector<double>(static_cast<size_t>(channels), values[0]);
}

inline void check_fill(const char* op, const Tensor& image, const std::vector<double>& fill) {
  const int64_t channels = image.sizes()[1];
  HANDGRAD_CHECK(fill.size() <= 1 || static_cast<int64_t>(fill.size()) == channels, op,
                 ": fill must be a number, or one a channel, ", channels, "; got ", fill.size());
  for (const double level : fill) {
    HANDGRAD_CHECK(image.scalar_type() != ScalarType::Byte || (level >= 0 && level <= 255), op,
                   ": fill must be from 0 to 255 beside a uint8 image; got ", level);
  }
}

// The number that channel c of an image is surrounded by; none is zero.
inline double fill_of(const std::vector<double>& fill, int64_t c) {
  return fill.empty() ? 0.0 : fill[fill.size() > 1 ? static_cast<size_t>(c) : 0];
}

inline Tensor empty_image(Sizes shape, ScalarType type, int64_t memory_format, const Tensor& image) {
  const bool last = memory_format == 0 ? prefers_channels_last(image) : memory_format == 2;
  const std::vector<int64_t> strides = last ? channels_last_strides(shape) : contiguous_strides(shape);
  int32_t dtype = 0;
  switch (type) {
    case ScalarType::Byte: dtype = aoti_torch_dtype_uint8(); break;
    case ScalarType::Double: dtype = aoti_torch_dtype_float64(); break;
    case ScalarType::BFloat16: dtype = aoti_torch_dtype_bfloat16(); break;
    case ScalarType::Half: dtype = aoti_torch_dtype_float16(); break;
    default: dtype = aoti_torch_dtype_float32();
  }
  return empty_strided(shape, Sizes(strides.data(), strides.size()), dtype, image);
}

}  // namespace handgrad
