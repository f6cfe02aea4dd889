// What error messages are made of.
#pragma once

#include <cstring>
#include <sstream>
#include <string>

#include "engine.h"

namespace handgrad::emulator {

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

inline std::string triple(const uint3& t) { return text('(', t.x, ", ", t.y, ", ", t.z, ')'); }

inline const char* file_name(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

inline std::string place(Place where) { return text(file_name(where.file), ':', where.line); }

inline std::string hexadecimal(unsigned mask) {
  std::ostringstream out;
  out << "0x" << std::hex << mask;
  return out.str();
}

inline bool same(Place a, Place b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

}  // namespace handgrad::emulator
