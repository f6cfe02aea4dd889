#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__) || defined(HANDGRAD_EMULATOR_UCONTEXT)
#define USES_UCONTEXT 1
#include <ucontext.h>
#endif

namespace handgrad::emulator {

namespace {

constexpr size_t kPage = 4096;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 * 1024;  // red zones make frames large
#else
constexpr size_t kStackBytes = 64 * 1024;  // pages that are never touched cost nothing
#endif

thread_local Fiber* arriving = nullptr;  // set by every switch, for the first moments of a new fiber
#if defined(__SANITIZE_ADDRESS__)
thread_local Fiber* leaving = nullptr;
#endif

}  // namespace

#if !defined(USES_UCONTEXT)

// swapcontext asks the kernel for the signal mask at every switch, which costs ten times the switch itself. This saves
// what the calling convention says a function must preserve, changes stacks, and returns on the other one. The
// floating-point control words are left alone: kernels do not change them.
extern "C" __attribute__((visibility("hidden"))) void handgrad_emulator_switch(void** save, void* load);
asm(R"(
.text
.globl handgrad_emulator_switch
.hidden handgrad_emulator_switch
.type handgrad_emulator_switch, @function
handgrad_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size handgrad_emulator_switch, .-handgrad_emulator_switch
)");

#endif

void fiber_begin() {
  Fiber* self = arriving;
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (leaving->stack_ == nullptr) {  // the launching thread's own stack, which only the sanitizer knows
    leaving->stack_ = static_cast<char*>(const_cast<void*>(bottom));
    leaving->stack_bytes_ = bytes;
  }
#endif
  self->entry_();
  __builtin_trap();
}

Fiber::Fiber(void (*entry)()) : entry_(entry) {
  // One page below the stack may not be touched: a stack that overflows is a crash, not a wrong value.
  void* memory = mmap(nullptr, kPage + kStackBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  stack_ = static_cast<char*>(memory) + kPage;
  stack_bytes_ = kStackBytes;
  if (mprotect(stack_, stack_bytes_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
#if defined(USES_UCONTEXT)
  context_ = new ucontext_t;
#endif
  restart();
}

Fiber::~Fiber() {
#if defined(USES_UCONTEXT)
  delete static_cast<ucontext_t*>(context_);
#endif
  if (entry_) munmap(stack_ - kPage, kPage + stack_bytes_);
}

void Fiber::restart() {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, stack_bytes_);
  fake_stack_ = nullptr;
#endif
#if defined(USES_UCONTEXT)
  ucontext_t* context = static_cast<ucontext_t*>(context_);
  getcontext(context);
  context->uc_stack.ss_sp = stack_;
  context->uc_stack.ss_size = stack_bytes_;
  context->uc_link = nullptr;
  makecontext(context, fiber_begin, 0);
#else
  // What handgrad_emulator_switch takes off: six registers, then fiber_begin as the address to return to. The zero
  // above stands where fiber_begin's own return address would be; it ends backtraces and aligns the stack as a call
  // does.
  void** top = reinterpret_cast<void**>(stack_ + stack_bytes_);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(fiber_begin);
  for (size_t saved = 0; saved < 6; ++saved) *--top = nullptr;
  context_ = top;
#endif
}

void Fiber::switch_to(Fiber& next) {
  arriving = &next;
#if defined(__SANITIZE_ADDRESS__)
  leaving = this;
  __sanitizer_start_switch_fiber(&fake_stack_, next.stack_, next.stack_bytes_);
#endif
#if defined(USES_UCONTEXT)
  if (!context_) context_ = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(context_), static_cast<ucontext_t*>(next.context_));
#else
  handgrad_emulator_switch(&context_, next.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

}  // namespace handgrad::emulator
