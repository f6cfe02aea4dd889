// Layer normalisation over channels, as kinds/channel_norm.h takes it: centred, with a bias. The arithmetic is
// math/channel_norm.h's.
#pragma once

namespace handgrad {

struct LayerNorm2dOp {
  static constexpr const char* name = "layer_norm_2d";
  static constexpr bool centred = true;
  static constexpr bool has_bias = true;
};

}  // namespace handgrad
