// The checked build: every load and store of a kernel is looked at.
//
// A compiler that is told -fsanitize=thread calls a function of a fixed name before every access to memory, wherever
// the address came from. Usually those functions are ThreadSanitizer's. Here they are this file's, and they know what
// ThreadSanitizer cannot: blocks, warps, barriers, shared memory. So a plain `__shared__ float tile[32][33]`, and
// pointers into it, are checked without a word in the kernel.
//
// For every byte of shared memory a cell remembers who wrote it and who read it, and when. "When" is a phase, the
// number of block barriers so far, and inside of a phase a clock for each lane, which __syncwarp carries from lane to
// lane (vector clocks of 32 entries). Two accesses, one of them a write and not both atomic, by different threads with
// neither a barrier nor a __syncwarp between them, are a race, in whatever order they happened to run.
#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include "../include/emulator/language.h"
#include "engine.h"
#include "words.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace handgrad::emulator {

namespace {

// phase, thread, whether atomic, the thread's clock
struct Stamp {
  uint64_t bits = 0;
  Stamp() = default;
  Stamp(uint32_t phase, unsigned thread, bool atomic, unsigned clock)
      : bits(uint64_t{phase} << 32 | uint64_t{thread} << 22 | uint64_t{atomic} << 21 | (clock & 0x1fffffu)) {}
  uint32_t phase() const { return static_cast<uint32_t>(bits >> 32); }
  unsigned thread() const { return bits >> 22 & 0x3ff; }
  bool atomic() const { return bits >> 21 & 1; }
  unsigned clock() const { return bits & 0x1fffff; }
};

// Of all readers the first and the last are kept: a write that races with any reader nearly always races with one of
// these two.
struct Cell {
  Stamp write, first_read, last_read;
};

constexpr size_t kPage = 4096;
using GlobalPage = std::array<Cell, kPage>;

}  // namespace

struct Worker::Shadow {
  // Static shared memory is this library's thread-local block, of this operating-system thread.
  const char* statics = nullptr;
  size_t static_bytes = 0;
  std::vector<Cell> static_cells, dynamic_cells;
  std::unordered_map<uintptr_t, std::unique_ptr<GlobalPage>> pages;
  uintptr_t last_page = 0;
  GlobalPage* last = nullptr;
  // clocks[thread][lane]: the last moment of `lane`, of the same warp, that `thread` knows to be over.
  std::vector<std::array<uint32_t, kWarp>> clocks;
  uint32_t clocks_block = 0;
};

namespace {

bool instrumented = false;  // set by the constructor that the compiler puts into every file it instruments

void find_statics(Worker::Shadow& shadow) {
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        Worker::Shadow& found = *static_cast<Worker::Shadow*>(data);
        const uintptr_t here = reinterpret_cast<uintptr_t>(&instrumented);
        bool ours = false;
        size_t thread_local_bytes = 0;
        for (unsigned h = 0; h < info->dlpi_phnum; ++h) {
          const auto& header = info->dlpi_phdr[h];
          const uintptr_t start = info->dlpi_addr + header.p_vaddr;
          if (header.p_type == PT_LOAD) ours |= here - start < header.p_memsz;
          if (header.p_type == PT_TLS) thread_local_bytes = header.p_memsz;
        }
        if (!ours) return 0;
        found.statics = static_cast<const char*>(info->dlpi_tls_data);
        found.static_bytes = found.statics ? thread_local_bytes : 0;
        return 1;
      },
      &shadow);
}

template <class T>
bool is_part_of(const T& variable, const void* address) {
  return reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(&variable) < sizeof(T);
}

// ", scan.cu:31" for an address of code, where the library was built with -g and addr2line is there to ask.
std::string source_of(void* code) {
  Dl_info info;
  if (!code || !dladdr(code, &info) || !info.dli_fname) return "";
  // A main program that is not position-independent is linked at the address where it is loaded.
  char command[4096];
  const uintptr_t offset = reinterpret_cast<uintptr_t>(code) - reinterpret_cast<uintptr_t>(info.dli_fbase) - 1;
  const int length = std::snprintf(command, sizeof(command), "addr2line -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
                                   static_cast<size_t>(offset));
  if (length < 0 || static_cast<size_t>(length) >= sizeof(command) || std::strchr(info.dli_fname, '\'')) return "";
  FILE* answer = popen(command, "r");
  if (!answer) return "";
  char line[4096] = "";
  const bool read = std::fgets(line, sizeof(line), answer) != nullptr;
  pclose(answer);
  std::string found = read ? line : "";
  found = found.substr(0, found.find_first_of("\n "));
  if (found.empty() || found[0] == '?' || found.ends_with(":0") || found.ends_with(":?")) return "";
  return std::string(", ") + file_name(found.c_str());
}

struct Access {
  const char* address;
  size_t bytes;
  bool reads, writes, atomic;
  void* code;
  const char* verb() const { return atomic && reads && writes ? "atomically changes" : writes ? "writes" : "reads"; }
};

std::string since(const Worker& worker) {
  if (!worker.last_barrier.file) return "since the kernel began";
  return std::string("since the barrier at ") + file_name(worker.last_barrier.file) + ':' +
         std::to_string(worker.last_barrier.line);
}

[[noreturn]] void race(Worker& worker, const Access& access, const char* memory, const std::string& other,
                       const char* did) {
  worker.fault(std::string("a race: it ") + access.verb() + ' ' + std::to_string(access.bytes) + " bytes of " + memory +
               " memory that " + other + ' ' + did + ", with nothing between the two to order them" +
               source_of(access.code));
}

bool ordered(const Worker::Shadow& shadow, const Worker& worker, Stamp before, unsigned me) {
  if (before.phase() != worker.phase || before.thread() == me) return true;
  if (before.thread() / kWarp != me / kWarp || shadow.clocks_block != worker.block_phase) return false;
  return shadow.clocks[me][before.thread() % kWarp] >= before.clock();
}

unsigned clock_of(const Worker::Shadow& shadow, const Worker& worker, unsigned thread) {
  return shadow.clocks_block == worker.block_phase ? shadow.clocks[thread][thread % kWarp] : 1;
}

void check_cells(Worker& worker, Worker::Shadow& shadow, Cell* cells, const Access& access, const char* memory,
                 bool must_be_written) {
  const unsigned me = worker.thread_index();
  const Stamp now(worker.phase, me, access.atomic, clock_of(shadow, worker, me));
  Cell before;
  for (size_t byte = 0; byte < access.bytes; ++byte) {
    Cell& cell = cells[byte];
    // Most accesses find all their bytes in one state, and one look is enough.
    if (byte != 0 && std::memcmp(&cell, &before, sizeof(Cell)) == 0) {
      cell = cells[byte - 1];
      continue;
    }
    before = cell;
    if (must_be_written && access.reads && cell.write.phase() < worker.block_phase) {
      worker.fault(std::string("it ") + access.verb() + ' ' + std::to_string(access.bytes) +
                   " bytes of shared memory that no thread of the block has written" + source_of(access.code));
    }
    const auto conflicts = [&](Stamp other) {
      return other.bits != 0 && !(access.atomic && other.atomic()) && !ordered(shadow, worker, other, me);
    };
    if (conflicts(cell.write)) {
      race(worker, access, memory, worker.name_of(cell.write.thread()),
           ((cell.write.atomic() ? "changed atomically " : "wrote ") + since(worker)).c_str());
    }
    if (access.writes) {
      for (const Stamp other : {cell.first_read, cell.last_read}) {
        if (conflicts(other)) {
          race(worker, access, memory, worker.name_of(other.thread()), ("read " + since(worker)).c_str());
        }
      }
    }
    if (!must_be_written && !worker.fenced && !access.atomic && cell.write.phase() < worker.block_phase &&
        cell.write.phase() >= worker.launch_phase && cell.write.bits != 0) {
      race(worker, access, memory, "another block", "wrote in this launch");
    }
    if (access.writes) cell.write = now;
    if (access.reads && !access.atomic) {
      if (cell.first_read.phase() != worker.phase) cell.first_read = now;
      cell.last_read = now;
    }
  }
}

void check(const Access& access) {
  Worker* worker = active_worker();
  if (!worker || !worker->in_kernel() || worker->on_fiber_stack(access.address)) return;
  Worker::Shadow* shadow = worker->shadow.get();
  if (!shadow) return;
  // The launch's copy of the kernel's arguments, which every thread copies again to its stack.
  if (static_cast<size_t>(access.address - static_cast<const char*>(worker->request->arguments)) <
      worker->request->arguments_bytes) {
    return;
  }

  const char* dynamic = reinterpret_cast<const char*>(worker->dynamic_shared);
  const size_t in_statics = static_cast<size_t>(access.address - shadow->statics);
  const size_t in_dynamic = static_cast<size_t>(access.address - dynamic + Worker::kDynamicMargin);
  Cell* cells = nullptr;
  if (in_dynamic < device::shared_opt_in + 2 * Worker::kDynamicMargin) {
    const size_t size = worker->request->dynamic_shared_bytes, at = in_dynamic - Worker::kDynamicMargin;
    if (at >= size || at + access.bytes > size) {
      worker->fault(std::string("it ") + access.verb() + ' ' + std::to_string(access.bytes) + " bytes at offset " +
                    std::to_string(static_cast<int64_t>(at)) + " of dynamic shared memory, of which there are " +
                    std::to_string(size) + ": out of bounds" + source_of(access.code));
    }
    cells = shadow->dynamic_cells.data() + at;
  } else if (in_statics < shadow->static_bytes && in_statics + access.bytes <= shadow->static_bytes) {
    if (is_part_of(threadIdx, access.address) || is_part_of(blockIdx, access.address) ||
        is_part_of(blockDim, access.address) || is_part_of(gridDim, access.address)) {
      return;
    }
    cells = shadow->static_cells.data() + in_statics;
  }
  if (cells) {
    if (access.reads) worker->counters.shared_bytes_read += access.bytes;
    if (access.writes) worker->counters.shared_bytes_written += access.bytes;
    check_cells(*worker, *shadow, cells, access, "shared", true);
    return;
  }

  if (access.reads) worker->counters.global_bytes_read += access.bytes;
  if (access.writes) worker->counters.global_bytes_written += access.bytes;
  // Piece by piece, where it crosses from one page of cells to the next.
  Access piece = access;
  for (size_t done = 0; done < access.bytes; done += piece.bytes) {
    piece.address = access.address + done;
    const uintptr_t address = reinterpret_cast<uintptr_t>(piece.address), page = address / kPage;
    piece.bytes = std::min<size_t>(access.bytes - done, kPage - address % kPage);
    if (page != shadow->last_page || !shadow->last) {
      std::unique_ptr<GlobalPage>& found = shadow->pages[page];
      if (!found) found = std::make_unique<GlobalPage>();
      shadow->last_page = page;
      shadow->last = found.get();
    }
    check_cells(*worker, *shadow, shadow->last->data() + address % kPage, piece, "global", false);
  }
}

#if defined(__SANITIZE_ADDRESS__)
// AddressSanitizer's report says where in memory; this says where in the launch.
void tell_place(const char*) {
  const Worker* worker = active_worker();
  if (worker && worker->in_kernel()) std::fprintf(stderr, "out of bounds in %s\n", worker->place_text().c_str());
}
#endif

}  // namespace

void checks_begin(Worker& worker) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_set_error_report_callback(tell_place);
#endif
  if (!instrumented) return;
  if (!worker.shadow) worker.shadow = std::make_shared<Worker::Shadow>();
  Worker::Shadow& shadow = *worker.shadow;
  const char* before = shadow.statics;
  find_statics(shadow);
  if (shadow.statics != before || shadow.static_cells.size() != shadow.static_bytes) {
    shadow.static_cells.assign(shadow.static_bytes, {});
  }
  const size_t dynamic = worker.request->dynamic_shared_bytes;
  if (shadow.dynamic_cells.size() < dynamic) shadow.dynamic_cells.resize(dynamic);
  // Cells of memory that is long freed are never asked for again.
  if (shadow.pages.size() > 1024) {
    shadow.pages.clear();
    shadow.last = nullptr;
  }
}

void checks_syncwarp(Worker& worker, unsigned warp, unsigned mask) {
  if (!worker.shadow) return;
  Worker::Shadow& shadow = *worker.shadow;
  if (shadow.clocks_block != worker.block_phase) {
    shadow.clocks.assign(device::threads_per_block, {});
    for (unsigned thread = 0; thread < device::threads_per_block; ++thread) shadow.clocks[thread][thread % kWarp] = 1;
    shadow.clocks_block = worker.block_phase;
  }
  std::array<uint32_t, kWarp>* lanes = shadow.clocks.data() + size_t{warp} * kWarp;
  std::array<uint32_t, kWarp> joined{};
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!(mask >> lane & 1)) continue;
    for (unsigned other = 0; other < kWarp; ++other) joined[other] = std::max(joined[other], lanes[lane][other]);
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!(mask >> lane & 1)) continue;
    lanes[lane] = joined;
    ++lanes[lane][lane];
  }
}

void checks_atomic(const void* address, size_t bytes, bool writes) {
  if (instrumented) check({static_cast<const char*>(address), bytes, true, writes, true, __builtin_return_address(0)});
}

}  // namespace handgrad::emulator

// ---- what the compiler calls under -fsanitize=thread ----------------------------------------------------------------

using handgrad::emulator::check;

#define HOOK extern "C" __attribute__((visibility("hidden")))
#define CODE __builtin_return_address(0)

HOOK void __tsan_init() { handgrad::emulator::instrumented = true; }
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
HOOK void __tsan_vptr_update(void**, void*) {}
HOOK void __tsan_vptr_read(void**) {}

// A volatile access counts as atomic: it is how CUDA code looks at what others change atomically.
#define ACCESSES(bytes)                                                                                                \
  HOOK void __tsan_read##bytes(void* a) { check({static_cast<char*>(a), bytes, true, false, false, CODE}); }           \
  HOOK void __tsan_write##bytes(void* a) { check({static_cast<char*>(a), bytes, false, true, false, CODE}); }          \
  HOOK void __tsan_unaligned_read##bytes(void* a) { check({static_cast<char*>(a), bytes, true, false, false, CODE}); } \
  HOOK void __tsan_unaligned_write##bytes(void* a) {                                                                   \
    check({static_cast<char*>(a), bytes, false, true, false, CODE});                                                   \
  }                                                                                                                    \
  HOOK void __tsan_volatile_read##bytes(void* a) { check({static_cast<char*>(a), bytes, true, false, true, CODE}); }   \
  HOOK void __tsan_volatile_write##bytes(void* a) { check({static_cast<char*>(a), bytes, false, true, true, CODE}); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
HOOK void __tsan_read_range(void* a, size_t bytes) { check({static_cast<char*>(a), bytes, true, false, false, CODE}); }
HOOK void __tsan_write_range(void* a, size_t bytes) { check({static_cast<char*>(a), bytes, false, true, false, CODE}); }

// The compiler leaves atomic operations to these functions altogether: they are done here, as strongly as can be.
#define ATOMIC_CHANGE(T, bits, name, builtin)                        \
  HOOK T __tsan_atomic##bits##_##name(volatile T* a, T value, int) { \
    return __atomic_##builtin(a, value, __ATOMIC_SEQ_CST);           \
  }
#define ATOMICS(T, bits)                                                                                               \
  HOOK T __tsan_atomic##bits##_load(const volatile T* a, int) { return __atomic_load_n(a, __ATOMIC_SEQ_CST); }         \
  HOOK void __tsan_atomic##bits##_store(volatile T* a, T value, int) { __atomic_store_n(a, value, __ATOMIC_SEQ_CST); } \
  ATOMIC_CHANGE(T, bits, exchange, exchange_n)                                                                         \
  ATOMIC_CHANGE(T, bits, fetch_add, fetch_add)                                                                         \
  ATOMIC_CHANGE(T, bits, fetch_sub, fetch_sub)                                                                         \
  ATOMIC_CHANGE(T, bits, fetch_and, fetch_and)                                                                         \
  ATOMIC_CHANGE(T, bits, fetch_or, fetch_or)                                                                           \
  ATOMIC_CHANGE(T, bits, fetch_xor, fetch_xor)                                                                         \
  ATOMIC_CHANGE(T, bits, fetch_nand, fetch_nand)                                                                       \
  HOOK int __tsan_atomic##bits##_compare_exchange_strong(volatile T* a, T* expected, T value, int, int) {              \
    return __atomic_compare_exchange_n(a, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
  }                                                                                                                    \
  HOOK int __tsan_atomic##bits##_compare_exchange_weak(volatile T* a, T* expected, T value, int, int) {                \
    return __atomic_compare_exchange_n(a, expected, value, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                  \
  }                                                                                                                    \
  HOOK T __tsan_atomic##bits##_compare_exchange_val(volatile T* a, T expected, T value, int, int) {                    \
    __atomic_compare_exchange_n(a, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                       \
    return expected;                                                                                                   \
  }
ATOMICS(uint8_t, 8)
ATOMICS(uint16_t, 16)
ATOMICS(uint32_t, 32)
ATOMICS(uint64_t, 64)
HOOK void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
HOOK void __tsan_atomic_signal_fence(int) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
