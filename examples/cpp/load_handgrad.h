// Loads handgrad's compiled ops into a C++ program. A file to copy: it needs no other header of handgrad or torch.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace handgrad {

inline void* load_library(const std::filesystem::path& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW);
  if (library == nullptr) throw std::runtime_error(std::string("handgrad's library does not load: ") + dlerror());
  return library;
}

// Registers the ops with torch's dispatcher, as `import handgrad` does: the signatures, the CPU kernels for this
// processor, and the CUDA kernels if they were built and the program is linked to a CUDA build of torch. `folder` is
// what `python -m handgrad info --library-dir` prints, or a copy of it. Returns what was loaded.
inline std::vector<std::filesystem::path> load(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> loaded = {folder / "libhandgrad.so"};
  void* schemas = load_library(loaded[0]);
  const auto cpu_level = reinterpret_cast<int (*)()>(dlsym(schemas, "handgrad_cpu_level"));
  if (cpu_level == nullptr) throw std::runtime_error(loaded[0].string() + " is not handgrad's");
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
  loaded.push_back(kernels);
  const std::filesystem::path cuda = folder / "libhandgrad_cuda.so";
  if (std::filesystem::exists(cuda) && dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD) != nullptr) {
    loaded.push_back(cuda);
  }
  for (std::size_t place = 1; place < loaded.size(); ++place) load_library(loaded[place]);
  return loaded;
}

}  // namespace handgrad
