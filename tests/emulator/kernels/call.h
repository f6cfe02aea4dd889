// An entry that ctypes can call: 0, or 1 and the sentence is in message().
#pragma once

#include <emulator/portable.h>

#include <exception>
#include <string>

using handgrad::emulator::launch;

inline std::string& kept_message() {
  static std::string text;
  return text;
}

#define ENTRY(name, parameters, ...)        \
  extern "C" int name parameters {          \
    try {                                   \
      __VA_ARGS__;                          \
      return 0;                             \
    } catch (const std::exception& error) { \
      kept_message() = error.what();        \
      return 1;                             \
    }                                       \
  }

extern "C" inline const char* message_of_call() { return kept_message().c_str(); }
// An inline function is only there if it is used.
__attribute__((used)) static const char* (*const keep_message_of_call)() = &message_of_call;
