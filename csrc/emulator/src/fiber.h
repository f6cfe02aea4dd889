// A fiber: a stack of its own and the place where its execution was left.
#pragma once

#include <cstddef>

namespace handgrad::emulator {

class Fiber {
 public:
  // The context of the caller, which has a stack already.
  Fiber() = default;
  // A new stack; the first switch to it calls entry(), which must never return.
  explicit Fiber(void (*entry)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Leaves the running fiber, whose context is kept in *this, and goes on in `next`.
  void switch_to(Fiber& next);
  // Forgets what the fiber was doing: the next switch to it calls entry() again. Nothing is unwound.
  void restart();

  bool holds(const void* address) const {
    return static_cast<size_t>(static_cast<const char*>(address) - stack_) < stack_bytes_;
  }

 private:
  friend void fiber_begin();

  void* context_ = nullptr;  // the saved stack pointer, or a ucontext_t
  void (*entry_)() = nullptr;
  char* stack_ = nullptr;
  size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace handgrad::emulator
