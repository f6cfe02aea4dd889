// Which torch a binary of handgrad runs on, and every line that depends on it.
//
// TORCH_TARGET_VERSION is set by the build to 2.10 (CMakeLists.txt): the headers then offer only what torch 2.10 has,
// so that one binary runs on every later torch too. Code that is worth having only on newer versions belongs here,
// with the version at which the line can go.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/version.h>
#include <torch/headeronly/util/shim_utils.h>

#if !defined(TORCH_TARGET_VERSION)
#error "build through CMakeLists.txt: TORCH_TARGET_VERSION must be set, or the binary is tied to one torch"
#endif
static_assert(TORCH_FEATURE_VERSION == TORCH_VERSION_2_10_0, "handgrad promises to run on torch 2.10");

// Throws if a call of the C shim has failed. The line can go when torch 2.13 is the oldest, whose headers have it by
// this name.
#if !defined(STABLE_TORCH_ERROR_CODE_CHECK)
#define STABLE_TORCH_ERROR_CODE_CHECK(call) TORCH_ERROR_CODE_CHECK(call)
#endif
