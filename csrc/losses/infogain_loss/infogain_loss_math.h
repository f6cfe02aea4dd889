// The formula of the infogain loss, -log p of each class; the matrix weighs it. Derived in
// docs/losses/infogain_loss.md.
#pragma once

#include "math/softmax_row.h"

namespace handgrad::infogain {

template <class C>
using Formula = ClassCrossEntropy<C>;

}  // namespace handgrad::infogain
