// Loads handgrad's compiled ops into a C++ program. To be copied: it needs the C++ library and the dynamic loader
// alone.
#pragma once

#include <dlfcn.h>

#include <filesystem>
#include <stdexcept>
#include <string>

namespace handgrad {

inline void* load_library(const std::filesystem::path& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW);
  if (library == nullptr) throw std::runtime_error(std::string("handgrad's library does not load: ") + dlerror());
  return library;
}

// Registers the ops with torch's dispatcher: the signatures first, then the CPU kernels for this processor, as
// `import handgrad` does. `folder` is what `python -m handgrad info --library-dir` prints, or a copy of it. Returns the
// path of the kernels that were chosen.
inline std::filesystem::path load(const std::filesystem::path& folder) {
  void* schemas = load_library(folder / "libhandgrad.so");
  const auto cpu_level = reinterpret_cast<int (*)()>(dlsym(schemas, "handgrad_cpu_level"));
  if (cpu_level == nullptr) throw std::runtime_error(folder.string() + ": its libhandgrad.so is not handgrad's");
  // The x86-64 level that the processor runs; 0 on other processors, which have one library.
  const int level = cpu_level();
  std::filesystem::path kernels = folder / "libhandgrad_cpu.so";
  for (int usable = level; usable >= 2; --usable) {
    const std::filesystem::path built = folder / ("libhandgrad_cpu_v" + std::to_string(usable) + ".so");
    if (std::filesystem::exists(built)) {
      kernels = built;
      break;
    }
  }
  if (!std::filesystem::exists(kernels)) {
    const std::string processor = level == 0 ? "" : ", which is x86-64-v" + std::to_string(level);
    throw std::runtime_error(folder.string() + " holds no CPU kernels for this processor" + processor);
  }
  load_library(kernels);
  return kernels;
}

}  // namespace handgrad
